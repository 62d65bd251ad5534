#!/usr/bin/env bash
# The d2l package, Jupyter with a kernel of the environment, and the book's notebooks.
# Needs:  mxnet|pytorch
# Inputs: LOGIN_USER ENVIRONMENT_PREFIX D2L_REQUIREMENTS NOTEBOOKS_URL NOTEBOOKS_SHA256 NOTEBOOKS_COMMIT FRAMEWORK PIP_PACKAGES PYPI_MIRROR
set -o errexit -o nounset -o pipefail
# shellcheck source=lib.sh
source "${BAKE_LIB:?}"

name=$(basename "$ENVIRONMENT_PREFIX")
python=$ENVIRONMENT_PREFIX/bin/python
notebooks=$(home_of_login_user)/d2l-en

read -ra packages <<<"${PIP_PACKAGES//$'\n'/ }"
write_file "$ENVIRONMENT_PREFIX/requirements-d2l.txt" <<<"$D2L_REQUIREMENTS"
pip_install --prefer-binary --requirement "$ENVIRONMENT_PREFIX/requirements-d2l.txt" "${packages[@]}"
as_login_user "$python" -m ipykernel install --prefix "$ENVIRONMENT_PREFIX" --name "$name" --display-name "$name ($FRAMEWORK)"

# What is there is a user's to change: it is laid down once.
work=$(as_login_user mktemp --directory)
if [[ -d $notebooks || -z $NOTEBOOKS_URL ]]; then
    say "notebooks: ${NOTEBOOKS_URL:+there already}"
elif [[ -n $NOTEBOOKS_COMMIT ]]; then
    over_tls "$NOTEBOOKS_URL"
    as_login_user git init --quiet "$work/notebooks"
    as_login_user git -C "$work/notebooks" fetch --quiet --depth 1 "$NOTEBOOKS_URL" "$NOTEBOOKS_COMMIT"
    as_login_user git -C "$work/notebooks" -c advice.detachedHead=false checkout --quiet "$NOTEBOOKS_COMMIT"
    as_login_user mv --no-target-directory "$work/notebooks" "$notebooks"
else
    download "$NOTEBOOKS_URL" "$work/archive.zip" "$NOTEBOOKS_SHA256"
    as_login_user "$python" -m zipfile --extract "$work/archive.zip" "$work/notebooks"
    as_login_user mv --no-target-directory "$work/notebooks" "$notebooks"
fi
rm --recursive --force "$work"

as_login_user "$python" -m pip check || fail "the environment's packages do not fit together"
as_login_user "$python" -m jupyter kernelspec list | grep --quiet "^ *$name " || fail "Jupyter does not list the kernel $name"
as_login_user "$python" -m jupyter --version | sed --quiet '/^\(notebook\|jupyterlab\|ipykernel\)/ p'
[[ -z $NOTEBOOKS_URL ]] || say "notebooks in $notebooks: $(find "$notebooks" -name '*.ipynb' | wc --lines)"

#!/usr/bin/env bash
# The d2l package, Jupyter with a kernel of the environment, and the book's notebooks.
# Needs:  mxnet|pytorch
# Inputs: LOGIN_USER ENVIRONMENT_PREFIX D2L_REQUIREMENTS NOTEBOOKS_URL NOTEBOOKS_SHA256
#         NOTEBOOKS_COMMIT FRAMEWORK PIP_PACKAGES PYPI_MIRROR STAGE LOCKED_PIP
set -o errexit -o nounset -o pipefail
# shellcheck source=lib.sh
source "${BAKE_LIB:?}"

name=$(basename "$ENVIRONMENT_PREFIX")
python=$ENVIRONMENT_PREFIX/bin/python
notebooks=$(home_of_login_user)/d2l-en

requirements=$ENVIRONMENT_PREFIX/requirements.txt
write_file "$requirements" <<<"$D2L_REQUIREMENTS"$'\n'"$PIP_PACKAGES"
pip_install --prefer-binary --requirement "$requirements"
as_login_user "$python" -m ipykernel install --prefix "$ENVIRONMENT_PREFIX" --name "$name" --display-name "$name ($FRAMEWORK)"

# The notebooks for Colab begin with a cell that installs another build of the framework: empty that cell.
keep_framework() {
    as_login_user "$python" - "$1" <<'EOT'
import json, pathlib, sys
for path in pathlib.Path(sys.argv[1]).rglob("*.ipynb"):
    book = json.loads(path.read_text(encoding="utf-8"))
    cells = [cell for cell in book["cells"] if "!pip install" in "".join(cell["source"])]
    for cell in cells:
        cell["source"], cell["outputs"] = [], []
    if cells:
        path.write_text(json.dumps(book, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
EOT
}

# A user may change the notebooks: an existing folder is left alone.
work=$(as_login_user mktemp --directory)
trap 'rm --recursive --force "$work"' EXIT
if [[ -z $NOTEBOOKS_URL ]]; then
    say "no notebooks requested"
elif [[ -d $notebooks ]]; then
    say "$notebooks exists already"
elif [[ -n $NOTEBOOKS_COMMIT ]]; then
    over_tls "$NOTEBOOKS_URL"
    as_login_user git init --quiet "$work/notebooks"
    as_login_user git -C "$work/notebooks" fetch --quiet --depth 1 "$NOTEBOOKS_URL" "$NOTEBOOKS_COMMIT" ||
        fail "the notebooks cannot be fetched from $NOTEBOOKS_URL: write notebooks = false in [d2l] to leave them out"
    as_login_user git -C "$work/notebooks" -c advice.detachedHead=false checkout --quiet "$NOTEBOOKS_COMMIT"
    note files <<<"${NOTEBOOKS_URL##*/} $NOTEBOOKS_COMMIT"
else
    download "$NOTEBOOKS_URL" "$work/archive.zip" "$NOTEBOOKS_SHA256"
    as_login_user "$python" -m zipfile --extract "$work/archive.zip" "$work/notebooks"
fi
if [[ -d $work/notebooks ]]; then
    keep_framework "$work/notebooks"
    as_login_user mv --no-target-directory "$work/notebooks" "$notebooks"
fi

as_login_user "$python" -m pip check || fail "the environment's packages are not compatible with each other"
as_login_user "$python" -m jupyter kernelspec list | grep "^ *$name " >/dev/null || fail "Jupyter does not list the kernel $name"
as_login_user "$python" -m jupyter --version | sed --quiet '/^\(notebook\|jupyterlab\|ipykernel\)/ p'
[[ -z $NOTEBOOKS_URL ]] || say "notebooks in $notebooks: $(find "$notebooks" -name '*.ipynb' | wc --lines)"

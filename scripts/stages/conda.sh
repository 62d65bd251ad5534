#!/usr/bin/env bash
# Miniconda or Miniforge in /opt/conda, and the environment, ready for every kind of shell.
# Needs:  base
# Inputs: LOGIN_USER CONDA_INSTALLER CONDA_INSTALLER_SHA256 CONDA_INSTALLER_MIRROR CONDA_CHANNEL
#         PYTHON_VERSION ENVIRONMENT ENVIRONMENT_PREFIX CONDA_PACKAGES
set -o errexit -o nounset -o pipefail
# shellcheck source=lib.sh
source "${BAKE_LIB:?}"

root=/opt/conda
conda() { as_login_user env CONDA_PLUGINS_AUTO_ACCEPT_TOS="$accept" "$root/bin/conda" "$@"; }
# Anaconda's terms are accepted for those alone whose recipe takes packages from Anaconda.
[[ $CONDA_CHANNEL == *repo.anaconda.com* || $CONDA_CHANNEL == defaults ]] && accept=yes || accept=no

# The stamp comes last: without it, an installation was broken off, and --force (-f) goes over it.
if [[ $(cat "$root/.bake-installer" 2>/dev/null) != "$CONDA_INSTALLER_SHA256" ]]; then
    work=$(mktemp --directory)
    chmod 0755 "$work"
    download "$CONDA_INSTALLER_MIRROR/$CONDA_INSTALLER" "$work/installer.sh" "$CONDA_INSTALLER_SHA256"
    install --directory --owner "$LOGIN_USER" --group "$LOGIN_USER" "$root"
    as_login_user bash "$work/installer.sh" -b -f -p "$root" # batch, force, prefix: it knows no long options
    rm --recursive --force "$work"
    printf '%s\n' "$CONDA_INSTALLER_SHA256" >"$root/.bake-installer"
fi

if [[ $accept == yes ]] && conda tos --help >/dev/null 2>&1; then
    conda tos accept --override-channels --channel "$CONDA_CHANNEL"
fi

if [[ ! -x $ENVIRONMENT_PREFIX/bin/python ]]; then
    read -ra packages <<<"$CONDA_PACKAGES"
    conda create --yes --quiet --prefix "$ENVIRONMENT_PREFIX" --override-channels --channel "$CONDA_CHANNEL" \
        "python=$PYTHON_VERSION" pip "${packages[@]}"
    conda clean --all --yes --quiet >/dev/null
fi

conda config --system --add channels "$CONDA_CHANNEL" 2>/dev/null
conda config --system --set auto_activate_base false
conda init --quiet bash >/dev/null # conda in interactive shells, login shells among them
in_bashrc "conda activate $ENVIRONMENT"
prepend_path "$root/condabin" # conda, and no second python, for `ssh host conda run -n … python …`

conda env list | grep "$ENVIRONMENT_PREFIX" >/dev/null || fail "conda does not know the environment $ENVIRONMENT_PREFIX"
python=$(conda list --prefix "$ENVIRONMENT_PREFIX" '^python$' | awk '$1 == "python" { print $2, $3 }')
[[ $python == "$PYTHON_VERSION"[.\ ]* ]] || fail "the environment's python is $python, and not $PYTHON_VERSION"
conda run --prefix "$ENVIRONMENT_PREFIX" python -m pip --version
say "$(conda --version) in $root; $ENVIRONMENT: python $python"

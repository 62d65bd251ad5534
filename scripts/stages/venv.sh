#!/usr/bin/env bash
# A virtual environment with the operating system's own Python, set up for every kind of shell.
# Needs:  base
# Inputs: LOGIN_USER PYTHON_VERSION ENVIRONMENT ENVIRONMENT_PREFIX PYPI_MIRROR
#         STAGE LOCKED_APT LOCKED_PIP
set -o errexit -o nounset -o pipefail
# shellcheck source=lib.sh
source "${BAKE_LIB:?}"

version=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
[[ $version == "$PYTHON_VERSION" ]] ||
    fail "this system's python3 is $version, but the recipe requires $PYTHON_VERSION: write $version in the recipe, or choose miniforge as manager"

install_packages python3-venv
if [[ ! -x $ENVIRONMENT_PREFIX/bin/python ]]; then
    install --directory --owner "$LOGIN_USER" --group "$LOGIN_USER" "$ENVIRONMENT_PREFIX"
    as_login_user python3 -m venv --prompt "$ENVIRONMENT" "$ENVIRONMENT_PREFIX"
fi
# An old pip (23.0 in Debian 12) searches the versions of d2l's dependencies for ten minutes.
upgrade_pip

in_bashrc "source $ENVIRONMENT_PREFIX/bin/activate"

say "$ENVIRONMENT_PREFIX: $("$ENVIRONMENT_PREFIX/bin/python" --version), $("$ENVIRONMENT_PREFIX/bin/python" -m pip --version)"

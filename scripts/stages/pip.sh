#!/usr/bin/env bash
# The Python packages that the recipe requests (packages.pip), after everything else in the environment. A recipe with
# the stage d2l needs this one not: d2l installs them together with its own.
# Needs:  conda|venv|mxnet|pytorch|tensorflow|jax|jupyter
# Inputs: LOGIN_USER ENVIRONMENT_PREFIX PIP_PACKAGES PYPI_MIRROR STAGE LOCKED_PIP
set -o errexit -o nounset -o pipefail
# shellcheck source=lib.sh
source "${BAKE_LIB:?}"

requirements=$ENVIRONMENT_PREFIX/requirements.txt
write_file "$requirements" <<<"$PIP_PACKAGES"
upgrade_pip
pip_install --prefer-binary --requirement "$requirements"

as_login_user "$ENVIRONMENT_PREFIX/bin/python" -m pip check || fail "the environment's packages are not compatible with each other"
say "installed into $ENVIRONMENT_PREFIX: ${PIP_PACKAGES//$'\n'/, }"

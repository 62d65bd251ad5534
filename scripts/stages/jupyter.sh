#!/usr/bin/env bash
# JupyterLab with a kernel of the environment.
# Needs:  conda|venv|mxnet|pytorch|tensorflow|jax
# Inputs: LOGIN_USER ENVIRONMENT_PREFIX PYPI_MIRROR JUPYTER_REQUIREMENTS=jupyterlab==4.6.6
#         STAGE LOCKED_PIP
set -o errexit -o nounset -o pipefail
# shellcheck source=lib.sh
source "${BAKE_LIB:?}"

name=$(basename "$ENVIRONMENT_PREFIX")
python=$ENVIRONMENT_PREFIX/bin/python

upgrade_pip
mapfile -t requirements <<<"$JUPYTER_REQUIREMENTS"
pip_install "${requirements[@]}"
as_login_user "$python" -m ipykernel install --prefix "$ENVIRONMENT_PREFIX" --name "$name" --display-name "$name"

as_login_user "$python" -m pip check || fail "the environment's packages are not compatible with each other"
as_login_user "$python" -m jupyter kernelspec list | grep "^ *$name " >/dev/null || fail "Jupyter does not list the kernel $name"
say "JupyterLab $(as_login_user "$python" -m jupyter lab --version), kernel $name"

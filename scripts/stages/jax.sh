#!/usr/bin/env bash
# JAX: the wheels and, for a CUDA release, the plugin for GPUs and CUDA's libraries as wheels.
# Needs:  conda|venv
# Inputs: LOGIN_USER ENVIRONMENT_PREFIX FRAMEWORK_VERSION FRAMEWORK_REQUIREMENTS PYPI_MIRROR
#         STAGE LOCKED_PIP
set -o errexit -o nounset -o pipefail
# shellcheck source=lib.sh
source "${BAKE_LIB:?}"

install_framework --only-binary :all:
check_framework jax

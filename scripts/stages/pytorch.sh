#!/usr/bin/env bash
# PyTorch: the build for this CUDA, which contains its own CUDA libraries.
# Needs:  conda|venv
# Inputs: LOGIN_USER ENVIRONMENT_PREFIX FRAMEWORK_VERSION FRAMEWORK_REQUIREMENTS PYPI_MIRROR
#         PYTORCH_MIRROR STAGE LOCKED_PIP
set -o errexit -o nounset -o pipefail
# shellcheck source=lib.sh
source "${BAKE_LIB:?}"

# PyPI stays the first index. `torch==X+cu126`, with its local version, exists only in the second one.
over_tls "$PYTORCH_MIRROR"
install_framework --only-binary :all: --extra-index-url "$PYTORCH_MIRROR"
check_framework torch

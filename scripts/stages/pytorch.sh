#!/usr/bin/env bash
# PyTorch: the build for this CUDA, which contains its own CUDA libraries.
# Needs:  conda|venv
# Inputs: LOGIN_USER ENVIRONMENT_PREFIX FRAMEWORK_VERSION FRAMEWORK_REQUIREMENTS PYPI_MIRROR
#         PYTORCH_MIRROR D2L_NUMPY= STAGE LOCKED_PIP
set -o errexit -o nounset -o pipefail
# shellcheck source=lib.sh
source "${BAKE_LIB:?}"

# PyTorch works with numpy 1 and 2. The version that d2l needs is installed at once, but is no constraint: JAX
# and others need numpy 2.
[[ -z $PYTORCH_MIRROR ]] || over_tls "$PYTORCH_MIRROR" # empty: this build is on PyPI
install_framework --only-binary :all: ${D2L_NUMPY:+"numpy==$D2L_NUMPY"}
check_framework torch

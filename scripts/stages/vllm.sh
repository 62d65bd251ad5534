#!/usr/bin/env bash
# vLLM, which serves language models, with the PyTorch and the CUDA libraries that it needs.
# Needs:  conda|venv
# Inputs: LOGIN_USER ENVIRONMENT_PREFIX FRAMEWORK_VERSION FRAMEWORK_REQUIREMENTS PYPI_MIRROR
#         PYTORCH_MIRROR STAGE LOCKED_APT LOCKED_PIP
set -o errexit -o nounset -o pipefail
# shellcheck source=lib.sh
source "${BAKE_LIB:?}"

# Triton compiles a part of each program with the C compiler and Python's headers. An environment of conda has
# them; Debian and Ubuntu have them in a package.
header=$("$ENVIRONMENT_PREFIX/bin/python" -c 'import sysconfig; print(sysconfig.get_path("include") + "/Python.h")')
[[ -f $header ]] || install_packages python3-dev

install_framework --only-binary :all:

check_framework vllm

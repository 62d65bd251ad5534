#!/usr/bin/env bash
# MXNet: the wheel for this CUDA, with the pins that make it import and the libraries it expects.
# Needs:  conda|venv
# Inputs: LOGIN_USER ENVIRONMENT_PREFIX FRAMEWORK_VERSION FRAMEWORK_REQUIREMENTS PYPI_MIRROR
#         STAGE LOCKED_PIP
set -o errexit -o nounset -o pipefail
# shellcheck source=lib.sh
source "${BAKE_LIB:?}"

install_framework --only-binary :all:

# The wheel looks beside itself and where the loader does, nowhere else: cuDNN and NCCL that come as
# wheels of their own (nvidia-*-cu11) are told to the loader.
packages=$(as_login_user "$ENVIRONMENT_PREFIX/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
libraries=$(find "$packages" -maxdepth 3 -type d -path '*/nvidia/*/lib' | sort)
write_file /etc/ld.so.conf.d/bake-wheels.conf <<<"$libraries"
ldconfig

check_framework mxnet

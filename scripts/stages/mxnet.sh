#!/usr/bin/env bash
# MXNet: the wheel for this CUDA, with the pins and the libraries that it needs.
# Needs:  conda|venv
# Inputs: LOGIN_USER ENVIRONMENT_PREFIX FRAMEWORK_VERSION FRAMEWORK_REQUIREMENTS PYPI_MIRROR
#         STAGE LOCKED_PIP
set -o errexit -o nounset -o pipefail
# shellcheck source=lib.sh
source "${BAKE_LIB:?}"

install_framework --only-binary :all:

# The wheel finds libraries only in its own folder and in the loader's folders. So the loader gets the
# folders of cuDNN and NCCL, which are separate wheels (nvidia-*-cu11).
packages=$(as_login_user "$ENVIRONMENT_PREFIX/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
libraries=$(find "$packages" -maxdepth 3 -type d -path '*/nvidia/*/lib' | sort)
write_file /etc/ld.so.conf.d/bake-wheels.conf <<<"$libraries"
ldconfig

check_framework mxnet

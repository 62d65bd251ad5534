#!/usr/bin/env bash
# MXNet: the wheel for this CUDA, with the pins and the libraries that it needs.
# Needs:  conda|venv
# Inputs: LOGIN_USER ENVIRONMENT_PREFIX FRAMEWORK_VERSION FRAMEWORK_REQUIREMENTS CUDA_SOURCE PYPI_MIRROR
#         STAGE LOCKED_APT LOCKED_PIP
set -o errexit -o nounset -o pipefail
# shellcheck source=lib.sh
source "${BAKE_LIB:?}"

# The wheels contain libgfortran, which needs libquadmath; libmxnet.so needs libgomp.
install_packages libgomp1 libquadmath0
install_framework --only-binary :all:

# libmxnet.so searches its own folder first (RPATH ${ORIGIN}). So cuDNN and NCCL, which are separate wheels
# (nvidia-*-cu11), are linked into this folder. The system's loader must not know their folders: the login
# user can write there, and every program of root would load libraries from there.
packages=$(as_login_user "$ENVIRONMENT_PREFIX/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
shopt -s nullglob
libraries=("$packages"/nvidia/{cudnn,nccl}/lib/*.so*)
((${#libraries[@]} == 0)) ||
    as_login_user ln --symbolic --force --relative --target-directory "$packages/mxnet" "${libraries[@]}"

# The book sets this variable for NVIDIA's toolkit, which MXNet uses. Images with other frameworks do not have
# it: their wheels contain a CUDA of their own, which the variable would replace in part.
if [[ $CUDA_SOURCE == nvidia ]]; then
    set_environment LD_LIBRARY_PATH /usr/local/cuda/lib64
    # shellcheck disable=SC2016 # expanded at login
    write_file /etc/profile.d/bake-mxnet.sh <<<'export LD_LIBRARY_PATH=/usr/local/cuda/lib64${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}'
fi

check_framework mxnet

#!/usr/bin/env bash
# NCCL and its headers, built for this CUDA, for programs that are compiled on the machine. Wheels of PyTorch, JAX
# and others contain an NCCL of their own.
# Needs:  cuda
# Inputs: CUDA_VERSION NVIDIA_MIRROR NVIDIA_REPOSITORY NVIDIA_KEY_FINGERPRINT STAGE LOCKED_APT
set -o errexit -o nounset -o pipefail
# shellcheck source=lib.sh
source "${BAKE_LIB:?}"

[[ $package_manager == apt ]] || fail "the stage nccl supports Debian and Ubuntu only"

add_nvidia_repository

# The repository has builds for several CUDA (2.30.7-1+cuda13.0), and apt takes the newest of all. Take the newest
# one for this major release that is not for a newer toolkit.
version=$(apt-cache madison libnccl2 | awk '{ print $3 }' | sort --version-sort | awk -v cuda="$CUDA_VERSION" '
    BEGIN { split(cuda, own, ".") }
    match($0, /\+cuda[0-9]+\.[0-9]+$/) {
        split(substr($0, RSTART + 5), its, ".")
        if (its[1] == own[1] && its[2] <= own[2]) newest = $0
    } END { print newest }')
[[ -n $version ]] || fail "NVIDIA's repository has no NCCL for CUDA ${CUDA_VERSION%%.*}, up to $CUDA_VERSION"
install_packages "libnccl2=$version" "libnccl-dev=$version"
hold_packages libnccl2 libnccl-dev # an upgrade would take a build for another CUDA

for package in libnccl2 libnccl-dev; do
    [[ $(version_of "$package") == "$version" ]] || fail "$package is $(version_of "$package") instead of $version"
done
dpkg-query --listfiles libnccl2 | grep '/libnccl[.]so[.]2$' >/dev/null || fail "libnccl2 $version does not contain libnccl.so.2"
say "NCCL $version"

#!/usr/bin/env bash
# NVIDIA's Data Center GPU Manager (DCGM): the service that monitors and tests GPUs, and its command dcgmi.
# Needs:  drivers
# Inputs: DRIVER_BRANCH NVIDIA_MIRROR NVIDIA_REPOSITORY NVIDIA_KEY_FINGERPRINT STAGE LOCKED_APT
set -o errexit -o nounset -o pipefail
# shellcheck source=lib.sh
source "${BAKE_LIB:?}"

# DCGM has a package for each major release of CUDA. It must be the driver's own one: that of the branch 525 and
# later is 12, and that of 580 and later 13. Source: NVIDIA, "CUDA Compatibility".
((DRIVER_BRANCH >= 525)) || fail "DCGM 4 needs a driver of the branch 525 or later, and the recipe has $DRIVER_BRANCH"
((DRIVER_BRANCH >= 580)) && cuda=13 || cuda=12

add_nvidia_repository
install_packages "datacenter-gpu-manager-4-cuda$cuda"

version=$(version_of datacenter-gpu-manager-4-core | sed --regexp-extended 's/^[0-9]+://; s/-.*//')
[[ $version == 4.* ]] || fail "DCGM is ${version:-not installed} instead of 4"
command -v dcgmi >/dev/null || fail "the packages of DCGM $version do not contain dcgmi"
in_container || systemctl enable --now nvidia-dcgm.service || fail "the service nvidia-dcgm does not start"
say "DCGM $version for CUDA $cuda"

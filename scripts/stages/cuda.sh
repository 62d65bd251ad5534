#!/usr/bin/env bash
# CUDA toolkit, pinned to one release, without the driver that NVIDIA bundles with it.
# Needs:  drivers
# Inputs: CUDA_VERSION CUDA_SOURCE CUDA_PACKAGES CUDA_PINS NVIDIA_MIRROR NVIDIA_REPOSITORY
#         NVIDIA_KEY_FINGERPRINT STAGE LOCKED_APT
set -o errexit -o nounset -o pipefail
# shellcheck source=lib.sh
source "${BAKE_LIB:?}"

read -ra packages <<<"$CUDA_PACKAGES"
read -ra pins <<<"$CUDA_PINS"

case $CUDA_SOURCE in
    nvidia) add_nvidia_repository ;;
    os) enable_debian_non_free ;;
    *) fail "invalid CUDA_SOURCE '$CUDA_SOURCE': it must be os or nvidia" ;;
esac

# NVIDIA's repository offers the cuBLAS of CUDA 10.2 to CUDA 10.1: its name contains no version, and apt
# takes the newer one. So it is pinned permanently, held, and checked below.
prefer_versions cuda "${pins[@]}"
install_packages "${packages[@]}" "${pins[@]}"
((${#pins[@]} == 0)) || hold_packages "${pins[@]%%=*}"

for pin in "${pins[@]}"; do
    version=$(version_of "${pin%%=*}")
    [[ $version == "${pin#*=}" ]] || fail "${pin%%=*} is $version instead of ${pin#*=}"
done

if [[ $CUDA_SOURCE == nvidia ]]; then
    home=/usr/local/cuda-$CUDA_VERSION
    [[ -d $home ]] || fail "the packages ${packages[*]} have not created $home"
    for other in /usr/local/cuda-*; do
        [[ $(readlink --canonicalize "$other") == "$home" || ! -d $other/lib64 && ! -d $other/targets ]] ||
            fail "$other was installed together with $home: libraries of two releases would be mixed. Pin its packages in CUDA_PINS."
    done
    [[ $(readlink --canonicalize /usr/local/cuda) == "$home" ]] || ln --symbolic --force --no-target-directory "$home" /usr/local/cuda

    # LD_LIBRARY_PATH is not set: it would replace libraries of the CUDA that PyTorch's wheels contain. NVIDIA's
    # packages configure the loader themselves (cuda-10-1.conf; from 11 on 000_cuda.conf), but not for CUPTI.
    prepend_path /usr/local/cuda/bin
    write_file /etc/ld.so.conf.d/bake-cuda.conf <<<$'/usr/local/cuda/lib64\n/usr/local/cuda/extras/CUPTI/lib64'
    ldconfig
    PATH=/usr/local/cuda/bin:$PATH
fi

command -v nvcc >/dev/null || fail "the packages ${packages[*]} do not contain nvcc"
release=$(nvcc --version | sed --quiet 's/.*release \([0-9.]*\),.*/\1/p')
[[ $release == "$CUDA_VERSION" ]] || fail "nvcc is of release $release instead of $CUDA_VERSION"
say "CUDA $release: $(command -v nvcc)"

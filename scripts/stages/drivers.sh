#!/usr/bin/env bash
# NVIDIA's driver of one branch: its tools and libraries and, on a machine with its own kernel, the kernel
# module. The packages are held, so that only the next bake changes them.
# Needs:  base
# Inputs: OS_ID DRIVER_BRANCH DRIVER_SOURCE DRIVER_USERLAND_PACKAGES DRIVER_KERNEL_PACKAGES
#         FABRIC_MANAGER_PACKAGES NVIDIA_MIRROR NVIDIA_REPOSITORY NVIDIA_KEY_FINGERPRINT
#         STAGE LOCKED_APT
set -o errexit -o nounset -o pipefail
# shellcheck source=lib.sh
source "${BAKE_LIB:?}"

read -ra packages <<<"$DRIVER_USERLAND_PACKAGES"
read -ra kernel_packages <<<"$DRIVER_KERNEL_PACKAGES"
read -ra fabric_packages <<<"$FABRIC_MANAGER_PACKAGES"

case $DRIVER_SOURCE in
    nvidia) add_nvidia_repository ;;
    os) [[ $OS_ID != debian-* ]] || enable_debian_non_free ;;
    *) fail "invalid DRIVER_SOURCE '$DRIVER_SOURCE': it must be os or nvidia" ;;
esac

if in_container; then
    say "This machine is a container and uses its host's kernel: tools and libraries are installed, no kernel module."
    kernel_packages=() fabric_packages=() # Fabric Manager is a service that talks to the module
else
    kernel=$(uname --kernel-release)
    kernel_packages+=("linux-headers-$kernel") # the headers' metapackage may be for a newer kernel than the running one
    # nouveau would take the GPU before NVIDIA's module does.
    write_file /etc/modprobe.d/bake-nouveau.conf <<<$'blacklist nouveau\noptions nouveau modeset=0'
fi

apt_install "${packages[@]}" "${kernel_packages[@]}" "${fabric_packages[@]}"

tool=$(readlink --canonicalize "$(command -v nvidia-smi)") || fail "the packages ${packages[*]} do not contain nvidia-smi"
owner=$(dpkg-query --search "$tool" | cut --delimiter : --fields 1)
# 1:470.256.02-0ubuntu0.18.04.1 → 470.256.02
version=$(version_of "$owner" | sed --regexp-extended 's/^[0-9]+://; s/-.*//')
[[ $version == "$DRIVER_BRANCH".* ]] || fail "nvidia-smi ($owner) is of driver $version instead of branch $DRIVER_BRANCH"

# All parts must have one version: the library refuses a module of another version.
for package in "${packages[@]}" "${fabric_packages[@]}"; do
    other=$(version_of "$package" | sed --regexp-extended 's/^[0-9]+://; s/-.*//')
    [[ $other != [0-9]*.[0-9]* || $other == "$version" ]] || fail "$package is $other, but nvidia-smi is $version"
done

if ((${#kernel_packages[@]})); then
    module=$(modinfo --set-version "$kernel" --field version nvidia) ||
        fail "no nvidia module was built for the kernel $kernel: see /var/lib/dkms/nvidia*/*/build/make.log"
    [[ $module == "$version" ]] || fail "the nvidia module for $kernel is $module, but the libraries are $version"
    say "kernel $kernel: nvidia module $module"
    ! command -v update-initramfs >/dev/null || update-initramfs -u -k "$kernel"
    modprobe --remove nouveau 2>/dev/null || true
    ! grep --quiet --no-messages 0x10de /sys/bus/pci/devices/*/vendor || modprobe nvidia
    if ((${#fabric_packages[@]})); then
        systemctl enable nvidia-fabricmanager
        # The service ends if the machine has no NVSwitch. If it is needed but does not run, the proof on the
        # GPU fails (error 802).
        systemctl start nvidia-fabricmanager || say "Fabric Manager did not start: this machine probably has no NVSwitch"
    fi
fi

# Hold all packages of that version, also dependencies. Prebuilt modules work with one kernel only, so hold
# the kernel, too.
# shellcheck disable=SC2016 # dpkg's own placeholders
mapfile -t held < <(dpkg-query --show --showformat '${Package} ${Version} ${db:Status-Abbrev}\n' |
    awk -v version="$version" '$3 ~ /^.i/ && index($2, version) { print $1 }')
[[ ${kernel_packages[*]} != *linux-modules-nvidia-* || -z $(version_of linux-aws) ]] || held+=(linux-aws)
apt-mark hold "${held[@]}" >/dev/null

say "NVIDIA driver $version ($owner), ${#held[@]} packages held"

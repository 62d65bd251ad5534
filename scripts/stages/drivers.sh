#!/usr/bin/env bash
# NVIDIA's driver of one branch: its tools and libraries and, on a machine with its own kernel, the kernel
# module for every kernel that can boot. The driver's packages are held, so that only the next bake changes
# them, and the kernel with them, unless the recipe says otherwise: a held driver may not build for a new kernel.
# Needs:  base
# Inputs: OS_ID DRIVER_BRANCH DRIVER_USERLAND_PACKAGES DRIVER_KERNEL_PACKAGES DRIVER_HOLD_KERNEL
#         FABRIC_MANAGER_PACKAGES NVIDIA_MIRROR NVIDIA_REPOSITORY NVIDIA_KEY_FINGERPRINT STAGE LOCKED_APT
set -o errexit -o nounset -o pipefail
# shellcheck source=lib.sh
source "${BAKE_LIB:?}"

read -ra packages <<<"$DRIVER_USERLAND_PACKAGES"
read -ra kernel_packages <<<"$DRIVER_KERNEL_PACKAGES"
read -ra fabric_packages <<<"$FABRIC_MANAGER_PACKAGES"

add_driver_repository

if in_container; then
    say "This machine is a container and uses its host's kernel: tools and libraries are installed, no kernel module."
    kernel_packages=() fabric_packages=() # Fabric Manager is a service that talks to the module
else
    kernel=$(uname --kernel-release) newest=$(bootable_kernels | tail --lines 1)
    [[ $newest == "$kernel" ]] || fail "the machine runs the kernel $kernel, and its next boot starts ${newest:-no known kernel}"
    remove_other_kernels
    mapfile -t -O "${#kernel_packages[@]}" kernel_packages < <(header_packages "$kernel")
    # nouveau would take the GPU before NVIDIA's module does.
    write_file /etc/modprobe.d/bake-nouveau.conf <<<$'blacklist nouveau\noptions nouveau modeset=0'
fi

# Fabric Manager works with a driver of its own version only, and may reach the archive later than the driver.
if ((${#fabric_packages[@]})) && [[ -z $LOCKED_APT ]]; then
    common=$(newest_common_version "${packages[@]}" "${fabric_packages[@]}")
    [[ -n $common ]] ||
        fail "the archive has no common version of ${packages[*]} and ${fabric_packages[*]}: bake again when it has, or use another branch"
    prefer_driver_version "$common"
fi
install_packages "${packages[@]}" "${kernel_packages[@]}" "${fabric_packages[@]}"
prefer_driver_version '' # the packages are held below

tool=$(readlink --canonicalize "$(command -v nvidia-smi)") || fail "the packages ${packages[*]} do not contain nvidia-smi"
owner=$(owner_of "$tool")
version=$(release_of "$owner")
[[ $version == "$DRIVER_BRANCH".* ]] || fail "nvidia-smi ($owner) is of driver $version instead of branch $DRIVER_BRANCH"

# All parts must have one version: the library refuses a module of another version.
for package in "${packages[@]}" "${fabric_packages[@]}"; do
    other=$(release_of "$package")
    [[ $other != [0-9]*.[0-9]* || $other == "$version" ]] || fail "$package is $other, but nvidia-smi is $version"
done

mapfile -t held < <(driver_packages "$version")
if ((${#kernel_packages[@]})); then
    check_modules "$version"
    rebuild_initramfs
    modprobe --remove nouveau 2>/dev/null || true
    ! grep --quiet --no-messages 0x10de /sys/bus/pci/devices/*/vendor || modprobe "$(module_of "$kernel")"
    enable_persistence
    if ((${#fabric_packages[@]})); then
        systemctl enable nvidia-fabricmanager
        # The service ends if the machine has no NVSwitch. If it is needed but does not run, the proof on the
        # GPU fails (error 802).
        systemctl start nvidia-fabricmanager || say "Fabric Manager did not start: this machine probably has no NVSwitch"
    fi
    [[ $DRIVER_HOLD_KERNEL != yes ]] || mapfile -t -O "${#held[@]}" held < <(kernel_packages)
fi
hold_packages "${held[@]}"

say "NVIDIA driver $version ($owner), ${#held[@]} packages held"

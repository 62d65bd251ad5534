#!/usr/bin/env bash
# The operating system: its package sources, all packages upgraded, and the tools and the headers of the kernel that
# later stages need. If the upgrade brings another kernel, the machine reboots, so that later stages build their
# modules for that kernel.
# Needs:
# Reboots: when-required
# Inputs: OS_ID OS_MIRROR OS_SECURITY_MIRROR APT_PACKAGES DNF_PACKAGES STAGE LOCKED_APT
set -o errexit -o nounset -o pipefail
# shellcheck source=lib.sh
source "${BAKE_LIB:?}"

case $OS_ID in
    ubuntu-18.04) codename=bionic ;;
    ubuntu-20.04) codename=focal ;;
    ubuntu-22.04) codename=jammy ;;
    ubuntu-24.04) codename=noble ;;
    debian-12) codename=bookworm ;;
    debian-13) codename=trixie ;;
    amazon-linux-2023) codename=al2023 ;;
    *) fail "unknown operating system $OS_ID: this stage supports Ubuntu 18.04 to 24.04, Debian 12 and 13, Amazon Linux 2023" ;;
esac

# When the first command arrives, cloud-init may still be writing the package sources.
if [[ -d /run/cloud-init ]] && command -v cloud-init >/dev/null; then
    cloud_init=$(timeout 600 cloud-init status --wait) || [[ $? != 124 ]] || fail "cloud-init has not finished in 10 minutes"
    say "cloud-init: ${cloud_init##*status: }"
fi

# If the recipe names the archive's own host, the image's sources are kept, because they name a mirror near the machine.
case $OS_MIRROR$OS_SECURITY_MIRROR in
    '' | *//archive.ubuntu.com/*//archive.ubuntu.com/* | *//deb.debian.org/*//deb.debian.org/* | *//cdn.amazonlinux.com/*)
        say "packages: the image's own sources"
        ;;
    *) use_os_mirror "$codename" && say "packages: $OS_MIRROR" ;;
esac

update_package_lists
upgrade_system
packages=(build-essential bzip2 ca-certificates curl git gnupg rsync unzip)
read -ra more <<<"${APT_PACKAGES//$'\n'/ } $DNF_PACKAGES"
install_packages "${packages[@]}" "${more[@]}"

for package in "${packages[@]}" "${more[@]%%=*}"; do
    is_installed "$package" || fail "$package is not installed"
done
[[ $package_manager == dnf ]] || unfinished=$(dpkg --audit)
[[ -z ${unfinished:-} ]] || fail "dpkg has unfinished packages: $unfinished"
newest=$(bootable_kernels | tail --lines 1)
if [[ -n $newest ]] && ! in_container; then
    # The archive removes them when it has a newer kernel, and a bake may start from this stage's checkpoint then.
    mapfile -t headers < <(header_packages "$newest")
    install_packages "${headers[@]}"
    # Packages write this file, too, but not on every system, and not every kernel does.
    [[ $newest == "$(uname --kernel-release)" ]] || touch /run/reboot-required
fi
[[ ! -e /run/reboot-required ]] || say "The machine must reboot: its newest kernel is ${newest:-unknown}"
say "$codename: installed ${packages[*]} ${more[*]}"

#!/usr/bin/env bash
# The operating system: its package sources, all packages upgraded, and the tools and the headers of the kernel that
# later stages need. If the upgrade brings another kernel, the machine reboots, so that later stages build their
# modules for that kernel.
# Needs:
# Reboots: when-required
# Inputs: OS_ID OS_MIRROR OS_SECURITY_MIRROR APT_PACKAGES STAGE LOCKED_APT
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
    *) fail "unknown operating system $OS_ID: this stage supports Ubuntu 18.04 to 24.04, Debian 12 and 13" ;;
esac

# When the first command arrives, cloud-init may still be writing apt's sources.
if [[ -d /run/cloud-init ]] && command -v cloud-init >/dev/null; then
    cloud_init=$(timeout 600 cloud-init status --wait) || [[ $? != 124 ]] || fail "cloud-init has not finished in 10 minutes"
    say "cloud-init: ${cloud_init##*status: }"
fi

# apt_source URL SUITES: print a source of apt. In a snapshot of an archive, whose URL names its time, Debian's
# lists of updates are older than Debian allows. apt must accept them nevertheless.
apt_source() {
    local components='main' check=yes
    [[ $OS_ID != ubuntu-* ]] || components='main restricted universe multiverse'
    [[ ! $1 =~ /[0-9]{8}T[0-9]{6}Z(/|$) ]] || check=no
    cat <<EOT
Types: deb
URIs: $1
Suites: $2
Components: $components
Signed-By: /usr/share/keyrings/${OS_ID%%-*}-archive-keyring.gpg
Check-Valid-Until: $check

EOT
}

# A mirror in the recipe replaces all sources of the image. If the recipe names the archive's own host, the
# image's sources are kept, because they name a mirror near the machine. The archive signs the lists, so
# any server may deliver them.
use_mirror() {
    {
        apt_source "$OS_MIRROR" "$codename $codename-updates"
        apt_source "$OS_SECURITY_MIRROR" "$codename-security"
    } | write_file /etc/apt/sources.list.d/bake-os.sources
    mkdir --parents /etc/apt/before-bake
    find /etc/apt/sources.list /etc/apt/sources.list.d -type f ! -name 'bake-*' \
        -exec mv --target-directory=/etc/apt/before-bake {} + 2>/dev/null || true
    # Otherwise cloud-init writes the cloud's own mirrors again at the first boot of the image.
    [[ ! -d /etc/cloud/cloud.cfg.d ]] ||
        write_file /etc/cloud/cloud.cfg.d/90-bake-apt.cfg <<<'apt: {preserve_sources_list: true}'
}

case $OS_MIRROR$OS_SECURITY_MIRROR in
    '' | *//archive.ubuntu.com/*//archive.ubuntu.com/* | *//deb.debian.org/*//deb.debian.org/*) say "apt: the image's own sources" ;;
    *) use_mirror && say "apt: $OS_MIRROR" ;;
esac

update_package_lists
apt_upgrade
packages=(build-essential bzip2 ca-certificates curl git gnupg rsync unzip)
read -ra more <<<"${APT_PACKAGES//$'\n'/ }"
apt_install "${packages[@]}" "${more[@]}"

for package in "${packages[@]}" "${more[@]%%=*}"; do
    is_installed "$package" || fail "$package is not installed"
done
unfinished=$(dpkg --audit)
[[ -z $unfinished ]] || fail "dpkg has unfinished packages: $unfinished"
newest=$(bootable_kernels | tail --lines 1)
if [[ -n $newest ]] && ! in_container; then
    # The archive removes them when it has a newer kernel, and a bake may start from this stage's checkpoint then.
    apt_install "linux-headers-$newest"
    # Packages write this file, too, but not on every system, and not every kernel does.
    [[ $newest == "$(uname --kernel-release)" ]] || touch /run/reboot-required
fi
[[ ! -e /run/reboot-required ]] || say "The machine must reboot: its newest kernel is ${newest:-unknown}"
say "$codename: installed ${packages[*]} ${more[*]}"

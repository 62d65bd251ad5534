#!/usr/bin/env bash
# Elastic Fabric Adapter (EFA), the fast network between machines: AWS's kernel module, libfabric, Open MPI, and
# aws-ofi-nccl, with which NCCL uses it. Every program that loads NCCL finds it without a setting.
# Needs:  base
# Inputs: EFA_MIRROR EFA_INSTALLER EFA_INSTALLER_SHA256 STAGE LOCKED_APT
set -o errexit -o nounset -o pipefail
# shellcheck source=lib.sh
source "${BAKE_LIB:?}"

[[ $package_manager == apt ]] || fail "the stage efa supports Debian and Ubuntu only"

# These are the installer's own dependencies in the archive: installed here, they are locked like other packages.
packages=(environment-modules libnl-3-200 libnl-3-dev libnl-route-3-200 libnl-route-3-dev pciutils tcl)
options=(--yes)
# The other options are for containers only: on a machine, they would leave out its module and its limits.
in_container && options+=(--skip-kmod --skip-limit-conf --no-verify) || packages+=(dkms)
install_packages "${packages[@]}"

work=$(mktemp --directory)
trap 'rm --recursive --force "$work"' EXIT
download "$EFA_MIRROR/$EFA_INSTALLER" "$work/installer.tar.gz" "$EFA_INSTALLER_SHA256"
tar --extract --gzip --no-same-owner --file "$work/installer.tar.gz" --directory "$work"
run_installer "$work/aws-efa-installer" ./efa_installer.sh "${options[@]}"
ldconfig

libfabric=$(/opt/amazon/efa/bin/fi_info --version | sed --quiet 's/^libfabric: //p')
[[ -n $libfabric ]] || fail "the installer has not created a working /opt/amazon/efa/bin/fi_info"
folder=$(grep --no-filename '^/opt/amazon/ofi-nccl' /etc/ld.so.conf.d/*.conf) || fail "the installer has not configured the loader for NCCL's plugin"
plugins=("$folder"/libnccl-net*.so)
[[ -e ${plugins[0]} ]] || fail "$folder, in which NCCL searches its plugin, has no libnccl-net.so"
if ! in_container; then
    for kernel in $(bootable_kernels); do
        modinfo --set-version "$kernel" --field version efa >/dev/null || fail "the kernel $kernel has no module efa"
    done
fi
say "$EFA_INSTALLER: libfabric $libfabric, ${plugins[0]}"

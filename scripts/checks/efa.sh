#!/usr/bin/env bash
# libfabric and NCCL's plugin for EFA can be loaded, and libfabric finds the EFA devices that the machine has.
set -o errexit -o nounset -o pipefail

version=$(/opt/amazon/efa/bin/fi_info --version | sed --quiet 's/^libfabric: //p')
folder=$(grep --no-filename '^/opt/amazon/ofi-nccl' /etc/ld.so.conf.d/*.conf)
plugins=("$folder"/libnccl-net*.so)
missing=$({ ldd "${plugins[@]}" || true; } | sed --quiet 's/ => not found//p' | sort --unique)
# The driver's own library is missing on a machine without a GPU.
((BAKE_GPUS > 0)) || missing=$(grep --invert-match libcuda <<<"$missing" || true)
[[ -z $missing ]] || {
    echo "${plugins[0]} needs libraries that are not found: $missing"
    exit 1
}

# Amazon's vendor id is 1d0f; the devices of EFA are efa0, efa1 and so on.
devices=$(cat /sys/bus/pci/devices/*/{vendor,device} 2>/dev/null | grep --count 0xefa || true)
if ((devices == 0)); then
    echo "libfabric $version and ${plugins[0]}; this machine has no EFA device"
    exit 0
fi
found=$(/opt/amazon/efa/bin/fi_info --provider efa --ep_type FI_EP_RDM | grep --count '^provider: efa' || true)
((found >= devices)) || {
    echo "libfabric finds $found of $devices EFA devices"
    exit 1
}
echo "libfabric $version and ${plugins[0]}, $devices EFA devices"

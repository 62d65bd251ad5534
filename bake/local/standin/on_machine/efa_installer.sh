#!/bin/bash
# A stand-in for AWS's installer of EFA: a libfabric without devices, and an empty plugin of NCCL.
set -e
plugins=/opt/amazon/ofi-nccl/lib/x86_64-linux-gnu
mkdir -p /opt/amazon/efa/bin "$plugins"
cat >/opt/amazon/efa/bin/fi_info <<'EOT'
#!/bin/sh
[ "$1" = --version ] || { echo "This is a stand-in for libfabric: it has no device" >&2; exit 1; }
echo "/opt/amazon/efa/bin/fi_info: @VERSION@-stand-in"
echo "libfabric: 0-stand-in"
EOT
chmod 0755 /opt/amazon/efa/bin/fi_info
echo stand-in >"$plugins/libnccl-net.so"
echo "$plugins" >/etc/ld.so.conf.d/100_ofinccl.conf
echo "EFA installer @VERSION@ (stand-in) complete"

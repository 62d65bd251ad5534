#!/usr/bin/env bash
# NVIDIA's Container Toolkit: `docker run --gpus all` gives a container the machine's GPUs and its driver's libraries.
# Needs:  docker drivers
# Inputs: CONTAINER_TOOLKIT_MIRROR CONTAINER_TOOLKIT_KEY_FINGERPRINT STAGE LOCKED_APT
set -o errexit -o nounset -o pipefail
# shellcheck source=lib.sh
source "${BAKE_LIB:?}"

[[ $package_manager == apt ]] || fail "the stage nvidia-container-toolkit supports Debian and Ubuntu only"

# One repository serves every release of Debian and Ubuntu. Source: NVIDIA's installation guide for the toolkit.
ring=/usr/share/keyrings/bake-container-toolkit.gpg
add_key "$CONTAINER_TOOLKIT_MIRROR/gpgkey" "$CONTAINER_TOOLKIT_KEY_FINGERPRINT" "$ring"
url=$CONTAINER_TOOLKIT_MIRROR/stable/deb/$(dpkg --print-architecture)
write_file /etc/apt/sources.list.d/bake-container-toolkit.list <<<"deb [signed-by=$ring] $url/ /"
update_package_lists
install_packages nvidia-container-toolkit

# Docker reads its settings when it starts. Without the setting, `--gpus` works, but `--runtime nvidia` does not.
nvidia-ctk runtime configure --runtime=docker
in_container || systemctl restart docker.service

settings=/etc/docker/daemon.json
runtime=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["runtimes"]["nvidia"]["path"])' "$settings") ||
    fail "$settings does not name NVIDIA's runtime"
command -v "$runtime" >/dev/null || fail "$settings names $runtime, which does not exist"
in_container || docker info --format '{{json .Runtimes}}' | grep '"nvidia"' >/dev/null || fail "Docker does not know the runtime nvidia"
say "$(nvidia-ctk --version | head --lines 1), runtime $runtime"

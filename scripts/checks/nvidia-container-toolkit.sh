#!/usr/bin/env bash
# A container has all GPUs of the machine, and the driver's libraries: nvidia-smi runs in it. The image for it
# contains only the C library, so that everything of NVIDIA comes from the toolkit.
set -o errexit -o nounset -o pipefail

if ((BAKE_GPUS == 0)); then
    nvidia-ctk --version | head --lines 1
    echo "this machine has no GPU to give to a container"
    exit 77
fi

image=bake-check-gpus
trap 'docker rmi --force "$image" >/dev/null' EXIT
mapfile -t files < <(ldd "$(command -v nvidia-smi)" | grep --only-matching '/[^ ]*')
tar --create --dereference --absolute-names "${files[@]}" | docker import - "$image" >/dev/null

# Both ways in which people ask for GPUs.
for options in '--gpus all' '--runtime nvidia --env NVIDIA_VISIBLE_DEVICES=all'; do
    # shellcheck disable=SC2086 # several words
    list=$(docker run --rm --network none $options --env NVIDIA_DRIVER_CAPABILITIES=compute,utility "$image" nvidia-smi --list-gpus)
    gpus=$(grep --count '^GPU ' <<<"$list" || true)
    ((gpus == BAKE_GPUS)) || {
        echo "$list"
        echo "a container with $options has $gpus GPUs, and the machine has $BAKE_GPUS"
        exit 1
    }
done
echo "$(nvidia-ctk --version | sed --quiet '1s/.* //p'): a container has $gpus GPUs"

#!/usr/bin/env bash
# DCGM's service answers, knows every GPU of the machine, and its short test of them passes.
set -o errexit -o nounset -o pipefail

if ((BAKE_GPUS == 0)); then
    echo "$(dcgmi --version | head --lines 1): this machine has no GPU to monitor"
    exit 77
fi

# The service may still be starting: the machine has just booted.
timeout 60 bash -c 'until dcgmi discovery --list >/dev/null; do sleep 2; done' || {
    echo "DCGM's service does not answer"
    exit 1
}
gpus=$(dcgmi discovery --list | sed --quiet --regexp-extended 's/^([0-9]+) GPUs? found\..*/\1/p')
[[ $gpus == "$BAKE_GPUS" ]] || {
    dcgmi discovery --list || true
    echo "DCGM knows ${gpus:-no} GPUs, and the machine has $BAKE_GPUS"
    exit 1
}
dcgmi diag --run 1 || {
    echo "DCGM's short test failed"
    exit 1
}
echo "DCGM knows $gpus GPUs, and its short test passed"

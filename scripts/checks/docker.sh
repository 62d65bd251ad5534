#!/usr/bin/env bash
# Docker runs a container. The image for it is made of this machine's own shell, so that no registry is needed.
set -o errexit -o nounset -o pipefail

# Systemd starts Docker's daemon; a rehearsal's machine, which is a container, has no systemd.
if [[ ! -d /run/systemd/system ]]; then
    echo "$(docker --version): its daemon does not run on this machine, which has no systemd"
    exit 77
fi

image=bake-check-docker
trap 'docker rmi --force "$image" >/dev/null' EXIT
mapfile -t files < <(ldd "$(readlink --canonicalize /bin/sh)" | grep --only-matching '/[^ ]*' && echo /bin/sh)
tar --create --dereference --absolute-names "${files[@]}" | docker import - "$image" >/dev/null
# shellcheck disable=SC2016 # the container's shell computes it
answer=$(docker run --rm --network none "$image" /bin/sh -c 'echo $((6 * 7))')
[[ $answer == 42 ]] || {
    echo "a container answers ${answer:-nothing} instead of 42"
    exit 1
}
echo "Docker $(docker version --format '{{.Server.Version}}') runs a container"

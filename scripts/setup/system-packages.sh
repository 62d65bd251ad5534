#!/usr/bin/env bash
# Install the system packages that the local cloud and the tests need, with apt. If that is not possible,
# list the missing ones.
# Usage: system-packages.sh rehearsal|test
set -o errexit -o nounset -o pipefail

# command:Debian package
needed=(
    python3:python3 ssh:openssh-client mmdebstrap:mmdebstrap gpg:gnupg dpkg-deb:dpkg
    apt-ftparchive:apt-utils curl:curl rsync:rsync
)
if ! command -v docker >/dev/null || ! docker info >/dev/null 2>&1; then
    needed+=(podman:podman runc:runc slirp4netns:slirp4netns)
    if ((EUID != 0)); then
        needed+=(newuidmap:uidmap fuse-overlayfs:fuse-overlayfs)
    fi
fi
if [[ ${1:-} == test ]]; then
    needed+=(/usr/sbin/sshd:openssh-server packer:packer node:nodejs npm:npm
        chromium:chromium chromedriver:chromium-driver zsh:zsh fish:fish)
fi

missing=()
for pair in "${needed[@]}"; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
done
# Without ensurepip, which Debian packages separately, python3 cannot make a virtual environment.
"${PYTHON:-python3}" -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)

if ((${#missing[@]} == 0)); then
    exit 0
fi

as_root=()
if ((EUID != 0)); then
    as_root=(sudo)
fi
cannot() {
    printf '%s\n' "Missing on this computer: ${missing[*]}" \
        "They cannot be installed automatically: $1." \
        "On Debian or Ubuntu:  apt-get install --no-install-recommends ${missing[*]}" \
        "Elsewhere: install Podman (or Docker), mmdebstrap and Python 3.11 or newer, then run make again." >&2
    exit 1
}
command -v apt-get >/dev/null || cannot "apt-get not found"
if ((EUID != 0)); then
    command -v sudo >/dev/null || cannot "you are not root, and sudo was not found"
    sudo -n true 2>/dev/null || [[ -t 0 ]] || cannot "sudo would ask for a password"
fi

echo "Installing ${missing[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update --quiet --quiet
"${as_root[@]}" apt-get install --quiet --quiet --yes --no-install-recommends \
    --option DPkg::Lock::Timeout=300 "${missing[@]}" >/dev/null

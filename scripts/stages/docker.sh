#!/usr/bin/env bash
# Docker from the operating system's own archive, for the login user, started at boot.
# Needs:  base
# Inputs: LOGIN_USER STAGE LOCKED_APT
set -o errexit -o nounset -o pipefail
# shellcheck source=lib.sh
source "${BAKE_LIB:?}"

# Where the kernel uses AppArmor, Docker starts no container without its tools. From Debian 13 on, the command is
# in a package of its own.
if [[ $package_manager == apt ]]; then
    packages=(docker.io apparmor)
    update_old_lists
    ! apt-cache show docker-cli >/dev/null 2>&1 || packages+=(docker-cli)
else
    packages=(docker) # of Amazon Linux
fi
install_packages "${packages[@]}"

# Members of this group are as powerful as root, and so is the login user, by sudo. The package makes the group.
groupadd --system --force docker
usermod --append --groups docker "$LOGIN_USER"

version=$(docker --version) || fail "the packages ${packages[*]} do not contain a working docker command"
id --name --groups "$LOGIN_USER" | grep --word-regexp docker >/dev/null || fail "$LOGIN_USER is not in the group docker"
if ! in_container; then
    systemctl enable --now docker.service || fail "docker.service does not start"
    timeout 60 docker info >/dev/null || fail "Docker's daemon does not answer"
fi
say "$version, for $LOGIN_USER"

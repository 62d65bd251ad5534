# shellcheck shell=bash
# What every stage script may use. It is sourced, never run, and does nothing by itself but set
# the ground: a place that everybody may read, plain messages, and an apt that never asks.

cd /
umask 022
export DEBIAN_FRONTEND=noninteractive # debconf takes the defaults
export NEEDRESTART_MODE=a             # Ubuntu 22.04's needrestart would ask which services to restart
export LC_ALL=C.UTF-8

say() { printf '%s\n' "$*"; }

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# over_tls URL: the one answer to "may this be downloaded from?"
over_tls() { [[ $1 == https://* ]] || fail "$1 is not an https:// address: downloads go over TLS alone"; }

# fetch URL FILE
fetch() {
    over_tls "$1"
    curl --proto =https --tlsv1.2 --fail --location --silent --show-error \
        --connect-timeout 30 --retry 5 --retry-connrefused --output "$2" "$1" || fail "$1 cannot be downloaded"
}

# download URL FILE SHA256: the file appears under its name only when it is the one that was asked for.
download() {
    local url=$1 file=$2 expected=$3 actual
    fetch "$url" "$file.part"
    actual=$(sha256sum "$file.part" | cut --delimiter ' ' --fields 1)
    if [[ $actual != "$expected" ]]; then
        rm --force "$file.part"
        fail "$url has the sha256 $actual, and not $expected: it was changed on its way, or upstream replaced it"
    fi
    mv "$file.part" "$file"
}

# A container shares its host's kernel: it can hold a driver's libraries, never its module.
in_container() {
    [[ -e /run/.containerenv || -e /.dockerenv ]] || tr '\0' '\n' </proc/1/environ | grep '^container=' >/dev/null
}

# version_of PACKAGE: empty when it is not installed.
version_of() {
    # shellcheck disable=SC2016 # dpkg's own placeholders
    dpkg-query --show --showformat '${db:Status-Abbrev} ${Version}\n' "$1" 2>/dev/null | sed --quiet 's/^.i  *//p'
}

# ---- apt ----

# Stages run at the same time, and of them one at a time uses apt. Boot-time jobs (apt-daily,
# unattended-upgrades, cloud-init) hold apt's own locks: it waits for dpkg's by itself from 1.9.11 on
# (Ubuntu 18.04 has 1.6), and for the lists' in no version.
alone_with_apt() {
    local -r locks=(/var/lib/dpkg/lock-frontend /var/lib/dpkg/lock /var/lib/apt/lists/lock /var/cache/apt/archives/lock)
    (
        flock --timeout 3600 9 || fail "another stage has been using apt for more than an hour"
        timeout 900 python3 -c 'import fcntl, sys
for path in sys.argv[1:]: fcntl.lockf(open(path, "a"), fcntl.LOCK_EX)' "${locks[@]}" ||
            fail "apt or dpkg is held by another process for more than 15 minutes"
        "$@" 9>&- # a service that a package starts must not keep the lock
    ) 9>/run/bake-apt.lock
}

call_apt_get() {
    apt-get --yes --quiet --no-install-recommends \
        --option DPkg::Lock::Timeout=900 --option Acquire::Retries=5 --option APT::Update::Error-Mode=any \
        --option Dpkg::Use-Pty=0 --option Dpkg::Options::=--force-confdef --option Dpkg::Options::=--force-confold \
        --option Dpkg::Options::=--force-unsafe-io "$@" # no fsync for each file: stopping the machine flushes all
}

configure_and_install() {
    dpkg --configure --pending --force-confdef --force-confold && call_apt_get install "$@"
}

apt_get() { alone_with_apt call_apt_get "$@"; }

# apt_install PACKAGE[=VERSION]…: after finishing what an interrupted run may have left half configured.
apt_install() { alone_with_apt configure_and_install "$@"; }

# write_file PATH: from stdin; a file that is already right keeps its time.
write_file() {
    local text
    text=$(cat)
    [[ -f $1 && $(<"$1") == "$text" ]] && return
    install -D --mode 0644 /dev/null "$1"
    printf '%s\n' "$text" >"$1"
}

# Debian keeps the driver and its CUDA in non-free, and what they stand on in contrib.
enable_debian_non_free() {
    local file
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
        [[ -f $file && $file != *nvidia* ]] || continue
        sed --in-place --regexp-extended \
            -e 's/^(Components:.* ?)\bmain\b.*/\1main contrib non-free non-free-firmware/' \
            -e 's/^(deb .*) main( .*)?$/\1 main contrib non-free non-free-firmware/' "$file"
    done
    apt_get update
}

# add_nvidia_repository: NVIDIA_MIRROR/NVIDIA_REPOSITORY, trusted for the one key with
# NVIDIA_KEY_FINGERPRINT, whatever else the downloaded key file holds. The key file is named after the
# key's last eight digits (3bf863cc.pub since the key of before 2022 was revoked).
add_nvidia_repository() {
    local -r url="$NVIDIA_MIRROR/$NVIDIA_REPOSITORY" ring=/usr/share/keyrings/bake-nvidia.gpg
    local -r id=${NVIDIA_KEY_FINGERPRINT: -8}
    local work
    work=$(mktemp --directory)
    fetch "$url/${id,,}.pub" "$work/key"
    gpg --homedir "$work" --batch --quiet --import "$work/key" 2>/dev/null || fail "$url/${id,,}.pub is not a key"
    gpg --homedir "$work" --batch --quiet --export "$NVIDIA_KEY_FINGERPRINT" >"$work/ring" 2>/dev/null
    [[ -s $work/ring ]] ||
        fail "$url/${id,,}.pub holds $(gpg --homedir "$work" --batch --with-colons --list-keys 2>/dev/null |
            awk -F : '$1 == "fpr" { print $10; exit }'), and not the key $NVIDIA_KEY_FINGERPRINT"
    install --mode 0644 "$work/ring" "$ring"
    rm --recursive --force "$work"
    write_file /etc/apt/sources.list.d/bake-nvidia.list <<<"deb [signed-by=$ring] $url/ /"
    # What NVIDIA's own pin file says: its builds before the distribution's older ones.
    write_file /etc/apt/preferences.d/bake-nvidia <<'EOT'
Package: *
Pin: release l=NVIDIA CUDA
Pin-Priority: 600
EOT
    apt_get update
}

# ---- shells ----

# set_environment NAME VALUE: for `ssh host command` and for services started by PAM (pam_env reads
# this file at every login, of whatever kind, and expands nothing in it).
set_environment() {
    touch /etc/environment
    ! grep --quiet --line-regexp --fixed-strings "$1=\"$2\"" /etc/environment || return 0
    sed --in-place "/^$1=/d" /etc/environment
    printf '%s="%s"\n' "$1" "$2" >>/etc/environment
}

# prepend_path DIRECTORY: for every kind of shell. Login shells set PATH anew in /etc/profile, so they
# are told again in /etc/profile.d.
prepend_path() {
    local path
    path=$(sed --quiet 's/^PATH="\{0,1\}\([^"]*\)"\{0,1\}$/\1/p' /etc/environment 2>/dev/null | tail --lines 1)
    path=${path:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}
    [[ :$path: == *:$1:* ]] || set_environment PATH "$1:$path"
    # shellcheck disable=SC2016 # expanded at login
    printf 'case ":$PATH:" in *:%s:*) ;; *) PATH="%s:$PATH" ;; esac\n' "$1" "$1" |
        write_file "/etc/profile.d/bake-path-${1//\//-}.sh"
}

# ---- the login user and the Python environment ----

home_of_login_user() { getent passwd "$LOGIN_USER" | cut --delimiter : --fields 6; }

as_login_user() {
    runuser --user "$LOGIN_USER" -- env HOME="$(home_of_login_user)" USER="$LOGIN_USER" "$@"
}

# in_bashrc LINE: in the login user's interactive shells, once.
in_bashrc() {
    local file
    file="$(home_of_login_user)/.bashrc"
    as_login_user touch "$file"
    grep --quiet --line-regexp --fixed-strings "$1" "$file" || printf '%s\n' "$1" >>"$file"
}

# pip_install ARGUMENT…: into the environment, as its owner. The machine's own pip settings (a
# company's certificate, say) stay in force. Bytecode is left to the first import: compiling what mostly
# nobody imports takes a third of the time, and a fifth of the image.
pip_install() {
    over_tls "$PYPI_MIRROR"
    as_login_user "$ENVIRONMENT_PREFIX/bin/python" -m pip install --index-url "$PYPI_MIRROR" \
        --disable-pip-version-check --no-input --no-cache-dir --no-compile --progress-bar off --no-warn-script-location "$@"
}

# install_framework PIP_OPTION…: FRAMEWORK_REQUIREMENTS. They stay in force as constraints for
# whatever is installed into the environment later, by a stage or by a person: else the first
# `pip install pandas` brings a numpy that MXNet 1.x cannot import with (1.24 took np.bool away).
install_framework() {
    local -r requirements=$ENVIRONMENT_PREFIX/constraints.txt
    pip_install --upgrade pip
    write_file "$requirements" <<<"$FRAMEWORK_REQUIREMENTS"
    pip_install --requirement "$requirements" "$@"
    write_file "$ENVIRONMENT_PREFIX/pip.conf" <<<$'[install]\nconstraint = '"$requirements"
    chown "$LOGIN_USER:" "$requirements" "$ENVIRONMENT_PREFIX/pip.conf"
}

# check_framework NAME: that this wheel, of whatever CUDA, is FRAMEWORK_VERSION, that everything it needs from
# Python is there, and that numpy imports. Its own import needs CUDA and a driver: it is proved later.
check_framework() {
    local -r python=$ENVIRONMENT_PREFIX/bin/python
    local found numpy
    found=$(as_login_user "$python" -m pip list --disable-pip-version-check --format freeze |
        grep --extended-regexp "^$1([-_]cu[0-9]+)?==$FRAMEWORK_VERSION([+].*)?$") ||
        fail "$ENVIRONMENT_PREFIX holds no $1 $FRAMEWORK_VERSION"
    as_login_user "$python" -m pip check || fail "the environment's packages do not fit together"
    numpy=$(as_login_user "$python" -c 'import numpy; print(numpy.__version__)')
    say "${found//$'\n'/, } in $ENVIRONMENT_PREFIX, numpy $numpy"
}

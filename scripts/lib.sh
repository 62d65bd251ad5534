# shellcheck shell=bash
# Functions for every stage script. This file is sourced, not run. By itself it only sets a folder that
# everyone may read, a language without translations, an apt that asks no questions, and the name of the package
# manager.

cd /
umask 022
export DEBIAN_FRONTEND=noninteractive # debconf takes the defaults
export NEEDRESTART_SUSPEND=1          # Ubuntu's needrestart would ask, or restart services in a running bake
export LC_ALL=C.UTF-8

# Debian and Ubuntu have apt and dpkg, Amazon Linux has dnf and rpm. Where they differ, a function for stages calls its
# part for the one or the other.
package_manager=apt
! grep --quiet --no-messages '^ID="\{0,1\}amzn' /etc/os-release || package_manager=dnf

say() { printf '%s\n' "$*"; }

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# over_tls URL: fail unless the download uses TLS.
over_tls() { [[ $1 == https://* ]] || fail "$1 is not an https:// address: downloads use TLS only"; }

# fetch URL FILE: download without a checksum.
fetch() {
    over_tls "$1"
    curl --proto =https --tlsv1.2 --fail --location --silent --show-error \
        --connect-timeout 30 --retry 5 --retry-connrefused --output "$2" "$1" || fail "$1 cannot be downloaded"
}

# download URL FILE SHA256: FILE exists only if its checksum is right.
download() {
    local url=$1 file=$2 expected=$3 actual
    fetch "$url" "$file.part"
    actual=$(sha256sum "$file.part" | cut --delimiter ' ' --fields 1)
    if [[ $actual != "$expected" ]]; then
        rm --force "$file.part"
        fail "$url has the sha256 $actual instead of $expected: it was changed in transit, or replaced by its publisher"
    fi
    mv "$file.part" "$file"
    note files <<<"${url##*/} $expected"
}

# A container uses its host's kernel: it can contain a driver's libraries, but not its kernel module.
in_container() {
    [[ -e /run/.containerenv || -e /.dockerenv ]] || tr '\0' '\n' </proc/1/environ | grep '^container=' >/dev/null
}

# ---- the kernel and its modules ----

# bootable_kernels: print the release of each kernel that can boot, the newest one last. A container has none.
bootable_kernels() {
    local image
    for image in /boot/vmlinuz-*; do
        [[ ! -d /lib/modules/${image#/boot/vmlinuz-} ]] || printf '%s\n' "${image#/boot/vmlinuz-}"
    done | sort --version-sort
}

# module_of KERNEL: print the file name of NVIDIA's module for this kernel. Debian's is nvidia-current; there,
# `modprobe nvidia` uses an alias, which modinfo does not read.
module_of() {
    local name
    for name in nvidia nvidia-current; do
        modinfo --set-version "$1" --field version "$name" >/dev/null 2>&1 || continue
        printf '%s\n' "$name"
        return
    done
    return 1
}

# check_modules VERSION: fail unless every kernel that can boot has NVIDIA's module of this version.
check_modules() {
    local kernel module version
    for kernel in $(bootable_kernels); do
        if ! module=$(module_of "$kernel"); then
            print_failed_builds || true
            fail "no nvidia module was built for the kernel $kernel"
        fi
        version=$(modinfo --set-version "$kernel" --field version "$module")
        [[ $version == "$1" ]] || fail "the nvidia module for $kernel is $version, but the libraries are $1"
        say "kernel $kernel: $module $version"
    done
}

# remove_other_kernels: remove all kernels but the running one. They would never run again, and each would need
# the driver's module.
remove_other_kernels() {
    local kernel others=()
    for kernel in $(bootable_kernels); do
        [[ $kernel == "$(uname --kernel-release)" ]] ||
            mapfile -t -O "${#others[@]}" others < <("${package_manager}_packages_of_kernel" "$kernel")
    done
    ((${#others[@]} == 0)) || "${package_manager}_remove" "${others[@]}"
}

apt_packages_of_kernel() {
    # shellcheck disable=SC2016 # dpkg's own placeholders
    dpkg-query --show --showformat '${db:Status-Abbrev} ${Package}\n' "linux-*-$1" | sed --quiet 's/^.i  *//p'
}

dnf_packages_of_kernel() {
    rpm --query --all --queryformat '%{NAME}-%{VERSION}-%{RELEASE}.%{ARCH}\n' 'kernel*' | grep --fixed-strings -e "-$1"
}

# header_packages KERNEL: print the packages with which modules for this kernel are built. Amazon Linux names the
# packages of every kernel but 6.1 after it.
header_packages() {
    local name=kernel
    if [[ $package_manager == apt ]]; then
        printf '%s\n' "linux-headers-$1"
    else
        [[ $1 == 6.1.* ]] || name+=$(cut --delimiter . --fields 1,2 <<<"$1")
        printf '%s\n' "$name-devel-$1" "$name-modules-extra-$1"
    fi
}

# rebuild_initramfs: make the first file system of each kernel again, so that it follows modprobe's settings.
rebuild_initramfs() {
    if [[ $package_manager == apt ]]; then
        ! command -v update-initramfs >/dev/null || update-initramfs -u -k all
    else
        ! command -v dracut >/dev/null || dracut --regenerate-all --force
    fi
}

# driver_packages VERSION: print the installed packages of the driver of this version, and DKMS; not those of
# toolkits and containers.
driver_packages() {
    installed_packages | awk -v version="$1" '{ sub(/:.*/, "", $1) } $1 == "dkms" || index($2, version) ||
        $1 ~ /^(lib|kmod-)?nvidia-/ && $1 !~ /^(lib)?nvidia-(cuda-|container)/ { print $1 }'
}

# kernel_packages: print the installed packages of kernels and their headers, and those that install the next ones.
kernel_packages() { "${package_manager}_kernel_packages"; }

dnf_kernel_packages() {
    rpm --query --all --queryformat '%{NAME}\n' | sort --unique |
        grep --extended-regexp '^kernel([0-9.]+)?(-devel|-headers|-modules-extra(-common)?)?$'
}

apt_kernel_packages() {
    # shellcheck disable=SC2016 # dpkg's own placeholders
    dpkg-query --show --showformat '${db:Status-Abbrev} ${Package} ${Depends}\n' |
        awk '$1 ~ /^.i/ && $2 ~ /^linux-/ && / linux-(image|headers|modules)-/ { print $2 }'
}

# newest_common_version PACKAGE…: print the newest version that apt can install of all these packages, without
# epoch and revision.
newest_common_version() {
    "${package_manager}_offers" "$@" | awk -v wanted="$#" '{
        sub(/^[0-9]+:/, "", $2); sub(/-.*/, "", $2)
        if (!(($1, $2) in seen)) { seen[$1, $2]; count[$2]++ }
    } END { for (version in count) if (count[version] == wanted) print version }' | sort --version-sort | tail --lines 1
}

# apt_offers, dnf_offers PACKAGE…: print lines `NAME VERSION` of the versions in the archives.
apt_offers() { apt-cache madison "$@" | awk '{ print $1, $3 }'; }
dnf_offers() { dnf --quiet repoquery --queryformat '%{name} %{evr}' "$@"; }

# enable_persistence: start NVIDIA's persistence daemon at boot, with persistence mode. Ubuntu's unit switches the
# mode off; without it, the driver initializes the GPUs again for each process that uses them.
enable_persistence() {
    local -r unit=nvidia-persistenced.service
    local file start
    file=$(systemctl show --property FragmentPath --value "$unit")
    [[ -f $file ]] || fail "the driver's packages have no $unit"
    start=$(sed --quiet 's/^ExecStart=//p' "$file")
    write_file "/etc/systemd/system/$unit.d/bake.conf" <<<$'[Service]\nExecStart=\nExecStart='"${start/ --no-persistence-mode/}"
    systemctl daemon-reload
    systemctl add-wants multi-user.target "$unit"
}

# print_failed_builds: print the end of each make.log of a DKMS build that failed; fail if there is none. DKMS
# moves the log of a build that succeeds. The machine will be gone, and the stage's output is kept.
print_failed_builds() {
    local log found=1
    for log in /var/lib/dkms/*/*/build/make.log; do
        [[ -f $log ]] || continue
        found=0
        printf -- '---- the end of %s ----\n' "$log" >&2
        tail --lines 40 "$log" >&2
    done
    return "$found"
}

# version_of PACKAGE: print its version, or nothing if it is not installed.
version_of() { "${package_manager}_version_of" "$1"; }

apt_version_of() {
    # shellcheck disable=SC2016 # dpkg's own placeholders
    dpkg-query --show --showformat '${db:Status-Abbrev} ${Version}\n' "$1" 2>/dev/null | sed --quiet 's/^.i  *//p'
}

dnf_version_of() {
    local versions
    ! versions=$(rpm --query --queryformat '%{EVR}\n' "$1") || tail --lines 1 <<<"$versions"
}

# release_of PACKAGE: print its publisher's part of the version: 470.256.02 of 1:470.256.02-0ubuntu0.18.04.1.
release_of() { version_of "$1" | sed --regexp-extended 's/^[0-9]+://; s/-.*//'; }

# owner_of FILE: print the package to which the file belongs.
owner_of() {
    if [[ $package_manager == apt ]]; then
        dpkg-query --search "$1" | cut --delimiter : --fields 1
    else
        rpm --query --queryformat '%{NAME}\n' --file "$1"
    fi
}

# is_installed PACKAGE: succeed if it, or another package that provides it, is installed.
is_installed() { "${package_manager}_is_installed" "$1"; }

apt_is_installed() {
    # shellcheck disable=SC2016 # dpkg's own placeholders
    [[ -n $(version_of "$1") ]] || dpkg-query --show --showformat '${db:Status-Abbrev} ${Provides}\n' |
        awk -v name="$1" '$1 ~ /^.i/ { gsub(/,/, ""); for (i = 2; i <= NF; i++) if ($i == name) found = 1 } END { exit !found }'
}

dnf_is_installed() {
    local name
    for name in $(dnf_names "$1"); do
        rpm --query --quiet --whatprovides "$name" || return
    done
}

# dnf_names PACKAGE…: print the names that packages of Debian have on Amazon Linux. Its small curl and gnupg are
# installed, and exclude the other ones.
dnf_names() {
    local name
    for name in "$@"; do
        case $name in
            build-essential) printf '%s\n' gcc gcc-c++ make ;;
            docker.io) echo docker ;;
            gnupg) echo gnupg2-minimal ;;
            libgomp1) echo libgomp ;;
            libquadmath0) echo libquadmath ;;
            python3-venv) echo python3 ;;
            *) printf '%s\n' "${name/=/-}" ;;
        esac
    done
}

# ---- what was installed, and what is locked ----

# Each stage notes what it installs, for the bake's record and for a lock. The notes stay in the image.
# With a lock, LOCKED_APT, LOCKED_CONDA and LOCKED_PIP are never empty: they begin with a comment.
NOTES=/usr/share/bake

# note KIND: add lines `NAME VALUE…` from stdin to the notes; the last line of a name replaces the others.
note() {
    local -r file=$NOTES/installed/${STAGE:?must be in the Inputs of a stage that installs something}/$1
    local lines
    lines=$(cat <(cat "$file" 2>/dev/null) - |
        awk 'NF { line[$1] = $0 } END { for (name in line) print line[name] }' | sort)
    [[ -z $lines ]] || write_file "$file" <<<"$lines"
}

# no_differences: fail if stdin lists any difference from the lock, one per line.
no_differences() {
    local lines
    lines=$(sort)
    [[ -n $lines ]] || return 0
    printf '%s\n' "$lines" >&2
    fail "this differs from the lock. A bake with --no-lock installs the current versions; invoke lock then locks those"
}

# ---- packages of the operating system ----

# install_packages PACKAGE[=VERSION]…: install, and note what was installed. On Amazon Linux, names of Debian that
# the stages use are translated.
install_packages() { "${package_manager}_install" "$@"; }

# upgrade_system: upgrade every installed package, also to a new kernel. With a lock it upgrades nothing: the lock
# contains the upgraded versions, and install_packages installs them.
upgrade_system() { "${package_manager}_upgrade"; }

# hold_packages PACKAGE…: keep these versions when the system is upgraded, until the next bake.
hold_packages() { "${package_manager}_hold" "$@"; }

# clean_package_cache: remove the packages that were downloaded.
clean_package_cache() { "${package_manager}_clean"; }

# installed_packages: print lines `NAME VERSION`; a foreign architecture is part of the name.
installed_packages() { "${package_manager}_list"; }

# use_os_mirror CODENAME: take the system's packages from OS_MIRROR and OS_SECURITY_MIRROR only. The archive signs
# them, so any server may deliver them.
use_os_mirror() { "${package_manager}_use_mirror" "$1"; }

# add_driver_repository: add the archive that contains NVIDIA's driver for this system.
add_driver_repository() { "${package_manager}_add_driver_repository"; }

# prefer_versions NAME PACKAGE=VERSION…: install only these versions, now and later. For dnf, hold_packages does this.
prefer_versions() {
    local pin
    [[ $package_manager == apt ]] || return 0
    for pin in "${@:2}"; do
        printf 'Package: %s\nPin: version %s\nPin-Priority: 1001\n\n' "${pin%%=*}" "${pin#*=}"
    done | write_file "/etc/apt/preferences.d/bake-$1"
}

# prefer_driver_version VERSION: install only this version of the driver, until it is called without one. dnf needs no
# such preference: NVIDIA publishes all parts in one repository, and dnf chooses versions that fit together.
prefer_driver_version() {
    local -r preferences=/etc/apt/preferences.d/bake-driver
    [[ $package_manager == apt ]] || return 0
    if [[ -n ${1:-} ]]; then
        write_file "$preferences" <<<$'Package: *nvidia*\nPin: version '"$1"$'-*\nPin-Priority: 1001'
    else
        rm --force "$preferences"
    fi
}

# alone_with_packages COMMAND…: run it while no other process installs packages. Stages run at the same time, and
# boot-time jobs (apt-daily, unattended-upgrades, cloud-init) hold apt's own locks. apt itself waits for dpkg's lock
# from 1.9.11 on (Ubuntu 18.04 has 1.6). No version of apt waits for the lock of the lists. dnf waits for its own.
alone_with_packages() {
    local locks=(/var/lib/dpkg/lock-frontend /var/lib/dpkg/lock /var/lib/apt/lists/lock /var/cache/apt/archives/lock)
    [[ $package_manager == apt ]] || locks=()
    [[ ! -d /run/systemd/system ]] || # these services would upgrade packages during the bake
        systemctl stop apt-daily.timer apt-daily-upgrade.timer unattended-upgrades.service 2>/dev/null || true
    (
        flock --timeout 3600 9 || fail "another stage has used $package_manager for more than an hour"
        timeout 900 python3 -c 'import fcntl, sys
for path in sys.argv[1:]: fcntl.lockf(open(path, "a"), fcntl.LOCK_EX)' "${locks[@]}" ||
            fail "another process has held the lock of apt or dpkg for more than 15 minutes"
        "$@" 9>&- # a service that a package starts must not inherit the lock
    ) 9>/run/bake-apt.lock
}

# ---- apt ----

# Ubuntu gives a new version to some machines first, chosen by their machine id ("phased updates"). An image does
# not depend on the id of its builder.
call_apt_get() {
    apt-get --yes --quiet --no-install-recommends --option APT::Get::Always-Include-Phased-Updates=true \
        --option DPkg::Lock::Timeout=900 --option Acquire::Retries=5 --option APT::Update::Error-Mode=any \
        --option Dpkg::Use-Pty=0 --option Dpkg::Options::=--force-confdef --option Dpkg::Options::=--force-confold \
        --option Dpkg::Options::=--force-unsafe-io "$@" # no fsync per file: stopping the machine flushes everything
}

apt_list() {
    # shellcheck disable=SC2016 # dpkg's own placeholders
    dpkg-query --show --showformat '${db:Status-Abbrev} ${binary:Package} ${Version}\n' |
        awk -v own=":$(dpkg --print-architecture)$" '$1 ~ /^.i/ { sub(own, "", $2); print $2, $3 }'
}

# finish_earlier_work: note what the base image contains, before anything is installed, and configure the
# packages that an interrupted run left unfinished.
finish_earlier_work() {
    local -r base=$NOTES/base-image/$package_manager
    [[ -f $base ]] || installed_packages | write_file "$base" || return
    [[ $package_manager == dnf ]] || dpkg --configure --pending --force-confdef --force-confold
}

apt_upgrade_packages() {
    finish_earlier_work || return
    [[ -n ${LOCKED_APT?must be in the Inputs of a stage that installs packages} ]] ||
        call_apt_get upgrade --with-new-pkgs
}

configure_and_install() {
    local -r base=$NOTES/base-image/apt
    finish_earlier_work || return
    if [[ -z ${LOCKED_APT?must be in the Inputs of a stage that installs packages} ]]; then
        call_apt_get install "$@" || return
    else
        install_locked_packages "$@" || return
    fi
    installed_packages | lines_not_in <(cat "$base" "$NOTES"/installed/*/apt 2>/dev/null) | note apt || return
    [[ -z $LOCKED_APT ]] || differing_packages "$base" | no_differences
}

lines_not_in() { grep --invert-match --line-regexp --fixed-strings --file="$1" || true; }

# install_locked_packages PACKAGE…: install the locked versions of this stage (lines `STAGE NAME VERSION`).
# The locked versions of stages that may run at the same time apply to the dependencies that apt adds.
# A requested package that is installed already is not changed.
install_locked_packages() {
    local -r preferences=/run/bake-lock.pref
    local package manual locked=() more=()
    unavailable_packages | no_differences || return
    awk -v stage="$STAGE" 'NF == 3 && $1 != stage {
        printf "Package: %s\nPin: version %s\nPin-Priority: 1001\n\n", $2, $3 }' <<<"$LOCKED_APT" >"$preferences"
    mapfile -t locked < <(awk -v stage="$STAGE" '$1 == stage { print $2 "=" $3 }' <<<"$LOCKED_APT")
    for package in "$@"; do
        [[ " ${locked[*]%%=*} " == *" ${package%%=*} "* || -n $(version_of "${package%%=*}") ]] || more+=("$package")
    done
    manual=$(apt-mark showmanual)
    call_apt_get --option Dir::Etc::Preferences="$preferences" --allow-downgrades install "${locked[@]}" "${more[@]}" || return
    # Dependencies may be removed together with their packages, as without a lock.
    printf '%s\n' "${locked[@]%%=*}" | lines_not_in <(printf '%s\n' "$manual" "${@%%=*}") |
        xargs --no-run-if-empty apt-mark auto >/dev/null
}

unavailable_packages() {
    local locked
    mapfile -t locked < <(awk -v stage="$STAGE" '$1 == stage { print $2 }' <<<"$LOCKED_APT")
    ((${#locked[@]})) || return 0
    awk -v stage="$STAGE" '
        kind == "installed" { available[$1, $2] }
        kind == "offered" && /Packages *$/ { gsub(/ /, ""); split($0, part, "|")
            if (!((part[1], part[2]) in available)) { available[part[1], part[2]]
                offers[part[1]] = offers[part[1]] " " part[2] } }
        kind == "locked" && $1 == stage && !(($2, $3) in available) {
            print $2 ": " $3 " is locked, and the archive has" ($2 in offers ? offers[$2] : " none") }
    ' kind=installed <(installed_packages) kind=offered <(apt-cache madison "${locked[@]}" 2>/dev/null) \
        kind=locked <(printf '%s\n' "$LOCKED_APT")
}

# differing_packages BASE: list the packages that changed since the base image and differ from the lock.
differing_packages() {
    awk -v stage="$STAGE" '
        kind == "base" { base[$1] = $2 }
        kind == "locked" { known[$2]; version[$2, $3]; if ($1 == stage) own[$2] = $3 }
        kind == "now" && $1 in own && own[$1] != $2 { print $1 ": " own[$1] " is locked, and " $2 " is installed" }
        kind == "now" && !($1 in own) && base[$1] != $2 && !(($1, $2) in version) {
            print $1 ": " $2 " is installed, and " ($1 in known ? "another version" : "no version") " is locked" }
        kind == "now" { delete own[$1] }
        END { for (name in own) print name ": " own[name] " is locked, and no version is installed" }
    ' kind=base "$1" kind=locked <(printf '%s\n' "$LOCKED_APT") kind=now <(installed_packages)
}

apt_get() { alone_with_packages call_apt_get "$@"; }

# update_package_lists: run `apt-get update` or `dnf makecache`. While a mirror is updated, its lists do not match their
# signed checksums: this ends by itself, so it is retried for ten minutes. Other errors fail at once.
update_package_lists() {
    local -r deadline=$((SECONDS + sync_timeout_s))
    local -r syncing="File has unexpected size|Hash Sum mismatch|Mirror sync in progress|checksum doesn't match"
    local output name='apt-get update' update=(apt_get update)
    [[ $package_manager == apt ]] || name='dnf makecache' update=(alone_with_packages call_dnf makecache --refresh)
    # apt before 2.1 succeeds although it has ignored a list.
    until output=$("${update[@]}" 2>&1) && [[ $output != *'Some index files failed to download'* ]]; do
        printf '%s\n' "$output"
        [[ $output =~ $syncing ]] || fail "$name failed: $(last_words <<<"$output")"
        ((SECONDS < deadline)) ||
            fail "a package mirror was not consistent for $((sync_timeout_s / 60)) minutes: $(last_words <<<"$output")"
        say "A package mirror is being updated: next attempt in $sync_pause_s s"
        sleep "$sync_pause_s"
    done
    printf '%s\n' "$output"
    touch "$updated_lists"
}
sync_timeout_s=600 sync_pause_s=15 updated_lists=/run/bake-package-lists # until the next boot

# update_old_lists: update the package lists unless a stage has done so since the boot. The lists of a checkpoint may
# be weeks old, and an archive removes the packages that it has replaced.
update_old_lists() { [[ -e $updated_lists ]] || update_package_lists; }

# last_words: print the errors of apt's or dnf's output on stdin in one line; without any, its last line.
last_words() {
    local output lines
    output=$(cat)
    lines=$(grep --extended-regexp '^(E|Error): ' <<<"$output" | sort --unique) || lines=$(tail --lines 1 <<<"$output")
    printf '%s\n' "${lines//$'\n'/ }"
}

apt_upgrade() { alone_with_packages apt_upgrade_packages || fail_to_install; }

apt_remove() { apt_get purge "$@"; }
apt_hold() { alone_with_packages apt-mark hold "$@" >/dev/null; } # it would not wait for dpkg's lock
apt_clean() { apt_get clean; }

# apt_install PACKAGE[=VERSION]…: configure the packages that an interrupted run left unfinished, then install.
apt_install() {
    update_old_lists
    alone_with_packages configure_and_install "$@" || fail_to_install
}

# run_installer FOLDER COMMAND…: run a publisher's own installer in its folder, alone with apt, which it uses. A lock
# does not contain what it installs, because no archive has that: the installer's own version is pinned.
run_installer() { alone_with_packages run_and_leave_out "$@" || fail_to_install; }

run_and_leave_out() {
    local before
    finish_earlier_work || return
    before=$(installed_packages)
    (cd "$1" && "${@:2}") || return
    installed_packages | lines_not_in <(printf '%s\n' "$before") >>"$NOTES/base-image/apt"
}

fail_to_install() {
    ! print_failed_builds || fail "a kernel module could not be built: the end of its log is above"
    exit 1 # apt or dnf has printed why
}

# write_file PATH: write stdin to it; a file with the same content keeps its time.
write_file() {
    local text
    text=$(cat)
    [[ -f $1 && $(<"$1") == "$text" ]] && return
    install -D --mode 0644 /dev/null "$1"
    printf '%s\n' "$text" >"$1"
}

# apt_source URL SUITES: print a source of apt. In a snapshot of an archive, whose URL names its time, Debian's
# lists of updates are older than Debian allows. apt must accept them nevertheless.
apt_source() {
    local components='main' check=yes
    [[ $OS_ID != ubuntu-* ]] || components='main restricted universe multiverse'
    [[ ! $1 =~ /[0-9]{8}T[0-9]{6}Z(/|$) ]] || check=no
    cat <<EOT
Types: deb
URIs: $1
Suites: $2
Components: $components
Signed-By: /usr/share/keyrings/${OS_ID%%-*}-archive-keyring.gpg
Check-Valid-Until: $check

EOT
}

apt_use_mirror() {
    {
        apt_source "$OS_MIRROR" "$1 $1-updates"
        apt_source "$OS_SECURITY_MIRROR" "$1-security"
    } | write_file /etc/apt/sources.list.d/bake-os.sources
    mkdir --parents /etc/apt/before-bake
    find /etc/apt/sources.list /etc/apt/sources.list.d -type f ! -name 'bake-*' \
        -exec mv --target-directory=/etc/apt/before-bake {} + 2>/dev/null || true
    # Otherwise cloud-init writes the cloud's own mirrors again at the first boot of the image.
    [[ ! -d /etc/cloud/cloud.cfg.d ]] ||
        write_file /etc/cloud/cloud.cfg.d/90-bake-apt.cfg <<<'apt: {preserve_sources_list: true}'
}

apt_add_driver_repository() {
    case $OS_ID in
        debian-*) enable_debian_non_free ;;
        *) update_old_lists ;;
    esac
}

# Debian has the driver and its CUDA in non-free, and their dependencies in contrib.
enable_debian_non_free() {
    local file
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
        [[ -f $file && $file != *nvidia* ]] || continue
        sed --in-place --regexp-extended \
            -e 's/^(Components:.* ?)\bmain\b.*/\1main contrib non-free non-free-firmware/' \
            -e 's/^(deb .*) main( .*)?$/\1 main contrib non-free non-free-firmware/' "$file"
    done
    update_package_lists
}

# add_key URL FINGERPRINT FILE: download a signer's public keys, and write the one with this fingerprint to FILE, in
# the form that apt and gpgv read, or as text, which dnf reads, if its name ends in .asc. Other keys at this address are not trusted.
add_key() {
    local work form=()
    [[ $3 != *.asc ]] || form=(--armor)
    work=$(mktemp --directory)
    fetch "$1" "$work/key"
    gpg --homedir "$work" --batch --quiet --import "$work/key" 2>/dev/null || fail "$1 is not a key"
    gpg --homedir "$work" --batch --quiet "${form[@]}" --export "$2" >"$work/ring" 2>/dev/null
    [[ -s $work/ring ]] ||
        fail "$1 contains $(gpg --homedir "$work" --batch --with-colons --list-keys 2>/dev/null |
            awk -F : '$1 == "fpr" { print $10; exit }'), and not the key $2"
    install -D --mode 0644 "$work/ring" "$3"
    rm --recursive --force "$work"
}

# add_nvidia_repository: add NVIDIA_MIRROR/NVIDIA_REPOSITORY. The file of the key is named after its last eight
# digits, in their case (3bf863cc.pub, 8793F200.pub).
add_nvidia_repository() {
    local -r url="$NVIDIA_MIRROR/$NVIDIA_REPOSITORY"
    local ring=/usr/share/keyrings/bake-nvidia.gpg
    [[ $package_manager == apt ]] || ring=/etc/pki/rpm-gpg/bake-nvidia.asc
    [[ -n $NVIDIA_REPOSITORY ]] || fail "bake knows no repository of NVIDIA for this operating system"
    add_key "$url/${NVIDIA_KEY_FINGERPRINT: -8}.pub" "$NVIDIA_KEY_FINGERPRINT" "$ring"
    if [[ $package_manager == apt ]]; then
        write_file /etc/apt/sources.list.d/bake-nvidia.list <<<"deb [signed-by=$ring] $url/ /"
        pin_nvidia_repository
    else
        dnf_source bake-nvidia "$url" "$ring"
    fi
    update_package_lists
}

# pin_nvidia_repository: choose by package what comes from NVIDIA's repository; apt uses the first entry that
# matches. The driver, and what the distribution has itself, never do: a user's upgrade would mix two builds of
# the driver, and Ubuntu's dkms chooses the compiler of Ubuntu's kernels. CUDA does. Each other package does only
# if the distribution does not have it.
pin_nvidia_repository() {
    write_file /etc/apt/preferences.d/bake-nvidia <<'EOT'
Package: nvidia-container-* libnvidia-container*
Pin: release l=NVIDIA CUDA
Pin-Priority: 600

Package: dkms cuda-drivers* nvidia-driver* nvidia-open* nvidia-dkms-* nvidia-kernel-* nvidia-headless-* nvidia-utils-* nvidia-compute-utils-* nvidia-firmware-* nvidia-fabricmanager* nvidia-persistenced nvidia-modprobe nvidia-settings nvidia-xconfig nvidia-prime* libnvidia-* libxnvctrl* xserver-xorg-video-nvidia*
Pin: release l=NVIDIA CUDA
Pin-Priority: -1

Package: cuda-* libcu* libnpp* libnv* nsight-* gds-* datacenter-gpu-manager* nvlsm
Pin: release l=NVIDIA CUDA
Pin-Priority: 600

Package: *
Pin: release l=NVIDIA CUDA
Pin-Priority: 100
EOT
}

# ---- dnf ----

# What a package only recommends is not installed, as with apt.
call_dnf() { dnf --assumeyes --quiet --setopt=install_weak_deps=False --setopt=retries=5 --setopt=keepcache=False "$@"; }

# dnf_install PACKAGE[=VERSION]…: install. A package that is provided by an installed one is left out.
dnf_install() {
    update_old_lists
    alone_with_packages dnf_install_missing "$@" || fail_to_install
}

dnf_install_missing() {
    local name missing=()
    refuse_lock
    finish_earlier_work || return
    for name in $(dnf_names "$@"); do
        rpm --query --quiet --whatprovides "$name" || missing+=("$name")
    done
    ((${#missing[@]} == 0)) || call_dnf install "${missing[@]}" || return
    installed_packages | lines_not_in <(cat "$NOTES/base-image/dnf" "$NOTES"/installed/*/dnf 2>/dev/null) | note dnf
}

# A lock would need every version that it names, and Amazon's repositories are those of one release of the system.
refuse_lock() {
    [[ -z ${LOCKED_APT?must be in the Inputs of a stage that installs packages} ]] ||
        fail "a recipe on Amazon Linux cannot be locked"
}

# An installation of Amazon Linux stays at its release until another one is named.
dnf_upgrade() { alone_with_packages dnf_upgrade_packages || fail_to_install; }

dnf_upgrade_packages() {
    refuse_lock
    finish_earlier_work || return
    call_dnf --releasever=latest upgrade
}

dnf_list() {
    rpm --query --all --queryformat '%{NAME} %{EVR}\n' | grep --invert-match '^gpg-pubkey ' | sort || true
}

dnf_remove() { alone_with_packages call_dnf remove "$@"; }
dnf_clean() { alone_with_packages call_dnf clean all; }

dnf_hold() {
    dnf --quiet versionlock list >/dev/null 2>&1 || install_packages 'dnf-command(versionlock)'
    alone_with_packages call_dnf versionlock add "$@" >/dev/null
}

# dnf_source NAME URL KEY_FILE: add a repository, whose packages must be signed with this key.
dnf_source() {
    printf '%s\n' "[$1]" "name=$1" "baseurl=$2" enabled=1 gpgcheck=1 "gpgkey=file://$3" |
        write_file "/etc/yum.repos.d/$1.repo"
}

dnf_use_mirror() {
    mkdir --parents /etc/yum.repos.d/before-bake
    find /etc/yum.repos.d -maxdepth 1 -type f ! -name 'bake-*' -exec mv --target-directory=/etc/yum.repos.d/before-bake {} +
    dnf_source bake-os "$OS_MIRROR" /etc/pki/rpm-gpg/RPM-GPG-KEY-amazon-linux-2023
}

# NVIDIA's repository has a module stream for each branch and kind of the driver. Without one, the newest is installed.
dnf_add_driver_repository() {
    local kind=dkms
    [[ " $DRIVER_KERNEL_PACKAGES " != *-open-* ]] || kind=open
    add_nvidia_repository
    alone_with_packages call_dnf module reset nvidia-driver
    alone_with_packages call_dnf module enable "nvidia-driver:$DRIVER_BRANCH-$kind" ||
        fail "NVIDIA's repository has no driver $DRIVER_BRANCH ($kind)"
}

# ---- shells ----

# Stages that run at the same time change /etc/environment one after the other.
alone_with_environment() { (flock 9 && "$@" 9>&-) 9>/run/bake-environment.lock; }

# set_environment NAME VALUE: set it for `ssh host command` and for services that PAM starts. pam_env
# reads this file at every login and expands nothing in it.
set_environment() { alone_with_environment set_variable "$@"; }

set_variable() {
    touch /etc/environment
    ! grep --quiet --line-regexp --fixed-strings "$1=\"$2\"" /etc/environment || return 0
    sed --in-place "/^$1=/d" /etc/environment
    printf '%s="%s"\n' "$1" "$2" >>/etc/environment
}

# prepend_path DIRECTORY, append_path DIRECTORY: put it first or last in PATH for every kind of shell. Login
# shells set PATH again in /etc/profile, so it is also added in /etc/profile.d. root searches these folders,
# too: a folder in which another user can write must be the last one.
prepend_path() { extend_path "$1" "$1:" ''; }
append_path() { extend_path "$1" '' ":$1"; }

# extend_path DIRECTORY BEFORE AFTER
extend_path() {
    alone_with_environment extend_path_variable "$@"
    # shellcheck disable=SC2016 # expanded at login
    printf 'case ":$PATH:" in *:%s:*) ;; *) PATH="%s$PATH%s" ;; esac\n' "$@" |
        write_file "/etc/profile.d/bake-path-${1//\//-}.sh"
}

extend_path_variable() {
    local path
    path=$(sed --quiet 's/^PATH="\{0,1\}\([^"]*\)"\{0,1\}$/\1/p' /etc/environment 2>/dev/null | tail --lines 1)
    path=${path:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}
    [[ :$path: == *:$1:* ]] || set_variable PATH "$2$path$3"
}

# ---- the login user and the Python environment ----

home_of_login_user() { getent passwd "$LOGIN_USER" | cut --delimiter : --fields 6; }

as_login_user() {
    runuser --user "$LOGIN_USER" -- env HOME="$(home_of_login_user)" USER="$LOGIN_USER" "$@"
}

# in_bashrc LINE: add it once to the login user's .bashrc, for interactive shells.
in_bashrc() {
    local file
    file="$(home_of_login_user)/.bashrc"
    as_login_user touch "$file"
    grep --quiet --line-regexp --fixed-strings "$1" "$file" || printf '%s\n' "$1" >>"$file"
}

# call_pip ARGUMENT…: run the environment's pip as its owner. The machine's own pip settings (such as a
# company's certificate) stay in force.
call_pip() {
    over_tls "$PYPI_MIRROR"
    as_login_user env "${pip_settings[@]}" "$ENVIRONMENT_PREFIX/bin/python" -m pip \
        --disable-pip-version-check --no-input --no-cache-dir "$@"
}
pip_settings=(PIP_PROGRESS_BAR=off)

# pip_install ARGUMENT…: install the requested wheels; with a lock, the locked ones, which must satisfy the
# request. Bytecode is compiled at the first import: compiling everything takes a third of the time and a
# fifth of the image, and most modules are never imported.
pip_install() {
    if [[ -z ${LOCKED_PIP?must be in the Inputs of a stage that installs wheels} ]]; then
        install_wheels "$@"
    else
        install_locked_wheels
        call_pip install --no-index --no-deps "$@" || fail "the lock does not contain what the recipe requests"
    fi
}

install_wheels() {
    local report
    report=$(as_login_user mktemp)
    call_pip install --index-url "$PYPI_MIRROR" --no-compile --no-warn-script-location --report "$report" "$@"
    read_report <"$report" | note pip
    rm "$report"
}

# read_report: print lines `NAME VERSION SHA256 FILE` from pip's installation report on stdin.
# Source: pip documentation, "Installation Report".
read_report() {
    local -r program='
import json, re, sys, urllib.parse
for item in json.load(sys.stdin)["install"]:
    name, info = re.sub("[-_.]+", "-", item["metadata"]["name"]).lower(), item["download_info"]
    archive = info.get("archive_info", {})
    sha256 = archive.get("hashes", {}).get("sha256") or archive.get("hash", "").replace("sha256=", "")
    file = urllib.parse.unquote(urllib.parse.urlsplit(info["url"]).path).rpartition("/")[2]
    print(name, item["metadata"]["version"], sha256 or "-", info["url"] if item["is_direct"] else file)'
    python3 -c "$program"
}

# upgrade_pip: an old pip cannot report what it installs, so its new wheel is downloaded first.
upgrade_pip() {
    local folder wheels
    if [[ -n $LOCKED_PIP ]]; then
        pip_install pip
        return
    fi
    folder=$(as_login_user mktemp --directory)
    call_pip download --index-url "$PYPI_MIRROR" --no-deps --only-binary :all: --dest "$folder" pip
    wheels=("$folder"/pip-*.whl)
    call_pip install --no-index --no-compile --no-warn-script-location "${wheels[@]}"
    sha256sum "${wheels[@]}" | sed --regexp-extended 's|^([0-9a-f]+) .*/(pip-([^-]+)-.*)|pip \3 \1 \2|' | note pip
    rm --recursive --force "$folder"
}

# install_locked_wheels: install LOCKED_PIP, a requirements file with hashes. pip comes first: an old pip
# should not replace itself together with other packages. The environment's constraints are ignored, since
# they have no hashes; the lock contains what they require.
install_locked_wheels() {
    local -r options=(--index-url "$PYPI_MIRROR" ${PYTORCH_MIRROR:+--extra-index-url "$PYTORCH_MIRROR"}
        --require-hashes --no-deps --only-binary :all:)
    local list report part more
    local pip_settings=("${pip_settings[@]}" PIP_CONSTRAINT=/dev/null)
    list=$(as_login_user mktemp) report=$(as_login_user mktemp)
    for part in '^pip==' '^[^#]'; do
        # As the owner of the file: the kernel refuses root to write to another user's file in /tmp.
        grep "$part" <<<"$LOCKED_PIP" | as_login_user tee "$list" >/dev/null || continue
        [[ $part == '^pip==' ]] && more=() || more=(--report "$report")
        call_pip install --no-compile --no-warn-script-location "${more[@]}" "${options[@]}" --requirement "$list" || {
            unavailable_wheels "${options[@]}" <<<"$LOCKED_PIP" | no_differences
            fail "pip cannot install what is locked"
        }
    done
    sed --quiet --regexp-extended 's/^pip==(\S+) --hash=sha256:(\S+) # (\S+)$/pip \1 \2 \3/p' <<<"$LOCKED_PIP" | note pip
    [[ ! -s $report ]] || read_report <"$report" | note pip
    rm "$list" "$report"
}

# unavailable_wheels PIP_OPTION…: pip stops at the first missing wheel, so each one is requested separately.
unavailable_wheels() {
    local -r program='
import concurrent.futures, re, subprocess, sys, tempfile
def difference(line):
    with tempfile.TemporaryDirectory() as folder:
        with open(folder + "/one.txt", "w") as file:
            file.write(line)
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "--no-cache-dir"]
        command += ["download", "--dest", folder, "--requirement", file.name] + sys.argv[1:]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
    wanted, _, sha256 = line.partition(" --hash=sha256:")
    got, versions = (re.search(pattern, done.stdout) for pattern in ("Got +([0-9a-f]+)", "from versions: (.*)[)]"))
    if done.returncode == 0:
        return ""
    if got:
        return f"{wanted}: sha256 {sha256.split()[0]} is locked, and the index has {got[1]}"
    found = f"the index has {versions[1]}" if versions else done.stdout.strip().splitlines()[-1]
    return f"{wanted} is locked, and {found}"
lines = [line.strip() for line in sys.stdin if line.strip() and not line.startswith("#")]
print(*filter(None, concurrent.futures.ThreadPoolExecutor(8).map(difference, lines)), sep="\n")'
    as_login_user env "${pip_settings[@]}" "$ENVIRONMENT_PREFIX/bin/python" -c "$program" "$@"
}

# install_framework PIP_ARGUMENT…: install FRAMEWORK_REQUIREMENTS, and what the arguments request.
install_framework() {
    local wanted
    mapfile -t wanted <<<"$FRAMEWORK_REQUIREMENTS"
    upgrade_pip
    configure_pip
    pip_install "${wanted[@]}" "$@"
}

# configure_pip: keep FRAMEWORK_REQUIREMENTS in force for later installations into the environment, by a stage or
# by a user. Otherwise the first `pip install pandas` would bring a numpy with which MXNet 1.x cannot be imported
# (1.24 removed np.bool). `torch==X+cu126`, with its local version, exists only in PyTorch's own index: without
# it, pip could not install torch again, as the constraint requires. A constraint of pip has no extras.
configure_pip() {
    local -r constraints=$ENVIRONMENT_PREFIX/constraints.txt settings=$ENVIRONMENT_PREFIX/pip.conf
    printf '%s\n' "$FRAMEWORK_REQUIREMENTS" | sed 's/\[[^]]*\]//' | write_file "$constraints"
    write_file "$settings" <<<"${PYTORCH_MIRROR:+[global]
extra-index-url = $PYTORCH_MIRROR
}[install]
constraint = $constraints"
    chown "$LOGIN_USER:" "$constraints" "$settings"
}

# check_framework NAME: fail unless this wheel (for any CUDA, or the CPU) has FRAMEWORK_VERSION, its Python dependencies
# are installed, and numpy can be imported. Importing the framework needs CUDA and a driver: the proof does it.
check_framework() {
    local -r python=$ENVIRONMENT_PREFIX/bin/python
    local found numpy
    found=$(as_login_user "$python" -m pip list --disable-pip-version-check --format freeze |
        grep --extended-regexp "^$1([-_]cu[0-9]+|[-_]cpu)?==$FRAMEWORK_VERSION([+].*)?$") ||
        fail "$1 $FRAMEWORK_VERSION is not installed in $ENVIRONMENT_PREFIX"
    as_login_user "$python" -m pip check || fail "the environment's packages are not compatible with each other"
    numpy=$(as_login_user "$python" -c 'import numpy; print(numpy.__version__)')
    say "${found//$'\n'/, } in $ENVIRONMENT_PREFIX, numpy $numpy"
}

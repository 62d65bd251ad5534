#!/usr/bin/env bash
# Miniconda or Miniforge in /opt/conda, and the environment, set up for every kind of shell.
# Needs:  base
# Inputs: LOGIN_USER CONDA_INSTALLER CONDA_INSTALLER_SHA256 CONDA_INSTALLER_MIRROR CONDA_CHANNEL
#         PYTHON_VERSION ENVIRONMENT ENVIRONMENT_PREFIX CONDA_PACKAGES STAGE LOCKED_CONDA
set -o errexit -o nounset -o pipefail
# shellcheck source=lib.sh
source "${BAKE_LIB:?}"

root=/opt/conda
conda() { as_login_user "$root/bin/conda" "$@"; }

# The stamp is written last. If it is missing, an installation was interrupted, and is repeated (-f).
if [[ $(cat "$root/.bake-installer" 2>/dev/null) != "$CONDA_INSTALLER_SHA256" ]]; then
    work=$(mktemp --directory)
    chmod 0755 "$work"
    download "$CONDA_INSTALLER_MIRROR/$CONDA_INSTALLER" "$work/installer.sh" "$CONDA_INSTALLER_SHA256"
    install --directory --owner "$LOGIN_USER" --group "$LOGIN_USER" "$root"
    as_login_user bash "$work/installer.sh" -b -f -p "$root" # batch, force, prefix: the installer has no long options
    rm --recursive --force "$work"
    printf '%s\n' "$CONDA_INSTALLER_SHA256" >"$root/.bake-installer"
fi

# Miniconda's own default, the channels of Anaconda ("defaults"), has terms that the user of the image would
# have to accept, and `conda config --add channels` would keep it. conda-forge is the only channel, for this
# stage and for everything that the user installs later.
write_file "$root/.condarc" <<<$'channels:\n  - '"$CONDA_CHANNEL"$'\nauto_activate_base: false'
chown "$LOGIN_USER:" "$root/.condarc"
channels=$(conda config --show channels | sed --quiet 's/^ *- //p')
[[ ! $channels =~ defaults|repo\.anaconda\.com ]] || fail "conda uses the channels ${channels//$'\n'/, }: Anaconda's must not be among them"

# environment_packages: print lines `PATH SHA256`, with the path in the channel.
environment_packages() {
    local -r program='
import json, pathlib, sys
for record in sorted(pathlib.Path(sys.argv[1], "conda-meta").glob("*.json")):
    found = json.loads(record.read_text())
    print(found.get("url", record.name).replace(sys.argv[2] + "/", "", 1), found.get("sha256") or "-")'
    python3 -c "$program" "$ENVIRONMENT_PREFIX" "$CONDA_CHANNEL"
}

# create_locked LINES: create the environment from lines `PATH SHA256`. conda installs exactly the listed
# packages and checks their hashes (sha256 from 24.9.0 on; every installer in the catalog is newer).
create_locked() {
    local list
    list=$(as_login_user mktemp)
    awk -v channel="$CONDA_CHANNEL" 'BEGIN { print "@EXPLICIT" } { print channel "/" $1 "#" $2 }' <<<"$1" |
        as_login_user tee "$list" >/dev/null # the kernel lets only the owner of a file in /tmp write it again
    conda create --yes --quiet --prefix "$ENVIRONMENT_PREFIX" --file "$list" || {
        missing_in_channel <<<"$1" | no_differences
        fail "conda cannot install what is locked"
    }
    rm "$list"
}

missing_in_channel() {
    local path sha256 found scratch
    scratch=$(mktemp)
    while read -r path sha256; do
        found=$( (fetch "$CONDA_CHANNEL/$path" "$scratch") 2>&1 && sha256sum "$scratch" | cut --delimiter ' ' --fields 1) || true
        [[ $found == *' cannot be downloaded' ]] || found="the channel has $found"
        [[ $found == *"$sha256" ]] || say "$path: sha256 $sha256 is locked, and ${found##*error: }"
    done
}

pinned=$(grep --invert-match '^#' <<<"$LOCKED_CONDA" || true)
if [[ ! -x $ENVIRONMENT_PREFIX/bin/python ]]; then
    if [[ -n $LOCKED_CONDA ]]; then
        create_locked "$pinned"
    else
        read -ra packages <<<"$CONDA_PACKAGES"
        conda create --yes --quiet --prefix "$ENVIRONMENT_PREFIX" --override-channels --channel "$CONDA_CHANNEL" \
            "python=$PYTHON_VERSION" pip "${packages[@]}"
    fi
    conda clean --all --yes --quiet >/dev/null
fi
environment_packages | note conda
if [[ -n $LOCKED_CONDA ]]; then
    comm -3 <(cut --delimiter ' ' --fields 1 <<<"$pinned" | sort) <(environment_packages | cut --delimiter ' ' --fields 1 | sort) |
        awk -F '\t' '{ print $1 != "" ? $1 " is locked, and not installed" : $2 " is installed, and not locked" }' | no_differences
    note conda <<<"$pinned"
fi

conda init --quiet bash >/dev/null # conda in interactive shells, login shells included
in_bashrc "conda activate $ENVIRONMENT"
append_path "$root/condabin" # conda, without its python, for `ssh host conda run -n … python …`

conda env list | grep "$ENVIRONMENT_PREFIX" >/dev/null || fail "conda does not know the environment $ENVIRONMENT_PREFIX"
python=$(conda list --prefix "$ENVIRONMENT_PREFIX" '^python$' | awk '$1 == "python" { print $2, $3 }')
[[ $python == "$PYTHON_VERSION"[.\ ]* ]] || fail "the environment's Python is $python instead of $PYTHON_VERSION"
conda run --prefix "$ENVIRONMENT_PREFIX" python -m pip --version
say "$(conda --version) in $root; $ENVIRONMENT: python $python"

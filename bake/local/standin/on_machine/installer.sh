#!/usr/bin/env bash
# A stand-in for the installers of Miniconda and Miniforge. It has the same command line, and installs
# a `conda` whose environments are virtual environments of the machine's own Python.
set -o errexit -o nounset -o pipefail

prefix=$HOME/miniconda3
force=no
while getopts 'bfhp:su' option; do
    case $option in
        b | s) ;;
        f | u) force=yes ;;
        p) prefix=$OPTARG ;;
        *) echo "usage: $0 [-b] [-f] [-u] [-p PREFIX]" >&2 && exit 2 ;;
    esac
done

if [[ -e $prefix && $force == no ]]; then
    echo "ERROR: $prefix exists already; -u updates it" >&2
    exit 1
fi

echo "This is a stand-in for conda. Its Python is this machine's: $(python3 --version)."
mkdir -p "$prefix"/{bin,condabin,conda-meta,envs,pkgs,etc/profile.d}
prefix=$(cd "$prefix" && pwd)
python3 -m venv --without-pip "$prefix"
sed '1,/^# ---- conda ----$/d' "$0" >"$prefix/bin/conda"
chmod 0755 "$prefix/bin/conda"
ln -sf ../bin/conda "$prefix/condabin/conda"
: >"$prefix/conda-meta/history"
"$prefix/bin/conda" shell.posix hook >"$prefix/etc/profile.d/conda.sh"
echo "installation finished."
exit 0

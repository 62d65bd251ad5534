#!/usr/bin/env bash
# Runs the program with the image's own environment, or with another one if only that has Jupyter.
#
#   bash -c "$(<environment.sh)" PROGRAM FOLDERS WORD…
#
# FOLDERS: the folders of environments, separated by colons. Status 66: Jupyter was not found.
program=$0
IFS=: read -ra folders <<<"$1"
shift

# with_jupyter KIND: print the environments with Jupyter. KIND is `any`, or `own` for those with a kernel
# of the environment's name, which the stage d2l installs.
with_jupyter() {
    local folder prefix
    for folder in "${folders[@]}"; do
        for prefix in "$folder"/*; do
            [[ -x $prefix/bin/jupyter ]] || continue
            [[ $1 == any || -d $prefix/share/jupyter/kernels/${prefix##*/} ]] && printf '%s\n' "$prefix"
        done
    done
}

prefix=$(with_jupyter own | head --lines 1)
prefix=${prefix:-$(with_jupyter any | head --lines 1)}
[[ -n $prefix ]] || exit 66
exec "$prefix/bin/python" -c "$program" "$@"

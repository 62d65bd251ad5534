#!/usr/bin/env bash
# The image's own environment runs the program; one that a person has made, where only that has Jupyter.
#
#   bash -c "$(<environment.sh)" PROGRAM FOLDERS WORD…
#
# FOLDERS: where environments are, with colons. Status 66: there is no Jupyter.
program=$0
IFS=: read -ra folders <<<"$1"
shift

# with_jupyter KIND: the `own` ones have a kernel of their own name, as the stage d2l leaves it.
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

#!/usr/bin/env bash
# How fast this machine is: measured as the login user, in the environment that has a framework; nothing of it stays.
# Inputs: LOGIN_USER PROGRAM WISH
#   PROGRAM: the Python files beside this one, as a compressed tar archive in base64. WISH: see measure.py.
set -o errexit -o nounset -o pipefail

cd /
home=$(getent passwd "$LOGIN_USER" | cut --delimiter : --fields 6)
as_login_user() {
    runuser --user "$LOGIN_USER" -- env HOME="$home" USER="$LOGIN_USER" PYTHONDONTWRITEBYTECODE=1 "$@"
}
has_framework() {
    as_login_user "$1" -c 'import importlib.util as i, sys; sys.exit(not (i.find_spec("mxnet") or i.find_spec("torch")))'
}

folder=$(as_login_user mktemp --directory)
trap 'rm --recursive --force "$folder"' EXIT
base64 --decode <<<"$PROGRAM" | as_login_user tar --extract --gzip --directory "$folder"

# Without one, the last of these says so, as one who can be read.
for python in /opt/conda/envs/*/bin/python /opt/venvs/*/bin/python "$(command -v python3)"; do
    if [[ -x $python ]] && has_framework "$python"; then break; fi
done
as_login_user "$python" -u "$folder/measure.py" "$WISH"

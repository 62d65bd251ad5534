#!/usr/bin/env bash
# Measures this machine as the login user, in the environment that has a framework, and leaves no files.
# Inputs: LOGIN_USER PROGRAM SETTINGS
#   PROGRAM: the Python files beside this one, as a compressed tar archive in base64. SETTINGS: see measure.py.
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

# If no Python has a framework, the last one runs the program, which reports that.
for python in /opt/conda/envs/*/bin/python /opt/venvs/*/bin/python "$(command -v python3)"; do
    if [[ -x $python ]] && has_framework "$python"; then break; fi
done
as_login_user "$python" -u "$folder/measure.py" "$SETTINGS"

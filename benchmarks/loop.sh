#!/usr/bin/env bash
# What is left when nothing is checked and nothing is remembered: boot, ssh script by script, image.
# shellcheck disable=SC2029,SC2153 # what is sent is written here; the names come from the environment
# Usage: loop.sh SCRIPT…   with AWS IMAGE MACHINE LOGIN_USER LIB WORK BAKE_SSH_PORT in the environment
set -o errexit -o nounset -o pipefail

aws() { "$AWS" --output text "$@"; }

rm --recursive --force "$WORK"
mkdir "$WORK"
ssh-keygen -q -t ed25519 -N '' -f "$WORK/key"
name=loop-$(date +%s%N)
aws ec2 import-key-pair --key-name "$name" --public-key-material "fileb://$WORK/key.pub" >/dev/null
instance=$(aws ec2 run-instances --image-id "$IMAGE" --instance-type "$MACHINE" --key-name "$name" \
    --query 'Instances[0].InstanceId')
trap remove EXIT

# until_is STATE: asks again at once; the AWS CLI takes long enough to start.
until_is() {
    local state=
    until [[ $state == "$1" ]]; do
        state=$(aws ec2 describe-instances --instance-ids "$instance" --query 'Reservations[0].Instances[0].State.Name')
    done
}
remove() {
    aws ec2 terminate-instances --instance-ids "$instance" >/dev/null
    until_is terminated
    aws ec2 delete-key-pair --key-name "$name" >/dev/null
}
until_is running
address=$(aws ec2 describe-instances --instance-ids "$instance" --query 'Reservations[0].Instances[0].PublicIpAddress')

# One connection for all, as somebody would who has done this twice.
options=(-i "$WORK/key" -p "$BAKE_SSH_PORT" -o BatchMode=yes -o StrictHostKeyChecking=no -o LogLevel=ERROR
    -o UserKnownHostsFile=/dev/null -o ControlMaster=auto -o ControlPath="$WORK/%C" -o ControlPersist=60)
on_it() { ssh "${options[@]}" "$LOGIN_USER@$address" "$@" </dev/null; }
until on_it true 2>/dev/null; do sleep 0.2; done

ssh "${options[@]}" "$LOGIN_USER@$address" 'cat >/tmp/lib.sh' <"$LIB"
for script in "$@"; do
    ssh "${options[@]}" "$LOGIN_USER@$address" "cat >/tmp/stage.sh" <"$script"
    on_it "sudo env BAKE_LIB=/tmp/lib.sh LOGIN_USER=$LOGIN_USER bash /tmp/stage.sh"
done

aws ec2 stop-instances --instance-ids "$instance" >/dev/null
until_is stopped
image=$(aws ec2 create-image --instance-id "$instance" --name "$name")
state=
until [[ $state == available ]]; do
    state=$(aws ec2 describe-images --image-ids "$image" --query 'Images[0].State')
done
echo "$image"

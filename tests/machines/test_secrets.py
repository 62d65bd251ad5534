"""A recipe's secrets reach the stages that declare them, and are found nowhere else."""

from __future__ import annotations

import base64
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest

from bake.aws.client.session import connect as connect_to_aws
from bake.aws.image import Image
from bake.aws.machine import terminate
from bake.cli.documents.bakes import BakeEntry
from bake.console.console import Console
from bake.console.redaction import Redactor
from bake.errors import RequestError, StageError
from bake.machine import ssh_config
from bake.machine.launch import LaunchRequest, launch
from bake.pipeline.secrets import LONGEST_B, read_secrets, revealed
from bake.recipe.project import built_in
from bake.recipe.recipe import Recipe, Secret
from bake.recipe.recipes import find
from bake.ssh.connection import Connection
from bake.verify import check_clean, find_secrets
from tests.support.aws_in_process import REGION, Aws, aws_in_process
from tests.support.environment import REPOSITORY
from tests.support.kitchen import Kitchen, Witness
from tests.support.leftovers import held

MANIFESTS = REPOSITORY / "manifests"


def recipe(**secrets: dict[str, str]) -> Recipe:
    """Return the default recipe with these secrets."""
    given = {name: Secret(**place) for name, place in secrets.items()}
    return find("mxnet-cu101", built_in()).model_copy(update={"secrets": given})


# ---- where the values are read


@pytest.fixture
def aws() -> Iterator[Aws]:
    with aws_in_process() as found:
        yield found


def test_each_is_read_where_the_recipe_says(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "of-the-environment")
    ssm, manager = boto3.client("ssm", REGION), boto3.client("secretsmanager", REGION)
    ssm.put_parameter(Name="/team/token", Value="of-a-parameter", Type="SecureString")
    manager.create_secret(Name="team/plain", SecretString="of-a-secret\n")
    manager.create_secret(Name="team/json", SecretString=json.dumps({"password": "of-a-key"}))
    asked = recipe(
        A={"env": "MY_TOKEN"},
        B={"ssm": "/team/token"},
        C={"secretsmanager": "team/plain"},
        D={"secretsmanager": "team/json", "key": "password"},
    )
    secrets = read_secrets(aws.cloud, asked)
    assert revealed(secrets) == {
        "A": "of-the-environment",
        "B": "of-a-parameter",
        "C": "of-a-secret\n",
        "D": "of-a-key",
    }
    assert revealed(secrets, ("D",)) == {"D": "of-a-key"}
    assert aws.params("GetParameter")[-1] == {"Name": "/team/token", "WithDecryption": True}
    assert "of-a" not in f"{secrets} {secrets!r}"


def test_all_that_cannot_be_read_is_said_at_once_and_no_value_with_it(
    aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = boto3.client("secretsmanager", REGION)
    manager.create_secret(Name="json", SecretString=json.dumps({"user": "hunter-2", "n": 1}))
    manager.create_secret(Name="text", SecretString="hunter-2-text")
    manager.create_secret(Name="bytes", SecretBinary=b"hunter-2-bytes")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.setenv("SHORT", "hunter2")
    monkeypatch.setenv("BLANK", "hunter2" + " " * 20)
    monkeypatch.setenv("LONG", "x" * (LONGEST_B + 1))
    expected = {
        "UNSET": ({"env": "NOT_THERE"}, "NOT_THERE is not set", "export NOT_THERE="),
        "EMPTY": ({"env": "EMPTY"}, "EMPTY is empty", "export EMPTY="),
        "SHORT": ({"env": "SHORT"}, "shorter than 8 characters", "occurs everywhere"),
        "BLANK": ({"env": "BLANK"}, "shorter than 8 characters", ""),
        "LONG": ({"env": "LONG"}, "65537 bytes long; the maximum is 65536", ""),
        "NO_PARAMETER": ({"ssm": "/nothing"}, "ParameterNotFound", "put-parameter"),
        "NO_SECRET": ({"secretsmanager": "no"}, "ResourceNotFoundException", "create-secret"),
        "BYTES": ({"secretsmanager": "bytes"}, "contains bytes", "Store it as text"),
        "NO_KEY": (
            {"secretsmanager": "json", "key": "pass"},
            "no text under pass",
            "Its keys with text: user",
        ),
        "NUMBER": (
            {"secretsmanager": "json", "key": "n"},
            "no text under n",
            "Its keys with text: user",
        ),
        "NO_JSON": (
            {"secretsmanager": "text", "key": "k"},
            "is not a JSON object",
            "Leave out `key`",
        ),
    }
    with pytest.raises(RequestError) as caught:
        read_secrets(aws.cloud, recipe(**{name: place for name, (place, _, _) in expected.items()}))
    assert caught.value.exit_code == 2
    said = {finding.place: str(finding) for finding in caught.value.findings}
    assert said.keys() == {f"secrets.{name}" for name in expected}
    for name, (_, message, hint) in expected.items():
        assert message in said[f"secrets.{name}"]
        assert hint in said[f"secrets.{name}"]
    assert "hunter" not in " ".join(said.values())


def test_who_may_not_read_it_is_told_where_the_permissions_are(aws: Aws) -> None:
    aws.refuse("GetSecretValue", "AccessDeniedException")
    with pytest.raises(RequestError) as caught:
        read_secrets(aws.cloud, recipe(A={"secretsmanager": "a"}))
    assert "docs/recipes.md" in str(caught.value.findings[0])


def test_the_permissions_in_the_documentation_are_those_of_the_calls() -> None:
    text = (REPOSITORY / "docs" / "recipes.md").read_text()
    (block,) = [b for b in re.findall(r"```json\n(.*?)```", text, re.DOTALL) if "secretsman" in b]
    statements = json.loads(block)
    actions = {each["Action"] for each in statements}
    assert actions == {"ssm:GetParameter", "secretsmanager:GetSecretValue", "kms:Decrypt"}
    assert all(each["Effect"] == "Allow" and each["Resource"] != "*" for each in statements)


# ---- on a real machine

TOKEN = "tok/3n+W1th 'quotes' & $igns"
KEY = "".join(f"L1ne-{n}-of/a+key-{'xY7' * 8}\n" for n in range(5))
PASSWORD = "p4ssw0rd-in-J5ON"

# Every way in which a stage may print them; and what others on the machine could see meanwhile.
PRINTS = r"""
echo "plain $TOKEN and $PASSWORD"
printf '%s' "${TOKEN:0:9}" && sleep 0.4 && printf '%s' "${TOKEN:9:5}" && sleep 0.4
printf '%s\n' "${TOKEN:14}"
echo "$KEY"
while read -r line; do echo "a line: $line"; done <<<"$KEY"
base64 <<<"$TOKEN"
printf 'user:%s' "$KEY" | base64
printf '%s' "$KEY" | base64 --wrap=0 && echo
printf '%s' "$TOKEN" | od -A n -t x1 | tr -d ' \n' && echo
python3 -c 'import json, os, urllib.parse as u; t = os.environ["TOKEN"]
print(u.quote(t), u.quote_plus(t), "https://me:" + u.quote(t, safe="") + "@host/")
print(json.dumps(t), repr(t))'
printf '%q\n' "$TOKEN"
declare -p TOKEN PASSWORD
(set -o xtrace; : "$TOKEN" "$PASSWORD") 2>&1
echo "to stderr: $TOKEN" >&2
printf '\r%s%%\r\033[31m%s\033[0m\n' 10 "$TOKEN"
echo "INPUTS $(stat --format='%a %U' "${BAKE_LIB%/*}/inputs") $(stat -f --format=%T "$BAKE_LIB")"
for file in /proc/[0-9]*/cmdline; do
    arguments=$(tr '\0' ' ' 2>/dev/null <"$file" || true)
    for secret in "$TOKEN" "$PASSWORD" "${KEY%%$'\n'*}"; do
        [[ $arguments != *"$secret"* ]] || echo "SEEN in the arguments of $file"
    done
done
"""

SECRETS = {"TOKEN": TOKEN, "KEY": KEY, "PASSWORD": PASSWORD}
REDACTOR = Redactor(SECRETS.values())


def shows(text: str) -> bool:
    """Tell if a text contains a value, or a line of one, also in an encoded form."""
    return REDACTOR.redact(text) != text


def arguments_of_all() -> str:
    """Return the arguments and environments of all processes here, also in containers."""
    said = ""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            said += path.read_bytes().replace(b"\0", b" ").decode(errors="replace") + "\n"
        except OSError:
            continue
    return said


def everything_that_aws_knows() -> str:
    """Return all that the cloud shows: resources, tags, user data, consoles and parameters."""
    ec2, ssm = boto3.client("ec2"), boto3.client("ssm")
    said: list[Any] = [
        ec2.describe_instances(),
        ec2.describe_images(Owners=["self"]),
        ec2.describe_snapshots(OwnerIds=["self"]),
        ec2.describe_tags(),
        ec2.describe_key_pairs(),
        ec2.describe_security_groups(),
        ec2.describe_volumes(),
        ssm.get_parameters_by_path(Path="/bake", Recursive=True),
    ]
    for reservation in said[0]["Reservations"]:
        for machine in reservation["Instances"]:
            named = {"InstanceId": machine["InstanceId"]}
            data = ec2.describe_instance_attribute(**named, Attribute="userData")
            text = data["UserData"].get("Value", "")
            said += [
                base64.b64decode(text).decode(errors="replace"),
                ec2.get_console_output(**named),
            ]
    return json.dumps(said, default=str)


@contextmanager
def a_machine_of(image: Image) -> Iterator[Connection]:
    """A connection to a machine that was launched from the image; it is removed afterwards."""
    cloud, ec2 = connect_to_aws(), boto3.client("ec2")
    before, port = held(), int(os.environ["BAKE_SSH_PORT"])
    request = LaunchRequest(instance_types=("g4dn.xlarge",), name="reader")
    launched = launch(cloud, image, request, ssh_port=port, console=Console())
    machine = launched.machine
    try:
        with ssh_config.connect(ssh_config.find_host(cloud, machine, ssh_port=port)) as connection:
            yield connection
    finally:
        terminate(cloud, machine.instance_id)
        for kind, ids in held().items():
            for found in {*ids} - {*before.get(kind, [])}:
                if kind == "key pairs":
                    ec2.delete_key_pair(KeyName=found)
                if kind == "groups":
                    ec2.delete_security_group(GroupId=found)


def test_what_a_stage_prints_of_its_secrets_is_nowhere(
    kitchen: Kitchen,
    witness: Witness,
    local_cloud: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MY_TOKEN", TOKEN)
    ssm, manager = boto3.client("ssm"), boto3.client("secretsmanager")
    ssm.put_parameter(Name="/test/key", Value=KEY, Type="SecureString")
    manager.create_secret(Name="test/json", SecretString=json.dumps({"password": PASSWORD}))
    kitchen.stage("tells", body=PRINTS, secrets="TOKEN KEY PASSWORD")
    kitchen.stage("after", "tells", body="! printenv TOKEN KEY PASSWORD\nls -R /run/bake")
    kitchen.recipe(
        "one",
        "tells",
        "after",
        secrets={
            "TOKEN": {"env": "MY_TOKEN"},
            "KEY": {"ssm": "/test/key"},
            "PASSWORD": {"secretsmanager": "test/json", "key": "password"},
        },
    )
    witness.held.add("tells ends")
    seen: list[str] = []

    def look() -> None:
        witness.wait_for("tells ends", timeout_s=200)
        seen.append(arguments_of_all())
        witness.let_go("tells ends")

    watcher = threading.Thread(target=look)
    watcher.start()
    [outcome] = kitchen.bake("one")
    watcher.join()
    ssm.delete_parameter(Name="/test/key")
    manager.delete_secret(SecretId="test/json", ForceDeleteWithoutRecovery=True)
    assert outcome.status == "baked"
    assert outcome.image
    assert outcome.record

    # They did arrive: the log is exact but for them.
    log = (kitchen.folder / "builds" / outcome.record.run / "tells.log").read_text()
    assert "plain *** and ***\n***\n***\n" in log
    assert log.count("a line: ***\n") == 5
    assert "https://me:***@host/" in log
    assert "to stderr: ***\n" in log
    assert re.search(r"INPUTS 600 root tmpfs\n", log)
    assert "SEEN" not in log
    after = (kitchen.folder / "builds" / outcome.record.run / "after.log").read_text()
    assert "after" in after
    assert "tells" not in after, "the files of a stage go with its end"

    shown = capfd.readouterr()
    places = {
        "shown": shown.out + shown.err,
        "arguments": seen[0],
        "aws": everything_that_aws_knows(),
        "--json": BakeEntry.of_outcome(outcome, kitchen.folder / "builds").model_dump_json(),
    }
    for path in [*kitchen.folder.rglob("*"), *local_cloud.rglob("*")]:
        if path.is_file() and "scripts" not in path.parts:
            places[str(path)] = path.read_text(errors="replace")
    assert len(places) > 8
    assert [place for place, text in places.items() if shows(text)] == []

    # Nor on the disk of a machine that is started from the image.
    with a_machine_of(outcome.image) as connection:
        assert find_secrets(connection, SECRETS, since=0) == ()
        known = {"traces": [outcome.record.run], "secrets": SECRETS}
        checks = check_clean(connection, booted=True, **known)
    assert {check.outcome for check in checks} == {"passed"}


def test_a_stage_that_leaves_its_secret_on_the_disk_fails_before_it_is_in_a_checkpoint(
    kitchen: Kitchen, witness: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", TOKEN)
    leaves = """
        mkdir /opt/tool && printf '\\0%s' "$TOKEN" >/opt/tool/state
        touch --date=2001-01-01 /opt/tool/state
    """
    kitchen.stage("leaves", body=leaves, secrets="TOKEN")
    kitchen.recipe("one", "leaves", secrets={"TOKEN": {"env": "MY_TOKEN"}})
    with pytest.raises(StageError, match="stage leaves has left a secret on the disk") as caught:
        kitchen.bake("one")
    assert caught.value.details[0] == "/opt/tool/state (TOKEN)"
    assert not shows(f"{caught.value.message} {caught.value.hint} {caught.value.details}")


def test_a_secret_that_is_not_there_is_missed_before_anything_starts(kitchen: Kitchen) -> None:
    kitchen.stage("tells", secrets="TOKEN")
    kitchen.recipe("one", "tells", secrets={"TOKEN": {"env": "NOT_THERE"}})
    began = time.monotonic()
    with pytest.raises(RequestError) as caught:
        kitchen.bake("one")
    assert "secrets.TOKEN: the environment variable NOT_THERE is not set" in caught.value.details[0]
    assert time.monotonic() - began < 30
    assert not (kitchen.folder / "builds").exists()

"""Files that an image must not contain are found, and their content is never shown."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pytest

from bake.errors import ConnectError, RemoteError, VerificationError
from bake.verify import check_clean, find_secrets
from bake.verify.clean import GIVEN, forbidden
from tests.support.planted_secrets import LEFT, LETTERS, SECRETS


class Machine:
    """A root file system in a folder, searched by the real program."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.output = ""

    def plant(self, path: str, content: str | bytes = "x\n") -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    def run(
        self,
        command: str,
        *,
        check: bool = True,
        stdin: bytes | str | None = None,
        timeout_s: float | None = None,
    ) -> Any:
        environment = {"PATH": os.environ["PATH"]}
        done: Any = subprocess.run(
            ["sh", "-c", command], input=stdin, capture_output=True, env=environment
        )
        done.exit_status = done.returncode
        done.stdout, done.stderr = done.stdout.decode(), done.stderr.decode()
        self.output += done.stdout + done.stderr
        return done

    def as_root(self, *command: str) -> str:
        """Return a line that runs as this user, because the files belong to this user."""
        return shlex.join(command)

    def findings(self, **how: Any) -> str:
        with pytest.raises(VerificationError) as caught:
            check_clean(self, root=str(self.root), **how)
        return "\n".join([caught.value.message, *caught.value.details])

    def passes(self, **how: Any) -> None:
        checks = check_clean(self, root=str(self.root), **how)
        assert "failed" not in {check.outcome for check in checks}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A sealed machine, whose files may all be in an image."""
    machine = Machine(tmp_path / "root")
    for path in ("etc/machine-id", "var/log/auth.log", "var/lib/apt/lists/lock"):
        machine.plant(path, "")
    machine.plant("etc/ssh/sshd_config", "PermitRootLogin no\n")
    machine.plant("home/ubuntu/.bashrc", "conda activate d2l\n")
    machine.plant("home/ubuntu/d2l-en/chapter/nd.ipynb", '{"cells": ["print(1)"]}')
    machine.plant("home/ubuntu/.ssh/authorized_keys", "")
    machine.plant("opt/conda/envs/d2l/lib/python3.7/site-packages/mxnet/libmxnet.so", b"\x7fELF\0")
    return machine


def test_a_sealed_machine_passes_every_check(machine: Machine) -> None:
    known = {"traces": ["ssh-ed25519 builder"], "secrets": {"TOKEN": "s3cret-0f-a-stage"}}
    checks = check_clean(machine, root=str(machine.root), **known)
    assert {check.outcome for check in checks} == {"passed"}
    assert len({check.name for check in checks}) == len(checks) > 10
    assert checks[-3].detail.endswith("files")


def example(place: str, home: str) -> str:
    """Return a path that a place of the list matches."""
    name = "y" if "**" in place else "x"  # a folder, or a file
    path = re.sub(r"\[(.)[^]]*\]", r"\1", re.sub(r"\*\*$", ".a/b", place))
    return path.replace("**", "a").replace("*", name).replace("~", home)


def test_every_listed_place_is_searched_in_every_home(machine: Machine) -> None:
    machine.plant("etc/passwd", "git:x:7:7::/var/lib/git:/bin/sh\nme:x:1:1::/home/ubuntu:/bin/sh\n")
    places = forbidden()["places"]
    planted = {
        (kind, example(path, home))
        for kind, place in places.items()
        for path in place["paths"]
        for home in (["root", "home/ubuntu", "var/lib/git"] if "~" in path else [""])
    }
    for _, path in planted:
        machine.plant(path)
    machine.findings()
    lines = (json.loads(line) for line in machine.output.splitlines())
    found = {(line["kind"], line["path"][1:]) for line in lines if "kind" in line}
    assert planted - found == set()
    assert {kind for kind, _ in found} == places.keys()
    assert len(planted) > 300


@pytest.mark.parametrize("kind", LEFT)
def test_each_kind_of_leftover_file_is_found_by_its_place(machine: Machine, kind: str) -> None:
    for path in LEFT[kind]:
        machine.plant(path, "root:$0123456789abcdef0123456789abcdef:\n")
    with pytest.raises(VerificationError) as caught:
        check_clean(machine, root=str(machine.root))
    (said,) = caught.value.details
    for path in LEFT[kind]:
        assert f"/{path}" in said
    assert said.startswith(f"{kind}: ")
    assert "0123456789abcdef0123456789abcdef" not in machine.output + said


def test_a_swap_file_is_found_where_fstab_names_it(
    machine: Machine,
) -> None:
    machine.plant("etc/fstab", "UUID=1 / ext4 defaults 0 1\n/var/local/more none swap sw 0 0\n")
    machine.plant("var/local/more", b"\0\1")
    assert "swap: /var/local/more" in machine.findings()


def test_a_locked_password_passes_and_a_login_without_password_fails(machine: Machine) -> None:
    locked = "root:*:1:0:::::\nubuntu:!:1:0:::::\nold:!!:1:0:::::\n"
    machine.plant("etc/shadow", locked)
    machine.plant("etc/gshadow", "root:*::\nusers::root:ubuntu\n")
    machine.passes()
    machine.plant("etc/shadow", locked + "guest::1:0:::::\n")
    assert "password: /etc/shadow (guest)" in machine.findings()
    machine.plant("etc/shadow", locked + "was:!$6$salt$hash:1:0:::::\n")
    assert "password: /etc/shadow (was)" in machine.findings()


WHERE = [
    "etc/pip.conf",
    "etc/apt/sources.list.d/site.list",
    "root/notes.txt",
    "home/ubuntu/work/.env",
    "opt/tool/config.yml",
    "usr/local/etc/settings.ini",
    "srv/app/settings",
    "data/set/README",
    "var/www/html/app.js",
    "opt/conda/envs/d2l/lib/python3.7/site-packages/mxnet/secret.py",
]


@pytest.mark.parametrize("kind", SECRETS)
def test_each_secret_is_found_by_its_pattern_and_not_shown(machine: Machine, kind: str) -> None:
    secret = SECRETS[kind]
    machine.plant("opt/tool/config.yml", f"# settings\nvalue: {secret}\n")
    found = machine.findings()
    assert f"secrets by their pattern: /opt/tool/config.yml ({kind.strip()})" in found
    assert secret not in found
    assert secret not in machine.output
    assert LETTERS[:20] not in machine.output


def test_every_secret_is_found_in_the_places_where_people_and_tools_write(machine: Machine) -> None:
    planted = set()
    for number, (kind, secret) in enumerate(SECRETS.items()):
        for place in WHERE:
            machine.plant(f"{place}.{number}", f"value: {secret}\n")
            planted.add((kind.strip(), f"/{place}.{number}"))
    machine.findings()
    lines = [json.loads(line) for line in machine.output.splitlines()]
    assert {(line["kind"], line["path"]) for line in lines if "kind" in line} == planted
    assert {kind for kind, _ in planted} == {p["kind"] for p in forbidden()["patterns"]}


def test_a_secret_in_a_file_s_name_is_not_shown(machine: Machine) -> None:
    machine.plant(f"root/{SECRETS['GitHub token']}/note", SECRETS["AWS key"])
    found = machine.findings()
    assert "/root/***/note (AWS key)" in found
    assert LETTERS[:20] not in machine.output


@pytest.mark.parametrize(
    "harmless",
    [
        "aws_access_key_id = AKIAIOSFODNN7EXAMPLE",
        "A token begins with ghp_ and a key with AKIA.",
        "-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----",
        "-----BEGIN PUBLIC KEY-----\n" + LETTERS[:64],
        "http://user:password@host.example.com/ ftp://me:passw0rd@host.example.com",
        "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        "https://hooks.slack.com/services/T00000000/B00000000/" + "X" * 24,
        "hf_hub_download npm_config_registry ghp_token nvapi-key sk-ant-api",
        "https://example.com:8080/path@2x.png",
        "sha256:" + hashlib.sha256(b"").hexdigest(),
    ],
)
def test_a_text_that_only_resembles_a_secret_passes(machine: Machine, harmless: str) -> None:
    machine.plant("home/ubuntu/README.md", harmless)
    machine.passes()


def test_a_key_from_a_package_is_public_until_it_is_changed(machine: Machine) -> None:
    packages = "opt/conda/envs/d2l/lib/python3.7/site-packages"
    key = SECRETS["private key"].encode()
    digest = hashlib.sha256(key).digest()
    encoded = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    # As pip, dpkg (a file, and a configuration file) and conda write it down.
    machine.plant(f"{packages}/tornado/test.key", key)
    machine.plant(
        f"{packages}/tornado-6.dist-info/RECORD", f"tornado/test.key,sha256={encoded},{len(key)}\n"
    )
    machine.plant("opt/tool/test.pem", key)
    md5 = hashlib.md5(key).hexdigest()
    machine.plant("var/lib/dpkg/info/tool.md5sums", f"{md5}  opt/tool/test.pem\n")
    machine.plant("etc/tool.pem", key)
    machine.plant("var/lib/dpkg/status", f"Package: tool\nConffiles:\n /etc/tool.pem {md5}\n")
    machine.plant("opt/conda/envs/d2l/lib/python3.7/test/keycert.pem", key)
    paths = [{"_path": "lib/python3.7/test/keycert.pem", "sha256": digest.hex()}]
    machine.plant(
        "opt/conda/envs/d2l/conda-meta/python.json",
        json.dumps({"paths_data": {"paths": paths}}),
    )
    machine.passes()
    for path in (f"{packages}/tornado/test.key", "opt/tool/test.pem", "etc/tool.pem"):
        file = machine.plant(path, key + b"changed\n")
        assert f"/{path} (private key)" in machine.findings()
        file.write_bytes(key)
    machine.plant("opt/tool/other.pem", key)
    assert "/opt/tool/other.pem (private key)" in machine.findings()


def test_a_large_or_a_binary_file_is_not_searched(machine: Machine) -> None:
    machine.plant("opt/model.txt", SECRETS["AWS key"] + "x" * (5 << 20))
    machine.plant("opt/model.bin", b"\0" + SECRETS["AWS key"].encode())
    machine.passes()


def test_an_open_session_may_write_its_logs_and_nothing_else(machine: Machine) -> None:
    machine.plant("var/log/auth.log", "Accepted publickey for ubuntu\n")
    assert "log: /var/log/auth.log" in machine.findings()
    machine.passes(allow_session=True)
    machine.plant("var/log/dpkg.log", "install\n")
    assert "log: /var/log/dpkg.log" in machine.findings(allow_session=True)
    machine.plant("etc/ssh/ssh_host_rsa_key", "x\n")
    assert "host key" in machine.findings(allow_session=True)


def test_a_booted_machine_may_have_its_own_keys_and_no_others(machine: Machine) -> None:
    key = SECRETS["private key"]
    machine.plant("etc/ssh/ssh_host_ed25519_key", key)
    machine.plant("etc/machine-id", "f" * 32 + "\n")
    machine.plant("home/ubuntu/.ssh/authorized_keys", "ssh-ed25519 mine\n")
    machine.plant("var/lib/cloud/instances/i-1/user-data.txt", key)
    machine.plant("var/log/syslog", "started\n")
    machine.passes(booted=True, traces=["ssh-ed25519 builder"])
    machine.plant("home/ubuntu/.ssh/authorized_keys", "ssh-ed25519 mine\nssh-ed25519 builder\n")
    found = machine.findings(booted=True, traces=["ssh-ed25519 builder"])
    assert "traces of the builder: /home/ubuntu/.ssh/authorized_keys" in found
    machine.plant("home/ubuntu/.bash_history", "secret\n")
    assert "history: /home/ubuntu/.bash_history" in machine.findings(booted=True)


def test_a_booted_machine_may_have_a_signing_key_that_a_kernel_upgrade_has_made(
    machine: Machine,
) -> None:
    for path in ("var/lib/dkms/mok.key", "var/lib/shim-signed/mok/MOK.priv"):
        machine.plant(path, SECRETS["private key"])
    found = machine.findings()
    assert "signing key: /var/lib/dkms/mok.key, /var/lib/shim-signed/mok/MOK.priv" in found
    assert "/var/lib/dkms/mok.key (private key)" in found
    machine.passes(booted=True)
    # One that is older than the boot came with the image.
    found = machine.findings(booted=True, started_at=time.time() + 60)
    assert "signing key: /var/lib/dkms/mok.key" in found
    assert "/var/lib/dkms/mok.key (private key)" in found


def test_a_name_of_iscsi_is_found_unless_the_next_boot_makes_it(machine: Machine) -> None:
    name = "etc/iscsi/initiatorname.iscsi"
    machine.plant(name, "GenerateName=yes\n")
    machine.passes()
    machine.plant(name, "## DO NOT EDIT\nInitiatorName=iqn.1993-08.org.debian:01:6da2f5c7a1\n")
    assert f"machine id: /{name}" in machine.findings()
    machine.passes(booted=True)


def test_what_an_agent_keeps_about_an_open_session_passes_while_the_session_is_open(
    machine: Machine, tmp_path: Path
) -> None:
    machine.plant("var/lib/amazon/ssm/i-0/session/s")
    machine.plant("var/log/amazon/ssm/amazon-ssm-agent.log")
    found = machine.findings(allow_session=True)
    assert "/var/lib/amazon/ssm/i-0/session/s" in found
    assert "/var/log/amazon/ssm/amazon-ssm-agent.log" in found
    worker = tmp_path / "ssm-session-worker"
    shutil.copy("/bin/sleep", worker)
    with subprocess.Popen([str(worker), "60"]) as process:
        machine.passes(allow_session=True)
        assert "/var/lib/amazon/ssm/i-0/session/s" in machine.findings()
        process.kill()


@pytest.mark.parametrize("kind", [*LEFT, "private key"])
def test_a_file_older_than_the_boot_is_reported(machine: Machine, kind: str) -> None:
    path = LEFT[kind][0] if kind in LEFT else "etc/ssh/ssh_host_rsa_key"
    machine.plant(path, SECRETS["private key"] if kind not in LEFT else "root:$1:\n")
    booted_later = time.time() + 60
    assert f"/{path}" in machine.findings(booted=True, started_at=booted_later)


def test_every_kind_is_searched_on_a_booted_machine(machine: Machine) -> None:
    checks = check_clean(machine, root=str(machine.root), booted=True, traces=["x y z"])
    assert {check.name for check in checks} >= {*forbidden()["places"], "password"}
    assert [check.name for check in checks if check.outcome != "passed"] == [GIVEN]


SECRET = "s3cret-Value/0f+a-stage"
DOCUMENT = json.dumps({"region": "us-west-2", "key": "K" + LETTERS[:60]})


@pytest.mark.parametrize(
    "content",
    [
        f"export TOKEN={SECRET}\n".encode(),
        b"\x7fELF\0" + SECRET.encode(),
        base64.encodebytes(b"somebody:" + SECRET.encode() * 1),
        f"https://x/?token={quote_plus(SECRET)}".encode(),
        b"\0" * (40 << 20) + SECRET.encode(),
        f'{{"auth": "K{LETTERS[:60]}"}}'.encode(),
    ],
    ids=["text", "binary", "base64", "URL", "long", "part"],
)
def test_the_secret_of_a_stage_is_found_in_every_written_file(
    machine: Machine, content: bytes
) -> None:
    secrets = {"TOKEN": SECRET, "DOCUMENT": DOCUMENT}
    machine.plant("usr/lib/old.so", content)
    began = time.time()
    machine.plant("usr/share/harmless", "us-west-2 is a region\n")
    assert find_secrets(machine, secrets, since=began + 1, root=str(machine.root)) == ()
    machine.plant("usr/lib/tool/state", content)
    (found,) = find_secrets(
        machine, secrets, since=began - 0.01, root=str(machine.root) + "/usr/lib/tool"
    )
    assert found in ("/state (TOKEN)", "/state (DOCUMENT)")
    assert "given" not in found
    said = machine.findings(secrets=secrets, started_at=began - 60)
    assert f"{GIVEN}: /usr/lib/old.so" in said
    for text in (SECRET, DOCUMENT, LETTERS[:40]):
        assert text not in said + machine.output


def test_the_secret_of_a_stage_is_found_in_a_file_name_and_in_a_link(machine: Machine) -> None:
    name = SECRET.replace("/", "-")
    machine.plant(f"usr/lib/{name}", "x")
    (machine.root / "usr" / "lib" / "link").symlink_to(f"/nowhere/{name}")
    found = find_secrets(machine, {"TOKEN": name}, since=0, root=str(machine.root))
    assert sorted(found) == ["/usr/lib/(a file's name) (TOKEN)", "/usr/lib/link (TOKEN)"]
    assert name not in machine.output


def test_an_unfinished_search_for_secrets_is_an_error(machine: Machine) -> None:
    with pytest.raises(VerificationError, match="did not finish"):
        find_secrets(machine, {"TOKEN": SECRET}, since=0, root="/nowhere/at/all")


def test_a_trace_is_not_on_the_command_line_which_sudo_logs(machine: Machine) -> None:
    commands = []
    run = machine.run

    def listen(command: str, **more: Any) -> Any:
        commands.append(command)
        return run(command, **more)

    machine.run = listen  # type: ignore[method-assign]
    machine.passes(traces=["0123456789abcdef"], secrets={"TOKEN": "fedcba9876543210"})
    assert len(commands) == 1
    assert "0123456789abcdef" not in commands[0]
    assert "fedcba9876543210" not in commands[0]


@pytest.mark.parametrize("name", [b'quo"te$(id)\n', b"\xff\xfe", "Übung".encode()])
def test_any_file_name_can_be_reported(machine: Machine, name: bytes) -> None:
    folder = machine.plant("tmp/x/keep", "").parent
    Path(os.fsdecode(os.path.join(os.fsencode(folder), name))).write_text("x")  # noqa: PTH118
    found = machine.findings()
    assert "temporary: /tmp/x/" in found
    found.encode()  # can be printed


def test_many_files_are_counted_and_not_listed(machine: Machine) -> None:
    for index in range(50):
        machine.plant(f"tmp/{index:02}")
    assert "/tmp/29 and 20 more" in machine.findings()


def test_a_link_out_of_the_machine_is_not_followed(machine: Machine, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "key.txt").write_text(SECRETS["AWS key"])
    (machine.root / "opt" / "link").symlink_to(outside)
    (machine.root / "opt" / "file").symlink_to(outside / "key.txt")
    machine.passes()


CUT_OFF = {
    "nothing": "",
    "without its last line": '{"kind": "log", "path": "/var/log/x"}\n',
    "in the middle": '{"kind": "log", "pa',
    "something else": "sudo: a password is required\n",
    "another document": "[]\n",
}


@pytest.mark.parametrize("output", CUT_OFF.values(), ids=CUT_OFF)
def test_an_unfinished_search_is_an_error(machine: Machine, output: str) -> None:
    def cut(command: str, **more: Any) -> Any:
        done: Any = subprocess.CompletedProcess([], 1, output, "it broke")
        done.exit_status = 1
        return done

    machine.run = cut  # type: ignore[method-assign]
    with pytest.raises(VerificationError, match="did not finish"):
        check_clean(machine)


@pytest.mark.parametrize("error", [ConnectError("gone"), RemoteError("too long")])
def test_a_machine_that_does_not_respond_is_an_error(machine: Machine, error: RemoteError) -> None:
    def broken(command: str, **more: Any) -> Any:
        raise error

    machine.run = broken  # type: ignore[method-assign]
    with pytest.raises((ConnectError, VerificationError)):
        check_clean(machine)

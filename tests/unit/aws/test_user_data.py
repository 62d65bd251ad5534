"""User data: the cloud-config as cloud-init reads it, and its timer script as it runs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from bake.aws.user_data import LONGEST, TIMER, File, user_data
from bake.errors import RequestError

END = datetime(2026, 11, 21, 6, 30, tzinfo=UTC)


@dataclass(frozen=True)
class Key:
    private_openssh: str = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNz\n-----END-----\n"
    public_openssh: str = "ssh-ed25519 AAAAC3Nz bake\n"


def config(expires_at: datetime | None = END) -> dict[str, Any]:
    text = user_data(Key(), expires_at)
    assert text.startswith("#cloud-config\n")
    parsed: dict[str, Any] = yaml.safe_load(text)
    return parsed


def test_the_machine_has_our_host_key_only() -> None:
    parsed = config()
    assert parsed["ssh_deletekeys"] is True
    assert parsed["ssh_keys"] == {
        "ed25519_private": Key().private_openssh,
        "ed25519_public": "ssh-ed25519 AAAAC3Nz bake",
    }
    # cloud-init generates no keys if some are given; an empty list of key types is invalid.
    assert "ssh_genkeytypes" not in parsed


def test_passwords_root_login_and_upgrades_are_off() -> None:
    parsed = config()
    assert parsed["ssh_pwauth"] is False
    assert parsed["disable_root"] is True
    assert parsed["package_upgrade"] is False


def test_a_machine_that_stays_has_no_timer() -> None:
    assert "write_files" not in config(None)


@pytest.mark.parametrize("expires_at", [None, END])
def test_the_given_files_are_written(expires_at: datetime | None) -> None:
    script = "#!/bin/sh\n# : { \"quoted\" } 'and' \\back\n\n\tEND\n"
    parsed = yaml.safe_load(user_data(Key(), expires_at, [File("/one", script, "0755")]))
    first, *timer = parsed["write_files"]
    assert first == {"path": "/one", "permissions": "0755", "content": script}
    assert [file["path"] for file in timer] == ([TIMER] if expires_at else [])


def test_user_data_above_ec2s_limit_is_refused() -> None:
    with pytest.raises(RequestError, match=str(LONGEST)):
        user_data(Key(public_openssh="k" * LONGEST), END)


def test_the_timer_script_passes_shellcheck() -> None:
    [file] = config()["write_files"]
    shellcheck = Path(sys.executable).parent / "shellcheck"
    answer = subprocess.run(
        [str(shellcheck), "--shell=sh", "-"], input=file["content"], capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stdout


@dataclass
class Boot:
    """Run the timer script with a `shutdown` and a `sleep` that only record their calls."""

    root: Path
    systemd: bool = True
    user_data: str | None = None

    def run(self, expires_at: datetime) -> list[str]:
        [file] = config(expires_at)["write_files"]
        assert (file["path"], file["permissions"]) == (TIMER, "0755")
        own = user_data(Key(), expires_at) if self.user_data is None else self.user_data
        (self.root / "user-data.txt").write_text(own)
        if self.systemd:
            (self.root / "systemd").mkdir()
        said = self.root / "said"
        for name in ("shutdown", "sleep"):
            command = self.root / name
            command.write_text(f'#!/bin/sh\necho "{name} $*" >> {said}\n')
            command.chmod(0o755)
        script = file["content"]
        script = script.replace(
            "/var/lib/cloud/instance/user-data.txt", str(self.root / "user-data.txt")
        ).replace("/run/systemd/system", str(self.root / "systemd"))
        path = f"{self.root}{os.pathsep}{os.environ['PATH']}"
        subprocess.run(["sh", "-c", script], env={"PATH": path}, check=True)
        wanted = 1 if self.systemd else 2
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:  # without systemd it continues in the background
            lines = said.read_text().splitlines() if said.exists() else []
            if len(lines) >= wanted or self.user_data is not None:
                return lines
            time.sleep(0.02)
        return lines


def test_the_machine_powers_off_when_its_run_expires(tmp_path: Path) -> None:
    [said] = Boot(tmp_path).run(datetime.now(UTC) + timedelta(minutes=90))
    assert said in {"shutdown -h +90", "shutdown -h +91"}


def test_a_machine_that_boots_too_late_powers_off_at_once(tmp_path: Path) -> None:
    assert Boot(tmp_path).run(datetime.now(UTC) - timedelta(days=1)) == ["shutdown -h +0"]


def test_without_systemd_the_timer_does_not_block_the_boot(tmp_path: Path) -> None:
    said = Boot(tmp_path, systemd=False).run(datetime.now(UTC) + timedelta(seconds=119))
    assert said == ["sleep 120", "shutdown -h now"]


def test_the_timer_in_an_image_does_not_affect_new_machines(tmp_path: Path) -> None:
    other = user_data(Key(), None)
    assert Boot(tmp_path, user_data=other).run(datetime.now(UTC) - timedelta(days=1)) == []

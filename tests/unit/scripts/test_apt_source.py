"""The source of apt that a mirror in a recipe becomes, read by the real apt."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from bake.local.standin import trust
from tests.support.shell import run_function

EXPIRED = """Suite: bookworm-updates
Codename: bookworm-updates
Date: Thu, 01 Jan 2026 00:00:00 UTC
Valid-Until: Thu, 08 Jan 2026 00:00:00 UTC
Components: main
Architectures: amd64
SHA256:
 {digest} 0 main/binary-amd64/Packages
"""


def source(url: str, os_id: str = "debian-12") -> str:
    done = run_function(
        "lib.sh",
        f"apt_source '{url}' 'bookworm-updates'",
        Path("/"),
        before=f"OS_ID={os_id}",
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("url", "checked"),
    [
        ("https://snapshot.debian.org/archive/debian/20260901T000000Z", "no"),
        ("https://snapshot.ubuntu.com/ubuntu/20260901T000000Z/", "no"),
        ("https://mirror.example.org/debian", "yes"),
        ("https://mirror.example.org/x20260901T000000Z/debian", "yes"),
    ],
)
def test_only_a_snapshot_may_be_older_than_its_archive_allows(url: str, checked: str) -> None:
    assert f"Check-Valid-Until: {checked}\n" in source(url)


def test_ubuntus_archive_has_four_components() -> None:
    assert "Components: main restricted universe multiverse\n" in source(
        "https://x", "ubuntu-22.04"
    )
    assert "Signed-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg\n" in source(
        "https://x", "ubuntu-22.04"
    )


@pytest.mark.skipif(not shutil.which("apt-get"), reason="apt is only on Debian and Ubuntu")
@pytest.mark.parametrize(("name", "accepted"), [("20260101T000000Z", True), ("current", False)])
def test_apt_accepts_the_expired_lists_of_a_snapshot_alone(
    tmp_path: Path, name: str, accepted: bool
) -> None:
    suite = tmp_path / name / "dists/bookworm-updates"
    (suite / "main/binary-amd64").mkdir(parents=True)
    (suite / "main/binary-amd64/Packages").touch()
    release = EXPIRED.format(digest=hashlib.sha256(b"").hexdigest())
    trusted = trust.establish(tmp_path / "trust")
    with trusted.signer() as sign:
        (suite / "InRelease").write_bytes(sign(release.encode()))
    for folder in ("lists/partial", "cache/archives/partial", "etc"):
        (tmp_path / folder).mkdir(parents=True)
    text = source(f"file:{tmp_path}/{name}")
    sources = tmp_path / "one.sources"
    debian = "/usr/share/keyrings/debian-archive-keyring.gpg"
    sources.write_text(text.replace(debian, f"{trusted.folder}/archive.gpg"))
    options = {
        "Dir::Etc": f"{tmp_path}/etc",
        "Dir::Etc::SourceList": str(sources),
        "Dir::State::Lists": f"{tmp_path}/lists",
        "Dir::Cache": f"{tmp_path}/cache",
        "APT::Architecture": "amd64",
        "APT::Architectures": "amd64",
        "APT::Sandbox::User": "",
        "APT::Update::Error-Mode": "any",
        "Acquire::Check-Date": "true",
        "Acquire::Check-Valid-Until": "true",
    }
    command = ["apt-get", "update"]
    for key, value in options.items():
        command += ["--option", f"{key}={value}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode == 0) is accepted, done.stdout + done.stderr
    assert ("is expired" in done.stdout + done.stderr) is not accepted

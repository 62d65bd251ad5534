"""A planted file of each kind makes a bake on a real machine fail, and its content is not shown."""

from __future__ import annotations

import base64
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from bake.errors import VerificationError
from bake.verify.clean import GIVEN, PASSWORDS, forbidden
from bake.verify.clean import SECRETS as SECRETS_BY_PATTERN
from tests.support.kitchen import Kitchen
from tests.support.planted_secrets import LEFT, LETTERS, SECRETS

CONTENT = "x0123456789abcdef0123456789abcdef\n"
SESSION = ("auth.log", "wtmp", "btmp", "lastlog", "journal")  # our own session writes there
# Separate file systems on the local cloud's machines: they are not part of an image. The input
# files of a stage are there, too.
IN_MEMORY = ("tmp/", "run/")
TOKEN = "a-St4ges/0wn+token"

# Files that a careless stage leaves and the stage seal does not remove: credentials, and texts that
# match a pattern.
CARELESS = {
    **dict.fromkeys((f"/{path}" for path in LEFT["credentials"]), CONTENT),
    **{f"/srv/app/{n}.conf": f"value: {text}\n" for n, text in enumerate(SECRETS.values())},
    "/swapfile": CONTENT,
    "/core.1234": CONTENT,
}
# Files that are created after the seal has removed their kind.
LATE = {
    kind: [
        f"/{path}"
        for path in paths
        if not path.endswith(SESSION) and not path.startswith(IN_MEMORY) and "journal" not in path
    ]
    for kind, paths in LEFT.items()
    if kind not in ("credentials", "swap", "core dump", PASSWORDS, "inputs of a stage")
}


def planting(files: Mapping[str, str]) -> str:
    """Return a script that writes these files."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for path, content in files.items():
            member = tarfile.TarInfo(path.lstrip("/"))
            member.size, member.mode = len(content), 0o600
            archive.addfile(member, io.BytesIO(content.encode()))
    text = base64.b64encode(packed.getvalue()).decode()
    return (
        f"base64 --decode <<'END' | tar --extract --gzip --directory=/ --overwrite\n{text}\nEND\n"
    )


def test_planted_files_of_each_kind_are_found_and_no_image_is_made(
    kitchen: Kitchen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIVEN_TO_A_STAGE", TOKEN)
    kitchen.stage("careless", body=planting(CARELESS), secrets="TOKEN")
    seal = kitchen.scripts / "stages" / "seal.sh"
    late = {path: CONTENT for paths in LATE.values() for path in paths}
    late["/usr/lib/tool/state"] = f"\0{TOKEN}\0"
    shadow = "echo 'guest:$6$salt$hash:1:0:99999:7:::' >>/etc/shadow\n"
    seal.write_text(seal.read_text() + planting(late) + shadow)
    secrets = {"TOKEN": {"env": "GIVEN_TO_A_STAGE"}}
    kitchen.recipe("leaky", "careless", checkpoints={"after": ()}, secrets=secrets)

    with pytest.raises(VerificationError) as caught:
        kitchen.bake("leaky")

    said = "\n".join([caught.value.message, *caught.value.details])
    *findings, to_look, start = caught.value.details
    assert to_look.startswith("To look at the machine, keep it: ")
    assert start.startswith("The next bake starts from the base image")
    by_kind = dict(line.split(": ", 1) for line in findings)
    planted = [
        *(("credentials", f"/{path}") for path in LEFT["credentials"]),
        (GIVEN, "/usr/lib/tool/state (TOKEN)"),
        ("swap", "/swapfile"),
        ("core dump", "/core.1234"),
        (PASSWORDS, "/etc/shadow (guest)"),
        *((kind, path) for kind, paths in LATE.items() for path in paths),
        *(
            (SECRETS_BY_PATTERN, f"/srv/app/{n}.conf ({kind.strip()})")
            for n, kind in enumerate(SECRETS)
        ),
    ]
    caught_ones = [
        (kind, path) for kind, path in planted if path in by_kind.get(kind, "").split(", ")
    ]
    print(f"secrets caught / planted: {len(caught_ones)} / {len(planted)}")
    assert [one for one in planted if one not in caught_ones] == []
    assert {kind for kind, _ in planted} == {
        *forbidden()["places"],
        PASSWORDS,
        SECRETS_BY_PATTERN,
        GIVEN,
    } - {"inputs of a stage"}
    # No other file was found: the seal removed everything else.
    found = {(kind, path) for kind, paths in by_kind.items() for path in paths.split(", ")}
    assert found - {*planted} == set()

    written = said + "".join(p.read_text() for p in Path(kitchen.folder, "builds").rglob("*.log"))
    for text in (CONTENT.strip(), LETTERS[:20], "hunter22", "token-4f9a", TOKEN):
        assert text not in written

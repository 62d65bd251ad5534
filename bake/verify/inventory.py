"""Read the software of a machine, as its own package managers list it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter

from bake import files
from bake.errors import RemoteError
from bake.record import Installed, Inventory
from bake.verify.check import Shell
from bake.verify.diagnosis import verbatim

# The folder in which each stage notes what it installs (scripts/lib.sh). Its files STAGE/KIND have
# lines `NAME VALUE…`. `grep` puts the file's path in front of each line.
NOTES = "/usr/share/bake/installed"
NOTES_COMMAND = f"! [ -d {NOTES} ] || grep --recursive '' {NOTES}"

_TIMEOUT_S = 300
_WHEEL = ("version", "sha256", "file")


class _Result(BaseModel):
    """The output and the exit status of one command (`on_machine/inventory.py`)."""

    model_config = ConfigDict(frozen=True)

    exit_status: int
    stdout: str
    stderr: str


def read_inventory(shell: Shell, environment_prefix: str) -> Inventory:
    """Return the software that is installed on the machine.

    RemoteError if dpkg, the environment's pip or the notes of the stages cannot be read. An
    environment that does not exist has no packages; the proof checks that a promised one exists.
    `environment_prefix` is empty if the recipe has no environment.
    """
    required, optional = _environment_commands(environment_prefix)
    dpkg = r"dpkg-query --show --showformat '${db:Status-Abbrev}\t${binary:Package}\t${Version}\n'"
    dpkg = f"! command -v dpkg-query >/dev/null || {dpkg}"
    outputs = _run_at_once(
        shell,
        {"dpkg": dpkg, "stages": NOTES_COMMAND, **required},
        {
            "rpm": r"rpm --query --all --queryformat 'ii\t%{NAME}\t%{EVR}\n'",
            "os": ". /etc/os-release && echo $PRETTY_NAME",
            "kernel": "uname --kernel-release",
            "driver": "cat /sys/module/nvidia/version",
            "cuda": "nvcc --version",
            **optional,
        },
    )
    return Inventory(
        os=outputs["os"],
        kernel=outputs["kernel"],
        driver=outputs["driver"],
        cuda=_parse_nvcc(outputs["cuda"]),
        python=outputs.get("python", ""),
        dpkg=parse_dpkg(outputs["dpkg"]),
        rpm=_without_keys(parse_dpkg(outputs.get("rpm", ""))),
        pip=parse_packages(outputs.get("pip", "")),
        conda=parse_packages(outputs.get("conda", "")),
        stages=parse_notes(outputs["stages"]),
    )


def _environment_commands(prefix: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return the commands that must succeed for an environment, and those that may fail."""
    if not prefix:
        return {}, {}
    python, folder = shlex.quote(f"{prefix}/bin/python"), shlex.quote(prefix)
    pip = f"! [ -e {python} ] || {python} -m pip list --format json --disable-pip-version-check"
    conda = f"! [ -d {folder}/conda-meta ] || conda list --json --prefix {folder}"
    version = f"{python} -c 'import platform; print(platform.python_version())'"
    return {"pip": pip}, {"python": version, "conda": conda}


def _run_at_once(
    shell: Shell, required: Mapping[str, str], optional: Mapping[str, str]
) -> dict[str, str]:
    """Return the output of each command. The output of an optional command that fails is empty.

    All run in one session: sshd allows ten sessions on a connection (MaxSessions), of which others
    may be in use. They run at the same time, because pip and conda take a second each.
    """
    commands = {**required, **optional}
    program = (files.on_machine("bake.verify") / "inventory.py").read_bytes()
    # The commands end before the session's own timeout, so that the error names the slow one.
    arguments = [json.dumps(commands), str(_TIMEOUT_S - 20)]
    session = shell.run(
        shlex.join(["/usr/bin/python3", "-I", "-", *arguments]),
        stdin=program,
        timeout_s=_TIMEOUT_S,
    )
    try:
        document = files.parse_json(session.stdout.rstrip().rpartition("\n")[2])
        results = TypeAdapter(dict[str, _Result]).validate_python(document)
        outputs = {
            name: _output(commands[name], results[name], name in required) for name in commands
        }
    except (ValueError, LookupError):
        raise RemoteError(
            "Cannot list what is installed: the program on the machine printed no result",
            details=[verbatim(session.stderr or session.stdout)],
        ) from None
    return outputs


def _output(command: str, result: _Result, required: bool) -> str:
    if result.exit_status == 0:
        return result.stdout.strip()
    if required or result.exit_status == 124:
        raise RemoteError(
            f"Cannot list what is installed: exit status {result.exit_status} of `{command}`",
            hint="The status 124 means that it took too long. Run the command on the machine.",
            details=[verbatim(result.stderr or result.stdout)],
        )
    return ""


def _parse_nvcc(text: str) -> str:
    match = re.search(r"\brelease (\d+\.\d+)", text)
    return match[1] if match else ""


def parse_dpkg(listing: str) -> dict[str, str]:
    """Return package → version; RemoteError if this is not the output that dpkg-query prints."""
    try:
        lines = [line.split("\t") for line in listing.splitlines()]
        return {name: version for state, name, version in lines if state.startswith(("ii", "hi"))}
    except ValueError:
        raise RemoteError(
            "Cannot read the list of packages that dpkg-query printed",
            hint="Run `dpkg-query --show` on the machine: another program writes into its output.",
        ) from None


def _without_keys(packages: Mapping[str, str]) -> dict[str, str]:
    """Leave out the keys that rpm trusts, which it lists like packages."""
    return {name: version for name, version in packages.items() if name != "gpg-pubkey"}


def parse_packages(listing: str) -> dict[str, str]:
    """Return package → version of pip's or conda's JSON; empty if this is not JSON."""
    try:
        entries = files.parse_json(listing)
        return {str(entry["name"]): str(entry["version"]) for entry in entries}
    except (ValueError, LookupError, TypeError):
        return {}


def parse_notes(listing: str) -> dict[str, Installed]:
    """Return the software of each stage; RemoteError if a line is not in the format of lib.sh."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    try:
        for stage, kind, name, words in _note_lines(listing):
            value = dict(zip(_WHEEL, words, strict=True)) if kind == "pip" else words[0]
            found.setdefault(stage, {}).setdefault(kind, {})[name] = value
        return {stage: Installed.model_validate(kinds) for stage, kinds in found.items()}
    except ValueError as error:
        raise RemoteError(
            f"Cannot read the notes of the stages in {NOTES}: {error}",
            hint="Only scripts/lib.sh may write these notes. Check your own stages.",
        ) from error


def _note_lines(listing: str) -> Iterator[tuple[str, str, str, list[str]]]:
    for line in listing.splitlines():
        path, _, text = line.partition(":")
        stage, kind = path.removeprefix(f"{NOTES}/").split("/")
        name, *words = text.split()
        if kind != "pip" and len(words) != 1:
            raise ValueError(text)
        yield stage, kind, name, words

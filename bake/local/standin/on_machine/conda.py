#!/usr/bin/python3 -I
"""A stand-in for conda, whose environments are virtual environments of this machine's Python.

It has the commands that the stages and a user of the machine need. The packages of its channel are
empty: `python=3.7` is recorded as the requested version, but the machine's own Python runs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

VERSION = "conda 0.0 (stand-in)"
ROOT = Path(__file__).resolve().parent.parent
MACHINE_PYTHON = "{}.{}.{}".format(*sys.version_info[:3])

HOOK = """\
export CONDA_EXE={exe} CONDA_SHLVL="${{CONDA_SHLVL:-0}}"
conda() {{
    case "${{1:-}}" in
        activate | deactivate) eval "$("$CONDA_EXE" shell.posix "$@")" ;;
        *) "$CONDA_EXE" "$@" ;;
    esac
}}
case ":$PATH:" in *:{root}/condabin:*) ;; *) export PATH="{root}/condabin:$PATH" ;; esac
"""
BASHRC = """\
# >>> conda initialize >>>
# Written by the stand-in's `conda init`.
eval "$('{exe}' shell.posix hook)"
# <<< conda initialize <<<
"""


def environments() -> dict[str, Path]:
    """Map each environment's name to its prefix, the base environment first."""
    named = {meta.parent.name: meta.parent for meta in sorted(ROOT.glob("envs/*/conda-meta"))}
    return {"base": ROOT, **named}


def prefix_of(options: argparse.Namespace) -> Path:
    if options.prefix:
        return Path(options.prefix).absolute()
    name = options.name or os.environ.get("CONDA_DEFAULT_ENV") or "base"
    return Path(name) if "/" in name else environments().get(name, ROOT / "envs" / name)


def existing_prefix(options: argparse.Namespace) -> Path:
    prefix = prefix_of(options)
    if not (prefix / "conda-meta").is_dir():
        sys.exit(f"EnvironmentLocationNotFound: {prefix} is not an environment of this conda")
    return prefix


def create(options: argparse.Namespace) -> None:
    prefix = prefix_of(options)
    if (prefix / "conda-meta").exists() and not options.yes:
        sys.exit(f"CondaValueError: {prefix} exists already")
    records = explicit(Path(options.file)) if options.file else resolved(options)
    for record in records:
        wanted = f"{record['name']} {record['version']}"
        actual = f"{MACHINE_PYTHON} runs" if record["name"] == "python" else "nothing is installed"
        print(f"stand-in: {wanted} is recorded, but {actual}")
    subprocess.run([sys.executable, "-m", "venv", str(prefix)], check=True)
    (prefix / "conda-meta").mkdir(exist_ok=True)
    (prefix / "conda-meta" / "history").touch()
    for record in records:
        record.update(build_string=f"stand_in_runs_{MACHINE_PYTHON}", channel="stand-in")
        file = prefix / "conda-meta" / "{name}-{version}-{build_string}.json".format(**record)
        file.write_text(json.dumps(record))


def resolved(options: argparse.Namespace) -> list[dict[str, str]]:
    """Return the records of the requested packages, from the channel if one is given."""
    records = []
    for spec in options.words:
        name = re.split(r"[ =<>!~]", spec, maxsplit=1)[0].lower()
        channels = options.channel or []
        if name == "python":
            version = spec.partition("=")[2].strip("=")
            record = {"name": name, "version": version or "{}.{}".format(*sys.version_info[:2])}
            file = "{name}-{version}-stand_in.conda".format(**record)
            records += [fetch(f"{channel}/linux-64/{file}") for channel in channels] or [record]
        elif name != "pip":
            found = [record for channel in channels for record in search(channel, name, spec)]
            if not found:
                sys.exit(f"PackagesNotFoundError: {spec}: not in the channel of this stand-in")
            records.append(found[0])
    return records


def search(channel: str, name: str, spec: str) -> list[dict[str, str]]:
    """Return the records of a channel's packages that the spec allows."""
    index = fetch(f"{channel}/linux-64/repodata.json")
    named = [file for file, package in index["packages.conda"].items() if package["name"] == name]
    files = [index["specs"][spec]] if spec in index["specs"] else named
    return [fetch(f"{channel}/linux-64/{file}") for file in files]


def explicit(file: Path) -> list[dict[str, str]]:
    """Return the records of an explicit list, whose lines have the form URL#SHA256."""
    lines = [line.strip() for line in file.read_text().splitlines()]
    records, wrong = [], []
    for line in lines[lines.index("@EXPLICIT") + 1 :]:
        url, _, sha256 = line.partition("#")
        records.append(fetch(url))
        if records[-1]["sha256"] != sha256:
            wrong.append(f"{url}: expected {sha256}, actual {records[-1]['sha256']}")
    if wrong:
        sys.exit("\n".join(["ChecksumMismatchError:", *wrong]))
    return records


def fetch(url: str) -> dict[str, Any]:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310 (the URL is the mirror's)
            data = answer.read()
    except OSError as error:
        sys.exit(f"CondaHTTPError: {url}: {error}")
    return {**json.loads(data), "url": url, "sha256": hashlib.sha256(data).hexdigest()}


def run(options: argparse.Namespace) -> None:
    prefix = existing_prefix(options)
    path = f"{prefix}/bin:{os.environ.get('PATH', '/usr/bin:/bin')}"
    os.environ.update(PATH=path, CONDA_PREFIX=str(prefix), CONDA_DEFAULT_ENV=prefix.name)
    try:
        os.execvp(options.words[0], options.words)  # noqa: S606 (this is its purpose)
    except (OSError, IndexError) as error:
        sys.exit(f"conda run: {error}")


def list_packages(options: argparse.Namespace) -> None:
    prefix = existing_prefix(options)
    pattern = options.words[0] if options.words else "."
    files = sorted((prefix / "conda-meta").glob("*.json"))
    records = [json.loads(file.read_text()) for file in files]
    found = [record for record in records if re.search(pattern, record["name"])]
    if options.json:
        print(json.dumps(found))
        return
    print(f"# packages in environment at {prefix}:\n#\n# Name  Version  Build  Channel")
    for record in found:
        print(*(record[key] for key in ("name", "version", "build_string", "channel")))


def list_environments(options: argparse.Namespace) -> None:
    if options.json:
        print(json.dumps({"envs": [str(prefix) for prefix in environments().values()]}))
        return
    print("# conda environments (stand-in):\n#")
    for name, prefix in environments().items():
        active = "*" if os.environ.get("CONDA_PREFIX") == str(prefix) else " "
        print(f"{name:<22} {active} {prefix}")


def config(options: argparse.Namespace) -> None:
    """Change or show the settings. As in the real conda, no channels means `defaults`."""
    file = ROOT / ".condarc"
    settings = read_settings(file.read_text() if file.exists() else "")
    for name, value in options.set or []:
        settings[name] = value.lower()
    for name, value in options.add or []:
        items = settings.setdefault(name, ["defaults"] if name == "channels" else [])
        settings[name] = [value, *(other for other in items if other != value)]
    if options.set or options.add:
        file.write_text(written(settings))
    if options.show is not None:
        shown = {"channels": ["defaults"], **settings}
        names = options.show or list(shown)
        print(written({name: shown[name] for name in names if name in shown}), end="")


def read_settings(text: str) -> dict[str, str | list[str]]:
    """Read the YAML of a `.condarc`: lines `name: value`, and lists with a line `- item` each."""
    settings: dict[str, str | list[str]] = {}
    items: list[str] = []
    for line in text.splitlines():
        if line.lstrip().startswith("- "):
            items.append(line.lstrip()[2:].strip())
        elif ":" in line and not line.startswith("#"):
            name, _, value = line.partition(":")
            items = []
            settings[name] = value.strip() or items
    return settings


def written(settings: dict[str, str | list[str]]) -> str:
    lines = []
    for name, value in settings.items():
        lines += [f"{name}: {value}"] if isinstance(value, str) else [f"{name}:"]
        lines += [f"  - {item}" for item in value] if isinstance(value, list) else []
    return "\n".join(lines) + "\n"


def init(_: argparse.Namespace) -> None:
    bashrc = Path.home() / ".bashrc"
    text = bashrc.read_text() if bashrc.exists() else ""
    if "# >>> conda initialize >>>" not in text:
        bashrc.write_text(f"{text}\n{BASHRC.format(exe=ROOT / 'bin' / 'conda')}")


def shell(words: list[str]) -> None:
    """Print the commands that the shell function evaluates."""
    action, *names = words
    if action == "hook":
        print(HOOK.format(exe=shlex.quote(str(ROOT / "bin" / "conda")), root=ROOT))
        return
    current = os.environ.get("CONDA_PREFIX", "")
    path = [p for p in os.environ.get("PATH", "").split(":") if p != f"{current}/bin"]
    lines = ['PS1="${PS1#"(${CONDA_DEFAULT_ENV:-}) "}"', "unset CONDA_PREFIX CONDA_DEFAULT_ENV"]
    if action == "activate":
        prefix = existing_prefix(
            argparse.Namespace(prefix=None, name=names[0] if names else "base")
        )
        path.insert(0, f"{prefix}/bin")
        lines.append(f"export CONDA_PREFIX={shlex.quote(str(prefix))}")
        lines.append(f'export CONDA_DEFAULT_ENV={prefix.name}; PS1="({prefix.name}) ${{PS1:-}}"')
    lines.append(
        f"export PATH={shlex.quote(':'.join(path))} CONDA_SHLVL={int(action == 'activate')}"
    )
    print("\n".join(lines))


def nothing(_: argparse.Namespace) -> None:
    """Do nothing: the stand-in has neither caches to clean nor terms to accept."""


COMMANDS = {
    "create": create,
    "run": run,
    "list": list_packages,
    "env": list_environments,
    "info": list_environments,
    "config": config,
    "init": init,
    "clean": nothing,
}
SWITCHES = [
    *("-y --yes", "-q --quiet", "--json", "--envs", "--override-channels", "--system", "--all"),
    *("--no-capture-output", "--live-stream"),
]


def main(words: list[str]) -> None:
    command, rest = (words[0], words[1:]) if words else ("--help", [])
    if command == "shell.posix":
        return shell(rest)
    if command in ("-V", "--version"):
        return print(VERSION)
    parser = argparse.ArgumentParser(prog=f"conda {command}", description=VERSION)
    parser.add_argument("-p", "--prefix")
    parser.add_argument("-n", "--name")
    parser.add_argument("-c", "--channel", action="append")
    parser.add_argument("--file")
    parser.add_argument("--set", nargs=2, action="append")
    parser.add_argument("--add", nargs=2, action="append")
    parser.add_argument("--show", nargs="*")
    for switch in SWITCHES:
        parser.add_argument(*switch.split(), action="store_true")
    # The arguments after the command of `conda run` belong to that command.
    parser.add_argument("words", nargs=argparse.REMAINDER if command == "run" else "*")
    options = parser.parse_args(rest) if command == "run" else parser.parse_intermixed_args(rest)
    if command not in COMMANDS:
        sys.exit(f"unknown command {command!r}; this stand-in for conda has {', '.join(COMMANDS)}")
    COMMANDS[command](options)
    return None


if __name__ == "__main__":
    main(sys.argv[1:])

"""The settings that each machine inherits from this computer: CA certificates, pip, conda, apt.

So a network that inspects TLS, or that is reached only through a proxy or a mirror, is set up once,
on this computer. The files are mounted into each machine, so no image contains them.
"""

from __future__ import annotations

import os
import re
import shutil
import ssl
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

_MACHINE_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)

# The settings of pip that also work on another machine. Paths of this computer's files do not.
_PIP_NUMBERS = ("timeout", "default-timeout", "retries")
_PIP_ADDRESSES = ("index-url", "extra-index-url", "proxy", "trusted-host")


def write_settings(folder: Path) -> Mapping[Path, str]:
    """Write the settings into the folder. Return each file and its path on a machine."""
    certificates = folder / "certificates"
    shutil.rmtree(folder, ignore_errors=True)
    certificates.mkdir(parents=True)
    own = own_certificates()
    for number, certificate in enumerate(own, start=1):
        (certificates / f"computer-{number}.crt").write_text(certificate + "\n")
    pip = folder / "pip" / "pip.conf"
    pip.parent.mkdir()
    pip.write_text(pip_settings(_pip_config(), has_own_certificates=bool(own)))
    conda = folder / "conda" / "computer.yml"
    conda.parent.mkdir()
    conda.write_text(f"ssl_verify: {_MACHINE_BUNDLE}\n" if own else "")
    apt = folder / "apt.conf"
    apt.write_text(apt_settings(_apt_config()))
    return {
        certificates: "/usr/local/share/ca-certificates/computer",
        pip.parent: "/etc/xdg/pip",
        conda.parent: "/etc/conda/condarc.d",
        apt: "/etc/apt/apt.conf.d/90computer",
    }


def own_certificates() -> list[str]:
    """Return the CA certificates that were added to this computer's operating system."""
    bundle = ssl.get_default_verify_paths().cafile
    trusted = _certificates(Path(bundle)) if bundle else []
    packaged = set(_certificates(_mozilla_bundle()))
    for path in Path("/usr/share/ca-certificates").rglob("*.crt"):
        packaged.update(_certificates(path))
    return [certificate for certificate in trusted if certificate not in packaged]


def _certificates(path: Path) -> list[str]:
    text = path.read_text(errors="replace") if path.is_file() else ""
    return [match.replace("\r", "") for match in _CERTIFICATE.findall(text)]


def _mozilla_bundle() -> Path:
    import botocore

    return Path(botocore.__file__).with_name("cacert.pem")


def pip_settings(configured: Mapping[str, str], *, has_own_certificates: bool) -> str:
    """Return a pip.conf for the machines, from the output of `pip config list`."""
    lines = ["[global]"]
    if has_own_certificates:
        lines.append(f"cert = {_MACHINE_BUNDLE}")
    for name in _PIP_NUMBERS + _PIP_ADDRESSES:
        # In pip's order, in which a later value replaces an earlier one.
        places = [f"{place}.{name}" for place in ("global", "user", "site", "install", ":env:")]
        values = [configured[place] for place in places if place in configured]
        kept = [
            word for value in values[-1:] for word in value.split() if _works_on_machine(name, word)
        ]
        if kept:
            lines.append(f"{name} = " + "\n    ".join(kept))
    return "\n".join(lines) + "\n"


def _works_on_machine(name: str, value: str) -> bool:
    if name in _PIP_NUMBERS or name == "trusted-host":
        return True
    return value.startswith(("https://", "http://"))


def _pip_config() -> dict[str, str]:
    command = [sys.executable, "-m", "pip", "config", "list"]
    done = subprocess.run(command, capture_output=True, text=True)
    return dict(re.findall(r"^(\S+?)='(.*)'$", done.stdout, re.MULTILINE))


def apt_settings(configured: str) -> str:
    """Return an apt.conf for the machines, from the output of `apt-config dump`."""
    kept = [
        line
        for line in configured.splitlines()
        if re.match(r"Acquire::(https?::(Proxy|Timeout)|Retries)\b[^;]* \"[^\"]+\";$", line)
    ]
    for scheme in ("http", "https"):
        proxy = os.environ.get(f"{scheme}_proxy", "")
        if proxy and not any(line.startswith(f"Acquire::{scheme}::Proxy") for line in kept):
            kept.append(f'Acquire::{scheme}::Proxy "{proxy}";')
    return "".join(line + "\n" for line in kept)


def _apt_config() -> str:
    if shutil.which("apt-config") is None:
        return ""
    command = ["apt-config", "dump", "Acquire"]
    return subprocess.run(command, capture_output=True, text=True).stdout

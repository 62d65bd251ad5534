"""A machine that the stages take for Amazon Linux: Debian with real dnf, rpm and createrepo.

Its packages are small ones, with the names and the dependencies of Amazon's and NVIDIA's, built by
rpmbuild and signed with a key of the test.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from uuid import uuid4

from bake.local.machines.engine import find_engine
from tests.support.debian_roots import debian_layer
from tests.support.stage_machines import Machine

PACKAGES = (
    *("dnf", "dnf-plugins-core", "rpm", "createrepo-c", "gnupg", "curl", "ca-certificates"),
    *("kmod", "procps", "python3", "file"),
)
OS_RELEASE = 'ID="amzn"\nPRETTY_NAME="Amazon Linux 2023"\n'
KEY = "/etc/pki/rpm-gpg/RPM-GPG-KEY-amazon-linux-2023"
_SETTINGS = """
rm -f /etc/dnf/plugins/local.conf # Debian's own: it would keep a copy of each package
mkdir -p /etc/pki/rpm-gpg /etc/yum.repos.d /srv/keys
export GNUPGHOME=/root/.gnupg
gpg --batch --quiet --passphrase '' --quick-generate-key 'Test <t@example.org>' rsa2048 sign
gpg --armor --export >/srv/keys/public
cp /srv/keys/public {key}
id=$(gpg --with-colons --list-keys | awk -F : '$1 == "fpr" {{ print $10; exit }}')
printf '%%_gpg_name %s\\n' "$id" >/root/.rpmmacros
printf '%%_gpg_path /root/.gnupg\\n%%__gpg /usr/bin/gpg\\n' >>/root/.rpmmacros
echo "$id"
"""


@dataclass(frozen=True)
class Rpm:
    """A package. `files` map paths to contents; a file in a folder named `bin` is executable."""

    name: str
    version: str
    release: str = "1.amzn2023"
    requires: tuple[str, ...] = ()
    provides: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def spec(self) -> str:
        lines = [f"Name: {self.name}", f"Version: {self.version}", f"Release: {self.release}"]
        lines += ["Summary: test", "License: MIT", "BuildArch: x86_64", "AutoReqProv: no"]
        lines += [f"Requires: {each}" for each in self.requires]
        lines += [f"Provides: {each}" for each in self.provides]
        lines += ["%description", "test", "%install", "mkdir -p %{buildroot}"]
        for path, content in self.files.items():
            mode = "0755" if "/bin/" in path else "0644"
            lines += [f"install -D -m {mode} /dev/null %{{buildroot}}{path}"]
            lines += [f"printf %s {shlex.quote(content)} >%{{buildroot}}{path}"]
        return "\n".join([*lines, "%files", *self.files, ""])


def publish(machine: Machine, folder: str, packages: Iterable[Rpm], modules: str = "") -> None:
    """Build and sign packages, and make a repository of them in a folder of the machine."""
    script = [f"set -e; rm -rf {folder}; mkdir -p {folder} /tmp/specs; cd /tmp/specs"]
    for number, package in enumerate(packages):
        script.append(f"printf %s {shlex.quote(package.spec)} >{number}.spec")
        script.append(f"rpmbuild --quiet --define '_rpmdir {folder}' -bb {number}.spec 2>&1")
    script.append(f"rpmsign --addsign {folder}/x86_64/*.rpm 2>&1")
    script.append(f"createrepo_c --quiet {folder} 2>&1")
    if modules:
        script.append(f"printf %s {shlex.quote(modules)} >modules.yaml")
        script.append(f"modifyrepo_c --mdtype=modules modules.yaml {folder}/repodata >/dev/null")
    done = machine.run("bash -s", stdin="\n".join(script).encode())
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def dnf_machine() -> Iterator[tuple[Machine, str]]:
    """Yield a machine, and the fingerprint of the key with which its packages are signed."""
    engine = find_engine()
    name = f"bake-test-dnf-{uuid4().hex[:8]}"
    command = ["run", "--detach", "--pull", "never", "--network", "none", "--name", name]
    engine.call(
        *command, *engine.limits, debian_layer(engine, "dnf", PACKAGES), "sleep", "infinity"
    )
    try:
        machine = Machine(engine, name, {"LOGIN_USER": "root"})
        machine.run("cat >/etc/os-release", stdin=OS_RELEASE.encode())
        yield machine, machine.read(_SETTINGS.format(key=KEY)).splitlines()[-1]
    finally:
        engine.kill(name)
        engine.remove(name)

#!/usr/bin/env python3
"""Lists what an image must not hold: keys, identities, histories, logs, caches, secrets.

    python3 clean.py ROOT [--booted] [--session]   < traces, one a line

Run as root by the system's Python, 3.6 or later; ROOT is "/" except in tests. It knows nothing of
what the stage `seal` takes away: it looks for what may be there. Each line of its output is one
JSON object, {"kind": …, "path": …}, and never holds a file's content; the last one, {"scanned": …},
says how many files were read, and that it got to the end.

--booted   the machine was booted from the image: what each boot makes anew is not listed
--session  a session is open: the logs that sshd and sudo write of it are not listed
traces     texts of the machine that the image was taken from, which must be nowhere
"""

import hashlib
import json
import os
import re
import stat
import sys
from base64 import urlsafe_b64encode
from glob import glob

LONGEST = 4 << 20  # no secret is looked for in a file that is longer, or that holds a zero byte

# What the machine itself makes at its first boot, or while it runs.
OF_A_BOOT = {
    "authorized keys",
    "host key",
    "machine id",
    "cloud-init",
    "power-off timer",
    "log",
    "cache",
    "temporary",
}
OF_A_SESSION = tuple(
    "/var/log/" + name for name in ("auth.log", "syslog", "wtmp", "btmp", "lastlog", "journal/")
)

# Places whose every file is a finding; an empty file is none, except where it says so below.
HOMES = ("root", "home/*")
PLACES = {
    "authorized keys": (
        "~/.ssh/authorized_keys*",
        "etc/ssh/authorized_keys*",
        "etc/ssh/authorized_keys*/**",
    ),
    "host key": ("etc/ssh/ssh_host_*",),
    "machine id": ("var/lib/dbus/machine-id", "var/lib/systemd/random-seed"),
    "cloud-init": (
        "var/lib/cloud/instances/**",
        "var/lib/cloud/data/**",
        "var/lib/cloud/sem/**",
        "var/lib/cloud/seed/**",
        "var/lib/cloud/handlers/**",
    ),
    "power-off timer": ("var/lib/cloud/scripts/**",),
    "history": (
        "~/.*history",
        "~/.*_history*",
        "~/.local/share/*history*",
        "~/.ipython/**/history.sqlite*",
        "~/.lesshst",
        "~/.viminfo",
        "~/.wget-hsts",
        "~/.ssh/known_hosts*",
    ),
    "log": ("var/log/**", "~/.xsession-errors*", "var/crash/**", "var/spool/mail/**"),
    "cache": (
        "~/.cache/**",
        "var/cache/apt/archives/*.deb",
        "var/cache/apt/*.bin",
        "var/lib/apt/lists/*",
        "opt/conda/pkgs/*.conda",
        "opt/conda/pkgs/*.tar.bz2",
        "opt/conda/pkgs/cache/**",
    ),
    "temporary": ("tmp/**", "var/tmp/**"),
    "inputs of a stage": ("run/bake/*/**",),
    "credentials": (
        "~/.netrc",
        "~/.aws/**",
        "~/.git-credentials",
        "~/.docker/config.json",
        "~/.pypirc",
        "~/.npmrc",
        "~/.kaggle/**",
        "~/.config/gcloud/**",
        "~/.config/gh/**",
        "~/.config/rclone/**",
        "~/.cache/huggingface/token",
        "~/.huggingface/token",
        "~/.boto",
        "~/.s3cfg",
        "~/.ssh/id_*",
        "~/.gnupg/private-keys-v1.d/**",
        "~/.gnupg/secring.gpg",
    ),
}

# Where people, tools and stages write; the rest is the operating system's packages.
SEARCHED = (
    "etc",
    "home",
    "root",
    "opt",
    "srv",
    "tmp",
    "usr/local",
    "var/backups",
    "var/lib/cloud",
    "var/log",
    "var/mail",
    "var/spool",
    "var/tmp",
    "var/www",
)
# What is looked for, and what it begins with: most files hold none of that, and are done with fast.
SECRETS = (
    ("AWS key", (b"AKIA", b"ASIA"), rb"\b(?:AKIA|ASIA)(?![A-Z0-9]{9}EXAMPLE)[A-Z0-9]{16}\b"),
    (
        "AWS secret",
        (b"ecret_access_key", b"ECRET_ACCESS_KEY", b"ecretAccessKey"),
        rb"(?i:secret_?access_?key)\W{1,5}[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+=])",
    ),
    (
        "GitHub token",
        (b"ghp_", b"gho_", b"ghu_", b"ghs_", b"ghr_", b"github_pat_"),
        rb"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{60})",
    ),
    ("GitLab token", (b"glpat-",), rb"\bglpat-[A-Za-z0-9_-]{20}"),
    ("PyPI token", (b"pypi-AgE",), rb"\bpypi-AgE[A-Za-z0-9_-]{50}"),
    ("npm token", (b"npm_",), rb"\bnpm_[A-Za-z0-9]{36}\b"),
    ("Hugging Face token", (b"hf_",), rb"\bhf_[A-Za-z0-9]{34}\b"),
    ("Slack token", (b"xox",), rb"\bxox[abprs]-[0-9]{8,}-[A-Za-z0-9-]{10,}"),
    ("Anaconda token", (b"/t/",), rb"conda\.(?:anaconda\.org|cloud)/t/[A-Za-z0-9-]{10,}"),
    (
        "private key",
        (b"PRIVATE KEY-----",),
        rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----\s+[A-Za-z0-9+/=]{32}",
    ),
    (
        "password in a URL",
        (b"://",),
        rb"://[^\s/:@\"'<>{}$%]+:(?!pass|secret|token|x+@|\*)[^\s/:@\"'<>{}$%]+@[\w.-]+\.[a-z]",
    ),
)
SECRETS = tuple((kind, begins, re.compile(pattern)) for kind, begins, pattern in SECRETS)


def secrets_in(content):
    for kind, begins, pattern in SECRETS:
        if any(begin in content for begin in begins) and pattern.search(content):
            yield kind


def main(root, booted, session, traces):
    root = root.rstrip("/") or "/"
    machine = Machine(root)
    for kind, patterns in PLACES.items():
        if booted and kind in OF_A_BOOT:
            continue
        for path in machine.files(patterns):
            inside = machine.inside(path)
            if not (session and inside.startswith(OF_A_SESSION)):
                report(kind, inside)
    if not booted:
        for path in machine.files(["etc/machine-id"]):
            if machine.read(path).strip() not in (b"", b"uninitialized"):
                report("machine id", machine.inside(path))
    scanned = 0
    for path in machine.searched():
        content = machine.read(path)
        if not content or b"\0" in content:
            continue
        scanned += 1
        own = booted and machine.inside(path).startswith(("/etc/ssh/ssh_host_", "/var/lib/cloud/"))
        found = [] if own else list(secrets_in(content))
        if found and not machine.is_from_a_package(path, content):
            for kind in found:
                report(kind, machine.inside(path))
        if any(trace in content for trace in traces):
            report("trace of the builder", machine.inside(path))
    print(json.dumps({"scanned": scanned}))


def report(kind, path):
    print(json.dumps({"kind": kind, "path": path}))


class Machine:
    """A root file system: its own files, not those of what is mounted into it."""

    def __init__(self, root):
        self.root = root
        self.device = os.lstat(root).st_dev
        self.sums = None

    def inside(self, path):
        return path if self.root == "/" else path[len(self.root) :]

    def files(self, patterns):
        """Files that are not empty, below every place that a pattern names."""
        found = set()
        for pattern in patterns:
            homes = HOMES if pattern.startswith("~/") else ("",)
            for home in homes:
                relative = os.path.join(home, pattern[2:] if home else pattern)
                found.update(glob(os.path.join(self.root, relative), recursive=True))
                if relative.endswith("/**"):  # glob leaves hidden ones out
                    for folder in glob(os.path.join(self.root, relative[:-3])):
                        found.update(self.below(folder))
        return sorted(path for path in found if self.size(path) > 0)

    def below(self, folder):
        for parent, folders, names in os.walk(folder):
            folders[:] = [
                name for name in folders if self.is_own_folder(os.path.join(parent, name))
            ]
            for name in names:
                yield os.path.join(parent, name)

    def is_own_folder(self, path):
        # A container's overlay gives folders the one device and files others': so only folders
        # are compared.
        return os.lstat(path).st_dev == self.device

    def size(self, path):
        """0 for what is no plain file, and for what is mounted on its own."""
        try:
            status = os.lstat(path)
        except OSError:
            return 0
        if not stat.S_ISREG(status.st_mode) or path in mounts():
            return 0
        return status.st_size

    def searched(self):
        for place in SEARCHED:
            folder = os.path.join(self.root, place)
            if os.path.isdir(folder) and not os.path.islink(folder):
                for path in self.below(folder):
                    if 0 < self.size(path) <= LONGEST:
                        yield path

    def read(self, path):
        """b"" for what is binary by its beginning: most of what is large."""
        try:
            with open(path, "rb") as stream:
                head = stream.read(4096)
                return b"" if b"\0" in head else head + stream.read()
        except OSError:
            return b""

    def is_from_a_package(self, path, content):
        """Whether a package brought it, and nobody has changed it since: then it is public."""
        if self.sums is None:
            self.sums = set(self.package_sums())
        inside = self.inside(path)
        return any(
            (inside, hashed) in self.sums
            for hashed in (
                hashlib.md5(content).hexdigest(),
                hashlib.sha256(content).hexdigest(),
                urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode(),
            )
        )

    def package_sums(self):
        """(path, hash) as dpkg, conda and pip wrote them down."""
        info = os.path.join(self.root, "var/lib/dpkg/info")
        for path in glob(os.path.join(info, "*.md5sums")):
            for line in self.lines(path):
                hashed, _, name = line.partition("  ")
                yield "/" + name, hashed
        for line in self.lines(os.path.join(self.root, "var/lib/dpkg/status")):
            words = line.split()
            if line.startswith(" /") and len(words) >= 2:  # a configuration file
                yield words[0], words[1]
        for folder in ("opt/conda", "opt/conda/envs/*"):
            for path in glob(os.path.join(self.root, folder, "conda-meta/*.json")):
                prefix = self.inside(os.path.dirname(os.path.dirname(path)))
                try:
                    with open(path, "rb") as stream:
                        files = json.loads(stream.read().decode())["paths_data"]["paths"]
                except (ValueError, LookupError, OSError):
                    continue
                for file in files:
                    hashed = file.get("sha256_in_prefix") or file.get("sha256")
                    yield prefix + "/" + file["_path"], hashed
        for place in ("opt", "home", "root", "usr/local"):
            for path in self.below(os.path.join(self.root, place)):
                if path.endswith(".dist-info/RECORD"):
                    packages = self.inside(os.path.dirname(os.path.dirname(path)))
                    for line in self.lines(path):
                        name, _, rest = line.partition(",sha256=")
                        yield os.path.normpath(packages + "/" + name), rest.partition(",")[0]

    def lines(self, path):
        return self.read(path).decode(errors="replace").splitlines()


def mounts(cache=[]):  # noqa: B006 (read once)
    """Every mount point: a container has files of its host's mounted into /etc."""
    if not cache:
        with open("/proc/self/mountinfo", "rb") as stream:
            fields = [line.split()[4].decode(errors="replace") for line in stream]
        cache.append(set(fields))
    return cache[0]


if __name__ == "__main__":
    main(
        sys.argv[1],
        booted="--booted" in sys.argv,
        session="--session" in sys.argv,
        traces=[line for line in sys.stdin.buffer.read().splitlines() if line],
    )

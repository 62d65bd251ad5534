#!/usr/bin/env python3
"""List the files that an image must not contain: keys, identities, histories, logs, secrets.

    python3 clean.py   < JSON

Runs as root under the system's Python, 3.6 or later. The search does not depend on what the stage
`seal` removes. Each line of the output is one JSON object, {"kind": …, "path": …}, and never
contains a file's content. The last line, {"scanned": …}, holds the number of files that were read,
and shows that the search has finished. The JSON on stdin:

places    the places of clean.toml
patterns  the patterns of clean.toml
root      "/" except in tests
booted    the machine was booted from the image, for the first time: files that are made at a boot
          are listed only if they are older than this boot, so that they came with the image
session   a session is open: the logs that sshd and sudo write about it are not listed, nor is what
          the SSM agent keeps about it while it carries a session
traces    texts of the machine from which the image was made; no file may contain them
secrets   {name: [text in base64, …]}: searched in every file that was written since `since`
since     seconds since the epoch; null: since the machine was started
only      search only for the secrets
"""

import base64
import hashlib
import json
import os
import re
import stat
import sys
from glob import glob

LONGEST = 4 << 20  # longer files, and files with a zero byte, are not searched for patterns
LONGEST_WRITTEN = 64 << 20  # only the first bytes of a file are searched for secrets

OF_A_SESSION = tuple(
    "/var/log/" + name for name in ("auth.log", "syslog", "wtmp", "btmp", "lastlog", "journal/")
)
OF_AN_AGENT = ("/var/lib/amazon/ssm/", "/var/log/amazon/ssm/")
AGENT = "ssm-session-worker"  # of the SSM agent, one process for each session

# Files that a machine without an identity has, too, and the text that is its identity.
IDENTITIES = {
    "etc/machine-id": re.compile(rb"^\s*(?!uninitialized\s*$)\S"),
    "etc/iscsi/initiatorname.iscsi": re.compile(rb"^\s*InitiatorName", re.MULTILINE),
}

# The folders of the operating system. People, tools and stages write into all others, and into
# those of SEARCHED. LEFT_OUT is large and belongs to other programs.
SYSTEM = frozenset(
    {"bin", "boot", "dev", "lib", "lib32", "lib64", "libx32", "lost+found", "proc", "run"}
    | {"sbin", "snap", "sys", "usr", "var"}
)
SEARCHED = ("usr/local", "var")
LEFT_OUT = (
    "/var/cache/debconf",
    "/var/lib/containerd",
    "/var/lib/docker",
    "/var/lib/dpkg",
    "/var/lib/rpm",
    "/var/lib/snapd",
)


def main(request):
    machine = Machine(request["root"].rstrip("/") or "/", request.get("started_at"))
    patterns = [
        (
            each["kind"],
            [begin.encode() for begin in each["begins"]],
            re.compile(each["pattern"].encode()),
        )
        for each in request["patterns"]
    ]
    report = Report(patterns)
    if not request.get("only"):
        made_here = list_places(machine, report, request)
        for path in machine.with_passwords():
            report("password", path)
        list_patterns(machine, report, request, patterns, made_here)
    secrets = request.get("secrets") or {}
    if secrets:
        forms = {name: [base64.b64decode(form) for form in secrets[name]] for name in secrets}
        list_written(machine, report, forms, request.get("since"))
    print(json.dumps({"scanned": machine.scanned}))


def list_places(machine, report, request):
    """Report the files in the places; return those that a booted machine has made itself."""
    of_a_session = OF_A_SESSION if request.get("session") else ()
    if of_a_session and is_running(AGENT):
        of_a_session += OF_AN_AGENT
    made_here = set()
    for kind, place in request["places"].items():
        more = list(machine.swap_files()) if kind == "swap" else []
        for path in machine.files(place["paths"] + more):
            relative = machine.relative(path)
            if relative.startswith(of_a_session):
                continue
            if request.get("booted") and place.get("made_at_boot") and machine.is_new(path):
                made_here.add(path)
            else:
                report(kind, relative)
    for name, identity in IDENTITIES.items():
        for path in machine.files([name]):
            new = request.get("booted") and machine.is_new(path)
            if not new and identity.search(machine.read(path)):
                report("machine id", machine.relative(path))
    return made_here


def list_patterns(machine, report, request, patterns, made_here):
    traces = [trace.encode() for trace in request.get("traces", ())]
    suspects, recorded = [], []
    for path in machine.searched():
        if path.endswith(".dist-info/RECORD"):
            recorded.append(path)
        content = machine.read(path)
        if not content or b"\0" in content:
            continue
        machine.scanned += 1
        relative = machine.relative(path)
        found = [
            kind
            for kind, begins, pattern in patterns
            if any(begin in content for begin in begins) and pattern.search(content)
        ]
        # The machine's own keys, and the user data with which it was launched, are not reported.
        if found and path not in made_here:
            suspects.append((relative, hashes(content), found))
        if any(trace in content for trace in traces):
            report("trace of the builder", relative)
    if suspects:
        known = set(machine.package_sums(recorded))
        for relative, sums, found in suspects:
            # A file that a package installed, and that was not changed since, is public.
            if not any((relative, each) in known for each in sums):
                for kind in found:
                    report(kind, relative)


def list_written(machine, report, secrets, since):
    """Search every file that was written since `since`, and its name, for the secrets."""
    for path in machine.written(machine.started_at if since is None else since):
        machine.scanned += 1
        name, relative = os.fsencode(path), machine.relative(path)
        content = machine.target_or_content(path).translate(None, b"\r\n")
        for secret, forms in secrets.items():
            if any(form in name for form in forms):
                report("secret " + secret, os.path.dirname(relative) + "/(a file's name)")
            elif any(form in content for form in forms):
                report("secret " + secret, relative)


class Report:
    """Prints each file that was found. A path may contain a secret, which is replaced by ***."""

    def __init__(self, patterns):
        self.patterns = patterns

    def __call__(self, kind, path):
        raw = os.fsencode(path)
        for _, _, pattern in self.patterns:
            raw = pattern.sub(b"***", raw)
        print(json.dumps({"kind": kind, "path": os.fsdecode(raw)}))


def hashes(content):
    sha256 = hashlib.sha256(content)
    return (
        hashlib.md5(content).hexdigest(),
        sha256.hexdigest(),
        base64.urlsafe_b64encode(sha256.digest()).rstrip(b"=").decode(),
    )


class Machine:
    """The files of a root file system, without the file systems that are mounted into it."""

    def __init__(self, root, started_at=None):
        self.root = root
        self.device = os.lstat(root).st_dev
        self.scanned = 0
        self.started_at = started_at or start_of_process_1()

    def relative(self, path):
        return path if self.root == "/" else path[len(self.root) :]

    def homes(self):
        """Return the homes that passwd lists and those in /home, relative to the root."""
        found = {"root", *(self.relative(path)[1:] for path in self.glob("home/*"))}
        for line in self.lines(os.path.join(self.root, "etc/passwd")):
            fields = line.split(":")
            if len(fields) > 5:
                found.add(fields[5].strip("/"))
        return sorted(found)

    def glob(self, relative):
        return glob(os.path.join(self.root, relative), recursive=True)

    def files(self, patterns):
        """Return the files that are not empty, below every place that a pattern names."""
        found = set()
        homes = self.homes()
        for pattern in patterns:
            for home in homes if pattern.startswith("~/") else [""]:
                relative = os.path.join(home, pattern[2:] if pattern.startswith("~/") else pattern)
                if relative.endswith("/**"):
                    for folder in self.glob(relative[:-3]):
                        found.update(self.files_below(folder))
                else:
                    found.update(self.glob(relative))
        # Each file once: /var/spool/mail is a link to /var/mail.
        once = {}
        for path in sorted(found):
            if self.size(path) > 0:
                once.setdefault(os.lstat(path).st_ino, path)
        return sorted(once.values())

    def files_below(self, folder):
        for parent, folders, names in os.walk(folder):
            folders[:] = [
                name for name in folders if self.is_own_folder(os.path.join(parent, name))
            ]
            for name in names:
                yield os.path.join(parent, name)

    def is_own_folder(self, path):
        # In a container's overlay, all folders have one device number and files have others.
        # Therefore only folders are compared.
        try:
            return os.lstat(path).st_dev == self.device
        except OSError:
            return False  # it was removed meanwhile

    def size(self, path):
        """Return the size of a plain file; 0 for anything else and for a mounted file."""
        try:
            status = os.lstat(path)
        except OSError:
            return 0
        if not stat.S_ISREG(status.st_mode) or path in mounts():
            return 0
        return status.st_size

    def is_new(self, path):
        """Return True if the file was written since the machine was started.

        Programs cannot set the change time back.
        """
        try:
            return os.lstat(path).st_ctime >= self.started_at
        except OSError:
            return True

    def searched(self):
        top = sorted(os.listdir(self.root))
        own = [name for name in top if name not in SYSTEM]
        for place in (*own, *SEARCHED):
            path = os.path.join(self.root, place)
            if os.path.islink(path) or not (os.path.isdir(path) and self.is_own_folder(path)):
                if 0 < self.size(path) <= LONGEST:
                    yield path
                continue
            for parent, folders, names in os.walk(path):
                folders[:] = [
                    name
                    for name in folders
                    if self.relative(os.path.join(parent, name)) not in LEFT_OUT
                    and self.is_own_folder(os.path.join(parent, name))
                ]
                for name in names:
                    path = os.path.join(parent, name)
                    if 0 < self.size(path) <= LONGEST:
                        yield path

    def written(self, since):
        """Yield the files and links written since then. Files in memory are left out."""
        volatile = [os.path.join(self.root, name) for name in ("dev", "proc", "run", "sys")]
        for name in os.listdir(self.root):
            path = os.path.join(self.root, name)
            if path in volatile or not self.is_own_folder(path):
                continue
            folder = os.path.isdir(path) and not os.path.islink(path)
            for each in self.files_below(path) if folder else [path]:
                try:
                    status = os.lstat(each)
                except OSError:
                    continue
                kind = stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)
                if kind and status.st_ctime >= since and each not in mounts():
                    yield each

    def target_or_content(self, path):
        try:
            if os.path.islink(path):
                return os.fsencode(os.readlink(path))
            with open(path, "rb") as stream:
                return stream.read(LONGEST_WRITTEN)
        except OSError:
            return b""

    def read(self, path):
        """Return the content; b"" if it begins like a binary file, as most large files do."""
        try:
            with open(path, "rb") as stream:
                head = stream.read(4096)
                return b"" if b"\0" in head else head + stream.read()
        except OSError:
            return b""

    def with_passwords(self):
        """Yield each place with the hash of a password, or with a login that needs none."""
        for name in ("etc/shadow", "etc/shadow-", "var/backups/shadow.bak"):
            for line in self.lines(os.path.join(self.root, name)):
                fields = line.split(":")
                if len(fields) > 2 and (not fields[1] or fields[1][0] not in "!*x" or "$" in line):
                    yield "/%s (%s)" % (name, fields[0])
        for name in ("etc/gshadow", "etc/gshadow-", "var/backups/gshadow.bak"):
            for line in self.lines(os.path.join(self.root, name)):
                if "$" in line:
                    yield "/%s (%s)" % (name, line.split(":")[0])

    def swap_files(self):
        for line in self.lines(os.path.join(self.root, "etc/fstab")):
            words = line.split()
            if len(words) > 2 and words[2] == "swap" and words[0].startswith("/"):
                yield words[0].lstrip("/")

    def package_sums(self, recorded):
        """Yield (path, hash) of each file, as dpkg, conda and pip recorded them."""
        info = os.path.join(self.root, "var/lib/dpkg/info")
        for path in glob(os.path.join(info, "*.md5sums")):
            for line in self.lines(path):
                hashed, _, name = line.partition("  ")
                yield "/" + name, hashed
        for line in self.lines(os.path.join(self.root, "var/lib/dpkg/status")):
            words = line.split()
            if line.startswith(" /") and len(words) >= 2:  # a configuration file
                yield words[0], words[1]
        for folder in ("opt/*", "opt/*/envs/*", "root/*", "home/*/*", "home/*/*/envs/*"):
            for path in self.glob(folder + "/conda-meta/*.json"):
                prefix = self.relative(os.path.dirname(os.path.dirname(path)))
                try:
                    with open(path, "rb") as stream:
                        files = json.loads(stream.read().decode())["paths_data"]["paths"]
                except (ValueError, LookupError, OSError):
                    continue
                for file in files:
                    hashed = file.get("sha256_in_prefix") or file.get("sha256")
                    yield prefix + "/" + file["_path"], hashed
        for path in recorded:
            packages = self.relative(os.path.dirname(os.path.dirname(path)))
            for line in self.lines(path):
                name, _, rest = line.partition(",sha256=")
                yield os.path.normpath(packages + "/" + name), rest.partition(",")[0]

    def lines(self, path):
        return self.read(path).decode(errors="replace").splitlines()


def is_running(name):
    for path in glob("/proc/[0-9]*/comm"):
        try:
            with open(path) as stream:
                if stream.read().strip() == name[:15]:  # the kernel cuts longer names
                    return True
        except OSError:
            continue  # it has ended meanwhile
    return False


def start_of_process_1():
    """Return when the machine or container was started, in seconds since the epoch."""
    with open("/proc/1/stat") as stream:
        ticks = int(stream.read().rpartition(")")[2].split()[19])
    with open("/proc/stat") as stream:
        (booted,) = [int(line.split()[1]) for line in stream if line.startswith("btime ")]
    return booted + ticks / os.sysconf("SC_CLK_TCK") - 1


def mounts(cache=[]):  # noqa: B006 (a cache)
    """Return every mount point: in a container, files of the host are mounted into /etc."""
    if not cache:
        with open("/proc/self/mountinfo", "rb") as stream:
            fields = [line.split()[4].decode(errors="replace") for line in stream]
        cache.append(set(fields))
    return cache[0]


if __name__ == "__main__":
    main(json.loads(sys.stdin.buffer.read().decode()))

"""The command lines of Podman and Docker, and finding out which way to call them works."""

from __future__ import annotations

import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bake.errors import LocalCloudError
from bake.local.machines import engine as engine_module
from bake.local.machines.engine import Engine, find_engine


@pytest.fixture(autouse=True)
def found_afresh() -> Iterator[None]:
    find_engine.cache_clear()
    yield
    find_engine.cache_clear()


def program(folder: Path, name: str, body: str) -> Path:
    """Make a stand-in for an engine, which records its arguments."""
    path = folder / name
    path.write_text(f'#!/bin/sh\necho "$@" >> {folder}/calls\n{body}\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().splitlines()


def arguments_of(engine: Engine) -> list[str]:
    return engine.run_arguments(
        "bake-c-i-1",
        "localhost/bake-c/snapshot:snap-1",
        hostname="ip-10-0-0-1",
        address="127.1.2.3",
        port=2222,
        labels={"bake.cloud": "c"},
        mounts={Path("/seed"): "/media/cidata"},
        command=["/sbin/init"],
    )


def test_podman_machine_has_a_network_that_reaches_the_computers_loopback() -> None:
    arguments = " ".join(arguments_of(Engine("/usr/bin/podman", limits=("--ulimit", "nofile=1:2"))))
    assert "--network slirp4netns:allow_host_loopback=true --ulimit nofile=1:2" in arguments
    assert "--publish 127.1.2.3:2222:22" in arguments
    assert "--volume /seed:/media/cidata:ro" in arguments
    assert "--cap-add SYS_BOOT" in arguments
    assert arguments.endswith("localhost/bake-c/snapshot:snap-1 /sbin/init")


def test_docker_machine_is_on_the_bridge_and_knows_the_computer_by_name() -> None:
    docker = Engine("/usr/bin/docker")
    arguments = arguments_of(docker)
    assert "--network" not in arguments
    assert "--add-host host.docker.internal:host-gateway" in " ".join(arguments)
    # An option that only Podman has.
    assert "notmpcopyup" not in " ".join(arguments)
    assert docker.computer_address == "host.docker.internal"


@pytest.mark.parametrize(
    ("name", "forgets", "removes"),
    [
        ("podman", "untag ref ref", "rm --force --time 0 --volumes m"),
        ("docker", "rmi --force --no-prune ref", "rm --force --volumes m"),
    ],
)
def test_layers_and_machines_are_removed_in_each_engines_words(
    tmp_path: Path, name: str, forgets: str, removes: str
) -> None:
    engine = Engine(str(program(tmp_path, name, "true")))
    engine.forget("ref")
    engine.remove("m")
    assert calls(tmp_path) == [forgets, removes]


def test_machine_is_entered_from_outside_as_its_own_root(tmp_path: Path) -> None:
    podman = str(program(tmp_path, "podman", "echo 1234"))
    Engine(podman, rootless=True).mount_over("m", "/media/cidata/boot-id", "/proc/x")
    mount = "mount --no-canonicalize --namespace 1234 --options bind,ro /media/cidata/boot-id"
    assert calls(tmp_path)[-1] == f"unshare {mount} /proc/x"


def test_a_machine_that_cannot_be_entered_is_an_error(tmp_path: Path) -> None:
    docker = Engine(str(program(tmp_path, "docker", "echo 0")))  # process id 0: the machine is off
    with pytest.raises(LocalCloudError, match="mount: "):
        docker.mount_over("m", "/media/cidata/boot-id", "/proc/x")


def test_no_layer_is_pruned_while_others_are_made_or_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Podman would remove layers that have no name yet, also those of another cloud."""
    monkeypatch.setenv("BAKE_CACHE", str(tmp_path / "cache"))
    slow = f'echo "$1 $2 begins" >>{tmp_path}/said; sleep 0.5; echo "$1 $2 ends" >>{tmp_path}/said'
    engine = Engine(str(program(tmp_path, "podman", slow)))
    works: list[Callable[[], object]] = [
        lambda: engine.has_image("ref"),
        lambda: engine.tag("ref", "other"),
        lambda: engine.prune("label"),
    ]
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
        time.sleep(0.1)
    for thread in threads:
        thread.join()
    said = (tmp_path / "said").read_text().splitlines()
    assert said[:2] == ["image inspect begins", "tag ref begins"]
    assert said[-2:] == ["image prune begins", "image prune ends"]


def test_failed_command_says_what_the_engine_said(tmp_path: Path) -> None:
    fails = "echo exited; [ $1 != start ] || { echo 'no such container' >&2; exit 125; }"
    engine = Engine(str(program(tmp_path, "podman", fails)))
    with pytest.raises(LocalCloudError, match="podman start failed: no such container"):
        engine.start("m")


@pytest.mark.parametrize("status", ["running", "stopping", "stopped"])
def test_machine_that_podman_has_not_cleaned_up_is_cleaned_up_before_it_starts(
    tmp_path: Path, status: str
) -> None:
    body = f"case $1 in wait) echo 129 ;; *) echo {status} ;; esac"
    Engine(str(program(tmp_path, "podman", body))).start("m")
    assert calls(tmp_path)[1:] == ["wait m", "container cleanup m", "start m"]


@pytest.mark.parametrize("status", ["created", "exited"])
def test_machine_that_is_new_or_cleaned_up_is_only_started(tmp_path: Path, status: str) -> None:
    Engine(str(program(tmp_path, "podman", f"echo {status}"))).start("m")
    assert calls(tmp_path)[1:] == ["start m"]


def test_docker_is_only_asked_to_start_a_machine(tmp_path: Path) -> None:
    Engine(str(program(tmp_path, "docker", "true"))).start("m")
    assert calls(tmp_path) == ["start m"]


def test_a_missing_engine_is_an_error_with_the_command_that_installs_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LocalCloudError) as caught:
        find_engine()
    assert caught.value.details == ("podman: not installed", "docker: not installed")
    assert "apt-get install podman" in caught.value.hint


def test_limits_of_our_own_are_used_where_the_default_ones_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse = "echo 'crun: setrlimit: Operation not permitted' >&2; exit 126"
    program(tmp_path, "podman", f'case "$*" in run*--ulimit*) ;; run*) {refuse} ;; esac')
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("BAKE_ENGINE", "podman")
    engine = find_engine()
    assert engine.limits[0] == "--ulimit"
    assert engine.note == "podman with its default runtime and explicit limits"


def test_other_runtime_is_used_where_the_default_one_does_not_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse = "echo 'crun: cgroups in hybrid mode not supported' >&2; exit 126"
    program(tmp_path, "podman", f'case "$*" in *"runc run "*) ;; "run "*) {refuse} ;; esac')
    program(tmp_path, "runc", "true")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("BAKE_ENGINE", "podman")
    assert find_engine().global_arguments == ("--runtime", "runc")


def test_an_engine_that_does_not_work_is_an_error_with_every_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(
        tmp_path, "podman", "case $1 in import) ;; *) echo 'no user namespaces' >&2; exit 1; esac"
    )
    program(tmp_path, "docker", "echo 'Cannot connect to the Docker daemon' >&2; exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(LocalCloudError) as caught:
        find_engine()
    said = "\n".join(caught.value.details)
    assert "no user namespaces" in said
    assert "Cannot connect to the Docker daemon" in said


def test_program_that_is_tried_is_one_that_the_kernel_runs(tmp_path: Path) -> None:
    (tmp_path / "root.tar").write_bytes(engine_module._tiny_root())
    subprocess.run(["tar", "-xf", "root.tar"], cwd=tmp_path, check=True)
    assert subprocess.run([str(tmp_path / "true")]).returncode == 0


@pytest.mark.parametrize(
    ("problem", "hint"),
    [
        ("import failed: write /tmp/podman1: no space left on device", "Free space"),
        ("exec format error", "Install Podman"),
    ],
)
def test_a_full_disk_is_no_reason_to_install_an_engine(
    problem: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "_try_out", lambda _: problem)
    monkeypatch.setattr("shutil.which", lambda name, path=None: f"/usr/bin/{name}")

    with pytest.raises(LocalCloudError) as caught:
        find_engine()
    assert caught.value.hint.startswith(hint)

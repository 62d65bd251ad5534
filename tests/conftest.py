"""Fixtures of all tests: no credentials, home or state of the person who runs them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.support.environment import REPOSITORY, scrub, use_local_cloud

if TYPE_CHECKING:
    from tests.support.kitchen import Kitchen, Witness

MACHINES = REPOSITORY / "tests" / "machines"

# A computer that does something else, too, is no failure (deadline). `make test` tries the same
# examples every time, so that what it says is about the change; `make soak` looks for new ones.
settings.register_profile("explore", deadline=None)
settings.register_profile("repeat", deadline=None, derandomize=True)
settings.load_profile("repeat")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests in tests/machines with `machines`."""
    for item in items:
        if item.path.is_relative_to(MACHINES):
            item.add_marker(pytest.mark.machines)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scrub(monkeypatch, tmp_path / "home")


@pytest.fixture(autouse=True)
def usual_signals() -> Iterator[None]:
    """Handle signals as in a person's shell; background processes ignore some of them."""
    usual = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
    }
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def local_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Start a local cloud for the tests, with base images; yield its BAKE_HOME."""
    from bake import catalog
    from bake.local import control, standin
    from bake.local.machines import os_images

    with pytest.MonkeyPatch.context() as monkeypatch:
        scrub(monkeypatch, tmp_path_factory.mktemp("local") / "home")
        home = Path(os.environ["BAKE_HOME"])
        endpoint = control.up()
        try:
            ubuntu = catalog.load().os_image("ubuntu-18.04")
            os_images.provide(endpoint, ubuntu, stand_in=True, files=standin.machine_files())
            yield home
        finally:
            control.down(erase=True)
            standin.down()


@pytest.fixture
def local_cloud(local_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set the environment of a user of the tests' local cloud; return its BAKE_HOME."""
    use_local_cloud(monkeypatch, local_home)
    return local_home


@pytest.fixture
def witness() -> Iterator[Witness]:
    from tests.support.kitchen import Witness

    witness = Witness()
    yield witness
    witness.close()


@pytest.fixture
def kitchen(local_cloud: Path, tmp_path: Path, witness: Witness) -> Iterator[Kitchen]:
    """A kitchen; its images and checkpoints are removed, and nothing else may be left."""
    import boto3

    from bake.local import control
    from tests.support.kitchen import Kitchen
    from tests.support.leftovers import held

    endpoint = control.status()
    assert endpoint is not None
    before = held()
    yield Kitchen(tmp_path / "kitchen", witness, endpoint.request("status")["computer_address"])
    after = held()
    ec2 = boto3.client("ec2")
    for image_id in {*after.pop("images", [])} - {*before.get("images", [])}:
        ec2.deregister_image(ImageId=image_id)
    for snapshot_id in {*after.pop("snapshots", [])} - {*before.get("snapshots", [])}:
        ec2.delete_snapshot(SnapshotId=snapshot_id)
    assert after == {k: v for k, v in before.items() if k not in ("images", "snapshots")}

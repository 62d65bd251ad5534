"""The benchmark, with Packer and real machines."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bake import catalog
from bake.aws.checkpoint import checkpoints
from bake.aws.client.session import connect
from bake.local import control
from bake.local.machines import os_images
from benchmarks import work
from benchmarks.cloud import LocalCloud
from benchmarks.scenarios import BAKE, PACKER, Bench


@pytest.mark.skipif(shutil.which("packer") is None, reason="Packer is not installed")
def test_bake_and_packer_do_the_same_work_on_machines_that_are_counted(
    local_cloud: Path, tmp_path: Path
) -> None:
    endpoint = control.status()
    assert endpoint
    base = os_images.provide(endpoint, catalog.load().os_image(work.BASE), stand_in=False)
    bench = Bench(LocalCloud(endpoint, base), tmp_path / "project", 0.2, 0.1, 4, 12)
    line = work.Recipe("line", tuple(bench.stage(name, edition="1") for name in ("one", "two")))
    found = {tool: bench.measure(tool, [line]) for tool in (BAKE, PACKER)}
    for measured in found.values():
        assert measured.machines == 1
        assert 0 < measured.machine_s < measured.wall_s
    images = {
        image["Name"].partition("/")[0]: image["ImageId"]
        for image in bench.cloud.ec2.describe_images(Owners=["self"])["Images"]
        if "/line/" in image["Name"]
    }
    assert images.keys() == {"bake", "packer"}
    ours = "".join(log.read_text() for log in sorted(bench.folder.glob("builds/*/*.log")))
    for said in (ours, (bench.folder / "packer.log").read_text()):
        assert "one is done" in said
        assert "two is done" in said
        assert "sealed: " in said
    for image_id in images.values():
        bench.cloud.ec2.deregister_image(ImageId=image_id, DeleteAssociatedSnapshots=True)
    for checkpoint in checkpoints(connect(), "line"):
        bench.cloud.ec2.delete_snapshot(SnapshotId=checkpoint.snapshot_id)

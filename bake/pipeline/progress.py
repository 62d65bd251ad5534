"""The durations of the steps of earlier bakes."""

from __future__ import annotations

from collections.abc import Sequence

from bake.aws.checkpoint import Checkpoint
from bake.aws.client.session import Cloud
from bake.aws.image import Image
from bake.aws.snapshot import copying_seconds
from bake.aws.tags import SECONDS, read_seconds, read_stages
from bake.plan.forecast import IMAGE, Earlier, Past

_LATEST = 20  # images, of which the duration of the snapshot is asked


def earlier_bakes(
    cloud: Cloud, images: Sequence[Image], checkpoints: Sequence[Checkpoint]
) -> list[Earlier]:
    """Return how long the stages of earlier bakes took, the newest first.

    An image does not tell how long EC2 took to create it; its snapshot does.
    """
    latest = [snapshot for image in images[:_LATEST] for snapshot in image.snapshot_ids]
    copying = copying_seconds(cloud, latest)

    def past(image: Image) -> Past:
        seconds = read_seconds(image.tags.get(SECONDS, ""))
        if copied := [copying[s] for s in image.snapshot_ids if s in copying]:
            seconds[IMAGE] = max(copied)
        return Past(image.recipe, read_stages(image.tags), seconds, image.payload)

    return [*map(past, images), *checkpoints]

"""The earlier bakes of a region: how long their steps took, and the stages of their images."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from bake.aws.checkpoint import Checkpoint
from bake.aws.client.session import Cloud
from bake.aws.image import Image, images
from bake.aws.snapshot import copying_seconds
from bake.aws.tags import SECONDS, read_seconds, read_stages
from bake.plan.changes import unchanged_stages
from bake.plan.forecast import IMAGE, Course, Earlier, Past, course
from bake.plan.plan import Plan

_LATEST = 20  # images, of which the duration of the snapshot is asked


@dataclass(frozen=True)
class History:
    """Earlier bakes, the newest first. `earlier` has their times, also of failed ones."""

    images: tuple[Image, ...] = ()
    earlier: tuple[Earlier, ...] = ()

    def last_image(self, plan: Plan) -> Image | None:
        """Return the newest available image of the plan's recipe and payload."""
        wanted = (plan.recipe.name, plan.payload.name, "available")
        found = (i for i in self.images if (i.recipe, i.payload, i.state) == wanted)
        return next(found, None)

    def first_stages(
        self, plan: Plan, held: Collection[str], *, fresh: bool = False
    ) -> frozenset[str]:
        """Return the stages that run before the others, from a start point that holds `held`.

        A `fresh` bake has no such order: it repeats everything.
        """
        last = None if fresh else self.last_image(plan)
        return unchanged_stages(plan, read_stages(last.tags) if last else {}, held)

    def course(self, plan: Plan, held: Collection[str], *, fresh: bool = False) -> Course:
        """Return the expected course of a bake, with the stages that run first."""
        return course(plan, self.earlier, self.first_stages(plan, held, fresh=fresh))


def read_history(cloud: Cloud, checkpoints: Sequence[Checkpoint]) -> History:
    """Read the images of a region. `checkpoints` are those that are known already."""
    found = images(cloud)
    return History(tuple(found), (*_past(cloud, found), *checkpoints))


def _past(cloud: Cloud, found: Sequence[Image]) -> list[Past]:
    """Return how long the stages of these images took.

    An image does not tell how long EC2 took to create it; its snapshot does.
    """
    latest = [snapshot for image in found[:_LATEST] for snapshot in image.snapshot_ids]
    copying: Mapping[str, float] = copying_seconds(cloud, latest)

    def past(image: Image) -> Past:
        seconds = read_seconds(image.tags.get(SECONDS, ""))
        if copied := [copying[s] for s in image.snapshot_ids if s in copying]:
            seconds[IMAGE] = max(copied)
        return Past(image.recipe, read_stages(image.tags), seconds, image.payload)

    return list(map(past, found))

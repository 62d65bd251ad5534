"""Which finished images can be removed: old, unused ones, but never a recipe's last good one."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from bake.aws.client.session import Cloud
from bake.aws.image import Image, account_images, delete_image, images, shared_with
from bake.aws.image_references import find_machines_of, find_references, find_templates_of
from bake.aws.snapshot import tags_of_image_snapshots
from bake.aws.tags import DIGEST, RUN
from bake.console.format import rounded_duration
from bake.errors import BakeError, CloudError, RequestError

KEEP = 3
# An image that was launched within this time is kept, unless another time is given.
UNUSED = timedelta(days=30)
_PROVED = {"gpu", "cpu"}
_NOT_OFFERED = (
    "This region does not offer ec2:DescribeImageReferences: SSM parameters and Image Builder "
    "recipes that name an image were not looked for"
)


@dataclass(frozen=True)
class Verdict:
    """An image, and `why` it is kept; "" if it can be removed."""

    image: Image
    why: str = ""


@dataclass(frozen=True)
class ImageRemoval:
    """The removal of an image. `error` is set if AWS refused it."""

    image: Image
    error: BakeError | None = None


def judge(
    cloud: Cloud,
    recipe: str | None = None,
    *,
    keep: int = KEEP,
    older_than: timedelta | None = None,
    now: datetime | None = None,
    is_current: Callable[[Image], bool] = lambda image: False,
    on_warning: Callable[[str], None] = lambda text: None,
) -> list[Verdict]:
    """Decide for each available image of the recipe, or of all, whether it is kept; newest first.

    `is_current` tells whether an image is what its recipe makes now.

    Nothing is changed. CloudError if AWS does not tell what uses an image: then none is removed.
    `on_warning` gets what this region cannot tell.
    """
    now = now or cloud.now()
    available = [i for i in images(cloud, recipe) if i.state == "available" and i.recipe]
    why = kept_as_foreign(cloud, available)
    # An image that bake did not make does not replace one that it did.
    baked = [image for image in available if image.image_id not in why]
    why |= kept_as_current(baked, is_current)
    why |= kept_by_itself(baked, lately=older_than or UNUSED, now=now)
    why |= kept_by_age(baked, keep=keep, older_than=older_than, now=now)
    candidates = [image for image in baked if image.image_id not in why]
    why |= kept_by_users(cloud, candidates, on_warning)
    return [Verdict(image, why.get(image.image_id, "")) for image in available]


def remove(
    cloud: Cloud,
    verdicts: Iterable[Verdict],
    *,
    on_image: Callable[[str], None] = lambda text: None,
) -> list[ImageRemoval]:
    """Remove the images that are not kept, with their snapshots.

    It is not an error if one no longer exists. A refusal does not stop the other removals.
    """
    removals = []
    for verdict in verdicts:
        if not verdict.why:
            on_image(verdict.image.image_id)
            removals.append(_remove(cloud, verdict.image))
    return removals


def check_keep(keep: int) -> None:
    """Raise RequestError for a number that would leave a recipe without an image."""
    if keep < 1:
        raise RequestError(
            f"Invalid value for --keep: {keep}", hint="Keep at least one image of each recipe"
        )


def read_age(text: str | None) -> timedelta | None:
    """Return the age that `30d`, `12h` or `2w` stands for; RequestError for any other text."""
    if text is None:
        return None
    found = re.fullmatch(r"([0-9]{1,5})(h|d|w)", text.strip())
    if not found:
        raise RequestError(
            f"Invalid age: {text!r}", hint="Give a number of hours, days or weeks: 12h, 30d, 2w"
        )
    unit = {"h": "hours", "d": "days", "w": "weeks"}[found[2]]
    return timedelta(**{unit: int(found[1])})


def kept_as_foreign(cloud: Cloud, available: Sequence[Image]) -> dict[str, str]:
    """Return why images are kept because bake did not make them, by id.

    A person's copy of an image may have all its tags, but a bake and `invoke copy` tag the
    snapshots in the same request, and copying an image copies no tags of snapshots.
    """
    tags = tags_of_image_snapshots(cloud) if available else {}

    def is_baked(image: Image) -> bool:
        wanted = (image.run_id, image.digest)
        made = [tags.get(snapshot_id, {}) for snapshot_id in image.snapshot_ids]
        return bool(made) and all((each.get(RUN), each.get(DIGEST)) == wanted for each in made)

    why = "not made by bake: its snapshots do not have its tags"
    return {image.image_id: why for image in available if not is_baked(image)}


def kept_by_age(
    available: Sequence[Image], *, keep: int, older_than: timedelta | None, now: datetime
) -> dict[str, str]:
    """Return why images are kept by their age, by id: the `keep` newest verified ones. Pure.

    Images of different proofs and payloads are counted separately: an image of stand-ins does not
    replace a real one, nor one that was proved on a CPU one that was proved on a GPU. If a recipe
    has no verified image, its newest is kept. So is each image younger than `older_than`.
    """
    alike = _alike(available)
    why: dict[str, str] = {}
    for (recipe, payload, proved), group in alike.items():
        if older_than is not None:
            young = [image for image in group if now - image.created_at < older_than]
            why |= {image.image_id: f"not {rounded_duration(older_than)} old" for image in young}
        if proved in _PROVED:
            newest = f"one of the {keep} newest" if keep > 1 else "the newest"
            why |= {image.image_id: newest for image in group[:keep]}
        elif not any((recipe, payload, better) in alike for better in _PROVED):
            why[group[0].image_id] = "the recipe has no verified one"
    return why


def kept_as_current(
    available: Sequence[Image], is_current: Callable[[Image], bool]
) -> dict[str, str]:
    """Return why images are kept because a bake would reuse them, by id. Pure.

    It is the newest such image of each recipe, payload and proof. It is not always one of the
    newest images: the recipe or a script may have been changed, baked, and changed back.
    """
    current = (next(filter(is_current, group), None) for group in _alike(available).values())
    return {image.image_id: "what the recipe makes now" for image in current if image}


def _alike(available: Sequence[Image]) -> dict[tuple[str, str, str], list[Image]]:
    """Return the images by recipe, payload and proof, each group with the newest first."""
    alike: dict[tuple[str, str, str], list[Image]] = defaultdict(list)
    for image in sorted(available, key=lambda image: image.created_at, reverse=True):
        proved = image.verified if image.verified in _PROVED else "no"
        alike[image.recipe, image.payload, proved].append(image)
    return alike


def kept_by_itself(
    available: Iterable[Image], *, lately: timedelta, now: datetime
) -> dict[str, str]:
    """Return why images are kept according to EC2's description of them, by id. Pure.

    They are protected, public, or were launched `lately`.
    """
    why = {}
    for image in available:
        if image.protected:
            why[image.image_id] = "protected from deregistration"
        elif image.public:
            why[image.image_id] = "public"
        elif image.launched_at is not None and now - image.launched_at < lately:
            why[image.image_id] = f"launched {rounded_duration(now - image.launched_at)} ago"
    return why


def kept_by_users(
    cloud: Cloud,
    candidates: Sequence[Image],
    on_warning: Callable[[str], None] = lambda text: None,
) -> dict[str, str]:
    """Return why images are kept because something uses them, by id.

    That is a machine, any version of a launch template, an SSM parameter, a recipe of Image
    Builder, another image, or an account with which it is shared.
    """
    if not candidates:
        return {}
    ids = {image.image_id for image in candidates}
    references = find_references(cloud, ids)
    if references is None:
        on_warning(_NOT_OFFERED)
    users = dict(references or {})
    users |= dict(find_templates_of(cloud, ids))
    users |= dict(find_machines_of(cloud, ids))
    why = {image_id: f"{user} uses it" for image_id, user in users.items()}
    contain = _users_of_snapshots(cloud)
    for image in candidates:
        others = {user for snapshot in image.snapshot_ids for user in contain.get(snapshot, ())}
        if others - {image.image_id}:
            why[image.image_id] = f"{min(others - {image.image_id})} has its snapshot"
    for image in candidates:
        if image.image_id not in why and shared_with(cloud, image.image_id):
            why[image.image_id] = "shared with others"
    return why


def _users_of_snapshots(cloud: Cloud) -> Mapping[str, set[str]]:
    """Return the ids of the images that contain each snapshot."""
    users: dict[str, set[str]] = defaultdict(set)
    for image in account_images(cloud):
        for snapshot_id in image.snapshot_ids:
            users[snapshot_id].add(image.image_id)
    return users


def _remove(cloud: Cloud, image: Image) -> ImageRemoval:
    try:
        delete_image(cloud, image)
    except CloudError as error:
        return ImageRemoval(image, error)
    return ImageRemoval(image)

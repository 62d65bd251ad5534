"""Everything that AWS can refuse about a bake, asked before anything is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from bake import catalog
from bake.aws.base_image import BaseImage, find_base_image
from bake.aws.client.session import Cloud
from bake.aws.image import check_name
from bake.aws.placement import Placement
from bake.aws.placement_search import PlacementSearch, find_placements
from bake.errors import CloudError, Finding, PreflightError, RequestError
from bake.recipe.recipe import Recipe

T = TypeVar("T")


@dataclass(frozen=True)
class PreflightResult:
    """What a bake stands on. `warnings` stop nothing: a type left out, a quota that is hidden."""

    base_image: BaseImage
    placements: tuple[Placement, ...]
    warnings: tuple[Finding, ...] = ()


def preflight(
    cloud: Cloud,
    recipe: Recipe,
    base_image: BaseImage | None = None,
    *,
    image_name: str | None = None,
    owner: str | None = None,
    locked: str = "",
    subnet_id: str | None = None,
) -> PreflightResult:
    """The base image and the placements for this recipe's builder.

    `base_image` is asked for where it is not known yet; `owner` takes the place of its owner in the
    catalog, and `locked` is the only one that will do. PreflightError holds all findings at once,
    refusals of AWS to answer among them.
    """
    findings: list[Finding] = []
    nothing = PlacementSearch((), ())
    os_image = catalog.load().os_image(recipe.base)
    base_image = base_image or _ask(
        findings, "base", lambda: find_base_image(cloud, os_image, owner, locked=locked), None
    )
    found = _ask(
        findings,
        "builder",
        lambda: find_placements(
            cloud,
            recipe.builder.instance_types,
            market=recipe.builder.market,
            image=base_image,
            subnet_id=subnet_id,
        ),
        nothing,
    )
    if not found.placements:
        findings += found.findings
    if image_name:
        findings += _ask(findings, "name", lambda: check_name(cloud, image_name), [])
    if base_image and recipe.builder.disk_gb < base_image.size_gb:
        message = f"{recipe.builder.disk_gb} GB is less than the base image's {base_image.size_gb}"
        hint = f"At least {base_image.size_gb}, and what is installed on top of it"
        findings.append(Finding("builder.disk_gb", message, hint))
    if findings or base_image is None:
        raise PreflightError(f"Nothing can be baked in {cloud.region} yet", findings=findings)
    return PreflightResult(base_image, found.placements, found.findings)


def _ask(findings: list[Finding], place: str, question: Callable[[], T], otherwise: T) -> T:
    """The answer, or `otherwise` with a finding, so that the next question is asked too."""
    try:
        return question()
    except RequestError as error:
        findings += error.findings or [Finding(place, error.message, error.hint)]
    except CloudError as error:
        said = ": ".join(part for part in (error.message, error.code, error.reason) if part)
        findings.append(Finding(place, said, error.hint))
    return otherwise

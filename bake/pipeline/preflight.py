"""The checks of everything that AWS can refuse about a bake, before anything is created."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from bake.aws.base_image import BaseImage
from bake.aws.client.credentials import CredentialsEnd
from bake.aws.client.session import Cloud
from bake.aws.image_creation import find_name_in_use
from bake.aws.placement import Placement
from bake.aws.placement_search import PlacementSearch, find_placements
from bake.console.format import rounded_duration
from bake.errors import CloudError, Finding, PreflightError, RequestError
from bake.pipeline.base import find_base
from bake.recipe.compatibility import accepted_unknowns
from bake.recipe.payload import UPSTREAM, Payload
from bake.recipe.resolved import Resolved
from bake.recipe.support import check_support

T = TypeVar("T")


@dataclass(frozen=True)
class PreflightResult:
    """The base image and the possible placements of a bake's builder.

    `warnings` do not prevent the bake: an instance type that was left out, a quota that AWS hides,
    credentials that may end too early, an operating system without security updates.
    """

    base_image: BaseImage
    placements: tuple[Placement, ...]
    warnings: tuple[Finding, ...] = ()


def preflight(
    cloud: Cloud,
    resolved: Resolved,
    base_image: BaseImage | None = None,
    *,
    payload: Payload = UPSTREAM,
    image_name: str | None = None,
    locked: str = "",
    here: str = "",
    subnet_id: str | None = None,
) -> PreflightResult:
    """Find the base image and the placements for this recipe's builder.

    `base_image` is looked up if it is None; `locked` is the id of the only image that is accepted,
    and `here` is the option that makes a command use the same cloud.
    PreflightError with all findings at once, also those that come from a request which AWS refused.
    """
    findings: list[Finding] = []
    recipe, os_image = resolved.recipe, resolved.os_image
    base_image = base_image or _try(
        findings, "base", lambda: find_base(cloud, resolved, payload, locked, here=here), None
    )
    found = _try(
        findings,
        "builder",
        lambda: find_placements(
            cloud,
            recipe.builder.instance_types,
            market=recipe.builder.market,
            image=base_image,
            subnet_id=subnet_id,
        ),
        PlacementSearch((), ()),
    )
    if not found.placements:
        findings += found.findings
    if image_name:
        findings += _try(findings, "name", lambda: find_name_in_use(cloud, image_name), [])
    if base_image:
        findings += check_disk(recipe.builder.disk_gb, base_image)
    if findings or base_image is None:
        raise PreflightError(f"Nothing can be baked in {cloud.region} yet", findings=findings)
    early = check_credentials(cloud.credentials_end(), cloud.now(), recipe.builder.timeout_hours)
    support = check_support(os_image, cloud.now().date())
    unknown = accepted_unknowns(resolved) if resolved.unchecked else []
    warnings = (*found.findings, *early, *support, *unknown)
    return PreflightResult(base_image, found.placements, warnings)


def check_credentials(
    end: CredentialsEnd | None, now: datetime, timeout_hours: float
) -> list[Finding]:
    """Return a finding if the credentials end before the bake has to. Pure.

    Credentials whose end is unknown are not reported here, but by the doctor.
    """
    if end is None or end.at is None or end.at - now >= timedelta(hours=timeout_hours):
        return []
    message = (
        f"the AWS credentials end in {rounded_duration(end.at - now)}, but the bake may take "
        f"{timeout_hours:g} h (builder.timeout_hours)"
    )
    hint = (
        "If they end during the bake, its image cannot be made, and its machine stays until it "
        "ends by itself. Get credentials that last longer, or that are renewed (docs/accounts.md)"
    )
    return [Finding("credentials", message, hint)]


def check_disk(disk_gb: int, base_image: BaseImage) -> list[Finding]:
    """Return a finding if the base image does not fit on the disk. Pure."""
    if disk_gb >= base_image.size_gb:
        return []
    message = f"{disk_gb} GB is less than the base image's {base_image.size_gb}"
    hint = f"Give at least {base_image.size_gb} GB, and room for everything that is installed"
    return [Finding("builder.disk_gb", message, hint)]


def _try(findings: list[Finding], place: str, request: Callable[[], T], otherwise: T) -> T:
    """Return the result of `request`, or add a finding and return `otherwise`.

    So the next request is made, too, and all findings are reported together.
    """
    try:
        return request()
    except RequestError as error:
        findings += error.findings or [Finding(place, error.message, error.hint)]
    except CloudError as error:
        findings.append(Finding(place, error.full_message, error.hint))
    return otherwise

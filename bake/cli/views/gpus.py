"""GPU machines and quotas: tables, lines and JSON documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from bake.aws.quota import IncreaseRequest, Quota, QuotaRequest, quota_code
from bake.catalog import Catalog, InstanceType
from bake.cli.documents.document import ErrorPart
from bake.cli.documents.gpus import GpusDocument, OfferEntry, QuotaDocument, QuotaEntry
from bake.cli.views.machines import show_unknown
from bake.console.console import Console
from bake.console.format import rate, rounded_duration
from bake.errors import CloudError
from bake.machine.gpus import MARKETS, Offer, Survey, describe_vcpus, exhausted_quotas, memory_gb

# Higher numbers of machines are shown as `99+`.
_MANY = 99
# The instance type whose quota is raised if none is named.
USUAL = "g4dn.xlarge"


# GPU machines ------------------------------------------------------------------------------------


def show_gpus(console: Console, found: Survey, quota_command: str) -> None:
    """Show GPU machines. `quota_command` is the beginning of a command that raises a quota."""
    offers = found.offers
    columns = ["type", "n", "GPU", "GB", "cap", "CUDA", "left", "$/h", "spot"]
    more = ["$/h GPU", "spot in", "vCPU", "RAM GB", "zones"]
    console.table(
        columns + more,
        [_row(offer, found) for offer in offers],
        empty="No such GPU machine. Leave out a filter, or show retired families too: --all",
        right=("n", "GB", "cap", "$/h", "spot", "$/h GPU", "vCPU", "RAM GB"),
        fold=("GPU",),
        optional=len(more),
    )
    entries = tuple(OfferEntry.of_offer(offer, found) for offer in offers)
    console.result(GpusDocument(offers=entries, unknown=_unknown(found.refusals)))
    if offers and not console.json:
        _explain(console, found, quota_command)


def _explain(console: Console, found: Survey, quota_command: str) -> None:
    """Explain the columns, and note the quotas that are too low and the values not known."""
    console.note(
        "n, GB: GPUs, and the memory of each. cap: compute capability. left: how many of these "
        "machines your quotas still allow, on-demand/spot. $/h GPU: the lower price, for each GPU."
    )
    short = exhausted_quotas(found)
    if short:
        console.note(
            "Some quotas are too low for even one of these machines. To request more:",
            *(
                f"  {quota_command} --type {machine.name}{' --spot' if market == 'spot' else ''} "
                f"--raise {quota.used + machine.vcpus}"
                for quota, market, machine in short
            ),
        )
    spot_unknown = {
        offer.machine.family
        for offer in found.offers
        if quota_code(offer.machine.name, "spot") is None
    }
    if spot_unknown:
        families = ", ".join(sorted(spot_unknown))
        console.note(f"The quota that counts spot machines of {families} is not known.")
    show_unknown(console, found.refusals)


def _row(offer: Offer, found: Survey) -> list[str]:
    machine = offer.machine
    per_gpu = None if offer.cheapest is None else offer.cheapest / max(machine.gpus, 1)
    cheapest = min(offer.spot, key=lambda zone: offer.spot[zone], default="-")
    return [
        machine.name,
        str(machine.gpus) if machine.gpus else "<1",
        machine.gpu,
        str(memory_gb(machine)),
        machine.capability,
        f"{offer.cuda[0]}-{offer.cuda[-1]}" if offer.cuda else "none",
        _left(offer),
        _rate(offer.on_demand, "on-demand" in found.priced),
        _rate(offer.cheapest_spot, "spot" in found.priced),
        _rate(per_gpu if machine.gpus else None, len(found.priced) == len(MARKETS)),
        cheapest,
        str(machine.vcpus),
        str(machine.memory_mib // 1024),
        "?" if offer.zones is None else " ".join(zone[-1] for zone in offer.zones) or "-",
    ]


def _left(offer: Offer) -> str:
    if offer.zones == ():
        return "retired" if offer.machine.retired else "not here"
    if offer.zones is None and set(offer.left.values()) == {None}:
        return "?"
    return "/".join(
        "?" if left is None else f"{_MANY}+" if left > _MANY else str(left)
        for left in (offer.left[market] for market in MARKETS)
    )


def _rate(usd: float | None, priced: bool) -> str:
    """Return a price; without one, `-` if AWS does not sell it so, `?` if no price is known."""
    return rate(usd) if usd is not None else "-" if priced else "?"


def _unknown(errors: Sequence[CloudError]) -> tuple[ErrorPart, ...]:
    """Return each reason for an unknown value once."""
    parts = (ErrorPart.of_error(error) for error in errors)
    return tuple(dict.fromkeys(part for part in parts if part))


# Quotas ------------------------------------------------------------------------------------------


def show_quotas(
    console: Console,
    catalog: Catalog,
    quotas: Mapping[str, Quota | CloudError],
    requests: Mapping[str, Sequence[QuotaRequest] | CloudError],
    now: datetime,
    machine: InstanceType | None,
    command: str,
) -> None:
    """Show quotas in vCPUs, and with `machine`, how many of that machine they allow.

    `command` is the beginning of a command that raises a quota.
    """
    console.table(
        ["quota", "vCPUs", "in use", "request", "code", "for"],
        [
            [
                *_quota_row(code, quotas[code], requests[code], now),
                code,
                " ".join(_families(catalog, code)),
            ]
            for code in quotas
        ],
        empty="No quota is known that counts it.",
        right=("vCPUs", "in use"),
        fold=("quota", "request"),
        optional=2,
    )
    entries = tuple(
        QuotaEntry.of_quota(code, quotas[code], requests[code], _families(catalog, code))
        for code in quotas
    )
    known = (*quotas.values(), *requests.values())
    errors = [each for each in known if isinstance(each, CloudError)]
    console.result(QuotaDocument(quotas=entries, unknown=_unknown(errors), is_new_request=None))
    if console.json:
        return
    for quota in quotas.values():
        if machine and isinstance(quota, Quota):
            console.note(f"{quota.name}: {describe_vcpus(quota.vcpus, machine)}")
    example = machine.name if machine else USUAL
    console.note(
        "To request an increase of a quota to N vCPUs in all:",
        f"  {command} --type {example} [--spot] --raise N",
    )
    show_unknown(console, errors)


def _quota_row(
    code: str,
    quota: Quota | CloudError,
    requests: Sequence[QuotaRequest] | CloudError,
    now: datetime,
) -> list[str]:
    request = "?" if isinstance(requests, CloudError) else _newest(requests, now)
    if isinstance(quota, CloudError):
        return [code, "?", "?", request]
    return [quota.name, str(quota.vcpus), str(quota.used), request]


def show_increase(
    console: Console,
    catalog: Catalog,
    increase: IncreaseRequest,
    quota: Quota,
    machine: InstanceType,
) -> None:
    request = increase.request
    what = "Requested an increase of" if increase.made else "An increase is already pending for"
    case = f", support case {request.case_id}" if request.case_id else ""
    status = request.status.lower().replace("_", " ")
    console.result(
        QuotaDocument.of_increase(increase, quota, _families(catalog, quota.code)),
        f"{what} '{quota.name}'",
        f"({quota.code}) from {quota.vcpus} to {describe_vcpus(request.vcpus, machine)}.",
        f"The request is {status}{case}. AWS decides within minutes or days.",
    )


def _families(catalog: Catalog, code: str) -> list[str]:
    """Return the GPU families that a quota counts or, without any, the letters of its families."""
    found = [
        each.family
        for each in catalog.instance_types.values()
        if code in (each.quota_code, each.spot_quota_code) and not each.retired
    ]
    letters = [x for q in catalog.quotas if code in (q.on_demand, q.spot) for x in q.letters]
    return list(dict.fromkeys(found or letters))


def _newest(requests: Sequence[QuotaRequest], now: datetime) -> str:
    """Return the newest request, unless AWS has approved it."""
    if not requests or requests[0].status == "APPROVED":
        return "-"
    newest = requests[0]
    status = "case open" if newest.status == "CASE_OPENED" else newest.status.lower()
    age = rounded_duration(now - newest.created_at)
    return f"{newest.vcpus}: {status.replace('_', ' ')}, {age} ago"

"""Quotas of vCPUs: how many are in use, and requests for a higher quota.

One quota counts the vCPUs of several families of instance types; each market has its own quotas.
https://docs.aws.amazon.com/servicequotas/2019-06-24/apireference/
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

from bake import catalog
from bake.aws.client.response import Response
from bake.aws.client.session import Cloud, filters_for, pages
from bake.aws.placement import Market
from bake.errors import CloudError, RequestError
from bake.threads import together

# RequestedServiceQuotaChange, "Status": AWS has not decided yet.
_OPEN = frozenset({"PENDING", "CASE_OPENED"})
_USE_CONSOLE = (
    "Use the Service Quotas console instead (AWS services, Amazon EC2, the name of the quota)"
)
# RequestServiceQuotaIncrease, "Errors": message and hint for each.
_ERRORS = {
    "DependencyAccessDeniedException": (
        "Service Quotas has no permission to call EC2 or AWS Support for this account",
        "Ask an administrator of the account or its organization to allow it, or to request it",
    ),
    "NoSuchResourceException": (
        "This region has no such quota",
        "To list the quotas: aws service-quotas list-service-quotas --service-code ec2",
    ),
    "QuotaExceededException": (
        "This account has too many open requests for quotas",
        "Wait until AWS has decided about some of them",
    ),
    "IllegalArgumentException": ("AWS does not accept this value", _USE_CONSOLE),
    "InvalidResourceStateException": ("The quota cannot be changed at this moment", _USE_CONSOLE),
}


@dataclass(frozen=True)
class Quota:
    """A quota of vCPUs for some families of instance types in one market.

    `used` are the vCPUs of the machines that are running now.
    """

    code: str
    name: str
    vcpus: int
    used: int

    @property
    def free(self) -> int:
        return self.vcpus - self.used


@dataclass(frozen=True)
class QuotaRequest:
    """A request to raise a quota to `vcpus`. `status` has the values of AWS's API."""

    id: str
    code: str
    vcpus: int
    status: str
    created_at: datetime
    case_id: str = ""

    @property
    def is_open(self) -> bool:
        return self.status in _OPEN


@dataclass(frozen=True)
class IncreaseRequest:
    """The request for a higher quota; `made` is False if it was already open before."""

    request: QuotaRequest
    made: bool


def quota_code(instance_type: str, market: Market) -> str | None:
    """Return the code of the quota that counts this type; None if it is not known."""
    facts = catalog.load()
    if known := facts.instance_types.get(instance_type):
        return (known.spot_quota_code if market == "spot" else known.quota_code) or None
    quota = facts.vcpu_quota(instance_type)
    return (quota.spot if market == "spot" else quota.on_demand) or None if quota else None


def gpu_quotas() -> dict[str, Market]:
    """Return the codes of the quotas for the GPU machines of the catalog, with their markets."""
    types = catalog.load().instance_types.values()
    on_demand: dict[str, Market] = {each.quota_code: "on-demand" for each in types}
    on_spot: dict[str, Market] = {e.spot_quota_code: "spot" for e in types if e.spot_quota_code}
    return on_demand | on_spot


def read_quota(cloud: Cloud, code: str, market: Market) -> Quota:
    """Return one quota. CloudError if it cannot be read: it needs its own permission."""
    [found] = read_quotas(cloud, {code: market}).values()
    if isinstance(found, CloudError):
        raise found
    return found


def read_quotas(cloud: Cloud, codes: Mapping[str, Market]) -> dict[str, Quota | CloudError]:
    """Read several quotas at the same time; an unreadable one is replaced by its error."""
    if not codes:
        return {}
    used, *quotas = together(
        partial(_used, cloud, codes), *(partial(_read, cloud, code) for code in codes)
    )
    return {
        code: replace(found, used=used[code]) if isinstance(found, Quota) else found
        for code, found in zip(codes, quotas, strict=True)
    }


def requests(cloud: Cloud, code: str) -> list[QuotaRequest]:
    """Return the requests to raise a quota, the newest first."""
    found = pages(
        cloud.quotas,
        "ListRequestedServiceQuotaChangeHistoryByQuota",
        "RequestedQuotas",
        ServiceCode="ec2",
        QuotaCode=code,
    )
    return sorted(map(_request, found), key=lambda each: each.created_at, reverse=True)


def read_requests(cloud: Cloud, codes: Iterable[str]) -> dict[str, list[QuotaRequest] | CloudError]:
    """Return the requests of several quotas; an error where they could not be read."""

    def read(code: str) -> list[QuotaRequest] | CloudError:
        try:
            return requests(cloud, code)
        except CloudError as error:
            return error

    wanted = list(codes)
    return dict(zip(wanted, together(*(partial(read, code) for code in wanted)), strict=True))


def request_increase(cloud: Cloud, quota: Quota, vcpus: int) -> IncreaseRequest:
    """Request a quota of `vcpus`. AWS decides about it within minutes or days.

    AWS accepts one open request for each quota. If one for as many vCPUs or more is open, it is
    returned; if it is for fewer, or if the quota is already that high, RequestError.
    """
    if vcpus <= quota.vcpus:
        raise RequestError(
            f"The quota '{quota.name}' ({quota.code}) is already {quota.vcpus} vCPUs",
            hint=f"Request more than that. {quota.used} vCPUs are in use",
        )
    if pending := _open_request(cloud, quota, vcpus):
        return IncreaseRequest(pending, made=False)
    try:
        response = cloud.quotas(
            "RequestServiceQuotaIncrease",
            ServiceCode="ec2",
            QuotaCode=quota.code,
            DesiredValue=float(vcpus),
        )
    except CloudError as error:
        # Another process was faster, or boto has repeated a request whose response was lost.
        if error.code == "ResourceAlreadyExistsException" and (
            pending := _open_request(cloud, quota, vcpus)
        ):
            return IncreaseRequest(pending, made=False)
        raise _explained(error, quota) from None
    return IncreaseRequest(_request(response["RequestedQuota"]), made=True)


def how_to_raise(cloud: Cloud, instance_type: str, market: Market, vcpus: int) -> str:
    """Return a hint with the command that requests this many vCPUs for the type."""
    spot = " --spot" if market == "spot" else ""
    command = f"invoke quota --region {cloud.region} --type {instance_type}{spot}"
    return f"To request more, which may take a day: {command} --raise {vcpus}"


def _open_request(cloud: Cloud, quota: Quota, vcpus: int) -> QuotaRequest | None:
    found = next((each for each in requests(cloud, quota.code) if each.is_open), None)
    if found and found.vcpus < vcpus:
        case = f" (support case {found.case_id})" if found.case_id else ""
        raise RequestError(
            f"A request for {found.vcpus} vCPUs of '{quota.name}' ({quota.code}) is open{case}, "
            "and AWS accepts only one at a time",
            hint="Wait until AWS has decided (`invoke quota` shows the request)"
            + (", or ask for more in the support case" if found.case_id else ""),
        )
    return found


def _read(cloud: Cloud, code: str) -> Quota | CloudError:
    try:
        found = cloud.quotas("GetServiceQuota", ServiceCode="ec2", QuotaCode=code)["Quota"]
    except CloudError as error:
        return error
    return Quota(code, found.get("QuotaName", code), int(found["Value"]), used=0)


def _used(cloud: Cloud, codes: Mapping[str, Market]) -> dict[str, int]:
    """Return the vCPUs in use of each quota; 0 if they cannot be read."""
    used = dict.fromkeys(codes, 0)
    states = filters_for({"instance-state-name": ["pending", "running"]})
    try:
        for reservation in cloud.pages("DescribeInstances", "Reservations", Filters=states):
            for instance in reservation["Instances"]:
                spot = instance.get("InstanceLifecycle") == "spot"
                code = quota_code(instance["InstanceType"], "spot" if spot else "on-demand")
                if code in used:
                    used[code] += _vcpus(instance)
    except CloudError:
        return dict.fromkeys(codes, 0)  # RunInstances fails if the quota is too low
    return used


def _vcpus(instance: Response) -> int:
    cpu = instance.get("CpuOptions", {})
    if "CoreCount" in cpu:
        return int(cpu["CoreCount"] * cpu.get("ThreadsPerCore", 1))
    known = catalog.load().instance_types.get(instance["InstanceType"])
    return known.vcpus if known else 0


def _request(found: Response) -> QuotaRequest:
    return QuotaRequest(
        id=found["Id"],
        code=found["QuotaCode"],
        vcpus=int(found["DesiredValue"]),
        status=found["Status"],
        created_at=found["Created"],
        case_id=found.get("CaseId", ""),
    )


def _explained(error: CloudError, quota: Quota) -> CloudError:
    message, hint = _ERRORS.get(error.code, (error.message, error.hint))
    return CloudError(
        f"{message}: '{quota.name}' ({quota.code})",
        hint=hint,
        code=error.code,
        reason=error.reason,
    )

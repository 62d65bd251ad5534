"""How many vCPUs the account may still start, and asking for more.

A quota is of vCPUs, for several families of types together, and one market has one of its own.
https://docs.aws.amazon.com/servicequotas/2019-06-24/apireference/
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

from bake import catalog
from bake.aws.client.response import Response
from bake.aws.client.session import Cloud, pages
from bake.aws.placement import Market
from bake.errors import CloudError, RequestError
from bake.threads import together

# AWS documentation, "Amazon EC2 On-Demand Instance quotas" and "Spot Instance quotas":
# Standard (A, C, D, H, I, M, R, T, Z). Not inf, dl, hpc …: those have quotas of their own.
_STANDARD = re.compile(r"(a|c|d|h|i|im|is|m|r|t|z)\d")
_STANDARD_CODES: dict[Market, str] = {"on-demand": "L-1216C47A", "spot": "L-34B43A08"}
# RequestedServiceQuotaChange, "Status": those on which AWS has not decided.
_OPEN = frozenset({"PENDING", "CASE_OPENED"})
_OTHERWISE = (
    "Ask in the Service Quotas console instead (AWS services, Amazon EC2, the quota's name)"
)
# RequestServiceQuotaIncrease, "Errors": what each means here, and what to do.
_REFUSALS = {
    "DependencyAccessDeniedException": (
        "Service Quotas may not ask EC2 or AWS Support in this account's name",
        "Who administers the account or its organization has to allow it, or to ask",
    ),
    "NoSuchResourceException": (
        "There is no such quota in this region",
        "aws service-quotas list-service-quotas --service-code ec2 lists those that there are",
    ),
    "QuotaExceededException": (
        "Too many requests for quotas are open in this account",
        "Wait until AWS has decided on some of them",
    ),
    "IllegalArgumentException": ("AWS does not accept this value", _OTHERWISE),
    "InvalidResourceStateException": ("The quota cannot be changed at this moment", _OTHERWISE),
}


@dataclass(frozen=True)
class Quota:
    """vCPUs of one family of instance types in one market; `used` is what runs now."""

    code: str
    name: str
    vcpus: int
    used: int

    @property
    def free(self) -> int:
        return self.vcpus - self.used


@dataclass(frozen=True)
class QuotaRequest:
    """That a quota be raised to `vcpus`. `status` is AWS's word for what has come of it."""

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
    """`made`: now; otherwise it was open already."""

    request: QuotaRequest
    made: bool


def quota_code(instance_type: str, market: Market) -> str | None:
    """The code in Service Quotas that counts this type; None where we do not know it."""
    known = catalog.load().instance_types.get(instance_type)
    if known:
        return (known.spot_quota_code if market == "spot" else known.quota_code) or None
    return _STANDARD_CODES[market] if _STANDARD.match(instance_type) else None


def gpu_quotas() -> dict[str, Market]:
    """The codes that count the catalog's GPU machines, each with its market."""
    types = catalog.load().instance_types.values()
    on_demand: dict[str, Market] = {each.quota_code: "on-demand" for each in types}
    on_spot: dict[str, Market] = {e.spot_quota_code: "spot" for e in types if e.spot_quota_code}
    return on_demand | on_spot


def read_quota(cloud: Cloud, code: str, market: Market) -> Quota:
    """CloudError when it may not be read: it is a separate permission and service."""
    [found] = read_quotas(cloud, {code: market}).values()
    if isinstance(found, CloudError):
        raise found
    return found


def read_quotas(cloud: Cloud, codes: Mapping[str, Market]) -> dict[str, Quota | CloudError]:
    """All at the same time; in its place, why one could not be read."""
    if not codes:
        return {}
    used, *answers = together(
        partial(_used, cloud, codes), *(partial(_read, cloud, code) for code in codes)
    )
    return {
        code: replace(found, used=used[code]) if isinstance(found, Quota) else found
        for code, found in zip(codes, answers, strict=True)
    }


def requests(cloud: Cloud, code: str) -> list[QuotaRequest]:
    """What was asked for, the newest first."""
    found = pages(
        cloud.quotas,
        "ListRequestedServiceQuotaChangeHistoryByQuota",
        "RequestedQuotas",
        ServiceCode="ec2",
        QuotaCode=code,
    )
    return sorted(map(_request, found), key=lambda each: each.created_at, reverse=True)


def read_requests(cloud: Cloud, codes: Iterable[str]) -> dict[str, list[QuotaRequest] | CloudError]:
    """Of several quotas, at the same time; in its place, why one could not be read."""

    def read(code: str) -> list[QuotaRequest] | CloudError:
        try:
            return requests(cloud, code)
        except CloudError as error:
            return error

    wanted = list(codes)
    return dict(zip(wanted, together(*(partial(read, code) for code in wanted)), strict=True))


def request_increase(cloud: Cloud, quota: Quota, vcpus: int) -> IncreaseRequest:
    """Raised to so many vCPUs; AWS decides, in minutes or days.

    AWS takes one request for a quota at a time: one that is open already, for as many or more, is
    the answer. RequestError where it is for less, or the quota is as high now.
    """
    if vcpus <= quota.vcpus:
        raise RequestError(
            f"The quota '{quota.name}' ({quota.code}) is {quota.vcpus} vCPUs already",
            hint=f"Ask for more than that. In use are {quota.used}",
        )
    already = _open_request(cloud, quota, vcpus)
    if already:
        return IncreaseRequest(already, made=False)
    try:
        answer = cloud.quotas(
            "RequestServiceQuotaIncrease",
            ServiceCode="ec2",
            QuotaCode=quota.code,
            DesiredValue=float(vcpus),
        )
    except CloudError as error:
        # Somebody was quicker; or boto has asked twice, as the first answer did not come.
        if error.code == "ResourceAlreadyExistsException" and (
            already := _open_request(cloud, quota, vcpus)
        ):
            return IncreaseRequest(already, made=False)
        raise _in_words(error, quota) from None
    return IncreaseRequest(_request(answer["RequestedQuota"]), made=True)


def how_to_raise(cloud: Cloud, instance_type: str, market: Market, vcpus: int) -> str:
    """A hint: what asks for so many vCPUs of the quota that counts this type."""
    if instance_type in catalog.load().instance_types:
        spot = " --spot" if market == "spot" else ""
        command = f"invoke quota --region {cloud.region} --type {instance_type}{spot}"
        return f"Ask AWS for more, which may take a day: {command} --raise {vcpus}"
    return (
        "Ask AWS for more, which may take a day: aws service-quotas "
        f"request-service-quota-increase --region {cloud.region} --service-code ec2 "
        f"--quota-code {quota_code(instance_type, market)} --desired-value {vcpus}"
    )


def _open_request(cloud: Cloud, quota: Quota, vcpus: int) -> QuotaRequest | None:
    found = next((each for each in requests(cloud, quota.code) if each.is_open), None)
    if found and found.vcpus < vcpus:
        case = f" (support case {found.case_id})" if found.case_id else ""
        raise RequestError(
            f"A request for {found.vcpus} vCPUs of '{quota.name}' ({quota.code}) is open{case}, "
            "and AWS takes one at a time",
            hint="Wait for its end (`invoke quota` shows it)"
            + (", or ask for more in that case" if found.case_id else ""),
        )
    return found


def _read(cloud: Cloud, code: str) -> Quota | CloudError:
    try:
        found = cloud.quotas("GetServiceQuota", ServiceCode="ec2", QuotaCode=code)["Quota"]
    except CloudError as error:
        return error
    return Quota(code, found.get("QuotaName", code), int(found["Value"]), used=0)


def _used(cloud: Cloud, codes: Mapping[str, Market]) -> dict[str, int]:
    """vCPUs that run now, of each."""
    used = dict.fromkeys(codes, 0)
    states = [{"Name": "instance-state-name", "Values": ["pending", "running"]}]
    try:
        for reservation in cloud.pages("DescribeInstances", "Reservations", Filters=states):
            for instance in reservation["Instances"]:
                spot = instance.get("InstanceLifecycle") == "spot"
                code = quota_code(instance["InstanceType"], "spot" if spot else "on-demand")
                if code in used:
                    used[code] += _vcpus(instance)
    except CloudError:
        return dict.fromkeys(codes, 0)  # then RunInstances itself is the judge
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


def _in_words(error: CloudError, quota: Quota) -> CloudError:
    message, hint = _REFUSALS.get(error.code, (error.message, error.hint))
    return CloudError(
        f"{message}: '{quota.name}' ({quota.code})",
        hint=hint,
        code=error.code,
        reason=error.reason,
    )

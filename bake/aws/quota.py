"""How many vCPUs the account may still start, and how to ask for more."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial

from bake import catalog
from bake.aws.market import Market
from bake.aws.session import Cloud
from bake.errors import CloudError
from bake.task_group import together

# AWS documentation, "Amazon EC2 On-Demand Instance quotas" and "Spot Instance quotas":
# Standard (A, C, D, H, I, M, R, T, Z). Not inf, dl, hpc …: those have quotas of their own.
_STANDARD = re.compile(r"(a|c|d|h|i|im|is|m|r|t|z)\d")
_STANDARD_CODES: dict[Market, str] = {"on-demand": "L-1216C47A", "spot": "L-34B43A08"}


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


def quota_code(instance_type: str, market: Market) -> str | None:
    """The code in Service Quotas that counts this type; None where we do not know it."""
    known = catalog.load().instance_types.get(instance_type)
    if known:
        return (known.spot_quota_code if market == "spot" else known.quota_code) or None
    return _STANDARD_CODES[market] if _STANDARD.match(instance_type) else None


def read_quota(cloud: Cloud, code: str, market: Market) -> Quota:
    """CloudError when it may not be read: it is a separate permission and service."""
    answer, used = together(
        partial(cloud.quotas, "GetServiceQuota", ServiceCode="ec2", QuotaCode=code),
        partial(_used, cloud, code, market),
    )
    found = answer["Quota"]
    return Quota(code=code, name=found.get("QuotaName", code), vcpus=int(found["Value"]), used=used)


def how_to_raise(cloud: Cloud, code: str, vcpus: int) -> str:
    return (
        "Ask AWS for more, which may take a day: aws service-quotas "
        f"request-service-quota-increase --region {cloud.region} --service-code ec2 "
        f"--quota-code {code} --desired-value {vcpus}"
    )


def _used(cloud: Cloud, code: str, market: Market) -> int:
    states = [{"Name": "instance-state-name", "Values": ["pending", "running"]}]
    used = 0
    try:
        for reservation in cloud.pages("DescribeInstances", "Reservations", Filters=states):
            for instance in reservation["Instances"]:
                lifecycle = "spot" if instance.get("InstanceLifecycle") == "spot" else "on-demand"
                if lifecycle == market and quota_code(instance["InstanceType"], market) == code:
                    cpu = instance.get("CpuOptions", {})
                    used += cpu.get("CoreCount", 0) * cpu.get("ThreadsPerCore", 1)
    except CloudError:
        return 0  # then RunInstances itself is the judge
    return used

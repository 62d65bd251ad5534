"""The documents of GPU machines and quotas."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from bake.aws.placement import Market
from bake.aws.quota import IncreaseRequest, Quota, QuotaRequest, quota_code
from bake.cli.documents.document import Document, ErrorPart, Part, TextOrNull, Time, Usd
from bake.errors import CloudError
from bake.machine.gpus import Offer, Survey, memory_gb


class MarketQuotaPart(Part):
    """The quota that counts an instance type in one market."""

    code: str | None = Field(description="AWS's code of the quota")
    name: str | None = Field(description="its name")
    vcpus: int | None = Field(description="its value")
    used_vcpus: int | None = Field(description="the vCPUs of the machines that run now")
    machines_left: int | None = Field(description="how many such machines may be started")

    @classmethod
    def of_offer(cls, offer: Offer, market: Market, found: Survey) -> MarketQuotaPart:
        code = quota_code(offer.machine.name, market)
        quota = found.quotas.get(code or "")
        known = quota if isinstance(quota, Quota) else None
        return cls(
            code=code,
            name=known and known.name,
            vcpus=known and known.vcpus,
            used_vcpus=known and known.used,
            machines_left=offer.left[market],
        )


class OfferEntry(Part):
    """A type of GPU machine."""

    instance_type: str = Field(description="EC2's instance type")
    gpu: str = Field(description="the GPU")
    gpu_count: int = Field(description="how many GPUs; 0 for a part of one")
    gpu_memory_mib: int = Field(description="the memory of each GPU, as EC2 reports it")
    gpu_memory_gb: int = Field(description="the memory of each GPU, as NVIDIA states it")
    compute_capability: str = Field(description="the GPU's compute capability")
    cuda_versions: tuple[str, ...] = Field(description="the CUDA releases that work on it")
    vcpus: int = Field(description="how many vCPUs")
    memory_mib: int = Field(description="the machine's memory")
    architecture: str = Field(description="`x86_64` or `arm64`")
    retired: TextOrNull = Field(description="AWS's announcement that it is retired")
    unserved: TextOrNull = Field(description="why no driver supports it")
    is_offered: bool | None = Field(description="true if the region offers it")
    zones: tuple[str, ...] | None = Field(description="the zones that offer it")
    on_demand_quota: MarketQuotaPart = Field(description="the quota of on-demand machines")
    spot_quota: MarketQuotaPart = Field(description="the quota of spot machines")
    on_demand_usd_per_hour: Usd | None = Field(description="the on-demand price")
    spot_usd_per_hour: Usd | None = Field(description="the lowest spot price")
    spot_usd_per_hour_by_zone: dict[str, Usd] = Field(description="the spot price in each zone")

    @classmethod
    def of_offer(cls, offer: Offer, found: Survey) -> OfferEntry:
        machine = offer.machine
        return cls.of(
            machine,
            instance_type=machine.name,
            gpu_count=machine.gpus,
            gpu_memory_gb=memory_gb(machine),
            compute_capability=machine.capability,
            cuda_versions=offer.cuda,
            is_offered=None if offer.zones is None else bool(offer.zones),
            zones=offer.zones,
            on_demand_quota=MarketQuotaPart.of_offer(offer, "on-demand", found),
            spot_quota=MarketQuotaPart.of_offer(offer, "spot", found),
            on_demand_usd_per_hour=offer.on_demand,
            spot_usd_per_hour=offer.cheapest_spot,
            spot_usd_per_hour_by_zone=dict(offer.spot),
        )


class GpusDocument(Document):
    """The GPU machines of a region."""

    offers: tuple[OfferEntry, ...] = Field(description="the types that the options select")
    unknown: tuple[ErrorPart, ...] = Field(description="why some values are not known")


class QuotaRequestEntry(Part):
    """A request to raise a quota."""

    id: str = Field(description="AWS's id of the request")
    vcpus: int = Field(description="the requested value")
    status: str = Field(description="AWS's status: `PENDING`, `APPROVED`, `DENIED`, …")
    created_at: Time = Field(description="when it was made")
    case_id: TextOrNull = Field(description="AWS's support case")


class QuotaEntry(Part):
    """A quota of GPU machines, in vCPUs."""

    code: str = Field(description="AWS's code of the quota")
    name: str | None = Field(description="its name")
    vcpus: int | None = Field(description="its value")
    used_vcpus: int | None = Field(description="the vCPUs of the machines that run now")
    families: tuple[str, ...] = Field(description="the families of instance types that it counts")
    requests: tuple[QuotaRequestEntry, ...] | None = Field(
        description="the requests to raise it, the newest first; null if they are not known"
    )

    @classmethod
    def of_quota(
        cls,
        code: str,
        quota: Quota | CloudError,
        requests: Sequence[QuotaRequest] | CloudError,
        families: Sequence[str],
    ) -> QuotaEntry:
        """Make it of a quota. What could not be read is an error here, and null there."""
        known = quota if isinstance(quota, Quota) else None
        return cls(
            code=code,
            name=known and known.name,
            vcpus=known and known.vcpus,
            used_vcpus=known and known.used,
            families=tuple(families),
            requests=None
            if isinstance(requests, CloudError)
            else tuple(QuotaRequestEntry.of(each) for each in requests),
        )


class QuotaDocument(Document):
    """Quotas of GPU machines. With `--raise`, only the quota that is to be raised."""

    quotas: tuple[QuotaEntry, ...] = Field(description="the quotas")
    unknown: tuple[ErrorPart, ...] = Field(description="why some values are not known")
    is_new_request: bool | None = Field(
        description="with `--raise`: false if such a request was open already; else null"
    )

    @classmethod
    def of_increase(
        cls, increase: IncreaseRequest, quota: Quota, families: Sequence[str]
    ) -> QuotaDocument:
        entry = QuotaEntry.of_quota(quota.code, quota, [increase.request], families)
        return cls(quotas=(entry,), unknown=(), is_new_request=increase.made)

"""The Service Quotas API of the local cloud: how many vCPUs may run, and requests for an increase.

A request is pending until the cloud's owner sets the quota
(`LocalCloud.request("quotas", {code: vCPUs})`). Then it is approved if the new quota is at least
the requested value, else denied.
https://docs.aws.amazon.com/servicequotas/2019-06-24/apireference/
"""

from __future__ import annotations

import json
import time
import uuid
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import moto.servicequotas.urls
from moto.core.exceptions import JsonRESTError
from moto.servicequotas.models import ServiceQuotasBackend, servicequotas_backends
from moto.servicequotas.responses import ServiceQuotasResponse

from bake.local.api.capacity import VCPU_QUOTAS, quota_values

_OPEN = {"PENDING", "CASE_OPENED"}


class LocalServiceQuotas(ServiceQuotasBackend):  # type: ignore[misc]
    """The vCPU quotas and the requests for an increase. moto has only the quotas of VPCs."""

    def __init__(self, region_name: str, account_id: str) -> None:
        super().__init__(region_name, account_id)
        self.requests: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)

    @property
    def _url_module(self) -> Any:
        """The module of moto that contains the service's URLs."""
        return moto.servicequotas.urls

    def list_service_quotas(self, service_code: str) -> list[dict[str, Any]]:
        if service_code != "ec2":
            quotas: list[dict[str, Any]] = super().list_aws_default_service_quotas(service_code)
            return quotas
        return [self._quota(code) for code in VCPU_QUOTAS]

    def list_aws_default_service_quotas(self, service_code: str) -> list[dict[str, Any]]:
        return self.list_service_quotas(service_code)

    def get_service_quota(self, service_code: str, quota_code: str) -> dict[str, Any]:
        if service_code != "ec2":
            quota: dict[str, Any] = super().get_service_quota(service_code, quota_code)
            return quota
        return self._quota(quota_code)

    def request_increase(self, service_code: str, code: str, value: float) -> dict[str, Any]:
        quota = self.get_service_quota(service_code, code)
        if value <= quota["Value"]:
            raise JsonRESTError(
                "IllegalArgumentException",
                "You must provide a quota value greater than the current quota value",
            )
        if any(request["Status"] in _OPEN for request in self.requests[code]):
            raise JsonRESTError(
                "ResourceAlreadyExistsException",
                "Only one open service quota increase request is allowed per quota.",
            )
        now = time.time()
        names = ("ServiceCode", "ServiceName", "QuotaCode", "QuotaName", "QuotaArn", "Unit")
        request = {
            "Id": uuid.uuid4().hex,
            **{name: quota[name] for name in names},
            "DesiredValue": value,
            "Status": "PENDING",
            "Created": now,
            "LastUpdated": now,
            "GlobalQuota": False,
            "QuotaRequestedAtLevel": "ACCOUNT",
        }
        self.requests[code].append(request)
        return request

    def list_requests(self, service_code: str, code: str, status: str | None) -> list[Any]:
        self.get_service_quota(service_code, code)
        return [each for each in self.requests[code] if status in (None, each["Status"])]

    def decide(self, values: Mapping[str, float]) -> None:
        for code, value in values.items():
            for request in self.requests[code]:
                if request["Status"] in _OPEN:
                    enough = value >= request["DesiredValue"]
                    request["Status"] = "APPROVED" if enough else "DENIED"
                    request["LastUpdated"] = time.time()

    def _quota(self, code: str) -> dict[str, Any]:
        if code not in VCPU_QUOTAS:
            raise JsonRESTError("NoSuchResourceException", f"Quota {code} not found")
        arn = f"arn:{self.partition}:servicequotas:{self.region_name}:{self.account_id}:ec2/{code}"
        return {
            "ServiceCode": "ec2",
            "ServiceName": "Amazon Elastic Compute Cloud (Amazon EC2)",
            "QuotaArn": arn,
            "QuotaCode": code,
            "QuotaName": VCPU_QUOTAS[code][0],
            "Value": quota_values[code],
            "Unit": "None",
            "Adjustable": True,
            "GlobalQuota": False,
        }


class LocalServiceQuotasResponse(ServiceQuotasResponse):  # type: ignore[misc]
    """The operations that moto does not implement."""

    def list_service_quotas(self) -> str:
        return json.dumps(
            {"Quotas": self.backend.list_service_quotas(self._parameter("ServiceCode"))}
        )

    def request_service_quota_increase(self) -> str:
        service, code = self._parameter("ServiceCode"), self._parameter("QuotaCode")
        made = self.backend.request_increase(service, code, float(self._parameter("DesiredValue")))
        return json.dumps({"RequestedQuota": made})

    def list_requested_service_quota_change_history_by_quota(self) -> str:
        service, code = self._parameter("ServiceCode"), self._parameter("QuotaCode")
        found = self.backend.list_requests(service, code, json.loads(self.body).get("Status"))
        return json.dumps({"RequestedQuotas": found})

    def _parameter(self, name: str) -> Any:
        return json.loads(self.body)[name]


def set_values(values: Mapping[str, float]) -> dict[str, float]:
    """Set quotas and decide the pending requests for them. Return the values of all quotas."""
    quota_values.update(values)
    for _, _, backend in servicequotas_backends.iter_backends():
        backend.decide(values)
    return dict(quota_values)

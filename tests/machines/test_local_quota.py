"""Service Quotas in the local cloud: any user requests an increase, the owner decides."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError

from bake.aws.client.session import Cloud, connect
from bake.aws.quota import gpu_quotas, read_quota, read_quotas, request_increase, requests
from bake.errors import CloudError, RequestError
from bake.local import control
from bake.local.api.capacity import GENEROUS

G, P = "L-DB2E81BA", "L-417A185B"


def decide(**vcpus: int) -> None:
    endpoint = control.status()
    assert endpoint is not None
    endpoint.request("quotas", {code.replace("_", "-"): value for code, value in vcpus.items()})


@pytest.fixture
def cloud(local_cloud: Path) -> Iterator[Cloud]:
    decide(L_DB2E81BA=0, L_417A185B=0)
    yield connect()
    decide(L_DB2E81BA=int(GENEROUS), L_417A185B=int(GENEROUS))


def test_it_has_all_quotas_of_gpu_machines(cloud: Cloud) -> None:
    found = read_quotas(cloud, gpu_quotas())
    assert len(found) == 5
    assert not [each for each in found.values() if isinstance(each, CloudError)]


def test_what_is_asked_for_is_open_until_the_owner_decides(cloud: Cloud) -> None:
    asked = request_increase(cloud, read_quota(cloud, G, "on-demand"), 8)
    assert (asked.made, asked.request.status) == (True, "PENDING")
    assert not request_increase(cloud, read_quota(cloud, G, "on-demand"), 8).made
    assert not [each for each in requests(cloud, P) if each.is_open]
    decide(L_DB2E81BA=8)
    assert read_quota(cloud, G, "on-demand").vcpus == 8
    assert [each.status for each in requests(cloud, G)][:1] == ["APPROVED"]
    with pytest.raises(RequestError, match="already 8 vCPUs"):
        request_increase(cloud, read_quota(cloud, G, "on-demand"), 8)
    assert request_increase(cloud, read_quota(cloud, G, "on-demand"), 16).made
    decide(L_DB2E81BA=12)
    assert [each.status for each in requests(cloud, G)][:2] == ["DENIED", "APPROVED"]


def test_it_refuses_as_aws_does(cloud: Cloud) -> None:
    quotas = boto3.client("service-quotas")
    asked = {"ServiceCode": "ec2", "QuotaCode": P}
    quotas.request_service_quota_increase(**asked, DesiredValue=96)
    refused = quotas.exceptions
    with pytest.raises(refused.ResourceAlreadyExistsException):
        quotas.request_service_quota_increase(**asked, DesiredValue=192)
    with pytest.raises(refused.NoSuchResourceException):
        quotas.get_service_quota(ServiceCode="ec2", QuotaCode="L-NONE")
    history = "list_requested_service_quota_change_history_by_quota"
    [found] = getattr(quotas, history)(**asked, Status="PENDING")["RequestedQuotas"]
    assert (found["DesiredValue"], found["QuotaCode"]) == (96, P)
    decide(L_417A185B=48)
    with pytest.raises(ClientError, match="IllegalArgumentException"):
        quotas.request_service_quota_increase(**asked, DesiredValue=48)

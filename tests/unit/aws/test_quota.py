"""Quotas: how much of them is free, and requests for more."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bake.aws.launch import run_machine
from bake.aws.quota import (
    Quota,
    gpu_quotas,
    quota_code,
    read_quota,
    read_quotas,
    request_increase,
    requests,
)
from bake.errors import CloudError, NoAnswerError, RequestError
from tests.support.aws_in_process import Aws, aws_in_process

G, G_SPOT, P = "L-DB2E81BA", "L-3819A6DF", "L-417A185B"


@pytest.fixture
def aws() -> Iterator[Aws]:
    with aws_in_process() as aws:
        yield aws


def g_quota(aws: Aws) -> Quota:
    return read_quota(aws.cloud, G, "on-demand")


def test_each_gpu_machine_has_its_quotas() -> None:
    codes = gpu_quotas()
    assert codes[G] == codes[P] == "on-demand"
    assert codes[G_SPOT] == "spot"
    assert "" not in codes
    assert quota_code("p5.48xlarge", "spot") == "L-C4BD4855"
    assert quota_code("p6-b200.48xlarge", "spot") is None


def test_all_quotas_are_read_with_one_list_of_instances(aws: Aws) -> None:
    order = aws.order("key", "sg-1")
    run_machine(aws.cloud, aws.run, order, [aws.placement()])
    run_machine(aws.cloud, aws.run, order, [aws.placement("g4dn.2xlarge", market="spot")])
    aws.sent.clear()
    found = read_quotas(aws.cloud, {G: "on-demand", G_SPOT: "spot", "L-HIDDEN": "spot"})
    assert sorted(aws.sent) == ["DescribeInstances", *["GetServiceQuota"] * 3]
    assert found[G] == Quota(G, f"Quota {G}", 64, 4)
    assert found[G_SPOT] == Quota(G_SPOT, f"Quota {G_SPOT}", 64, 8)
    hidden = found["L-HIDDEN"]
    assert isinstance(hidden, CloudError)
    assert hidden.code == "AccessDeniedException"


def test_no_codes_take_no_request(aws: Aws) -> None:
    aws.sent.clear()
    assert read_quotas(aws.cloud, {}) == {}
    assert aws.sent == []


def test_a_higher_quota_is_requested(aws: Aws) -> None:
    aws.quotas[G] = 0
    asked = request_increase(aws.cloud, g_quota(aws), 8)
    assert asked.made
    assert (asked.request.vcpus, asked.request.status) == (8, "PENDING")
    [sent] = aws.requests
    assert (sent["QuotaCode"], sent["DesiredValue"]) == (G, 8.0)
    assert requests(aws.cloud, G) == [asked.request]


@pytest.mark.parametrize("vcpus", [64, 8])
def test_a_quota_that_is_high_enough_is_not_requested(aws: Aws, vcpus: int) -> None:
    with pytest.raises(RequestError, match="is already 64 vCPUs"):
        request_increase(aws.cloud, g_quota(aws), vcpus)
    assert aws.requests == []


@pytest.mark.parametrize("wanted", [70, 96])
def test_an_open_request_is_not_repeated(aws: Aws, wanted: int) -> None:
    first = request_increase(aws.cloud, g_quota(aws), 96)
    second = request_increase(aws.cloud, g_quota(aws), wanted)
    assert (second.request, second.made) == (first.request, False)
    assert len(aws.requests) == 1


def test_an_open_request_for_less_is_an_error(aws: Aws) -> None:
    request_increase(aws.cloud, g_quota(aws), 70)
    aws.requests[0] |= {"Status": "CASE_OPENED", "CaseId": "1234567890"}
    with pytest.raises(RequestError, match=r"70 vCPUs .*support case 1234567890") as caught:
        request_increase(aws.cloud, g_quota(aws), 96)
    assert "in the support case" in caught.value.hint
    assert len(aws.requests) == 1


@pytest.mark.parametrize("status", ["APPROVED", "DENIED", "CASE_CLOSED", "NOT_APPROVED"])
def test_a_decided_request_does_not_prevent_a_new_one(aws: Aws, status: str) -> None:
    request_increase(aws.cloud, g_quota(aws), 70)
    aws.requests[0]["Status"] = status
    assert request_increase(aws.cloud, g_quota(aws), 96).made
    assert [each.vcpus for each in requests(aws.cloud, G)] == [96, 70]


def test_a_concurrent_request_is_returned(aws: Aws) -> None:
    """Another process, or boto's own first attempt, sends the request after the list was read."""
    quota = g_quota(aws)
    code = "ResourceAlreadyExistsException"
    aws.refuse("RequestServiceQuotaIncrease", code, "Only one.", times=1)
    with pytest.raises(CloudError) as caught:
        request_increase(aws.cloud, quota, 96)
    assert (caught.value.code, caught.value.reason) == (code, "Only one.")
    request_increase(aws.cloud, quota, 96)
    looked = []

    def at_first_nothing(answer: dict[str, object]) -> None:
        looked.append(answer["RequestedQuotas"])
        if len(looked) == 1:
            answer["RequestedQuotas"] = []

    aws.cloud.session.events.register(
        "after-call.service-quotas.ListRequestedServiceQuotaChangeHistoryByQuota",
        lambda parsed, **_: at_first_nothing(parsed),
    )
    aws.cloud._clients.clear()
    aws.refuse("RequestServiceQuotaIncrease", code, "Only one.", times=1)
    asked = request_increase(aws.cloud, quota, 96)
    assert (asked.made, asked.request.id, len(looked)) == (False, "request-0", 2)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("DependencyAccessDeniedException", "no permission to call EC2"),
        ("NoSuchResourceException", "has no such quota"),
        ("QuotaExceededException", "too many open requests"),
        ("IllegalArgumentException", "does not accept"),
        ("InvalidResourceStateException", "cannot be changed"),
        ("AccessDeniedException", "servicequotas:RequestServiceQuotaIncrease"),
    ],
)
def test_each_error_of_service_quotas_has_a_message_and_a_hint(
    aws: Aws, code: str, says: str
) -> None:
    aws.refuse("RequestServiceQuotaIncrease", code, "Because.")
    with pytest.raises(CloudError) as caught:
        request_increase(aws.cloud, g_quota(aws), 96)
    assert says in caught.value.message
    assert G in caught.value.message
    assert (caught.value.code, caught.value.reason) == (code, "Because.")
    assert caught.value.hint


def test_a_response_without_the_request_is_an_error(aws: Aws) -> None:
    aws.cloud.session.events.register(
        "after-call.service-quotas.RequestServiceQuotaIncrease",
        lambda parsed, **_: parsed.pop("RequestedQuota"),
    )
    with pytest.raises(NoAnswerError, match="RequestedQuota"):
        request_increase(aws.cloud, g_quota(aws), 96)
    assert request_increase(aws.cloud, g_quota(aws), 96).made is False

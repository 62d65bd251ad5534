from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from botocore.stub import ANY, Stubber

from bake.aws.client import session as sessions
from bake.aws.client.session import Cloud
from bake.aws.placement import Placement
from bake.aws.price import (
    on_demand,
    price_errors,
    prices,
    snapshot_price,
    spot,
    spot_by_zone,
    volume_price,
)

Json = dict[str, Any]

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.fixture
def cloud() -> Cloud:
    session = boto3.Session("AKIDEXAMPLE", "secret", region_name="eu-west-1")
    return Cloud(session, "123456789012")


@pytest.fixture
def pricing(cloud: Cloud) -> Iterator[Stubber]:
    """The responses of the Price List API, in order; a test has to use all of them."""
    with Stubber(cloud._client("pricing", sessions._PRICING)) as stubber:
        yield stubber
        stubber.assert_no_pending_responses()


@pytest.fixture
def ec2(cloud: Cloud) -> Iterator[Stubber]:
    with Stubber(cloud._client("ec2", sessions._PATIENT)) as stubber:
        yield stubber
        stubber.assert_no_pending_responses()


def document(usd: str, unit: str = "Hrs", *, family: str = "Compute Instance", **more: str) -> str:
    """Return a product as in the Price List API, shortened to the members that are read."""
    attributes = {
        "servicecode": "AmazonEC2",
        "servicename": "Amazon Elastic Compute Cloud",
        "location": "EU (Ireland)",
        "locationType": "AWS Region",
        "regionCode": "eu-west-1",
        **more,
    }
    sku = "2257YY4K7BWZ4F46"
    rate = {
        "unit": unit,
        "endRange": "Inf",
        "description": f"${usd} per {unit}",
        "appliesTo": [],
        "rateCode": f"{sku}.JRTCKXETXF.6YS6EN2CT7",
        "beginRange": "0",
        "pricePerUnit": {"USD": usd},
    }
    reserved = {
        f"{sku}.HU7G6KETJZ": {
            "priceDimensions": {
                f"{sku}.HU7G6KETJZ.6YS6EN2CT7": rate | {"pricePerUnit": {"USD": "0.0010000000"}},
                f"{sku}.HU7G6KETJZ.2TG2D8R56U": rate
                | {"unit": "Quantity", "pricePerUnit": {"USD": "1415"}},
            },
            "sku": sku,
            "offerTermCode": "HU7G6KETJZ",
            "termAttributes": {"LeaseContractLength": "1yr", "PurchaseOption": "Partial Upfront"},
        }
    }
    term = {
        "priceDimensions": {rate["rateCode"]: rate},
        "sku": sku,
        "effectiveDate": "2024-04-01T00:00:00Z",
        "offerTermCode": "JRTCKXETXF",
        "termAttributes": {},
    }
    return json.dumps(
        {
            "product": {"productFamily": family, "attributes": attributes, "sku": sku},
            "serviceCode": "AmazonEC2",
            "terms": {"OnDemand": {f"{sku}.JRTCKXETXF": term}, "Reserved": reserved},
            "version": "20240508191027",
            "publicationDate": "2024-05-08T19:10:27Z",
        }
    )


def machine(usd: str, **more: str) -> str:
    attributes = {
        "instanceType": "g4dn.xlarge",
        "operatingSystem": "Linux",
        "tenancy": "Shared",
        "preInstalledSw": "NA",
        "capacitystatus": "Used",
        "marketoption": "OnDemand",
        "operation": "RunInstances",
        "usagetype": "EU-BoxUsage:g4dn.xlarge",
    }
    return document(usd, **attributes | more)


def storage(usd: str, family: str, usage: str) -> str:
    return document(usd, "GB-Mo", family=family, usagetype=usage)


def asked(**terms: str) -> Json:
    filters = [{"Type": "TERM_MATCH", "Field": name, "Value": terms[name]} for name in terms]
    return {"ServiceCode": "AmazonEC2", "FormatVersion": "aws_v1", "Filters": filters}


def asked_machine(instance_type: str) -> Json:
    return asked(
        regionCode="eu-west-1",
        instanceType=instance_type,
        operatingSystem="Linux",
        tenancy="Shared",
        preInstalledSw="NA",
        capacitystatus="Used",
    )


def answer(*documents: str, **more: str) -> Json:
    return {"FormatVersion": "aws_v1", "PriceList": list(documents), **more}


def at(zone: str, instance_type: str = "g4dn.xlarge", market: Any = "spot") -> Placement:
    return Placement(instance_type, f"eu-west-1{zone}", f"subnet-{zone}", "vpc-1", market)


def priced(usd: str, zone: str, at: datetime = NOW, instance_type: str = "g4dn.xlarge") -> Json:
    return {
        "AvailabilityZone": f"eu-west-1{zone}",
        "AvailabilityZoneId": f"euw1-az-{zone}",
        "InstanceType": instance_type,
        "ProductDescription": "Linux/UNIX",
        "SpotPrice": usd,
        "Timestamp": at,
    }


def history(*entries: Json, token: str = "") -> Json:
    return {"SpotPriceHistory": list(entries), "NextToken": token}


# ---- machines, on demand


def test_a_machines_price_comes_from_the_price_list(cloud: Cloud, pricing: Stubber) -> None:
    pricing.add_response(
        "get_products", answer(machine("0.5870000000")), asked_machine("g4dn.xlarge")
    )
    assert on_demand(cloud, ["g4dn.xlarge"]) == {"g4dn.xlarge": 0.587}
    assert price_errors(cloud) == []


def any_machine(*instance_types: str) -> Json:
    request = asked_machine(",".join(instance_types))
    request["Filters"][1]["Type"] = "ANY_OF"
    return request


def test_many_prices_take_one_call_and_are_cached(cloud: Cloud, pricing: Stubber) -> None:
    two = machine("0.8390000000", instanceType="g4dn.2xlarge")
    pricing.add_response(
        "get_products",
        answer(two, machine("0.5870000000")),
        any_machine("g4dn.xlarge", "g4dn.2xlarge"),
    )
    pricing.add_response("get_products", answer(), asked_machine("p9.huge"))
    for _ in range(2):
        found = on_demand(cloud, ["g4dn.xlarge", "g4dn.2xlarge", "g4dn.xlarge"])
        assert found == {"g4dn.xlarge": 0.587, "g4dn.2xlarge": 0.839}
        found = on_demand(cloud, ["g4dn.xlarge", "p9.huge"])
        assert found == {"g4dn.xlarge": 0.587, "p9.huge": None}


def test_a_filter_that_is_too_long_is_split(cloud: Cloud, pricing: Stubber) -> None:
    names = [f"p{number:03}.24xlarge" for number in range(100)]
    assert len(",".join(names)) > 1024
    pieces = [names[:73], names[73:]]
    for piece in pieces:
        assert len(",".join(piece)) <= 1024
        found = [machine("1.0", instanceType=name) for name in piece]
        pricing.add_response("get_products", answer(*found), any_machine(*piece))
    assert on_demand(cloud, names) == dict.fromkeys(names, 1.0)


def test_bakes_at_the_same_time_share_one_request(cloud: Cloud, pricing: Stubber) -> None:
    pricing.add_response("get_products", answer(machine("0.5870000000")))
    events = cloud._client("pricing", sessions._PRICING).meta.events
    events.register("before-parameter-build", lambda **_: time.sleep(0.05))
    clouds = [cloud.separate() for _ in range(8)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda each: on_demand(each, ["g4dn.xlarge"]), clouds))
    assert found == [{"g4dn.xlarge": 0.587}] * 8


def test_prices_of_other_offers_are_ignored(cloud: Cloud, pricing: Stubber) -> None:
    others = (
        machine("9.0000000000", operation="RunInstances:0102", usagetype="EU-BoxUsage:g4dn.xlarge"),
        machine("8.0000000000", marketoption="CapacityBlock"),
        machine("0.0000000000"),
    )
    pricing.add_response("get_products", answer(*others, machine("0.5870000000")))
    assert on_demand(cloud, ["g4dn.xlarge"]) == {"g4dn.xlarge": 0.587}


def test_all_pages_are_read(cloud: Cloud, pricing: Stubber) -> None:
    first = asked_machine("g4dn.xlarge")
    pricing.add_response("get_products", answer(NextToken="two"), first)
    pricing.add_response(
        "get_products", answer(machine("0.5870000000")), first | {"NextToken": "two"}
    )
    assert on_demand(cloud, ["g4dn.xlarge"]) == {"g4dn.xlarge": 0.587}


@pytest.mark.parametrize(
    "documents",
    [
        [],
        ['{"product": {"attributes": {"operation": "RunInstances"}}, "terms": {"Reserved": {}}}'],
        ["{}"],
        [machine("3.9").replace('"USD"', '"CNY"')],
    ],
)
def test_a_machine_that_is_not_offered_has_no_price(
    cloud: Cloud, pricing: Stubber, documents: list[str]
) -> None:
    pricing.add_response("get_products", answer(*documents))
    assert on_demand(cloud, ["p6-b300.48xlarge"]) == {"p6-b300.48xlarge": None}
    assert price_errors(cloud) == []


# ---- spot


def test_spot_prices_in_yuan_are_unknown() -> None:
    cloud = Cloud(boto3.Session("a", "b", region_name="cn-north-1"), "123456789012")
    assert list(spot(cloud, [at("a")]).values()) == [None], "no request was sent"


def test_the_newest_entry_of_the_zone_is_the_spot_price(cloud: Cloud, ec2: Stubber) -> None:
    parameters = {
        "InstanceTypes": ["g4dn.xlarge", "g5.xlarge"],
        "ProductDescriptions": ["Linux/UNIX"],
        "StartTime": ANY,
        "MaxResults": 1000,
    }
    ec2.add_response(
        "describe_spot_price_history",
        history(
            priced("0.190000", "a"), priced("0.300000", "a", NOW - timedelta(hours=5)), token="2"
        ),
        parameters,
    )
    ec2.add_response(
        "describe_spot_price_history",
        history(
            priced("0.210000", "b", NOW - timedelta(hours=2)),
            priced("0.180000", "b", NOW - timedelta(hours=1)),
        ),
        parameters | {"NextToken": "2"},
    )
    places = [at("a"), at("b"), at("a", "g5.xlarge")]
    for _ in range(2):
        assert list(spot(cloud, places).values()) == [0.19, 0.18, None]


def test_each_zone_has_its_own_price_which_is_cached(cloud: Cloud, ec2: Stubber) -> None:
    ec2.add_response(
        "describe_spot_price_history",
        history(priced("0.190000", "a"), priced("0.300000", "b", instance_type="g5.xlarge")),
    )
    for _ in range(2):
        assert spot_by_zone(cloud, ["g4dn.xlarge", "g5.xlarge", "p9.huge"]) == {
            "g4dn.xlarge": {"eu-west-1a": 0.19},
            "g5.xlarge": {"eu-west-1b": 0.3},
            "p9.huge": {},
        }


def test_each_machine_has_the_price_of_its_market(
    cloud: Cloud, ec2: Stubber, pricing: Stubber
) -> None:
    ec2.add_response("describe_spot_price_history", history(priced("0.190000", "a")))
    pricing.add_response("get_products", answer(machine("0.5870000000")))
    places = [at("a"), at("a", market="on-demand"), at("b", market="on-demand")]
    assert prices(cloud, places) == dict(zip(places, [0.19, 0.587, 0.587], strict=True))


def test_no_types_take_no_request(cloud: Cloud, ec2: Stubber, pricing: Stubber) -> None:
    assert prices(cloud, []) == {}


# ---- storage


def test_a_snapshot_has_the_price_of_the_standard_tier(cloud: Cloud, pricing: Stubber) -> None:
    family = "Storage Snapshot"
    pricing.add_response(
        "get_products",
        answer(
            storage("0.0125000000", family, "EU-EBS:SnapshotArchiveStorage"),
            storage("0.0700000000", family, "EU-EBS:SnapshotUsage.outposts"),
            storage("0.0500000000", family, "EU-EBS:SnapshotUsage"),
            storage("0.0750000000", family, "EU-EBS:SnapshotUsageUnderBilling"),
        ),
        asked(regionCode="eu-west-1", productFamily=family),
    )
    assert snapshot_price(cloud) == 0.05
    assert snapshot_price(cloud) == 0.05


def test_a_region_may_have_no_short_name(cloud: Cloud, pricing: Stubber) -> None:
    pricing.add_response(
        "get_products", answer(storage("0.05", "Storage Snapshot", "EBS:SnapshotUsage"))
    )
    assert snapshot_price(cloud) == 0.05


def test_a_volume_has_a_price_per_gigabyte(cloud: Cloud, pricing: Stubber) -> None:
    pricing.add_response(
        "get_products",
        answer(storage("0.0880000000", "Storage", "EU-EBS:VolumeUsage.gp3")),
        asked(regionCode="eu-west-1", productFamily="Storage", volumeApiName="gp3"),
    )
    assert volume_price(cloud) == 0.088


@pytest.mark.parametrize("kind", ["io2", "standard", ""])
def test_a_volume_that_costs_more_than_its_gigabytes_has_no_price(
    cloud: Cloud, pricing: Stubber, kind: str
) -> None:
    assert volume_price(cloud, kind) is None


# ---- errors


def test_after_an_error_prices_are_unknown_and_the_error_is_kept(
    cloud: Cloud, pricing: Stubber
) -> None:
    pricing.add_client_error(
        "get_products",
        "AccessDeniedException",
        "User: … is not authorized to perform: pricing:GetProducts",
    )
    assert on_demand(cloud, ["g4dn.xlarge", "g5.xlarge"]) == {
        "g4dn.xlarge": None,
        "g5.xlarge": None,
    }
    assert snapshot_price(cloud) is None
    assert volume_price(cloud) is None
    (refusal,) = price_errors(cloud)
    assert refusal.code == "AccessDeniedException"
    assert "pricing:GetProducts" in refusal.hint


def test_an_error_of_one_service_does_not_affect_the_other(
    cloud: Cloud, ec2: Stubber, pricing: Stubber
) -> None:
    ec2.add_client_error("describe_spot_price_history", "UnauthorizedOperation", "No.")
    pricing.add_response("get_products", answer(machine("0.5870000000")))
    places = [at("a"), at("a", market="on-demand")]
    assert list(prices(cloud, places).values()) == [None, 0.587]
    assert [refusal.code for refusal in price_errors(cloud)] == ["UnauthorizedOperation"]


def test_the_price_list_is_requested_in_its_own_region(cloud: Cloud) -> None:
    endpoint = cloud._client("pricing", sessions._PRICING).meta.endpoint_url
    assert endpoint == "https://api.pricing.us-east-1.amazonaws.com"

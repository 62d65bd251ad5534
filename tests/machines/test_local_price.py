from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from bake.aws.client.session import connect
from bake.aws.placement import Placement
from bake.aws.price import price_errors, prices, snapshot_price, volume_price


@pytest.fixture
def pricing(local_cloud: Path) -> Any:
    return boto3.client("pricing", region_name="us-east-1")


def matching(pricing: Any, *filters: tuple[str, str, str]) -> list[dict[str, Any]]:
    """Return the products of all pages, read with boto's paginator."""
    pages = pricing.get_paginator("get_products").paginate(
        ServiceCode="AmazonEC2",
        Filters=[{"Type": kind, "Field": field, "Value": value} for kind, field, value in filters],
    )
    return [json.loads(text)["product"] for page in pages for text in page["PriceList"]]


def test_nothing_costs_anything(local_cloud: Path) -> None:
    cloud = connect()
    zone = f"{cloud.region}a"
    machines = [
        Placement("g4dn.xlarge", zone, "subnet-1", "vpc-1", "on-demand"),
        Placement("g4dn.xlarge", zone, "subnet-1", "vpc-1", "spot"),
    ]
    assert prices(cloud, machines) == dict.fromkeys(machines, 0.0)
    assert (snapshot_price(cloud), volume_price(cloud)) == (0.0, 0.0)
    assert price_errors(cloud) == []
    nowhere = Placement("x9.huge", zone, "subnet-1", "vpc-1", "on-demand")
    assert prices(cloud, [nowhere]) == {nowhere: None}


def test_products_are_filtered_as_the_price_list_does(pricing: Any) -> None:
    here = ("TERM_MATCH", "regionCode", "us-east-1")
    types = ("ANY_OF", "instanceType", "g4dn.xlarge,g5.xlarge")
    found = matching(pricing, here, types)
    assert [product["attributes"]["instanceType"] for product in found] == [
        "g4dn.xlarge",
        "g5.xlarge",
    ]
    assert matching(pricing, here, types, ("NONE_OF", "instanceType", "g5.xlarge")) == found[:1]
    assert matching(pricing, here, types, ("CONTAINS", "instanceType", "g4dn")) == found[:1]
    assert matching(pricing, here, ("EQUALS", "operatingSystem", "Windows")) == []
    machines = matching(pricing, here, ("TERM_MATCH", "productFamily", "Compute Instance"))
    names = [product["attributes"]["instanceType"] for product in machines]
    assert len(names) == len(set(names)) > 100


def test_what_is_not_there_is_refused_in_aws_s_way(pricing: Any) -> None:
    with pytest.raises(ClientError) as caught:
        pricing.get_products(ServiceCode="AmazonS3")
    assert caught.value.response["Error"]["Code"] == "NotFoundException"
    with pytest.raises(pricing.exceptions.InvalidNextTokenException):
        pricing.get_products(ServiceCode="AmazonEC2", NextToken="elsewhere")
    with pytest.raises(pricing.exceptions.InvalidParameterException, match="DescribeServices"):
        pricing.describe_services()


def test_spot_prices_are_those_of_what_is_asked_for(local_cloud: Path) -> None:
    ec2 = boto3.client("ec2")
    found = ec2.describe_spot_price_history(
        InstanceTypes=["g4dn.xlarge"], ProductDescriptions=["Linux/UNIX"]
    )["SpotPriceHistory"]
    zones = [zone["ZoneName"] for zone in ec2.describe_availability_zones()["AvailabilityZones"]]
    assert {entry["AvailabilityZone"] for entry in found} <= set(zones)
    assert {float(entry["SpotPrice"]) for entry in found} == {0.0}
    one = ec2.describe_spot_price_history(InstanceTypes=["g4dn.xlarge"], AvailabilityZone=zones[0])
    assert [entry["AvailabilityZone"] for entry in one["SpotPriceHistory"]] == [zones[0]]
    windows = ec2.describe_spot_price_history(ProductDescriptions=["Windows"])
    assert windows["SpotPriceHistory"] == []

"""What the local cloud's prices are: nothing costs anything here, and that is what it answers.

The Price List API, which moto does not have: GetProducts over the machines that there are and the
two kinds of storage, with all of AWS's filters. And EC2's history of spot prices.
https://docs.aws.amazon.com/aws-cost-management/latest/APIReference/API_pricing_GetProducts.html
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.models.instance_types import INSTANCE_TYPE_OFFERINGS
from werkzeug.wrappers import Request, Response

from bake.local.api.image import now

TARGET = "AWSPriceListService"

_SERVICE = "AmazonEC2"
_MOST_RESULTS = 100
_LINUX = "Linux/UNIX"
_PUBLISHED = datetime(2026, 1, 1, tzinfo=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

_MATCHES: dict[str, Callable[[str, str], bool]] = {
    "TERM_MATCH": lambda value, asked: value.lower() == asked.lower(),
    "EQUALS": lambda value, asked: value.lower() == asked.lower(),
    "CONTAINS": lambda value, asked: asked.lower() in value.lower(),
    "ANY_OF": lambda value, asked: value.lower() in asked.lower().split(","),
    "NONE_OF": lambda value, asked: value.lower() not in asked.lower().split(","),
}


def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """One request of the Price List API, in AWS's JSON protocol 1.1."""
    request = Request(environ)
    operation = request.headers["X-Amz-Target"].partition(".")[2]
    try:
        if operation != "GetProducts":
            raise _Refusal("InvalidParameterException", f"Not in the local cloud: {operation}")
        document, status = _get_products(request.get_json(force=True)), 200
    except _Refusal as refusal:
        document, status = {"__type": refusal.code, "Message": str(refusal)}, 400
    response = Response(json.dumps(document), status, content_type="application/x-amz-json-1.1")
    return list(response(environ, start_response))


class _Refusal(Exception):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def _get_products(asked: dict[str, Any]) -> dict[str, Any]:
    if asked.get("ServiceCode") != _SERVICE:
        raise _Refusal("NotFoundException", f"There are prices of {_SERVICE} alone")
    filters = asked.get("Filters", [])
    try:
        start = int(asked.get("NextToken", "0"))
    except ValueError:
        raise _Refusal("InvalidNextTokenException", "The token is none of ours") from None
    matching = (
        product
        for product in _products()
        if all(
            _MATCHES[each["Type"]](product.get(each["Field"], ""), each["Value"])
            for each in filters
            if each["Field"] != "ServiceCode"
        )
    )
    count = int(asked.get("MaxResults", _MOST_RESULTS))
    found = list(itertools.islice(matching, start, start + count + 1))
    more = {"NextToken": str(start + count)} if len(found) > count else {}
    prices = [json.dumps(_document(product)) for product in found[:count]]
    return {"FormatVersion": "aws_v1", "PriceList": prices, **more}


def _products() -> Iterator[dict[str, str]]:
    """Their attributes, with the product family among them, as filters see them."""
    for region, offers in INSTANCE_TYPE_OFFERINGS["region"].items():
        place = {"regionCode": region, "locationType": "AWS Region", "servicecode": _SERVICE}
        for instance_type in sorted({offer["InstanceType"] for offer in offers}):
            yield {
                **place,
                "productFamily": "Compute Instance",
                "instanceType": instance_type,
                "operatingSystem": "Linux",
                "tenancy": "Shared",
                "preInstalledSw": "NA",
                "licenseModel": "No License required",
                "capacitystatus": "Used",
                "marketoption": "OnDemand",
                "operation": "RunInstances",
                "usagetype": f"BoxUsage:{instance_type}",
            }
        for kind in ("gp2", "gp3"):
            yield {
                **place,
                "productFamily": "Storage",
                "volumeApiName": kind,
                "usagetype": f"EBS:VolumeUsage.{kind}",
            }
        yield {
            **place,
            "productFamily": "Storage Snapshot",
            "storageMedia": "Amazon S3",
            "usagetype": "EBS:SnapshotUsage",
        }


def _document(product: dict[str, str]) -> dict[str, Any]:
    family = product["productFamily"]
    name = f"{product['regionCode']} {product['usagetype']}"
    sku = hashlib.sha256(name.encode()).hexdigest()[:16].upper()
    unit = "Hrs" if family == "Compute Instance" else "GB-Mo"
    dimension = {
        "unit": unit,
        "beginRange": "0",
        "endRange": "Inf",
        "description": f"$0.00 per {unit} of {product['usagetype']} in the local cloud",
        "appliesTo": [],
        "rateCode": f"{sku}.JRTCKXETXF.6YS6EN2CT7",
        "pricePerUnit": {"USD": "0.0000000000"},
    }
    term = {
        "priceDimensions": {dimension["rateCode"]: dimension},
        "sku": sku,
        "effectiveDate": _PUBLISHED,
        "offerTermCode": "JRTCKXETXF",
        "termAttributes": {},
    }
    attributes = {key: value for key, value in product.items() if key != "productFamily"}
    return {
        "product": {"productFamily": family, "attributes": attributes, "sku": sku},
        "serviceCode": _SERVICE,
        "terms": {"OnDemand": {f"{sku}.JRTCKXETXF": term}},
        "version": "20260101000000",
        "publicationDate": _PUBLISHED,
    }


class SpotPrices:
    """DescribeSpotPriceHistory: moto's has a price, a date of 2006 and a product of its own."""

    def describe_spot_price_history(self: Any) -> ActionResult:
        self.error_on_dryrun()
        types = self._get_param("InstanceTypes", [])
        zone = self._get_param("AvailabilityZone")
        products = self._get_param("ProductDescriptions", [])
        history = [
            {
                "InstanceType": offer["InstanceType"],
                "AvailabilityZone": offer["Location"],
                "ProductDescription": _LINUX,
                "SpotPrice": "0.000000",
                "Timestamp": now(),
            }
            for offer in self.ec2_backend.describe_spot_price_history(
                types, self._filters_from_querystring()
            )
            if zone in (None, offer["Location"]) and (not products or _LINUX in products)
        ]
        return ActionResult({"SpotPriceHistory": history})

"""The prices of the local cloud, which are all 0: the Price List API and EC2's spot prices.

moto does not have the Price List API. GetProducts covers the instance types and two kinds of
storage, with all of AWS's filters.
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
    "TERM_MATCH": lambda value, wanted: value.lower() == wanted.lower(),
    "EQUALS": lambda value, wanted: value.lower() == wanted.lower(),
    "CONTAINS": lambda value, wanted: wanted.lower() in value.lower(),
    "ANY_OF": lambda value, wanted: value.lower() in wanted.lower().split(","),
    "NONE_OF": lambda value, wanted: value.lower() not in wanted.lower().split(","),
}


def respond(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Respond to one request of the Price List API, in AWS's JSON protocol 1.1."""
    request = Request(environ)
    operation = request.headers["X-Amz-Target"].partition(".")[2]
    try:
        if operation != "GetProducts":
            raise _PriceError("InvalidParameterException", f"Not in the local cloud: {operation}")
        document, status = _get_products(request.get_json(force=True)), 200
    except _PriceError as error:
        document, status = {"__type": error.code, "Message": str(error)}, 400
    response = Response(json.dumps(document), status, content_type="application/x-amz-json-1.1")
    return list(response(environ, start_response))


class _PriceError(Exception):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def _get_products(parameters: dict[str, Any]) -> dict[str, Any]:
    if parameters.get("ServiceCode") != _SERVICE:
        raise _PriceError("NotFoundException", f"Only {_SERVICE} has prices here")
    filters = parameters.get("Filters", [])
    try:
        start = int(parameters.get("NextToken", "0"))
    except ValueError:
        raise _PriceError("InvalidNextTokenException", "Invalid NextToken") from None
    matching = (
        product
        for product in _products()
        if all(
            _MATCHES[each["Type"]](product.get(each["Field"], ""), each["Value"])
            for each in filters
            if each["Field"] != "ServiceCode"
        )
    )
    count = int(parameters.get("MaxResults", _MOST_RESULTS))
    found = list(itertools.islice(matching, start, start + count + 1))
    more = {"NextToken": str(start + count)} if len(found) > count else {}
    prices = [json.dumps(_document(product)) for product in found[:count]]
    return {"FormatVersion": "aws_v1", "PriceList": prices, **more}


def _products() -> Iterator[dict[str, str]]:
    """Yield the attributes of each product, with its product family, as the filters see them."""
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
    """DescribeSpotPriceHistory. moto's has invented prices, dates of 2006 and an own product."""

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

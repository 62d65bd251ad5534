"""Which instance types a region has, and in which of its zones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from bake.aws.client.session import Cloud

# EC2's most values of one filter.
_MOST_VALUES = 200


def offered_zones(cloud: Cloud, names: Sequence[str]) -> defaultdict[str, set[str]]:
    """By type, also for very many; none for one that is not offered, or not known."""
    zones: defaultdict[str, set[str]] = defaultdict(set)
    for start in range(0, len(names), _MOST_VALUES):
        some = list(names[start : start + _MOST_VALUES])
        for offering in cloud.pages(
            "DescribeInstanceTypeOfferings",
            "InstanceTypeOfferings",
            LocationType="availability-zone",
            Filters=[{"Name": "instance-type", "Values": some}],
        ):
            zones[offering["InstanceType"]].add(offering["Location"])
    return zones

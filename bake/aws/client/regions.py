"""The regions that botocore knows, without a call of AWS."""

from __future__ import annotations

import json
import re
from importlib import resources

# Not the names of whole partitions, such as aws-global.
_REGION = re.compile(r"[a-z]+(?:-[a-z]+)+-[0-9]+")


def known_regions() -> dict[str, str]:
    """Map the name of each region to where it is, for example "US West (Oregon)"."""
    text = (resources.files("botocore") / "data" / "partitions.json").read_text()
    return {
        name: region["description"]
        for partition in json.loads(text)["partitions"]
        for name, region in partition["regions"].items()
        if _REGION.fullmatch(name)
    }

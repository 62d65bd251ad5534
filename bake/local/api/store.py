"""The state that survives a restart: images, snapshots, key pairs, parameters and their tags.

It is one JSON file, which is written as a whole after each change.
"""

from __future__ import annotations

import json
import logging
from datetime import datetime
from pathlib import Path
from typing import Any

from moto.core import DEFAULT_ACCOUNT_ID
from moto.ec2.models import ec2_backends
from moto.ec2.models.key_pairs import KeyPair
from moto.ssm.models import Parameter, SimpleSystemManagerBackend, ssm_backends

from bake.errors import LocalCloudError
from bake.files import write_file
from bake.local.api.ec2_backend import LocalEC2Backend
from bake.local.api.image import LocalImage, LocalSnapshot, document, restore
from bake.local.site import Site

log = logging.getLogger(__name__)

VERSION = 1
_INTERRUPTED = "The local cloud ended before this was completed"


class Store:
    """Saves the content of all regions in a file, and restores it."""

    def __init__(self, path: Path, site: Site) -> None:
        self.path = path
        self.site = site
        self._kept = ""

    def keep(self) -> None:
        """Write the file if its content has changed. The caller holds the site's lock."""
        regions = {
            backend.region_name: _region(backend) for _, _, backend in ec2_backends.iter_backends()
        }
        parameters = {
            backend.region_name: _parameters(backend)
            for _, _, backend in ssm_backends.iter_backends()
        }
        document = {"version": VERSION, "regions": regions, "parameters": parameters}
        text = json.dumps(document, indent=1)
        if text == self._kept:
            return
        write_file(self.path, text)
        self._kept = text

    def _read(self) -> dict[str, Any]:
        """Return the file's content; LocalCloudError if the file is damaged."""
        if not self.path.exists():
            return {}
        try:
            content: dict[str, Any] = json.loads(self.path.read_text("utf-8"))
        except ValueError as error:
            raise LocalCloudError(
                f"{self.path} is damaged: {error}",
                hint="Remove the file. The local cloud then starts without its images",
            ) from None
        return content

    def load(self) -> None:
        """Restore the file's content, and remove layers that belong to none of its snapshots.

        Images and snapshots that were pending when the server ended have failed.
        """
        kept = self._read()
        for name, region in kept.get("regions", {}).items():
            _restore_region(ec2_backends[DEFAULT_ACCOUNT_ID][name], region)
        for name, parameters in kept.get("parameters", {}).items():
            _restore_parameters(ssm_backends[DEFAULT_ACCOUNT_ID][name], parameters)
        snapshots: dict[str, LocalSnapshot] = {
            self.site.layer(snapshot.id): snapshot
            for _, _, backend in ec2_backends.iter_backends()
            for snapshot in backend.snapshots.values()
        }
        layers = set(self.site.engine.references(self.site.repository))
        for layer in layers - set(snapshots):
            log.info("removing a layer without a snapshot: %s", layer)
            self.site.engine.forget(layer)
        for layer in set(snapshots) - layers:
            snapshots[layer].fail("Its layer was removed from this computer's container storage")


def _region(backend: LocalEC2Backend) -> dict[str, Any]:
    return {
        "images": [document(image) for image in backend.amis.values()],
        "snapshots": [document(snapshot) for snapshot in backend.snapshots.values()],
        "key_pairs": [
            {
                "id": key.id,
                "name": key.key_name,
                "key_type": key.key_type,
                "fingerprint": key.key_fingerprint,
                "public_key": key.public_key,
                "create_time": key.create_time.isoformat(),
                "tags": dict(backend.tags.get(key.id, {})),
            }
            for key in backend.key_pairs.values()
        ],
    }


def _restore_region(backend: LocalEC2Backend, region: dict[str, Any]) -> None:
    for values in region["snapshots"]:
        snapshot: LocalSnapshot = restore(LocalSnapshot, backend, values)
        if snapshot.status == "pending":
            snapshot.fail(_INTERRUPTED)
        backend.snapshots[snapshot.id] = snapshot
    for values in region["images"]:
        image: LocalImage = restore(LocalImage, backend, values)
        if image.state == "pending":
            image.fail(_INTERRUPTED)
        backend.amis[image.id] = image
    for values in region["key_pairs"]:
        key = KeyPair(
            values["name"],
            values["key_type"],
            values["fingerprint"],
            material=b"",  # as on AWS, the private key is returned only when the pair is made
            material_public=values["public_key"].encode(),
            tags={},
            ec2_backend=backend,
        )
        key.id = values["id"]
        key.create_time = datetime.fromisoformat(values["create_time"])
        key.add_tags(values["tags"])
        backend.key_pairs[key.key_name] = key


def _parameters(backend: SimpleSystemManagerBackend) -> list[dict[str, Any]]:
    """Return the latest version of each parameter."""
    return [
        {
            "name": name,
            "value": versions[-1].value,
            "parameter_type": versions[-1].parameter_type,
            "description": versions[-1].description,
            "allowed_pattern": versions[-1].allowed_pattern,
            "keyid": versions[-1].keyid,
            "version": versions[-1].version,
            "data_type": versions[-1].data_type,
            "tier": versions[-1].tier,
            "last_modified_date": versions[-1].last_modified_date.isoformat(),
            "tags": dict(backend._resource_tags["Parameter"].get(name, {})),
        }
        for name, versions in backend._parameters.items()
        # moto adds an empty list for each parameter that was only read, and contains AWS's own.
        if versions and not name.startswith("/aws/")
    ]


def _restore_parameters(
    backend: SimpleSystemManagerBackend, parameters: list[dict[str, Any]]
) -> None:
    for values in parameters:
        tags = values.pop("tags")
        changed_at = datetime.fromisoformat(values.pop("last_modified_date"))
        parameter = Parameter(
            account_id=backend.account_id, last_modified_date=changed_at, **values
        )
        if parameter.parameter_type == "SecureString":
            parameter.value = values["value"]  # the saved value is encrypted already
        backend._parameters[parameter.name] = [parameter]
        backend.add_tags_to_resource("Parameter", parameter.name, tags)

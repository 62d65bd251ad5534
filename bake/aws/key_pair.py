"""SSH key pairs in EC2. Only the public key is ever sent to AWS."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from bake.aws.client.commands import removal_command
from bake.aws.client.session import Cloud
from bake.aws.client.undo import undo
from bake.aws.client.wait import poll
from bake.aws.tags import EXPIRES, Run, Tags, read, specifications
from bake.errors import CloudError

# How long a new key pair may be unknown to some of EC2's servers.
_KNOWN_S = 15.0


@dataclass(frozen=True)
class ImportedKey:
    """A key pair in EC2. For ed25519, `fingerprint` is SHA-256 in base64, as in `ssh-keygen -l`."""

    name: str
    key_pair_id: str
    fingerprint: str
    public_key: str
    tags: Tags


@contextmanager
def key_pair(cloud: Cloud, run: Run, public_key: str) -> Iterator[str]:
    """Import a key pair for this run, yield its name, and delete it at the end."""
    name = f"bake-{run.id}"
    command = removal_command("key pair", name, region=cloud.region)
    try:
        # Inside the `try`: an interrupted call may have had its effect.
        import_key_pair(cloud, name, public_key, run.temporary())
        yield name
    finally:
        with undo(cloud.leftovers, f"key pair {name}", command):
            delete_key_pair(cloud, name)


def import_key_pair(cloud: Cloud, name: str, public_key: str, tags: Tags) -> ImportedKey:
    """Import a public key. CloudError with InvalidKeyPair.Duplicate if the name is in use."""
    try:
        response = cloud.ec2(
            "ImportKeyPair",
            KeyName=name,
            PublicKeyMaterial=public_key.encode(),
            TagSpecifications=specifications(tags, "key-pair"),
        )
    except CloudError as error:
        # ImportKeyPair has no ClientToken, so boto may have repeated a successful request.
        taken = error.code == "InvalidKeyPair.Duplicate"
        look = partial(find_key_pair, cloud, name)
        mine = poll(look, timeout_s=_KNOWN_S, clock=cloud.clock) if taken else None
        if mine is None or mine.tags != tags:
            raise
        return mine
    return ImportedKey(name, response["KeyPairId"], response["KeyFingerprint"], public_key, tags)


def find_key_pair(cloud: Cloud, name: str) -> ImportedKey | None:
    """Return the key pair with this name; None if EC2 does not know it."""
    try:
        response = cloud.ec2("DescribeKeyPairs", KeyNames=[name], IncludePublicKey=True)
    except CloudError as error:
        if error.code == "InvalidKeyPair.NotFound":
            return None
        raise
    found = response.first("KeyPairs")
    return ImportedKey(
        name=found["KeyName"],
        key_pair_id=found["KeyPairId"],
        fingerprint=found["KeyFingerprint"],
        public_key=found.get("PublicKey", ""),
        tags=read(found.get("Tags")),
    )


def lasting_key_pairs(cloud: Cloud) -> list[str]:
    """Return the names of all key pairs in the region, without those of running bakes."""
    found = cloud.ec2("DescribeKeyPairs").get("KeyPairs", [])
    return sorted(pair["KeyName"] for pair in found if EXPIRES not in read(pair.get("Tags")))


def delete_key_pair(cloud: Cloud, name: str) -> None:
    """Delete a key pair, if it exists. DeleteKeyPair, too, accepts the name of a missing one."""
    try:
        cloud.ec2("DeleteKeyPair", KeyName=name)
    except CloudError as error:
        if error.code != "InvalidKeyPair.NotFound":  # from as_not_found
            raise

"""SSH key pairs at AWS: only ever the public half is sent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from bake.aws.client.commands import aws_command
from bake.aws.client.session import Cloud
from bake.aws.client.undo import undo
from bake.aws.client.wait import poll
from bake.aws.tags import Run, Tags, read, specifications
from bake.errors import CloudError

# How long a new key pair may be unknown to some of EC2's servers.
_KNOWN_S = 15.0


@dataclass(frozen=True)
class ImportedKey:
    """`fingerprint` as AWS reckons it: for an ed25519 key SHA-256 in base64, as `ssh-keygen -l`."""

    name: str
    key_pair_id: str
    fingerprint: str
    public_key: str
    tags: Tags


@contextmanager
def key_pair(cloud: Cloud, run: Run, public_key: str) -> Iterator[str]:
    """The name of a key pair of the run's own, gone afterwards."""
    name = f"bake-{run.id}"
    command = aws_command("ec2", "delete-key-pair", region=cloud.region, key_name=name)
    try:
        # Under the removal from the start: a call that was cut off may have taken effect.
        import_key_pair(cloud, name, public_key, run.temporary())
        yield name
    finally:
        with undo(cloud.leftovers, f"key pair {name}", command):
            delete_key_pair(cloud, name)


def import_key_pair(cloud: Cloud, name: str, public_key: str, tags: Tags) -> ImportedKey:
    """CloudError with InvalidKeyPair.Duplicate when the name is taken: no key is replaced."""
    try:
        answer = cloud.ec2(
            "ImportKeyPair",
            KeyName=name,
            PublicKeyMaterial=public_key.encode(),
            TagSpecifications=specifications(tags, "key-pair"),
        )
    except CloudError as error:
        # ImportKeyPair takes no ClientToken: a request that boto repeats may meet its own work.
        taken = error.code == "InvalidKeyPair.Duplicate"
        look = partial(find_key_pair, cloud, name)
        mine = poll(look, timeout_s=_KNOWN_S, clock=cloud.clock) if taken else None
        if mine is None or mine.tags != tags:
            raise
        return mine
    return ImportedKey(name, answer["KeyPairId"], answer["KeyFingerprint"], public_key, tags)


def find_key_pair(cloud: Cloud, name: str) -> ImportedKey | None:
    try:
        answer = cloud.ec2("DescribeKeyPairs", KeyNames=[name], IncludePublicKey=True)
    except CloudError as error:
        if error.code == "InvalidKeyPair.NotFound":
            return None
        raise
    found = answer.the_first("KeyPairs")
    return ImportedKey(
        name=found["KeyName"],
        key_pair_id=found["KeyPairId"],
        fingerprint=found["KeyFingerprint"],
        public_key=found.get("PublicKey", ""),
        tags=read(found.get("Tags")),
    )


def delete_key_pair(cloud: Cloud, name: str) -> None:
    """No error when there is none: DeleteKeyPair itself answers the same either way."""
    try:
        cloud.ec2("DeleteKeyPair", KeyName=name)
    except CloudError as error:
        if error.code != "InvalidKeyPair.NotFound":  # see gone.py
            raise

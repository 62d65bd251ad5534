from __future__ import annotations

import re

from bake import catalog
from bake.recipe.payload import SIGNED, UPSTREAM, with_mirrors


def test_each_upstream_server_uses_tls_or_signs_its_packages() -> None:
    for name, url in UPSTREAM.mirrors.items():
        assert url.startswith("https://") or name in SIGNED
        assert not url.endswith("/")


def test_each_key_of_upstream_has_a_fingerprint_and_a_mirror() -> None:
    for mirror, fingerprint in UPSTREAM.key_fingerprints.items():
        assert mirror in UPSTREAM.mirrors
        assert re.fullmatch(r"[0-9A-F]{40}", fingerprint)


def test_upstream_has_the_hash_of_every_installer_of_the_catalog() -> None:
    for installer in catalog.load().installers:
        assert UPSTREAM.sha256[installer.file] == installer.sha256


def test_upstream_keeps_the_owner_of_each_base_image() -> None:
    assert UPSTREAM.image_owner is None


def test_mirrors_replace_the_hosts_and_keep_the_keys_and_hashes() -> None:
    ours = with_mirrors(UPSTREAM, {"pypi": "https://mirror.example.org/simple/"})
    assert ours.mirrors["pypi"] == "https://mirror.example.org/simple"
    assert ours.mirrors["nvidia"] == UPSTREAM.mirrors["nvidia"]
    assert ours.sha256 == UPSTREAM.sha256
    assert ours.key_fingerprints == UPSTREAM.key_fingerprints
    assert UPSTREAM.mirrors["pypi"] == "https://pypi.org/simple"

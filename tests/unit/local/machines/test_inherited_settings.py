"""The settings that machines inherit from this computer."""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest

from bake.local.machines import inherited_settings


def test_pip_settings_that_mean_the_same_on_another_machine_are_kept() -> None:
    text = inherited_settings.pip_settings(
        {
            "global.index-url": "https://pypi.example/simple",
            "global.extra-index-url": "file:///opt/wheels https://more.example/simple",
            "global.find-links": "/opt/wheels",
            "global.cert": "/home/me/ca.pem",
            "global.timeout": "15",
            ":env:.timeout": "180",
            "user.proxy": "http://proxy.example:3128",
        },
        has_own_certificates=True,
    )
    parser = configparser.ConfigParser()
    parser.read_string(text)
    assert dict(parser["global"]) == {
        "cert": "/etc/ssl/certs/ca-certificates.crt",
        "index-url": "https://pypi.example/simple",
        "extra-index-url": "https://more.example/simple",
        "timeout": "180",
        "proxy": "http://proxy.example:3128",
    }


def test_a_computer_without_pip_settings_passes_none_on() -> None:
    assert inherited_settings.pip_settings({}, has_own_certificates=False) == "[global]\n"


def test_apt_proxy_is_kept_and_nothing_of_this_computers_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    dump = (
        'Acquire::http::Proxy "http://proxy.example:3128";\n'
        'Acquire::https::Timeout "30";\n'
        'Acquire::https::CAInfo "/home/me/ca.pem";\n'
        'Acquire::cdrom::mount "/media/cdrom/";\n'
        'Acquire::http::Proxy::deb.example "DIRECT";\n'
    )
    assert inherited_settings.apt_settings(dump).splitlines() == [
        'Acquire::http::Proxy "http://proxy.example:3128";',
        'Acquire::https::Timeout "30";',
        'Acquire::http::Proxy::deb.example "DIRECT";',
    ]


def test_proxy_of_the_environment_is_apts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    monkeypatch.delenv("http_proxy", raising=False)
    assert (
        inherited_settings.apt_settings("")
        == 'Acquire::https::Proxy "http://proxy.example:3128";\n'
    )


def test_only_certificates_that_every_system_does_not_have_are_the_computers_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    public = inherited_settings._certificates(inherited_settings._mozilla_bundle())[0]
    own = "-----BEGIN CERTIFICATE-----\nMIIown\n-----END CERTIFICATE-----"
    bundle = tmp_path / "bundle.crt"
    bundle.write_text(f"# a comment\n{public}\n{own}\n")
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    assert inherited_settings.own_certificates() == [own]

    given = inherited_settings.write_settings(tmp_path / "computer")
    (certificates,) = [path for path, seen in given.items() if seen.endswith("/computer")]
    assert [path.read_text().strip() for path in certificates.iterdir()] == [own]
    assert all(path.exists() for path in given)

"""Finding out whether a local cloud runs, and using it and nothing else."""

from __future__ import annotations

import configparser
import os
import platform
import re
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from unittest import mock

import pytest
from filelock import FileLock

from bake.aws.client.session import connect
from bake.errors import LocalCloudError
from bake.local import control
from tests.support.environment import REPOSITORY


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BAKE_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "local"


def test_status_makes_no_folder_and_no_file(home: Path) -> None:
    assert control.status() is None
    assert not home.exists()
    home.mkdir(parents=True)
    assert control.status() is None
    assert list(home.iterdir()) == []


def test_home_is_served_as_long_as_its_lock_is_held(home: Path) -> None:
    home.mkdir(parents=True)
    with FileLock(home / "server.lock"):
        assert control._is_served(home)
    assert not control._is_served(home)


class Server(BaseHTTPRequestHandler):
    """A server in the place of the local cloud's: it tells its account, and lists no VPC."""

    def do_POST(self) -> None:
        request = self.rfile.read(int(self.headers["Content-Length"])).decode()
        body = "<R><vpcSet/></R>"
        if "GetCallerIdentity" in request:
            body = "<R><GetCallerIdentityResult><Account>7</Account></GetCallerIdentityResult></R>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def cloud() -> Iterator[control.LocalCloud]:
    server = HTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield control.LocalCloud(url=f"http://127.0.0.1:{server.server_port}", ssh_port=22, pid=1)
    server.shutdown()
    server.server_close()
    thread.join()


ELSEWHERE = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    "settings",
    [
        {"AWS_PROFILE": "corp-admin"},
        {"AWS_PROFILE": ""},
        {"AWS_DEFAULT_PROFILE": "corp"},
        {"AWS_REGION": "mars-1"},
        {"AWS_SESSION_TOKEN": "token", "AWS_CREDENTIAL_EXPIRATION": "2020-01-01T00:00:00Z"},
        {"AWS_ENDPOINT_URL": ELSEWHERE},
        {"AWS_ENDPOINT_URL_EC2": ELSEWHERE, "AWS_ENDPOINT_URL_STS": ELSEWHERE},
        {"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"},
        {"AWS_USE_FIPS_ENDPOINT": "true"},
        {"AWS_USE_DUALSTACK_ENDPOINT": "true"},
        {"AWS_STS_REGIONAL_ENDPOINTS": "bogus"},
        {"AWS_DEFAULTS_MODE": "bogus"},
        {"AWS_CA_BUNDLE": "/nonexistent"},
        {"AWS_DATA_PATH": "/nonexistent"},
        {"HTTP_PROXY": ELSEWHERE},
        {"http_proxy": ELSEWHERE, "no_proxy": "example.com"},
        {"all_proxy": ELSEWHERE},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_the_local_cloud_is_used_whatever_the_caller_has_set(
    cloud: control.LocalCloud, settings: dict[str, str]
) -> None:
    with mock.patch.dict(os.environ, settings):
        control.use(cloud)
        connected = connect()
        assert (connected.account_id, connected.region) == ("7", "us-east-1")
        assert list(connected.pages("DescribeVpcs", "Vpcs")) == []


@pytest.mark.parametrize("content", ["[default\n", f"[default]\nendpoint_url = {ELSEWHERE}\n"])
def test_the_configuration_of_the_caller_is_not_read(
    cloud: control.LocalCloud, content: str, tmp_path: Path
) -> None:
    path = tmp_path / "config"
    path.write_text(content)
    files = {"AWS_CONFIG_FILE": str(path), "AWS_SHARED_CREDENTIALS_FILE": str(path)}
    with mock.patch.dict(os.environ, files):
        control.use(cloud)
        assert connect().account_id == "7"


def test_programs_that_are_reached_without_a_proxy_stay_so(cloud: control.LocalCloud) -> None:
    with mock.patch.dict(os.environ, {"NO_PROXY": "example.com, .internal"}, clear=True):
        assert control.environment(cloud)["no_proxy"] == "example.com,.internal,127.0.0.1"
        control.use(cloud)
        assert control.environment(cloud)["NO_PROXY"] == "example.com,.internal,127.0.0.1"


def test_settings_that_change_only_the_output_are_kept() -> None:
    names = ["AWS_PAGER", "AWS_CLI_AUTO_PROMPT", "AWS_PROFILE", "AWS_DEFAULT_OUTPUT", "HOME"]
    assert control.foreign_settings(names) == ["AWS_PROFILE"]


def test_a_computer_without_linux_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    with pytest.raises(LocalCloudError, match="needs Linux, and this computer runs Darwin"):
        control.up()
    assert not home.exists()


def test_missing_packages_of_the_extra_are_named(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "_LIBRARIES", ("filelock", "nosuch_library"))
    with pytest.raises(LocalCloudError, match="missing: nosuch_library") as caught:
        control.up()
    assert "pip install 'bake[local]'" in caught.value.hint
    assert not home.exists()


def test_the_checked_packages_are_those_of_the_extra() -> None:
    config = configparser.ConfigParser()
    config.read(REPOSITORY / "setup.cfg")
    lines = config["options.extras_require"]["local"].split()
    assert sorted(control._LIBRARIES) == sorted(re.match(r"\w+", line)[0] for line in lines)

"""The local cloud's process: start it, find it, end it, kill it."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import boto3
import pytest
from botocore.exceptions import ClientError

from bake import catalog, files
from bake.errors import LocalCloudError, PreflightError
from bake.local import control
from bake.local.control import LocalCloud
from bake.local.machines import os_images
from bake.local.machines.engine import find_engine
from tests.support.commands import invoke


@pytest.fixture
def home() -> Iterator[Path]:
    """The home of a local cloud that ends with the test."""
    yield files.home() / "local"
    if (files.home() / "local" / "server.lock").exists():
        control.down(erase=True)


def client(endpoint: LocalCloud, service: str = "ec2") -> Any:
    return boto3.client(
        service,
        endpoint_url=endpoint.url,
        region_name="us-east-1",
        aws_access_key_id="local",
        aws_secret_access_key="local",
    )


def test_nothing_runs_before_it_is_started(home: Path) -> None:
    assert control.status() is None
    assert control.down() is False


def test_up_twice_is_one_cloud_and_down_ends_it(home: Path) -> None:
    begun = time.monotonic()
    endpoint = control.up()
    print(f"up: {time.monotonic() - begun:.2f} s")
    assert control.up() == endpoint == control.status()
    status = endpoint.request("status")
    print(f"memory: {status['memory_mib']} MiB")
    assert status["memory_mib"] < 300
    assert status["engine_note"]
    assert control.down() is True
    assert control.status() is None
    with pytest.raises(LocalCloudError, match="does not answer"):
        endpoint.request("status")


def test_two_who_start_it_at_once_get_the_same_one(home: Path) -> None:
    found: list[LocalCloud] = []
    threads = [threading.Thread(target=lambda: found.append(control.up())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1


def test_next_port_is_taken_and_said_where_the_first_is_not_free(home: Path) -> None:
    with socket.create_server((control_host(), 0)) as taken:
        port = taken.getsockname()[1]
        endpoint = control.up(port)
        assert endpoint.url != f"http://{control_host()}:{port}"
        assert f"port {port} is in use" in endpoint.note
        assert client(endpoint).describe_regions()["Regions"]


def control_host() -> str:
    return "127.0.0.1"


def test_it_listens_on_loopback_alone(home: Path) -> None:
    port = int(control.up().url.rpartition(":")[2])
    listening = [
        line.split()[1]
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if line.split()[3] == "0A" and line.split()[1].endswith(f":{port:04X}")
    ]
    assert listening == [f"0100007F:{port:04X}"]


def test_environment_is_enough_for_any_client(home: Path) -> None:
    endpoint = control.up()
    environment = {**os.environ, **control.environment(endpoint)}
    command = [str(Path(sys.executable).with_name("aws")), "sts", "get-caller-identity"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert json.loads(done.stdout)["Account"] == "123456789012"
    assert environment["BAKE_CALLER_CIDR"] == "127.0.0.1/32"


def test_a_region_that_aws_does_not_have_is_a_wrong_request(home: Path) -> None:
    with mock.patch.dict(os.environ, {"AWS_PROFILE": "corp"}):
        ended = invoke("images", "--local", "--region", "us-west-22")
        assert (ended.returncode, "Is us-west-22 the name" in ended.stderr) == (2, True)
        assert invoke("images", "--local", "--region", "us-west-2").returncode == 0


def test_local_env_takes_the_caller_s_settings_away(home: Path) -> None:
    with mock.patch.dict(os.environ, {"AWS_PROFILE": "corp", "AWS_ENDPOINT_URL_EC2": "http://x"}):
        lines = invoke("local.env").stdout.splitlines()
    assert {"unset AWS_PROFILE", "unset AWS_ENDPOINT_URL_EC2"} <= {*lines}
    assert "unset AWS_ENDPOINT_URL" not in lines


def test_local_env_prints_what_packer_needs(home: Path) -> None:
    endpoint = control.up()
    assert "local.env --packer" in invoke("local.env").stderr
    printed = json.loads(invoke("local.env", "--packer").stdout)
    assert printed["custom_endpoint_ec2"] == endpoint.url
    assert printed["ssh_port"] == endpoint.ssh_port


@pytest.mark.parametrize("header", [("Origin", "http://evil.example"), ("Host", "evil.example")])
def test_web_pages_are_not_answered(home: Path, header: tuple[str, str]) -> None:
    port = int(control.up().url.rpartition(":")[2])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", "/", "Action=DescribeInstances", dict([header]))
    assert connection.getresponse().status == 403
    connection.close()


def test_services_that_it_does_not_have_are_not_made_up(home: Path) -> None:
    endpoint = control.up()
    port = int(endpoint.url.rpartition(":")[2])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/a-bucket")
    assert connection.getresponse().status == 501
    connection.close()
    with pytest.raises(LocalCloudError, match="Quota L-NONE not found"):
        endpoint.request("quotas", {"L-NONE": 1})


def test_it_ends_when_its_home_is_deleted(home: Path) -> None:
    endpoint = control.up()
    shutil.rmtree(home)
    deadline = time.monotonic() + 30
    while Path(f"/proc/{endpoint.pid}").exists() and "Z" not in _state(endpoint.pid):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_why_it_cannot_be_started_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAKE_ENGINE", "no-such-engine")
    with pytest.raises(LocalCloudError) as caught:
        control.up()
    assert caught.value.details == ("no-such-engine: not installed",)
    assert "Install Podman" in caught.value.hint
    monkeypatch.delenv("BAKE_ENGINE")


def test_ubuntu_without_stand_in_is_refused_with_what_to_do() -> None:
    nowhere = LocalCloud("http://127.0.0.1:9", 22, 0)
    with pytest.raises(PreflightError, match=r"ubuntu-18\.04 cannot be made") as caught:
        os_images.provide(nowhere, catalog.load().os_image("ubuntu-18.04"), stand_in=False)
    assert "--stand-in" in caught.value.hint


def test_root_file_system_that_cannot_be_made_is_said_with_how_it_could(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LocalCloudError, match="mmdebstrap is needed") as caught:
        os_images._bootstrap(tmp_path / "root.tar", "bookworm")
    assert "apt-get install mmdebstrap" in caught.value.hint


def test_images_and_keys_survive_a_restart_and_a_kill_and_machines_do_not(home: Path) -> None:
    endpoint = control.up()
    base = os_images.provide(endpoint, catalog.load().os_image("debian-12"), stand_in=False)
    ec2 = client(endpoint)
    tags = [{"Key": "kept", "Value": "yes"}]
    specification = [{"ResourceType": "key-pair", "Tags": tags}]
    ec2.create_key_pair(KeyName="kept", KeyType="ed25519", TagSpecifications=specification)
    ec2.create_tags(Resources=[base], Tags=tags)
    asked = {"ImageId": base, "InstanceType": "t3.micro", "MinCount": 1, "MaxCount": 1}
    ec2.run_instances(**asked)
    label = f"bake.cloud={endpoint.request('status')['cloud_id']}"
    deadline = time.monotonic() + 20
    while not find_engine().containers(label):
        assert time.monotonic() < deadline
        time.sleep(0.1)

    os.kill(endpoint.pid, signal.SIGKILL)
    while control.status():
        time.sleep(0.05)
    assert find_engine().containers(label)
    again = control.up()
    assert find_engine().containers(label) == []
    for _ in range(2):
        ec2 = client(again)
        assert ec2.describe_instances()["Reservations"] == []
        (key,) = ec2.describe_key_pairs(KeyNames=["kept"])["KeyPairs"]
        (image,) = ec2.describe_images(ImageIds=[base])["Images"]
        assert key["Tags"] == image["Tags"] == tags
        ec2.run_instances(**asked, KeyName="kept")
        assert control.down() is True
        assert find_engine().containers(label) == []
        again = control.up()


def test_parameters_survive_a_restart_and_a_kill_until_they_are_erased(home: Path) -> None:
    endpoint = control.up()
    tags = [{"Key": "bake:run", "Value": "r"}]
    ssm = client(endpoint, "ssm")
    ssm.put_parameter(Name="/bake/a/1", Value="first", Type="String", Tags=tags)
    ssm.put_parameter(Name="/bake/a/1", Value="second", Overwrite=True)
    ssm.put_parameter(Name="/bake/a/2", Value="secret", Type="SecureString")
    ssm.put_parameter(Name="/bake/a/3", Value="gone", Type="String")
    ssm.delete_parameter(Name="/bake/a/3")
    ssm.get_parameters_by_path(Path="/aws/service/global-infrastructure/regions")
    before = ssm.get_parameters_by_path(Path="/bake/a", WithDecryption=True)["Parameters"]
    for number in (signal.SIGKILL, signal.SIGTERM):
        os.kill(endpoint.pid, number)
        while control.status():
            time.sleep(0.05)
        endpoint = control.up()
        ssm = client(endpoint, "ssm")
        assert (
            ssm.get_parameters_by_path(Path="/bake/a", WithDecryption=True)["Parameters"] == before
        )
        of_it = {"ResourceType": "Parameter", "ResourceId": "/bake/a/1"}
        assert ssm.list_tags_for_resource(**of_it)["TagList"] == tags
        with pytest.raises(ClientError, match="ParameterAlreadyExists"):
            ssm.put_parameter(Name="/bake/a/1", Value="another", Type="String")
    assert [(one["Version"], one["Value"]) for one in before] == [(2, "second"), (1, "secret")]
    kept = (home / "store.json").read_text()
    assert "/aws/service" not in kept
    control.down(erase=True)
    ssm = client(control.up(), "ssm")
    assert ssm.get_parameters_by_path(Path="/bake/a")["Parameters"] == []


def test_two_clouds_on_one_computer_leave_each_other_alone(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    debian = catalog.load().os_image("debian-12")
    asked: dict[str, Any] = {"InstanceType": "t3.micro", "MinCount": 1, "MaxCount": 1}
    endpoint = control.up()
    base = os_images.provide(endpoint, debian, stand_in=False)
    first = client(endpoint).run_instances(ImageId=base, **asked)["Instances"][0]["InstanceId"]
    client(endpoint).get_waiter("instance_running").wait(
        InstanceIds=[first], WaiterConfig={"Delay": 1}
    )
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("BAKE_HOME", str(tmp_path / "other"))
        other = control.up()
        assert other.url != endpoint.url
        assert client(other).describe_images()["Images"] == []
        base_there = os_images.provide(other, debian, stand_in=False)
        client(other).run_instances(ImageId=base_there, **asked)
        assert control.down(erase=True) is True
    instance = client(endpoint).describe_instances(InstanceIds=[first])["Reservations"][0][
        "Instances"
    ][0]
    assert instance["State"]["Name"] == "running"
    with socket.create_connection((instance["PublicIpAddress"], endpoint.ssh_port), timeout=10):
        pass
    again = client(endpoint).run_instances(ImageId=base, **asked)["Instances"][0]["InstanceId"]
    client(endpoint).get_waiter("instance_running").wait(
        InstanceIds=[again], WaiterConfig={"Delay": 1}
    )


def test_layers_of_a_cloud_whose_home_was_deleted_are_removed_by_the_next_one(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("BAKE_HOME", str(tmp_path / "other"))
        other = control.up()
        os_images.provide(other, catalog.load().os_image("debian-12"), stand_in=False)
        repository = f"localhost/bake-{other.request('status')['cloud_id']}/snapshot"
        control.down()
    engine = find_engine()
    assert len(engine.references(repository)) == 1
    shutil.rmtree(tmp_path / "other")
    control.up()
    deadline = time.monotonic() + 60
    while engine.references(repository):
        assert time.monotonic() < deadline
        time.sleep(0.2)

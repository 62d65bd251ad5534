"""The owner's API of the local cloud: base images as their publishers offer them."""

from __future__ import annotations

from typing import Any

from moto.ssm.models import ssm_backends

from tests.support.local_api import ACCOUNT, REGION, LocalApi

AMI = "ami-0123456789abcdef0"


def offer(api: LocalApi, **more: Any) -> str:
    request = {
        "region": REGION,
        "owner": "000000000001",
        "name": "bake-local/one-1",
        "description": "",
        "replaces": "bake-local/one-*",
        "layer": "localhost/base",
        "size_gb": 8,
        "root_device_name": "/dev/xvda",
        **more,
    }
    return str(api.application.add_os_image(request)["image_id"])


def value(name: str) -> str:
    return str(ssm_backends[ACCOUNT][REGION].get_parameter(name).value)


def test_a_base_image_has_the_id_that_a_recipe_names(api: LocalApi) -> None:
    assert offer(api, image_id=AMI) == AMI
    assert offer(api, image_id=AMI) == AMI
    newer = offer(api, image_id=AMI, name="bake-local/one-2")
    [found] = api.ec2.describe_images(ImageIds=[AMI])["Images"]
    assert (newer, found["Name"], found["OwnerId"]) == (AMI, "bake-local/one-2", "000000000001")


def test_an_image_of_the_user_with_that_id_stays(api: LocalApi) -> None:
    image = api.ec2.describe_images(ImageIds=[offer(api, owner=ACCOUNT)])["Images"][0]
    assert offer(api, image_id=image["ImageId"], name="bake-local/one-9") == image["ImageId"]
    [found] = api.ec2.describe_images(ImageIds=[image["ImageId"]])["Images"]
    assert found["Name"] == "bake-local/one-1"


def test_a_public_parameter_has_the_id_of_the_image(api: LocalApi) -> None:
    name = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"
    assert value(name) != ""  # moto's own, of an image that is not in the local cloud
    image_id = offer(api, parameter=name)
    assert value(name) == image_id
    newer = offer(api, parameter=name, name="bake-local/one-2")
    assert value(name) == newer != image_id


def test_a_parameter_of_the_user_stays(api: LocalApi) -> None:
    assert offer(api, parameter="/team/base") == value("/team/base")
    stored = ssm_backends[ACCOUNT][REGION]._parameters["/team/base"]
    stored[-1].value = AMI
    assert offer(api, parameter="/team/base", name="bake-local/one-2") == AMI

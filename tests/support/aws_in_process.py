"""EC2 in this process (moto), with faults where botocore sends and receives."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import Any
from unittest import mock

import boto3
import botocore.loaders
import botocore.session
from botocore.awsrequest import AWSResponse
from botocore.client import ClientCreator
from botocore.exceptions import ConnectionClosedError
from botocore.model import ServiceModel
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from moto import mock_aws
from moto.core.botocore_stubber import BotocoreStubber
from moto.core.models import botocore_stubber as _STUBBER
from moto.core.responses import ActionResult
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models import ec2_backends
from moto.ec2.models.amis import Ami, AmiBackend
from moto.ec2.models.instances import InstanceBackend
from moto.ec2.responses import EC2Response
from moto.ec2.responses.amis import AmisResponse

from bake import catalog
from bake.aws.client.session import Cloud, connect
from bake.aws.client.wait import Clock
from bake.aws.isolated_group import ISOLATED
from bake.aws.launch import LaunchSpec
from bake.aws.placement import Placement
from bake.aws.tags import Run, new_run
from bake.local.api.capacity_reservations import CapacityReservations
from bake.local.api.image_references import ImageReferences

ACCOUNT = "123456789012"
REGION = "us-east-1"
CANONICAL = "099720109477"
BASE_NAME = "ubuntu/images/hvm-ssd/ubuntu-bionic-18.04-amd64-server-"
UBUNTU = catalog.load().os_image("ubuntu-18.04")
PLENTY = {"L-DB2E81BA": 64, "L-3819A6DF": 64, "L-417A185B": 96, "L-1216C47A": 5, "L-34B43A08": 5}

Params = dict[str, Any]


@dataclass
class Fault:
    """A change to the calls of one operation; `times` None: to all of them."""

    operation: str
    act: Callable[[Any], Any]
    moment: str
    times: int | None = None

    def take(self, operation: str, moment: str) -> bool:
        if (operation, moment) != (self.operation, self.moment) or self.times == 0:
            return False
        if self.times is not None:
            self.times -= 1
        return True


@dataclass
class Aws:
    cloud: Cloud
    run: Run
    slept: list[float]
    calls: list[tuple[str, Params]] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    quotas: dict[str, int] = field(default_factory=lambda: dict(PLENTY))
    requests: list[Params] = field(default_factory=list)
    usd: dict[str, float] = field(default_factory=dict)  # USD per hour of each type, on demand
    at_first: set[str] = field(default_factory=set)
    disk_key: str = "alias/aws/ebs"  # the default KMS key of EBS

    # Calls and leftovers

    def params(self, operation: str) -> list[Params]:
        """Return the parameters of each call of the operation."""
        return [params for name, params in self.calls if name == operation]

    def remains(self) -> set[str]:
        """Return the ids of all new resources that cost money or allow access."""
        return self._everything() - self.at_first

    def remains_in(self, region: str) -> set[str]:
        """Return the same for another region, which was empty at first."""
        return self._everything(region)

    def _everything(self, region: str = REGION) -> set[str]:
        ec2 = ec2_backends[ACCOUNT][region]
        return {
            *(machine.id for machine in ec2.all_instances() if machine.state != "terminated"),
            *(
                g.id
                for g in ec2.describe_security_groups()
                if g.name != ISOLATED and (g.name != "default" or region == REGION)
            ),
            *ec2.key_pairs,
            *ec2.volumes,
            *ec2.amis,
            *ec2.snapshots,
            *ec2.enis,
        }

    # Resources

    def elsewhere(self, region: str, clock: Clock | None = None) -> Cloud:
        """Return the same account in another region, with the same injected faults."""
        session = _session(region)
        self.listen(session)
        return connect(session=session, clock=clock or self.cloud.clock)

    def base_image(self, date: str = "20230607", **more: Any) -> str:
        backend = ec2_backends[ACCOUNT][REGION]
        image_id = f"ami-0{len(backend.amis):016x}"
        known = {
            "name": BASE_NAME + date,
            "owner_id": CANONICAL,
            "architecture": "x86_64",
            "root_device_type": "ebs",
            "virtualization_type": "hvm",
            "boot_mode": "legacy-bios",
            "hypervisor": "xen",
            "region_name": REGION + "a",
        }
        backend.amis[image_id] = Ami(backend, image_id, **known | more)
        self.at_first = self._everything()
        return image_id

    def image_ids(self) -> list[str]:
        return list(ec2_backends[ACCOUNT][REGION].amis)

    def forget_instances(self) -> None:
        """Forget terminated machines, as EC2 does an hour after their end."""
        ec2_backends[ACCOUNT][REGION].reservations.clear()

    def placement(self, instance_type: str = "g4dn.xlarge", zone: str = "a", **more: Any) -> Any:
        subnet = next(
            subnet
            for subnet in self.cloud.ec2("DescribeSubnets")["Subnets"]
            if subnet["AvailabilityZone"] == REGION + zone
        )
        fields = {"market": "on-demand", **more}
        return Placement(
            instance_type, REGION + zone, subnet["SubnetId"], subnet["VpcId"], **fields
        )

    def order(self, key_name: str, group_id: str, **more: Any) -> LaunchSpec:
        image_id = self.image_ids()[0]
        fields = {"tags": self.run.temporary(), **more}
        return LaunchSpec(
            image_id, "/dev/sda1", 64, key_name, group_id, "#cloud-config\n", **fields
        )

    # Faults

    def refuse(
        self, operation: str, code: str, message: str = "No.", *, status: int = 400, **more: Any
    ) -> None:
        """Let AWS answer the call with this error, as bytes that botocore parses."""
        body = (
            json.dumps({"__type": code, "message": message})
            if _service(operation) != "ec2"
            else f"<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error>"
            "</Errors><RequestID>r</RequestID></Response>"
        )
        self._fault(operation, lambda request: _answer(status, body), "before-send", **more)

    def cut(self, operation: str, error: BaseException, **more: Any) -> None:
        """Let the call take effect, but raise this error instead of returning the response."""

        def act(_: Any) -> None:
            raise error

        self._fault(operation, act, "after-call", **more)

    def lose_answer(self, operation: str) -> None:
        """Let the call take effect, then break the connection, so that boto repeats the call."""

        def act(request: Any) -> None:
            _moto(_STUBBER, f"before-send.{_service(operation)}.{operation}", request)
            raise ConnectionClosedError(endpoint_url=request.url)

        self._fault(operation, act, "before-send", times=1)

    def alter(self, operation: str, act: Callable[[Params], None], **more: Any) -> None:
        """Let the call take effect, and change its parsed response."""

        def change(answer: Params) -> None:
            if "Error" not in answer:
                act(answer)

        self._fault(operation, change, "after-call", **more)

    def _fault(self, operation: str, act: Callable[[Any], Any], moment: str, **more: Any) -> None:
        self.faults.append(Fault(operation, act, moment, **more))

    # Handlers of botocore's events

    def listen(self, session: boto3.Session) -> None:
        for service in ("ec2", "ssm"):
            session.events.register(f"before-parameter-build.{service}", self._built)
            session.events.register(f"after-call.{service}", self._answered)

    def _built(self, params: Params, model: Any, **_: Any) -> None:
        self.calls.append((model.name, dict(params)))

    def send(self, stubber: BotocoreStubber, event_name: str, request: Any, **_: Any) -> Any:
        """Answer in place of moto; botocore calls every handler, so a fault has to stop moto."""
        _, service, operation = event_name.split(".")
        self.sent.append(operation)
        fault = next((f for f in self.faults if f.take(operation, "before-send")), None)
        if fault:
            return fault.act(request)
        if service == "service-quotas":
            return self._quota(operation, json.loads(request.body))
        if service == "pricing":
            return self._prices(json.loads(request.body))
        return _moto(stubber, event_name, request)

    def _answered(self, parsed: Params, event_name: str, **_: Any) -> None:
        for fault in self.faults:
            if fault.take(event_name.rpartition(".")[2], "after-call"):
                fault.act(parsed)

    def _prices(self, asked: Params) -> AWSResponse:
        """Answer as the Price List API, which moto lacks; only types in `usd` have a price."""
        wanted = {each["Field"]: each["Value"] for each in asked["Filters"]}
        documents = []
        for name in wanted.get("instanceType", "").split(","):
            if name in self.usd:
                rate = {"unit": "Hrs", "pricePerUnit": {"USD": str(self.usd[name])}}
                product = {"attributes": {"instanceType": name, "operation": "RunInstances"}}
                terms = {"OnDemand": {"term": {"priceDimensions": {"rate": rate}}}}
                documents.append(json.dumps({"product": product, "terms": terms}))
        return _answer(200, json.dumps({"PriceList": documents}))

    def _quota(self, operation: str, asked: Params) -> AWSResponse:
        code = asked["QuotaCode"]
        if code not in self.quotas:
            error = {"__type": "AccessDeniedException", "Message": "User is not authorized"}
            return _answer(400, json.dumps(error))
        quota = {"QuotaCode": code, "QuotaName": f"Quota {code}", "Value": self.quotas[code]}
        if operation == "RequestServiceQuotaIncrease":
            self.requests.append(
                {
                    "Id": f"request-{len(self.requests)}",
                    "QuotaCode": code,
                    "DesiredValue": asked["DesiredValue"],
                    "Status": "PENDING",
                    "Created": datetime.now(UTC).timestamp(),
                }
            )
            return _answer(200, json.dumps({"RequestedQuota": self.requests[-1]}))
        if operation.startswith("ListRequested"):
            found = [request for request in self.requests if request["QuotaCode"] == code]
            return _answer(200, json.dumps({"RequestedQuotas": found}))
        return _answer(200, json.dumps({"Quota": quota}))


@contextmanager
def aws_in_process() -> Iterator[Aws]:
    """An account with a default VPC and one base image. Time passes only while code sleeps."""
    time, slept = [0.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        time[0] += seconds

    def send(stubber: BotocoreStubber, event_name: str, request: Any, **_: Any) -> Any:
        return (
            aws.send(stubber, event_name, request) if aws else _moto(stubber, event_name, request)
        )

    def disk_key(response: Any) -> ActionResult:
        response.error_on_dryrun()
        return ActionResult({"KmsKeyId": aws.disk_key if aws else ""})

    aws: Aws | None = None
    with (
        mock.patch.dict(os.environ, MOTO_EC2_LOAD_DEFAULT_AMIS="false"),
        mock.patch.object(AmiBackend, "create_image", _create_image),
        mock.patch.object(AmisResponse, "copy_image", _copy_image),
        mock.patch.object(InstanceBackend, "run_instances", _run_instances),
        # moto lacks these.
        mock.patch.multiple(
            EC2Response,
            create=True,
            **{k: v for k, v in vars(CapacityReservations).items() if "reservation" in k},
            describe_image_references=ImageReferences.describe_image_references,
            _references=ImageReferences._references,
            get_ebs_default_kms_key_id=disk_key,
        ),
        mock.patch.object(BotocoreStubber, "__call__", send),
        mock.patch.object(ClientCreator, "_load_service_model", _service_model),
        mock.patch.object(ClientCreator, "_create_client_class", _client_class),
        # moto's patterns for `requests`, 1,300 each time: bake calls AWS through botocore alone.
        mock.patch("moto.core.models.RESPONSES_METHODS", []),
        mock_aws(),
    ):
        session = _session(REGION)
        cloud = connect(session=session, clock=Clock(now=lambda: time[0], sleep=sleep))
        aws = Aws(cloud, new_run("mxnet-cu101", lifetime=timedelta(hours=4)), slept)
        aws.listen(session)
        aws.base_image()
        yield aws


# Shared by all tests: reading EC2's model, and making a class with its 800 methods, takes longer
# than most tests.
_LOADER = botocore.loaders.create_loader()
_MODELS: dict[str, ServiceModel] = {}
_CLASSES: dict[str, type] = {}


def _service_model(creator: ClientCreator, service_name: str, *more: Any) -> ServiceModel:
    if service_name not in _MODELS:
        _MODELS[service_name] = _load_service_model(creator, service_name, *more)
    return _MODELS[service_name]


def _client_class(creator: ClientCreator, service_name: str, service_model: ServiceModel) -> type:
    if service_name not in _CLASSES:
        _CLASSES[service_name] = _create_client_class(creator, service_name, service_model)
    return _CLASSES[service_name]


def _session(region: str) -> boto3.Session:
    botocore_session = botocore.session.Session()
    botocore_session.register_component("data_loader", _LOADER)
    return boto3.Session(region_name=region, botocore_session=botocore_session)


def _service(operation: str) -> str:
    if operation == "GetSecretValue":
        return "secretsmanager"
    if "ServiceQuota" in operation:
        return "service-quotas"
    return "ssm" if "Parameter" in operation else "ec2"


def public_key() -> str:
    key = Ed25519PrivateKey.generate().public_key()
    encoding, form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    return key.public_bytes(encoding, form).decode()


_load_service_model = ClientCreator._load_service_model
_create_client_class = ClientCreator._create_client_class
_moto = BotocoreStubber.__call__
_moto_create_image = AmiBackend.create_image
_moto_run_instances = InstanceBackend.run_instances


def _run_instances(self: Any, *arguments: Any, **options: Any) -> Any:
    """Tag network interfaces in the creating call, as EC2 does and moto does not."""
    tags = options.get("tags", {}).get("network-interface", {})
    reservation = _moto_run_instances(self, *arguments, **options)
    for instance in reservation.instances:
        for interface in instance.network_interfaces:
            interface.add_tags(tags)
    return reservation


def _create_image(
    self: Any, instance_id: str, name: str, description: str, tag_specifications: list[Params]
) -> Ami:
    """Tag snapshots in the creating call and refuse used names, as EC2 does and moto does not."""
    if any(image.name == name for image in self.amis.values()):
        raise EC2ClientError("InvalidAMIName.Duplicate", f"AMI name {name} is already in use")
    of = {spec["ResourceType"]: spec["Tags"] for spec in tag_specifications}
    image = _moto_create_image(
        self, instance_id, name, description, [{"ResourceType": "image", "Tags": of["image"]}]
    )
    for tag in of["snapshot"]:
        image.ebs_snapshot.add_tag(tag["Key"], tag["Value"])
    return image


def _copy_image(self: Any) -> ActionResult:
    """Copy once for each token, with the requested tags, as EC2 does and moto does not."""
    made = vars(self.ec2_backend).setdefault("copies", {})
    token = self._get_param("ClientToken")
    if token not in made:
        image = self.ec2_backend.copy_image(
            self._get_param("SourceImageId"),
            self._get_param("SourceRegion"),
            self._get_param("Name"),
        )
        made[token] = image
        tags = self._parse_tag_specification()
        image.add_tags(tags.get("image", {}))
        image.ebs_snapshot.add_tags(tags.get("snapshot", {}))
        image.ebs_snapshot.encrypted = self._get_bool_param("Encrypted", False)
    return ActionResult({"ImageId": made[token].id})


def _answer(status: int, body: str) -> AWSResponse:
    raw = BytesIO(body.encode())
    raw.stream = lambda *_, **__: iter([body.encode()])  # type: ignore[attr-defined]
    return AWSResponse("https://ec2.amazonaws.com", status, {}, raw)

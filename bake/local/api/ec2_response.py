"""EC2 requests and responses, where moto's implementation differs from AWS's API reference.

Source: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/
"""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any, ClassVar

from botocore.model import OperationModel, OperationNotFoundError
from moto.core.exceptions import ServiceException
from moto.core.responses import ActionResult
from moto.core.serialize import return_if_not_empty
from moto.core.utils import get_service_model
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.responses import EC2Response

from bake.errors import LocalCloudError
from bake.local.api.capacity_reservations import CapacityReservations
from bake.local.api.client_tokens import check_same, fingerprint
from bake.local.api.image_references import ImageReferences
from bake.local.api.image_response import ImageResponse
from bake.local.api.instance_response import InstanceResponse
from bake.local.api.launch.fleets import Fleets
from bake.local.api.launch.response import LaunchResponse
from bake.local.api.pages import page
from bake.local.api.price_list import SpotPrices
from bake.local.api.request_checks import check_request
from bake.local.api.tag_response import TagResponse
from bake.local.api.volume_response import VolumeResponse

log = logging.getLogger(__name__)


class LocalEC2Response(
    LaunchResponse,
    Fleets,
    InstanceResponse,
    VolumeResponse,
    ImageResponse,
    ImageReferences,
    TagResponse,
    SpotPrices,
    CapacityReservations,
    EC2Response,  # type: ignore[misc]
):
    """One request to EC2, and its response."""

    RESPONSE_KEY_PATH_TO_TRANSFORMER: ClassVar[dict[str, Any]] = {
        **EC2Response.RESPONSE_KEY_PATH_TO_TRANSFORMER,
        # EC2 leaves these members out if they are empty.
        "Instance.StateReason": lambda reason: reason if reason and reason.code else None,
        "Instance.HibernationOptions": return_if_not_empty,
        "Association.PublicDnsName": lambda _: "",
    }

    _unreadable: EC2ClientError | None = None

    def parse_parameters(self, request: Any) -> None:
        """Parse the request. What cannot be parsed is refused by `call_action`, in EC2's format."""
        self.params: dict[str, Any] = {}
        try:
            super().parse_parameters(request)
        except OperationNotFoundError:
            action = self._get_action()
            self._unreadable = EC2ClientError(
                "InvalidAction", f"The action {action} is not valid for this web service."
            )
        except (AttributeError, LookupError, TypeError, ValueError):
            log.exception("a request cannot be parsed")
            self._unreadable = EC2ClientError(
                "MalformedQueryString", "The query string contains a syntax error"
            )

    def call_action(self) -> Any:
        """Respond to every request: what fails here is an EC2 error, not an HTTP error.

        Nothing of Python is shown to the client. EC2 does not refuse a request with InternalError
        if the request is at fault, and clients repeat requests that are refused with it.
        """
        try:
            if self._unreadable is not None:
                raise self._unreadable
            if self._operation is not None:
                check_request(self._operation, self.params)
            return self._respond_once()
        except ServiceException as error:
            return self.serialized(ActionResult(error))
        except NotImplementedError as error:
            # moto adds where its developers can be reached.
            reason = str(error).partition(" Feel free")[0]
            return self._error("UnsupportedOperation", f"Not in the local cloud: {reason}")
        except LocalCloudError as error:
            log.exception("%s failed", self._get_action())
            return self._error("InternalError", error.message)
        except Exception:
            action = self._get_action()
            log.exception("%s failed", action)
            return self._error(
                "UnsupportedOperation",
                f"The local cloud cannot answer this request of {action}: its log has the reason",
            )

    def _respond_once(self) -> Any:
        """Respond to a request, or repeat the response to the first one with its client token."""
        action, token = self._get_action(), self.params.get("ClientToken")
        if not token or action == "RunInstances":  # its response changes with its instances
            return super().call_action()
        responses = self.ec2_backend.responses
        parameters = fingerprint(self.params)
        if (action, token) in responses:
            first, response = responses[action, token]
            check_same(token, first, parameters)
            return response
        response = super().call_action()
        if response[0] == HTTPStatus.OK:
            responses[action, token] = (parameters, response)
        return response

    @property
    def _operation(self) -> OperationModel | None:
        """The model of the operation, or None if EC2 has no such operation."""
        model = get_service_model(self.boto3_service_name)
        try:
            return model.operation_model(self._get_action())
        except OperationNotFoundError:
            return None

    def serialized(self, action_result: ActionResult) -> Any:
        return super().serialized(page(self._get_action(), self.params, action_result))

    def _error(self, code: str, message: str) -> Any:
        return self.serialized(ActionResult(EC2ClientError(code, message)))

    # The account ------------------------------------------------------------------------------

    def get_ebs_default_kms_key_id(self) -> ActionResult:
        """Return the alias of the key that AWS manages: the account has no other default key."""
        self.error_on_dryrun()
        return ActionResult({"KmsKeyId": "alias/aws/ebs"})

    def describe_account_attributes(self) -> ActionResult:
        self.error_on_dryrun()
        vpc = self.ec2_backend.default_vpc
        attributes = {
            "supported-platforms": ["VPC"],
            "default-vpc": [vpc.id if vpc else "none"],
            "max-instances": ["20"],
            "vpc-max-security-groups-per-interface": ["5"],
            "max-elastic-ips": ["5"],
            "vpc-max-elastic-ips": ["5"],
        }
        names = self._get_param("AttributeNames", []) or list(attributes)
        shown = [
            {
                "AttributeName": name,
                "AttributeValues": [{"AttributeValue": value} for value in attributes[name]],
            }
            for name in names
        ]
        return ActionResult({"AccountAttributes": shown})

    def _tags_for(self, *resource_types: str) -> dict[str, dict[str, str]]:
        tags: dict[str, dict[str, str]] = self._parse_tag_specification()
        for resource_type in tags:
            if resource_type not in resource_types:
                raise EC2ClientError(
                    "InvalidParameterValue",
                    f"'{resource_type}' is not a valid taggable resource type for this operation.",
                )
        return tags

"""Errors of AWS calls, each with a hint about what to do next.

The codes are from EC2's page "Error codes" and from the models of the services in botocore.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from botocore import exceptions as boto
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from bake.errors import CloudError, NoAnswerError

_CREDENTIALS = (
    "Provide credentials: run `aws configure`, or `aws sso login --profile NAME` and set "
    "AWS_PROFILE=NAME, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. "
    "`aws sts get-caller-identity` tests them"
)
_RENEW = "Sign in again (`aws sso login`), or get a new session token, and repeat the command"
_SET_CLOCK = "Set it (`timedatectl set-ntp true`) and repeat the command"
_CLOCK = f"This computer's clock is wrong. {_SET_CLOCK}"
_AGAIN = "AWS is busy or has an internal error: repeat the command in a few minutes"
_CAPACITY = (
    "AWS has no free machine of this type in this zone now. Give more instance types (for a launch "
    "`--instance-type a,b,c` and `--market spot,on-demand`, for a bake `builder.instance_types`), "
    "try another region, or wait"
)
_QUOTA = (
    "Request a higher quota (`invoke quota` shows the quotas and how to raise them), or terminate "
    "machines that you no longer need (`invoke machines` lists them)"
)
_KMS_KEY = (
    "The account's default key for EBS is a customer-managed KMS key. It is disabled, or these "
    "credentials may not use it. `invoke doctor` checks it; docs/accounts.md has the statements "
    "that a policy needs"
)
_PERHAPS_KMS_KEY = (
    "AWS gives no other reason. Most often it is the KMS key of the disk: if the account's default "
    "key for EBS is a customer-managed one, it may be disabled, or these credentials may not use "
    "it. `invoke doctor` checks it; docs/accounts.md has the statements that a policy needs"
)
_HARDWARE = "The hardware of the machine failed or is retired. Run the same command again"
_SPOT_ENDED = (
    "AWS has taken the spot machine back. Run the same command again, or use an on-demand machine"
)
_NEW_ZONE = "Give more instance types, try another region, or wait"
_SNAPSHOTS_PENDING = (
    "Too many snapshots are pending. Wait until they are completed, or request a higher quota in "
    "the Service Quotas console (EBS, 'Concurrent snapshots per …')"
)
_REGION = "Give --region, set AWS_REGION, or put `region = …` into the profile"
_NO_SUCH_REGION = "Give the name of a region, such as us-west-2"
_NETWORK = "Check the network, the name of the region, HTTPS_PROXY and AWS_ENDPOINT_URL"
_CONFIG = "Check ~/.aws/config and ~/.aws/credentials"

HINTS = {
    "AuthFailure": f"The keys are not valid in this region. {_CREDENTIALS}",
    "InvalidClientTokenId": f"The access key is unknown or inactive. {_CREDENTIALS}",
    "UnrecognizedClientException": f"The access key is unknown or inactive. {_CREDENTIALS}",
    "SignatureDoesNotMatch": f"The secret key does not belong to the access key. {_CREDENTIALS}",
    "ExpiredToken": f"The credentials have expired. {_RENEW}",
    "ExpiredTokenException": f"The credentials have expired. {_RENEW}",
    "RequestExpired": f"The credentials have expired, or the clock is wrong. {_RENEW}. {_CLOCK}",
    "RequestTimeTooSkewed": _CLOCK,
    "InvalidSignatureException": (
        f"The secret key does not belong to the access key. {_CREDENTIALS}"
    ),
    "AuthFailure.ServiceLinkedRoleCreationNotPermitted": (
        "The first spot machine of an account needs the permission iam:CreateServiceLinkedRole "
        "once (see docs/iam-policy.json). An administrator can create the role instead: aws iam "
        "create-service-linked-role --aws-service-name spot.amazonaws.com"
    ),
    "OptInRequired": (
        "Enable the region for this account, or subscribe to the image in AWS Marketplace"
    ),
    "PendingVerification": (
        "AWS is verifying the account for this region, which takes up to four hours"
    ),
    "Blocked": "AWS has blocked the account. Open a case with AWS Support",
    "AccountDisabled": "AWS has disabled the account. Open a case with AWS Support",
    "VcpuLimitExceeded": _QUOTA,
    "InstanceLimitExceeded": _QUOTA,
    "MaxSpotInstanceCountExceeded": _QUOTA,
    "ResourceLimitExceeded": _QUOTA,
    "InsufficientInstanceCapacity": _CAPACITY,
    "InsufficientHostCapacity": _CAPACITY,
    "InsufficientCapacity": _CAPACITY,
    "InsufficientReservedInstanceCapacity": _CAPACITY,
    "UnfulfillableCapacity": _CAPACITY,
    "InsufficientVolumeCapacity": (
        f"AWS has no space for another disk in this zone now. {_NEW_ZONE}"
    ),
    "VolumeTypeNotAvailableInZone": f"This zone has no gp3 disks. {_NEW_ZONE}",
    "InsufficientAddressCapacity": f"AWS has no free public address now. {_NEW_ZONE}",
    "InsufficientFreeAddressesInSubnet": (
        "The subnet has no free address. Terminate machines in it, or use another subnet"
    ),
    "InvalidAvailabilityZone": f"This account cannot use the zone. {_NEW_ZONE}",
    "InvalidSubnetID.NotFound": "The subnet was deleted. Repeat the command",
    "VolumeLimitExceeded": (
        "Delete volumes that are not needed, or request a higher quota in the Service Quotas "
        "console (EBS, 'Storage for General Purpose SSD (gp3) volumes')"
    ),
    "EncryptedVolumesNotSupported": "This instance type has no encrypted disks. Give another type",
    "ReservationCapacityExceeded": (
        "The reservation is full. Terminate a machine in it, or enlarge it"
    ),
    "SpotMaxPriceTooLow": "The spot price is above the allowed maximum. Use an on-demand machine",
    "Unsupported": f"This zone does not offer the instance type. {_NEW_ZONE}",
    "UnsupportedOperation": "The kind or the state of the resource does not allow it",
    # The reasons of a machine that has ended ("StateReason" in the API reference). A machine whose
    # disk has a KMS key that cannot be used ends with Client.InternalError while it is pending.
    "Client.InternalError": _PERHAPS_KMS_KEY,
    "Server.InternalError": _HARDWARE,
    "Server.ScheduledStop": _HARDWARE,
    "Server.SpotInstanceShutdown": _SPOT_ENDED,
    "Server.SpotInstanceTermination": _SPOT_ENDED,
    "InvalidKMSKey.InvalidState": _KMS_KEY,
    "CustomerKeyHasBeenRevoked": _KMS_KEY,
    "InvalidAMIID.NotFound": (
        "The image was deleted, or it belongs to another region or account. `invoke images` lists "
        "the images"
    ),
    "InvalidAMIID.Unavailable": "The image is not available yet. `invoke images` shows its state",
    "InvalidAMIName.Duplicate": "Another image has this name. `invoke images` lists the images",
    "InvalidInstanceID.NotFound": "This region has no such machine. `invoke machines` lists them",
    "InvalidKeyPair.NotFound": "The key pair was deleted. Repeat the command",
    "InvalidKeyPair.Duplicate": "Choose another name, or delete that key pair first",
    "InvalidParameterValue": "AWS does not accept one of the values. Its message names the value",
    "InvalidParameter": "AWS does not accept one of the parameters. Its message names it",
    "InvalidParameterCombination": (
        "AWS does not accept these parameters together. Its message names them"
    ),
    "IncorrectInstanceState": (
        "The state of the machine does not allow it. `invoke machines` shows it"
    ),
    "IncorrectState": "The state of the resource does not allow it yet. Repeat the command later",
    "InvalidSnapshot.NotFound": "The snapshot was deleted outside of bake. Bake again",
    "InvalidSnapshot.InUse": (
        "An image uses the snapshot. Remove the image first; `invoke images` lists them"
    ),
    "SnapshotCreationPerVolumeRateExceeded": "EBS allows one snapshot of a volume in 15 seconds",
    "ConcurrentSnapshotLimitExceeded": _SNAPSHOTS_PENDING,
    "PendingSnapshotLimitExceeded": _SNAPSHOTS_PENDING,
    "SnapshotLimitExceeded": (
        "Delete snapshots that are not needed, or request a higher quota in the Service Quotas "
        "console (EBS, 'Snapshots per Region')"
    ),
    "DependencyViolation": "Another resource still uses it. Remove that resource first",
    "RulesPerSecurityGroupLimitExceeded": (
        "Each computer that has used the machine has a rule in its security group. Remove rules "
        "that are not needed any more, with `aws ec2 revoke-security-group-ingress`"
    ),
    "SecurityGroupLimitExceeded": "Delete security groups that are not in use",
    "RequestLimitExceeded": f"This account sends too many requests at once. {_AGAIN}",
    "Throttling": f"This account sends too many requests at once. {_AGAIN}",
    "ThrottlingException": f"This account sends too many requests at once. {_AGAIN}",
    "TooManyUpdates": f"Another process is changing it at this moment. {_AGAIN}",
    "ParameterAlreadyExists": "Another process has created the parameter. Repeat the command",
    "ParameterNotFound": "The parameter was deleted. Repeat the command",
    "ParameterLimitExceeded": (
        "The account has as many parameters as AWS allows (10,000). Delete parameters that are "
        "not in use; bake's own are under /bake/"
    ),
    "ParameterMaxVersionLimitExceeded": (
        "Remove the label from the oldest version of the parameter, or delete the parameter"
    ),
    "Unavailable": _AGAIN,
    "ServiceUnavailable": _AGAIN,
    "InternalError": _AGAIN,
    "InternalFailure": _AGAIN,
    "InternalServerError": _AGAIN,
}

# Errors without a response from AWS. The first match counts, so a subclass comes before its parent.
_NO_RESPONSE: dict[type[Exception], str] = {
    boto.ProfileNotFound: "Set AWS_PROFILE to a profile that `aws configure list-profiles` lists",
    boto.PartialCredentialsError: _CREDENTIALS,
    boto.NoCredentialsError: _CREDENTIALS,
    boto.SSOError: _RENEW,
    boto.TokenRetrievalError: _RENEW,
    boto.CredentialRetrievalError: _CREDENTIALS,
    boto.RefreshWithMFAUnsupportedError: (
        "The session of the profile has ended, and a new one needs an MFA code. Repeat the command"
    ),
    boto.LoginError: "Sign in again (`aws login`), and repeat the command",
    boto.MissingDependencyException: (
        "Install it into the virtual environment of bake, or run `aws configure export-credentials "
        "--format env` and set the variables that it prints"
    ),
    boto.NoRegionError: _REGION,
    boto.InvalidRegionError: _NO_SUCH_REGION,
    boto.UnknownRegionError: _NO_SUCH_REGION,
    boto.ConfigParseError: _CONFIG,
    boto.ConfigNotFound: _CONFIG,
    boto.SSLError: "If a proxy inspects TLS, set AWS_CA_BUNDLE to the file with its CA certificate",
    boto.ProxyConnectionError: "Check HTTPS_PROXY and NO_PROXY",
    boto.ConnectionError: _NETWORK,
    boto.HTTPClientError: _NETWORK,
    boto.IncompleteReadError: _NETWORK,
    ResponseParserError: f"The response is not from AWS, perhaps from a proxy. {_NETWORK}",
    boto.ParamValidationError: "",
    # All others are about a setting of the caller, which botocore found to be invalid.
    BotoCoreError: f"{_CONFIG}, and the variables AWS_…",
}

# The request may have reached AWS. (Without credentials or a region, none is sent.)
_SENT = (
    boto.ConnectionError,
    boto.HTTPClientError,
    boto.IncompleteReadError,
    ResponseParserError,
)

# Codes for an invalid signature. AWS also uses them when the request's time differs too much from
# its own: EC2 uses AuthFailure or RequestExpired, STS and SSM the others.
_SIGNATURE = {
    "AuthFailure",
    "InvalidSignatureException",
    "RequestExpired",
    "RequestInTheFuture",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
}
# "In most cases, a request must reach AWS within five minutes of the time stamp" (IAM User Guide,
# "AWS Signature Version 4 for API requests").
_SKEW_S = 4 * 60

# Errors that are worth a retry: AWS is busy, or the network failed. boto has retried before.
TRANSIENT = {
    "RequestLimitExceeded",
    "Throttling",
    "ThrottlingException",
    "TooManyUpdates",
    "InternalError",
    "InternalFailure",
    "InternalServerError",
    "Unavailable",
    "ServiceUnavailable",
    # boto's codes for a response that is not from the service, but from a load balancer or proxy.
    "500",
    "502",
    "503",
    "504",
    "ConnectionClosedError",
    "ConnectTimeoutError",
    "EndpointConnectionError",
    "ProxyConnectionError",
    "ReadTimeoutError",
}

DENIED = {"UnauthorizedOperation", "AccessDenied", "AccessDeniedException"}


# EBS's words for a key that cannot be used, in the reason of a failed snapshot or image.
_ABOUT_A_KEY = re.compile(r"\b(KMS|key ?id)\b", re.IGNORECASE)


def hint_for(code: str, reason: str = "") -> str:
    """Return what to do after an error, or after the end of a resource; "" if that is unknown.

    `code` is that of an error or of a state reason, such as `Client.VolumeLimitExceeded`.
    """
    if code in HINTS:
        return HINTS[code]
    if _ABOUT_A_KEY.search(reason):
        return _KMS_KEY
    return HINTS.get(code.removeprefix("Client.").removeprefix("Server."), "")


@contextmanager
def accepting(codes: Collection[str]) -> Iterator[None]:
    """A context that lets an error of AWS with one of these codes pass; others are raised.

    It is for calls whose work another command, or an earlier attempt of boto, may have done.
    """
    try:
        yield
    except CloudError as error:
        if error.code not in codes:
            raise


def was_refused(error: BaseException) -> bool:
    """Return whether AWS refused the request, so that it certainly had no effect."""
    if not isinstance(error, CloudError) or isinstance(error, NoAnswerError):
        return False
    return error.code not in TRANSIENT


def cloud_error(
    error: ClientError | BotoCoreError | ResponseParserError, action: str
) -> CloudError:
    """Return a CloudError for a failed call; `action` is its IAM name, such as ec2:RunInstances."""
    if isinstance(error, ClientError):
        described = error.response.get("Error", {})
        code = described.get("Code", "Unknown")
        reason = described.get("Message", "")
        hint = _permission_hint(action, reason) if code in DENIED else hint_for(code, reason)
        return CloudError(
            f"AWS refused {action}",
            hint=_clock_hint(error, code) or hint,
            code=code,
            reason=reason,
        )
    kind = NoAnswerError if isinstance(error, _SENT) else CloudError
    return kind(
        f"AWS did not answer {action}"
        if isinstance(error, _SENT)
        else f"{action} was not sent to AWS",
        hint=next((hint for kind, hint in _NO_RESPONSE.items() if isinstance(error, kind)), ""),
        code=type(error).__name__,
        reason=str(error),
    )


def _permission_hint(action: str, reason: str) -> str:
    if "explicit deny" in reason:
        return (
            f"A policy denies {action}, so no other policy can allow it: a service control policy "
            "of the organization, a permissions boundary, or a policy of this user or role. Ask "
            "the person who administers the account"
        )
    return (
        f"The credentials do not have the permission {action}. `invoke doctor` lists the missing "
        "permissions and the statements to add; docs/iam-policy.json contains all that are needed. "
        "If AWS's message is encoded, `aws sts decode-authorization-message --encoded-message …` "
        "shows which policy denied the request"
    )


def _clock_hint(error: ClientError, code: str) -> str:
    """Return a hint if AWS refused the signature because of this computer's clock; else ""."""
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    if code not in _SIGNATURE or "date" not in headers:
        return ""
    try:
        ahead = (datetime.now(UTC) - parsedate_to_datetime(headers["date"])).total_seconds()
    except (TypeError, ValueError):  # no time, or one without a zone
        return ""
    if abs(ahead) < _SKEW_S:
        return ""
    minutes = f"{abs(ahead) / 60:.0f} minutes {'ahead of' if ahead > 0 else 'behind'}"
    return f"This computer's clock is {minutes} AWS's, so AWS refuses its requests. {_SET_CLOCK}"

"""What AWS refuses, as an error that says what to do next.

The codes are those of EC2's "Error codes" page and of the services' own models in botocore.
"""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from botocore import exceptions as boto
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from bake.errors import CloudError, NoAnswerError

_CREDENTIALS = (
    "Give credentials: `aws configure`, or `aws sso login --profile NAME` and AWS_PROFILE=NAME, "
    "or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. `aws sts get-caller-identity` tests them"
)
_RENEW = "Sign in again (`aws sso login`), or get a new session token, and repeat the command"
_SET_CLOCK = "Set it (`timedatectl set-ntp true`) and repeat the command"
_CLOCK = f"This computer's clock is not AWS's. {_SET_CLOCK}"
_AGAIN = "AWS is busy or has a fault of its own: repeat the command in a few minutes"
_CAPACITY = (
    "AWS has no such machine free there now: name more instance types (a launch: `--instance-type "
    "a,b,c` and `--market spot,on-demand`; a bake: `builder.instance_types`), try another region, "
    "or wait"
)
_QUOTA = (
    "Ask for more (`invoke quota` shows what you have, and how), or end machines that you no "
    "longer need (`invoke machines`)"
)
_SNAPSHOTS_PENDING = (
    "Too many snapshots are pending: wait until they are completed, or ask for more in the "
    "Service Quotas console (EBS, 'Concurrent snapshots per …')"
)
_REGION = "Give --region, set AWS_DEFAULT_REGION, or put `region = …` into the profile"
_NETWORK = "Look at the network, the region's name, HTTPS_PROXY and AWS_ENDPOINT_URL"
_CONFIG = "Look at ~/.aws/config and ~/.aws/credentials"

HINTS = {
    "AuthFailure": f"The keys are not valid in this region. {_CREDENTIALS}",
    "InvalidClientTokenId": f"The access key is unknown or switched off. {_CREDENTIALS}",
    "UnrecognizedClientException": f"The access key is unknown or switched off. {_CREDENTIALS}",
    "SignatureDoesNotMatch": f"The secret key is not the access key's own. {_CREDENTIALS}",
    "ExpiredToken": f"The credentials have expired. {_RENEW}",
    "ExpiredTokenException": f"The credentials have expired. {_RENEW}",
    "RequestExpired": f"The credentials have expired, or the clock is wrong. {_RENEW}. {_CLOCK}",
    "RequestTimeTooSkewed": _CLOCK,
    "InvalidSignatureException": f"The secret key is not the access key's own. {_CREDENTIALS}",
    "AuthFailure.ServiceLinkedRoleCreationNotPermitted": (
        "The account's first spot machine needs iam:CreateServiceLinkedRole, once: see "
        "docs/iam-policy.json. Or somebody who may makes the role: aws iam "
        "create-service-linked-role --aws-service-name spot.amazonaws.com"
    ),
    "OptInRequired": "Switch the region on for this account, or subscribe to the image",
    "PendingVerification": "AWS is verifying the account for this region: wait up to four hours",
    "Blocked": "AWS has blocked the account: open a case with AWS Support",
    "VcpuLimitExceeded": _QUOTA,
    "InstanceLimitExceeded": _QUOTA,
    "MaxSpotInstanceCountExceeded": _QUOTA,
    "ResourceLimitExceeded": _QUOTA,
    "InsufficientInstanceCapacity": _CAPACITY,
    "InsufficientHostCapacity": _CAPACITY,
    "Server.InsufficientInstanceCapacity": _CAPACITY,
    "ReservationCapacityExceeded": "The reservation is full: end a machine in it, or enlarge it",
    "SpotMaxPriceTooLow": "Spot machines cost more now than is allowed: take on-demand ones",
    "Unsupported": "This zone or instance type does not do that: try another of either",
    "UnsupportedOperation": "The resource is of a kind, or in a state, that does not allow it",
    "InvalidAMIID.NotFound": "The image is gone, or of another region or account: `invoke images`",
    "InvalidAMIID.Unavailable": "The image is not available (yet): `invoke images` shows its state",
    "InvalidAMIName.Duplicate": "An image has that name already: see `invoke images`",
    "InvalidInstanceID.NotFound": "There is no such machine in this region: see `invoke machines`",
    "InvalidKeyPair.Duplicate": "Choose another name, or delete that key pair first",
    "InvalidParameterValue": "AWS does not accept one of the values: its answer names it",
    "IncorrectInstanceState": "The machine's state does not allow it: see `invoke machines`",
    "IncorrectState": "The resource's state does not allow it (yet): repeat the command later",
    "InvalidSnapshot.NotFound": "The snapshot is gone: somebody, or something, has deleted it",
    "InvalidSnapshot.InUse": "An image uses it: remove that first, `invoke images` lists yours",
    "SnapshotCreationPerVolumeRateExceeded": "EBS takes a snapshot of a volume every 15 seconds",
    "ConcurrentSnapshotLimitExceeded": _SNAPSHOTS_PENDING,
    "PendingSnapshotLimitExceeded": _SNAPSHOTS_PENDING,
    "SnapshotLimitExceeded": "Delete snapshots that nobody needs, or ask for more in the Service "
    "Quotas console (EBS, 'Snapshots per Region')",
    "DependencyViolation": "Something still uses it: remove that first",
    "SecurityGroupLimitExceeded": "Delete security groups that nothing uses",
    "RequestLimitExceeded": f"Too many requests at once in this account. {_AGAIN}",
    "Throttling": f"Too many requests at once in this account. {_AGAIN}",
    "ThrottlingException": f"Too many requests at once in this account. {_AGAIN}",
    "TooManyUpdates": f"Somebody else is changing it at this moment. {_AGAIN}",
    "ParameterAlreadyExists": "Somebody else has made that parameter: repeat the command",
    "ParameterNotFound": "Somebody has deleted that parameter: repeat the command",
    "ParameterLimitExceeded": (
        "The account holds as many parameters as AWS allows (10,000): delete what nothing uses. "
        "Those of ours are below /bake/"
    ),
    "ParameterMaxVersionLimitExceeded": (
        "Take the label off the parameter's oldest version, or delete the parameter"
    ),
    "Unavailable": _AGAIN,
    "ServiceUnavailable": _AGAIN,
    "InternalError": _AGAIN,
    "InternalFailure": _AGAIN,
    "InternalServerError": _AGAIN,
}

# What goes wrong before AWS answers. The first match wins: a subclass stands before its parent.
_UNSENT: dict[type[Exception], str] = {
    boto.ProfileNotFound: "Set AWS_PROFILE to one that `aws configure list-profiles` names",
    boto.PartialCredentialsError: _CREDENTIALS,
    boto.NoCredentialsError: _CREDENTIALS,
    boto.SSOError: _RENEW,
    boto.TokenRetrievalError: _RENEW,
    boto.CredentialRetrievalError: _CREDENTIALS,
    boto.NoRegionError: _REGION,
    boto.InvalidRegionError: "A region is named like us-west-2",
    boto.ConfigParseError: _CONFIG,
    boto.ConfigNotFound: _CONFIG,
    boto.SSLError: "Where a proxy inspects TLS, set AWS_CA_BUNDLE to the file of its CA",
    boto.ProxyConnectionError: "Look at HTTPS_PROXY and NO_PROXY",
    boto.ConnectionError: _NETWORK,
    boto.HTTPClientError: _NETWORK,
    boto.IncompleteReadError: _NETWORK,
    ResponseParserError: f"Something between here and AWS has answered in its place. {_NETWORK}",
}

# The request was on its way. (Whoever lacks credentials, a region or a name has sent none.)
_SENT = (
    boto.ConnectionError,
    boto.HTTPClientError,
    boto.IncompleteReadError,
    ResponseParserError,
)

# How AWS refuses a signature, and with it one whose time is too far from its own: the answer does
# not always say which. EC2 says AuthFailure or RequestExpired, STS and SSM the others.
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

# What passes by itself: AWS is busy, or the network was away. boto has asked again before.
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
    # boto's codes for an answer that is not the service's own: of what stands before it.
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


def was_refused(error: BaseException) -> bool:
    """Whether AWS has said no, so that what was asked for cannot have happened."""
    if not isinstance(error, CloudError) or isinstance(error, NoAnswerError):
        return False
    return error.code not in TRANSIENT


def refusal(error: ClientError | BotoCoreError | ResponseParserError, action: str) -> CloudError:
    """The error of one call; `action` is its IAM name, like ec2:RunInstances."""
    if isinstance(error, ClientError):
        answer = error.response.get("Error", {})
        code = answer.get("Code", "Unknown")
        return CloudError(
            f"AWS refused {action}",
            hint=_skewed(error, code)
            or (_denied(action) if code in DENIED else HINTS.get(code, "")),
            code=code,
            reason=answer.get("Message", ""),
        )
    kind = NoAnswerError if isinstance(error, _SENT) else CloudError
    return kind(
        f"{action} could not be asked of AWS",
        hint=next((hint for kind, hint in _UNSENT.items() if isinstance(error, kind)), ""),
        code=type(error).__name__,
        reason=str(error),
    )


def _denied(action: str) -> str:
    return (
        f"The credentials lack the permission {action}. `invoke doctor` says which others, and "
        "what to add; docs/iam-policy.json holds all that are needed. Where the answer holds an "
        "encoded message, `aws sts decode-authorization-message --encoded-message …` says which "
        "policy refused it"
    )


def _skewed(error: ClientError, code: str) -> str:
    """What to do about this computer's clock, where it is that which AWS refuses."""
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
    return f"This computer's clock is {minutes} AWS's, which is why. {_SET_CLOCK}"

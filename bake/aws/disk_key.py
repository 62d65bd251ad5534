"""The KMS key with which EBS encrypts new disks of this account and region.

bake encrypts each disk with the account's default key. If that is a customer-managed key, EC2 uses
it in the caller's name, so the caller needs permissions for it (docs/accounts.md).
"""

from __future__ import annotations

import json

from bake.aws.client.session import Cloud
from bake.aws.permission import Policy, actions
from bake.aws.policy_simulator import simulate_policy

# GetEbsDefaultKmsKeyId returns this alias for the key that AWS manages, and an ARN for another one.
_AWS_MANAGED = "alias/aws/ebs"


def customer_key(cloud: Cloud) -> str | None:
    """Return the ARN of the customer-managed key; None if AWS manages the default key."""
    key: str = cloud.ec2("GetEbsDefaultKmsKeyId")["KmsKeyId"]
    return None if key.endswith(_AWS_MANAGED) else key


def missing_key_actions(cloud: Cloud, key: str, policy: Policy) -> list[str] | None:
    """Return the actions of the policy that the caller's policies do not allow on this key.

    None if IAM's simulator cannot be used. It does not know the key's own policy.
    """
    statements = [
        {**statement, "Resource": key, "Condition": _through_ec2(cloud, statement["Condition"])}
        for statement in policy["Statement"]
    ]
    wanted = actions(policy)
    allowed = simulate_policy(cloud, {**policy, "Statement": statements}, wanted)
    return [action for action in wanted if not allowed[action]] if allowed else None


def _through_ec2(cloud: Cloud, condition: Policy) -> Policy:
    """Return the condition with the name of EC2 in this region, which KMS sees (kms:ViaService).

    A policy of the caller may name it in full, as AWS's examples do.
    """
    suffix = "amazonaws.com.cn" if cloud.partition == "aws-cn" else "amazonaws.com"
    text = json.dumps(condition).replace("ec2.*", f"ec2.{cloud.region}.{suffix}")
    exact: Policy = json.loads(text)
    return exact

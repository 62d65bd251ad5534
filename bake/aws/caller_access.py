"""The rule by which this computer reaches a machine, kept up to date when its address changes.

Several people may use a machine, so each caller (a user on a computer) has a rule of its own, known
by its description. Only a caller's own rule is ever replaced. EC2's rules are the same if protocol,
port and address are the same: callers behind one address share a rule, and each adds its own as
soon as it needs one.
"""

from __future__ import annotations

import getpass
import os
import platform
import re
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Network
from typing import Any

from bake.aws.client.caller import caller_cidr
from bake.aws.client.errors import accepting
from bake.aws.client.session import Cloud, filters_for
from bake.aws.tags import RUN

_PROTOCOLS = {"tcp": True, "6": True, "-1": False}  # whether a rule for it has ports
# The characters of a rule's description (API reference, "IpRange").
_NOT_ALLOWED = re.compile(r"[^A-Za-z0-9 ._:/()#,@\[\]+=&;{}!$*-]")
_LONGEST = 255
# Another command of the same caller has done the same.
_DONE = {"InvalidPermission.Duplicate", "InvalidPermission.NotFound"}


def rule_description() -> str:
    """Return the description of the rule of this user on this computer."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in some containers
        user = str(os.getuid())
    # Without the domain, which some systems take from the network in which they are.
    computer = platform.node().partition(".")[0]
    return _NOT_ALLOWED.sub("-", f"SSH from {user}@{computer}")[:_LONGEST]


def ssh_rule(cidr: str, port: int) -> dict[str, Any]:
    """Return the rule that allows this caller, now at `cidr`, to reach `port`."""
    return {
        "IpProtocol": "tcp",
        "FromPort": port,
        "ToPort": port,
        "IpRanges": [{"CidrIp": cidr, "Description": rule_description()}],
    }


def allow_caller(cloud: Cloud, run_id: str, port: int) -> str:
    """Let this computer's present address reach the machines of a run.

    Return a sentence about what was changed; "" if the address was allowed before, or if the run's
    security group no longer exists. The new rule is added before the caller's old one is removed.
    PreflightError if this computer's address cannot be determined, CloudError if AWS refuses.
    """
    if not run_id:
        return ""
    cidr = caller_cidr()
    changes = [
        change
        for group in cloud.pages(
            "DescribeSecurityGroups",
            "SecurityGroups",
            Filters=filters_for({f"tag:{RUN}": run_id}),
        )
        if (change := _allow(cloud, group, cidr, port))
    ]
    return changes[0] if changes else ""


def _allow(cloud: Cloud, group: Mapping[str, Any], cidr: str, port: int) -> str:
    permissions = group.get("IpPermissions", [])
    if any(IPv4Network(cidr).subnet_of(network) for network in _allowed(permissions, port)):
        return ""
    group_id = group["GroupId"]
    old = _own_addresses(permissions, port)
    changes = [("AuthorizeSecurityGroupIngress", cidr)]
    changes += [("RevokeSecurityGroupIngress", address) for address in old]
    for operation, address in changes:
        with accepting(_DONE):
            cloud.ec2(operation, GroupId=group_id, IpPermissions=[ssh_rule(address, port)])
    instead = f" instead of {', '.join(old)}" if old else ""
    return f"The security group {group_id} now allows SSH from {cidr}{instead}"


def _allowed(permissions: list[Mapping[str, Any]], port: int) -> Iterator[IPv4Network]:
    """Yield the networks from which the rules allow access to the port."""
    for rule in permissions:
        has_ports = _PROTOCOLS.get(rule["IpProtocol"])
        if has_ports is None:
            continue
        if has_ports and not rule.get("FromPort", 0) <= port <= rule.get("ToPort", 65535):
            continue
        for source in rule.get("IpRanges", []):
            yield IPv4Network(source["CidrIp"], strict=False)


def _own_addresses(permissions: list[Mapping[str, Any]], port: int) -> list[str]:
    """Return the addresses that this caller's rules allow."""
    return [
        source["CidrIp"]
        for rule in permissions
        if (rule["IpProtocol"], rule.get("FromPort"), rule.get("ToPort")) == ("tcp", port, port)
        for source in rule.get("IpRanges", [])
        if source.get("Description") == rule_description()
    ]

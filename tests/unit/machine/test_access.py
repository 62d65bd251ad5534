"""Access is restored only to a machine that does not answer, and a failure of that is said."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest

from bake.aws.launch import run_machine
from bake.aws.machine import Machine
from bake.aws.security_group import create_security_group
from bake.aws.tags import VIA
from bake.machine import access
from bake.machine.access import answers, restore_access, say_once
from tests.support.aws_in_process import Aws, aws_in_process

OLD, NEW = "203.0.113.7/32", "198.51.100.9/32"


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    monkeypatch.setenv("BAKE_CALLER_CIDR", NEW)
    monkeypatch.setattr(access, "answers", lambda address, port: False)
    with aws_in_process() as aws:
        yield aws


@pytest.fixture
def machine(aws: Aws) -> Machine:
    place, tags = aws.placement(), aws.run.lasting("mine")
    group = create_security_group(aws.cloud, aws.run, tags, vpc_id=place.vpc_id, cidr=OLD)
    order = aws.order("k", group, tags=tags, stays=True)
    return run_machine(aws.cloud, aws.run, order, [place])


def restored(aws: Aws, machine: Machine) -> list[str]:
    said: list[str] = []
    restore_access(aws.cloud, machine, port=22, say=said.append)
    return said


def test_the_new_address_is_allowed_and_said(aws: Aws, machine: Machine) -> None:
    [said] = restored(aws, machine)
    assert f"now allows SSH from {NEW} instead of {OLD}" in said
    assert restored(aws, machine) == []


def test_a_machine_that_answers_is_not_asked_about(
    aws: Aws, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "answers", lambda address, port: True)
    sent = len(aws.sent)
    assert restored(aws, machine) == []
    assert aws.sent[sent:] == []


def test_a_machine_behind_session_manager_has_no_rule(aws: Aws, machine: Machine) -> None:
    sent = len(aws.sent)
    assert restored(aws, replace(machine, tags={**machine.tags, VIA: "ssm"})) == []
    assert restored(aws, replace(machine, address=None)) == []
    assert aws.sent[sent:] == []


def test_a_denial_is_said_and_does_not_end_the_command(aws: Aws, machine: Machine) -> None:
    aws.refuse("AuthorizeSecurityGroupIngress", "UnauthorizedOperation", "You may not.")
    [said] = restored(aws, machine)
    assert said.startswith("mine does not answer, and its security group could not be changed")
    assert "UnauthorizedOperation: You may not. The credentials do not have the permission" in said


def test_a_group_with_too_many_rules_is_said_with_what_to_do(aws: Aws, machine: Machine) -> None:
    code = "RulesPerSecurityGroupLimitExceeded"
    aws.refuse("AuthorizeSecurityGroupIngress", code, "The maximum number of rules is reached")
    [said] = restored(aws, machine)
    assert f"{code}: The maximum number of rules is reached. Each computer" in said
    assert "revoke-security-group-ingress" in said


def test_an_unknown_address_is_said_and_does_not_end_the_command(
    aws: Aws, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BAKE_CALLER_CIDR", "0.0.0.0/0")
    [said] = restored(aws, machine)
    assert "the whole Internet. Set BAKE_CALLER_CIDR" in said


def test_a_port_answers_if_packets_reach_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert answers("127.0.0.1", port)
    assert answers("127.0.0.1", port), "a closed port refuses, so no security group drops packets"


def test_a_port_does_not_answer_if_packets_are_dropped() -> None:
    """Linux drops connection requests to a server whose queue is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            assert not answers("127.0.0.1", port, timeout_s=0.2)


def test_each_text_is_said_once() -> None:
    said: list[str] = []
    say = say_once(said.append)
    for text in ("one", "two", "one"):
        say(text)
    assert said == ["one", "two"]

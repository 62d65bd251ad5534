"""The `aws` commands in messages: each is valid for the AWS CLI and correctly quoted."""

from __future__ import annotations

import shlex

import botocore.session
import pytest
from awscli.shorthand import ShorthandParser
from botocore import xform_name

from bake.aws.client.commands import aws_command, filters, run_resources
from bake.aws.orphans import KINDS, Orphan


def option_names(command: list[str]) -> set[str]:
    """Return the options that the operation does not have, by botocore's model."""
    _, service, operation, *rest = command
    model = botocore.session.get_session().get_service_model(service)
    [name] = [each for each in model.operation_names if xform_name(each, "-") == operation]
    members = {
        f"--{xform_name(each, '-')}" for each in model.operation_model(name).input_shape.members
    }
    options = {word for word in rest if word.startswith("--")}
    return options - members - {"--region", "--query", "--output"}


def test_every_value_is_quoted_for_the_shell() -> None:
    command = aws_command("ec2", "delete-key-pair", region="us-east-1", key_name="a b; rm")
    assert shlex.split(command) == [
        "aws", "ec2", "delete-key-pair", "--region", "us-east-1", "--key-name", "a b; rm",
    ]  # fmt: skip


def test_a_list_becomes_several_values_and_true_an_option_without_a_value() -> None:
    command = aws_command(
        "ec2", "deregister-image", region="r", image_id=["a", "b"], force=True, dry_run=False
    )
    assert command == "aws ec2 deregister-image --region r --image-id a b --force"


def test_the_ids_of_a_run_are_found_by_its_tag() -> None:
    ids = run_resources("image", "run-1", region="us-east-1", also={"name": "bake/x (1)"})
    command = aws_command("ec2", "deregister-image", region="us-east-1", image_id=ids)
    assert command.endswith(f" --image-id {ids}")
    listing = shlex.split(ids.removeprefix("$(").removesuffix(")"))
    assert "Name=tag:bake:run,Values=run-1" in listing
    assert listing[listing.index("--query") + 1] == "Images[].ImageId"


@pytest.mark.parametrize("value", ["run-1", "a (b)", "a,b", "[x]", 'say "a"', "back\\slash", "a'b"])
def test_the_aws_cli_reads_each_filter_correctly(value: str) -> None:
    [text] = filters({"name": value})
    assert ShorthandParser().parse(text) == {"Name": "name", "Values": value}


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_that_removes_an_orphan_is_valid(kind: str) -> None:
    orphan = Orphan(
        "us-east-1",
        kind,
        "id-1",
        "run-1",
        "recipe",
        None,
        snapshot_ids=("snap-1",) if kind == "image" else (),
    )  # type: ignore[arg-type]
    command = shlex.split(orphan.command)
    assert "id-1" in command
    assert not option_names(command)


@pytest.mark.parametrize("kind", ["image", "machine", "security group", "snapshot"])
def test_the_command_that_lists_a_runs_resources_is_valid(kind: str) -> None:
    ids = run_resources(kind, "run-1", region="us-east-1")  # type: ignore[arg-type]
    assert not option_names(shlex.split(ids.removeprefix("$(").removesuffix(")")))

"""Which image a command uses without a name, and the question if several can be meant."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
from invoke.exceptions import Exit
from moto.ec2 import ec2_backends

import tasks  # noqa: F401  (bake.cli finds the checkout by this module)
from bake.aws.client import session
from bake.aws.image import Image
from bake.aws.tags import DIGEST, PAYLOAD, RECIPE
from bake.cli.image_choice import chosen_image
from bake.cli.recipes import current_images
from bake.console.console import Console
from bake.images import selection
from tests.support.account_server import account_server
from tests.support.aws_in_process import ACCOUNT, REGION, Aws
from tests.support.commands import invoke
from tests.support.copied_images import an_image as made_image
from tests.support.environment import REPOSITORY
from tests.support.plans import real_plan, tags_of
from tests.support.proved_images import an_image
from tests.support.runs import an_account
from tests.support.terminal import INVOKE, Terminal

MXNET = an_image("ami-0000000000000001", day=20, verified="gpu")
OLDER = an_image("ami-0000000000000002", day=10, verified="gpu")
TORCH = an_image("ami-0000000000000003", day=15, verified="gpu", recipe="pytorch-cu126")
CUSTOM = replace(TORCH, name="lab")


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    with an_account() as aws:
        monkeypatch.setattr(session, "connect", lambda region: aws.cloud)
        found = [replace(each, imdsv2=True) for each in (MXNET, CUSTOM, OLDER)]
        monkeypatch.setattr(selection, "images", lambda cloud, once=False: found)
        yield aws


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["launch-from-ami", "--ttl", "2h"], "launch-from-ami --ttl 2h --ami mxnet-cu101"),
        (["copy", "--to", "us-west-2"], "copy --to us-west-2 mxnet-cu101"),
        (["bench", "--spot", "--unverified"], "bench --spot --unverified --ami mxnet-cu101"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_without_a_terminal_an_image_of_several_recipes_has_to_be_named(
    aws: Aws, words: list[str], hint: str
) -> None:
    refused = invoke(*words)
    assert refused.returncode == 2
    assert "2 recipes have images in us-east-1, and none is named" in refused.stderr
    assert MXNET.image_id in refused.stderr
    assert OLDER.image_id not in refused.stderr
    assert f"invoke {hint}\n" in refused.stderr
    assert "RunInstances" not in aws.sent
    assert "CopyImage" not in aws.sent


class Typed(io.StringIO):
    def isatty(self) -> bool:
        return True


def choose(aws: Aws, typed: str, **more: Any) -> tuple[str, Any]:
    """Choose where stdin and stderr are terminals; return what is shown, and the image or error."""
    with (
        mock.patch.object(sys, "stdin", Typed(typed)),
        mock.patch.object(sys, "stderr", Typed()) as shown,
    ):
        console = Console()
        try:
            chosen: Any = chosen_image(console, aws.cloud, None, proved=("gpu",), **more)
        except Exit as refused:
            chosen = refused
        return shown.getvalue(), chosen


def test_in_a_terminal_the_newest_image_of_each_recipe_can_be_chosen(aws: Aws) -> None:
    shown, chosen = choose(aws, "2\n")
    assert chosen.image_id == TORCH.image_id
    assert f"  1  {MXNET.image_id}  bake/mxnet-cu101/20\n" in shown
    assert f"  2  {TORCH.image_id}  lab (pytorch-cu126)\n" in shown
    assert "Which image? [1-2] " in shown
    assert shown.endswith(f"Using the image {TORCH.image_id}  lab\n")


@pytest.mark.parametrize("typed", ["\n", "3\n", "0\n", "y\n", ""])
def test_every_other_answer_chooses_nothing(aws: Aws, typed: str) -> None:
    shown, chosen = choose(aws, typed)
    assert isinstance(chosen, Exit)
    assert chosen.code == 2
    assert "Nothing was done." in shown


@pytest.mark.parametrize(
    ("to", "hint"), [("us-wset-2", "Did you mean us-west-2?"), ("mars-1", "describe-regions")]
)
def test_an_image_is_copied_nowhere_if_one_of_the_regions_does_not_exist(
    aws: Aws, to: str, hint: str
) -> None:
    refused = invoke("copy", MXNET.image_id, "--to", f"eu-west-1,{to}", "--json")
    assert refused.returncode == 2
    error = json.loads(refused.stdout)["error"]
    assert error["message"] == f"Region {to} not found in this account"
    assert hint in error["hint"]
    assert "CopyImage" not in aws.sent


@pytest.mark.parametrize(
    "words",
    [
        ["images", "--recipe", "mxnet-cu102"],
        ["checkpoints", "--recipe", "mxnet-cu102"],
        ["prune", "mxnet-cu102"],
        ["reap", "--recipe", "mxnet-cu102", "--region", "us-east-1"],
        ["doctor", "mxnet-cu102", "--local"],
        ["gpus", "--recipe", "mxnet-cu102"],
    ],
    ids=" ".join,
)
def test_a_name_that_no_recipe_has_is_refused(aws: Aws, words: list[str]) -> None:
    refused = invoke(*words)
    assert refused.returncode == 2, refused.stderr
    assert "mxnet-cu102" in refused.stderr
    assert "Did you mean mxnet-cu" in refused.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["images", "--recipe", "mxnet-cu100"], "You have no images of mxnet-cu100 here."),
        (["checkpoints", "--recipe", "mxnet-cu100"], "You have no checkpoints of mxnet-cu100 here"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_recipe_without_resources_is_not_an_error(aws: Aws, words: list[str], says: str) -> None:
    done = invoke(*words)
    assert done.returncode == 0, done.stderr
    assert says in done.stdout + done.stderr
    if words[0] == "images":
        assert "invoke bake mxnet-cu100" in done.stdout + done.stderr


def test_prune_knows_which_image_a_bake_would_reuse() -> None:
    plan, check = real_plan(), current_images()
    tags = {**MXNET.tags, **tags_of(plan), DIGEST: plan.digest, PAYLOAD: "upstream"}
    assert check(replace(MXNET, tags=tags))
    assert not check(replace(MXNET, tags=tags | {DIGEST: "of another script"}))
    assert not check(replace(MXNET, tags=tags | {RECIPE: "a-recipe-that-was-removed"}))
    assert not check(MXNET)


# In a real terminal ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def account() -> Iterator[tuple[list[Image], dict[str, str]]]:
    """An account with an image of each of two recipes, and the environment of its clients."""
    with account_server() as (aws, environment):
        made = [made_image(aws, name=f"bake/{name}/1") for name in ("mxnet-cu101", "pytorch-cu126")]
        for image in made:  # moto ignores this attribute of a request
            ec2_backends[ACCOUNT][REGION].amis[image.image_id].imds_support = "v2.0"
        second = [{"Key": RECIPE, "Value": "pytorch-cu126"}]
        aws.cloud.ec2("CreateTags", Resources=[made[1].image_id], Tags=second)
        yield made, environment


@pytest.mark.parametrize("columns", [80, 40])
def test_a_terminal_asks_which_recipe_s_image_is_meant(
    account: tuple[list[Image], dict[str, str]], columns: int
) -> None:
    made, environment = account
    words = ["copy", "--to", "us-west-2"]
    with Terminal(words, columns=columns, environment=environment) as terminal:
        terminal.wait_for("Which image? [1-2]")
        for image in made:
            assert any(image.image_id in line for line in terminal.screen), terminal.text
        terminal.type("3\n")
        assert terminal.wait_until_ended() == 2
        assert "! Nothing was done." in terminal.screen
        assert not terminal.broken(), terminal.text


def test_where_no_question_is_possible_the_images_and_a_command_are_shown(
    account: tuple[list[Image], dict[str, str]],
) -> None:
    made, environment = account
    refused = subprocess.run(
        [INVOKE, "launch-from-ami", "--ttl", "2h"],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert (refused.returncode, refused.stdout) == (2, "")
    assert all(image.image_id in refused.stderr for image in made)
    assert re.search(r"invoke launch-from-ami --ttl 2h --ami (mxnet|pytorch)-cu", refused.stderr)

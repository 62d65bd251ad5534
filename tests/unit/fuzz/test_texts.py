"""Whatever a machine, a hand or a file says is read, or is a BakeError; nothing is obeyed."""

from __future__ import annotations

import base64
import re
import shlex
import threading
import unicodedata
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bake.aws import lease_holder, parameter
from bake.aws.recipe_failures import RecipeFailures
from bake.aws.tags import parse_time, read_seconds, read_stages, rfc3339, write_seconds
from bake.aws.user_data import user_data
from bake.cli.views import github
from bake.console import redaction
from bake.console.console import Console
from bake.console.text import plain
from bake.errors import BakeError
from bake.machine.boot import login_user
from bake.machine.key_store import key_path
from bake.machine.ssh_config import Host
from bake.pipeline import rebuild
from bake.plan import description, lock
from bake.recipe import recipes
from bake.recipe.project import built_in
from bake.recipe.resolved import resolve
from bake.record.record import read as read_record
from bake.ssh import keys
from bake.verify import hardware, nvidia_smi, tensors
from bake.verify.clean import check_clean
from bake.verify.expectation import expect
from bake.verify.inventory import read_inventory
from bake.verify.proof import prove
from tests.support.hostile import documents, short_texts, texts
from tests.support.nvidia_smi import document, gpu

TAME = settings(
    max_examples=40, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
KEY = keys.generate()
RECIPES = [
    each.model_copy(update={"gpu": policy})
    for each in recipes.all_recipes(built_in())
    for policy in ("required", "if-present")
]

ELEMENTS = (
    *(
        "nvidia_smi_log",
        "gpu",
        "driver_version",
        "product_name",
        "uuid",
        "fb_memory_usage",
        "total",
    ),
    *("pci", "pci_bus_id", "ecc_errors", "volatile", "sram_uncorrectable", "remapped_rows"),
    *(
        "attached_gpus",
        "cuda_version",
        "mig_mode",
        "current_mig",
        "retired_pages",
        "fabric",
        "state",
    ),
)
WORDS = short_texts | st.sampled_from(["N/A", "[Unknown Error]", "1 MiB", "Yes", "9" * 30, "470.1"])
trees = st.recursive(
    WORDS,
    lambda inner: st.builds(
        lambda name, parts: f"<{name}>{''.join(parts)}</{name}>",
        st.sampled_from(ELEMENTS),
        st.lists(inner, max_size=4),
    ),
    max_leaves=12,
)


@st.composite
def damaged(draw: st.DrawFn, whole: str) -> str:
    """A good answer, cut off, with something else in it, or with a part of it doubled."""
    begin, end = sorted(draw(st.tuples(*[st.integers(0, len(whole))] * 2)))
    middle = draw(st.one_of(st.just(""), WORDS, st.just(whole[begin:end] * 2)))
    return whole[:begin] + middle + draw(st.sampled_from(["", whole[end:]]))


smi = st.one_of(
    texts,
    trees,
    trees.map(lambda tree: f"<?xml version='1.0'?><nvidia_smi_log>{tree}</nvidia_smi_log>"),
    damaged(document(gpu())),
    st.just("<nvidia_smi_log>" + "<gpu>" * 3000),
    st.just(
        "<!DOCTYPE a [<!ENTITY a 'aa'><!ENTITY b '&a;&a;'>]><nvidia_smi_log>&b;</nvidia_smi_log>"
    ),
)
CLEAN = '{"kind": "log", "path": "/var/log/x"}\n{"scanned": 12}\n'
outputs = st.one_of(
    smi,
    documents,
    st.lists(short_texts, max_size=5).map("\n".join),
    damaged(CLEAN),
    st.sampled_from(["3.7.1 /opt/conda/envs/d2l\n", "release 10.1", "1", "ii\ta\t1\n", "1.7.0"]),
)


@dataclass
class Answer:
    stdout: str
    stderr: str = ""
    exit_status: int = 0


class Machine:
    """Says anything to whatever it is asked."""

    def __init__(self, said: list[Answer]) -> None:
        self._said = said
        self._next = 0
        self._lock = threading.Lock()

    def as_root(self, *command: str) -> str:
        return shlex.join(command)

    def run(self, command: str, **_: Any) -> Answer:
        with self._lock:
            self._next += 1
            return self._said[self._next % len(self._said)]


machines = st.lists(
    st.builds(Answer, outputs, short_texts, st.sampled_from([0, 0, 0, 1, -1, 255])),
    min_size=1,
    max_size=8,
).map(Machine)


def survives(work: Callable[[], object], *expected: type[Exception]) -> Any:
    try:
        return work()
    except (BakeError, *expected):
        return None


# Machines ----------------------------------------------------------------------------------------


@TAME
@given(text=smi)
def test_what_nvidia_smi_and_the_probe_say(text: str) -> None:
    for parse in (nvidia_smi.parse, hardware.parse):
        survives(partial(parse, text))


@TAME
@given(machine=machines, of=st.sampled_from(RECIPES))
def test_a_machine_that_says_anything_is_proved_or_refused(machine: Machine, of: Any) -> None:
    expectation = expect(resolve(of), of.builder.instance_types[0])
    proof = survives(lambda: prove(machine, expectation))
    assert proof is None or proof.verified != "gpu"
    survives(lambda: check_clean(machine))
    survives(lambda: check_clean(machine, booted=True, traces=["something"]))


@settings(TAME, max_examples=40)
@given(machine=machines)
def test_lists_of_packages(machine: Machine) -> None:
    survives(lambda: read_inventory(machine, "/opt/conda/envs/d2l"))


# What hands and files hold -----------------------------------------------------------------------


@settings(TAME, max_examples=40)
@given(text=documents, other=texts)
def test_notes_tags_and_files(text: str, other: str, tmp_path: Path) -> None:
    for said in (text, other):
        time = parse_time(said)
        assert time is None or parse_time(rfc3339(time)) is not None
        write_seconds(read_seconds(said))
        read_stages({said: said, "bake:stage:" + said: said})
        held = lease_holder.read(said)
        assert str(held)
        held.has_ended()
        assert isinstance(parameter.decode(said), dict)
        packed = base64.b64encode(zlib.compress(said.encode(errors="replace"))).decode()
        for pieces in (said, packed):
            description.read({"bake:plan:0": pieces[:256], "bake:plan:1": pieces[256:]})
        survives(partial(tensors.read, said), ValueError)
        redaction.Redactor([said[:500]]).redact(f"before {said[:500]} after")
        path = tmp_path / "some"
        path.write_text(said, errors="surrogatepass")
        survives(partial(read_record, path), ValueError)
        survives(partial(lock.read, path, "mxnet-cu101"))


# Where values go ---------------------------------------------------------------------------------


@TAME
@given(text=texts)
def test_no_tag_and_no_name_is_an_option_of_ssh_or_another_file(text: str) -> None:
    user = survives(lambda: login_user({"bake:login-user": text}))
    path = key_path("123456789012", "us-east-1", text)
    assert path.parent == key_path("123456789012", "us-east-1", "x").parent
    assert path.name == Path(path.name).name
    assert len(path.name.encode()) <= 255
    assert not re.search(r"[\x00-\x1f/\\]", path.name)
    host = Host("bake-x", "i-1", "192.0.2.1", user or "x", 22, path)
    lines = host.configuration().splitlines()
    assert lines[0] == "Host bake-x"
    assert f"  User {user or 'x'}" in lines
    assert len(lines) == len({line.split()[0] for line in lines}), "each option once, on its line"


def test_two_names_are_never_one_file() -> None:
    names = ["a/b", "a_b", "a%2Fb", "a" * 300, "a" * 301, "..", ".", ""]
    paths = {key_path("1", "r", name) for name in names}
    assert len(paths) == len(names)


@pytest.mark.parametrize("user", ["-oProxyCommand=id", "root@evil", "a b", "", "a\nb", "é"])
def test_a_tag_that_names_no_user_is_refused(user: str) -> None:
    with pytest.raises(BakeError, match="bake:login-user"):
        login_user({"bake:login-user": user})


@TAME
@given(text=texts, here=st.booleans())
def test_nothing_is_obeyed_by_a_terminal_or_by_github_s_log(text: str, here: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if here:
            patch.setenv("GITHUB_ACTIONS", "true")
        shown = plain(text)
    assert len(shown) == len(text)
    assert not [c for c in shown if unicodedata.category(c) == "Cc" and c not in "\n\t"]
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
    if here:
        assert not [line for line in shown.splitlines() if line.lstrip().startswith("::")]
        assert "##[" not in shown


def test_what_a_machine_said_reaches_the_log_as_a_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    console = Console()
    console.failure(
        BakeError("\x1b[2Jgone", details=["::add-mask::a", "x ##[group]y"], hint="\x07")
    )
    console.note("\x1b]0;title\x07")
    console.table(["column"], [["\x1b[2J"]], empty="")
    shown = "".join(capsys.readouterr())
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert not [line for line in shown.splitlines() if line.strip().startswith("::")]
    assert "##[" not in shown


@TAME
@given(text=texts, other=texts)
def test_a_summary_is_one_table_of_whole_rows(text: str, other: str) -> None:
    failed = rebuild.RecipeReport(
        "r", "failed", 1.0, why=(text, other), image_id=other, proved=text,
        error=BakeError(text, hint=other, code=text[:50], reason=other, details=[text, other]),
    )  # fmt: skip
    since = datetime(2026, 11, 21, tzinfo=UTC)
    given_up = rebuild.given_up("r", RecipeFailures(3, "i", since, reason=text, run=other))
    lines = github.summary([failed, given_up]).split("\n")
    assert lines.count("</pre>") == lines.count("<pre>") == 1
    outside = lines[: lines.index("<pre>")] + lines[lines.index("</pre>") :]
    table = [line for line in outside if line.startswith("|")]
    assert len(table) == 4, table
    assert all(line.count("|") == 8 for line in table), "no cell makes another one"
    body = "\n".join(lines)
    assert not re.search(r"<(?!/?(code|pre|br)>)", body), "no tag but ours"
    assert not [c for c in body if unicodedata.category(c) == "Cc" and c not in "\n\t"]


@TAME
@given(groups=st.lists(st.lists(short_texts, min_size=1, max_size=3).map(tuple), max_size=5))
def test_a_matrix_is_one_line_of_ascii(groups: list[tuple[str, ...]]) -> None:
    """$GITHUB_OUTPUT takes what stands behind a newline for another output."""
    line = github.matrix(groups)
    assert line.isascii()
    assert line.isprintable()


@TAME
@given(time=st.datetimes(datetime(1971, 1, 1), datetime(9998, 1, 1), timezones=st.just(UTC)))
def test_user_data_is_yaml_of_what_was_given(time: datetime) -> None:
    import yaml

    told = yaml.safe_load(user_data(KEY, time))
    assert told["ssh_keys"]["ed25519_private"] == KEY.private_openssh
    assert rfc3339(time) in told["write_files"][0]["content"]

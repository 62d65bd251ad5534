"""The reasons why a stage has to run, according to the tags of the last image."""

from __future__ import annotations

import base64
import hashlib
import re
import zlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bake.aws import tags as aws_tags
from bake.plan import changes, description
from bake.plan.changes import unchanged_stages
from bake.plan.plan import Plan
from bake.plan.stage_files import StageFile, files_digest
from tests.support.plans import (
    BASE,
    Parts,
    changed,
    checkpoints_after,
    plan_of,
    plans,
    tags_of,
)

UBUNTU = "ubuntu/images/hvm-ssd/ubuntu-bionic-18.04-amd64-server-20230607"


def why(
    plan: Plan, last: dict[str, str] | None, *, done: set[str] | None = None, **more: Any
) -> dict[str, tuple[str, ...]]:
    """Return the reasons of the stages that have to run: all stages except for `done`."""
    states: dict[str, changes.State] = {
        stage.name: "done" if stage.name in (done or ()) else "to run" for stage in plan.stages
    }
    found = changes.reasons(plan, states, last, **more)
    assert {name: reason.state for name, reason in found.items()} == states
    return {name: reason.why for name, reason in found.items() if reason.state == "to run"}


def test_plan_and_aws_use_the_same_tag_key_for_digests() -> None:
    assert changes.STAGE_KEY == aws_tags.STAGE


def test_if_a_description_is_too_long_its_longest_values_become_hashes() -> None:
    noise = "".join(hashlib.sha256(str(n).encode()).hexdigest() for n in range(50))
    values = {"SHORT": "3.7", "LONG": noise[:150], "LONGEST": noise}
    parts = changed(BASE, "conda", inputs=values)
    found = description.read(description.describe(plan_of(parts)))
    assert found is not None
    kept = found.stages["conda"].inputs
    assert (kept["SHORT"], kept["LONG"]) == ("3.7", noise[:150])
    assert isinstance(kept["LONGEST"], description.Hash)
    after = plan_of(changed(parts, "conda", inputs=values | {"LONGEST": noise + "0"}))
    assert re.fullmatch(
        r"LONGEST changed \(\w{8} → \w{8}\)", why(after, tags_of(plan_of(parts)))["conda"][0]
    )


def test_a_changed_secret_is_named_and_not_shown() -> None:
    urls = [f"https://me:{word}@pypi.example.org" for word in ("first", "second")]
    before, after = (plan_of(changed(BASE, "mxnet", inputs={"URL": url})) for url in urls)
    assert why(after, tags_of(before))["mxnet"] == ("the masked part of URL may have changed",)


# ---- reasons


def test_without_an_earlier_image_the_reason_is_that_it_was_never_baked() -> None:
    assert set(why(plan_of(BASE), None).values()) == {("never baked here",)}


def test_an_unchanged_stage_runs_because_no_checkpoint_holds_it() -> None:
    plan = plan_of(BASE)
    assert set(why(plan, tags_of(plan)).values()) == {("unchanged, but no checkpoint holds it",)}
    fresh = why(plan, tags_of(plan), fresh=True)
    assert set(fresh.values()) == {("unchanged, but everything runs again (--fresh)",)}


def test_a_stage_that_does_not_run_has_no_reason() -> None:
    plan = plan_of(BASE)
    states: dict[str, changes.State] = dict.fromkeys(BASE, "from checkpoint")
    states["seal"] = "done"
    found = changes.reasons(plan, states, None)
    assert found["cuda"] == changes.Reason("from checkpoint")
    assert found["seal"] == changes.Reason("done")


def test_another_base_image_is_the_reason() -> None:
    before, after = plan_of(BASE), plan_of(BASE, base="ami-2")
    last = tags_of(before, "ubuntu/images/bionic-1")
    found = why(after, last, base_image_name="ubuntu/images/bionic-2")
    assert found["base"] == ("base image ami-1 (bionic-1) → ami-2 (bionic-2)",)
    assert found["conda"] == ("base runs again, and this needs it",)
    assert found["mxnet"] == ("conda runs again, and this needs it",)
    assert found["seal"] == ("base runs again, and this needs it",)


def test_another_lib_is_the_reason() -> None:
    found = why(plan_of(BASE, lib=b"new"), tags_of(plan_of(BASE)))
    assert len(found) == len(BASE)
    for reason in found.values():
        assert re.fullmatch(r"scripts/lib\.sh changed \([0-9a-f]{8} → [0-9a-f]{8}\)", reason[0])
        assert len(reason) == 1


@pytest.mark.parametrize(
    ("stage", "parts", "said"),
    [
        ("cuda", {"body": b"2"}, r"scripts/stages/cuda\.sh changed \(\w{8} → \w{8}\)"),
        ("cuda", {"needs": ("base",)}, "now needs base\nno longer needs drivers"),
        ("conda", {"inputs": {"PYTHON_VERSION": "3.8"}}, r"PYTHON_VERSION 3\.7 → 3\.8"),
        ("conda", {"inputs": {"PYTHON_VERSION": ""}}, r"PYTHON_VERSION 3\.7 → \(nothing\)"),
        ("conda", {"inputs": {}}, "PYTHON_VERSION is no longer read"),
        (
            "conda",
            {"inputs": {"PYTHON_VERSION": "3.7", "NEW": "a\nb"}},
            "NEW is now read: a, b",
        ),
        (
            "mxnet",
            {"inputs": {"FRAMEWORK_VERSION": "1.7.0", "PIP": "mxnet==1.8\nnumpy<2\nscipy"}},
            r"PIP\n- mxnet==1\.7\n\+ mxnet==1\.8\n\+ scipy",
        ),
        (
            "mxnet",
            {"inputs": {"FRAMEWORK_VERSION": "1.7.0", "PIP": "numpy<2\nmxnet==1.7"}},
            "PIP: the same in another order",
        ),
    ],
)
def test_the_reason_names_the_change(stage: str, parts: dict[str, Any], said: str) -> None:
    before, after = plan_of(BASE), plan_of(changed(BASE, stage, **parts))
    assert re.fullmatch(said, "\n".join(why(after, tags_of(before))[stage]))


def test_a_long_list_of_packages_is_compared_one_by_one() -> None:
    packages = [f"libnvidia-package-{n}-470=470.256.02" for n in range(4)]
    before, after = (
        plan_of(changed(BASE, "drivers", inputs={"DRIVER_PACKAGES": " ".join(some)}))
        for some in (packages, packages[1:])
    )
    said = f"DRIVER_PACKAGES\n- {packages[0]}"
    assert why(after, tags_of(before))["drivers"] == (said,)


def test_several_changes_are_all_named() -> None:
    parts = changed(BASE, "conda", body=b"2")
    parts = changed(parts, "cuda", body=b"2")
    parts = changed(parts, "mxnet", inputs={"FRAMEWORK_VERSION": "1.8.0", "PIP": "x"})
    found = why(plan_of(parts), tags_of(plan_of(BASE)))
    assert found["mxnet"][0] == "FRAMEWORK_VERSION 1.7.0 → 1.8.0"
    assert found["mxnet"][-1] == "conda runs again, and this needs it"
    assert found["seal"] == ("conda, cuda run again, and this needs them",)


def test_a_new_stage_is_new() -> None:
    before = {name: part for name, part in BASE.items() if name not in ("mxnet", "seal")}
    found = why(plan_of({**before, "mxnet": BASE["mxnet"]}), tags_of(plan_of(before)))
    assert found["mxnet"] == ("new in this recipe",)


def test_a_larger_disk_is_a_change_of_the_image_alone() -> None:
    last = tags_of(plan_of(BASE))
    assert changes.changes_of_the_image(plan_of(BASE, disk_gb=96), last) == ("disk 64 GB → 96 GB",)
    assert changes.changes_of_the_image(plan_of(BASE), last) == ()
    assert changes.changes_of_the_image(plan_of(BASE), None) == ()


# ---- tags that do not say


def spoiled(tags: dict[str, str]) -> list[dict[str, str]]:
    first = tags["bake:plan:0"]
    letter = "A" if first[60] != "A" else "B"
    without = {key: value for key, value in tags.items() if not key.startswith("bake:plan:")}
    return [
        without,
        tags | {"bake:plan:0": first[:60] + letter + first[61:]},
        tags | {"bake:plan:0": first[:-8]},
        tags | {"bake:plan:0": "hello there"},
        without
        | {"bake:plan:0": base64.b64encode(zlib.compress(b'{"of": "another version"}')).decode()},
        without | {"bake:plan:0": base64.b64encode(zlib.compress(b"\xff\xfe")).decode()},
    ]


def test_unreadable_tags_are_reported_as_not_saying_what_has_changed() -> None:
    after = plan_of(changed(BASE, "cuda", body=b"2"))
    for last in spoiled(tags_of(plan_of(BASE))):
        assert description.read(last) is None
        found = why(after, last)
        assert found["cuda"] == found["seal"]
        assert found["cuda"] == ("changed: the tags of the last image do not say what",)
        assert found["conda"] == ("unchanged, but no checkpoint holds it",)


def test_an_image_without_tags_of_bake_does_not_say_what_has_changed() -> None:
    said = {("changed: the tags of the last image do not say what",)}
    assert set(why(plan_of(BASE), {"Name": "x"}).values()) == said


def test_a_stage_that_an_image_without_description_lacks_is_new() -> None:
    last = {changes.STAGE_KEY + "base": plan_of(BASE).stages[0].digest}
    found = why(plan_of(BASE), last)
    assert found["base"] == ("unchanged, but no checkpoint holds it",)
    assert found["cuda"] == ("new in this recipe",)


def test_a_digest_that_was_changed_by_hand_counts_as_a_change() -> None:
    last = tags_of(plan_of(BASE)) | {"bake:stage:cuda": "0" * 64}
    found = why(plan_of(BASE), last)
    assert found["cuda"] == ("changed: the tags of the last image do not say what",)


def test_a_digest_that_was_removed_by_hand_is_computed_from_the_description() -> None:
    last = tags_of(plan_of(BASE))
    del last["bake:stage:cuda"]
    assert why(plan_of(BASE), last)["cuda"] == ("unchanged, but no checkpoint holds it",)
    after = plan_of(changed(BASE, "drivers", body=b"2"))
    assert why(after, last)["cuda"] == ("drivers runs again, and this needs it",)


# ---- one change in any plan


@st.composite
def one_change(draw: st.DrawFn) -> tuple[Plan, Plan, str]:
    """Return a plan, the plan after one change, and the name of what has changed."""
    plan = draw(plans())
    parts: Parts = {s.name: (s.script.body, s.needs, dict(s.inputs)) for s in plan.stages}
    name = draw(st.sampled_from(sorted(parts)))
    body, _, given_inputs = parts[name]
    base, lib = plan.base_image_id, plan.lib
    kind = draw(st.sampled_from(["base", "lib", "script", *(["input"] if given_inputs else [])]))
    thing = {"base": "base image", "lib": "scripts/lib.sh", "script": f"stages/{name}.sh"}.get(kind)
    if kind == "base":
        base += "0"
    elif kind == "lib":
        lib += b"0"
    elif kind == "script":
        parts = changed(parts, name, body=body + b"0")
    else:
        key = draw(st.sampled_from(sorted(given_inputs)))
        value = given_inputs[key] + draw(st.sampled_from(["0", " and more", "\n0"]))
        parts = changed(parts, name, inputs={**given_inputs, key: value})
        thing = key
    return plan, plan_of(parts, base=base, lib=lib), thing or ""


@settings(deadline=None, max_examples=50)
@given(one_change())
def test_one_change_is_the_reason_of_exactly_the_stages_that_it_changes(
    case: tuple[Plan, Plan, str],
) -> None:
    before, after, thing = case
    digests = {stage.name: stage.digest for stage in before.stages}
    same = {stage.name for stage in after.stages if stage.digest == digests[stage.name]}
    found = why(after, tags_of(before))
    unchanged = {name for name, reason in found.items() if reason[0].startswith("unchanged")}
    assert unchanged == same
    needs = {stage.name: stage.needs for stage in after.stages}
    roots = {name for name in found.keys() - same if not set(needs[name]) - same}
    for name in roots:
        assert thing in "\n".join(found[name])
    for name in found.keys() - same - roots:
        said = "\n".join(found[name])
        assert thing in said or "this needs" in said, said


def test_what_has_not_changed_and_is_not_saved_runs_before_a_changed_stage() -> None:
    before = {stage.name: stage.digest for stage in plan_of(BASE).stages}
    plan = plan_of(changed(BASE, "conda", body=b"another"))
    assert unchanged_stages(plan, before, ["base"]) == {"drivers", "cuda"}
    assert unchanged_stages(plan, before, ["base", "drivers"]) == {"cuda"}
    assert unchanged_stages(plan, {}, ["base"]) == frozenset(), "the first bake has no order"


def test_without_a_checkpoint_after_each_wave_there_is_no_order() -> None:
    before = {stage.name: stage.digest for stage in plan_of(BASE).stages}
    for after in ((), ("conda",)):
        plan = checkpoints_after(plan_of(changed(BASE, "conda", body=b"another")), *after)
        assert unchanged_stages(plan, before, ["base"]) == frozenset()


def test_the_reason_names_the_files_that_changed() -> None:
    def with_files(**files: bytes) -> Plan:
        plan = plan_of(BASE)
        given_files = tuple(StageFile(path, 0o644, files[path]) for path in sorted(files))
        stages = [
            replace(
                stage,
                script=replace(stage.script, files=tuple(sorted(files))),
                files=given_files,
                digest=files_digest(given_files) if files else stage.digest,
            )
            if stage.name == "conda"
            else stage
            for stage in plan.stages
        ]
        return replace(plan, stages=tuple(stages))

    before = with_files(kept=b"1", changed=b"1", removed=b"1")
    after = with_files(kept=b"1", changed=b"2", added=b"1")
    found = why(after, tags_of(before))["conda"]
    assert found[0] == "files/added is now given"
    assert re.fullmatch(r"files/changed changed \(\w{8} → \w{8}\)", found[1])
    assert found[2:] == ("files/removed is no longer given",)
    assert why(before, tags_of(with_files()))["conda"][0] == "files/changed is now given"

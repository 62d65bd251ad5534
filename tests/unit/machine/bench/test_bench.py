"""Benchmarks: valid figures, their page and table, and that no machine is left."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bake.aws.machine import Machine as Instance
from bake.aws.machine import machines
from bake.aws.tags import ENDS, TTL, USED_BY
from bake.cli.views.bench import show_bench
from bake.cli.views.bench_page import charts, page
from bake.console.console import Console
from bake.errors import CapacityError, RequestError
from bake.machine import launch
from bake.machine.bench import bench as speed
from bake.machine.bench.figures import (
    Bench,
    Figure,
    Measured,
    MeasuredGpu,
    format_quartiles,
    format_spread,
    format_value,
    read,
)
from bake.machine.bench.judge import Judge
from bake.machine.bench.measure import BenchRun, _line
from tests.support.aws_in_process import Aws, aws_in_process
from tests.support.benches import FOUR, GONE, ONE, a_bench, a_figure, measured
from tests.support.documents import document_of
from tests.support.terminal import shown_in_terminal

# ---- figures are judged ----


def said(**changes: Any) -> dict[str, Any]:
    """Return a line of the program's output, for a GPU that multiplies correctly."""
    return {
        "line": "figure",
        "what": "multiply",
        "precision": "fp16",
        "device": 0,
        "kind": "gpu",
        "work": 2e12,
        "seconds": [0.1, 0.2, 0.1, 0.1, 0.05],
        "times": 10,
        "error": 3e-4,
        "size": "10000×10000",
        **changes,
    }


def judged(**changes: Any) -> Figure:
    found = Judge().take(json.dumps(said(**changes)))
    assert found is not None
    return found


def test_a_figure_is_the_median_of_its_runs_and_the_quartiles() -> None:
    found = judged()
    assert (found.value, found.low, found.high) == (2e13, 2e13, 2e13)
    assert (found.unit, found.name) == ("FLOP/s", "matrix product fp16")
    assert found.runs == (2e13, 1e13, 2e13, 2e13, 4e13)
    spread = judged(seconds=[0.1, 0.2, 0.4])
    assert (spread.low, spread.value, spread.high) == (7.5e12, 1e13, 1.5e13)
    assert spread.spread == 0.375
    assert format_spread(spread) == "± 37.5%"


NO_SPEED: dict[str, tuple[dict[str, Any], str]] = {
    "wrong": ({"error": 0.3}, "the result is wrong: relative error 0.3"),
    "not a number": ({"error": math.nan}, "the result is wrong: relative error nan"),
    "not compared": ({"error": None}, "the result is wrong: relative error None"),
    "too right to be fp16": ({"error": 1e-7}, "not computed in fp16: its error is only 1.0e-07"),
    "TF32 for fp32": ({"precision": "fp32"}, "the result is wrong: relative error 0.0003"),
    "fp32 for TF32": ({"precision": "tf32", "error": 3e-7}, "it was not computed in tf32"),
    "on the CPU": ({"kind": "cpu"}, "it was computed on: cpu; expected: gpu"),
    "nowhere": ({"kind": ""}, "it was computed on: unknown; expected: gpu"),
    "not timed": ({"seconds": []}, "it was not timed"),
    "copied wrong": (
        {"what": "copy", "precision": None},
        "the result is wrong: relative error 0.0003",
    ),
    "added wrong": ({"what": "add", "precision": None}, "the result is wrong"),
    "not learned": ({"what": "train", "losses": [2.3, 2.4]}, "the loss changed from 2.3 to 2.4"),
    "a loss of NaN": ({"what": "train", "losses": [2.3, math.nan]}, "loss is not a finite number"),
    "no loss": ({"what": "train"}, "loss is not a finite number: None"),
    "its own reason": ({"failure": "CUDA out of memory"}, "CUDA out of memory"),
}


@pytest.mark.parametrize(("changes", "why"), NO_SPEED.values(), ids=NO_SPEED)
def test_a_wrong_or_foreign_result_has_no_speed(changes: dict[str, Any], why: str) -> None:
    found = judged(**changes)
    assert why in (found.failure or "")
    assert (found.value, found.low, found.high, found.runs) == (None, None, None, ())


RIGHT: dict[str, dict[str, Any]] = {
    "fp32": {"precision": "fp32", "error": 3e-7},
    "tf32": {"precision": "tf32", "error": 3e-4},
    "bf16": {"precision": "bf16", "error": 1.7e-3},
    "copied": {"what": "copy", "precision": None, "error": 0.0},
    "added": {"what": "add", "precision": None, "error": 3e-8},
    "learned": {"what": "train", "precision": None, "error": None, "losses": [2.9, 0.1]},
    "on a CPU that was asked": {"device": None, "kind": "cpu"},
}


@pytest.mark.parametrize("changes", RIGHT.values(), ids=RIGHT)
def test_a_correct_result_has_a_speed(changes: dict[str, Any]) -> None:
    found = judged(**changes)
    assert found.failure is None
    assert found.value


@given(st.one_of(st.text(), st.dictionaries(st.sampled_from(list(said())), st.none() | st.text())))
def test_any_line_of_a_machine_is_a_valid_figure_or_ignored(line: Any) -> None:
    answer = Judge()
    text = line if isinstance(line, str) else json.dumps({**said(), **line})
    found = answer.take(text)
    assert found is None or found.failure or (found.value or 0) > 0


@given(st.lists(st.floats(1e-9, 1e3), min_size=2, max_size=30))
def test_the_median_lies_between_the_quartiles(seconds: list[float]) -> None:
    found = judged(seconds=seconds)
    assert found.low is not None
    assert found.low <= (found.value or 0) * (1 + 1e-9)
    assert (found.value or 0) <= (found.high or 0) * (1 + 1e-9)


def test_numbers_are_written_with_three_digits_and_their_unit() -> None:
    assert format_value(7.912e12, "FLOP/s") == "7.91 TFLOP/s"
    assert format_value(1.2e15, "FLOP/s") == "1.20 PFLOP/s"
    assert format_value(301e9, "B/s") == "301 GB/s"
    assert format_value(4.2e3, "B/s") == "0.00420 MB/s"
    assert format_value(12345.6, "images/s") == "12346 images/s"
    assert format_value(None, "B/s") == "–"
    assert format_quartiles(judged(seconds=[0.1, 0.2, 0.4])) == "7.50 – 15.0"


def test_scaling_is_the_speed_of_several_gpus_divided_by_several_times_the_speed_of_one() -> None:
    assert FOUR.efficiency == pytest.approx({1: 1.0, 2: 0.95, 4: 0.8})
    assert measured("x", 2, 1.0, a_figure("train", 9, devices=2)).efficiency == {}


def test_the_work_per_dollar_counts_all_gpus() -> None:
    assert ONE.images_per_usd == 3000 * 3600 / 0.5
    assert FOUR.images_per_usd == 9600 * 3600 / 4.0
    for unknown in (None, 0.0):
        assert measured("x", 1, unknown, a_figure("train", 9)).images_per_usd is None
    on_cpu = measured("g4dn.xlarge", 0, 0.5, a_figure("train", 9))
    assert on_cpu.images_per_usd is None, "a GPU machine's price is not for its CPU"


def test_a_reader_is_warned() -> None:
    assert ONE.warnings == ("The GPU was slowed down (power cap): matrix product fp16",)
    on_cpu = measured("x", 0, None, a_figure("train", 9))
    assert on_cpu.warnings == ("No GPU: these are figures of the CPU",)
    hidden = on_cpu.model_copy(
        update={"machine": on_cpu.machine.model_copy(update={"driver_sees": 2, "load": 3.0})}
    )
    assert hidden.warnings == (
        "The driver finds 2 GPUs, but mxnet finds none: these are figures of the CPU",
        "The CPU was busy before: load 3.0",
    )
    busy = MeasuredGpu(index=1, busy_percent=35)
    used = ONE.model_copy(update={"machine": ONE.machine.model_copy(update={"gpus": (busy,)})})
    assert used.warnings[0] == "GPU 1 was 35 % busy before: other processes use it, too"


def test_the_document_is_read_as_it_was_written(tmp_path: Path) -> None:
    bench = a_bench(ONE, FOUR, GONE)
    assert read(bench.write(tmp_path)) == bench
    text = (tmp_path / "bench.json").read_text()
    assert json.loads(text)["version"] == 1
    (tmp_path / "bench.json").write_text(text.replace('"version": 1', '"version": 2'))
    with pytest.raises(ValueError, match="version"):
        read(tmp_path / "bench.json")


def test_several_machines_are_shown_side_by_side_in_80_columns() -> None:
    measured = a_bench(ONE, FOUR, GONE)
    lines = shown_in_terminal(lambda: show_bench(Console(), measured, Path("builds"))).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == [
        *("machine", "on", "fp32", "TF32", "fp16", "bf16", "GB/s", "img/s", "M", "img/$")
    ]
    assert lines[1].split() == [
        *("g4dn.xlarge", "Tesla", "T4", "8.00", "–", "50.0", "–", "240", "3000", "21.6")
    ]
    assert "builds/20261121-000000-abcdef/report.html" in "\n".join(lines)


def test_one_machine_is_shown_with_all_its_figures() -> None:
    text = shown_in_terminal(lambda: show_bench(Console(), a_bench(FOUR), Path("builds")))
    assert max(map(len, text.splitlines())) <= 80
    assert "training on 4 GPUs  9600 images/s" in text
    assert "scaling to 4 GPUs   80%" in text
    assert "8.64 million" in text


def test_with_json_the_document_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    document = document_of(
        lambda console: show_bench(console, a_bench(ONE), Path("builds")), capsys
    )
    assert document["machines"][0]["figures"][0]["value"] == 8e12
    assert document["page_path"] == "builds/20261121-000000-abcdef/report.html"


def test_the_spread_is_the_same_in_the_terminal_and_on_the_page() -> None:
    line = _line(a_figure("copy", 240e9))
    assert line.endswith("± 1.5%")
    assert page(a_bench(ONE)).count("± 1.5%") == 5


def test_the_number_of_a_bar_is_beside_its_error_bar() -> None:
    bars, numbers = charts([ONE])["products"].spec["data"]
    assert bars["orientation"] == "h"
    ends = [x + more for x, more in zip(bars["x"], bars["error_x"]["array"], strict=True)]
    assert numbers["x"] == pytest.approx(ends)
    assert numbers["y"] == bars["y"]
    assert numbers["textposition"] == "middle right"
    assert [text.strip() for text in numbers["text"]] == ["8.00", "50.0"]


def test_each_bar_has_its_own_place_and_the_first_figure_is_at_the_top() -> None:
    made = charts([ONE, FOUR])["training"].spec
    places = {
        (trace["name"], figure): place
        for trace in made["data"]
        for figure, place in zip(trace.get("customdata", ()), trace["y"], strict=False)
    }
    assert sorted(places, key=lambda bar: -places[bar]) == [
        ("g4dn.xlarge", "one GPU"),
        ("g4dn.12xlarge", "one GPU"),
        ("g4dn.12xlarge", "2 GPUs"),
        ("g4dn.12xlarge", "4 GPUs"),
    ]
    axis = made["layout"]["yaxis"]
    marks = dict(zip(axis["ticktext"], axis["tickvals"], strict=True))
    assert marks["one GPU"] == sum(places[name, "one GPU"] for name, _ in list(places)[:2]) / 2


def test_a_single_bar_is_not_drawn() -> None:
    assert set(charts([ONE])) == {"products", "moved"}
    alone = measured("g5.xlarge", 1, 1.0, a_figure("multiply", 1e12, "fp32"), a_figure("train", 9))
    assert charts([alone]) == {}
    assert "1.00 TFLOP/s" in page(a_bench(alone))


def test_a_page_without_figures_contains_the_reason() -> None:
    text = page(a_bench(GONE))
    assert "InsufficientInstanceCapacity" in text
    assert 'class="chart"' not in text


# ---- machines that are launched for it ----


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    """Let machines answer without measuring: EC2 in this process has no real ones."""

    class Answers:
        def close(self) -> None:
            pass

    monkeypatch.setenv("BAKE_CALLER_CIDR", "203.0.113.7/32")
    monkeypatch.setattr(launch, "wait_until_reached", lambda *_, **__: Answers())
    monkeypatch.setattr(launch.host_key, "complete", lambda *_: None)
    with aws_in_process() as aws:
        yield aws


def bench(aws: Aws, tmp_path: Path, *kinds: str, **more: Any) -> Bench:
    from bake.aws.image import find_image

    image = find_image(aws.cloud, aws.image_ids()[0])
    assert image is not None
    bench_run = speed.new_bench_run(aws.cloud, "mxnet-cu101", tmp_path, ssh_port=22, quick=True)
    return speed.bench_image(aws.cloud, image, kinds, bench_run, Console(), **more)


def as_measured(*alive: list[int]) -> Any:
    """Stand in for `measure`."""

    def measure(cloud: Any, machine: Instance, bench_run: BenchRun, console: Console) -> Measured:
        for each in alive:
            each.append(sum(m.state == "running" for m in machines(cloud)))
        return ONE.model_copy(update={"instance_type": machine.instance_type})

    return measure


def test_a_type_without_capacity_does_not_stop_the_others(
    aws: Aws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "measure", as_measured())

    def no_room(*arguments: Any, **more: Any) -> Any:
        if arguments[2].instance_types == ("g4dn.2xlarge",):
            raise CapacityError("No room", code="InsufficientInstanceCapacity")
        return launch.launch(*arguments, **more)

    monkeypatch.setattr(speed, "launch", no_room)
    done = bench(aws, tmp_path, "g4dn.xlarge", "g4dn.2xlarge", "g4dn.4xlarge")
    assert [(each.instance_type, each.failure) for each in done.machines] == [
        ("g4dn.xlarge", None),
        ("g4dn.2xlarge", "No room: InsufficientInstanceCapacity"),
        ("g4dn.4xlarge", None),
    ]
    assert machines(aws.cloud) == []
    assert (tmp_path / done.run).is_dir()
    assert "No room" in page(done)


def test_its_machines_have_a_lifetime_of_their_own(
    aws: Aws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "measure", as_measured())
    bench(aws, tmp_path, "g4dn.xlarge")
    (request,) = aws.params("RunInstances")
    assert request["InstanceInitiatedShutdownBehavior"] == "terminate"
    tags = {tag["Key"]: tag["Value"] for tag in request["TagSpecifications"][0]["Tags"]}
    assert tags[TTL] == "2h"
    assert tags[USED_BY] == "bench"
    assert ENDS in tags


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RequestError("no key"), ValueError("bug")])
def test_any_error_or_interrupt_terminates_the_machines(
    aws: Aws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fails(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(speed, "measure", fails)
    if isinstance(error, RequestError):
        done = bench(aws, tmp_path, "g4dn.xlarge", "g4dn.2xlarge")
        assert [each.failure for each in done.machines] == ["no key", "no key"]
        with pytest.raises(RequestError, match="no key"):
            bench(aws, tmp_path, "g4dn.xlarge")
    else:
        with pytest.raises(type(error)):
            bench(aws, tmp_path, "g4dn.xlarge", "g4dn.2xlarge")
    assert aws.params("RunInstances")
    assert machines(aws.cloud) == []
    groups = aws.cloud.ec2("DescribeSecurityGroups")["SecurityGroups"]
    assert [group["GroupName"] for group in groups] == ["default"]


def test_a_machine_that_cannot_be_terminated_is_named_with_the_command_that_does(
    aws: Aws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(speed, "measure", as_measured())
    aws.refuse("TerminateInstances", "UnauthorizedOperation", status=403)
    done = bench(aws, tmp_path, "g4dn.xlarge")
    assert done.machines[0].failure is None
    (machine,) = machines(aws.cloud)
    said = capsys.readouterr().err
    assert "left behind: machine" in said
    assert (
        f"aws ec2 terminate-instances --region us-east-1 --instance-ids {machine.instance_id}"
        in said
    )


def test_at_most_as_many_machines_as_jobs_run_at_the_same_time(
    aws: Aws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[int] = []
    monkeypatch.setattr(speed, "measure", as_measured(alive))
    bench(aws, tmp_path, "g4dn.xlarge", "g4dn.2xlarge", "g4dn.4xlarge", jobs=1)
    assert alive == [1, 1, 1]


def test_an_invalid_benchmark_is_refused_before_anything_is_created(
    aws: Aws, tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match="at least one machine is needed"):
        bench(aws, tmp_path, "g4dn.xlarge", jobs=0)
    with pytest.raises(RequestError, match="No instance type given"):
        bench(aws, tmp_path)
    assert aws.remains() == set()
    assert list(tmp_path.glob("2*")) == []

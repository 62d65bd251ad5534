"""Pages escape every text, contain what they need, and are written completely or not at all."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import BinaryIO

import jinja2
import plotly.graph_objects as go
import pytest

from bake.errors import FileError
from bake.record.report import page, report
from bake.record.report.charts import COLOURS, chart
from tests.support.bakes import failure, record, with_texts
from tests.support.hostile import KNOWN
from tests.support.pages import ATTACKS, made

NOTHING_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)


def test_any_text_in_a_record_makes_a_page(tmp_path: Path) -> None:
    for number, run in enumerate((record(), failure())):
        text = made(tmp_path / str(number), with_texts(run, KNOWN)).read_text()
        assert not NOTHING_UNSEEN.search(text)


# ---- charts and pages


def test_texts_of_a_figure_are_escaped_and_its_templates_are_not() -> None:
    figure = go.Figure(go.Bar(x=[1], y=["<b>A & B\u202e"], name="<i>"))
    figure.update_traces(hovertemplate="%{y}<extra></extra>")
    spec = chart(figure, title="t", alt="a").spec
    (trace,) = spec["data"]
    assert trace["y"] == ["&lt;b&gt;A &amp; B\ufffd"]
    assert trace["name"] == "&lt;i&gt;"
    assert trace["hovertemplate"] == "%{y}<extra></extra>"


def test_several_traces_have_a_legend_of_the_pages_colours() -> None:
    figure = go.Figure([go.Bar(x=[1], y=["a"], name=name) for name in ("one", "two")])
    assert chart(figure, title="t", alt="a").legend == (("one", COLOURS[0]), ("two", COLOURS[1]))
    one = go.Figure(go.Bar(x=[1], y=["a"], name="one"))
    assert chart(one, title="t", alt="a").legend == ()


def test_a_page_without_a_chart_does_not_contain_plotly(tmp_path: Path) -> None:
    path = made(tmp_path, record(steps=()))
    assert path.stat().st_size < 200_000
    assert "does not contain when the steps began" in path.read_text()


def test_a_missing_variable_of_a_template_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(jinja2.UndefinedError):
        page.render("report.html.j2", title="t")


def test_the_last_page_stays_when_the_new_one_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = made(tmp_path, record())
    before = path.read_text()

    def full(descriptor: int, *_: object, **__: object) -> BinaryIO:
        os.close(descriptor)
        return Path("/dev/full").open("wb")

    monkeypatch.setattr(os, "fdopen", full)
    with pytest.raises(FileError, match="No space left"):
        report.make(tmp_path)
    assert path.read_text() == before
    assert {each.name for each in tmp_path.glob("*report*")} == {"report.html"}


def test_data_in_a_page_is_json(tmp_path: Path) -> None:
    text = made(tmp_path, with_texts(record(), ATTACKS)).read_text()
    (data,) = re.findall(r'<script type="application/json">(.*?)</script>', text, re.DOTALL)
    assert json.loads(data)["data"]

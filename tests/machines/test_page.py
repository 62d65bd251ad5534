"""Pages in a real browser: layout, colours, and texts that must not act."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome

from bake.record.record import Record
from bake.record.report import index
from tests.support.bakes import at, failure, record, with_texts
from tests.support.browser import PHONE, browser, screenshot
from tests.support.pages import ATTACKS, made

DESKTOP = (1280, 900)


@pytest.fixture(scope="module", params=["light", "dark"])
def seen(request: pytest.FixtureRequest) -> Iterator[Chrome]:
    with browser(DESKTOP, dark=request.param == "dark") as driver:
        yield driver


@pytest.fixture(scope="module")
def chrome() -> Iterator[Chrome]:
    with browser(DESKTOP) as driver:
        yield driver


def resize(driver: Chrome, width: int, height: int) -> None:
    """A phone has a viewport as its page asks for, and scroll bars that take no room."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def show(driver: Chrome, path: Path) -> None:
    """Until its charts are drawn, where it has some."""
    driver.get(path.absolute().as_uri())
    if driver.execute_script("return document.querySelector('.chart') !== null"):
        wait_for(driver, "return Number(document.documentElement.dataset.drawn) > 0")


def wait_for(driver: Chrome, script: str) -> None:
    end = time.monotonic() + 30
    while not driver.execute_script(script):
        assert time.monotonic() < end, (script, driver.get_log("browser"))
        time.sleep(0.05)


# Of each text that can be seen: its colour against what is behind it (WCAG 2.2, 1.4.3).
CONTRAST = """
const part = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
const rgba = (text) => text.match(/[\\d.]+/g).map(Number);
function behind(element) {
  for (; element; element = element.parentElement) {
    const colour = rgba(getComputedStyle(element).backgroundColor);
    if (colour.length === 3 || colour[3] > 0) return colour;
  }
  return [255, 255, 255];
}
const poor = [];
for (const details of document.querySelectorAll("details")) details.open = true;
for (const element of document.querySelectorAll("body *")) {
  const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  if (!own || !element.getClientRects().length || element.tagName === "SCRIPT") continue;
  const style = getComputedStyle(element);
  const colour = element.closest("svg") ? style.fill : style.color;
  const [a, b] = [light(rgba(colour)), light(behind(element))].sort((x, y) => y - x);
  const ratio = (a + 0.05) / (b + 0.05);
  if (ratio < 4.5) poor.push([element.tagName, element.textContent.slice(0, 40), ratio]);
}
return poor;
"""
# What is wider than the page, and which tables are cut off at the right.
WIDTH = """
const page = document.scrollingElement;
for (const details of document.querySelectorAll("details")) details.open = true;
const cut = [...document.querySelectorAll(".scroll")].filter((e) => e.scrollWidth > e.clientWidth);
return [page.scrollWidth, page.clientWidth, cut.map((each) => each.ariaLabel),
        [...document.querySelectorAll(".chart svg .bars .point path")].length];
"""


@pytest.mark.parametrize("run", [record(), failure()], ids=["image", "failure"])
def test_it_reads_well_on_every_screen_in_light_and_dark(
    seen: Chrome, run: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path = made(tmp_path, run)
    scheme = seen.execute_script(
        "return matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light'"
    )
    kind = "image" if isinstance(run, Record) else "failure"
    resize(seen, *DESKTOP)
    show(seen, path)
    for width, height in (DESKTOP, (700, 900), PHONE, (360, 740)):
        resize(seen, width, height)
        wait_for(seen, "return document.querySelector('.chart svg').clientWidth < innerWidth")
        wide, room, cut, bars = seen.execute_script(WIDTH)
        assert wide <= room <= width, (width, wide)
        assert cut == []
        assert bars == len(run.steps) + isinstance(run, Record)  # with the stage that was held
        if (width, height) in (PHONE, DESKTOP):
            screenshot(seen, f"page/bake-{kind}-{width}x{height}-{scheme}.png")
            resize(seen, width, seen.execute_script("return document.body.scrollHeight"))
            screenshot(seen, f"page/bake-{kind}-{width}-whole-{scheme}.png")
    assert seen.execute_script(CONTRAST) == []
    background = seen.execute_script("return getComputedStyle(document.body).backgroundColor")
    red = int(re.findall(r"\d+", background)[0])
    assert red > 200 if scheme == "light" else red < 60
    assert seen.get_log("browser") == []


def test_charts_take_the_colours_of_the_scheme_as_it_changes_and_of_paper(
    chrome: Chrome, tmp_path: Path
) -> None:
    show(chrome, made(tmp_path, record()))
    ink = "return getComputedStyle(document.querySelector('.chart .ytick text')).fill"
    light = chrome.execute_script(ink)

    def emulate(scheme: str) -> str:
        feature = {"name": "prefers-color-scheme", "value": scheme}
        drawn = chrome.execute_script("return Number(document.documentElement.dataset.drawn)")
        chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        wait_for(chrome, f"return Number(document.documentElement.dataset.drawn) > {drawn}")
        found: str = chrome.execute_script(ink)
        return found

    dark = emulate("dark")
    assert dark != light
    chrome.execute_script("""
    addEventListener("beforeprint", () => {
      const words = document.querySelector(".chart .ytick text");
      window.printed = [words.closest("svg").clientWidth, getComputedStyle(words).fill];
    });
    """)
    chrome.execute_cdp_cmd("Page.printToPDF", {})
    wait_for(chrome, "return window.printed")
    assert chrome.execute_script("return window.printed") == [640, light]
    wait_for(chrome, f"{ink} === '{dark}'")
    assert emulate("light") == light


def test_what_is_typed_is_looked_for_in_all_that_is_installed(
    chrome: Chrome, tmp_path: Path
) -> None:
    show(chrome, made(tmp_path, record()))
    search = """
    const input = document.getElementById("search");
    input.value = arguments[0];
    input.dispatchEvent(new Event("input"));
    const rows = [...document.querySelectorAll("#installed tbody tr")];
    return [rows.filter((row) => row.checkVisibility()).map((row) => row.cells[0].textContent),
            document.querySelector("output").textContent];
    """
    assert chrome.execute_script(search, "NUMPY") == [["numpy"], "1 found"]
    assert chrome.execute_script(search, "no such thing") == [[], "0 found"]
    assert chrome.execute_script(search, "") == [[], ""]  # all of it, folded


def test_a_button_copies_a_command_with_one_click(chrome: Chrome, tmp_path: Path) -> None:
    show(chrome, made(tmp_path, record(here="--region us-west-2")))
    resize(chrome, *PHONE)
    chrome.execute_cdp_cmd(
        "Browser.grantPermissions",
        {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]},
    )
    button = "return document.querySelector('pre[data-copied] + button')"
    chrome.execute_script(button).click()
    wait_for(chrome, f"{button}.textContent === 'Copied'")
    copied = chrome.execute_async_script("navigator.clipboard.readText().then(arguments[0])")
    assert copied == "invoke launch-from-ami --ami ami-0123456789abcdef0 --region us-west-2"
    # The same without the clipboard, which some browsers refuse to a file.
    image = "document.querySelector('code[data-copied] + button')"
    chrome.execute_script(
        f"navigator.clipboard.writeText = () => Promise.reject(); {image}.click()"
    )
    wait_for(chrome, f"return {image}.textContent === 'Copied'")
    copied = chrome.execute_async_script("navigator.clipboard.readText().then(arguments[0])")
    assert copied == "ami-0123456789abcdef0"
    resize(chrome, *DESKTOP)


def test_the_index_leads_to_the_pages_and_their_logs(seen: Chrome, tmp_path: Path) -> None:
    for number, run in enumerate((record(), failure(started_at=at(60)))):
        folder = tmp_path / f"r{number}"
        run.write(folder)
        (folder / "drivers.log").write_text("E: a line of the log")
    path, _ = index.make(tmp_path)
    resize(seen, 360, 740)
    show(seen, path)
    wide, room, cut, _ = seen.execute_script(WIDTH)
    assert (wide <= room, cut) == (True, [])
    assert seen.execute_script(CONTRAST) == []
    resize(seen, *DESKTOP)
    search = """
    const input = document.getElementById("search");
    input.value = "status 100";
    input.dispatchEvent(new Event("input"));
    return [...document.querySelectorAll("#builds tbody tr")].map((row) => row.checkVisibility());
    """
    assert seen.execute_script(search) == [True, False]
    seen.find_element("css selector", "#builds tbody tr a").click()
    wait_for(seen, "return document.title === 'mxnet-cu101: the bake failed'")
    seen.find_element("link text", "drivers.log").click()
    wait_for(seen, "return document.body.textContent.includes('a line of the log')")
    seen.back()
    seen.find_element("link text", "All builds").click()
    wait_for(seen, "return document.title === 'Builds'")
    assert seen.get_log("browser") == []


def test_without_scripts_the_figures_are_there(chrome: Chrome, tmp_path: Path) -> None:
    path = made(tmp_path, record())
    chrome.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        chrome.get(path.as_uri())
        text = chrome.find_element("tag name", "body").text
    finally:
        chrome.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert "At the same time ran drivers and conda" in text
    assert "The steps as a table" in text


def test_it_is_what_a_screen_reader_needs(chrome: Chrome, tmp_path: Path) -> None:
    show(chrome, made(tmp_path, record()))
    found = chrome.execute_script("""
    const all = (what) => [...document.querySelectorAll(what)];
    return {
      lang: document.documentElement.lang, title: document.title,
      headings: all("h1, h2, h3").map((each) => each.tagName).join(" "),
      heads: all("th").every((each) => ["col", "row"].includes(each.scope)),
      captions: all("table").every((each) => each.caption.textContent.trim()),
      charts: all(".chart").every((each) => each.role === "img" && each.ariaLabel.length > 40),
      labels: all("input").every((each) => each.labels.length),
    }""")
    assert found.pop("headings").startswith("H1 H2 H3")
    assert found == {
        "lang": "en",
        "title": "mxnet-cu101: ami-0123456789abcdef0",
        "heads": True,
        "captions": True,
        "charts": True,
        "labels": True,
    }


# ---- texts of machines


@pytest.mark.parametrize("run", [record(), failure()], ids=["image", "failure"])
def test_what_machines_say_is_text_and_nothing_else(
    chrome: Chrome, run: Any, tmp_path: Path
) -> None:
    shown = with_texts(run, ATTACKS)
    path = made(tmp_path, shown)
    show(chrome, path)
    chrome.execute_script("for (const each of document.querySelectorAll('details')) each.open = 1")
    assert chrome.execute_script("return window.hit") is None
    assert chrome.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert chrome.get_log("browser") == []
    assert chrome.execute_script(
        "return document.querySelectorAll('img, iframe, link, .chart b, [onmouseover],"
        " a:not([href^=\"./\"])').length"
    ) == 0  # fmt: skip
    text = chrome.find_element("tag name", "body").text
    for attack in ATTACKS:
        assert attack.strip() in text
    # And in the chart: whole, or what there is room for.
    labels = chrome.execute_script(
        "return [...document.querySelectorAll('.ytick text')].map((each) => each.textContent)"
    )
    assert any(label.startswith("<script>window.hit") for label in labels)


def test_a_text_that_was_not_escaped_would_run_nothing(chrome: Chrome, tmp_path: Path) -> None:
    path = made(tmp_path, record())
    text = path.read_text()
    path.write_text(
        text.replace(
            "<main>",
            "<main><script>window.hit = 1</script><img src=x onerror='window.hit = 2'>"
            "<img src='http://127.0.0.1:1/x.png'><script src='data:,window.hit=3'></script>",
        )
    )
    show(chrome, path)
    assert chrome.execute_script("return window.hit") is None
    refused = [entry["message"] for entry in chrome.get_log("browser")]
    assert sum("Content Security Policy" in message for message in refused) >= 4
    assert not any("ERR_" in message for message in refused), refused  # nothing was fetched

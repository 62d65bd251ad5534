"""The page of a bench in a real browser."""

from __future__ import annotations

from pathlib import Path

from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from bake.cli.views.bench_page import write_page
from tests.support.benches import FOUR, GONE, ONE, a_bench
from tests.support.browser import PHONE, browser, screenshot

CUT_OFF = """
return [...document.querySelectorAll(".scroll")]
  .filter((each) => each.scrollWidth > each.clientWidth).map((each) => each.ariaLabel);
"""
# The numbers beside bars with an error bar, and those that one of these or the chart's edge covers.
NUMBERS = """
const shown = [], covered = [];
for (const chart of document.querySelectorAll(".chart")) {
  const edge = chart.getBoundingClientRect();
  const bars = [...chart.querySelectorAll(".errorbar")].map((each) => each.getBoundingClientRect());
  for (const number of bars.length ? chart.querySelectorAll(".textpoint text") : []) {
    const box = number.getBoundingClientRect();
    const over = bars.some((bar) => bar.right > box.left && bar.left < box.right &&
                                    bar.bottom > box.top && bar.top < box.bottom);
    shown.push(number.textContent.trim());
    if (over || box.right > edge.right) covered.push(number.textContent);
  }
}
return [shown, covered];
"""


def test_the_page_shows_every_figure_on_a_phone_and_in_the_dark(tmp_path: Path) -> None:
    path = write_page(a_bench(ONE, FOUR, GONE), tmp_path)
    with browser(PHONE, dark=True) as driver:
        driver.get(path.as_uri())
        WebDriverWait(driver, 30).until(
            lambda _: driver.execute_script("return document.documentElement.dataset.drawn")
        )
        text = driver.find_element(By.TAG_NAME, "body").text
        assert driver.get_log("browser") == []
        width = driver.execute_script("return document.documentElement.scrollWidth")
        assert width <= PHONE[0]
        assert driver.execute_script(CUT_OFF) == []
        shown, covered = driver.execute_script(NUMBERS)
        assert shown == ["8.00", "50.0", "240", "230", "3000", "3000", "5700", "9600"]
        assert covered == []
        charts = driver.find_elements(By.CSS_SELECTOR, ".chart svg:first-of-type.main-svg")
        screenshot(driver, "speed/phone-dark.png")
    assert len(charts) >= 5, "products, memory, training, per dollar, scaling"
    for words in (
        "8.00 TFLOP/s",
        "240 GB/s",
        "21.6 million",
        "<b>out</b> of memory",
        "InsufficientInstanceCapacity",
        "The GPU was slowed down (power cap)",
        "Scaling efficiency",
    ):
        assert words in text, words

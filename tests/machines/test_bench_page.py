"""The page of a bench in a real browser."""

from __future__ import annotations

from pathlib import Path

from selenium.webdriver.common.by import By

from bake.cli.views.bench_page import page
from tests.support.benches import FOUR, GONE, ONE, a_bench
from tests.support.browser import PHONE, browser, screenshot

# ---- the page ----


def test_the_page_shows_every_figure_on_a_phone_and_in_the_dark(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(page(a_bench(ONE, FOUR, GONE)))
    with browser(PHONE, dark=True) as driver:
        driver.get(path.as_uri())
        text = driver.find_element(By.TAG_NAME, "body").text
        assert driver.get_log("browser") == []
        width = driver.execute_script("return document.documentElement.scrollWidth")
        assert width <= PHONE[0], "nothing is to be scrolled sideways but tables"
        charts = driver.find_elements(By.CSS_SELECTOR, ".chart svg.main-svg")
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

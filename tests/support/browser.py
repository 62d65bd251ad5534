"""Debian's Chromium, headless and restricted to loopback."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium.webdriver import Chrome, ChromeOptions, ChromeService

from tests.support.environment import REPOSITORY

# Read before the tests' environment is scrubbed. Git ignores the folder; CI can keep it.
ARTIFACTS = Path(os.environ.get("BAKE_TEST_ARTIFACTS") or REPOSITORY / ".artifacts").resolve()
PHONE = (390, 844)
_LOOPBACK_ALONE = "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"


@contextmanager
def browser(size: tuple[int, int] = (1280, 900), *, dark: bool = False) -> Iterator[Chrome]:
    """Start Chromium with a new profile and a viewport of `size` pixels.

    `driver.get_log` has its console ("browser") and the events of its network ("performance").
    Names other than localhost are not found, so that a page that needs the network shows it.
    """
    options = ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for argument in (
        "headless=new",
        "disable-dev-shm-usage",  # a container has little of it
        "disable-gpu",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "no-proxy-server",
        f"host-resolver-rules={_LOOPBACK_ALONE}",
        f"window-size={size[0]},{size[1]}",
        *(["no-sandbox"] if os.geteuid() == 0 else []),
    ):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    options.add_experimental_option(
        "perfLoggingPrefs", {"enableNetwork": True, "enablePage": False}
    )
    driver = Chrome(options, ChromeService("/usr/bin/chromedriver"))
    try:
        # A window has borders, and no window is as narrow as a phone.
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False},
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        yield driver
    finally:
        driver.quit()


def screenshot(driver: Chrome, path: str | Path) -> Path:
    """Save the displayed page as a PNG; a relative path is taken from ARTIFACTS."""
    target = ARTIFACTS / path
    target.parent.mkdir(parents=True, exist_ok=True)
    assert driver.save_screenshot(str(target)), target
    return target

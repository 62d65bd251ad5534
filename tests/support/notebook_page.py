"""A page of JupyterLab in a browser, used as a person uses it: a notebook with cells."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from selenium.common.exceptions import (
    ElementClickInterceptedException,
    ElementNotInteractableException,
    StaleElementReferenceException,
    TimeoutException,
)
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from tests.support.browser import ARTIFACTS, screenshot

_CARD = '.jp-LauncherCard[data-category="Notebook"]'
_NOTEBOOK = ".jp-NotebookPanel:not(.lm-mod-hidden)"
_STATUS = "#jp-main-statusbar"
# A page raises these while it draws a cell again.
_DRAWN_AGAIN = (
    ElementClickInterceptedException,
    ElementNotInteractableException,
    StaleElementReferenceException,
)

T = TypeVar("T")


class NotebookPage:
    """A new notebook with the first kernel that Jupyter offers; `kernel` is its displayed name.

    `evidence` is called when the page does not get ready. It returns why.
    """

    def __init__(
        self, driver: Chrome, *, timeout_s: float = 150, evidence: Callable[[], str] = lambda: ""
    ) -> None:
        self.driver = driver
        self._evidence = evidence
        self._wait = WebDriverWait(driver, timeout_s, 0.1, _DRAWN_AGAIN)
        card = self._until(lambda: self._all(_CARD))[0]
        self.kernel = card.get_attribute("title")
        card.click()
        self._until(self._is_idle)

    def run(self, code: str) -> str:
        """Type code into the last cell, run the cell, and return its output once it has ended."""
        number = len(self._cells()) - 1
        self._until(lambda: self._type(number, code))
        self._until(lambda: len(self._cells()) > number + 1)
        return str(self._until(lambda: self._output(number)))

    def reload(self) -> NotebookPage:
        """Reload the page, as a person does when it no longer tries to reach its server."""
        self.driver.refresh()
        self._until(self._is_idle)
        return self

    def _until(self, condition: Callable[[], T]) -> T:
        """Wait until the condition is true, and return its value.

        A failure shows the status bar, the dialogs, the browser's log and the evidence. They tell a
        WebSocket that does not open ("Connecting") from a busy kernel and from a slow page.
        """
        try:
            return self._wait.until(lambda _: condition())
        except TimeoutException as error:
            shown = [each.text for each in self._all(f"{_STATUS}, .jp-Dialog")]
            log = [entry["message"] for entry in self.driver.get_log("browser")]
            picture = screenshot(self.driver, "jupyter/timeout.png")
            lines = [f"JupyterLab shows {shown} ({picture}). The browser's log:", *log[-20:]]
            said = "\n".join([*lines, self._evidence()])
            (ARTIFACTS / "jupyter/timeout.txt").write_text(said)
            raise AssertionError(said) from error

    def _type(self, number: int, code: str) -> bool:
        for button in self._all(".jp-Dialog button.jp-mod-accept"):
            button.click()  # a dialog that the page has opened meanwhile, about its connection
        editor = self._cells()[number].find_element(By.CSS_SELECTOR, ".cm-content")
        editor.click()
        editor.send_keys(code, Keys.SHIFT + Keys.ENTER)
        return True

    def _output(self, number: int) -> str | None:
        cell = self._cells()[number]
        prompt = cell.find_element(By.CSS_SELECTOR, ".jp-InputPrompt").text
        outputs = cell.find_elements(By.CSS_SELECTOR, ".jp-OutputArea-output")
        ended = any(sign.isdecimal() for sign in prompt)
        return "\n".join(output.text for output in outputs) if ended and outputs else None

    def _is_idle(self) -> bool:
        """Read the status bar: the sign beside the kernel's name is idle before a kernel exists."""
        return any("| Idle" in bar.text for bar in self._all(_STATUS))

    def _cells(self) -> list[WebElement]:
        return self._all(f"{_NOTEBOOK} .jp-Notebook .jp-CodeCell")

    def _all(self, selector: str) -> list[WebElement]:
        found: list[WebElement] = self.driver.find_elements(By.CSS_SELECTOR, selector)
        return found

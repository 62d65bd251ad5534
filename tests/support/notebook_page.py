"""JupyterLab in a browser, as a person uses it: a notebook, its cells, what they say."""

from __future__ import annotations

from selenium.common.exceptions import (
    ElementClickInterceptedException,
    ElementNotInteractableException,
    StaleElementReferenceException,
)
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

_CARD = '.jp-LauncherCard[data-category="Notebook"]'
_NOTEBOOK = ".jp-NotebookPanel:not(.lm-mod-hidden)"
_STATUS = "#jp-main-statusbar"
# What a page does that draws a cell once more.
_DRAWN_ANEW = (
    ElementClickInterceptedException,
    ElementNotInteractableException,
    StaleElementReferenceException,
)


class NotebookPage:
    """A new notebook with the kernel that Jupyter offers first; `kernel` is its name for people."""

    def __init__(self, driver: Chrome, *, timeout_s: float = 150) -> None:
        self.driver = driver
        self._wait = WebDriverWait(driver, timeout_s, 0.1, _DRAWN_ANEW)
        card = self._wait.until(lambda _: self._all(_CARD))[0]
        self.kernel = card.get_attribute("title")
        card.click()
        self._wait.until(lambda _: self._is_idle())

    def run(self, code: str) -> str:
        """Type it into the last cell, run that, and give what it says, once it has ended."""
        number = len(self._cells()) - 1
        self._wait.until(lambda _: self._type(number, code))
        self._wait.until(lambda _: len(self._cells()) > number + 1)
        return str(self._wait.until(lambda _: self._said(number)))

    def reload(self) -> NotebookPage:
        """As a person does whose page has been without its server for longer than it tries."""
        self.driver.refresh()
        self._wait.until(lambda _: self._is_idle())
        return self

    def _type(self, number: int, code: str) -> bool:
        for button in self._all(".jp-Dialog button.jp-mod-accept"):
            button.click()  # of what it has said meanwhile, of a connection for example
        editor = self._cells()[number].find_element(By.CSS_SELECTOR, ".cm-content")
        editor.click()
        editor.send_keys(code, Keys.SHIFT + Keys.ENTER)
        return True

    def _said(self, number: int) -> str | None:
        cell = self._cells()[number]
        prompt = cell.find_element(By.CSS_SELECTOR, ".jp-InputPrompt").text
        outputs = cell.find_elements(By.CSS_SELECTOR, ".jp-OutputArea-output")
        ended = any(sign.isdecimal() for sign in prompt)
        return "\n".join(output.text for output in outputs) if ended and outputs else None

    def _is_idle(self) -> bool:
        """By the bar below: the sign beside the kernel's name says so before there is a kernel."""
        return any("| Idle" in bar.text for bar in self._all(_STATUS))

    def _cells(self) -> list[WebElement]:
        return self._all(f"{_NOTEBOOK} .jp-Notebook .jp-CodeCell")

    def _all(self, selector: str) -> list[WebElement]:
        found: list[WebElement] = self.driver.find_elements(By.CSS_SELECTOR, selector)
        return found

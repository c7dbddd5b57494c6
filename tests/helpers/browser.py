"""A headless chromium, and the opened search page as a person sees it."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import ActionChains
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait


def start_browser(profile: Path) -> webdriver.Chrome:
    """A headless chromium with an empty profile; skips the test where there is none."""
    driver, browser = shutil.which("chromedriver"), shutil.which("chromium")
    if driver is None or browser is None:
        pytest.skip("needs Debian's packages chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    flags = ["headless", "no-sandbox", "disable-gpu", "disable-background-networking", "no-first-run"]
    for flag in (*flags, "disable-dev-shm-usage", f"user-data-dir={profile}", "window-size=1280,900"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=Service(driver))


class Page:
    """The opened page, and what a person sees of it."""

    def __init__(self, browser: webdriver.Chrome, address: str) -> None:
        self.browser = browser
        browser.get_log("browser")
        browser.set_window_size(1280, 900)
        browser.get("about:blank")
        browser.get(address)
        self.wait(lambda: self.cards)

    def wait(self, condition: Callable[[], object]) -> None:
        stale = [StaleElementReferenceException]  # found, then drawn anew
        WebDriverWait(self.browser, 600, poll_frequency=0.05, ignored_exceptions=stale).until(lambda _: condition())

    def one(self, selector: str) -> WebElement:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    @property
    def cards(self) -> list[WebElement]:
        return self.browser.find_elements(By.CSS_SELECTOR, ".card")

    @property
    def distances(self) -> list[int]:
        texts: list[str] = self.browser.execute_script(
            "return [...document.querySelectorAll('.card .distance')].map((found) => found.textContent)"
        )
        return [int(text.split()[0]) for text in texts]

    def text(self, selector: str) -> str:
        return self.one(selector).text

    def upload(self, path: Path) -> None:
        self.one("#photo").send_keys(str(path))

    def press(self, key: str) -> None:
        ActionChains(self.browser).send_keys(key).perform()

    def set_radius(self, radius: int) -> None:
        slider = self.one("#radius")
        slider.send_keys(Keys.HOME)
        for _ in range(radius):
            slider.send_keys(Keys.ARROW_RIGHT)

    def errors(self) -> list[str]:
        return [entry["message"] for entry in self.browser.get_log("browser") if entry["level"] == "SEVERE"]


@contextmanager
def phone(browser: webdriver.Chrome) -> Iterator[None]:
    """A screen of 390 by 844 points."""
    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        yield
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

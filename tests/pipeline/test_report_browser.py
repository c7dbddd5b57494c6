"""The report in a real browser: phone width, light, dark and print are readable, and nothing is asked of a network."""

import re
from pathlib import Path

import pytest
from selenium import webdriver

from ssdh.report.collect import collect
from ssdh.report.page import render
from tests.helpers.small_run import SmallRun

pytestmark = [pytest.mark.long, pytest.mark.browser]

# [text, colour, background behind it] of everything that is written on the page, charts included
WRITTEN = """
return [...document.querySelectorAll('body *')].filter(e => [...e.childNodes].some(
    n => n.nodeType === 3 && n.data.trim()) && e.getClientRects().length && !['STYLE', 'TITLE'].includes(e.tagName)
).map(e => {
    const own = getComputedStyle(e);
    let b = e, ground = 'rgba(0, 0, 0, 0)';
    while (b && ground === 'rgba(0, 0, 0, 0)') { ground = getComputedStyle(b).backgroundColor; b = b.parentElement; }
    return [e.textContent.trim().slice(0, 40), e instanceof SVGElement ? own.fill : own.color, ground];
});
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, project: Path) -> Path:
    folder = tmp_path_factory.mktemp("report") / "run"
    run = SmallRun(folder, project)
    (folder / "report.html").write_text(render(collect(folder, run.params)))
    return folder / "report.html"


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two CSS colours `rgb(r, g, b)`, WCAG 2.1: from 1 to 21."""
    luminances = []
    for colour in (one, other):
        channels = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        luminances.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(luminances) + 0.05) / (min(luminances) + 0.05)


def emulate(browser: webdriver.Chrome, *, media: str = "screen", scheme: str = "light") -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})


@pytest.mark.parametrize(("media", "scheme"), [("screen", "light"), ("screen", "dark"), ("print", "dark")])
def test_everything_written_can_be_read(browser: webdriver.Chrome, page: Path, media: str, scheme: str) -> None:
    emulate(browser, media=media, scheme=scheme)
    browser.get(page.as_uri())
    written = browser.execute_script(WRITTEN)
    assert len(written) > 200
    assert any("similar < 0.0163" in text for text, _, _ in written)
    faint = {(text, colour, ground) for text, colour, ground in written if contrast(colour, ground) < 4.5}
    assert faint == set()
    background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (contrast(background, "rgb(0, 0, 0)") < 2) == (media == "screen" and scheme == "dark")


def test_a_phone_shows_the_page_without_scrolling_sideways(browser: webdriver.Chrome, page: Path) -> None:
    emulate(browser)
    screen = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.get(page.as_uri())
    width = browser.execute_script("return [innerWidth, document.scrollingElement.scrollWidth]")
    assert width == [390, 390]
    sizes = browser.execute_script(
        "return [...document.querySelectorAll('svg text')].map(e => e.getBoundingClientRect().height)"
    )
    assert min(sizes) > 8  # pixels: letters of charts do not shrink away
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_nothing_is_fetched_and_nothing_runs(browser: webdriver.Chrome, page: Path) -> None:
    browser.get_log("browser")
    browser.get(page.as_uri())
    assert browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)") == []
    assert browser.execute_script("return document.querySelectorAll('script').length") == 0
    assert browser.execute_script("return [...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert browser.get_log("browser") == []

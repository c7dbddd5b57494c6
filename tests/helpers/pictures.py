"""The pictures of the search page in docs/images, of the default run, from a server that is running.

python -m ssdh serve --port 8123
python -m tests.helpers.pictures http://127.0.0.1:8123 docs/images
"""

import base64
import sys
import tempfile
from pathlib import Path

from selenium import webdriver

from tests.helpers.browser import Page, start_browser

QUERY, RADIUS = 12, 3  # digits/0012, a 2
LOADED = """return [...document.images].every((image) => image.complete
    || image.getBoundingClientRect().top > innerHeight)"""  # those further down are loaded when one gets there
SIZES = {"page": (1280, 817, 1.0), "page-phone": (390, 1100, 1.5)}  # width and height in points, pixels a point


def picture(browser: webdriver.Chrome, address: str, width: int, height: int, scale: float) -> bytes:
    """The page with the query and what lies within the radius, as PNG."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 500}
    page = Page(browser, f"{address}/#row={QUERY}")
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    page.set_radius(RADIUS)
    page.wait(lambda: page.distances and max(page.distances) <= RADIUS)
    browser.execute_script("document.activeElement.blur(); scrollTo(0, 0)")
    page.wait(lambda: browser.execute_script(LOADED))
    return base64.b64decode(browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"])


def main(address: str, folder: str) -> None:
    """Write page.png and page-phone.png."""
    with tempfile.TemporaryDirectory() as profile:
        browser = start_browser(Path(profile))
        try:
            for name, size in SIZES.items():
                (Path(folder) / f"{name}.png").write_bytes(picture(browser, address, *size))
        finally:
            browser.quit()


if __name__ == "__main__":
    main(*sys.argv[1:])

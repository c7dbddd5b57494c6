"""The page in a real browser: upload, click-through, radius, error message, phone width, keyboard."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from ssdh.search.web.app import create_app
from tests.helpers.browser import Page, phone
from tests.helpers.galleries import digits_gallery, disc, files_gallery, serving

pytestmark = [pytest.mark.long, pytest.mark.browser]

HOSTILE = "<img src=x onerror=document.title='hacked'> & \"co\".jpg"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(create_app(digits_gallery(tmp_path_factory.mktemp("digits")), max_upload=1 << 20)) as result:
        yield result


@pytest.fixture
def page(browser: webdriver.Chrome, address: str) -> Page:
    return Page(browser, address)


def test_an_uploaded_photo_shows_its_nearest_images_with_their_bits(page: Page, tmp_path: Path) -> None:
    disc(3).save(tmp_path / "disc.png")
    page.upload(tmp_path / "disc.png")
    page.wait(lambda: page.distances)
    assert page.distances == sorted(page.distances)
    assert page.text("#name") == "disc.png"
    page.wait(lambda: page.one("#preview").get_property("naturalWidth") == 300)
    differing = page.browser.execute_script(
        "return [...document.querySelectorAll('.card')].map((card) => [...card.querySelectorAll('.differs')]"
        ".reduce((sum, path) => sum + path.getAttribute('d').split('M').length - 1, 0))"
    )
    assert differing == page.distances
    assert "#code=" in page.browser.current_url
    assert page.errors() == []


def test_clicking_images_goes_from_one_to_the_next_and_back(page: Page) -> None:
    first = page.cards[3].get_attribute("data-row")
    page.cards[3].click()
    page.wait(lambda: page.distances)
    assert page.browser.current_url.endswith(f"#row={first}")
    assert page.text("#name").startswith(f"digits/{int(first or 0):04d} · ")
    second = page.cards[0].get_attribute("data-row")
    assert second != first
    page.cards[0].click()
    page.wait(lambda: page.text("#name").startswith(f"digits/{int(second or 0):04d} · "))
    page.browser.back()
    page.wait(lambda: page.text("#name").startswith(f"digits/{int(first or 0):04d} · "))
    page.one("#back").click()
    page.wait(lambda: len(page.cards) == 60 and not page.distances)
    assert not page.one("#analysis").is_displayed()
    assert page.errors() == []


def test_the_radius_slider_filters_and_counts(page: Page, address: str) -> None:
    page.cards[0].click()
    page.wait(lambda: page.distances)
    nearest = page.distances[0]
    for radius in (nearest + 2, nearest, 32):
        page.set_radius(radius)
        page.wait(lambda radius=radius: page.text("#radius-text").startswith(f"{radius} bit"))
        assert max(page.distances) <= radius
        inside = int(page.text("#summary").split(" of ")[0].replace(",", ""))
        assert len(page.distances) == min(inside, 60)
    assert page.text("#summary").startswith("1,796 of 1,796 images (100 %)")
    page.one("#more").click()
    page.wait(lambda: len(page.distances) == 180)
    if nearest > 0:
        page.set_radius(nearest - 1)
        page.wait(lambda: page.distances == [])
        assert f"the nearest is {nearest} bit" in page.text("#empty")
        page.one("#widen").click()
        page.wait(lambda: set(page.distances) == {nearest})
    assert page.errors() == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!doctype html><title>not found</title>", "a web page, not an image"),
        (b"", "is empty"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 100, "This file cannot be used"),
        (b"\0" * ((1 << 20) + 1), "larger than 1 MiB"),
    ],
)
def test_a_bad_file_is_told_in_words_and_the_page_goes_on(
    page: Page, tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "photo.jpg").write_bytes(content)
    page.upload(tmp_path / "photo.jpg")
    page.wait(lambda: page.one("#error").is_displayed())
    assert message in page.text("#error")
    page.cards[0].click()
    page.wait(lambda: page.distances)
    assert not page.one("#error").is_displayed()


def test_hostile_names_are_only_ever_text(browser: webdriver.Chrome, tmp_path: Path) -> None:
    name = HOSTILE.replace("/", "")
    disc(1).save(tmp_path / name)
    with serving(create_app(files_gallery(tmp_path / "files", [name, "ordinary.jpg", "ünï/cödé 图.jpg"]))) as address:
        page = Page(browser, address)
        page.upload(tmp_path / name)
        page.wait(lambda: page.distances)
        assert page.text("#name") == name
        assert name in [label.text for label in browser.find_elements(By.CSS_SELECTOR, ".label")]
        assert browser.title == "folder: search by image"
        assert browser.find_elements(By.CSS_SELECTOR, "img[onerror]") == []
        assert page.errors() == []


def test_everything_works_by_keyboard(page: Page) -> None:
    seen = []
    for _ in range(12):
        page.press(Keys.TAB)
        focused = page.browser.switch_to.active_element
        seen.append(focused.get_attribute("id") or focused.get_attribute("class"))
        if seen[-1] == "card":
            break
    assert {"photo", "sample", "card"} <= set(seen)
    page.press(Keys.ARROW_RIGHT)
    page.press(Keys.ARROW_DOWN)
    columns = int(page.browser.execute_script(
        "return getComputedStyle(document.getElementById('grid')).gridTemplateColumns.split(' ').length"
    ))  # fmt: skip
    chosen = page.browser.switch_to.active_element
    assert chosen == page.cards[1 + columns]
    page.press(Keys.ENTER)
    page.wait(lambda: page.distances)
    assert page.browser.switch_to.active_element.get_attribute("id") == "results-title"


@pytest.mark.parametrize("width", [320, 390, 800])
def test_narrow_screens_need_no_sideways_scrolling(page: Page, width: int) -> None:
    page.browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    )
    try:
        page.wait(lambda: page.browser.execute_script("return innerWidth") == width)
        page.cards[0].click()
        page.wait(lambda: page.distances)
        page.set_radius(32)
        root = "document.documentElement"
        assert page.browser.execute_script(f"return {root}.scrollWidth <= {root}.clientWidth")
        assert page.browser.execute_script("return innerWidth") == width
        wide = page.browser.execute_script("return document.getElementById('radius').getBoundingClientRect().width")
        assert wide > 200
        small = page.browser.execute_script(
            "return [...document.querySelectorAll('button, #radius')].filter((found) => found.offsetHeight"
            " && found.getBoundingClientRect().height < 20).length"
        )
        assert small == 0
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_on_a_phone_results_begin_above_the_fold(browser: webdriver.Chrome, address: str) -> None:
    with phone(browser):
        page = Page(browser, address)
        page.cards[0].click()
        page.wait(lambda: page.distances)
        bottom = "document.querySelector('.card').getBoundingClientRect().bottom"
        assert browser.execute_script(f"return {bottom} + scrollY") < 844
        page.one("#details summary").click()
        page.wait(lambda: page.one("#radius").is_displayed())


def test_names_are_shown_at_their_end_and_folders_above(browser: webdriver.Chrome, tmp_path: Path) -> None:
    long = "holiday_with_a_name_that_no_card_has_room_for_000000000042.jpg"
    with serving(create_app(files_gallery(tmp_path, [f"2024/summer/{long}", "plain.jpg"]))) as address:
        page = Page(browser, address)
        page.wait(lambda: len(page.cards) == 2)
        card = next(result for result in page.cards if result.get_attribute("data-row") == "0")
        assert card.find_element(By.CSS_SELECTOR, ".folders").text == "2024/summer"
        file = card.find_element(By.CSS_SELECTOR, ".file")
        assert file.text == long
        box = "const box = arguments[0].getBoundingClientRect(), text = arguments[0].firstChild.firstChild;"
        character = "const range = new Range(); range.setStart(text, i); range.setEnd(text, i + 1)"
        inside = "const at = range.getBoundingClientRect(); return at.left >= box.left && at.right <= box.right"
        seen = f"{box} const seen = (i) => {{ {character}; {inside} }}; return [seen(0), seen(text.length - 1)]"
        assert browser.execute_script(seen, file) == [False, True]


def test_the_switch_orders_by_features_and_back(page: Page, address: str) -> None:
    row = page.cards[0].get_attribute("data-row")

    def rows() -> list[str]:
        results: list[str] = page.browser.execute_script(
            "return [...document.querySelectorAll('.card')].map((card) => card.dataset.row)"
        )
        return results

    def answered(query: str) -> list[str]:
        answer = json.load(urlopen(f"{address}/api/search?row={row}&top=60{query}"))
        return [str(result["row"]) for result in answer["results"]]

    page.cards[0].click()
    page.wait(lambda: page.distances)
    plain = rows()
    assert plain == answered("")[: len(plain)]
    page.one("#rerank").click()
    page.wait(lambda: rows() != plain)
    assert rows() == answered("&rerank=500") != answered("")
    similarities = [float(found.text) for found in page.browser.find_elements(By.CSS_SELECTOR, ".card .similarity")]
    assert len(similarities) == len(rows())
    assert similarities == sorted(similarities, reverse=True)
    page.one("#rerank").click()
    page.wait(lambda: rows() == plain)
    assert page.text(".card .similarity") == ""
    assert page.errors() == []


def test_a_photo_is_ordered_by_features_too(page: Page, tmp_path: Path) -> None:
    disc(3).save(tmp_path / "disc.png")
    page.one("#rerank").click()
    page.upload(tmp_path / "disc.png")
    page.wait(lambda: page.distances)
    assert page.distances != sorted(page.distances)
    page.one("#rerank").click()
    page.wait(lambda: page.distances == sorted(page.distances))
    assert page.errors() == []


def test_a_server_that_stopped_is_told(browser: webdriver.Chrome, tmp_path: Path) -> None:
    with serving(create_app(digits_gallery(tmp_path, count=80))) as address:
        page = Page(browser, address)
    page.one("#sample").click()
    page.wait(lambda: page.one("#error").is_displayed())
    assert "does not answer" in page.text("#error")


def test_a_text_searches_where_the_network_reads_texts(browser: webdriver.Chrome, page: Page, tmp_path: Path) -> None:
    assert not page.one("#words").is_displayed()
    plain = digits_gallery(tmp_path, count=200)
    pixels = np.asarray(disc(3))
    gallery = dataclasses.replace(plain, texts=lambda texts: plain.encode([pixels] * len(texts)))
    with serving(create_app(gallery)) as address:
        page = Page(browser, address)
        page.one("#text").send_keys("a disc & <b>more</b>", Keys.ENTER)
        page.wait(lambda: page.distances)
        assert page.text("#name") == "“a disc & <b>more</b>”"
        assert "#text=a%20disc%20%26" in browser.current_url
        result = page.distances
        page.one("#rerank").click()
        page.wait(lambda: page.distances != result)
        browser.refresh()
        page.wait(lambda: page.distances == result)
        assert page.errors() == []

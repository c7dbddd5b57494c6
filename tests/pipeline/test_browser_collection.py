"""Near-identical images and added photos in a real browser: keep, drop, the table that is downloaded, an addition."""

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from ssdh.search.collection import Collection, create
from ssdh.search.collection_add import add_photos
from ssdh.search.encode import EncodeOptions
from ssdh.search.photo_adder import PhotoAdder
from ssdh.search.searchable import open_searchable
from ssdh.search.web.app import create_app
from tests.helpers.browser import Page, phone
from tests.helpers.finished_run import finished_run
from tests.helpers.galleries import disc, serving

pytestmark = [pytest.mark.long, pytest.mark.browser]

OPTIONS = EncodeOptions(torch.device("cpu"), 0)


@pytest.fixture(scope="module")
def collection(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Collection:
    """Twelve photos; one of them thrice, the others are as different as such codes can tell."""
    folder = finished_run(project, tmp_path_factory.mktemp("run"), count=12, bits=64)
    first = (folder / "photos/day 0/000.jpg").read_bytes()
    for name in ("again.jpg", 'with, "comma".jpg'):
        (folder / "photos" / name).write_bytes(first)
    result = create(folder / "mine", folder / "models/hashnet.safetensors", "float16")
    add_photos(result, [folder / "photos"], OPTIONS)
    return result


@pytest.fixture(scope="module")
def address(collection: Collection) -> Iterator[str]:
    gallery = open_searchable(collection.folder).open_gallery()
    with serving(create_app(gallery, collection=collection, adder=PhotoAdder(collection, OPTIONS))) as result:
        yield result


@pytest.fixture
def page(browser: webdriver.Chrome, address: str) -> Page:
    return Page(browser, address)


def members(page: Page) -> list[WebElement]:
    return page.browser.find_elements(By.CSS_SELECTOR, ".member")


def open_groups(page: Page, radius: int, similarity: float) -> None:
    if page.one("#to-groups").is_displayed():
        page.one("#to-groups").click()
    page.wait(lambda: members(page) or "No two" in page.text("#groups-summary"))
    for box, value in (("#groups-radius", radius), ("#groups-similarity", similarity)):
        page.one(box).send_keys(Keys.CONTROL, "a")
        page.one(box).send_keys(str(value))
    page.one("#groups-limits button").click()
    page.wait(lambda: "busy" not in page.one("body").get_attribute("class"))


def pressed(member: WebElement) -> list[str]:
    return [button.text for button in member.find_elements(By.CSS_SELECTOR, "[aria-pressed=true]")]


def choose(member: WebElement, decision: str) -> None:
    member.find_element(By.CSS_SELECTOR, f"[data-decision={decision}]").click()


def test_one_keeps_or_drops_and_downloads_what_one_decided(page: Page, collection: Collection, tmp_path: Path) -> None:
    files = {path: Path(path).read_bytes() for item in collection.items() for path in item.paths}
    page.browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    open_groups(page, 0, 1)
    page.wait(lambda: len(members(page)) == 3)
    assert page.text("#groups-summary") == "1 group, 3 files in them."
    assert [member.find_element(By.CSS_SELECTOR, ".distance").text for member in members(page)] == [
        "reference for the others", "exact copy", "exact copy",
    ]  # fmt: skip
    assert not page.one("#query").is_displayed()
    assert not page.one("#download").is_enabled()

    page.one(".group .bar button").click()
    assert [pressed(member) for member in members(page)] == [["Keep"], ["Drop"], ["Drop"]]
    choose(members(page)[1], "drop")  # a second click takes it back
    assert [pressed(member) for member in members(page)] == [["Keep"], [], ["Drop"]]
    choose(members(page)[2], "keep")
    choose(members(page)[1], "drop")
    assert [pressed(member) for member in members(page)] == [["Keep"], ["Drop"], ["Keep"]]
    assert page.text("#decided") == "2 to keep, 1 to drop"

    page.one("#download").click()
    table = tmp_path / "decisions.csv"
    page.wait(lambda: table.exists() and table.read_text(encoding="utf-8").count("\n") == 4)
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    (item,) = (item for item in collection.items() if len(item.paths) == 3)
    assert {(row["name"], row["decision"]) for row in rows} == set(
        zip(item.paths, ("keep", "drop", "keep"), strict=True)
    )
    for row in rows:
        assert (row["group"], row["id"], row["sha256"], row["distance"]) == ("1", str(item.id), item.sha256, "0")
    assert {path: Path(path).read_bytes() for path in files} == files  # nothing is deleted
    assert page.errors() == []


def test_wider_limits_show_distance_and_similarity_and_decisions_stay(page: Page) -> None:
    open_groups(page, 0, 1)
    page.wait(lambda: len(members(page)) == 3)
    choose(members(page)[1], "drop")
    open_groups(page, 64, -1)
    page.wait(lambda: len(members(page)) >= 14)
    assert page.text("#decided") == "0 to keep, 1 to drop"
    dropped = [member for member in members(page) if pressed(member) == ["Drop"]]
    assert len(dropped) == 1
    near = [member.find_element(By.CSS_SELECTOR, ".distance").text for member in members(page)]
    assert any(" bits · 0." in text for text in near)

    link = next(member for member in members(page) if pressed(member) == []).find_element(By.TAG_NAME, "a")
    name = link.get_attribute("title") or ""
    link.click()
    page.wait(lambda: page.distances)
    assert page.text("#name").startswith(name)
    page.browser.back()
    page.wait(lambda: page.text("#decided") == "0 to keep, 1 to drop")
    assert page.errors() == []


def test_a_radius_that_is_none_is_told(page: Page) -> None:
    page.one("#to-groups").click()
    page.wait(lambda: page.text("#groups-summary").endswith("in them.") or "No two" in page.text("#groups-summary"))
    page.one("#groups-radius").send_keys(Keys.CONTROL, "a")
    page.one("#groups-radius").send_keys("65")
    page.one("#groups-limits button").click()
    page.wait(lambda: page.one("#groups-error").is_displayed())
    assert page.text("#groups-error") == "Radius must be from 0 to 64 bits, got 65"


def test_groups_on_a_phone_need_no_sideways_scrolling(browser: webdriver.Chrome, address: str) -> None:
    with phone(browser):
        page = Page(browser, address)
        open_groups(page, 0, 1)
        page.wait(lambda: members(page))
        root = "document.documentElement"
        assert browser.execute_script(f"return {root}.scrollWidth <= {root}.clientWidth")
        assert browser.execute_script("return document.querySelector('.member').getBoundingClientRect().top") < 844


def test_a_photo_is_added_once_and_found(page: Page, collection: Collection, tmp_path: Path) -> None:
    before = len(collection)
    disc(90).save(tmp_path / "my beach.png")
    for message in (f"Added: it is image {before + 1} now.", f"It is there already: image {before + 1}."):
        page.upload(tmp_path / "my beach.png")
        page.wait(lambda: page.one("#add").is_displayed() and page.one("#add").is_enabled())
        page.one("#add").click()
        page.wait(lambda message=message: page.text("#added") == message)
        page.wait(lambda: "my beach-" in page.text(".card .file"))
        assert page.distances[0] == 0
        assert not page.one("#add").is_enabled()
        assert f"{before + 1} images" in page.text("#facts")
    assert len(collection) == before + 1
    assert page.errors() == []


def test_there_is_no_button_where_nothing_may_be_added(
    browser: webdriver.Chrome, collection: Collection, tmp_path: Path
) -> None:
    disc(91).save(tmp_path / "photo.png")
    with serving(create_app(open_searchable(collection.folder).open_gallery())) as address:
        page = Page(browser, address)
        page.upload(tmp_path / "photo.png")
        page.wait(lambda: page.distances)
        assert not page.one("#add").is_displayed()


def test_a_card_leads_to_its_own_image_after_others_went(page: Page, collection: Collection) -> None:
    card = next(card for card in page.cards if card.get_attribute("data-id") == "3")
    name = Path(collection.items()[2].paths[0]).name
    with collection.writing() as writer:
        writer.remove([2])
    card.click()
    page.wait(lambda: page.distances)
    assert page.browser.current_url.endswith("#id=3")
    assert page.text("#name").endswith(name)
    assert page.errors() == []

"""The page's server without a browser: answers, refusals, pictures, who may ask."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from ssdh.hashing.codes import unpack
from ssdh.search.gallery import Gallery
from ssdh.search.web.app import create_app
from ssdh.search.web.thumbnails import KEPT, SIDES, Thumbnails, encode_picture
from tests.helpers.galleries import digits_gallery, disc, encoded, files_gallery


def test_a_photo_finds_what_a_brute_force_finds(client: TestClient, gallery: Gallery) -> None:
    photo = disc(3)
    answer = client.post("/api/search?top=30", content=encoded(photo)).json()
    code, outputs, _ = gallery.encode([np.asarray(photo)])
    codes = unpack(gallery.index.packed, 32)
    distances = (codes != unpack(code, 32)).sum(axis=1)
    order = np.lexsort((-(codes @ outputs[0]), distances))[:30]
    assert [result["row"] for result in answer["results"]] == order.tolist()
    assert [result["distance"] for result in answer["results"]] == distances[order].tolist()
    assert answer["query"] == {"code": code.tobytes().hex()}
    assert answer["histogram"] == np.bincount(distances, minlength=33).tolist()
    by_code = client.get("/api/search", params={"code": code.tobytes().hex(), "top": 30}).json()
    assert [result["row"] for result in by_code["results"]] == np.argsort(distances, kind="stable")[:30].tolist()
    assert {**by_code, "results": answer["results"]} == answer


def test_a_shortlist_is_ordered_by_the_cosine_of_features(client: TestClient, gallery: Gallery) -> None:
    photo, bits = disc(3), 32
    code, _, own = gallery.encode([np.asarray(photo)])
    features = np.asarray(gallery.index.features, np.float64)
    for query, packed, url in (
        (own[0], code, "/api/search?top=20&rerank=50"),
        (features[17], gallery.index.packed[17:18], "/api/search?row=17&top=20&rerank=50"),
    ):
        distances = (unpack(gallery.index.packed, bits) != unpack(packed, bits)).sum(axis=1)
        near = np.flatnonzero(distances <= np.sort(distances)[49])
        cosines = features[near] @ query / np.linalg.norm(features[near], axis=1)
        expected = [row for row in near[np.argsort(-cosines)].tolist() if "row" not in url or row != 17][:20]
        answer = (client.get(url) if "row" in url else client.post(url, content=encoded(photo))).json()
        assert [result["row"] for result in answer["results"]] == expected
        similarities = [result["similarity"] for result in answer["results"]]
        exact = features[expected] @ query / np.linalg.norm(features[expected], axis=1) / np.linalg.norm(query)
        np.testing.assert_allclose(similarities, exact, atol=1e-5)
    assert "similarity" not in client.get("/api/search?row=17").json()["results"][0]


def test_what_cannot_be_reranked_is_told(client: TestClient, tmp_path: Path) -> None:
    refused = client.get("/api/search?code=00000000&rerank=9")
    assert (refused.status_code, "send the photo again" in refused.json()["error"]) == (422, True)
    without = create_app(files_gallery(tmp_path, ["a.jpg", "b.jpg"]))
    with TestClient(without, base_url="http://127.0.0.1") as plain:
        assert plain.get("/api/about").json()["features"] is False
        assert plain.get("/api/search?row=0&rerank=9").status_code == 422
        assert len(plain.post("/api/search?rerank=9", content=encoded(disc(1))).json()["results"]) == 2


def test_an_image_of_the_database_finds_its_neighbours_and_not_itself(client: TestClient, gallery: Gallery) -> None:
    answer = client.get("/api/search?row=17&top=400").json()
    assert sorted(result["row"] for result in answer["results"]) == [row for row in range(400) if row != 17]
    assert sum(answer["histogram"]) == 399
    assert answer["query"]["name"] == "digits/0017"
    assert answer["query"]["classes"] == gallery.classes_of(17) != []
    assert len(client.get("/api/search?row=17&top=5").json()["results"]) == 5


def test_equally_near_images_are_ordered_by_the_outputs_of_a_stored_image(client: TestClient, gallery: Gallery) -> None:
    codes, photos = unpack(gallery.index.packed, 32), gallery.images.read(np.arange(400))
    outputs = gallery.encode(list(photos)).outputs[17]  # by the network from its pixels; the page has its features
    distances = (codes != codes[17]).sum(axis=1)
    order = [row for row in np.lexsort((-(codes @ outputs), distances)).tolist() if row != 17]
    answer = client.get("/api/search?row=17&top=60").json()
    assert [result["row"] for result in answer["results"]] == order[:60]
    assert order[:60] != [row for row in np.argsort(distances, kind="stable").tolist() if row != 17][:60]


def test_one_image_is_a_collection_too(tmp_path: Path) -> None:
    with TestClient(create_app(digits_gallery(tmp_path, count=1)), base_url="http://127.0.0.1") as client:
        assert client.get("/api/about").json()["images"] == 1
        assert [image["row"] for image in client.get("/api/images?seed=5").json()["images"]] == [0]
        answer = client.get("/api/search?row=0").json()
        assert (answer["results"], sum(answer["histogram"])) == ([], 0)
        assert len(client.post("/api/search", content=encoded(disc(1))).json()["results"]) == 1


def test_pages_and_samples_cover_the_collection_without_listing_it(client: TestClient) -> None:
    seen = [image["row"] for start in (0, 150, 300, 450) for image in page(client, start=start, count=150)]
    assert seen == list(range(400))
    sample = [image["row"] for image in page(client, seed=3, count=40)]
    assert len(set(sample)) == 40
    assert sample == [image["row"] for image in page(client, seed=3, count=40)]
    assert sample != [image["row"] for image in page(client, seed=4, count=40)]
    assert client.get("/api/images?count=100000").status_code == 422


def page(client: TestClient, **query: int) -> list[dict[str, Any]]:
    images: list[dict[str, Any]] = client.get("/api/images", params=query).json()["images"]
    return images


def test_the_typical_histogram_is_that_of_pairs_of_different_images(tmp_path: Path) -> None:
    gallery = digits_gallery(tmp_path, count=50, bits=12)  # so few that every image counts
    with TestClient(create_app(gallery), base_url="http://127.0.0.1") as client:
        typical = client.get("/api/about").json()["typical"]
    bits = unpack(gallery.index.packed, 12)
    distances = [int((a != b).sum()) for i, a in enumerate(bits) for j, b in enumerate(bits) if i != j]
    assert typical == pytest.approx(np.bincount(distances, minlength=13) / (50 * 49))


# --- pictures ------------------------------------------------------------------------------------------------------


def test_pictures_are_small_and_cached_for_good_under_their_version(tmp_path: Path) -> None:
    gallery = files_gallery(tmp_path, ["a.jpg", "b/c d.jpg"], size=(1500, 900))
    with TestClient(create_app(gallery), base_url="http://127.0.0.1") as client:
        image = client.get("/api/images").json()["images"][1]
        for kind, side in (("thumbnail", 192), ("preview", 640)):
            answer = client.get(image[kind])
            picture = Image.open(io.BytesIO(answer.content))
            assert max(picture.size) == side
            assert abs(picture.width / picture.height - 1500 / 900) < 0.02
            assert answer.headers["content-type"] == "image/jpeg"
            assert "immutable" in answer.headers["cache-control"]
        assert client.get("/images/1/thumbnail?v=older").headers["cache-control"] == "no-cache"


def test_tiny_images_keep_every_pixel(client: TestClient, gallery: Gallery) -> None:
    answer = client.get("/images/5/thumbnail")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), gallery.pixels(5))


def test_a_changed_or_lost_file_is_told_and_never_served(tmp_path: Path) -> None:
    gallery = files_gallery(tmp_path, ["a.jpg", "b.jpg", "c.jpg"])
    (tmp_path / "root" / "a.jpg").write_bytes(encoded(disc(9), "JPEG"))
    (tmp_path / "root" / "b.jpg").unlink()
    with TestClient(create_app(gallery), base_url="http://127.0.0.1") as client:
        for row, reason in ((0, "has changed since it was listed"), (1, "cannot be read")):
            answer = client.get(f"/images/{row}/thumbnail")
            assert answer.status_code == 410
            assert reason in answer.json()["error"]
        assert client.get("/images/2/thumbnail").status_code == 200


def test_kept_pictures_are_the_same_object_until_others_push_them_out(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KEPT, "thumbnail", 3)
    thumbnails = Thumbnails(gallery)
    first = thumbnails.get(0, "thumbnail")
    assert thumbnails.get(0, "thumbnail") is first
    for row in (1, 2, 3):
        thumbnails.get(row, "thumbnail")
    assert thumbnails.get(0, "thumbnail") is not first


def test_kept_pictures_of_noise_the_worst_case_fit_into_64_mib() -> None:
    rng = np.random.default_rng(0)
    noise = {size: rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for size, side in SIDES.items()}
    most = sum(KEPT[size] * len(encode_picture(pixels, SIDES[size]).data) for size, pixels in noise.items())
    assert most < 64 << 20


@pytest.mark.parametrize(
    "path",
    [
        "/images/-1/thumbnail",
        "/images/400/thumbnail",
        "/images/99999999999999999999999/thumbnail",
        "/images/0/full",
        "/images/1e2/thumbnail",
        "/images/..%2f..%2fetc%2fpasswd/thumbnail",
        "/images/../../etc/passwd",
        "/static/../app.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e/guard.py",
        "/static//etc/passwd",
        "/data/labels.npy",
        "/docs",
        "/api/search",
        "/api/search?row=-1",
        "/api/search?row=400",
        "/api/search?row=x",
        "/api/search?row=1&top=0",
        "/api/search?row=1&top=1001",
        "/api/search?row=1&code=00000000",
        "/api/search?code=zz",
        "/api/search?row=1&tpo=5",
        "/api/images?start=-1",
        "/api/images?seed=-1",
        "/api/images?seed=4294967296",
    ],
)
def test_what_is_not_there_is_a_4xx_with_one_sentence(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert 400 <= answer.status_code < 500
    assert list(answer.json()) == ["error"]
    assert 5 < len(answer.json()["error"]) < 300
    assert "Traceback" not in answer.text


# --- who may ask ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8000", "localhost", "LOCALHOST:80", "[::1]:8000", "192.168.1.7", "photos.lan"]
)
def test_addresses_and_known_names_are_answered(gallery: Gallery, host: str) -> None:
    with TestClient(create_app(gallery, hosts=("photos.lan",))) as client:
        assert client.get("/api/about", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "", "[", "localhost.evil.example:80", "photos.lan"]
)
def test_a_foreign_name_that_points_here_is_refused(client: TestClient, host: str) -> None:
    answer = client.get("/api/about", headers={"Host": host})
    assert answer.status_code == 421
    assert "--allow-host" in answer.json()["error"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    ],
)
def test_other_web_sites_cannot_ask(client: TestClient, headers: dict[str, str]) -> None:
    assert client.post("/api/search", content=encoded(disc(1)), headers=headers).status_code == 403
    assert client.get("/images/1/thumbnail", headers=headers).status_code == 403


def test_the_page_itself_and_a_link_to_it_work(client: TestClient) -> None:
    own = {"Origin": "http://127.0.0.1", "Sec-Fetch-Site": "same-origin"}
    assert client.post("/api/search", content=encoded(disc(1)), headers=own).status_code == 200
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert client.get("/", headers=link).status_code == 200


@pytest.mark.parametrize("path", ["/", "/static/app.js", "/api/about", "/images/1/thumbnail", "/nothing"])
def test_every_answer_tells_the_browser_to_be_strict(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"


def test_static_files_are_revalidated(client: TestClient) -> None:
    answer = client.get("/static/style.css")
    assert answer.headers["content-type"].startswith("text/css")
    assert client.get("/static/style.css", headers={"If-None-Match": answer.headers["etag"]}).status_code == 304


def test_a_failure_is_logged_and_told_without_its_traceback(gallery: Gallery, tmp_path: Path) -> None:
    broken = digits_gallery(tmp_path, count=3)
    object.__setattr__(broken, "encode", lambda photos: 1 // 0)
    with TestClient(create_app(broken), base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        answer = client.post("/api/search", content=encoded(disc(1)))
        assert answer.status_code == 500
        assert "terminal" in answer.json()["error"]
        assert "x-content-type-options" in answer.headers
        assert client.get("/api/about").status_code == 200

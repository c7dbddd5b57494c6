"""The page's server without a browser: answers, refusals, hostile uploads, caching and many clients at once."""

import contextlib
import dataclasses
import http.client
import io
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import HTTPException
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ssdh.features.decode import decode_image
from ssdh.hashing.codes import unpack
from ssdh.search.gallery import Gallery
from ssdh.search.web.app import create_app
from ssdh.search.web.thumbnails import Thumbnails
from ssdh.search.web.upload import photo_of
from tests.helpers.galleries import digits_gallery, disc, files_gallery, serving

LIMIT = 1 << 20


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    return digits_gallery(tmp_path_factory.mktemp("digits"), count=400)


@pytest.fixture(scope="module")
def client(gallery: Gallery) -> Iterator[TestClient]:
    with TestClient(
        create_app(gallery, max_upload=LIMIT), base_url="http://127.0.0.1", raise_server_exceptions=False
    ) as c:
        yield c


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


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


def test_kept_thumbnails_stay_below_their_limit(gallery: Gallery) -> None:
    thumbnails = Thumbnails(gallery, max_bytes=2000)
    first = thumbnails.get(0, "thumbnail")
    assert thumbnails.get(0, "thumbnail") is first
    for row in range(60):
        thumbnails.get(row, "thumbnail")
        assert thumbnails.held == sum(len(picture.data) for picture in thumbnails._pictures.values()) <= 2000
    assert thumbnails.get(0, "thumbnail") is not first


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


# --- hostile uploads, against a real server ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address(gallery: Gallery) -> Iterator[str]:
    with serving(create_app(gallery, max_upload=LIMIT)) as result:
        yield result


def malformed(folder: Path | None) -> list[tuple[str, bytes, set[int]]]:
    """(what, bytes, statuses that are right) of 200 uploads and more."""
    rng = np.random.default_rng(0)
    cases: list[tuple[str, bytes, set[int]]] = []
    whole = {kind: encoded(disc(5), kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "AVIF")}
    for kind, data in whole.items():
        cuts = sorted(rng.integers(1, int(0.9 * len(data)), 12).tolist())
        cases += [(f"{kind} cut at {cut}", data[:cut], {422}) for cut in cuts]
        for i in range(8):
            spoilt = bytearray(data)
            for place in rng.integers(0, len(data), 30):
                spoilt[place] = rng.integers(256)
            cases.append((f"{kind} spoilt {i}", bytes(spoilt), {200, 422}))
        cases.append((f"{kind} after rubbish", b"rubbish" + data, {422}))
    junk = [b"", b"\0", b"%PDF-1.7", b"<!doctype html><script>alert(1)</script>", b"PK\3\4" * 50, b"MZ" + b"\0" * 500]
    junk += [b"<svg xmlns='http://www.w3.org/2000/svg'/>", b'{"photo": 1}', "ñandú".encode(), b"GIF89a" + b"\0" * 7]
    cases += [(f"junk {data[:12]!r}", data, {422}) for data in junk]
    cases += [(f"random {i}", rng.bytes(int(size)), {422}) for i, size in enumerate(rng.integers(1, 5000, 30))]
    cases += [(f"oversized by {more}", b"\xff" * (LIMIT + more), {413}) for more in (1, 1000, LIMIT, 3 * LIMIT)]
    bomb = encoded(Image.new("1", (20_000, 20_000)))
    cases.append(("decompression bomb", bomb, {422}))
    for path in sorted(folder.iterdir()) if folder else []:
        cases.append((path.name, path.read_bytes(), {200, 413, 422}))
    return cases


HOSTILE_NAMES = [
    "../../../etc/passwd",
    "a\\..\\b.jpg",
    "CON",
    "x" * 5000,
    "a%00.jpg",
    "<img src=x onerror=alert(1)>.jpg",
]


def test_two_hundred_malformed_uploads_leave_it_answering(address: str, project: Path, tmp_path: Path) -> None:
    odd = project.parent / "shared" / "data" / "odd-images"
    cases = malformed(odd if odd.is_dir() else None)
    assert len(cases) >= 190
    with httpx.Client(base_url=address, timeout=None) as client:
        for i, (what, data, right) in enumerate(cases):
            name = HOSTILE_NAMES[i % len(HOSTILE_NAMES)].replace('"', "")
            headers = {"Content-Disposition": f'attachment; filename="{name}"', "Content-Type": "image/jpeg"}
            answer = client.post("/api/search", content=data, headers=headers)
            assert answer.status_code in right, (what, answer.status_code, answer.text)
            if answer.status_code != 200:
                assert list(answer.json()) == ["error"], what
                assert len(answer.json()["error"]) < 400, what
        for name in HOSTILE_NAMES:  # a form's file is the photo, whatever it is called
            answer = client.post("/api/search", files={"photo": (name, encoded(disc(1)), "image/png")})
            assert answer.status_code == 200, (name, answer.text)
        good = client.post("/api/search", content=encoded(disc(5)))
        assert good.status_code == 200
        assert len(good.json()["results"]) == 60


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"POST /api/search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999999999\r\n\r\n", 413),
        (b"POST /api/search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -5\r\n\r\n", 400),
        (b"POST /api/search HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"GET /images/../../etc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 404),
        (b"\x16\x03\x01\x02\x00\x01", 400),
    ],
)
def test_raw_nonsense_on_the_socket(address: str, request_bytes: bytes, status: int) -> None:
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=10)
    connection.connect()
    connection.sock.sendall(request_bytes)
    line = connection.sock.recv(2000).split(b"\r\n")[0]
    connection.close()
    assert int(line.split()[1]) == status
    assert httpx.get(f"{address}/api/about").status_code == 200


def test_an_upload_that_breaks_off_leaves_it_answering(address: str) -> None:
    for _ in range(40):
        connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=10)
        connection.putrequest("POST", "/api/search")
        connection.putheader("Content-Length", "100000")
        connection.endheaders(b"\x89PNG half an image")
        connection.close()
    assert httpx.post(f"{address}/api/search", content=encoded(disc(2))).status_code == 200


def test_few_photos_are_pixels_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A photo of one colour may be a small file and a quarter GiB of pixels: more than two wait as files."""
    plain = digits_gallery(tmp_path, count=20)
    lock, held, peak = threading.Lock(), 0, 0

    def decode(*arguments: Any) -> Any:
        nonlocal held, peak
        with lock:
            held += 1
            peak = max(peak, held)
        return decode_image(*arguments)

    class Slow:
        min_side = plain.encode.min_side

        def __call__(self, photos: Any) -> Any:
            nonlocal held
            time.sleep(0.1)
            with lock:
                held -= 1
            return plain.encode(photos)

    monkeypatch.setattr("ssdh.search.web.app.decode_image", decode)
    photo = encoded(disc(1))
    with serving(create_app(dataclasses.replace(plain, encode=Slow()))) as slow, ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: httpx.post(f"{slow}/api/search", content=photo, timeout=None), range(12)))
    assert {answer.status_code for answer in answers} == {200}
    assert (held, peak) == (0, 2)


def test_sixteen_clients_at_once_without_an_error(address: str) -> None:
    photos = [encoded(disc(seed), "JPEG") for seed in range(4)]
    alone = [httpx.post(f"{address}/api/search?top=20", content=photo).json() for photo in photos]
    problems: list[str] = []
    counts = [0] * 16

    def work(number: int) -> None:
        with httpx.Client(base_url=address, timeout=None) as client:
            while counts[number] < 5 and not problems:
                which = (number + counts[number]) % 4
                try:
                    if client.post("/api/search?top=20", content=photos[which]).json() != alone[which]:
                        problems.append("another answer than alone")
                    row = (37 * counts[number] + number) % 400
                    for path in (f"/api/search?row={row}", f"/images/{row}/thumbnail", f"/api/images?seed={row}"):
                        if (status := client.get(path).status_code) != 200:
                            problems.append(f"{path}: {status}")
                except (httpx.HTTPError, json.JSONDecodeError) as error:
                    problems.append(repr(error))
                counts[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert min(counts) >= 1


def form(*parts: tuple[str, bytes], end: bytes = b"\r\n--XyZ--\r\n") -> bytes:
    """A form as curl writes it: (what stands in Content-Disposition after form-data, content) of each part."""
    return (
        b"".join(
            b"\r\n--XyZ\r\nContent-Disposition: form-data; %b\r\n\r\n%b" % (head.encode(), content)
            for head, content in parts
        ).removeprefix(b"\r\n")
        + end
    )


FORM = {"content-type": "multipart/form-data; boundary=XyZ"}
FILE = 'name="file"; filename="photo.jpg"'


def test_a_photo_in_a_form_finds_what_the_body_finds(client: TestClient) -> None:
    photo = encoded(disc(3)) + b"\r\n\r\n--XyY\r\n--Xy"  # bytes that look like a form's, after the picture's end
    expected = client.post("/api/search?top=7", content=photo).json()
    assert len(expected["results"]) == 7
    assert client.post("/api/search?top=7", files={"file": ("photo.jpg", photo)}).json() == expected  # httpx's own form
    for body in (
        form((FILE, photo)),
        form(('name="top"', b"5"), (FILE, photo), ('name="note"', b"")),
        form(('name="file"', photo)),  # curl -F 'file=<photo.jpg'
        b"preamble\r\n" + form((FILE, photo)) + b"epilogue",
    ):
        assert client.post("/api/search?top=7", content=body, headers=FORM).json() == expected


@pytest.mark.parametrize(
    ("body", "content_type", "message"),
    [
        (form((FILE, b"x"), (FILE, b"y")), FORM["content-type"], "holds 2 files"),
        (form(), FORM["content-type"], "holds 0 files"),
        (form((FILE, b"x"), end=b""), FORM["content-type"], "cut short"),
        (form(*[(FILE, b"x")] * 17), FORM["content-type"], "more than 16 parts"),
        (b"", FORM["content-type"], "cut short"),
        (form((FILE, b"x")), "multipart/form-data", "names no boundary"),
        (form((FILE, b"")), FORM["content-type"], "empty file"),
        (form((FILE, b"hello")), FORM["content-type"], "not an image"),
    ],
)
def test_a_form_without_one_photo_is_refused(client: TestClient, body: bytes, content_type: str, message: str) -> None:
    answer = client.post("/api/search", content=body, headers={"content-type": content_type})
    assert (answer.status_code, message in answer.json()["error"]) == (422, True), answer.text


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from([b"\r\n", b"--XyZ", b"--", b"filename", b"\r\n\r\n", b"\xff", b"GIF89a"]), max_size=24),
    st.sampled_from(["XyZ", '"XyZ"', "", '"', "\xe9", "a" * 300, "XyZ; boundary=b"]),
)
def test_any_bytes_in_a_form_get_an_answer(pieces: list[bytes], boundary: str) -> None:
    with contextlib.suppress(HTTPException):
        assert isinstance(photo_of(b"".join(pieces), f"multipart/form-data; boundary={boundary}"), bytes)


def test_a_strip_is_refused_before_it_is_resized(client: TestClient) -> None:
    answer = client.post("/api/search", content=encoded(Image.new("1", (1, 20000))))
    assert (answer.status_code, "more than 100 times" in answer.json()["error"]) == (422, True)

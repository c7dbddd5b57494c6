"""Photos sent to the page's server: hostile ones, forms, connections that break off, many clients at once."""

import contextlib
import dataclasses
import http.client
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
from ssdh.search.gallery import Gallery
from ssdh.search.web.app import create_app
from ssdh.search.web.upload import photo_of
from tests.helpers.galleries import UPLOAD_LIMIT, digits_gallery, disc, encoded, serving


@pytest.fixture(scope="module")
def address(gallery: Gallery) -> Iterator[str]:
    with serving(create_app(gallery, max_upload=UPLOAD_LIMIT)) as result:
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
    cases += [
        (f"oversized by {more}", b"\xff" * (UPLOAD_LIMIT + more), {413})
        for more in (1, 1000, UPLOAD_LIMIT, 3 * UPLOAD_LIMIT)
    ]
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
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=300)
    connection.connect()
    connection.sock.sendall(request_bytes)
    line = connection.sock.recv(2000).split(b"\r\n")[0]
    connection.close()
    assert int(line.split()[1]) == status
    assert httpx.get(f"{address}/api/about", timeout=None).status_code == 200


def test_an_upload_that_breaks_off_leaves_it_answering(address: str) -> None:
    for _ in range(40):
        connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=300)
        connection.putrequest("POST", "/api/search")
        connection.putheader("Content-Length", "100000")
        connection.endheaders(b"\x89PNG half an image")
        connection.close()
    assert httpx.post(f"{address}/api/search", content=encoded(disc(2)), timeout=None).status_code == 200


def test_few_photos_are_pixels_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A photo of one colour may be a small file and a quarter GiB of pixels: more than two wait as files."""
    plain = digits_gallery(tmp_path, count=20)
    lock, held, peak, two = threading.Lock(), 0, 0, threading.Event()

    def decode(*arguments: Any) -> Any:
        nonlocal held, peak
        with lock:
            held += 1
            peak = max(peak, held)
            if held == 2:
                two.set()
        return decode_image(*arguments)

    class Slow:
        min_side = plain.encode.min_side

        def __call__(self, photos: Any) -> Any:
            nonlocal held
            two.wait(300)  # however late the second one comes
            time.sleep(0.1)  # time for a third one, which may not
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
    alone = [httpx.post(f"{address}/api/search?top=20", content=photo, timeout=None).json() for photo in photos]
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


@settings(max_examples=150)
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

"""The page's server: JSON about codes and distances, small pictures, and three static files.

    uvicorn.run(create_app(gallery))

A program asks as the page does:

    curl --data-binary @photo.jpg 'http://127.0.0.1:8000/api/search?top=20'
    curl 'http://127.0.0.1:8000/api/search?row=17&top=20&rerank=500'

Images are named by their row alone, so no path reaches the file system. A photo is the request's body (or the one file
of a form, as `curl -F file=@photo.jpg` sends it): it stays in
memory and its name is never sent.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from loguru import logger
from numpy.typing import NDArray
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from ssdh.core.errors import DataError, ParameterError
from ssdh.features.decode import BadImageError, decode_image
from ssdh.search.gallery import Encoded, Gallery, Packed
from ssdh.search.index import parse_code
from ssdh.search.web.guard import Guard
from ssdh.search.web.thumbnails import Size, Thumbnails
from ssdh.search.web.upload import photo_of

STATIC = Path(__file__).parent / "static"
FILES = {"": "index.html", "static/app.js": "app.js", "static/style.css": "style.css", "favicon.ico": "icon.svg"}
MAX_UPLOAD = 32 << 20  # bytes; the decoder has its own limit of pixels
MAX_WAITING = 32  # uploads in memory at once; the next one is told to come back
MAX_DECODED = 2  # photos that are pixels at once: one is encoded while the next is decoded
MAX_TOP = 1000
MAX_RERANK = 10_000  # features that a request may have read
PAGE = 200  # images a page at most
TYPICAL_ROWS = 64  # images whose distances to all others make the typical histogram
IMMUTABLE = "private, max-age=31536000, immutable"
Top = Annotated[int, Query(ge=1, le=MAX_TOP)]
Rerank = Annotated[int, Query(ge=0, le=MAX_RERANK)]


def create_app(gallery: Gallery, *, hosts: tuple[str, ...] = (), max_upload: int = MAX_UPLOAD) -> ASGIApp:
    """The application over an opened gallery; hosts: further names of this machine that requests may use."""
    # one photo is encoded at a time (the network uses all cores itself), while the next one is decoded
    encoder, decoder = ThreadPoolExecutor(1, "encode"), ThreadPoolExecutor(MAX_DECODED, "decode")

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        encoder.shutdown(cancel_futures=True)
        decoder.shutdown(cancel_futures=True)

    app = FastAPI(title="SSDH search by image", docs_url=None, redoc_url=None, lifespan=lifespan)
    _answer_errors_in_json(app)
    view, thumbnails = _View(gallery), Thumbnails(gallery)
    about = view.about(max_upload)
    waiting, decoded = asyncio.Semaphore(MAX_WAITING), asyncio.Semaphore(MAX_DECODED)

    async def encode(data: bytes) -> Encoded:
        loop = asyncio.get_running_loop()
        async with decoded:
            pixels = await loop.run_in_executor(decoder, decode_image, data, gallery.encode.min_side)
            return await loop.run_in_executor(encoder, gallery.encode, [pixels])

    known = [Depends(_only_known_parameters)]

    @app.get("/api/about", dependencies=known)
    def tell_about() -> dict[str, Any]:
        """The data set, the length of the codes, limits, and the distances from a typical image to all others."""
        return about

    @app.get("/api/images", dependencies=known)
    def list_images(
        start: Annotated[int, Query(ge=0)] = 0,
        count: Annotated[int, Query(ge=1, le=PAGE)] = 60,
        seed: Annotated[int | None, Query(ge=0, lt=2**32)] = None,
    ) -> dict[str, Any]:
        """Images in the order of the data set, or with a seed a random sample."""
        return view.page(start, count, seed)

    @app.get("/api/search", dependencies=known)
    def search_known(
        row: Annotated[int | None, Query()] = None, code: str | None = None, top: Top = 60, rerank: Rerank = 0
    ) -> Any:
        """The images nearest to an image of the database, which is left out itself, or to a code."""
        if (row is None) == (code is None):
            raise HTTPException(422, "give either row or code")
        if row is not None:
            view.check_row(row)
            return view.search_row(row, top, rerank)
        assert code is not None
        if rerank:
            raise HTTPException(422, "rerank needs more than a code: send the photo again, or name a row")
        return view.search(parse_code(code, gallery.index.bits), top)

    @app.post("/api/search", dependencies=known)
    async def search_photo(request: Request, top: Top = 60, rerank: Rerank = 0) -> Any:
        """The images nearest to a photo, which is the request's body or the one file of a form."""
        if waiting.locked():
            raise HTTPException(503, "too many photos at once: try again in a moment", {"Retry-After": "2"})
        async with waiting:
            try:
                data = await _body(request, max_upload)
            except ClientDisconnect:
                raise HTTPException(400, "the upload broke off") from None
            data = photo_of(data, request.headers.get("content-type", ""))
            photo = await encode(data)
            return await asyncio.get_running_loop().run_in_executor(decoder, view.search_photo, photo, top, rerank)

    @app.get("/images/{row}/{size}")
    def picture(row: int, size: Size, v: str = "") -> Response:
        """A database image with at most 192 (thumbnail) or 640 (preview) pixels a side."""
        view.check_row(row)
        try:
            found = thumbnails.get(row, size)
        except DataError as error:
            raise HTTPException(410, str(error)) from None
        cached = IMMUTABLE if v == gallery.version else "no-cache"
        return Response(found.data, media_type=found.media_type, headers={"Cache-Control": cached})

    for path, name in FILES.items():
        app.add_api_route(f"/{path}", _static(name), include_in_schema=False, response_model=None)
    return Guard(app, hosts)  # outermost, so that even a failure's answer passes it


class _View:
    """What the page is told, as JSON values."""

    def __init__(self, gallery: Gallery) -> None:
        self.gallery, self.index = gallery, gallery.index

    def about(self, max_upload: int) -> dict[str, Any]:
        rows = np.random.default_rng(0).permutation(len(self.index))[:TYPICAL_ROWS]
        typical = self.index.histogram(self.index.packed[rows]).sum(axis=0)  # (bits + 1,)
        typical[0] -= len(rows)  # each of them lies at 0 from itself
        return {
            "title": self.gallery.title,
            "notice": self.gallery.notice,
            "images": len(self.index),
            "bits": self.index.bits,
            "index": self.index.kind,
            "typical": (typical / max(typical.sum(), 1)).tolist(),
            "max_upload": max_upload,
            "max_top": MAX_TOP,
            "features": self.index.features is not None,
        }

    def page(self, start: int, count: int, seed: int | None) -> dict[str, Any]:
        total = len(self.index)
        if seed is None:
            rows: NDArray[np.int64] = np.arange(min(start, total), min(start + count, total))
        else:
            rows = np.random.default_rng(seed).choice(total, min(count, total), replace=False)
        return {"total": total, "start": start, "images": [self.image(int(row)) for row in rows]}

    def search_photo(self, photo: Encoded, top: int, rerank: int) -> dict[str, Any]:
        return self.search(photo.packed, top, rerank=rerank, query_features=photo.features, query_outputs=photo.outputs)

    def search_row(self, row: int, top: int, rerank: int) -> dict[str, Any]:
        packed, features = self.index.packed[row : row + 1], self.index.features
        if not rerank:
            return self.search(packed, top, row)
        if features is None:
            raise HTTPException(422, "rerank needs features, and none are kept here")
        return self.search(packed, top, row, rerank=rerank, query_features=features[np.array([row])])

    def search(self, packed: Packed, top: int, row: int | None = None, **how: Any) -> dict[str, Any]:
        """The answer for one code (1, B). row: the image it is of, left out; how: more for `Index.search`."""
        distances, rows = self.index.search(packed, top + (row is not None), **how)
        found = [
            self.image(int(near)) | {"distance": int(distance)}
            for distance, near in zip(distances[0], rows[0], strict=True)
            if near >= 0 and near != row
        ][:top]
        query = {"code": packed[0].tobytes().hex()} if row is None else self.image(row)
        histogram = self.index.histogram(packed)[0]
        if row is not None:
            histogram[0] -= 1  # the query itself
        return {
            "bits": self.index.bits,
            "query": query,
            "results": found,
            "histogram": histogram.tolist(),
            "reranked": bool(how.get("rerank")),
        }

    def image(self, row: int) -> dict[str, Any]:
        return {
            "row": row,
            "name": self.gallery.name(row),
            "classes": self.gallery.classes_of(row),
            "code": self.index.packed[row].tobytes().hex(),
            "thumbnail": f"/images/{row}/thumbnail?v={self.gallery.version}",
            "preview": f"/images/{row}/preview?v={self.gallery.version}",
        }

    def check_row(self, row: int) -> None:
        if not 0 <= row < len(self.index):
            raise HTTPException(404, f"there is no image {row}: rows go from 0 to {len(self.index) - 1}")


def _only_known_parameters(request: Request) -> None:
    """Refuse a request whose query names what its route does not take, such as a misspelt `top`."""
    known = [parameter.alias for parameter in request.scope["route"].dependant.query_params]
    for name in request.query_params:
        if name not in known:
            raise HTTPException(422, f"{name} is not a parameter here: {', '.join(known) or 'there is none'}")


async def _body(request: Request, limit: int) -> bytes:
    """The request's body, at most `limit` bytes; a larger one is read on to its end, but not kept, then refused.

    (A client that is cut off while it sends sees a broken connection instead of the reason.)
    """
    told = HTTPException(413, f"the file is larger than {limit >> 20} MiB: send a smaller one")
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > 8 * limit:
        raise told
    data, size = bytearray(), 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > 8 * limit:
            raise told
        if size <= limit:
            data += chunk
    if size > limit:
        raise told
    return bytes(data)


def _static(name: str) -> Any:
    path = STATIC / name
    tag = f'"{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"'

    def answer(request: Request) -> Response:
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"ETag": tag, "Cache-Control": "no-cache"})
        return FileResponse(path, headers={"ETag": tag, "Cache-Control": "no-cache"})

    return answer


def _answer_errors_in_json(app: FastAPI) -> None:
    """Every refusal is `{"error": one readable sentence}` with a 4xx; what nobody expected is a 500 and is logged."""

    def answer(status: int, text: str, headers: Any = None) -> JSONResponse:
        return JSONResponse({"error": text}, status_code=status, headers=headers)

    @app.exception_handler(StarletteHTTPException)
    def http(_: Request, error: StarletteHTTPException) -> JSONResponse:
        return answer(error.status_code, str(error.detail), error.headers)

    @app.exception_handler(RequestValidationError)
    def validation(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        return answer(422, f"{where}: {first['msg'][:1].lower()}{first['msg'][1:]}")

    @app.exception_handler(BadImageError)
    def bad_image(_: Request, error: BadImageError) -> JSONResponse:
        return answer(422, f"this file cannot be used: {error}")

    @app.exception_handler(ParameterError)
    def parameter(_: Request, error: ParameterError) -> JSONResponse:
        return answer(422, str(error))

    @app.exception_handler(Exception)
    def unexpected(_: Request, error: Exception) -> JSONResponse:
        logger.opt(exception=error).error("unexpected")
        return answer(500, "something went wrong here: the terminal of `python -m ssdh serve` says what")

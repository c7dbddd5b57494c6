"""The page's server: JSON about codes and distances, small pictures, and a few static files.

    uvicorn.run(create_app(gallery))

A program asks as the page does:

    curl --data-binary @photo.jpg 'http://127.0.0.1:8000/api/search?top=20'
    curl 'http://127.0.0.1:8000/api/search?row=17&top=20&rerank=500'
    curl 'http://127.0.0.1:8000/api/duplicates?radius=4&min_similarity=0.95'

Images are named by their row, or in a collection, where rows shift, by their id, so no path reaches the file system. A
photo is the request's body (or the one file of a form, as `curl -F file=@photo.jpg` sends it). That of a search stays
in memory and its name is never sent; photos are added (`POST /api/images?name=photo.jpg`) only where an adder is given.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Protocol

from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from loguru import logger
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from ssdh.core.errors import DataError, ParameterError
from ssdh.features.decode import BadImageError, decode_image
from ssdh.search.collection import Collection
from ssdh.search.gallery import Encoded, Gallery
from ssdh.search.index import parse_code
from ssdh.search.photo_adder import AddedPhoto
from ssdh.search.web.current import Current, Shown
from ssdh.search.web.guard import Guard
from ssdh.search.web.thumbnails import Size
from ssdh.search.web.upload import photo_of

STATIC = Path(__file__).parent / "static"
FILES = {"": "index.html", "favicon.ico": "icon.svg"} | {
    f"static/{name}": name for name in ("app.js", "groups.js", "style.css")
}
MAX_UPLOAD = 32 << 20  # bytes; the decoder has its own limit of pixels
MAX_WAITING = 32  # uploads in memory at once; the next one is told to come back
MAX_DECODED = 2  # photos that are pixels at once: one is encoded while the next is decoded
MAX_TEXT = 500  # characters
MAX_TOP = 1000
MAX_RERANK = 10_000  # features that a request may have read
PAGE = 200  # images a page at most
MAX_GROUPS = 50  # of near-identical images in an answer
IMMUTABLE = "private, max-age=31536000, immutable"
Id = Annotated[int | None, Query(ge=0, lt=1 << 63)]
Top = Annotated[int, Query(ge=1, le=MAX_TOP)]
Rerank = Annotated[int, Query(ge=0, le=MAX_RERANK)]


class Adder(Protocol):
    """Adds photos to the collection that the page shows."""

    def add(self, data: bytes, name: str) -> AddedPhoto:
        """Add the bytes of one photo; as `ssdh.search.photo_adder.PhotoAdder.add`."""


def create_app(
    gallery: Gallery,
    *,
    collection: Collection | None = None,
    hosts: tuple[str, ...] = (),
    max_upload: int = MAX_UPLOAD,
    adder: Adder | None = None,
) -> ASGIApp:
    """The application over an opened gallery.

    collection: what the gallery was opened from; answers then come from its newest state. hosts: further names of this
    machine that requests may use. adder: with it, requests may add photos to the collection.
    """
    # one photo is encoded at a time (the network uses all cores itself), while the next one is decoded
    encoder, decoder = ThreadPoolExecutor(1, "encode"), ThreadPoolExecutor(MAX_DECODED, "decode")
    finder = ThreadPoolExecutor(1, "duplicates")  # which may take minutes: everything else goes on

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        for pool in (encoder, decoder, finder):
            pool.shutdown(cancel_futures=True)

    app = FastAPI(title="SSDH search by image", docs_url=None, redoc_url=None, lifespan=lifespan)
    _answer_errors_in_json(app)
    limits = {"max_upload": max_upload, "max_top": MAX_TOP, "adds": adder is not None}
    current = Current(gallery, collection, limits)
    waiting, decoded = asyncio.Semaphore(MAX_WAITING), asyncio.Semaphore(MAX_DECODED)
    run = asyncio.get_running_loop

    async def photo(request: Request) -> bytes:
        """The photo in a request, which is its body or the one file of a form."""
        try:
            data = await _body(request, max_upload)
        except ClientDisconnect:
            raise HTTPException(400, "the upload broke off") from None
        return photo_of(data, request.headers.get("content-type", ""))

    @asynccontextmanager
    async def one_of_few() -> AsyncIterator[None]:
        if waiting.locked():
            raise HTTPException(503, "too many photos at once: try again in a moment", {"Retry-After": "2"})
        async with waiting:
            yield

    known = [Depends(_only_known_parameters)]
    now = Depends(current.now)

    @app.get("/api/about", dependencies=known)
    def tell_about(shown: Annotated[Shown, now]) -> dict[str, Any]:
        """The data set, the length of the codes, limits, and the distances from a typical image to all others."""
        return shown.about

    @app.get("/api/images", dependencies=known)
    def list_images(
        shown: Annotated[Shown, now],
        start: Annotated[int, Query(ge=0)] = 0,
        count: Annotated[int, Query(ge=1, le=PAGE)] = 60,
        seed: Annotated[int | None, Query(ge=0, lt=2**32)] = None,
    ) -> dict[str, Any]:
        """Images in the order of the data set, or with a seed a random sample."""
        return shown.view.page(start, count, seed)

    @app.post("/api/images", dependencies=known)
    async def add_image(
        request: Request, response: Response, name: Annotated[str, Query(max_length=500)] = ""
    ) -> dict[str, Any]:
        """Add a photo to the collection; 201 where it was new, 200 where one of the same bytes was there."""
        if adder is None:
            raise HTTPException(403, "photos cannot be added here: `serve --collection FOLDER --allow-add` lets them")
        async with one_of_few():
            data = await photo(request)
            async with decoded:
                try:
                    added = await run().run_in_executor(encoder, adder.add, data, name)
                except BadImageError:
                    raise
                except DataError as error:
                    raise HTTPException(409, str(error)) from None
            shown = await run().run_in_executor(decoder, current.newest)
        response.status_code = 201 if added.new else 200
        (row,) = shown.gallery.rows_of([added.id])
        return {"id": added.id, "new": added.new, "row": int(row), "images": shown.about["images"]}

    @app.get("/api/duplicates", dependencies=known)
    async def find_duplicates(
        shown: Annotated[Shown, now],
        radius: Annotated[int | None, Query()] = None,
        min_similarity: Annotated[float | None, Query()] = None,
        start: Annotated[int, Query(ge=0)] = 0,
        count: Annotated[int, Query(ge=1, le=MAX_GROUPS)] = 20,
    ) -> dict[str, Any]:
        """Groups of near-identical images, the largest first. Nothing is deleted, here or anywhere."""
        return await run().run_in_executor(finder, shown.groups.page, radius, min_similarity, start, count)

    @app.get("/api/search", dependencies=known)
    def search_known(
        shown: Annotated[Shown, now],
        row: Annotated[int | None, Query()] = None,
        id: Id = None,
        code: str | None = None,
        text: Annotated[str | None, Query(min_length=1, max_length=MAX_TEXT)] = None,
        top: Top = 60,
        rerank: Rerank = 0,
    ) -> Any:
        """The images nearest to an image of the database, which is left out itself, to a code, or to a text."""
        view = shown.view
        if [row, id, code, text].count(None) != 3:
            raise HTTPException(422, "give one of row, id, code and text")
        if text is not None:
            if (texts := shown.gallery.texts) is None:
                raise HTTPException(422, "the network of this collection reads no texts")
            return view.search_text(text, encoder.submit(texts, [text]).result(), top, rerank)
        if id is not None:
            row = view.row_of(id)
        if row is not None:
            view.check_row(row)
            return view.search_row(row, top, rerank)
        assert code is not None
        if rerank:
            raise HTTPException(422, "rerank needs more than a code: send the photo again, or name a row")
        return view.search(parse_code(code, view.index.bits), top)

    @app.post("/api/search", dependencies=known)
    async def search_photo(request: Request, shown: Annotated[Shown, now], top: Top = 60, rerank: Rerank = 0) -> Any:
        """The images nearest to a photo, which is the request's body or the one file of a form."""
        async with one_of_few():
            data, encode = await photo(request), shown.gallery.encode
            async with decoded:
                pixels = await run().run_in_executor(decoder, decode_image, data, encode.min_side)
                result: Encoded = await run().run_in_executor(encoder, encode, [pixels])
            return await run().run_in_executor(decoder, shown.view.search_photo, result, top, rerank)

    @app.get("/images/{row}/{size}")
    def picture(shown: Annotated[Shown, now], row: int, size: Size, v: str = "", id: Id = None) -> Response:
        """A database image with at most 192 (thumbnail) or 640 (preview) pixels a side.

        id: which it is, where the page was told its row before others went.
        """
        row = row if id is None else shown.view.row_of(id)
        shown.view.check_row(row)
        try:
            picture = shown.thumbnails.get(row, size)
        except DataError as error:
            raise HTTPException(410, str(error)) from None
        cached = IMMUTABLE if v == shown.gallery.version else "no-cache"
        return Response(picture.data, media_type=picture.media_type, headers={"Cache-Control": cached})

    for path, name in FILES.items():
        app.add_api_route(f"/{path}", _static(name), include_in_schema=False, response_model=None)
    return Guard(app, hosts)  # outermost, so that even a failure's answer passes it


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
    too_large = HTTPException(413, f"the file is larger than {limit >> 20} MiB: send a smaller one")
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > 8 * limit:
        raise too_large
    data, size = bytearray(), 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > 8 * limit:
            raise too_large
        if size <= limit:
            data += chunk
    if size > limit:
        raise too_large
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
    """Every refusal is `{"error": one readable sentence}`, with a 4xx, or a 503 where the images cannot be read now.

    What nobody expected is a 500 and is logged.
    """

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

    @app.exception_handler(DataError)
    def data(_: Request, error: DataError) -> JSONResponse:
        return answer(503, str(error))

    @app.exception_handler(Exception)
    def unexpected(_: Request, error: Exception) -> JSONResponse:
        logger.opt(exception=error).error("unexpected")
        return answer(500, "something went wrong here: the terminal of `python -m ssdh serve` says what")

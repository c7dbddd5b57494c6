"""Mutated files for readers of untrusted input; a reader may read them, or say in one line why not."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from ssdh.core.errors import SSDHError

QUICK = settings(max_examples=60, suppress_health_check=list(HealthCheck))
LONG = settings(QUICK, max_examples=3000, derandomize=False)  # others each time
BOUND = 1 << 30  # bytes that a process may grow by while it reads mutated files of a few kB
ODD_BYTES = [
    *(b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\xc3\xa9", b"\x85", b"\r", b'"', b'""', b"[", b"{"),
    *(b"NaN", b"1e999", b"null", b"-1", b"9" * 30, b"true", b"../", b"\\ud800"),
]
ODD_VALUES = [
    *(None, True, -1, 0, 2**70, 1e308, float("nan"), float("inf")),
    *("", "x", "../x", "\ud800", "a\0b", [], {}, [[]]),
]


@st.composite
def mutations(draw: st.DrawFn, originals: st.SearchStrategy[bytes]) -> bytes:
    """A file with a few bytes changed, cut out, doubled or put in; many changes near its beginning or its end."""
    data = bytearray(draw(originals))
    for _ in range(draw(st.integers(1, 4))):
        near = st.integers(0, min(64, len(data))), st.integers(max(0, len(data) - 80), len(data))
        at = draw(st.one_of(*near, st.integers(0, len(data))))
        length = draw(st.integers(0, 8))
        new = draw(st.one_of(st.binary(max_size=8), st.sampled_from(ODD_BYTES)))
        data[at : at + length] = new
    if draw(st.booleans()):
        del data[draw(st.integers(0, len(data))) :]
    return bytes(data)


@st.composite
def odd_json(draw: st.DrawFn, original: Any) -> Any:
    """A JSON value with one of its parts, at any depth, replaced by something else or left out."""
    if not isinstance(original, (dict, list)) or not original or draw(st.integers(0, 5)) == 0:
        return draw(st.sampled_from(ODD_VALUES))
    keys: list[Any] = list(original) if isinstance(original, dict) else list(range(len(original)))
    key = draw(st.sampled_from(keys))
    copied: Any = dict(original) if isinstance(original, dict) else list(original)
    if draw(st.integers(0, 5)) == 0:
        del copied[key]
    else:
        copied[key] = draw(odd_json(original[key]))
    return copied


def as_json(value: Any) -> bytes:
    """The value as a file holds it, NaN and lone surrogates as Python writes them."""
    return json.dumps(value).encode()


def read_or_one_line(read: Callable[[], Any], *expected: type[Exception], lines: int = 1) -> None:
    """Call `read`: a result, or an error of at most `lines` lines; `expected` are its errors beside SSDHError."""
    said = "-"
    with suppress(*expected):
        try:
            read()
        except SSDHError as error:
            said = str(error)
    assert 1 <= len(said.strip().split("\n")) <= lines


def reader_of(path: Path, read: Callable[[Path], Any], *expected: type[Exception]) -> Callable[[bytes], None]:
    """A test of one mutated file: its bytes are written to `path`, then read."""

    def check(data: bytes) -> None:
        path.write_bytes(data)
        read_or_one_line(lambda: read(path), *expected)

    return check

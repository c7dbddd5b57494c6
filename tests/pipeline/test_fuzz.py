"""Readers of untrusted files get mutated real files: a result or one line, never a traceback.

`make test-slow` goes on for thousands of examples each.
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from ssdh.core.errors import DataError
from ssdh.core.files import read_array, write_array
from ssdh.core.yaml_text import parse_yaml
from ssdh.datasets.label_table import read_labels
from ssdh.datasets.text_lists import read_binary_rows, read_names
from ssdh.features.decode import BadImageError, decode_image
from ssdh.features.embedding_numpy import open_npy
from ssdh.hashing.model_file import load_hashnet, read_metadata, save_hashnet
from ssdh.hashing.network import seeded_hashnet
from tests.helpers.memory import peak
from tests.helpers.mutating import BOUND, LONG, QUICK, mutations, reader_of


def picture(kind: str) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


PICTURES = {kind: picture(kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000")}


def read_picture(data: bytes) -> None:
    pixels, error = None, ""
    try:
        pixels = decode_image(data, 16)
    except BadImageError as reason:
        error = str(reason)
    assert "\n" not in error
    if pixels is None:
        return
    assert pixels.dtype == np.uint8
    assert pixels.shape[2:] == (3,)


def read_yaml(path: Path) -> None:
    try:
        parse_yaml(path.read_bytes().decode("latin-1"))
    except ValueError as error:
        raise DataError(str(error)) from None


def read_whole(path: Path) -> None:
    read_metadata(path)
    load_hashnet(path)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A file of each kind, as this project writes it."""
    folder = tmp_path_factory.mktemp("originals")
    write_array(folder / "a.npy", np.arange(24, dtype=np.float32).reshape(6, 4))
    save_hashnet(folder / "m.safetensors", seeded_hashnet(8, 4, 0), {"bits": 4, "input": "embeddings", "dim": 8})
    return {
        "a.npy": (folder / "a.npy").read_bytes(),
        "m.safetensors": (folder / "m.safetensors").read_bytes(),
        "labels.csv": b'path,label\na.jpg,cat;dog\n"b, c.jpg","x ""y"""\nd.jpg,\n',
        "names.txt": b"a/b.jpg\nc.jpg\n",
        "rows.txt": b"0 1 0\n1 1 0\n",
        "params.yaml": b"bits: 32\ntrain: {lr: 1e-3, decay: [1, 2]}\nlist:\n  - &a x\n  - *a\n",
    }


def read_arrays(path: Path) -> None:
    """As an out of a stage, and as embeddings of somebody else; both are tried whatever the other says."""
    try:
        read_array(path)
    finally:
        open_npy(path, None)


READERS: dict[str, Callable[[Path], Any]] = {
    "a.npy": read_arrays,
    "m.safetensors": read_whole,
    "labels.csv": lambda path: read_labels(path, ()),
    "names.txt": read_names,
    "rows.txt": lambda path: read_binary_rows(path, 2),
    "params.yaml": read_yaml,
}


@QUICK
@given(mutations(st.sampled_from(list(PICTURES.values()))))
@example(PICTURES["PNG"][:30])
def test_mutated_pictures(data: bytes) -> None:
    read_picture(data)


@pytest.mark.slow
def test_many_mutated_pictures() -> None:
    before = peak()
    LONG(given(mutations(st.sampled_from(list(PICTURES.values()))))(read_picture))()
    assert peak() - before < BOUND


@pytest.mark.parametrize("name", READERS)
def test_mutated_files(name: str, originals: dict[str, bytes], tmp_path: Path) -> None:
    QUICK(given(mutations(st.just(originals[name])))(reader_of(tmp_path / name, READERS[name])))()


def test_a_header_that_is_no_python_is_one_line(originals: dict[str, bytes], tmp_path: Path) -> None:
    """Found by mutation: numpy raises TokenError and SyntaxError."""
    for broken in (b"{{", b"{(", b'{"'):
        reader_of(tmp_path / "a.npy", READERS["a.npy"])(originals["a.npy"].replace(b"{", broken, 1))


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_many_mutated_files(name: str, originals: dict[str, bytes], tmp_path: Path) -> None:
    before = peak()
    LONG(given(mutations(st.just(originals[name])))(reader_of(tmp_path / name, READERS[name])))()
    assert peak() - before < BOUND

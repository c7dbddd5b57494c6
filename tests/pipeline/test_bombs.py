"""Small files that claim or unpack to gigabytes: one line by name, before the memory is taken.

One process with a limit on its memory reads them all; the bombs that must be written are of 128 MiB, for a bound of 32.
"""

import gzip
import io
import json
import math
import os
import pickle
import resource
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ssdh.core import inflation
from ssdh.core.errors import DataError
from ssdh.core.inflation import refuse_inflation
from ssdh.datasets import cifar10
from ssdh.datasets.columns import LABELS, labels_of, read_column
from ssdh.datasets.embeddings import scan
from ssdh.features.download import unpack
from ssdh.features.embeddings import open_embeddings

FREE = 32 << 20  # the bound, for these tests
BOMB = 128 << 20
ALLOWED = 300 << 20  # bytes that the reading process may take
ZEROS = bytes(1 << 20)


def header(shape: tuple[int, ...], descr: str, fortran: bool = False) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": descr, "fortran_order": fortran, "shape": shape})
    return out.getvalue()


def npz(path: Path, **members: tuple[bytes, int]) -> None:
    """Arrays as a header and a number of zero bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, (head, zeros) in members.items():
            with archive.open(f"{name}.npy", "w") as file:
                file.write(head)
                for _ in range(math.ceil(zeros / len(ZEROS))):
                    file.write(ZEROS)


def hdf5(**arrays: dict[str, Any]) -> Callable[[Path], None]:
    """Data sets of which nothing is stored but their shape."""

    def write(path: Path) -> None:
        with h5py.File(path, "w") as file:
            for name, how in arrays.items():
                file.create_dataset(name, compression="gzip", **how)

    return write


def one_text(path: Path) -> None:
    """Many rows that all lead to one text in the heap of the file."""
    with h5py.File(path, "w") as file:
        file["features"] = np.ones((1000, 4), np.float32)
        file.create_dataset("labels", (1000,), h5py.string_dtype(), fillvalue="x" * 1_000_000)


def long_lists(path: Path) -> None:
    lists = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(2 * 10_000_000, np.float32)), 10_000_000)
    pq.write_table(pa.table({"features": lists}), path)


def long_texts(path: Path) -> None:
    """Rows of one long text, which the file holds once; they are read, for all of them are one object."""
    features = pa.array([[1.0, 2.0]] * 1000, pa.list_(pa.float32()))
    labels = pa.DictionaryArray.from_arrays(np.zeros(1000, np.int32), ["x;y" * 300_000])
    pq.write_table(pa.table({"features": features, "labels": labels}), path, store_schema=False)


def tar_gz(head: bytes, rest: bytes, times: int) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with gzip.open(path, "wb", 1) as file:
            file.write(head)
            for _ in range(times):
                file.write(rest)

    return write


def sparse(path: Path) -> None:
    path.write_bytes(member("annotations/a", 1 << 40))


def member(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def large_zip(path: Path) -> None:
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("annotations/a.json", "w") as file,
    ):
        for _ in range(BOMB // len(ZEROS)):
            file.write(ZEROS)


def nested(leaf: Any, make: Callable[[Any], Any]) -> Any:
    """Twice the same, thirty times: a few hundred bytes of a pickle, a billion leaves."""
    for _ in range(30):
        leaf = make(leaf)
    return leaf


def growing(path: Path) -> None:
    """Text to hexadecimal digits, thirty times."""
    body = b"C\x04abcd"
    for _ in range(30):
        body = b"c_codecs\nencode\n" + body + b"U\x03hex\x86R"
    path.write_bytes(b"\x80\x03}U\x0blabel_names]" + body + b"as.")


def pickled(value: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(pickle.dumps(value))

    return write


TWICE = nested(0, lambda leaf: [leaf, leaf])
IN_TUPLES = nested(0, lambda leaf: (leaf, leaf))
FEW = {"shape": (10, 4), "chunks": (10, 4), "dtype": "f4", "fillvalue": 1.0}

BOMBS: dict[str, tuple[Callable[[Path], None], str]] = {
    "claim.npz": (lambda path: npz(path, features=(header((10**11, 4), "<f4"), 64)), "names and digests of"),
    "wide.npz": (lambda path: npz(path, features=(header((4, 10**11), "<f4"), 64)), "a row of 100,000,000,000 values"),
    "fortran.npz": (lambda path: npz(path, features=(header((1 << 17, 256), "<f4", True), BOMB)), "Fortran order"),
    "labels.npz": (
        lambda path: npz(path, features=(header((4, 4), "<f4"), 64), labels=(header((BOMB,), "|i1"), BOMB)),
        "column 'labels'",
    ),
    "rows.h5": (hdf5(features={"shape": (10**10, 8), "chunks": (1000, 8), "dtype": "f4"}), "names and digests of"),
    "days.h5": (
        hdf5(features={"shape": (10**5, 10**6), "chunks": (1, 10**6), "dtype": "f4"}),
        "100,000 rows of 1,000,000",
    ),
    "chunk.h5": (hdf5(features={"shape": (9, 10**9), "chunks": (9, 10**7), "dtype": "f4"}), "a chunk of 'features'"),
    "labels.h5": (
        hdf5(features=FEW, labels={"shape": (10**10,), "chunks": (1000,), "dtype": "i8"}),
        "column 'labels' would take 74.5 GiB",
    ),
    "text.h5": (one_text, "column 'labels'"),
    "long.parquet": (long_lists, "column 'features'"),
    "text.parquet": (long_texts, ""),
    "data.tar.gz": (tar_gz(member("annotations/a", BOMB), ZEROS, BOMB >> 20), "so far"),
    "name.tar.gz": (tar_gz(member("././@LongLink", BOMB, tarfile.GNUTYPE_LONGNAME), ZEROS, BOMB >> 20), "so far"),
    "members.tar.gz": (tar_gz(b"", member("annotations/a", 0) * 2048, 25), "its files"),
    "sparse.tar": (sparse, "its files would take 1,024.0 GiB"),
    "data.zip": (large_zip, "its files"),
    "hex.meta": (growing, "not a whole CIFAR-10 file"),
    "lists.meta": (pickled({"label_names": [TWICE]}), "no label_names"),
    "tuples.meta": (pickled({IN_TUPLES: 1}), "tuples"),
    "lists.batch": (pickled({"data": np.zeros((3, 3072), np.uint8), "labels": TWICE}), "labels that are no numbers"),
}


# --- the process with a limit -----------------------------------------------------------------------------------------


def read(path: Path) -> None:
    if path.suffix in (".gz", ".tar", ".zip"):
        unpack(path, path.with_suffix(".unpacked"), "annotations")
    elif path.suffix == ".meta":
        cifar10._class_names(path)
    elif path.suffix == ".batch":
        cifar10._read_batch(path, 10)
    else:
        scan(open_embeddings(path))
        if (column := read_column(path, None, LABELS)) is not None:
            labels_of(column, str(path))


def read_all(folder: Path) -> None:
    """Read every file of the folder, and print what was said of each."""
    inflation.FREE_BYTES = FREE
    list(map(str, pa.array([0])))  # its pool is there
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    most = pages * resource.getpagesize() + ALLOWED
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    said = {}
    for path in sorted(folder.iterdir()):
        try:
            read(path)
            said[path.name] = ""
        except DataError as error:
            said[path.name] = str(error)
        except MemoryError:
            said[path.name] = "out of memory"
    print(json.dumps(said))


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    folder = tmp_path_factory.mktemp("bombs")
    for name, (write, _) in BOMBS.items():
        write(folder / name)
    own = {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    own["MALLOC_ARENA_MAX"] = "1"  # each thread's would take 64 MiB of addresses
    done = subprocess.run(
        [sys.executable, "-c", f"from tests.pipeline.test_bombs import *; read_all(Path({str(folder)!r}))"],
        env=os.environ | own,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    yield json.loads(done.stdout)
    for path in folder.iterdir():
        path.unlink()


@pytest.mark.long
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the memory of a process")
@pytest.mark.parametrize("name", BOMBS)
def test_one_line_before_the_memory_is_taken(name: str, said: dict[str, str]) -> None:
    expected = BOMBS[name][1]
    assert expected in said[name]
    assert bool(expected) == (name in said[name])
    assert "\n" not in said[name]


def test_real_sizes_pass(tmp_path: Path) -> None:
    """A million embeddings of 768 float32 in HDF5, packed to a third; COCO's annotations, 241 MB for 1.4 GB."""
    path = tmp_path / "file"
    for size, rows, row_bytes, unpacked in ((10**9, 10**6, 3072, 3 * 10**9), (241 * 10**6, 300_000, 1000, 14 * 10**8)):
        with path.open("wb") as file:
            file.truncate(size)
        refuse_inflation(path, rows * inflation.ROW_BYTES, "rows")
        refuse_inflation(path, row_bytes, "a row")
        refuse_inflation(path, unpacked, "its files")

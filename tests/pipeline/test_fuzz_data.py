"""Files that people bring (data sets, embeddings, archives, forms) mutated: a result or one line, never a traceback.

`make test-slow` goes on for thousands of examples each, and looks at the memory.
"""

import gzip
import io
import json
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from fastapi import HTTPException
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save as safetensors_bytes

from ssdh.check import check_parameters
from ssdh.core.errors import DataError
from ssdh.core.params import read_params
from ssdh.core.records import locked_stages
from ssdh.datasets import cifar10, coco, fashion_mnist, imagenet100
from ssdh.datasets.columns import LABELS, NAMES, labels_of, names_of, read_column
from ssdh.datasets.embeddings import scan
from ssdh.features.download import unpack
from ssdh.features.embeddings import open_embeddings
from ssdh.features.params import BackboneParams, ImageParams
from ssdh.hashing.encoder import load_encoder
from ssdh.hashing.model_file import describe_backbone, save_hashnet
from ssdh.hashing.network import seeded_hashnet
from ssdh.search.index import Index
from ssdh.search.web.upload import photo_of
from tests.helpers.memory import peak
from tests.helpers.mutating import BOUND, LONG, QUICK, as_json, mutations, odd_json, read_or_one_line, reader_of

FEATURES = np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32)
TEXTS = [f"n{row}" for row in range(12)]
BOUNDARY = "multipart/form-data; boundary=XbX"


# --- a small file of each kind ----------------------------------------------------------------------------------------


def bytes_of(write: Callable[[Any], Any]) -> bytes:
    out = io.BytesIO()
    write(out)
    return out.getvalue()


def archive(kind: str) -> bytes:
    content = b"{}" * 40
    if kind == "zip":

        def write_zip(out: Any) -> None:
            with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
                file.writestr("annotations/a.json", content)
                file.writestr("annotations/b/c.txt", content)

        return bytes_of(write_zip)

    def write_tar(out: Any) -> None:
        with tarfile.open(fileobj=out, mode=f"w:{kind}") as file:
            member = tarfile.TarInfo("annotations/a.json")
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))

    return bytes_of(write_tar)


def hdf5(out: Any) -> None:
    with h5py.File(out, "w") as file:
        file["features"], file["labels"], file["names"] = FEATURES, np.arange(12), np.array(TEXTS, "S")


def parquet(compression: str) -> Callable[[Any], None]:
    features = pa.array(FEATURES.tolist(), pa.list_(pa.float32()))
    table = pa.table({"features": features, "labels": list("abc" * 4), "names": TEXTS})
    return lambda out: pq.write_table(table, out, compression=compression)


WIDE = "name,f0,f1,f2,label\n" + "".join(f"{name},0.5,-1e3,2,{name[-1]}\n" for name in TEXTS)


def wide(out: Any) -> None:
    columns = {f"f{place}": FEATURES[:, place] for place in range(6)}
    pq.write_table(pa.table(columns | {"labels": list("abc" * 4), "names": TEXTS}), out)


IDS = [*range(1, 41), *range(51, 91)]
INSTANCES = {
    "images": [{"id": n, "file_name": f"{n}.jpg"} for n in range(3)],
    "categories": [{"id": n, "name": f"thing {n}"} for n in IDS],
    "annotations": [{"image_id": 0, "category_id": 3}, {"image_id": 2, "category_id": 60}],
}
IDX = gzip.compress(bytes((0, 0, 8, 3)) + np.array([2, 3, 3], ">u4").tobytes() + bytes(18))
LIST = "\n".join(f"train/n{k}/x{k}.JPEG " + " ".join("01"[c == k] for c in range(100)) for k in range(3)).encode()
FORM = (
    b'--XbX\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\nDATA\r\n'
    b'--XbX\r\nContent-Disposition: form-data; name="x"\r\n\r\n1\r\n--XbX--\r\n'
)

FILES: dict[str, bytes] = {
    "a.npy": bytes_of(lambda out: np.save(out, FEATURES)),
    "fortran.npy": bytes_of(lambda out: np.save(out, np.asfortranarray(FEATURES.astype(">f4")))),
    "texts.npy": bytes_of(lambda out: np.save(out, np.array(TEXTS))),
    "a.npz": bytes_of(lambda out: np.savez(out, features=FEATURES, labels=np.arange(12))),
    "packed.npz": bytes_of(lambda out: np.savez_compressed(out, features=FEATURES, names=np.array(TEXTS))),
    "a.h5": bytes_of(hdf5),
    "a.parquet": bytes_of(parquet("snappy")),
    "plain.parquet": bytes_of(parquet("none")),
    "a.safetensors": safetensors_bytes({"features": FEATURES, "labels": np.arange(12)}),
    "a.csv": b'name,label\na,cat;dog\n"b, c","x ""y"""\nd,\n',
    "wide.csv": WIDE.encode(),
    "wide.parquet": bytes_of(wide),
    "a.txt": b"a\nb\nc d\n",
    "a.zip": archive("zip"),
    "a.tar": archive(""),
    "a.tar.gz": archive("gz"),
    "a.tar.bz2": archive("bz2"),
    "a.tar.xz": archive("xz"),
    "instances.json": as_json(INSTANCES),
    "database.txt": LIST,
    "data_batch_1": pickle.dumps({"data": np.zeros((3, 3072), np.uint8), "labels": [0, 1, 2]}),
    "batches.meta": pickle.dumps({"label_names": ["a", "b"]}),
    "idx.gz": IDX,
    "form": FORM,
    "dvc.lock": b"schema: '2.0'\nstages:\n  a:\n    cmd: x\n    deps:\n    - path: a\n      md5: '1'\n",
}


# --- as they are read -------------------------------------------------------------------------------------------------


def read_embeddings(path: Path) -> None:
    scan(open_embeddings(path))


def read_columns(path: Path) -> None:
    for usual, meaning in ((LABELS, labels_of), (NAMES, names_of)):
        if (column := read_column(path, None, usual)) is not None:
            meaning(column, str(path))


def read_both(path: Path) -> None:
    """Whatever the one says, the other is tried."""
    try:
        read_embeddings(path)
    finally:
        read_columns(path)


def unpack_it(path: Path) -> None:
    target = path.parent / "unpacked"
    shutil.rmtree(target, ignore_errors=True)
    unpack(path, target, "annotations")


def read_coco(path: Path) -> None:
    folder = path.parent / "annotations"
    folder.mkdir(exist_ok=True)
    for part in coco.PARTS:
        shutil.copy(path, folder / f"instances_{part}.json")
    names, _, _ = coco._official(path.parent)
    for name in names:
        name.encode()
        assert (path.parent / name).resolve().is_relative_to(path.parent.resolve())


READERS: dict[str, Callable[[Path], Any]] = {
    **dict.fromkeys(FILES, read_both),
    **dict.fromkeys(("texts.npy", "a.csv", "a.txt"), read_columns),
    **dict.fromkeys([name for name in FILES if name.startswith(("a.zip", "a.tar"))], unpack_it),
    "instances.json": read_coco,
    "database.txt": imagenet100._read,
    "data_batch_1": lambda path: cifar10._read_batch(path, 10),
    "batches.meta": cifar10._class_names,
    "idx.gz": lambda path: fashion_mnist._read_idx(path, 3),
    "form": lambda path: photo_of(path.read_bytes(), BOUNDARY),
    "dvc.lock": locked_stages,
}


def mutate(name: str, folder: Path, how: settings) -> None:
    check = reader_of(folder / name, READERS[name], HTTPException)
    how(given(mutations(st.just(FILES[name])))(check))()


@pytest.mark.parametrize("name", FILES)
def test_mutated_files(name: str, tmp_path: Path) -> None:
    mutate(name, tmp_path, settings(QUICK, max_examples=25))


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_many_mutated_files(name: str, tmp_path: Path) -> None:
    before = peak()
    mutate(name, tmp_path, LONG)
    assert peak() - before < BOUND


# --- JSON and YAML with a part replaced -------------------------------------------------------------------------------


def odd_models(folder: Path) -> tuple[dict[str, Any], Callable[[Any], None]]:
    """Metadata of a model of images, and a test of them."""
    path = folder / "m.safetensors"
    images = ImageParams(size=32, resize=32, weights="random", mean=None, std=None)
    backbone = BackboneParams(arch="resnet18", layer="auto", precision="fp32", weights_file="")
    metadata = {"bits": 4, "precision": "fp32", "power": 0.5, "head": "tanh"} | describe_backbone(backbone, images)
    model = seeded_hashnet(512, 4, 0)

    def check(odd: Any) -> None:
        if isinstance(odd, dict):
            text = {name: value if isinstance(value, str) else json.dumps(value) for name, value in odd.items()}
            text = {name: value.encode(errors="replace").decode() for name, value in text.items()}
            save_hashnet(path, model, text)
            read_or_one_line(lambda: load_encoder(path))

    return metadata, check


def odd_index(folder: Path) -> tuple[dict[str, Any], Callable[[Any], None]]:
    """`index.json` of an export, and a test of it."""
    Index(np.arange(12, dtype=np.uint8)[:, None], bits=8, names=TEXTS).save(folder)

    def check(odd: Any) -> None:
        (folder / "index.json").write_bytes(as_json(odd))
        read_or_one_line(lambda: Index.load(folder))

    return {"kind": "flat", "bits": 8, "images": 12}, check


def odd_instances(folder: Path) -> tuple[dict[str, Any], Callable[[Any], None]]:
    """COCO's annotations."""
    check = reader_of(folder / "instances.json", read_coco)
    return INSTANCES, lambda odd: check(as_json(odd))


def odd_params(folder: Path) -> tuple[dict[str, Any], Callable[[Any], None]]:
    """params.yaml, of which every mistake has a line of its own."""
    path = folder / "params.yaml"

    def check(odd: Any) -> None:
        path.write_text(yaml.safe_dump(odd, allow_unicode=False), encoding="utf-8", errors="replace")
        read_or_one_line(lambda: check_parameters(read_params(path)), lines=40)

    return read_params(Path(__file__).parents[2] / "params.yaml"), check


ODD = {"model": odd_models, "index": odd_index, "instances": odd_instances, "params": odd_params}


@pytest.mark.long
@pytest.mark.parametrize("kind", ODD)
def test_odd_values(kind: str, tmp_path: Path) -> None:
    original, check = ODD[kind](tmp_path)
    check(original)
    settings(QUICK, max_examples=40)(given(odd_json(original))(check))()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ODD)
def test_many_odd_values(kind: str, tmp_path: Path) -> None:
    original, check = ODD[kind](tmp_path)
    before = peak()
    settings(LONG, max_examples=1000)(given(odd_json(original))(check))()
    assert peak() - before < BOUND


# --- what mutation has found ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("texts.npy", b"n\0\0\0", b"n\xff\xff\xff"),  # no character: SystemError in Python's own text
        ("texts.npy", b"n\0\0\0", b"\x01\xd8\0\0"),  # half of one: it could not be written
        ("a.npz", b"PK\x05\x06", b"PK\x05\x07"),  # BadZipFile where labels are looked for
        ("packed.npz", b"PK\x03\x04\x2d", b"PK\x03\x05\x2d"),
        ("packed.npz", b"features.npy", b"features\r\n.n"),  # a name that takes two lines
        ("a.safetensors", b"{", b"["),
        ("a.h5", b"SNOD", b"SNOX"),  # RuntimeError
        ("a.parquet", b"PAR1", b"PAR2"),
        ("a.zip", b"annotations/a", b"\0nnotations/a"),  # an empty name: IndexError in zipfile
        ("a.tar.gz", b"\x1f\x8b", b"\x1f\x8c"),  # tarfile says why in several lines
        ("batches.meta", b"label_names", b"label_name\xff"),
        ("database.txt", b"x1", b"\xf1"),
    ],
)
def test_what_failed_once_is_one_line(name: str, old: bytes, new: bytes, tmp_path: Path) -> None:
    assert old in FILES[name]
    path = tmp_path / name
    path.write_bytes(FILES[name].replace(old, new))
    with pytest.raises(DataError) as error:
        READERS[name](path)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_ten_bytes_of_a_pickle_take_no_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "batches.meta"
    path.write_bytes(b"\x80\x02}r\xff\xff\xff\x30.")  # an empty dict, put at place 822,083,583
    before = peak()
    with pytest.raises(DataError, match=r"names place 822083583 of 9 bytes"):
        cifar10._class_names(path)
    assert peak() - before < 1 << 28


@pytest.mark.long
def test_a_bomb_in_gzip_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "idx.gz"
    path.write_bytes(gzip.compress(bytes((0, 0, 8, 1)) + b"\x7f\xff\xff\xff" + bytes(400 << 20), 1))
    before = peak()
    with pytest.raises(DataError, match="fetch it again"):
        fashion_mnist._read_idx(path, 1)
    assert peak() - before < 200 << 20


def test_annotations_name_no_file_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "instances.json"
    path.write_bytes(FILES["instances.json"].replace(b"1.jpg", b"../../1.jpg"))
    with pytest.raises(DataError, match=r"'\.\./\.\./1\.jpg', which is not a path below the root"):
        read_coco(path)

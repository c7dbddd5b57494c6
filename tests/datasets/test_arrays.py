"""Digits, CIFAR-10 and Fashion-MNIST: pixels, labels, order, layouts, hostile files."""

import gzip
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssdh.core.errors import DataError, ParameterError
from ssdh.core.params import validate
from ssdh.datasets import cifar10, fashion_mnist, registry
from ssdh.datasets.prepare import draw_split


def make_cifar(root: Path, per_batch: int = 20, protocol: int = 2, keys: type = str) -> Path:
    """A small official layout: pixel (row, column, channel) of image i is known from its number."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for number, name in enumerate(cifar10.BATCHES):
        first = number * per_batch
        data = np.zeros((per_batch, 3, 32, 32), np.uint8)
        for i in range(per_batch):
            data[i, 0], data[i, 1], data[i, 2] = first + i, 100, 200
            data[i, :, 0, 31] = 7  # the corner at the top right
        batch = {"data": data.reshape(per_batch, -1), "labels": [(first + i) % 10 for i in range(per_batch)]}
        (folder / name).write_bytes(pickle.dumps({keys(k): v for k, v in batch.items()}, protocol=protocol))
    names = [f"class{i}" for i in range(10)]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}, protocol=protocol))
    return folder


def test_digits_are_scaled_and_repeated() -> None:
    from sklearn.datasets import load_digits

    raw = registry.get("digits").read(registry.get("digits").Params(num_query=200, num_train=1000))
    bunch = load_digits()
    assert raw.images is not None
    assert raw.images.shape == (1797, 8, 8, 3)
    assert raw.images.dtype == np.uint8
    assert (raw.images == raw.images[..., :1]).all()
    np.testing.assert_allclose(raw.images[..., 0], bunch.images * 15.9375, atol=0.51)
    assert raw.images.max() == 255
    np.testing.assert_array_equal(raw.labels.argmax(axis=1), bunch.target)
    assert (raw.labels.sum(axis=1) == 1).all()
    assert raw.names[17] == "digits/0017"


@pytest.mark.parametrize("pickle_protocol", [2, 4, 5])
def test_cifar_layout_is_read_in_order(tmp_path: Path, pickle_protocol: int) -> None:
    make_cifar(tmp_path, protocol=pickle_protocol)
    dataset = registry.get("cifar10")
    params = dataset.Params(root=str(tmp_path), num_query=10, num_train=50)
    dataset.ensure(params)
    raw = dataset.read(params)
    assert raw.images is not None
    assert raw.images.shape == (120, 32, 32, 3)
    np.testing.assert_array_equal(raw.images[:, 5, 5], [[i, 100, 200] for i in range(120)])
    np.testing.assert_array_equal(raw.images[3, 0, 31], [7, 7, 7])
    assert raw.images[3, 31, 0].tolist() == [3, 100, 200]
    assert raw.labels.argmax(axis=1).tolist() == [i % 10 for i in range(120)]
    assert raw.classes[3] == "class3"
    assert raw.names[0] == "data_batch_1/00000"
    assert raw.names[-1] == "test_batch/00019"
    assert raw.protocol.stratified


@pytest.mark.parametrize("name", ["cifar10_i", "cifar10_ii"])
def test_cifar_test_images_are_the_queries(tmp_path: Path, name: str) -> None:
    make_cifar(tmp_path)  # 6 × 20 images
    dataset = registry.get(name)
    params = dataset.Params(root=str(tmp_path), num_query=20, num_train=50)
    dataset.ensure(params)
    raw, plain = dataset.read(params), registry.get("cifar10").read(params)
    assert raw.names == plain.names
    assert np.array_equal(raw.images, plain.images)
    split = draw_split(raw.protocol, raw.labels, seed=0, name="test")
    assert sorted(split.query.tolist()) == list(range(100, 120))
    assert sorted(split.database.tolist()) == list(range(100))
    assert len(split.train) == 50
    with pytest.raises(ValueError, match="less than or equal to 10000"):
        dataset.Params(num_query=10_001, num_train=50)


def test_cifar_root_may_be_the_folder_itself(tmp_path: Path) -> None:
    folder = make_cifar(tmp_path)
    dataset = registry.get("cifar10")
    assert len(dataset.read(dataset.Params(root=str(folder), num_query=1, num_train=3)).names) == 120


def test_cifar_written_by_python_2(tmp_path: Path) -> None:
    """The official files are Python 2 pickles: byte strings, and arrays rebuilt by numpy 1's module path."""
    folder = make_cifar(tmp_path)
    data = bytes(range(256)) * 12
    # what Python 2 with numpy 1 wrote for {'data': array(1 × 3072), 'labels': [7]}, opcode by opcode
    stream = (
        b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x01M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
        b"K\x00tb\x89T" + len(data).to_bytes(4, "little") + data + b"tbU\x06labels]K\x07au."
    )
    (folder / "data_batch_1").write_bytes(stream)
    dataset = registry.get("cifar10")
    raw = dataset.read(dataset.Params(root=str(tmp_path), num_query=1, num_train=3))
    assert raw.images is not None
    assert raw.images[0, 0, :3, 0].tolist() == [0, 1, 2]
    assert raw.labels[0].argmax() == 7


class Hostile:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch ssdh-was-here",)


@pytest.mark.parametrize("victim", ["test_batch", "batches.meta"])
def test_hostile_pickle_runs_nothing(tmp_path: Path, victim: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = make_cifar(tmp_path)
    (folder / victim).write_bytes(pickle.dumps({"data": Hostile(), "label_names": Hostile()}))
    dataset = registry.get("cifar10")
    with pytest.raises(DataError, match=rf"{victim} .*(posix|nt)\.system"):
        dataset.read(dataset.Params(root=str(tmp_path), num_query=1, num_train=3))
    assert not (tmp_path / "ssdh-was-here").exists()


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def _holding(data: Any, labels: list[int]) -> Any:
    return lambda path: path.write_bytes(pickle.dumps({"data": data, "labels": labels}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_cut, "not a whole CIFAR-10 file"),
        (lambda path: path.write_bytes(b""), "not a whole CIFAR-10 file"),
        (lambda path: path.write_bytes(pickle.dumps([1, 2])), "must hold a mapping"),
        (lambda path: path.write_bytes(pickle.dumps({"data": "x", "labels": []})), "rows of 3072 bytes"),
        (
            lambda path: path.write_bytes(pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [1]})),
            "do not fit",
        ),
        (
            lambda path: path.write_bytes(pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [10]})),
            "do not",
        ),
    ],
)
def test_broken_cifar_file_is_named(tmp_path: Path, damage: Any, message: str) -> None:
    damage(make_cifar(tmp_path) / "data_batch_3")
    dataset = registry.get("cifar10")
    with pytest.raises(DataError, match=rf"data_batch_3 .*{message}"):
        dataset.read(dataset.Params(root=str(tmp_path), num_query=1, num_train=3))


def test_missing_cifar_gives_one_line(tmp_path: Path) -> None:
    dataset = registry.get("cifar10")
    (make_cifar(tmp_path) / "data_batch_2").unlink()
    with pytest.raises(DataError, match=r"data_batch_2 not found .*datasets\.cifar10\.data\.root"):
        dataset.ensure(dataset.Params(root=str(tmp_path), num_query=10, num_train=50))
    with pytest.raises(DataError, match=r"SSDH_OFFLINE=1 .*cifar-10-python\.tar\.gz.*c58f30108f718f92721af3b95e74349a"):
        dataset.ensure(dataset.Params(num_query=10, num_train=50))


def test_official_cifar_layout_of_real_images(shared: Path, tmp_path: Path) -> None:
    """One real class from the archive of JPEGs, in the layout that the real files have."""
    import io
    import tarfile

    from PIL import Image

    folder = make_cifar(tmp_path)
    with tarfile.open(shared / "cifar10-jpeg.tar") as archive:
        member = archive.getmember("test/airplane/0000.jpg")
        stored = archive.extractfile(member)
        assert stored is not None
        pixels = np.asarray(Image.open(io.BytesIO(stored.read())).convert("RGB"))
    batch = {"data": pixels.transpose(2, 0, 1).reshape(1, -1), "labels": [0]}
    (folder / "test_batch").write_bytes(pickle.dumps(batch, protocol=2))
    dataset = registry.get("cifar10")
    raw = dataset.read(dataset.Params(root=str(tmp_path), num_query=1, num_train=3))
    assert raw.images is not None
    np.testing.assert_array_equal(raw.images[-1], pixels)


def make_fashion(folder: Path, train: int = 30, test: int = 10) -> None:
    """Four small IDX files; pixel values tell the image's number."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", train), ("t10k", test)):
        images = np.repeat(np.arange(count, dtype=np.uint8), 784)
        header = bytes((0, 0, 8, 3)) + np.array([count, 28, 28], ">u4").tobytes()
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + images.tobytes()))
        labels = (np.arange(count) % 10).astype(np.uint8)
        header = bytes((0, 0, 8, 1)) + np.array([count], ">u4").tobytes()
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(header + labels.tobytes()))


def test_fashion_layout_is_read_in_order(tmp_path: Path) -> None:
    make_fashion(tmp_path)
    dataset = registry.get("fashion_mnist")
    params = dataset.Params(root=str(tmp_path), num_query=10, num_train=10)
    dataset.ensure(params)
    raw = dataset.read(params)
    assert raw.images is not None
    assert raw.images.shape == (40, 28, 28, 3)
    assert raw.images[:, 3, 4, 1].tolist() == [*range(30), *range(10)]
    assert raw.labels.argmax(axis=1).tolist() == [i % 10 for i in (*range(30), *range(10))]
    assert (raw.names[0], raw.names[30]) == ("train/00000", "t10k/00000")


def test_real_fashion_mnist_of_debian() -> None:
    if not fashion_mnist.DEBIAN_FOLDER.is_dir():
        pytest.skip("needs Debian's package dataset-fashion-mnist, which CI installs")
    dataset = registry.get("fashion_mnist")
    params = dataset.Params(num_query=1000, num_train=5000)
    assert dataset.find(params).where == fashion_mnist.DEBIAN_FOLDER  # found without a root
    dataset.ensure(params)
    raw = dataset.read(params)
    assert raw.images is not None
    assert raw.images.shape == (70_000, 28, 28, 3)
    assert raw.labels.sum(axis=0).tolist() == [7000] * 10
    assert 285 < raw.images.astype(np.float32)[:60_000, ..., 0].mean() * 1000 / 255 < 287.5  # 0.2860, as published


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no gzip", "not a whole gzip file"),
        (gzip.compress(b"abc" * 9), "not an IDX file"),
        (gzip.compress(bytes((0, 0, 8, 3)) + np.array([2, 28, 28], ">u4").tobytes() + bytes(100)), "holds 100 bytes"),
    ],
    ids=["no gzip", "no IDX", "cut"],  # the bytes hold the time they were made
)
def test_broken_fashion_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    make_fashion(tmp_path)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(content)
    dataset = registry.get("fashion_mnist")
    with pytest.raises(DataError, match=f"train-images-idx3-ubyte.gz .*{message}"):
        dataset.read(dataset.Params(root=str(tmp_path), num_query=1, num_train=3))


def test_missing_fashion_gives_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "none")
    dataset = registry.get("fashion_mnist")
    with pytest.raises(
        DataError, match=r"SSDH_OFFLINE=1 .*train-images-idx3-ubyte\.gz.*8d4fb7e6c68d591d4c3dfef9ec88bf0d"
    ):
        dataset.ensure(dataset.Params(num_query=1, num_train=3))
    with pytest.raises(DataError, match=r"not found in .*datasets\.fashion_mnist\.data\.root"):
        dataset.ensure(dataset.Params(root=str(tmp_path), num_query=1, num_train=3))


def test_unknown_set_and_bad_parameters() -> None:
    with pytest.raises(ParameterError, match=r"cifar10, cifar10_i, cifar10_ii, coco, digits, .*fashion_mnist"):
        registry.get("imagenet")
    for name, block, message in (
        ("digits", {"num_query": 0, "num_train": 5}, "num_query"),
        ("digits", {"num_query": 5, "num_train": 5, "root": "/x"}, "root"),
        *((name, {"num_query": 5, "num_train": 2}, "num_train") for name in ("digits", "cifar10", "fashion_mnist")),
        *((name, {"num_query": 5, "num_train": 2}, "num_train") for name in ("flickr25k", "nus_wide_10")),
        ("cifar10", {"num_query": "100", "num_train": 5}, "num_query"),
        ("cifar10", {"num_query": 5}, "num_train"),
        ("folder", {"root": None}, "root"),
        ("folder", {"root": "x", "on_bad_image": "ignore"}, "on_bad_image"),
        ("flickr25k", {"num_query": 5, "num_train": 5, "labels": 25}, "labels"),
        ("nus_wide_10", {"num_train": 5, "missing": True}, "missing"),
        ("nus_wide_21", {"num_train": 5, "size": 3}, "size"),
    ):
        with pytest.raises(ParameterError, match=rf"datasets\.{name}\.data\.{message}"):
            validate(registry.get(name).Params, block, f"datasets.{name}.data")


def test_more_images_than_there_are_is_said_before_anything_is_removed() -> None:
    for name, most in (("digits", 1797), ("cifar10", 60_000), ("fashion_mnist", 70_000)):
        dataset = registry.get(name)
        with pytest.raises(ParameterError, match=rf"{name}.data.num_train asks for .* of {most:,}"):
            dataset.ensure(dataset.Params(num_query=100, num_train=most))

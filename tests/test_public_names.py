"""`from ssdh import …`: the names that other programs rely on, imported when they are used."""

import importlib
import inspect
import operator
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

import ssdh
from ssdh.core.errors import DataError


def test_public_names_have_the_promised_signatures() -> None:
    signatures = {
        "Index": "packed, *, bits, names=None, ",
        "fit_structure": "features, *, alpha, beta, bins",
        "load_hashnet": "path",
        "mean_average_precision": "query_codes, database_codes, query_labels, database_labels, topk=None, "
        "ties='expected'",
        "pack": "codes",
        "pseudo_labels": "features, structure, out=None",
        "unpack": "packed, bits",
    }
    signatures |= {
        "Collection.add": "self, features, names=None",
        "Collection.add_photos": "self, photos, exclude=()",
        "Collection.search_photos": "self, photos, top=10, radius=None, *, rerank=0",
        "Collection.create": "folder, model, *, features='float16'",
        "Collection.names": "self, ids",
        "Collection.open": "folder",
        "Collection.remove": "self, wanted",
        "Collection.search": "self, features, top=10, radius=None, *, rerank=0",
    }
    for name, expected in signatures.items():
        signature = inspect.signature(operator.attrgetter(name)(ssdh))
        parameters = [
            parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()
        ]
        bare = str(inspect.Signature(parameters))
        assert bare.removeprefix("(").startswith(expected), name


def test_every_public_name_exists_and_is_listed() -> None:
    for name in ssdh.__all__:
        assert getattr(ssdh, name) is not None
        assert name in dir(ssdh)
    with pytest.raises(AttributeError, match="'ssdh' has no attribute 'no_such_name'"):
        getattr(ssdh, "no_such_name")  # noqa: B009
    with pytest.raises(ImportError, match="no_such_name"):
        exec("from ssdh import no_such_name")


def test_public_names_work_together() -> None:
    rng = np.random.default_rng(0)
    codes = np.where(rng.standard_normal((40, 16)) >= 0, 1, -1)
    packed = ssdh.pack(codes)
    np.testing.assert_array_equal(ssdh.unpack(packed, 16), codes)
    distances, rows = ssdh.Index(packed, bits=16).search(packed[:1], top=1)
    assert (distances[0, 0], rows[0, 0]) == (0, 0)
    # hand arithmetic: relevant items at distances 0 and 2, one other between them: (1/1 + 2/3) / 2
    bits = [[1, 1], [1, -1], [-1, -1]]
    labels = [[1, 0], [0, 1], [1, 0]]
    assert ssdh.mean_average_precision(bits[:1], bits, labels[:1], labels) == pytest.approx((1 + 2 / 3) / 2)
    structure = ssdh.fit_structure(rng.standard_normal((40, 8)), alpha=1.0, beta=1.0, bins=10)
    assert isinstance(structure, ssdh.Structure)


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "trained"])
def test_a_tensor_is_its_values(kind: str) -> None:
    import torch

    rng = np.random.default_rng(0)
    tensor = torch.from_numpy(rng.standard_normal((60, 8)).astype(np.float32))
    X = tensor.requires_grad_() if kind == "trained" else tensor.to(getattr(torch, kind))
    codes, labels = torch.sign(X), (X[:, :3] > 0).to(X.dtype)  # what a network's outputs and weights are
    x, b, c = (one.detach().float().numpy() for one in (X, codes, labels))
    fits = [ssdh.fit_structure(features, alpha=1.0, beta=1.0, bins=10) for features in (X, x)]
    assert fits[0] == fits[1]
    np.testing.assert_array_equal(ssdh.pseudo_labels(X, fits[0]), ssdh.pseudo_labels(x, fits[0]))
    np.testing.assert_array_equal(packed := ssdh.pack(codes), ssdh.pack(b))
    np.testing.assert_array_equal(ssdh.unpack(torch.from_numpy(packed), 8), b)
    assert ssdh.mean_average_precision(codes[:5], codes, labels[:5], labels) == ssdh.mean_average_precision(
        b[:5], b, c[:5], c
    )
    index = ssdh.Index(packed, bits=8, features=X)
    for how in ({"rerank": 5, "query_features": X[:3]}, {"query_outputs": X[:3]}):
        own = {name: x[:3] if name.startswith("query") else value for name, value in how.items()}
        expected = ssdh.Index(packed, bits=8, features=x).search(packed[:3], **own)
        np.testing.assert_array_equal(index.search(packed[:3], **how).rows, expected.rows)
    with_views = [ssdh.Hasher(bits=8, epochs=1).fit(f, views=v) for f, v in ((X, torch.stack([X, X])), (x, [x, x]))]
    np.testing.assert_array_equal(with_views[0].transform(x), with_views[1].transform(x))


def test_small_integers_of_numpy_do_not_overflow() -> None:
    rng = np.random.default_rng(0)
    codes = np.where(rng.standard_normal((9, 250)) >= 0, 1, -1)
    np.testing.assert_array_equal(ssdh.unpack(ssdh.pack(codes), np.uint8(250)), codes)  # type: ignore[arg-type]
    X = rng.standard_normal((40, 8))
    fits = [ssdh.fit_structure(X, alpha=1.0, beta=1.0, bins=bins) for bins in (np.uint8(255), 255)]
    assert fits[0] == fits[1]
    for ties in ("expected", "stable"):
        results = [
            ssdh.mean_average_precision(codes[:3], codes, codes[:3] > 0, codes > 0, topk, ties)
            for topk in (np.uint8(5), 5)
        ]
        assert results[0] == results[1]


def test_a_missing_model_is_one_line_whether_its_path_is_a_text_or_not(tmp_path: Path) -> None:
    for path in (tmp_path / "none.safetensors", str(tmp_path / "none.safetensors")):
        with pytest.raises(DataError, match=r"none.safetensors does not exist"):
            ssdh.load_hashnet(path)


def test_importing_the_package_imports_nothing_else() -> None:
    code = "import sys, ssdh; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "ssdh" in done.stdout.split()
    assert not set(done.stdout.split()) & {"numpy", "torch", "faiss", "pandas", "dvc", "pydantic", "loguru"}


def test_the_version_is_one_line_that_the_package_is_built_with(project: Path) -> None:
    settings = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    assert settings["project"]["dynamic"] == ["version"]
    assert settings["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "ssdh.__version__"}
    assert importlib.import_module("ssdh").__version__.count(".") == 2

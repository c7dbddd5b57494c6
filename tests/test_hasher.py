"""The estimator: scikit-learn's conventions, the pipeline's bits, files, and mistakes."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from ssdh import Hasher, load_hashnet, unpack
from ssdh.core.errors import DataError, ParameterError

# scikit-learn's checks that do not hold here, and why
EXPECTED_FAILURES = {
    "check_parameters_default_constructible": "recipe values are given by name, so the constructor takes **values",
    "check_do_not_raise_errors_in_init_or_set_param": "the same: values are kept in one mapping",
    "check_no_attributes_set_in_init": "the same: values are kept in one mapping",
    "check_fit2d_1sample": "one row has no distances",
    "check_fit2d_1feature": "cosines of one value are all 1 or −1: there is no structure, which is said",
    "check_methods_subset_invariance": "matrix products of other sizes differ in the last digit of the outputs",
    "check_methods_sample_order_invariance": "the same",
}


def clusters(n: int = 400, dim: int = 24, count: int = 10, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Features (n, dim) of groups that touch each other, and the group of each row."""
    random = np.random.default_rng(seed)
    group = np.arange(n) % count
    centres = random.standard_normal((count, dim))
    return (centres[group] + random.standard_normal((n, dim))).astype(np.float32), group


@pytest.fixture(scope="module")
def fitted() -> Hasher:
    return Hasher(bits=20, epochs=100).fit(clusters(600)[0])


def test_codes_of_groups_agree_within_and_differ_between(fitted: Hasher) -> None:
    X, group = clusters()
    codes = unpack(fitted.transform(X), 20).astype(int)
    agreement = codes @ codes.T / 20
    same = group[:, None] == group
    assert agreement[same].mean() > 0.6
    assert agreement[~same].mean() < 0.2


def test_outputs_have_the_signs_of_the_codes(fitted: Hasher) -> None:
    X, _ = clusters()
    outputs = fitted.decision_function(X)
    assert outputs.shape == (400, 20)
    assert outputs.dtype == np.float32
    np.testing.assert_array_equal(unpack(fitted.transform(X), 20) > 0, outputs >= 0)


def test_scikit_learns_checks_hold() -> None:
    hasher = Hasher(bits=8, epochs=2, neighbors=10, rank=16)
    results = check_estimator(hasher, on_fail=None, expected_failed_checks=EXPECTED_FAILURES)
    failed = {result["check_name"]: result["exception"] for result in results if result["status"] == "failed"}
    assert failed == {}


def test_get_set_and_clone_keep_the_recipes_values() -> None:
    hasher = Hasher(bits=16, recipe="published", epochs=3, alpha=1.5)
    assert clone(hasher).get_params() == hasher.get_params()
    assert hasher.set_params(epochs=4, bits=8).get_params() | {"epochs": 4, "bits": 8} == hasher.get_params()


def test_it_works_in_a_pipeline_of_scikit_learn() -> None:
    X, _ = clusters()
    assert make_pipeline(StandardScaler(), Hasher(bits=12, epochs=1)).fit_transform(X).shape == (400, 2)


@pytest.mark.parametrize("kind", ["float64", "float16", "fortran", "big-endian", "memmap", "tensor", "list"])
def test_any_array_of_the_same_values_gives_the_same_codes(kind: str, fitted: Hasher, tmp_path: Path) -> None:
    import torch

    X = clusters()[0].astype(np.float16).astype(np.float32)
    np.save(tmp_path / "x.npy", X)
    given: dict[str, Any] = {
        "float64": X.astype(np.float64),
        "float16": X.astype(np.float16),
        "fortran": np.asfortranarray(X),
        "big-endian": X.astype(">f4"),
        "memmap": np.load(tmp_path / "x.npy", mmap_mode="r"),
        "tensor": torch.from_numpy(X),
        "list": X.tolist(),
    }
    np.testing.assert_array_equal(fitted.transform(given[kind]), fitted.transform(X))


def test_a_bfloat16_tensor_is_its_values(fitted: Hasher) -> None:
    import torch

    X = torch.from_numpy(clusters()[0]).bfloat16()
    np.testing.assert_array_equal(fitted.transform(X), fitted.transform(X.float().numpy()))
    assert (Hasher(bits=8, epochs=1).fit(X).transform(X) == Hasher(bits=8, epochs=1).fit(X.float()).transform(X)).all()


def test_it_trains_on_a_seeded_sample_and_encodes_all() -> None:
    X, _ = clusters(1000)
    one, same, other = (Hasher(bits=16, epochs=2, num_train=200, seed=seed).fit(X) for seed in (0, 0, 1))
    assert one.structure_.num_pairs == 200 * 199 // 2
    np.testing.assert_array_equal(one.transform(X), same.transform(X))
    assert (one.decision_function(X) != other.decision_function(X)).any()


def test_numbers_of_numpy_are_numbers(fitted: Hasher, tmp_path: Path) -> None:
    X, _ = clusters(600)
    hasher = Hasher(bits=np.int64(20), seed=np.int32(0), num_train=np.int64(5000), epochs=np.int64(100)).fit(X)
    np.testing.assert_array_equal(hasher.transform(X), fitted.transform(X))
    assert hasher.score(X) == fitted.score(X)
    hasher.save(tmp_path / "h.safetensors")
    assert Hasher.load(tmp_path / "h.safetensors").get_params() == fitted.get_params()


def test_the_bytes_of_codes_have_names(fitted: Hasher) -> None:
    assert fitted.get_feature_names_out().tolist() == ["hasher0", "hasher1", "hasher2"]
    X, _ = clusters()
    table = clone(fitted).set_params(epochs=1).set_output(transform="pandas").fit_transform(X)
    assert list(table) == ["hasher0", "hasher1", "hasher2"]
    assert set(table.dtypes) == {np.dtype(np.uint8)}


def test_no_epochs_keep_a_given_model(fitted: Hasher, tmp_path: Path) -> None:
    X, _ = clusters()
    fitted.save(tmp_path / "h.safetensors")
    kept = Hasher(bits=20, epochs=0, init_file=str(tmp_path / "h.safetensors")).fit(X)
    np.testing.assert_array_equal(kept.transform(X), fitted.transform(X))
    assert kept.losses_.shape == (0,)


@pytest.mark.parametrize("shape", [(400, 24), (2, 5, 24), (2, 400, 3)])
def test_views_of_other_rows_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"views must have the shape \(V, 400, 24\)"):
        Hasher(bits=8, recipe="cibhash", epochs=1).fit(clusters()[0], views=np.ones(shape))


def test_a_saved_hasher_gives_the_same_codes(fitted: Hasher, tmp_path: Path) -> None:
    X, _ = clusters()
    path = tmp_path / "hasher.safetensors"
    fitted.save(path)
    loaded = Hasher.load(path)
    np.testing.assert_array_equal(loaded.transform(X), fitted.transform(X))
    assert loaded.get_params() == fitted.get_params()
    assert load_hashnet(path).bits == 20


def test_the_score_is_one_where_codes_keep_all_neighbours() -> None:
    """Eleven equal rows a group, each group on its own axis: the ten nearest of a row are the rest of its group."""
    X = np.repeat(np.eye(8, dtype=np.float32), 60, axis=0)
    hasher = Hasher(bits=32, epochs=60, num_train=None, space="feature").fit(X + 1e-3 * clusters(480, 8)[0])
    assert 0.1 < hasher.score(X) <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bits": 0}, "bits must be greater than or equal to 1, got 0"),
        ({"recipe": "best"}, "recipe must be one of"),
        ({"epochz": 3}, "epochz is no value of a recipe; known are alpha, batch_size"),
        ({"epochs": "many"}, "epochs must be a valid integer, got 'many'"),
        ({"num_train": 1}, "num_train must be greater than or equal to 2, got 1"),
        ({"num_train": "all"}, "num_train must be a valid integer, got 'all'"),
        ({"device": "cuda:99"}, "cuda"),
        ({"finetune": True}, "finetune trains a whole network"),
        ({"recipe": "cibhash"}, r"2 or more random crops of each image, here are 0: give them as fit\(X, views=…\)"),
        ({"epochs": 0}, r"epochs 0 keeps a trained model, but train.init_file names none: .*\(Hasher: train.init_file"),
        ({"nested": [4, 8]}, r"nested must hold lengths below bits \(8\), got 8: .*\(Hasher: train.nested\)"),
    ],
)
def test_a_mistake_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        Hasher(**({"bits": 8, "epochs": 1} | arguments)).fit(clusters()[0])


def test_what_is_no_feature_matrix_is_refused(fitted: Hasher) -> None:
    X, _ = clusters()
    bad = X.copy()
    bad[3, 2] = np.nan
    for wrong in (X[0], X[None], X[:, :5], bad, np.full((3, 24), "x")):
        with pytest.raises(ValueError, match=r"."):
            fitted.transform(wrong)
    with pytest.raises(NotFittedError):
        Hasher().transform(X)
    with pytest.raises(DataError, match="does not exist"):
        Hasher.load("none.safetensors")


def test_it_needs_no_params_file_and_says_nothing(tmp_path: Path) -> None:
    code = (
        "import numpy as np; from ssdh import Hasher; X = np.random.default_rng(0).standard_normal((60, 8));"
        "print(Hasher(bits=8, epochs=1).fit(X).transform(X).shape)"
    )
    project = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(project)}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert done.stdout == "(60, 1)\n"
    assert done.stderr == ""

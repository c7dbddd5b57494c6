"""What lets the pipeline grow: the same codes without the n×n file, and memory that does not grow with n²."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.common import peak_mib
from ssdh.structure.distances import PairDistances
from ssdh.structure.fit import fit_pairs
from ssdh.structure.pseudo_labels import PairLabels
from ssdh.structure.thresholds import Structure
from ssdh.training.head import train_head
from ssdh.training.loop import Run
from ssdh.training.method import load_method
from tests.helpers.memory import on_two_cores
from tests.helpers.tiny import copy_tiny, run_stage, tiny_params, write_params, write_tiny
from tests.training.test_loop import train_params

pytestmark = pytest.mark.long

FILES = ("models/codes.npy", "models/hashnet.safetensors", "metrics/train.csv", "metrics/validation.csv")


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_tiny(tmp_path_factory.mktemp("scale") / "tiny", tiny_params())
    run_stage(folder, "extract")
    return folder


@pytest.mark.parametrize("recipe", ["centred", "manifold", "soft"])
def test_codes_are_the_same_bits_without_the_matrix(extracted: Path, tmp_path: Path, recipe: str) -> None:
    """Above `structure.max_matrix_gib` nothing of n×n is written, and no byte of what follows changes."""
    written: dict[float, dict[str, bytes]] = {}
    for limit in (4.0, 0.0):
        folder = copy_tiny(extracted, tmp_path / str(limit))
        params = tiny_params()
        params["recipe"] = recipe
        params["structure"] |= {"max_matrix_gib": limit, "rank": 16, "neighbors": 8}
        write_params(folder, params)
        run_stage(folder, "structure", "train", "encode")
        train = int(np.load(folder / "features/structure.npz")["rows"].size)
        assert np.load(folder / "features/pseudo_labels.npy").shape == ((train, train) if limit else (0, 0))
        written[limit] = {name: (folder / name).read_bytes() for name in FILES}
    assert written[4.0] == written[0.0]
    assert set(np.unique(np.load(tmp_path / "4.0/features/pseudo_labels.npy"))) == {-1, 0, 1}
    if recipe != "centred":  # on these features its codes collapse; the weights in the model's file do not
        assert len(np.unique(np.load(tmp_path / "0.0/models/codes.npy"), axis=0)) > 3


def _features(n: int, dim: int) -> np.ndarray:
    on_two_cores()
    torch.set_num_threads(2)
    small = np.ones((300, 300), np.float32)
    torch.from_numpy(small @ small).sum()  # workspaces of both libraries
    return np.random.default_rng(0).standard_normal((n, dim), dtype=np.float32)


def _train(placeholder: Path, features: np.ndarray) -> Any:
    labels = PairLabels(features, Structure(1.0, 0.1, 0.1, 0.8, 1.2, 1, 0.0, 0.0))
    params = train_params(placeholder, epochs=1, batch_size=256)
    return train_head(features, labels, Run(load_method("published")(params), 16, 0))


def _fit(features: np.ndarray) -> Any:
    return fit_pairs(PairDistances(features).sample(10**6, 0), alpha=2.0, beta=2.0, bins=500)


def test_training_without_the_matrix_needs_no_memory_of_n_squared(tmp_path: Path) -> None:
    """40,000 images: the matrix would take 1526 MiB; features are 5 MiB, centred and as unit vectors two times more."""
    used = peak_mib(partial(_features, 40_000, 32), partial(_train, tmp_path / "none"))
    assert used < 120


def test_a_sampled_fit_needs_the_vectors_and_one_tile() -> None:
    """60,000 images have 1.8·10⁹ distances (6866 MiB); a million of them and the unit vectors (7 MiB) are held."""
    assert peak_mib(partial(_features, 60_000, 32), _fit) < 60

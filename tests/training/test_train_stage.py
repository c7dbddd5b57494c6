"""The train stage: its validation curve is all that labels reach, the same bytes again, collapse said loudly."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ssdh.core.files import write_array
from ssdh.core.split import read_split
from ssdh.training.collapse import collapse_statistics, warn_of_collapse
from ssdh.training.validation import draw_validation
from tests.helpers.tiny import OUTS, copy_tiny, results, run_stage, tiny_params, write_params, write_tiny


def test_validation_queries_are_neither_train_nor_test() -> None:
    from ssdh.core.split import Split

    order = np.random.default_rng(0).permutation(1000)
    split = Split(query=order[:100], train=order[100:400], database=order[100:])
    queries, database = draw_validation(split, 3)
    assert len(queries) == 60
    assert not set(queries) & (set(split.train) | set(split.query) | set(database))
    assert set(queries) | set(database) == set(split.database)
    again, _ = draw_validation(split, 3)
    assert np.array_equal(queries, again)
    assert not np.array_equal(queries, draw_validation(split, 4)[0])
    everything = Split(query=order[:100], train=order[100:], database=order[100:])
    assert [len(rows) for rows in draw_validation(everything, 3)] == [0, 0]


def test_collapse_is_said_loudly(capsys: pytest.CaptureFixture[str]) -> None:
    from ssdh.core.stage import configure_logging

    configure_logging()
    outputs = np.random.default_rng(0).normal(size=(1000, 16))
    warn_of_collapse(collapse_statistics(outputs), 1000, 16, "lower train.lr")
    assert capsys.readouterr().err == ""
    outputs[:, 3] = 0.5
    assert collapse_statistics(outputs)["constant_bits"] == 1
    warn_of_collapse(collapse_statistics(outputs), 1000, 16, "lower train.lr")
    assert "COLLAPSED CODES: 1 of 16 bits are the same for every train image" in capsys.readouterr().err
    few = np.where(np.arange(1000)[:, None] % 5 == np.arange(16) % 5, 1.0, -1.0)
    assert collapse_statistics(few) == {"constant_bits": 0, "unique_codes": 5}
    warn_of_collapse(collapse_statistics(few), 1000, 16, "lower train.lr")
    assert "1000 images have 5 different codes; lower train.lr" in capsys.readouterr().err


# --- stages ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny workspace with features and structure."""
    folder = write_tiny(tmp_path_factory.mktemp("tiny"), tiny_params())
    run_stage(folder, "extract", "structure")
    return folder


def test_two_runs_give_the_same_bytes_and_labels_change_only_the_validation_curve(workspace: Path) -> None:
    write_params(workspace, tiny_params())
    run_stage(workspace, "train", "encode")
    first = results(workspace)
    assert set(OUTS) < set(first)
    assert first["metrics/validation.csv"].count(b"\n") == 3  # the header; 9 steps, one point every 4
    for name in OUTS:
        (workspace / name).unlink()
    labels = np.load(workspace / "data/labels.npy")
    run_stage(workspace, "train", "encode")
    assert results(workspace) == first
    for name in OUTS:
        (workspace / name).unlink()
    np.save(workspace / "data/labels.npy", np.roll(labels, 1, axis=0))
    run_stage(workspace, "train", "encode")
    shuffled = results(workspace)
    np.save(workspace / "data/labels.npy", labels)
    assert shuffled.pop("metrics/validation.csv") != first.pop("metrics/validation.csv")
    assert shuffled == first


@pytest.mark.parametrize(
    ("recipe", "train"),
    [("manifold_views", {}), ("manifold", {"nested": [4]}), ("manifold", {"neighbor_weight": 0.5})],
    ids=["views", "nested", "neighbors"],
)
def test_labels_reach_neither_views_nor_nested_codes_nor_neighbours(
    workspace: Path, tmp_path: Path, recipe: str, train: dict[str, Any]
) -> None:
    folder = copy_tiny(workspace, tmp_path / "run")
    write_params(folder, tiny_params(eval_interval=1, **train) | {"recipe": recipe})
    of_train = np.load(folder / "features/features.npy")[read_split(folder / "data/split").train]
    noise = np.random.default_rng(0).standard_normal((2, *of_train.shape))
    write_array(folder / "features/views.npy", (of_train + 0.1 * of_train.std() * noise).astype(np.float16))
    outs = ("features/pseudo_labels.npy", "features/structure.npz", "models/hashnet.safetensors", "models/codes.npy")

    def made() -> tuple[list[bytes], bytes]:
        for out in (*outs, "metrics/validation.csv"):
            (folder / out).unlink(missing_ok=True)
        run_stage(folder, "structure", "train", "encode")
        return [(folder / out).read_bytes() for out in outs], (folder / "metrics/validation.csv").read_bytes()

    files, curve = made()
    labels = np.load(folder / "data/labels.npy")
    np.save(folder / "data/labels.npy", np.random.default_rng(0).permutation(labels))
    shuffled, other_curve = made()
    assert shuffled == files
    assert other_curve != curve


def test_without_labels_or_interval_the_curve_is_its_header(workspace: Path) -> None:
    write_params(workspace, tiny_params(eval_interval=0, epochs=1))
    run_stage(workspace, "train")
    assert (workspace / "metrics/validation.csv").read_text() == "iteration,map\n"
    labels = np.load(workspace / "data/labels.npy")
    np.save(workspace / "data/labels.npy", labels[:, :0])
    write_params(workspace, tiny_params(epochs=1))
    run_stage(workspace, "train")
    np.save(workspace / "data/labels.npy", labels)
    assert (workspace / "metrics/validation.csv").read_text() == "iteration,map\n"


def test_codes_are_the_signs_of_the_saved_model(workspace: Path) -> None:
    from ssdh.hashing.codes import pack, sign_codes
    from ssdh.hashing.model_file import load_hashnet, read_metadata

    write_params(workspace, tiny_params())
    run_stage(workspace, "train", "encode")
    model = load_hashnet(workspace / "models/hashnet.safetensors")
    outputs = model(torch.from_numpy(np.load(workspace / "features/features.npy"))).detach().numpy()
    clear = (np.abs(outputs) > 1e-6).all(axis=1)
    assert clear.mean() > 0.9
    codes = np.load(workspace / "models/codes.npy")
    assert codes.dtype == np.uint8
    assert np.array_equal(codes[clear], pack(sign_codes(outputs))[clear])
    metadata = read_metadata(workspace / "models/hashnet.safetensors")
    assert metadata["bits"] == 12
    assert metadata["arch"] == "mobilenet_v3_small"
    assert metadata["train"]["epochs"] == 3
    assert metadata["device"] == "cpu"
    assert isinstance(model.hash, nn.Linear)

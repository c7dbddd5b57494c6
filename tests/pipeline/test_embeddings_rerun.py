"""Embeddings through DVC itself: what a changed file, labels beside it, and parameters that do not apply run again."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.clone import Clone, make_clone
from tests.pipeline.test_embeddings import clusters

pytestmark = pytest.mark.long

LATER = ["structure", "train", "encode", "evaluate", "baselines", "report"]


@pytest.fixture(scope="module")
def clone(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone whose data set is a .npy outside of it, run once."""
    folder = tmp_path_factory.mktemp("embeddings")
    np.save(folder / "a.npy", clusters()[0])
    clone = make_clone(project, folder / "clone")
    clone.set_all({"dataset": "embeddings", "datasets.embeddings.data.features": str(folder / "a.npy"), "bits": "12"})
    ran = clone.repro()
    assert ran[:3] == ["check", "prepare", "extract"]
    assert set(LATER) <= set(ran)
    clone.commit("first")
    return clone


def test_nothing_runs_twice_and_nothing_lies_there_twice(clone: Clone) -> None:
    assert clone.repro() == []
    assert [path.name for path in (clone.folder / "data/images").iterdir()] == ["manifest.csv"]


def test_labels_run_what_reads_them(clone: Clone) -> None:
    np.savetxt(clone.folder.parent / "labels.txt", clusters()[1], fmt="%d")
    clone.set_all({"datasets.embeddings.data.labels": str(clone.folder.parent / "labels.txt")})
    ran = clone.repro()
    assert {"check", "prepare", "evaluate", "baselines", "report"} <= set(ran)
    assert not {"extract", "views", "structure", "encode"} & set(ran)
    assert json.loads((clone.folder / "metrics/metrics.json").read_text(encoding="utf-8"))["map"] > 0.5


def test_the_backbone_changes_nothing(clone: Clone) -> None:
    """DVC runs again what names `backbone`; what it writes is the same, so that nothing after it runs."""
    written = ("features/features.npy", "models/hashnet.safetensors", "models/codes.npy")
    before = {name: (clone.folder / name).read_bytes() for name in written}
    clone.set_all({"backbone.arch": "alexnet", "backbone.precision": "bf16"})
    assert not {"prepare", "structure", "encode", "evaluate", "baselines"} & set(clone.repro())
    assert {name: (clone.folder / name).read_bytes() for name in written} == before


def test_a_changed_row_runs_everything_after_it(clone: Clone) -> None:
    rows = clusters()[0]
    rows[3] = -rows[3]
    np.save(clone.folder.parent / "a.npy", rows)
    ran = clone.repro()
    assert ran[:3] == ["check", "prepare", "extract"]
    assert "encode" in ran
    np.testing.assert_array_equal(np.load(clone.folder / "features/features.npy"), rows)


def test_a_mistake_leaves_earlier_results(clone: Clone) -> None:
    codes = (clone.folder / "models/codes.npy").read_bytes()
    rows = clusters()[0]
    rows[5, 0] = np.nan
    np.save(clone.folder.parent / "a.npy", rows)
    done = clone.dvc("repro", check=False)
    assert done.returncode != 0
    assert "a row holds NaN or infinity (5)" in done.stderr
    assert (clone.folder / "models/codes.npy").read_bytes() == codes
    clone.set_all({"datasets.embeddings.data.on_bad_row": "skip"})
    clone.repro("encode")
    assert np.load(clone.folder / "models/codes.npy").shape == (399, 2)
    assert (clone.folder / "data/split/skipped.csv").read_text(encoding="utf-8").splitlines() == [
        "path,reason",
        "5,holds NaN or infinity",
    ]

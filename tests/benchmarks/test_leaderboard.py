"""The measurements behind the leaderboard against brute force, and the page against its rows."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_ind, ttest_rel

from benchmarks.leaderboard import best_rival, by_hamming, cost, interval, lead, page
from benchmarks.quality import Task, draw, load_views, merged, summarise
from benchmarks.quick_versions import section
from benchmarks.settings import runs_of, with_settings
from ssdh.core.errors import DataError
from ssdh.core.params import read_params
from ssdh.evaluation.baselines import registry
from ssdh.hashing.codes import pack
from ssdh.hashing.retrieval import mean_average_precision

BITS = 8


@pytest.fixture(scope="module")
def task() -> Task:
    rng = np.random.default_rng(0)
    classes = np.arange(300) % 3
    features = (rng.normal(size=(3, 6))[classes] + rng.normal(size=(300, 6))).astype(np.float32)
    labels = np.eye(3, dtype=np.uint8)[classes]
    return Task.of(features, labels, draw(labels, 30, 90, 0), 0, 50)


def codes_of(task: Task, seed: int = 0) -> np.ndarray:
    directions = np.random.default_rng(seed).normal(size=(6, BITS))
    return np.where(task.features @ directions >= 0, 1, -1)


def test_codes_are_measured_as_brute_force_does(task: Task) -> None:
    codes, q, d = codes_of(task), task.split.query, task.split.database
    result = task.codes(pack(codes), BITS)
    expected = mean_average_precision(codes[q], codes[d], task.labels[q], task.labels[d], 50)
    assert result.precisions.mean() == pytest.approx(expected)
    assert result.unique_codes == len(np.unique(codes[d], axis=0))
    unit = task.features / np.linalg.norm(task.features, axis=1, keepdims=True)
    near = np.argsort(-unit[q] @ unit[d].T, axis=1)[:, :10]
    shares = []
    for i, row in enumerate(q):
        distance = (codes[row] != codes[d]).sum(1)
        for j in near[i]:
            before, at = (distance < distance[j]).sum(), (distance == distance[j]).sum()
            shares.append(np.clip((10 - before) / at, 0, 1))
    assert result.neighbor_recall_at_10 == pytest.approx(np.mean(shares))


def test_scores_without_ties_are_measured_as_codes_are(task: Task) -> None:
    """Minus the Hamming distance as a score gives the same numbers."""
    codes, q, d = codes_of(task), task.split.query, task.split.database
    scores = (codes[q] @ codes[d].T).astype(np.float32)
    result = task.scores([(slice(0, 20), scores[:20]), (slice(20, 30), scores[20:])], None)
    expected = task.codes(pack(codes), BITS)
    np.testing.assert_allclose(result.precisions, expected.precisions)
    assert result.neighbor_recall_at_10 == pytest.approx(expected.neighbor_recall_at_10)
    assert result.recall_10_in_100 == pytest.approx(expected.recall_10_in_100)
    assert result.map_at_1000 == pytest.approx(expected.map_at_1000)


def test_rows_and_page(task: Task, tmp_path: Path) -> None:
    worse = np.where(np.random.default_rng(1).random((300, BITS)) < 0.5, 1, -1)
    seeds = {"default": [codes_of(task), codes_of(task, 1)], "sdc": [worse, -worse]}
    measured = {name: [task.codes(pack(codes), BITS) for codes in both] for name, both in seeds.items()}
    rows = summarise({(name, "chosen", BITS): both for name, both in measured.items()})
    assert rows[1]["maps"] == [result.precisions.mean() for result in measured["sdc"]]
    assert rows[1]["map_mean"] == pytest.approx(np.mean(rows[1]["maps"]))
    path = tmp_path / "leaderboard-mine.json"
    path.write_text(json.dumps(merged(path, rows)), encoding="utf-8")
    again = merged(path, [rows[1] | {"map_mean": 0.125}])
    assert [row["map_mean"] for row in again] == [rows[0]["map_mean"], 0.125]
    text = page([path])
    assert "## mine" in text
    assert f"### {BITS} bits" in text
    assert "The best method of others that gives bits is `sdc`" in text
    in_overview, in_table = [line for line in text.splitlines() if line.startswith("| `sdc`")]
    assert in_overview == f"| `sdc` | chosen | {rows[1]['map_mean']:.4f} ± {rows[1]['map_std']:.4f} |"
    assert f"{rows[0]['map_mean'] - rows[1]['map_mean']:+.4f} (" in in_table


def row_of(maps: list[float], **more: Any) -> dict[str, Any]:
    return {"map_mean": np.mean(maps), "map_std": np.std(maps, ddof=1), "seeds": len(maps), "maps": maps} | more


def test_the_lead_is_over_seeds() -> None:
    """Paired where each seed's value is kept; else wider where splits move both methods alike."""
    splits = np.array([0.0, 0.1, 0.2, 0.3])
    default, other = row_of([*(0.5 + splits)]), row_of([*(0.48 + splits + [0.001, -0.001, 0.001, -0.001])])
    low, high = interval(default, other)
    expected = ttest_rel(default["maps"], other["maps"]).confidence_interval()
    assert (low, high) == pytest.approx((expected.low, expected.high))
    assert lead(default, other).endswith("), more than noise")
    assert lead(other, default).endswith("), behind by more than noise")
    del other["maps"]
    expected = ttest_ind(default["maps"], 0.48 + splits + [0.001, -0.001, 0.001, -0.001], equal_var=False)
    assert interval(default, other) == pytest.approx(tuple(expected.confidence_interval()))
    assert lead(default, other).endswith("), within noise")
    assert lead(default, default) == lead(default, row_of([0.1, 0.2]) | {"seeds": 1}) == lead(None, other) == ""


def test_a_collapse_is_said_and_its_row_stays(task: Task, tmp_path: Path) -> None:
    constant = codes_of(task)
    constant[:, 2] = 1
    measured = {"default": codes_of(task), "sdc": constant, "bihalf": np.ones((300, BITS))}
    result = {(name, "chosen", BITS): [task.codes(pack(codes), BITS)] * 2 for name, codes in measured.items()}
    rows = summarise(result)
    assert {row["method"]: row["collapsed"] for row in rows} == {"default": 0, "sdc": 2, "bihalf": 2}
    path = tmp_path / "leaderboard-mine.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    lines = {line.split(" | ")[0]: line for line in page([path]).splitlines()}
    assert "| 1 **collapsed** (2 of 2 seeds) |" in lines["| `bihalf`"]
    assert "**collapsed** (2 of 2 seeds)" in lines["| `sdc`"]
    assert "**collapsed**" not in lines["| **SSDH, the default**"]


def test_the_best_of_others_is_one_of_hamming_codes() -> None:
    assert {name for name in registry.names() if not by_hamming(name)} == {"opq", "pca_rr_asymmetric", "pq", "rabitq"}
    values = {"default": [0.5, 0.5], "pq": [0.4, 0.4], "itq": [0.29, 0.31]}
    rows = [row_of(maps, method=name, bits=8) for name, maps in values.items()]
    assert best_rival(rows, 8) == (
        "The best method of others that gives bits is ITQ with 0.3000; the default has 0.5000: "
        "+0.2000 (+0.0729 to +0.3271), more than noise."
    )


def test_the_cost_is_that_of_each_method_once() -> None:
    """A recipe's chosen settings count, not its authors'."""
    rows = [("sdc", "chosen", 2.0), ("sdc", "authors", 50.0), ("itq", "authors", 1.5)]
    named = [{"method": method, "settings": settings, "seconds": seconds} for method, settings, seconds in rows]
    assert "all 2 methods together take 4 seconds" in cost(named)


def test_rivals_beside_quick_versions() -> None:
    """At 32 bits the quick GreedyHash is 0.098 behind, so 0.108 is the most."""
    rows = [{"method": "manifold", "settings": "chosen", "bits": 32, "map_mean": 0.47}]
    near = {"method": "greedyhash", "settings": "chosen", "bits": 32, "map_mean": 0.363}
    far = near | {"map_mean": 0.361}
    assert "| `greedyhash` | 32 | +0.107 | +0.098 | +0.009 | yes |" in section([*rows, near])
    assert "| `greedyhash` | 32 | +0.109 | +0.098 | +0.011 | no: " in section([*rows, far])
    assert section([*rows, near | {"settings": "authors"}]) == section([near]) == ""


def test_settings_of_authors_are_those_of_the_recipes_file(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    assert runs_of("sdc", ["chosen", "authors"]) == ["chosen", "authors"]
    assert runs_of("manifold", ["chosen", "authors"]) == ["chosen"]
    assert all(runs_of(name, ["chosen"]) == ["authors"] for name in ("float", *registry.names()))
    params: dict[str, Any] = read_params()
    assert with_settings(params, "sdc", "authors")["train"]["schedule"] == "drop"
    assert with_settings(params, "sdc", "chosen")["train"]["schedule"] is None


def test_views_of_some_rows_are_those_of_the_train_images(task: Task, tmp_path: Path) -> None:
    rows = np.sort(np.append(task.split.train, task.split.query))
    np.save(tmp_path / "rows.npy", rows)
    np.save(tmp_path / "views.npy", np.stack([task.features[rows], -task.features[rows]]))
    result = load_views(tmp_path / "views.npy", task.split)
    np.testing.assert_array_equal(result, np.stack([task.features[task.split.train], -task.features[task.split.train]]))
    np.save(tmp_path / "rows.npy", np.setdiff1d(rows, task.split.train[:2]))
    with pytest.raises(DataError, match=r"views\.npy lacks 2 of 90 train rows"):
        load_views(tmp_path / "views.npy", task.split)

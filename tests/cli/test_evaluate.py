"""The stages evaluate and baselines on files: what they write, what they refuse, and twice the same."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from sklearn.datasets import load_digits

from ssdh.core.files import write_json
from ssdh.core.split import write_split
from ssdh.datasets.base import Protocol
from ssdh.datasets.prepare import draw_split
from ssdh.hashing.codes import pack
from ssdh.structure.fit import fit_structure
from ssdh.structure.pseudo_labels import Stored, write_structure
from stages import baselines, evaluate

DOCUMENTED = {
    *("dataset", "bits", "topk", "map", "map_at", "map_lowest", "map_highest", "map_stable", "map_without_train"),
    *("precision_at", "precision_radius_2", "neighbor_recall_at", "rerank"),
    *("bit_balance", "bit_correlation", "unique_codes", "queries_without_relevant"),
}
FILES = ("metrics.json", "pairs.json", "per_query.csv", "pr_curve.csv", "precision_at_n.csv")


@pytest.fixture
def run(tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the two stages read: raw pixels of the digits as features, codes from random projections."""
    monkeypatch.chdir(tmp_path)
    digits = load_digits()
    features, labels = digits.data.astype(np.float32), np.eye(10, dtype=np.uint8)[digits.target]
    split = draw_split(Protocol(50, 300, True), labels, seed=0, name="test")
    write_split(Path("data/split"), split, len(labels))
    structure = fit_structure(features[split.train], alpha=2.0, beta=2.0, bins=200)
    write_structure(Path("features/structure.npz"), Stored(structure, split.train))
    projection = np.random.default_rng(0).standard_normal((64, 32))
    codes = np.where((features - features.mean(axis=0)) @ projection >= 0, 1, -1)
    Path("models").mkdir()
    np.save("data/labels.npy", labels)
    np.save("features/features.npy", features)
    np.save("models/codes.npy", pack(codes))
    write_json(Path("metrics/data.json"), {"classes": list("abcdefghij")})
    params = yaml.safe_load((project / "params.yaml").read_text(encoding="utf-8"))
    params |= {"dataset": "digits", "bits": 32}
    Path("params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    return tmp_path


def read(name: str) -> dict:
    return json.loads(Path("metrics", name).read_text(encoding="utf-8"))


def rows(name: str) -> list[dict[str, str]]:
    with Path("metrics", name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_evaluate_writes_every_file_with_every_documented_key(run: Path) -> None:
    evaluate.main()
    metrics = read("metrics.json")
    assert set(metrics) >= DOCUMENTED
    assert set(metrics["precision_at"]) == {"1", "10", "100", "1000"}
    assert (metrics["dataset"], metrics["bits"], metrics["topk"]) == ("digits", 32, 1000)
    assert 0.3 < metrics["map"] < 0.9
    assert set(read("pairs.json")) == {"similar_precision", "dissimilar_precision"}
    assert read("pairs.json")["similar_precision"] > 0.5 > 0.1
    table = rows("per_query.csv")
    assert len(table) == 50
    assert [row["class_name"] for row in table] == ["abcdefghij"[int(row["class"])] for row in table]
    assert np.mean([float(row["ap"]) for row in table]) == pytest.approx(metrics["map"], abs=2e-6)  # both are rounded
    assert {len(row) for row in rows("pr_curve.csv")} == {4}
    assert float(rows("precision_at_n.csv")[0]["precision"]) == pytest.approx(metrics["precision_at"]["1"])


def test_two_runs_write_the_same_bytes(run: Path) -> None:
    written = []
    for _ in range(2):
        for path in Path("metrics").glob("[!d]*"):
            path.unlink()
        evaluate.main()
        baselines.main()
        written.append({path.name: path.read_bytes() for path in Path("metrics").glob("[!d]*")})
    assert set(written[0]) == {*FILES, "baselines.json", "baselines_curves.csv"}
    assert written[0] == written[1]


def test_without_labels_every_file_is_there_and_empty(run: Path) -> None:
    np.save("data/labels.npy", np.zeros((1797, 0), np.uint8))
    evaluate.main()
    baselines.main()
    assert "map" not in read("metrics.json")
    assert set(read("metrics.json")["neighbor_recall_at"]) == {"10", "100"}
    assert 0 < read("metrics.json")["manifold_recall"] < 1
    assert read("pairs.json") == {}
    for result in read("baselines.json").values():
        assert "map" not in result
        assert set(result["neighbor_recall_at"]) == {"10", "100"}
    for name in ("per_query.csv", "pr_curve.csv", "precision_at_n.csv", "baselines_curves.csv"):
        assert rows(name) == []
        assert Path("metrics", name).read_text(encoding="utf-8").count("\n") == 1  # the header


def test_files_of_different_runs_end_in_one_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("models/codes.npy", np.zeros((1000, 4), np.uint8))
    with pytest.raises(SystemExit, match="1"):
        evaluate.main()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("evaluate: models/codes.npy has 1000 rows, data/labels.npy 1797")
    assert not any("Traceback" in line for line in lines)
    assert not Path("metrics/metrics.json").exists()


def test_codes_of_other_bits_end_in_one_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    Path("params.yaml").write_text(yaml.safe_dump(params | {"bits": 48}), encoding="utf-8")
    with pytest.raises(SystemExit, match="1"):
        evaluate.main()
    assert "models/codes.npy" in capsys.readouterr().err.splitlines()[0]

"""A run on embeddings from file to search: every stage in this process, then DVC's own view of what reruns."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import onnxruntime
import pytest

from ssdh.__main__ import main
from ssdh.check import check
from ssdh.core.errors import DataError, ParameterError
from ssdh.core.params import read_params
from ssdh.hashing.model_file import load_hashnet, read_metadata
from tests.helpers.tiny import inside, run_stage, tiny_params, write_params

ROWS, DIM = 400, 24
STAGES = ("check", "prepare", "extract", "views", "structure", "train", "encode", "evaluate", "baselines", "report")


def clusters(dtype: str = "float16", seed: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """(rows (400, 24), cluster of each): four noisy directions, lengths from 2 to 20."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 4, ROWS)
    rows = np.random.default_rng(1).standard_normal((4, DIM))[kind] + 0.5 * rng.standard_normal((ROWS, DIM))
    rows *= rng.uniform(2, 20, (ROWS, 1)) / np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows * (5 if dtype == "int8" else 1)).astype(dtype), kind


def workspace(folder: Path, features: Path, **data: Any) -> Path:
    """Write params.yaml and the placeholder for a run on `features`."""
    params = tiny_params()
    params["dataset"] = "embeddings"
    params["datasets"]["embeddings"]["data"] |= {"features": str(features)} | data
    params["datasets"]["embeddings"]["topk"] = 100
    (folder / "models/pretrained").mkdir(parents=True)
    (folder / "models/pretrained/none.safetensors").touch()
    (folder / "data/raw/photos").mkdir(parents=True)
    (folder / "ssdh/report").mkdir(parents=True)
    (folder / "ssdh/report/published.csv").write_text("dataset,bits,topk,num_query,num_train\n")
    write_params(folder, params)
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSDH_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("SSDH_OFFLINE", "1")
        yield tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module", params=["float16", "int8"])
def finished(home: Path, request: pytest.FixtureRequest) -> Path:
    """A whole run with labels and names, of each type that is kept as it is."""
    folder = home / request.param
    rows, kind = clusters(request.param)
    folder.mkdir()
    np.savez(folder / "a.npz", features=rows, labels=kind, names=np.array([f"item {row}" for row in range(ROWS)]))
    workspace(folder, folder / "a.npz")
    run_stage(folder, *STAGES)
    return folder


@pytest.fixture
def here(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(finished)
    return finished


def test_rows_are_passed_on_as_they_are_and_clusters_are_found(here: Path) -> None:
    rows, kind = clusters(here.name)
    features = np.load("features/features.npy")
    assert features.dtype == rows.dtype
    np.testing.assert_array_equal(features, rows)
    assert sorted(path.name for path in Path("data/images").iterdir()) == ["manifest.csv"]
    metrics = json.loads(Path("metrics/metrics.json").read_text())
    assert metrics["weights"] == "none"
    assert metrics["map"] > 0.9  # chance is a quarter
    with Path("data/split/roles.csv").open() as file:
        query = [int(row["row"]) for row in csv.DictReader(file) if row["role"] == "query"]
    assert len(query) == 40
    # the float reference against a search by faiss
    unit = rows.astype(np.float32)
    faiss.normalize_L2(unit)
    order = np.load("data/split/order.npy")
    index = faiss.IndexFlatIP(DIM)
    index.add(unit[order])
    result = order[index.search(unit[query], 100)[1]]
    relevant = kind[result] == kind[query][:, None]
    precision = np.cumsum(relevant, 1) / np.arange(1, 101)
    expected = np.mean((precision * relevant).sum(1) / relevant.sum(1))
    baselines = json.loads(Path("metrics/baselines.json").read_text())
    assert baselines["float"]["map"] == pytest.approx(expected, abs=2e-3)  # at the order of exact ties


def test_the_model_says_what_it_takes(here: Path) -> None:
    metadata = read_metadata(Path("models/hashnet.safetensors"))
    assert (metadata["input"], metadata["dim"]) == ("embeddings", DIM)
    assert not {"arch", "layer", "size", "mean"} & metadata.keys()


def test_the_report_shows_names_instead_of_pictures(here: Path) -> None:
    page = Path("metrics/report.html").read_text(encoding="utf-8")
    assert "Embeddings have no pictures" in page
    assert "item " in page
    assert "<img" not in page
    assert "gone" not in page.split("</style>")[1]
    assert "mobilenet" not in page
    assert f'<data value="{DIM}">' in page


def search(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["search", "--json", *arguments]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def by_row_where_equal(results: list[dict[str, Any]]) -> list[tuple[int, int]]:
    """(distance, row) of results; vectors of a file order equal distances by their outputs, stored codes by row."""
    return sorted((result["distance"], result["row"]) for result in results)


def test_search_by_file_name_and_row(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, _ = clusters(here.name)
    np.save(tmp_path / "q.npy", rows[[7, 30]])
    np.save(tmp_path / "one.npy", rows[7].astype(np.float64))
    [first, second] = search(capsys, str(tmp_path / "q.npy"), "--top", "400")["queries"]
    codes = np.load("models/codes.npy")
    distance = np.unpackbits(codes ^ codes[30], axis=1).sum(1)
    expected = sorted(zip(distance.tolist(), range(len(codes)), strict=True))
    assert [result["distance"] for result in second["results"]] == sorted(distance.tolist())
    assert by_row_where_equal(second["results"]) == expected
    assert second["results"][0]["distance"] == 0
    for query in ("item 7", "7", str(tmp_path / "one.npy")):
        [results] = search(capsys, query, "--top", "400")["queries"]
        assert by_row_where_equal(results["results"]) == by_row_where_equal(first["results"]), query
    capsys.readouterr()
    assert main(["search", "item 30", "--top", "1"]) == 0
    name = f"item {np.flatnonzero(distance == 0)[0]}"
    assert capsys.readouterr().out.splitlines() == ["item 30", f"     0  {name}"]


def test_what_cannot_be_looked_for_is_one_line(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "narrow.npy", np.ones((2, 5), np.float32))
    np.save(tmp_path / "nan.npy", np.full((2, DIM), np.nan, np.float32))
    np.save(tmp_path / "vector.npy", np.ones(5, np.float32))
    for query, message in (
        ("item 400", "no file of embeddings, no name and no row of the 400"),
        ("400", "no row of the 400"),
        (str(tmp_path / "narrow.npy"), f"has 5 values a row, the model takes {DIM}"),
        (str(tmp_path / "nan.npy"), "row 0 holds NaN or infinity"),
        (str(tmp_path / "vector.npy"), r"got shape (5,)"),
    ):
        assert main(["search", query]) == 1
        [line] = capsys.readouterr().err.splitlines()[-1:]
        assert message in line
    assert main(["serve", "--port", "0"]) == 1
    assert "embeddings, which have no pictures to show" in capsys.readouterr().err


def test_the_exported_network_takes_embeddings(here: Path, tmp_path: Path) -> None:
    assert main(["export", str(tmp_path / "out")]) == 0
    session = onnxruntime.InferenceSession(tmp_path / "out/model.onnx")
    assert [(entry.name, entry.shape[1]) for entry in session.get_inputs()] == [("features", DIM)]
    rows, _ = clusters(here.name)
    outputs, codes = session.run(None, {"features": rows.astype(np.float32)})
    sure = np.abs(outputs).min(axis=1) > 1e-5
    assert sure.mean() > 0.9
    np.testing.assert_array_equal(codes[sure], np.load("models/codes.npy")[sure])
    assert load_hashnet(tmp_path / "out/model.safetensors").hash.in_features == DIM
    about = json.loads((tmp_path / "out/export.json").read_text())
    assert about["input"] == f"embeddings of {DIM} values, as float32"
    with (tmp_path / "out/names.csv").open() as file:
        assert next(csv.DictReader(file)) == {"row": "0", "name": "item 0"}


def test_the_model_is_measured_again_to_the_same_numbers(here: Path, tmp_path: Path) -> None:
    assert main(["evaluate", "--json", str(tmp_path / "m.json")]) == 0
    again, first = (json.loads(path.read_text()) for path in (tmp_path / "m.json", Path("metrics/metrics.json")))
    assert {key: again[key] for key in first} == first


def test_without_labels_codes_and_structure_are_the_same(finished: Path, home: Path, tmp_path: Path) -> None:
    rows, _ = clusters(finished.name)
    np.save(tmp_path / "a.npy", np.asfortranarray(rows))
    folder = workspace(tmp_path / "run", tmp_path / "a.npy")
    run_stage(folder, *STAGES)
    for name in ("features/features.npy", "models/hashnet.safetensors", "models/codes.npy"):
        assert (folder / name).read_bytes() == (finished / name).read_bytes(), name
    page = (folder / "metrics/report.html").read_text(encoding="utf-8")
    assert "These rows have no labels" in page


def test_a_recipe_that_can_do_without_views_trains_as_manifold(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "a.npy", clusters()[0])
    result = {}
    for recipe in ("manifold", "manifold_views"):
        folder = workspace(tmp_path / recipe, tmp_path / "a.npy")
        params = tiny_params() | {"dataset": "embeddings", "recipe": recipe}
        params["datasets"] = read_params(folder / "params.yaml")["datasets"]
        write_params(folder, params)
        capsys.readouterr()
        run_stage(folder, *STAGES[: STAGES.index("evaluate")])
        assert np.load(folder / "features/views.npy").shape == (0, 360, DIM)
        said = capsys.readouterr().err.count("recipe manifold_views trains on the features alone, as manifold does")
        assert said == (recipe == "manifold_views")
        outs = ("features/pseudo_labels.npy", "features/structure.npz", "models/codes.npy", "metrics/train.csv")
        result[recipe] = {out: (folder / out).read_bytes() for out in outs}
        result[recipe] |= load_hashnet(folder / "models/hashnet.safetensors").state_dict()
    assert result["manifold"].keys() == result["manifold_views"].keys()
    for name, value in result["manifold"].items():
        assert np.array_equal(value, result["manifold_views"][name]), name


def test_a_file_that_changed_since_prepare_is_refused_by_extract(
    finished: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, _ = clusters()
    np.save(tmp_path / "a.npy", rows)
    folder = workspace(tmp_path / "run", tmp_path / "a.npy")
    run_stage(folder, "check", "prepare")
    rows[3, 3] += 1
    np.save(tmp_path / "a.npy", rows)
    with pytest.raises(SystemExit):
        run_stage(folder, "extract")
    assert "has changed since it was prepared" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.epochs": 0}, "train.epochs 0 keeps a trained model, but train.init_file names none"),
        ({"bits": 12, "train.nested": [8, 12]}, r"train.nested must hold lengths below bits \(12\), got 12"),
        ({"train.finetune": True}, "train.finetune must be false for dataset embeddings, which has no images"),
        ({"views.count": 2}, "views.count must be 0 for dataset embeddings, which has no images"),
        ({"recipe": "manifold_views", "views.count": 2}, "views.count must be 0 for dataset embeddings"),
        ({"recipe": "crovca", "views.required": False}, "views.required must be true for recipe crovca"),
        ({"recipe": "cibhash"}, "recipe cibhash compares views of images, and dataset embeddings has no images"),
        ({"recipe": "cimon", "views.count": 0}, "recipe cimon compares views of images"),
        ({"recipe": "crovca"}, "choose one that can do without, such as manifold"),
        ({"train.init_file": "other.safetensors"}, "was trained on images, not on embeddings"),
        ({"datasets.embeddings.data.labels": "gone.npy"}, "datasets.embeddings.data.labels gone.npy does not exist"),
        ({"datasets.embeddings.images.weights": "imagenet"}, "datasets.embeddings.images.weights must be 'none'"),
        ({"datasets.embeddings.images.size": 32}, "datasets.embeddings.images.size must be None"),
        ({"datasets.embeddings.data.num_query": 400}, "num_query asks for 400 rows"),
    ],
)
def test_what_does_not_go_with_embeddings_is_said_by_check(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    from ssdh.experiments.dvc import with_values
    from ssdh.hashing.model_file import save_hashnet
    from ssdh.hashing.network import seeded_hashnet

    np.save(tmp_path / "a.npy", clusters()[0])
    folder = workspace(tmp_path / "run", tmp_path / "a.npy")
    save_hashnet(folder / "other.safetensors", seeded_hashnet(DIM, 12, 0), {"bits": 12, "arch": "vgg16"})
    with inside(folder), pytest.raises((ParameterError, DataError), match=message) as error:
        check(with_values(read_params(), changes))
    assert "\n" not in str(error.value)

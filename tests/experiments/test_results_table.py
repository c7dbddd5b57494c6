"""The results table: what makes a cell, what replaces what, and the page; real runs are in test_sweeps.py."""

import copy
import hashlib
import itertools
import json
import os
import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest

from ssdh.__main__ import main, parse
from ssdh.cli import table as command
from ssdh.cli.table import known_rows, published, sweeps
from ssdh.core.errors import DataError, ParameterError
from ssdh.core.files import write_csv
from ssdh.core.params import read_params, read_recipe
from ssdh.experiments import feasibility
from ssdh.experiments.dvc import parse_settings, with_values
from ssdh.experiments.results_table import (
    HEADER,
    blank_row,
    code_of,
    grid,
    is_whole_run,
    key_of,
    measured,
    merge,
    read_rows,
    render,
    write_page,
)
from tests.helpers.tiny import inside

CODE = "c0de"


@pytest.fixture
def params(project: Path) -> dict[str, Any]:
    return read_params(project / "params.yaml")


def row(params: dict[str, Any], bits: int, seed: int, value: float | None = None, **more: Any) -> dict[str, Any]:
    """A row of the table as `python -m ssdh table` makes it, with an mAP or without."""
    (cell,) = grid(params, ["digits"], ["published"], [bits], [seed])
    blank = blank_row(cell, params, CODE, "pool5", "")
    if value is None:
        return {**blank, **more}
    metrics = {"dataset": "digits", "bits": bits, "map": value, "map_stable": value - 0.01}
    result = measured(blank, metrics, {"itq": {"map": 0.5}, "lsh": {}}, "abc1234")
    assert result is not None
    return {**result, **more}


# --- identity -------------------------------------------------------------------------------------------------------


def test_a_grid_is_every_combination_once(params: dict[str, Any]) -> None:
    cells = grid(params, ["digits", "cifar10"], ["published", "centred"], [16, 32, 64], [0, 1])
    assert len({cell.key for cell in cells}) == len(cells) == 2 * 2 * 3 * 2


@pytest.mark.parametrize(
    ("name", "value", "same"),
    [
        ("bits", 48, False),
        ("seed", 7, False),
        ("datasets.digits.topk", 10, False),
        ("datasets.digits.images.size", 24, False),
        ("structure.alpha", 1.0, False),
        ("train.epochs", 2, False),
        ("backbone.arch", "alexnet", False),
        ("evaluate.radius", 3, False),
        ("train.epochs", 50, True),  # the recipe's own value, said explicitly
        ("datasets.cifar10.topk", 10, True),
        ("runtime.device", "cpu", True),
        ("runtime.workers", 3, True),
    ],
)
def test_the_key_changes_exactly_with_what_a_result_depends_on(
    params: dict[str, Any], name: str, value: object, same: bool
) -> None:
    params = with_values(params, {"dataset": "digits", "recipe": "published"})
    assert (key_of(with_values(params, {name: value})) == key_of(params)) is same


def test_another_recipe_voids_no_cell_and_an_edit_voids_its_own(
    params: dict[str, Any], project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "methods"
    shutil.copytree(project / "ssdh/methods", folder)
    for name in ("core.params", "experiments.results_table"):
        monkeypatch.setattr(f"ssdh.{name}.recipes_folder", lambda: folder)
    cells = grid(params, ["digits"], ["manifold", "published"], [16], [0])
    for name in ("mine.py", "mine.yaml", "published.yaml", "published.py"):
        text = (project / "ssdh/methods" / name.replace("mine", "soft")).read_text(encoding="utf-8")
        (folder / name).write_text(text.replace("epochs: 50", "epochs: 51"), encoding="utf-8")
        manifold, published = grid(params, ["digits"], ["manifold", "published"], [16], [0])
        assert manifold == cells[0]
        assert (published == cells[1]) is name.startswith("mine")
    text = (project / "ssdh/methods/published.yaml").read_text(encoding="utf-8")
    (folder / "published.yaml").write_text(text, encoding="utf-8")
    assert grid(params, ["digits"], ["manifold", "published"], [16], [0]) == cells
    with (folder / "published.py").open("a", encoding="utf-8") as file:
        file.write("# edited\n")
    assert grid(params, ["digits"], ["manifold", "published"], [16], [0])[0] == cells[0]
    assert grid(params, ["digits"], ["manifold", "published"], [16], [0])[1] != cells[1]


def test_a_run_with_other_values_of_its_recipe_is_not_whole(params: dict[str, Any]) -> None:
    stages = {"train": ["recipe", {"ssdh/methods/${recipe}.yaml": ["train"]}]}
    own = {"train": read_recipe(params["recipe"])["train"]}

    def lock(values: dict[str, Any]) -> dict[str, Any]:
        tracked = {"params.yaml": {"recipe": params["recipe"]}, f"ssdh/methods/{params['recipe']}.yaml": values}
        return {"train": {"params": tracked}}

    assert is_whole_run(lock(own), stages, params, {})
    assert not is_whole_run(lock({"train": own["train"] | {"epochs": 7}}), stages, params, {})
    assert not is_whole_run(lock({}), stages, params, {})


def test_another_code_file_is_another_code() -> None:
    assert code_of({"a.py": "1", "b.py": "2"}) == code_of({"b.py": "2", "a.py": "1"})
    assert code_of({"a.py": "1", "b.py": "2"}) != code_of({"a.py": "1", "b.py": "3"})


def test_metrics_of_another_run_are_not_taken(params: dict[str, Any]) -> None:
    blank = row(params, 16, 0)
    good = {"dataset": "digits", "bits": 16, "map": 0.4, "map_stable": 0.4}
    assert measured(blank, good, {}, "abc")["map"] == 0.4  # type: ignore[index]
    for wrong in ({"bits": 32}, {"dataset": "cifar10"}):
        assert measured(blank, good | wrong, {}, "abc") is None
    assert measured(blank, {"dataset": "digits", "bits": 16}, {}, "abc") is None


STAGES = {"prepare": ["dataset", "datasets.${dataset}.data"], "train": ["bits", "train"], "encode": []}


def locked(params: dict[str, Any]) -> dict[str, Any]:
    """The stages of a small dvc.lock of one run."""

    def stage(deps: dict[str, str], outs: dict[str, str], **values: Any) -> dict[str, Any]:
        files = {
            kind: [{"path": path, "md5": md5} for path, md5 in result.items()]
            for kind, result in (("deps", deps), ("outs", outs))
        }
        return files | ({"params": {"params.yaml": values}} if values else {})

    data = {"datasets.digits.data": params["datasets"]["digits"]["data"]}
    return {
        "prepare": stage({"a.py": "1"}, {"data/images": "2"}, dataset="digits", **data),
        "train": stage({"a.py": "1", "data/images": "2"}, {"model": "3"}, bits=32, train=params["train"]),
        "encode": stage({"model": "3", "a.py": "1"}, {"codes.npy": "4"}),
    }


def test_a_lock_file_of_one_run_is_told_from_one_that_was_renewed_in_part(params: dict[str, Any]) -> None:
    lock, code = locked(params), {"a.py": "1"}
    assert is_whole_run(lock, STAGES, params, code)
    assert not is_whole_run(lock, STAGES, params | {"bits": 16}, code)  # train ran with 32
    assert not is_whole_run(lock, STAGES, params | {"dataset": "cifar10"}, code)
    assert not is_whole_run(lock, STAGES, params, {"a.py": "5"})
    assert not is_whole_run(lock, STAGES, params, {"a.py": "1", "b.py": "1"})
    assert not is_whole_run({}, STAGES, params, code)
    for stage in STAGES:
        without = {name: one for name, one in lock.items() if name != stage}
        assert not is_whole_run(without, STAGES, params, code)
    for stage, kind, number in (("prepare", "outs", 0), ("train", "deps", 0), ("train", "outs", 0)):
        renewed = copy.deepcopy(lock)
        renewed[stage][kind][number]["md5"] = "9"
        assert not is_whole_run(renewed, STAGES, params, code)


def test_the_code_of_a_cell_is_what_dvc_hashes(project: Path, params: dict[str, Any]) -> None:
    """The folders that dvc.yaml names, but those of `check` and `report`; an independent reading of the sources."""
    with inside(project):
        result = command.fixed_files(params)
    assert {"ssdh/core", "ssdh/training", "stages/train.py"} <= result.keys()
    assert not {"ssdh/report", "stages/report.py", "ssdh/check.py", "data/images"} & result.keys()
    sources = sorted((project / "ssdh/training").rglob("*.py"))
    entries = [
        {"md5": md5(path), "relpath": path.relative_to(project / "ssdh/training").as_posix()} for path in sources
    ]
    assert result["ssdh/training"] == hashlib.md5(json.dumps(entries, sort_keys=True).encode()).hexdigest() + ".dir"
    assert result["stages/train.py"] == md5(project / "stages/train.py")


def test_weights_given_by_path_count_like_code(params: dict[str, Any], project: Path, tmp_path: Path) -> None:
    """Other weights under the same name are another experiment; the placeholder for none is not looked at."""
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"first" * 10)
    given = params | {"backbone": params["backbone"] | {"weights_file": str(weights)}}
    with inside(project):
        first, none = command.fixed_files(given), command.fixed_files(params)
        weights.write_bytes(b"other" * 10)
        other = command.fixed_files(given)
    assert first.keys() - none.keys() == {str(weights)}
    assert code_of(first) != code_of(other)
    lock = locked(params)
    lock["prepare"].setdefault("deps", []).append({"path": str(weights), "md5": first[str(weights)]})
    assert is_whole_run(lock, STAGES, params, {"a.py": "1", str(weights): first[str(weights)]})
    assert not is_whole_run(lock, STAGES, params, {"a.py": "1", str(weights): other[str(weights)]})


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def commit_of(params: object, state: str | None = None) -> dict[str, Any]:
    """A commit with one experiment, as `dvc exp show --json` has it."""
    data = {"params": {"params.yaml": {"data": params}}, "metrics": {}, "deps": {}} if params else {"params": {}}
    revision = {"rev": "0" * 40, "name": "odd", "data": data}
    return {"rev": "1" * 40, "experiments": [{"executor": {"state": state} if state else None, "revs": [revision]}]}


@pytest.mark.parametrize("odd", [None, "text", {"bits": 3}, {"dataset": "nope"}])
def test_an_experiment_of_something_else_is_passed_over(
    params: dict[str, Any], odd: object, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """dataset=nope, or a params file of before there were recipes."""
    monkeypatch.chdir(project)
    given = params | odd if odd == {"dataset": "nope"} else odd  # type: ignore[operator]
    commits = [commit_of(given), commit_of(given, "failed")]
    monkeypatch.setattr(command, "dvc", lambda *_, **__: json.dumps(commits))
    blank = row(params, 16, 0)
    assert known_rows({blank["key"]: blank}, CODE, {}, []) == {}
    assert command.failures() == {}
    assert command.unfinished() == set()


def test_only_a_cell_without_a_result_is_a_failure(
    project: Path, tmp_path: Path, params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry that failed long ago stays in DVC's queue although a later try went well."""
    monkeypatch.chdir(project)
    words = ["table", "--datasets", "digits", "--recipes", "published", "--bits", "16", "--seeds", "0"]
    words += ["--page", str(tmp_path / "page.md"), "--csv", str(tmp_path / "table.csv")]
    assert parse(words).bits == [16]
    done = row(params, 16, 0, 0.4)
    monkeypatch.setattr(command, "failures", lambda: {done["key"]: "failed: train: out of memory"})
    monkeypatch.setattr(command, "run_cells", lambda *_: None)
    monkeypatch.setattr(command, "unfinished", set)
    monkeypatch.setattr(command, "known_rows", lambda *_: {})
    assert main(words) == 1
    assert "out of memory" in (tmp_path / "page.md").read_text()
    monkeypatch.setattr(command, "known_rows", lambda *_: {done["key"]: done})
    assert main(words) == 0
    assert "out of memory" not in (tmp_path / "page.md").read_text()


def test_a_cell_that_ends_between_two_looks_is_not_run_again(
    project: Path, tmp_path: Path, params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs at the first look, whichever that is, and has its result at every later one."""
    monkeypatch.chdir(project)
    done = row(params, 16, 0, 0.4)
    looks, commands = itertools.count(), []
    monkeypatch.setattr(command, "unfinished", lambda: set() if next(looks) else {done["key"]})
    monkeypatch.setattr(command, "known_rows", lambda *_: {done["key"]: done} if next(looks) else {})
    monkeypatch.setattr(command, "dvc", lambda *words, **_: commands.append(words) or "[]")  # type: ignore[func-returns-value]
    words = ["table", "--datasets", "digits", "--recipes", "published", "--bits", "16", "--seeds", "0"]
    assert main([*words, "--page", str(tmp_path / "page.md"), "--csv", str(tmp_path / "table.csv")]) == 0
    assert not any("--queue" in words for words in commands)


def test_settings_are_read_as_yaml_and_must_exist(params: dict[str, Any]) -> None:
    assert parse_settings(
        ["train.lr=1e-3", "train.compile=true", "recipe=published"], params | {"train": {"lr": 0, "compile": 0}}
    ) == {
        "train.lr": 1e-3,
        "train.compile": True,
        "recipe": "published",
    }
    with pytest.raises(ParameterError, match=r"^train\.lrr is missing"):
        parse_settings(["train.lrr=1"], params)
    with pytest.raises(ParameterError, match="--set needs NAME=VALUE, got 'train'"):
        parse_settings(["train"], params)


# --- what runs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--jobs", "0", "must be a whole number of at least 1, got '0'"),
        ("--jobs", "-1", "must be a whole number of at least 1, got '-1'"),
        ("--max-hours", "-1", "must be a number of hours of at least 0, got '-1'"),
        ("--max-hours", "nan", "must be a number of hours of at least 0, got 'nan'"),
        ("--max-hours", "long", "must be a number of hours of at least 0, got 'long'"),
        ("--bits", "0", "must be a whole number of at least 1, got '0'"),
        ("--bits", "16,x", "must be a whole number of at least 1, got 'x'"),
        ("--bits", ",", "must name at least one, got ','"),
        ("--seeds", "-1", "must be a whole number of at least 0, got '-1'"),
        ("--seeds", "", "must name at least one, got ''"),
        ("--datasets", ",", "must name at least one, got ','"),
    ],
)
def test_a_flag_out_of_range_is_named(flag: str, value: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse(["table", flag, value])
    assert capsys.readouterr().err.splitlines()[-1] == f"python -m ssdh table: error: argument {flag}: {message}"


def test_what_is_named_twice_counts_once() -> None:
    options = parse(
        ["table", "--bits", "32,16,32,016", "--seeds", "1,1", "--datasets", "digits,digits", "--max-hours", "inf"]
    )
    assert (options.bits, options.seeds, options.datasets) == ([32, 16], [1], ["digits"])


def test_missing_cells_become_few_sweeps_that_name_each_cell_once(params: dict[str, Any]) -> None:
    cells = grid(params, ["digits"], ["published"], [16, 32], [0, 1, 2])
    assert list(sweeps(cells)) == [("digits", "published", "16,32", "0,1,2")]
    holed = [cell for cell in cells if (cell.bits, cell.seed) not in ((16, 1), (32, 2))]
    result = [
        (dataset, recipe, int(bits), int(seed))
        for dataset, recipe, lengths, seeds in sweeps(holed)
        for bits in lengths.split(",")
        for seed in seeds.split(",")
    ]
    assert sorted(result) == sorted((cell.dataset, cell.recipe, cell.bits, cell.seed) for cell in holed)
    assert list(sweeps([])) == []


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"dataset": "digits"}, ""),
        ({"dataset": "cifar10"}, "no data: cifar-10-batches-py/"),
        ({"dataset": "digits", "datasets.digits.images.weights": "imagenet"}, "no weights: imagenet of vgg16"),
        ({"dataset": "digits", "bits": 0}, "bits must be greater than or equal to 1, got 0"),
    ],
)
def test_what_is_missing_is_said_and_nothing_is_fetched(
    params: dict[str, Any], values: dict[str, object], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSDH_OFFLINE")
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("the network was touched"))
    said = feasibility.why_not(with_values(params, values), download=False, max_hours=1)
    assert said.startswith(why)
    assert bool(said) == bool(why)
    assert "SSDH_OFFLINE" not in os.environ


@pytest.mark.parametrize(
    ("recipe", "max_hours", "said"),
    [
        ("manifold", 9.0, "no GPU: extraction would take about 10 hours"),
        ("manifold", 11.0, ""),
        ("manifold_views", 11.0, "no GPU: extraction would take about 13 hours"),
        ("manifold_views", 14.0, ""),
    ],
)
def test_hours_on_the_cpu_are_a_reason(
    params: dict[str, Any], monkeypatch: pytest.MonkeyPatch, recipe: str, max_hours: float, said: str
) -> None:
    """60,000 images at 0.6 s are 36,000 s, ten hours; four views of 5,000 train images 12,000 s more."""
    monkeypatch.setattr(feasibility, "check", lambda _: None)
    monkeypatch.setattr(feasibility, "forward_seconds", lambda *_: 0.6)
    chosen = with_values(params, {"dataset": "cifar10", "runtime.device": "cpu", "recipe": recipe})
    why = feasibility.why_not(chosen, download=True, max_hours=max_hours)
    assert why.startswith(said)
    assert bool(why) == bool(said)


@pytest.mark.parametrize(("num_train", "said"), [(None, "no GPU: extraction would take about 13 hours"), (3, "")])
def test_train_images_that_no_number_is_given_for_have_views_too(
    params: dict[str, Any], monkeypatch: pytest.MonkeyPatch, num_train: int | None, said: str
) -> None:
    """num_train: null is 5000 of a large folder, not none; their four views take 12,000 s beside ten hours."""
    monkeypatch.setattr(feasibility, "check", lambda _: None)
    monkeypatch.setattr(feasibility, "num_images", lambda _: 60_000)
    monkeypatch.setattr(feasibility, "forward_seconds", lambda *_: 0.6)
    values = {"dataset": "folder", "datasets.folder.data.num_train": num_train, "recipe": "manifold_views"}
    chosen = with_values(params, {**values, "runtime.device": "cpu"})
    why = feasibility.why_not(chosen, download=True, max_hours=11)
    assert why.startswith(said)
    assert bool(why) == bool(said)


# --- rows kept ------------------------------------------------------------------------------------------------------


def test_rows_come_back_from_the_csv_as_they_were(params: dict[str, Any], tmp_path: Path) -> None:
    rows = [row(params, 16, 0, 0.123456), row(params, 16, 1, reason="no GPU, no network")]
    rows[0] |= {"key": "0123456789012345", "code": "12e4567890123456"}  # a digest may look like a number
    rows[0]["commit"], rows[1]["commit"] = "12e4567", "0123456"
    write_csv(tmp_path / "results.csv", HEADER, [[one.get(name, "") for name in HEADER] for one in rows])
    assert read_rows(tmp_path / "results.csv") == rows
    assert read_rows(tmp_path / "none.csv") == []


def test_a_csv_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "results.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"results\.csv has no column code, key, map"):
        read_rows(tmp_path / "results.csv")


def test_a_csv_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "results.csv").write_bytes("key,code,map\nä,b,0.5\n".encode("cp1252"))
    with pytest.raises(DataError, match=r"results\.csv cannot be read as a table in UTF-8"):
        read_rows(tmp_path / "results.csv")


def test_a_number_replaces_a_number_and_a_reason_replaces_none(params: dict[str, Any]) -> None:
    old, new = row(params, 16, 0, 0.4), row(params, 16, 0, 0.5)
    assert merge([old], [new]) == [new]
    assert merge([old], [row(params, 16, 0, reason="no GPU")]) == [old]
    assert merge([row(params, 16, 0, reason="no GPU")], [new]) == [new]
    assert merge([old], [row(params, 32, 0, 0.6)]) == [old, row(params, 32, 0, 0.6)]


def test_a_number_of_other_parameters_stays_but_is_marked(params: dict[str, Any]) -> None:
    old = row(params, 16, 0, 0.4)
    changed = row(with_values(params, {"train.epochs": 9}), 16, 0, reason="no GPU")
    (kept,) = merge([old], [changed])
    assert kept["map"] == 0.4
    assert "measured with earlier code or parameters, commit abc1234" in render([kept], [], CODE)
    assert "earlier" not in render([old], [], CODE)


# --- the page -------------------------------------------------------------------------------------------------------


def cells_of(table: str, start: str) -> list[str]:
    """The cells of the table's line that starts so."""
    (line,) = [line for line in table.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_cell_is_mean_and_deviation_over_seeds_with_what_it_was_measured_on(params: dict[str, Any]) -> None:
    values = [0.40, 0.43, 0.46]
    rows = [row(params, 16, seed, value) for seed, value in enumerate(values)] + [row(params, 32, 0, 0.6)]
    table = render(rows, [], CODE)
    # deviation by hand: mean 0.43, squares 0.0009 + 0 + 0.0009, over n − 1 = 2: √0.0009 = 0.03
    assert statistics.stdev(values) == pytest.approx(0.03)
    assert cells_of(table, "**SSDH") == [
        "**SSDH, recipe published**",
        "200 / 1000",
        "vgg16 pool5, random weights, 32 px",
        "1000, expected over ties",
        "0.4300 ± 0.0300",
        "0.6000",
    ]
    assert cells_of(table, "ITQ")[4:] == ["0.5000 ± 0.0000", "0.5000"]
    assert "LSH" not in table  # nothing was measured


def test_missing_seeds_are_counted_and_missing_cells_say_why(params: dict[str, Any]) -> None:
    rows = [row(params, 16, 0, 0.4), row(params, 16, 1, reason="failed: train: out of memory")]
    rows += [row(params, 32, seed, reason="no archive") for seed in (0, 1)]
    table = render(rows, [], CODE)
    assert cells_of(table, "**SSDH")[4:] == ["0.4000 (1 of 2 seeds)", "not run [1]"]
    assert "[1] no archive" in table


def test_published_numbers_stand_beside_with_protocol_and_source(params: dict[str, Any]) -> None:
    rows = [{**row(params, 16, 0, reason="no archive"), "dataset": "cifar10"}]
    table = render(rows, [line for line in published() if line["dataset"] == "cifar10"], CODE)
    own = cells_of(table, "SSDH, published")
    assert own[1:4] == ["1000 / 5000", "VGG16 fine-tuned whole, 224 px", "5000, as its authors sorted"]
    assert own[4:] == ["0.2511", "0.2414", "0.2695", "0.2871"]  # README of TreezzZ/SSDH_PyTorch
    assert "[1] README of TreezzZ/SSDH_PyTorch" in table


def test_two_protocols_are_two_lines(params: dict[str, Any]) -> None:
    other = with_values(params, {"datasets.digits.images.size": 24})
    table = render([row(params, 16, 0, 0.4), row(other, 16, 0, 0.3)], [], CODE)
    lines = [line for line in table.splitlines() if line.startswith("| **SSDH")]
    assert len(lines) == 2
    assert "32 px" in lines[0]
    assert "24 px" in lines[1]


def test_other_settings_are_other_lines_of_the_baselines_too(params: dict[str, Any]) -> None:
    """With labels=24 and labels=38 the same codes of ITQ have another mAP."""
    rows = [
        row(params, 16, seed, 0.4, settings=text, itq=itq) for seed, text, itq in ((0, "a=1", 0.5), (1, "a=2", 0.7))
    ]
    table = render(rows, [], CODE)
    assert cells_of(table, "ITQ, a=1")[4:] == ["0.5000"]
    assert cells_of(table, "ITQ, a=2")[4:] == ["0.7000"]
    assert cells_of(table, "**SSDH, recipe published**, a=2")[4:] == ["0.4000"]


def test_the_page_keeps_what_people_wrote(tmp_path: Path) -> None:
    page = tmp_path / "docs" / "results.md"
    write_page(page, "FIRST")
    page.write_text("# Mine\n\nbefore\n" + page.read_text() + "after\n")
    write_page(page, "SECOND")
    text = page.read_text()
    assert "FIRST" not in text
    assert text.index("before") < text.index("SECOND") < text.index("after")
    assert text.count("table:start") == text.count("table:end") == 1


def test_a_page_without_markers_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    page.write_text("# Mine\n<!-- table:start -->\n")
    with pytest.raises(DataError, match="needs the lines"):
        write_page(page, "TABLE")
    assert page.read_text() == "# Mine\n<!-- table:start -->\n"


def test_the_rows_given_are_not_changed(params: dict[str, Any]) -> None:
    rows = [row(params, 16, 0, 0.4)]
    before = copy.deepcopy(rows)
    render(merge(rows, [row(params, 16, 0, reason="x")]), [], "other")
    assert rows == before


def test_embeddings_have_a_line_when_the_table_is_written_again(params: dict[str, Any], tmp_path: Path) -> None:
    """They have no size: a column that is empty in the CSV."""
    (cell,) = grid(params, ["embeddings"], ["published"], [16], [0])
    blank = {**blank_row(cell, params, CODE, "pool5", ""), "reason": "no data"}
    write_csv(tmp_path / "table.csv", HEADER, [[blank.get(name, "") for name in HEADER]])
    first, again = render([blank], [], CODE), render(read_rows(tmp_path / "table.csv"), [], CODE)
    assert first == again
    assert "| embeddings | 5000, expected over ties |" in first

"""The equal-trials rule: what is drawn, what is best, and that the recipes' files have it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.settings import TRIALS as RESULTS
from benchmarks.settings import best_trials, runs_of, with_values
from benchmarks.studies.rivals import GRIDS, OURS, RIVALS, SEEDS, TRIALS, standing, trials
from ssdh.core.params import effective, lookup, read_params, recipe_names
from ssdh.training.method import chosen_method


def test_every_method_gets_as_many_different_trials_of_its_grid() -> None:
    assert set(RIVALS) | set(OURS) == set(GRIDS) == set(recipe_names()) - {"neighbors", "manifold_views"}
    for recipe, grid in GRIDS.items():
        drawn = trials(recipe)
        assert len({tuple(values.items()) for values in drawn}) == TRIALS
        assert all(value in grid[name] for values in drawn for name, value in values.items())
        assert drawn == trials(recipe)
    assert min(SEEDS) > 4  # 0 to 4 are those of published figures


@pytest.mark.parametrize("recipe", GRIDS)
def test_a_trial_s_values_take_effect(recipe: str, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    values = trials(recipe)[1]
    params = with_values(read_params() | {"recipe": recipe}, values)
    result = {name: effective(params, name) for name in ("structure", "train")}
    assert {name: lookup(result, name) for name in values} == values
    others = effective(read_params() | {"recipe": recipe}, "train")
    assert result["train"].keys() == others.keys()
    assert result["train"].get("loss", {}).keys() == others.get("loss", {}).keys()
    chosen_method(params)  # they are valid
    assert read_params()["train"]["lr"] is None


def test_the_best_trial_has_the_highest_mean_over_all_splits() -> None:
    first, second, third = trials("sdc")[:3]
    maps = {0: (0.3, 0.5), 1: (0.41, 0.41), 2: (0.9,)}  # the last one misses a split
    rows: list[dict[str, Any]] = [
        {"recipe": "sdc", "values": values, "seed": seed, "validation_map": value, "unique_codes": seed, "seconds": 1.0}
        for number, values in enumerate((first, second, third))
        for seed, value in zip(SEEDS, maps[number], strict=False)
    ]
    result = standing(rows, "sdc")
    assert [trial["values"] for trial in result] == [second, first]
    np.testing.assert_allclose([trial["validation_map"] for trial in result], [0.41, 0.4])
    assert result[0]["unique_codes"] == min(SEEDS)
    assert standing(rows, "bihalf") == []


def test_the_files_of_rivals_have_their_best_trial(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    runs = json.loads(RESULTS.read_text(encoding="utf-8"))["results"]["runs"]
    best = best_trials()
    for recipe in GRIDS:
        assert sum(row["recipe"] == recipe for row in runs) == TRIALS * len(SEEDS)
        assert best[recipe] == standing(runs, recipe)[0]["values"]
        assert runs_of(recipe, ["trials"]) == (["trials"] if recipe in OURS else [])
    assert runs_of("default", ["authors", "trials"]) == ["chosen"]
    assert runs_of("neighbors", ["chosen", "trials"]) == ["chosen"]

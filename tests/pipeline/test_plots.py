"""`dvc plots show`: every definition in dvc.yaml fills its template with what the stages write."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from dvc.render.converter.vega import VegaConverter
from dvc_render.vega import VegaRenderer

from ssdh.evaluation import comparison
from ssdh.evaluation import metrics as evaluation
from ssdh.structure.fit import distance_table
from ssdh.structure.thresholds import Structure
from tests.helpers.small_run import STRUCTURE, SmallRun

PROJECT = Path(__file__).resolve().parents[2]
PLOTS = {
    name: plot for entry in yaml.safe_load((PROJECT / "dvc.yaml").read_text())["plots"] for name, plot in entry.items()
}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def filled(folder: Path, name: str, revisions: list[str]) -> dict[str, Any]:
    """The Vega-Lite specification that dvc makes of a plot, with the same data for every revision."""
    plot = PLOTS[name]
    data = {file: {"data": rows(folder / file)} for file in plot["y"]}
    points, properties = [], {}
    for revision in revisions:
        result, properties = VegaConverter(name, data, dict(plot)).flat_datapoints(revision)
        points += result
    renderer = VegaRenderer(points, name, **properties, template_dir=str(PROJECT / ".dvc/plots"))
    specification: dict[str, Any] = renderer.get_filled_template()
    return specification


def walk(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else []:
        yield from walk(child)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    return SmallRun(tmp_path_factory.mktemp("plots") / "run", PROJECT)


@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_is_filled_and_draws_columns_that_exist(run: SmallRun, name: str) -> None:
    specification = filled(run.folder, name, ["workspace", "main"])
    values = specification.pop("data")["values"]
    text = json.dumps(specification)
    assert "<DVC_METRIC" not in text
    assert {value["rev"] for value in values} == {"workspace", "main"}
    computed = {node["as"] for node in walk(specification) if isinstance(node.get("as"), str)}
    drawn = {node["field"] for node in walk(specification) if isinstance(node.get("field"), str)}
    assert len(drawn) >= 3
    assert drawn <= computed | set().union(*values)


def test_curves_show_this_run_and_the_baselines(run: SmallRun) -> None:
    for name, file in (("precision-recall", "pr_curve"), ("precision-at-n", "precision_at_n")):
        values = filled(run.folder, name, ["workspace"])["data"]["values"]
        own = [value for value in values if "method" not in value]
        assert len(own) == len(rows(run.folder / f"metrics/{file}.csv"))
        assert {value["method"] for value in values if "method" in value} == {"itq"}


def test_the_templates_know_the_columns_that_the_stages_write(run: SmallRun) -> None:
    """`small_run` stands in for the stages, so its columns must be theirs."""
    structure = Structure(**STRUCTURE)
    header, _ = distance_table(structure, np.array([1, 2]), np.array([0.0, 0.1, 0.2]))
    expected = {
        "distances": header,
        "pr_curve": evaluation.PR_CURVE,
        "precision_at_n": evaluation.PRECISION_AT_N,
        "baselines_curves": comparison.CURVES,
    }
    for name, columns in expected.items():
        assert tuple(rows(run.folder / f"metrics/{name}.csv")[0]) == tuple(columns), name
    assert {"row", "ap"} <= set(evaluation.PER_QUERY)

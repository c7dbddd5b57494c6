"""What `run` ends with and the columns of `show`, with labels and without."""

import re

import pytest

from ssdh.cli.show import columns
from ssdh.core.errors import ParameterError
from ssdh.experiments.summary import summary_table

STRUCTURE = {"fraction_similar": 0.012, "fraction_dissimilar": 0.3}
UNLABELLED = {
    "dataset": "folder",
    "bits": 32,
    "neighbor_recall_at": {"10": 0.4321, "100": 0.25},
    "manifold_recall": 0.6,
}


def table(results: dict[str, object]) -> dict[str, str]:
    """The lines of the summary by their names."""
    baselines = {"itq": {"map": 0.5}, "lsh": {}}
    told = summary_table({"metrics": results, "structure": STRUCTURE, "baselines": baselines}, {}, smoke_run=False)
    return dict(re.split(r" {2,}", line.strip(), maxsplit=1) for line in told.splitlines())


def test_a_run_without_labels_shows_what_needs_none() -> None:
    found = table(UNLABELLED)
    assert list(found)[:6] == [
        *("data set", "bits", "recall of 10 nearest", "recall of 100 nearest", "manifold recall", "pairs labelled"),
    ]
    assert (found["recall of 10 nearest"], found["manifold recall"]) == ("0.4321", "0.6000")
    assert "ITQ" not in found


def test_a_run_with_labels_shows_its_map_alone() -> None:
    found = table(UNLABELLED | {"topk": 1000, "map": 0.75})
    assert list(found)[:5] == ["data set", "bits", "mAP@1000", "ITQ", "pairs labelled"]
    assert (found["mAP@1000"], found["ITQ"]) == ("0.7500", "0.5000")


# --- show -----------------------------------------------------------------------------------------------------------

COLUMNS = ("Experiment", "map", "params.yaml:bits", "lsh.map", "itq.map", "neighbor_recall_at.10", "manifold_recall")


def row(**values: str) -> dict[str, str]:
    return dict.fromkeys(COLUMNS, "") | {name.replace("__", "."): value for name, value in values.items()}


def kept(rows: list[dict[str, str]], *more: str) -> list[str]:
    """The columns that DVC keeps whatever their values are, by its own use of the pattern."""
    options = columns(rows, more)
    keep, drop = (re.compile(options[options.index(flag) + 1]) for flag in ("--keep", "--drop"))
    assert not any(keep.match(name) and drop.match(name) for name in COLUMNS)
    return [name for name in COLUMNS if keep.match(name)]


def test_recall_stands_in_the_place_of_a_map_that_no_row_has() -> None:
    labelled, other = row(map="0.7", neighbor_recall_at__10="0.4"), row(neighbor_recall_at__10="0.4")
    assert kept([labelled]) == ["map", "params.yaml:bits"]
    assert kept([other]) == ["params.yaml:bits", "neighbor_recall_at.10"]
    assert kept([labelled, other | {"manifold_recall": "0.3"}]) == [
        *("map", "params.yaml:bits", "neighbor_recall_at.10", "manifold_recall"),
    ]
    assert kept([row()]) == kept([]) == ["map", "params.yaml:bits"]


def test_an_added_pattern_is_found_anywhere_in_a_name() -> None:
    assert kept([row(map="1")], "sh.ma") == ["map", "params.yaml:bits", "lsh.map"]
    assert kept([row(map="1")], "^lsh.map$|itq") == ["map", "params.yaml:bits", "lsh.map", "itq.map"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("mapp", "--add 'mapp' is found in no column's name: `dvc exp show --csv`"), ("(", "--add '.' is no regular ")],
)
def test_an_added_pattern_that_finds_nothing_is_one_line(pattern: str, message: str) -> None:
    with pytest.raises(ParameterError, match=f"^{message}") as error:
        columns([row()], [pattern])
    assert "\n" not in str(error.value)

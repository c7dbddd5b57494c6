"""What `run` ends with and the columns of `show`, with labels and without."""

import re

import pytest

from ssdh.__main__ import main
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
    message = summary_table({"metrics": results, "structure": STRUCTURE, "baselines": baselines}, {}, smoke_run=False)
    return dict(re.split(r" {2,}", line.strip(), maxsplit=1) for line in message.splitlines())


def test_a_run_without_labels_shows_what_needs_none() -> None:
    result = table(UNLABELLED)
    assert list(result)[:6] == [
        *("data set", "bits", "recall of 10 nearest", "recall of 100 nearest", "manifold recall", "pairs labelled"),
    ]
    assert (result["recall of 10 nearest"], result["manifold recall"]) == ("0.4321", "0.6000")
    assert "ITQ" not in result


def test_a_run_with_labels_shows_its_map_alone() -> None:
    result = table(UNLABELLED | {"topk": 1000, "map": 0.75})
    assert list(result)[:5] == ["data set", "bits", "mAP@1000", "ITQ", "pairs labelled"]
    assert (result["mAP@1000"], result["ITQ"]) == ("0.7500", "0.5000")


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


def test_at_80_columns_the_map_stays_and_long_paths_are_shortened(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = "/mnt/archive/pictures/of/everybody/since/the/beginning/of/photography/scans/2024"
    table = (
        "Experiment,rev,typ,parent,State,map,params.yaml:bits,datasets.folder.data.root,backbone.weights_file\n"
        ",main,baseline,,,0.8571394754,32,photos,models/none.safetensors\n"
        f"long-name-of-an-experiment,1a2b3c4,branch_commit,,Success,0.512345678,64,{root},models/a/b/c.safetensors\n"
    )
    monkeypatch.setattr("ssdh.cli.show.dvc", lambda *arguments, quiet: table)
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["show"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[1] for line in lines] == ["map", "0.85714", "0.51235"]
    assert all(part in lines[2] for part in ("64", "Success", "scans/2024", "c.safetensors"))
    assert root not in lines[2]

    monkeypatch.setenv("COLUMNS", "300")
    assert main(["show"]) == 0
    whole = capsys.readouterr().out
    assert root in whole
    assert "  long-name-of-an-experiment  0.51235" in whole

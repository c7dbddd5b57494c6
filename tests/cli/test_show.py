"""`python -m ssdh show`: which columns it keeps of those that `dvc exp show` has, whose results they are, the order."""

import csv
import io
import re
import shlex
from collections.abc import Callable

import pytest

from ssdh.__main__ import main
from ssdh.cli.show import columns


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("params.yaml:structure.alpha", True),  # so DVC names what a recipe's file holds too
        ("params.yaml:train.lr", True),
        ("datasets.digits.topk", True),
        ("itq.map", True),
        ("alpha", False),
        ("ssdh/methods/manifold.yaml:train.lr", False),
    ],
)
def test_parameters_that_vary_are_kept(name: str, kept: bool) -> None:
    """DVC drops the columns whose names the pattern matches from their start."""
    dropped = columns([{"map": "0.5", name: "1"}], [])[-1]
    assert (re.match(dropped, name) is None) == kept


HEADER = ("Experiment", "rev", "typ", "State", "map", "lsh.map", "params.yaml:bits", "train.lr", "recipe")
ROWS = [  # as DVC has them: of experiments without results, the metrics of the commit that they started from
    ("", "main", "baseline", "", "0.81", "0.4", "32", "", "manifold"),
    ("waits", "1a", "branch_commit", "Queued", "0.81", "0.4", "64", "", "manifold"),
    ("low", "1b", "branch_commit", "Success", "0.09", "0.3", "8", "1e-3", "soft"),
    ("odd", "1c", "branch_commit", "Success", "nan", "!", "16", "0.1", "soft"),
    ("none", "1d", "branch_commit", "Success", "", "", "12", "0.5", "soft"),
    ("high", "1e", "branch_commit", "Success", "0.9", "0.5", "128", "0.02", "published"),
    ("broken", "1f", "branch_base", "Failed", "0.81", "0.4", "0", "", "manifold"),
]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What `ssdh show` prints of these rows."""
    out = io.StringIO()
    csv.writer(out).writerows([HEADER, *ROWS])
    monkeypatch.setattr("ssdh.cli.show.dvc", lambda *arguments, quiet: out.getvalue())

    def run(*options: str) -> str:
        assert main(["show", *options]) == 0
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize(
    ("options", "order"),
    [
        (["map"], ["high", "low", "waits", "odd", "none", "broken"]),
        (["map", "--sort-order", "asc"], ["low", "high", "waits", "odd", "none", "broken"]),
        (["lsh.map"], ["high", "low", "waits", "odd", "none", "broken"]),
        (["bits"], ["high", "waits", "odd", "none", "low", "broken"]),  # a parameter is known before there are results
        (["train.lr", "--sort-order", "asc"], ["low", "high", "odd", "none", "waits", "broken"]),
        (["recipe", "--sort-order", "asc"], ["waits", "broken", "high", "low", "odd", "none"]),
    ],
)
def test_no_value_is_last_whichever_way(shown: Callable[..., str], options: list[str], order: list[str]) -> None:
    rows = list(csv.DictReader(io.StringIO(shown("--csv", "--sort-by", *options))))
    assert [row["Experiment"] for row in rows] == ["", *order]


def test_every_form_has_the_same_rows_and_blank_cells_where_there_is_no_result(shown: Callable[..., str]) -> None:
    rows = {row["Experiment"]: row for row in csv.DictReader(io.StringIO(shown("--csv", "--sort-by", "map")))}
    for name in ("waits", "odd", "none", "broken"):
        assert rows[name]["map"] == rows[name]["lsh.map"] == ""
    assert (rows["waits"]["params.yaml:bits"], rows["broken"]["recipe"]) == ("64", "manifold")
    assert (rows[""]["map"], rows["low"]["map"]) == ("0.81", "0.09")
    header, _, *lines = shown("--md", "--sort-by", "map").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in (header, *lines)]
    assert cells[0][:2] == ["experiment", "map"]
    assert [line[:2] for line in cells[1:]] == [[name or "main", row["map"]] for name, row in rows.items()]
    text = shown("--sort-by", "map")
    assert [line.split()[0] for line in text.splitlines()[1:]] == [line[0] for line in cells[1:]]
    assert "nan" not in text


def test_without_experiments_there_is_nothing_to_sort(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where all rows are commits, DVC leaves out the column that says so."""
    table = "Experiment,rev,map\n,workspace,0.8\n,main,0.81\n"
    monkeypatch.setattr("ssdh.cli.show.dvc", lambda *arguments, quiet: table)
    assert main(["show", "--csv", "--sort-by", "map"]) == 0
    assert capsys.readouterr().out == table


def test_no_such_column_is_one_line(shown: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "--sort-by", "nonsense"]) == 1
    assert "--sort-by 'nonsense' is no column" in capsys.readouterr().err


def test_the_sorted_column_is_shown_and_dvc_is_told(shown: Callable[..., str]) -> None:
    line = shown("--dry-run", "--sort-by", "bits", "--sort-order", "asc")
    assert "--sort-by params.yaml:bits --sort-order asc" in line
    for name, others in (("lsh.map", []), ("map", ["lsh.map"])):
        words = shlex.split(shown("--dry-run", "--sort-by", name))
        keep, drop = (words[words.index(option) + 1] for option in ("--keep", "--drop"))
        assert re.match(keep, name)
        assert not re.match(drop, name)
        assert all(re.match(drop, other) for other in others)

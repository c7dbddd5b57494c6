"""The table of `ssdh show`: the mAP and the experiments' names stay whole, whatever else varies."""

import csv
import io

import pytest

from ssdh.__main__ import main
from ssdh.experiments.fitted_table import fitted

ROWS = [
    {
        "Experiment": name,
        "rev": "1a2b3c4",
        "typ": "branch_base",
        "map": value,
        "neighbor_recall_at.10": "0.138849",
        "params.yaml:bits": "32",
        "datasets.embeddings.data.features": "/home/somebody/embeddings/of/2026/clip.npy",
        "datasets.embeddings.data.labels": "/home/somebody/labels/of/2026/classes.txt",
        "datasets.embeddings.data.num_train": "800",
    }
    for name, value in (("angry-tilt", "0.602581"), ("larky-kiwi", ""))
]
MEASURES = ["map", "neighbor_recall_at.10"]


@pytest.mark.parametrize(
    ("width", "left_out"),
    [(50, ["num_train", "labels", "features"]), (60, ["labels", "features"]), (80, []), (100, [])],
)
def test_lines_fit_and_the_map_and_the_names_are_whole(width: int, left_out: list[str]) -> None:
    header, *lines = fitted(ROWS, MEASURES, width)
    assert lines[0].split()[:3] == ["angry-tilt", "0.60258", "0.13885"]
    assert lines[1].split()[:2] == ["larky-kiwi", "0.13885"]
    assert max(map(len, [header, *lines[:2]])) <= width
    names = [f"datasets.embeddings.data.{name}" for name in left_out]
    assert lines[2:] == ([f"too wide for here: {', '.join(names)} (--md and --csv have all)"] if left_out else [])


def test_a_wide_terminal_has_every_column_whole() -> None:
    lines = fitted(ROWS, MEASURES, 10_000)
    assert len(lines) == 3
    assert set(ROWS[0]) - {"Experiment", "rev", "typ"} <= {*lines[0].split(), "params.yaml:bits"}
    assert "/home/somebody/embeddings/of/2026/clip.npy" in lines[1]


def test_a_path_keeps_its_end() -> None:
    assert fitted(ROWS, MEASURES, 80)[1].endswith("…lasses.txt  …6/clip.npy")


def test_a_value_with_line_breaks_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """DVC writes them into a quoted cell; what Unicode calls a line end stands there as it is."""
    odd = "a\nb\x0bc\x85d\u2028e"
    rows = [
        ("Experiment", "rev", "typ", "map", "recipe"),
        ("", "main", "baseline", "0.5", odd),
        ("", "x", "", "0.25", ""),
    ]
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    monkeypatch.setattr("ssdh.cli.show.dvc", lambda *arguments, quiet: out.getvalue())
    assert main(["show"]) == 0
    lines = capsys.readouterr().out.removesuffix("\n").split("\n")
    assert lines[1:] == [f"main        0.5   {odd!r}", "x           0.25"]

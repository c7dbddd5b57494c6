"""The card's benchmark: what one part measured stays when it fails, and the other parts run."""

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks.card import __main__ as card
from benchmarks.card.options import Options


def options(folder: Path) -> Options:
    return Options("cpu", folder / "out", folder / "work", None, None, True)


def test_rows_before_a_failure_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rows(_: Options):  # type: ignore[no-untyped-def]
        yield {"first": 1}
        raise RuntimeError("no card")

    part = ModuleType("benchmarks.card.failing")
    part.rows = rows  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, part.__name__, part)
    with pytest.raises(RuntimeError, match="no card"):
        card.run_inside("failing", options(tmp_path))
    assert json.loads((tmp_path / "out/failing.json").read_text(encoding="utf-8"))["results"] == [{"first": 1}]


def test_a_part_that_fails_or_lasts_too_long_stops_no_other(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    chosen = options(tmp_path)
    chosen.out.mkdir()
    assert card.run_part("missing", chosen, 600)["ended"] == 2  # argparse knows no such part
    assert card.run_part("nccl", chosen, 0.1)["ended"] == "stopped after 0 s"
    capfd.readouterr()


def test_the_command_line_says_all_options(tmp_path: Path) -> None:
    import argparse

    from benchmarks.card.options import add_arguments, options_of

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    chosen = Options("cuda", tmp_path / "out", tmp_path / "work", tmp_path / "cifar", tmp_path / "w.safetensors", False)
    assert options_of(parser.parse_args(chosen.arguments())) == chosen

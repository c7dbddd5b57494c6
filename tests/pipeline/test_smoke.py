"""The real thing, small: a clone runs every stage, then nothing, then after a change exactly what reads it."""

import json
import re
from pathlib import Path

import yaml

from tests.helpers.clone import Clone


def test_a_clone_runs_all_stages_then_none_then_those_that_read_bits(first_run: Clone, tmp_path: Path) -> None:
    stages = yaml.safe_load((first_run.folder / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert sorted(first_run.record.read_text(encoding="utf-8").split()) == sorted(stages)
    clone = first_run.copy(tmp_path / "clone")
    done = clone.dvc("repro")
    assert "Running stage" not in done.stdout
    assert "Data and pipelines are up to date." in done.stdout
    clone.set(bits="16")
    assert set(clone.repro()) == {"check", "train", "encode", "evaluate", "baselines", "report"}
    metrics = json.loads((clone.folder / "metrics/metrics.json").read_text(encoding="utf-8"))
    assert metrics["bits"] == 16
    assert metrics["map"] > 0.3  # chance is a tenth
    diff = clone.dvc("metrics", "diff").stdout
    assert "metrics/metrics.json" in diff
    assert re.findall(r"^.* -?0\.0 *$", diff, re.MULTILINE) == []  # a difference in a last digit is none
    assert (clone.folder / "metrics/report.html").stat().st_size > 10_000

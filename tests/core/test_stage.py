"""The stage's shell, its parameters and the seconds that it writes down."""

import csv
import time
from datetime import timedelta
from pathlib import Path

import pytest

from ssdh.core import cache_dir as home
from ssdh.core import records as timings
from ssdh.core import runtime
from ssdh.core import stage as runs
from ssdh.core.errors import ParameterError
from ssdh.experiments.summary import stage_seconds


def test_decoding_workers_are_shared_out_over_the_ranks_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "num_cores", lambda: 16)
    common = {"device": "cpu", "processes": None, "deterministic": True, "log_level": "INFO"}
    auto, fixed = runtime.RuntimeParams(workers=None, **common), runtime.RuntimeParams(workers=5, **common)
    assert (auto.num_workers, fixed.num_workers) == (16, 5)
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert (auto.num_workers, fixed.num_workers) == (2, 5)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "32")
    assert auto.num_workers == 1


def test_the_shell_prints_one_line_for_an_expected_error(capsys: pytest.CaptureFixture[str]) -> None:
    @runs.stage("train")
    def main() -> None:
        raise ParameterError("bits must be a positive integer, got 0 (params.yaml: bits)")

    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "train: bits must be a positive integer, got 0 (params.yaml: bits)",
        "train: correct it and run again; earlier results, without what was not committed: "
        "git checkout HEAD -- params.yaml dvc.lock metrics && dvc checkout --force --allow-missing",
    ]
    assert not (home.ssdh_home() / "timings.csv").exists()


def test_the_shell_writes_down_the_seconds_of_a_stage_that_ended(tmp_path: Path) -> None:
    runs.stage("evaluate")(lambda: time.sleep(0.02))()
    runs.stage("evaluate")(lambda: None)()
    with (home.ssdh_home() / "timings.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["stage"] for row in rows] == ["evaluate", "evaluate"]
    assert float(rows[0]["seconds"]) >= 0.02


def test_a_torn_line_of_the_seconds_is_passed_over_and_the_next_one_is_whole() -> None:
    timings.record_seconds("extract", 1.5)
    path = home.ssdh_home() / "timings.csv"
    with path.open("a") as file:
        file.write("train,12.")  # killed while it wrote
    assert [(run.stage, run.seconds) for run in timings.read_timings(path)] == [("extract", 1.5)]
    timings.record_seconds("encode", 2.5)
    assert [(run.stage, run.seconds) for run in timings.read_timings(path)] == [("extract", 1.5), ("encode", 2.5)]
    assert timings.read_timings(path.with_name("none.csv")) == []


def test_the_summary_counts_stages_since_its_run_began() -> None:
    timings.record_seconds("extract", 1.5)
    path = home.ssdh_home() / "timings.csv"
    began = timings.read_timings(path)[0].ended + timedelta(milliseconds=1)
    time.sleep(0.01)
    timings.record_seconds("train", 2.5)
    assert stage_seconds(path, began) == {"train": 2.5}

"""Sweeps and sharing by DVC on the real pipeline: the queue, what it shows, diffs, apply, and remotes, in clones.

The tests run in the order of the file and add experiments to a copy of the first run.
"""

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.clone import Clone, stages_of

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def clone(first_run: Clone, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    clone = first_run.copy(tmp_path_factory.mktemp("sweeps") / "clone")
    yield clone
    clone.dvc("queue", "stop", "--kill", check=False)


@pytest.fixture(scope="module")
def swept(clone: Clone) -> dict[tuple[int, int], dict[str, Any]]:
    """A queue of two code lengths by two seeds, run by two workers: data of the experiments by (bits, seed)."""
    clone.dvc("exp", "run", "--queue", "-S", "bits=8,12", "-S", "seed=range(0,2)")
    assert "Started '2'" in clone.dvc("queue", "start", "--jobs", "2").stdout
    clone.wait_for_queue()
    return {(one["params"]["bits"], one["params"]["seed"]): one for one in experiments(clone)}


def experiments(clone: Clone) -> list[dict[str, Any]]:
    """Name, state, parameters, metrics and outs of each experiment of the last commit."""
    result = []
    for commit in json.loads(clone.dvc("exp", "show", "--json").stdout):
        for group in commit["experiments"] or []:
            for one in group["revs"]:
                data = one["data"]
                result.append(
                    {
                        "name": one["name"],
                        "state": (group["executor"] or {}).get("state"),
                        "params": data["params"]["params.yaml"]["data"],
                        "metrics": data["metrics"]["metrics/metrics.json"]["data"],
                        "codes": data["outs"]["models/codes.npy"]["hash"],
                    }
                )
    return result


# --- the queue ------------------------------------------------------------------------------------------------------


def test_two_workers_run_the_whole_grid(clone: Clone, swept: dict[tuple[int, int], dict[str, Any]]) -> None:
    assert set(swept) == {(8, 0), (8, 1), (12, 0), (12, 1)}
    assert {one["state"] for one in swept.values()} == {"success"}
    for (bits, _), one in swept.items():
        assert one["metrics"]["bits"] == bits
    assert len({one["codes"] for one in swept.values()}) == 4
    # (12, 0) is the workspace's own run: the workers, sharing $SSDH_HOME, made the same bits of it
    lock = (clone.folder / "dvc.lock").read_text()
    assert swept[12, 0]["codes"] in lock
    assert swept[8, 0]["codes"] not in lock
    assert [path for path in (clone.home / "work").iterdir() if path.is_dir()] == []  # all work was finished


def test_a_worker_keeps_the_environment_it_was_started_with(clone: Clone, swept: object) -> None:
    """So `CUDA_VISIBLE_DEVICES=0 dvc queue start`, then `CUDA_VISIBLE_DEVICES=1 dvc queue start -j 2`: a GPU each."""
    clone.wait_for_workers()  # those of the sweep would take the task
    before, home = stages_of(clone.home), clone.folder.parent / "of-the-worker"
    clone.dvc("exp", "run", "--queue", "-S", "datasets.digits.topk=300")
    worker = Clone(clone.folder)
    worker.environment |= {"SSDH_HOME": str(home)}
    worker.dvc("queue", "start")
    clone.wait_for_queue()
    assert stages_of(clone.home) == before
    assert "evaluate" in stages_of(home)
    assert "train" not in stages_of(home)


# --- what is shown --------------------------------------------------------------------------------------------------


def test_show_has_the_columns_that_matter(clone: Clone, swept: object) -> None:
    message = clone.run(sys.executable, "-m", "ssdh", "show", "--csv").stdout
    header = message.splitlines()[0].split(",")
    kept = [name for name in header if name not in ("Experiment", "rev", "typ", "parent", "State")]
    assert kept == ["map", "itq.map", "params.yaml:bits", "seed", "datasets.digits.topk"]
    whole = clone.dvc("exp", "show", "--csv").stdout.splitlines()[0].split(",")
    assert len(whole) > 100  # what DVC shows by itself


def test_show_sorts_and_takes_more_columns(clone: Clone, swept: object) -> None:
    message = clone.run(sys.executable, "-m", "ssdh", "show", "--csv", "--add", "lsh.map", "--sort-by", "map").stdout
    rows = [row for row in csv.DictReader(message.splitlines()) if row["typ"].startswith("branch")]
    assert "lsh.map" in rows[0]
    values = [float(row["map"]) for row in rows]
    assert values == sorted(values, reverse=True)
    assert len(set(values)) >= 4


def test_metrics_and_params_diff_of_two_experiments(clone: Clone, swept: dict[tuple[int, int], dict[str, Any]]) -> None:
    one, other = swept[8, 0], swept[12, 1]
    diff = json.loads(clone.dvc("metrics", "diff", one["name"], other["name"], "--json").stdout)
    change = diff["metrics/metrics.json"]["map"]
    assert (change["old"], change["new"]) == (one["metrics"]["map"], other["metrics"]["map"])
    diff = json.loads(clone.dvc("params", "diff", one["name"], other["name"], "--json").stdout)
    assert diff["params.yaml"] == {"bits": {"old": 8, "new": 12, "diff": 4}, "seed": {"old": 0, "new": 1, "diff": 1}}


def test_plots_diff_of_two_experiments(clone: Clone, swept: dict[tuple[int, int], dict[str, Any]]) -> None:
    names = (swept[8, 0]["name"], swept[12, 1]["name"])
    clone.dvc("plots", "diff", *names, "--out", "plots-of-two")
    page = (clone.folder / "plots-of-two" / "index.html").read_text()
    assert all(name in page for name in names)
    for plot in ("distances", "loss", "precision-recall", "precision-at-n"):
        assert f'"{plot}"' in page


# --- apply and save -------------------------------------------------------------------------------------------------


def test_apply_brings_an_experiment_into_the_workspace(
    clone: Clone, swept: dict[tuple[int, int], dict[str, Any]]
) -> None:
    clone.dvc("exp", "apply", swept[8, 1]["name"])
    try:
        assert json.loads((clone.folder / "metrics/metrics.json").read_text())["map"] == swept[8, 1]["metrics"]["map"]
        assert "bits: 8" in (clone.folder / "params.yaml").read_text()
        assert clone.repro() == []  # nothing is left to run
    finally:
        clone.run("git", "checkout", "-q", ".")
        clone.dvc("checkout", "--force")


def test_save_names_the_state_of_the_workspace(clone: Clone, swept: object) -> None:
    clone.set(evaluate__radius="3")
    try:
        clone.repro()
        clone.dvc("exp", "save", "--name", "wider-radius")
        saved = next(one for one in experiments(clone) if one["name"] == "wider-radius")
        assert saved["params"]["evaluate"]["radius"] == 3
    finally:
        clone.run("git", "checkout", "-q", ".")
        clone.dvc("checkout", "--force")


# --- the results table ----------------------------------------------------------------------------------------------


def table(clone: Clone, *arguments: str) -> str:
    return clone.run(sys.executable, "-m", "ssdh", "table", "--page", "t.md", "--csv", "t.csv", *arguments).stdout


def test_the_table_runs_no_cell_that_the_sweep_has_run(clone: Clone, swept: dict[tuple[int, int], Any]) -> None:
    before = stages_of(clone.home)
    message = table(clone, "--datasets", "digits,cifar10", "--bits", "8,12", "--seeds", "0,1")
    assert "8 cells: 4 known, 0 to run" in message
    assert stages_of(clone.home) == before
    with (clone.folder / "t.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    measured = {(int(row["bits"]), int(row["seed"])): float(row["map"]) for row in rows if row["map"]}
    assert measured == {cell: one["metrics"]["map"] for cell, one in swept.items()}
    reasons = {row["reason"] for row in rows if row["dataset"] == "cifar10"}
    assert len(reasons) == 1
    assert reasons.pop().startswith("no data: cifar-10-batches-py/")
    page = (clone.folder / "t.md").read_text()
    mean = (swept[8, 0]["metrics"]["map"] + swept[8, 1]["metrics"]["map"]) / 2
    assert f"{mean:.4f} ±" in page
    assert "not run [" in page


def test_a_git_that_refuses_to_speak_leaves_nothing_concluded(clone: Clone, swept: object) -> None:
    """A container's foreign owner: git says `dubious ownership`."""
    command = [
        sys.executable,
        "-m",
        "ssdh",
        "table",
        "--datasets",
        "digits",
        "--bits",
        "8",
        "--seeds",
        "0",
        "--dry-run",
    ]
    own = clone.environment | {"GIT_TEST_ASSUME_DIFFERENT_OWNER": "1", "GIT_CONFIG_GLOBAL": os.devnull}
    done = subprocess.run(command, cwd=clone.folder, env=own, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "to run" not in done.stdout
    assert "dubious ownership" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_table_of_what_is_known_runs_nothing(clone: Clone, swept: object) -> None:
    before = stages_of(clone.home)
    table(clone, "--datasets", "digits", "--bits", "12,40", "--seeds", "0", "--known")
    assert stages_of(clone.home) == before
    assert "not yet (make table)" in (clone.folder / "t.md").read_text()


def test_an_experiment_that_ran_in_part_is_no_result(clone: Clone, swept: object) -> None:
    """Its split and features are of the new seed, but its metrics of the first run."""
    try:
        clone.dvc("exp", "run", "--name", "in-part", "-S", "seed=7", "extract")
    finally:
        clone.run("git", "checkout", "-q", ".")
        clone.dvc("checkout", "--force")
    in_part = [one for one in experiments(clone) if one["name"].startswith("in-part")]
    first = json.loads((clone.folder / "metrics/metrics.json").read_text())["map"]
    assert [(one["params"]["seed"], one["params"]["bits"], one["metrics"]["map"]) for one in in_part] == [
        (7, 12, first)
    ]
    message = table(clone, "--datasets", "digits", "--bits", "12", "--seeds", "0,7", "--dry-run")
    assert "2 cells: 1 known, 1 to run" in message


def test_a_table_passes_over_an_experiment_of_no_data_set(clone: Clone, swept: object) -> None:
    clone.wait_for_workers()
    clone.dvc("exp", "run", "--queue", "--name", "odd-set", "-S", "dataset=nope")
    message = table(clone, "--datasets", "digits", "--bits", "8,12", "--seeds", "0,1", "--dry-run")
    clone.dvc("queue", "remove", "odd-set")
    assert "4 cells: 4 known, 0 to run" in message


def test_an_interrupted_table_goes_on_where_it_was(clone: Clone, swept: object) -> None:
    trained = stages_of(clone.home).count("train")
    arguments = ("--datasets", "digits", "--bits", "10", "--seeds", "0,1")
    process = subprocess.Popen(
        [sys.executable, "-m", "ssdh", "table", "--page", "t.md", "--csv", "t.csv", *arguments],
        cwd=clone.folder, env=clone.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if "Running stage 'train'" in line:
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    message = table(clone, *arguments)
    assert "2 cells:" in message
    with (clone.folder / "t.csv").open(newline="") as file:
        assert [row["seed"] for row in csv.DictReader(file) if row["bits"] == "10" and row["map"]] == ["0", "1"]
    assert stages_of(clone.home).count("train") == trained + 2  # the one that was at work was not begun again


def test_a_cell_that_fails_is_named_with_the_command_that_shows_why(clone: Clone, swept: object) -> None:
    arguments = ["--datasets", "digits", "--bits", "6", "--seeds", "0", "--recipes", "centred"]
    for setting in (
        "train.lr=1e30",
        "train.weight_decay=1",
        "train.optimizer=sgd",
    ):  # fit to overflow
        arguments += ["--set", setting]
    command = [sys.executable, "-m", "ssdh", "table", "--page", "t.md", "--csv", "t.csv", *arguments]
    assert clone.run(*command, check=False).returncode == 1
    page = (clone.folder / "t.md").read_text()
    assert "failed: dvc queue logs " in page
    assert "train.lr=1e30" in page


# --- remotes --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    """A real S3 server on loopback (moto's) with a bucket; gives its address and credentials."""
    pytest.importorskip("moto", reason="needs the development extras (moto)")
    pytest.importorskip("dvc_s3", reason="needs the extra s3 (dvc-s3)")
    import boto3
    from moto.server import ThreadedMotoServer

    secrets = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        address = "http://{}:{}".format(*server.get_host_and_port())
        boto3.client(
            "s3",
            endpoint_url=address,
            aws_access_key_id="test",
            aws_secret_access_key="test",
            region_name="us-east-1",
        ).create_bucket(Bucket="results")
        yield secrets | {"address": address}
    finally:
        server.stop()


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_a_second_clone_gets_all_results_without_running_a_stage(
    clone: Clone,
    swept: dict[tuple[int, int], dict[str, Any]],
    kind: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    commands = [["remote", "add", "--local", "--default", kind, str(tmp_path / "storage")]]
    if kind == "s3":
        server = request.getfixturevalue("s3")
        clone.environment |= {name: value for name, value in server.items() if name != "address"}
        commands[0][-1] = "s3://results/ssdh"
        commands.append(["remote", "modify", "--local", kind, "endpointurl", server["address"]])
    for command in commands:
        clone.dvc(*command)
    clone.dvc("push", "--run-cache")  # --local: in .dvc/config the remote would have to be committed before the sweep
    hub = tmp_path / "hub.git"
    clone.run("git", "clone", "-q", "--bare", ".", str(hub))
    clone.run("git", "remote", "add", kind, str(hub))
    clone.dvc("exp", "push", kind, "-A")

    clone.run("git", "clone", "-q", str(hub), str(tmp_path / "second"))
    second = Clone(tmp_path / "second")
    second.environment |= {key: value for key, value in clone.environment.items() if key.startswith("AWS_")}
    for command in commands:
        second.dvc(*command)
    second.dvc("pull", "--run-cache")
    first = (clone.folder / "models/codes.npy").read_bytes()
    assert (second.folder / "models/codes.npy").read_bytes() == first
    assert second.repro() == []

    # the experiments come too: each is there whole, and the results table of the grid runs nothing
    second.dvc("exp", "pull", "origin", "-A")
    arguments = ("--datasets", "digits", "--bits", "8,12", "--seeds", "0,1", "--dry-run")
    assert "4 cells: 4 known, 0 to run" in second.run(sys.executable, "-m", "ssdh", "table", *arguments).stdout
    second.dvc("exp", "apply", swept[8, 1]["name"])
    metrics = json.loads((second.folder / "metrics/metrics.json").read_text())
    assert metrics["map"] == swept[8, 1]["metrics"]["map"]
    assert second.repro() == []
    assert stages_of(second.home) == []

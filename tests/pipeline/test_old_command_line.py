"""The earlier program's command line on the real pipeline: training of the whole network, evaluation, resuming."""

import csv
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.helpers.clone import Clone, stages_of

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def clone(first_run: Clone, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    return first_run.copy(tmp_path_factory.mktemp("old") / "clone")


def test_the_old_command_line_trains_the_whole_network_and_measures_it(clone: Clone) -> None:
    flags = shlex.split("-d digits -a resnet18 -c 16 -T 1 -l 1e-3 -q 100 -t 300 -k 500 -b 32 -e 4 -s 5")
    try:
        message = clone.run(sys.executable, "-m", "ssdh", *flags, "--train").stdout
        assert "dvc exp run -S dataset=digits -S recipe=published -S train.finetune=true" in message
        assert "On the CPU" in message
        metrics = json.loads((clone.folder / "metrics/metrics.json").read_text())
        assert (metrics["bits"], metrics["topk"]) == (16, 500)
        assert message.splitlines()[-1].startswith(f"[map@500:{metrics['map']:.4f}]")
        with (clone.folder / "metrics/validation.csv").open(newline="") as file:
            assert [int(row["iteration"]) for row in csv.DictReader(file)][:2] == [4, 8]

        before = stages_of(clone.home)
        model = clone.folder.parent / "mine.safetensors"
        shutil.copy(clone.folder / "models/hashnet.safetensors", model)
        message = clone.run(sys.executable, "-m", "ssdh", *flags, "--evaluate", "--checkpoint", str(model)).stdout
        assert re.search(rf"^map +{metrics['map']:.4f}$", message, re.MULTILINE)
        assert "train" not in stages_of(clone.home)[len(before) :]
    finally:
        clone.run("git", "checkout", "-q", ".")
        clone.dvc("checkout", "--force")


def test_the_old_command_line_resumes_from_its_snapshot(clone: Clone) -> None:
    flags = shlex.split("-d digits -a resnet18 -c 16 -T 400 -q 100 -t 300 -k 500 -b 32 -s 20 --head-only")
    home = clone.folder.parent / "resumed"
    environment = clone.environment | {"SSDH_HOME": str(home)}
    command = [sys.executable, "-m", "ssdh", *flags]
    try:
        process = subprocess.Popen(
            [*command, "--train"], cwd=clone.folder, env=environment, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        while not list(home.glob("work/**/snapshot.pt")):
            assert process.poll() is None
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        done = subprocess.run(
            [*command, "--resume"], cwd=clone.folder, env=environment, capture_output=True, text=True, check=True
        )
        (iteration,) = re.findall(r"continuing from the snapshot of iteration (\d+)", done.stdout + done.stderr)
        assert 0 < int(iteration) < 400 * 10
        assert done.stdout.splitlines()[-1].startswith("[map@500:")
        assert stages_of(home).count("train") == 1  # the killed one was never finished
    finally:
        clone.run("git", "checkout", "-q", ".")
        clone.dvc("checkout", "--force")

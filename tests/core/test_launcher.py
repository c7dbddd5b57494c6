"""What launchers, notebooks and clusters leave in the environment: one line, a stated wait, or no effect at all."""

import os
import socket
import subprocess
import sys
from datetime import timedelta

import pytest
import torch
from loguru import logger

from ssdh.core import distributed
from ssdh.core.cache_dir import ssdh_home
from ssdh.core.distributed import Rank, current_rank, process_group
from ssdh.core.errors import DataError, ParameterError, SSDHError
from ssdh.core.launcher import threads_allowed
from ssdh.core.runtime import num_cores, rank_cores

GOOD = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}


CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*GOOD, "LOCAL_WORLD_SIZE", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)


def set_all(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name, value in (GOOD | values).items():
        monkeypatch.setenv(name, value)


def test_ranks_are_what_the_launcher_says(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, LOCAL_WORLD_SIZE="2")
    assert current_rank() == Rank(1, 4, 1)
    assert rank_cores() == max(1, num_cores() // 2)


@pytest.mark.parametrize(
    "leftover",
    [
        {"WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "nowhere", "LOCAL_WORLD_SIZE": "many"},
        {"SLURM_PROCID": "1", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "7"},
        {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "PMI_RANK": "1", "PMI_SIZE": "2"},
    ],
)
def test_other_variables_alone_say_nothing(monkeypatch: pytest.MonkeyPatch, leftover: dict[str, str]) -> None:
    for name, value in leftover.items():
        monkeypatch.setenv(name, value)
    assert current_rank() == Rank()
    assert rank_cores() == num_cores()


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "LOCAL_RANK"])
@pytest.mark.parametrize("value", ["", " ", "two", "-1", "1.0", "²", "99"])
def test_malformed_variables_are_one_line(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    set_all(monkeypatch, **{name: value})
    if (name, value) == ("WORLD_SIZE", "99"):
        assert current_rank().count == 99
        return
    with pytest.raises(ParameterError, match=f"^{name} must be a whole number .* got '{value}': .*unset RANK[^\n]*$"):
        current_rank()


@pytest.mark.parametrize("name", ["WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"])
def test_missing_variables_are_one_line(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    set_all(monkeypatch)
    monkeypatch.delenv(name)
    with (
        pytest.raises(ParameterError, match=f"^{name} is not set, though RANK is: "),
        process_group(torch.device("cpu")),
    ):
        pass


@pytest.mark.parametrize("index", ["0", "1"])
def test_a_rank_without_the_others_says_so_and_gives_up(monkeypatch: pytest.MonkeyPatch, index: str) -> None:
    monkeypatch.setattr(distributed, "JOIN", timedelta(seconds=1.5))
    monkeypatch.setattr(distributed, "JOIN_SECONDS", 0.0)
    said: list[str] = []
    sink = logger.add(lambda message: said.append(str(message)), level="WARNING", format="{message}")
    with socket.socket() as held:  # a port where nobody listens, which no other program gets meanwhile
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        port = str(held.getsockname()[1])
        set_all(monkeypatch, RANK=index, LOCAL_RANK=index, WORLD_SIZE="2", MASTER_PORT=port)
        try:
            with pytest.raises(SSDHError, match="and gave up after at most"), process_group(CPU):
                pass
        finally:
            logger.remove(sink)
    assert [f"rank {index} of 2 waits for the others at 127.0.0.1:{port}" in line for line in said] == [True]
    assert "unset RANK WORLD_SIZE" in said[0]


@pytest.mark.parametrize(
    ("text", "expected"), [("4", 4), ("4,2", 4), ("", None), ("0", None), ("x", None), ("-2", None)]
)
def test_threads_are_those_of_the_environment_where_it_names_some(
    monkeypatch: pytest.MonkeyPatch, text: str, expected: int | None
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert threads_allowed() == expected


def test_without_a_home_folder_the_error_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> None:
        raise RuntimeError("Could not determine home directory.")

    for name in ("SSDH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("ssdh.core.cache_dir.Path.home", no_home)
    with pytest.raises(DataError, match="set SSDH_HOME"):
        ssdh_home()


@pytest.mark.parametrize(
    "inherited",
    [
        {"MPLBACKEND": "module://matplotlib_inline.backend_inline", "MATPLOTLIBRC": "/nonexistent"},
        {
            "OMP_NUM_THREADS": "0",
            "TMPDIR": "/nonexistent",
            "COLUMNS": "0",
            "CUDA_VISIBLE_DEVICES": "",
            "TZ": "No/Where",
        },
        {
            "OMP_NUM_THREADS": "",
            "LC_ALL": "C",
            "TZ": "No/Where",
            "TORCH_HOME": "/proc/none",
            "PYTHONPATH": "/nonexistent",
        },
    ],
)
def test_a_command_works_in_an_inherited_environment(inherited: dict[str, str]) -> None:
    code = (
        "import os, torch, ssdh.report.charts as charts, numpy as np, sys\n"
        "from ssdh.core.runtime import on_cores\n"
        "print(on_cores(lambda item: item, [1, 2]), '<svg' in charts.bit_balance(np.array([0.5, 0.4])),"
        " 'matplotlib.pyplot' in sys.modules, os.environ.get('MPLBACKEND'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | inherited, capture_output=True, text=True, check=False
    )
    assert done.stdout == f"[1, 2] True False {inherited.get('MPLBACKEND')}\n", done.stderr

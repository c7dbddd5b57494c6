"""DVC asked from Python beside a queue worker, with a dvc that answers what the test says."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ssdh.cli import table
from ssdh.core.errors import SSDHError
from ssdh.core.params import read_params
from ssdh.experiments import dvc as module
from ssdh.experiments.dvc import TRIES, dvc
from tests.helpers.clone import Clone

# each call takes the next of the answers, and the last of them for ever
FAKE = """
import json, pathlib, sys, time
folder = pathlib.Path(__file__).parent
(code, out, err), *rest = json.loads((folder / "answers.json").read_text())
(folder / "answers.json").write_text(json.dumps(rest or [(code, out, err)]))
with (folder / "calls.txt").open("a") as file:
    print(*sys.argv[1:], file=file)
if out is None:
    time.sleep(600)
print(out, end="")
print(err, end="", file=sys.stderr)
sys.exit(code)
"""
EMPTY = (255, "", "ERROR: unexpected error - Expecting value: line 1 column 1 (char 0)\n\nHaving any troubles?")
CUT = (255, "", "ERROR: unexpected error - Unterminated string starting at: line 1 column 40 (char 39)\n")
CORRUPTED = (255, "", "ERROR: unable to read: 'x.run', JSON file structure is corrupted\n")
BROKEN = (255, "", "ERROR: failed to parse 'dvc.yaml'\n")
GOOD = (0, "[]", "")
SILENT = (0, None, "")

Answers = Callable[..., Callable[[], list[str]]]


@pytest.fixture
def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Answers:
    """Sets what dvc answers, call by call; returns a function that lists the calls so far."""
    folder = tmp_path / "fake/dvc"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "__main__.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", str(folder.parent))
    monkeypatch.setattr(module, "PAUSE", 0.0)
    monkeypatch.setattr("tests.helpers.clone.PAUSE", 0.0)

    def answer(*given: tuple[int, str | None, str]) -> Callable[[], list[str]]:
        (folder / "answers.json").write_text(json.dumps(given))
        return lambda: (folder / "calls.txt").read_text().splitlines()

    return answer


@pytest.mark.parametrize("failure", [EMPTY, CUT, CORRUPTED])
def test_a_file_that_a_worker_was_writing_is_read_again(answers: Answers, failure: tuple[int, str, str]) -> None:
    calls = answers(failure, failure, GOOD)
    assert dvc("exp", "show", quiet=True) == "[]"
    assert calls() == ["--wait-for-lock exp show"] * 3


def test_a_file_that_stays_broken_is_dvcs_own_line_in_the_end(answers: Answers) -> None:
    calls = answers(EMPTY)
    with pytest.raises(
        SSDHError, match=r"^dvc exp failed with exit code 255: unexpected error - Expecting value: line"
    ):
        dvc("exp", "show", quiet=True)
    assert len(calls()) == TRIES


def test_another_failure_is_not_asked_again(answers: Answers) -> None:
    calls = answers(BROKEN, GOOD)
    with pytest.raises(SSDHError, match=r"^dvc exp failed with exit code 255: failed to parse 'dvc\.yaml'$"):
        dvc("exp", "show", quiet=True)
    assert len(calls()) == 1


def test_an_answer_that_does_not_come_is_asked_for_again(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER", 3.0)
    calls = answers(SILENT, GOOD)
    with pytest.MonkeyPatch.context() as long:
        long.setattr(module, "TRIES", 20)  # a slow machine may need more than 3 seconds for the good one
        assert dvc("exp", "show", quiet=True) == "[]"
    assert len(calls()) >= 2
    answers(SILENT)
    monkeypatch.setattr(module, "TRIES", 2)
    with pytest.raises(SSDHError, match=r"^dvc exp gave no answer in 3 s, 2 times: try it by itself$"):
        dvc("exp", "show", quiet=True)


def test_what_changes_something_is_not_run_again(answers: Answers) -> None:
    calls = answers(EMPTY, GOOD)
    with pytest.raises(SSDHError, match=r"^dvc exp failed with exit code 255$"):
        dvc("exp", "run", "--queue")
    assert len(calls()) == 1


def listed(params: dict[str, Any], state: str) -> tuple[int, str, str]:
    """What `dvc exp show --json` prints of one experiment."""
    data = {"params": {"params.yaml": {"data": params}}, "metrics": {}}
    group = {"executor": {"state": state}, "revs": [{"rev": "0" * 40, "name": "one", "data": data}]}
    return (0, json.dumps([{"rev": "1" * 40, "experiments": [group]}]), "")


def test_a_table_waits_again_where_dvc_gave_up_waiting(
    answers: Answers, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = read_params(project / "params.yaml")
    monkeypatch.chdir(project)
    calls = answers(EMPTY, EMPTY, listed(params, "running"), GOOD)
    table.wait_for_all(2)
    waits, asked = "--wait-for-lock exp run --run-all --jobs 2", "--wait-for-lock exp show --json -n 20"
    assert calls() == [waits, asked, asked, waits]


@pytest.mark.parametrize(("state", "waits"), [("failed", 1), ("running", TRIES)])
def test_a_table_waits_no_longer_than_there_is_something_to_wait_for(
    state: str, waits: int, answers: Answers, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed experiment is the end; one that runs for ever by DVC's word is asked for a number of times."""
    params = read_params(project / "params.yaml")
    monkeypatch.chdir(project)
    calls = answers(*(TRIES * [BROKEN, listed(params, state)]))
    table.wait_for_all(1)
    assert [call.split()[2] for call in calls()] == ["run", "show"] * waits


def test_the_tests_own_status_is_asked_again(answers: Answers, tmp_path: Path) -> None:
    clone = Clone(tmp_path)
    calls = answers(EMPTY, (0, "Success", ""))
    assert clone.dvc("queue", "status").stdout == "Success"
    assert calls() == ["--wait-for-lock queue status"] * 2
    answers(BROKEN)
    with pytest.raises(AssertionError, match=r"exited with 255\n\nERROR: failed to parse"):
        clone.dvc("queue", "status")
    answers(EMPTY, GOOD)
    assert clone.dvc("exp", "run", check=False).returncode == 255

"""Fixtures that several test modules use."""

import os
from collections import Counter
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings

from tests.helpers.clone import Clone, make_clone

if "PYTEST_XDIST_WORKER" in os.environ:  # workers fill the cores: more threads would only wait for each other's
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples each time, however slow the machine; `make test-slow` draws anew.
settings.register_profile("steady", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")

PROJECT = Path(__file__).resolve().parents[1]
SHARED = PROJECT.parent / "shared"


@pytest.fixture(scope="session")
def project() -> Path:
    """The root of the working tree under test."""
    return PROJECT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the project; tests that ask for it skip where it is absent."""
    if not (SHARED / "data").is_dir():
        pytest.skip("needs the real data beside the project (../shared/data), which only developers and CI have")
    return SHARED / "data"


@pytest.fixture(scope="session")
def first_run(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone that has run the small pipeline once and committed it: copy it, change nothing in it.

    All workers of pytest-xdist share it; the one that comes first makes it.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    clone = Clone(shared / "first-run" / "clone")
    with FileLock(shared / "first-run.lock"):
        if not clone.record.exists():
            make_clone(project, clone.folder)
            ran = clone.repro()
            clone.commit("first run")
            clone.record.write_text("\n".join(ran), encoding="utf-8")
    return clone


def pytest_xdist_auto_num_workers() -> int:
    """One worker more than there are cores: long tests wait for processes that they have started."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files whose tests are long come first, so that no worker begins one when the others are done."""
    items.sort(key=lambda item: item.path.parent.name != "pipeline")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for each thing that is missing, with the number of tests that need it."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = Counter(str(report.longrepr[2]).removeprefix("Skipped: ") for report in skipped)
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"SKIPPED {count}: {reason}")


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test has a cache folder of its own and no network."""
    monkeypatch.setenv("SSDH_HOME", str(tmp_path / "ssdh-home"))
    monkeypatch.setenv("SSDH_OFFLINE", "1")

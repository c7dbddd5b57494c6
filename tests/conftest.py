"""Fixtures that several test modules use."""

from pathlib import Path

import pytest

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


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test has a cache folder of its own and no network."""
    monkeypatch.setenv("SSDH_HOME", str(tmp_path / "ssdh-home"))
    monkeypatch.setenv("SSDH_OFFLINE", "1")

"""`$SSDH_HOME`: where downloads, unfinished work and timings lie, shared by every workspace of a person."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssdh.core.errors import DataError
from ssdh.core.files import try_folder


def ssdh_home() -> Path:
    """The folder of downloads, unfinished work and timings: `$SSDH_HOME`, by default in the user's cache directory.

    Raises DataError where the user has none.
    """
    try:
        if home := os.environ.get("SSDH_HOME"):
            return Path(home).expanduser().resolve()
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # HOME is not set, and the system knows no such user
        raise DataError(
            "this user has no home folder for downloads and unfinished work: set SSDH_HOME (environment)"
        ) from None
    return Path(base) / "ssdh"


def check_home() -> None:
    """Raise DataError where `$SSDH_HOME` cannot be made or written to."""
    home = ssdh_home()
    try:
        try_folder(home)
    except OSError as error:
        raise DataError(
            f"{home}, where downloads and unfinished work go, cannot be written to ({error.strerror}): set SSDH_HOME "
            "to a folder that can (environment)"
        ) from None


def offline() -> bool:
    """Whether `SSDH_OFFLINE` forbids the network: any text but 0, false and no."""
    return os.environ.get("SSDH_OFFLINE", "").lower() not in ("", "0", "false", "no")


# protocols on one set share its folder
_FOLDERS = {"nus_wide_10": "nus_wide", "nus_wide_21": "nus_wide", "cifar10_i": "cifar10", "cifar10_ii": "cifar10"}


def raw_folder(name: str, data: Mapping[str, Any]) -> Path:
    """The folder of data set `name` by its block `datasets.<name>.data`: its root, else `$SSDH_HOME/datasets/<name>`.

    A file set's manifest paths are relative to this folder.
    """
    if root := data.get("root"):
        return Path(root).expanduser()
    return ssdh_home() / "datasets" / _FOLDERS.get(name, name)

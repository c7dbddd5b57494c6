"""`$SSDH_HOME`: where downloads, unfinished work and timings lie, shared by every workspace of a person."""

import os
from pathlib import Path

from ssdh.errors import DataError
from ssdh.files import try_folder


def ssdh_home() -> Path:
    """The folder of downloads, unfinished work and timings: `$SSDH_HOME`, by default in the user's cache directory."""
    if home := os.environ.get("SSDH_HOME"):
        return Path(home).expanduser().resolve()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
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

"""Where a data set's raw files lie. Apart from the registry, so that `extract` depends on no data set's code."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssdh.home import ssdh_home

# two protocols on one set share its folder
_FOLDERS = {"nus_wide_10": "nus_wide", "nus_wide_21": "nus_wide"}


def raw_folder(name: str, data: Mapping[str, Any]) -> Path:
    """The folder of data set `name` by its block `datasets.<name>.data`: its root, else `$SSDH_HOME/datasets/<name>`.

    A file set's manifest paths are relative to this folder.
    """
    if root := data.get("root"):
        return Path(root).expanduser()
    return ssdh_home() / "datasets" / _FOLDERS.get(name, name)

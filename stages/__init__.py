"""Entry points of the DVC stages: `python -m stages.NAME` reads parameters, calls `ssdh`, writes outs."""

import sys

try:
    from ssdh.core.shadowing import name_what_shadows
except ModuleNotFoundError as error:
    if error.name != "ssdh.core":
        raise
    stray = getattr(sys.modules["ssdh"], "__file__", "another ssdh")
    raise SystemExit(f"stages: {stray} stands in the place of the package ssdh: rename it") from None

name_what_shadows("stages")

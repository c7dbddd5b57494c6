"""The report: one self-contained page about a run.

matplotlib is imported here, without the backend that a notebook names in MPLBACKEND: figures are drawn without any, and
matplotlib would refuse to be imported where that backend's package is not installed.
"""

import os

_backend = os.environ.pop("MPLBACKEND", None)
try:
    import matplotlib as matplotlib
finally:
    if _backend is not None:
        os.environ["MPLBACKEND"] = _backend

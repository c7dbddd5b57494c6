"""Check all parameters and make sure that raw data and weights are there: `python -m stages.check`.

DVC removes a stage's outs before its command runs; this stage runs before any of them, so that a mistake in
`params.yaml`, a missing archive or no network leaves earlier results as they are.
"""

from pathlib import Path

from ssdh.check import check
from ssdh.core.files import atomic_path
from ssdh.core.params import read_params
from ssdh.core.stage import stage

OUT = Path("data/checked.txt")


@stage("check")
def main() -> None:
    """Validate everything, fetch what is missing, then write a constant file."""
    check(read_params())
    with atomic_path(OUT) as temporary:
        temporary.write_text("parameters, raw data and weights were checked\n", encoding="utf-8")


if __name__ == "__main__":
    main()

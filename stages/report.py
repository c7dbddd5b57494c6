"""One self-contained page about the run, from its metrics, codes and images: `python -m stages.report`."""

from pathlib import Path

from ssdh.core.files import atomic_path
from ssdh.core.params import read_params
from ssdh.core.stage import stage
from ssdh.report.collect import collect
from ssdh.report.page import render

OUT = Path("metrics/report.html")


@stage("report")
def main() -> None:
    """Collect what the other stages wrote and write the page."""
    page = render(collect(Path(), read_params()))
    with atomic_path(OUT) as temporary:
        temporary.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()

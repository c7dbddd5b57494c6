"""What a run costs beside its work: `python -m benchmarks.startup [--small]`.

In a clone of this folder with a cache of its own: the seconds each stage needs to import, beside importing torch; a
whole default run, and how much of it is not inside a stage's main function (interpreters, imports, DVC's own start,
hashing); then `dvc repro` with nothing to do beside that of a repository with one stage. Best of several rounds.
"""

import argparse
import csv
import functools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common import best_seconds, table, write_results
from tests.helpers.clone import Clone, make_clone

PROJECT = Path(__file__).resolve().parents[1]


def import_seconds(clone: Clone, stages: list[str], repeats: int) -> list[dict[str, Any]]:
    """Seconds of a fresh interpreter that imports a stage, or torch, above one that imports nothing."""
    candidates = {"nothing": "pass", "torch": "import torch"} | {name: f"import stages.{name}" for name in stages}
    work = {name: functools.partial(clone.run, sys.executable, "-c", code) for name, code in candidates.items()}
    seconds = best_seconds(work, repeats)
    bare, torch = seconds["nothing"], seconds["torch"] - seconds["nothing"]
    return [
        {"imports": name, "seconds": seconds[name] - bare, "of torch": (seconds[name] - bare) / torch}
        for name in seconds
        if name != "nothing"
    ]


def inside(clone: Clone) -> dict[str, float]:
    """Seconds inside each stage's main function, as the stages wrote them down."""
    with (clone.home / "timings.csv").open(newline="", encoding="utf-8") as file:
        return {row["stage"]: float(row["seconds"]) for row in csv.DictReader(file)}


def whole_run(clone: Clone) -> tuple[dict[str, float], float]:
    """Seconds inside each stage of a whole `dvc repro`, and of all of it."""
    started = time.perf_counter()
    clone.dvc("repro")
    return inside(clone), time.perf_counter() - started


def one_stage(folder: Path, environment: dict[str, str]) -> Callable[[], Any]:
    """`dvc repro` with nothing to do in a new repository of one stage with one dependency: the least that DVC needs."""
    folder.mkdir()
    (folder / "dvc.yaml").write_text("stages:\n  one:\n    cmd: echo\n    deps: [input]\n", encoding="utf-8")
    (folder / "input").write_text("1\n", encoding="utf-8")
    run = functools.partial(subprocess.run, check=True, capture_output=True, cwd=folder, env=environment)
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        run(command)
    repro = functools.partial(run, [sys.executable, "-m", "dvc", "repro"])
    repro()
    return repro


def main() -> None:
    """Print the tables and write `benchmarks/results/startup.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a small network at 32 px instead of the default run")
    parser.add_argument("--repeats", type=int, default=5)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        clone = make_clone(PROJECT, Path(name) / "clone", small=chosen.small)
        clone.environment.pop("OMP_NUM_THREADS")
        clone.environment.pop("PYTHONDONTWRITEBYTECODE")
        clone.environment |= {"DVC_NO_ANALYTICS": "1", "SSDH_OFFLINE": "0"}
        if not (clone.folder / ".dvc").exists():
            clone.dvc("init", "-q")
        (clone.folder / "dvc.lock").unlink(missing_ok=True)
        clone.dvc("config", "cache.dir", str(Path(name) / "cache"))
        stages = sorted(path.stem for path in (PROJECT / "stages").glob("[a-z]*.py"))
        imports = import_seconds(clone, stages, chosen.repeats)
        mains, total = whole_run(clone)
        least = one_stage(Path(name) / "least", clone.environment)
        seconds = best_seconds(
            {
                "no-op": lambda: clone.dvc("repro"),
                "least": least,
            },
            chosen.repeats,
        )
    print(table(imports))
    print(table([{"stage": stage, "seconds inside": value} for stage, value in mains.items()]))
    overhead = total - sum(mains.values())
    summary = {
        "default run, seconds": total,
        "not inside a stage": overhead,
        "of it imports": sum(row["seconds"] for row in imports if row["imports"] in mains),
        "dvc repro with nothing to do": seconds["no-op"],
        "dvc repro of one stage": seconds["least"],
    }
    print(table([summary]))
    print(write_results("startup", {"imports": imports, "inside": mains, "summary": summary}))


if __name__ == "__main__":
    main()

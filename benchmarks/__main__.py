"""All benchmarks, one after the other: `python -m benchmarks` (or `make bench`); each prints its ratios.

    python -m benchmarks --quick                                 # small sizes, minutes; results in results/quick/
    python -m benchmarks --only structure,pipeline --features FILE.npz

Each benchmark is a program of its own (`python -m benchmarks.NAME --help`) and writes its figures with machine,
versions and date to `benchmarks/results/NAME.json`. FILE.npz holds `features` (N, D) and `labels` (N,); without it
features are made. Nothing else should run on the machine.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.common import COMMITTED, RESULTS
from benchmarks.structure import features as made_features

# the benchmarks, with the options of a quick round
QUICK = {
    "structure": ["--images", "1500", "--repeats", "1", "--growth", "1500,3000"],
    "retrieval": ["--small", "--repeats", "1"],
    "training": ["--only", "head", "--repeats", "1"],
    "extraction": ["--arch", "resnet18", "--blocks", "1", "--repeats", "1"],
    "search": ["--images", "50000", "--queries", "50"],
    "rerank": ["--images", "20000", "--dim", "64", "--queries", "5"],
    "baselines": ["--images", "20000", "--queries", "5", "--repeats", "1"],
    "serve": ["--seconds", "3", "--clients", "4", "--images", "5000"],
    "startup": ["--small", "--repeats", "1"],
    "pipeline": ["--num-train", "1000"],
    "scaling": ["--largest", "10000", "--only", "evaluation,training"],
    "decoding": ["--images", "100", "--repeats", "1"],
}
WITH_FEATURES = {"retrieval", "pipeline", "baselines"}


def make_features(path: Path, count: int) -> None:
    """Write features (count, 512) of 20 clusters with their classes, in the form of FILE.npz."""
    values = made_features(count, 512)
    rng = np.random.default_rng(0)
    rng.standard_normal((20, 512), dtype=np.float32)  # as made_features draws: centres first, then the clusters
    np.savez(path, features=values.astype(np.float16), labels=(rng.integers(0, 20, count) % 10).astype(np.uint8))


def arguments(name: str, features: Path, photos: Path | None, quick: bool) -> list[str]:
    """The command line of one benchmark."""
    given = list(QUICK[name]) if quick else []
    if name in WITH_FEATURES:
        given += ["--features", str(features)]
    if name == "scaling" and RESULTS == COMMITTED and not quick:
        given += ["--plots", "docs/images"]
    if name == "decoding":
        given.insert(0, str(photos))
    return given


def measure(name: str, given: list[str], results: Path) -> bool:
    """Run one benchmark as a program; whether it wrote its results."""
    print(f"\n=== python -m benchmarks.{name} {' '.join(given)}", flush=True)
    started = time.time()
    environment = os.environ | {"SSDH_BENCH_RESULTS": str(results)}
    done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *given], env=environment, check=False)
    path = results / f"{name}.json"
    written = not done.returncode and path.is_file() and path.stat().st_mtime >= started
    if not written:
        print(f"{name} failed with exit code {done.returncode}", file=sys.stderr)
    return written


def main() -> int:
    """Run what was chosen; returns 1 where a benchmark failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help=f"of {', '.join(QUICK)}; by default all (decoding only with --photos)")
    parser.add_argument("--features", type=Path, help=".npz with features and labels, instead of made ones")
    parser.add_argument("--photos", type=Path, help="a folder of JPEG photos, for decoding")
    parser.add_argument("--quick", action="store_true", help="small sizes, one round: to see that all of it runs")
    chosen = parser.parse_args()
    names = chosen.only.split(",") if chosen.only else [name for name in QUICK if name != "decoding" or chosen.photos]
    if unknown := [name for name in names if name not in QUICK]:
        parser.error(f"--only {','.join(unknown)}: known are {', '.join(QUICK)}")
    if "decoding" in names and not chosen.photos:
        parser.error("decoding needs --photos")
    results = RESULTS / "quick" if chosen.quick else RESULTS
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        features = chosen.features or Path(folder) / "features.npz"
        if not chosen.features and WITH_FEATURES & set(names):
            make_features(features, 10_000 if chosen.quick else 60_000)
        for name in names:
            if not measure(name, arguments(name, features, chosen.photos, chosen.quick), results):
                failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""What every benchmark needs: the best of several runs, peak memory of a fresh process, the machine, the JSON file.

Machines are noisy, so only ratios of one run mean something. Timings go round the candidates in turn (A B C, A B C, …):
a slow spell then hits all of them, not one.
"""

import json
import multiprocessing
import os
import platform
import resource
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ssdh.core.runtime import num_cores

COMMITTED = Path(__file__).resolve().parent / "results"
STUDIES = COMMITTED.parent / "studies"
RESULTS = Path(os.environ.get("SSDH_BENCH_RESULTS") or COMMITTED)
PACKAGES = ("numpy", "scipy", "torch", "faiss-cpu", "scikit-learn")


def best_seconds(candidates: Mapping[str, Callable[[], Any]], repeats: int = 3) -> dict[str, float]:
    """The least wall-clock seconds of each candidate over `repeats` rounds; every round runs each of them once."""
    best = dict.fromkeys(candidates, float("inf"))
    for _ in range(repeats):
        for name, work in candidates.items():
            started = time.perf_counter()
            work()
            best[name] = min(best[name], time.perf_counter() - started)
    return best


def peak_mib(prepare: Callable[[], Any], work: Callable[[Any], Any]) -> float:
    """Peak resident memory, in MiB, that `work(prepare())` adds to what stood after `prepare()`.

    Both run in a fresh child process (spawned: no memory of the parent), so they must be importable functions (or
    `functools.partial` of such). The resident size is sampled each 2 ms, so that the peak of `prepare` does not count.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure_peak, args=(prepare, work, sender))
    process.start()
    sender.close()
    try:
        peak: float = receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"the measured process ended with exit code {process.exitcode}") from None
    process.join()
    return peak


def _measure_peak(prepare: Callable[[], Any], work: Callable[[Any], Any], sender: Any) -> None:
    prepared = prepare()
    before = highest = resident_mib()
    done = threading.Event()

    def sample() -> None:
        nonlocal highest
        while not done.wait(0.002):
            highest = max(highest, resident_mib())

    sampler = threading.Thread(target=sample)
    sampler.start()
    work(prepared)
    done.set()
    sampler.join()
    sender.send(max(highest, resident_mib()) - before)


def resident_mib() -> float:
    """Resident memory of this process now, in MiB (its peak where the system does not tell the present one)."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def machine() -> dict[str, Any]:
    """Processor, cores, memory, load, system, versions of what computes, and the time in UTC."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "cores": num_cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load": round(os.getloadavg()[0], 1),  # processes that wanted a core, this one among them
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def write_results(name: str, results: Any, out: Path | None = None) -> Path:
    """Write `{"machine": …, "results": results}` to `out`, by default `benchmarks/results/<name>.json`."""
    path = out or RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"machine": machine(), "results": results}, indent=2, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
    return path


def table(rows: list[dict[str, Any]]) -> str:
    """Lay out rows with the same keys as text; floats with four significant digits, a missing value as –."""
    if not rows:
        return ""
    columns = list(rows[0])
    cells = [columns, *([_cell(row.get(column)) for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in cells]
    lines.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)

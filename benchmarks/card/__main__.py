"""Everything that only a card can show, most important first: `python -m benchmarks.card [PART…] --out DIR`.

extraction: images a second beside the bare forward pass, the same bits twice, the difference from the CPU.
steps: a training step beside the bare one, and what `runtime.deterministic` costs. protocol: cifar10 with the whole
network trained, mAP and seconds. cached: the hash layer beside the CPU. interruption: killed and
resumed, out of memory. nccl: the ways of several processes, with one. compiled: steps with `torch.compile`.

Each part is a process of its own with its own time limit and writes DIR/PART.json after each row, so that one failure
does not lose the rest; DIR/card.json holds them all. Tiny, on a CPU: `--device cpu --small`.
"""

import argparse
import importlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.card.options import Options, Row, add_arguments, options_of
from benchmarks.common import write_results

LIMITS = {  # seconds
    "extraction": 130,
    "steps": 130,
    "protocol": 330,
    "cached": 60,
    "interruption": 100,
    "nccl": 40,
    "compiled": 90,
}


def run_inside(name: str, options: Options) -> None:
    """Measure one part in this process; its JSON is written after each row."""
    from ssdh.core.stage import configure_logging

    configure_logging("WARNING")
    rows: list[Row] = []
    started = time.perf_counter()
    for row in importlib.import_module(f"benchmarks.card.{name}").rows(options):
        rows.append(row)
        write_results(name, rows, options.out / f"{name}.json")
        print(f"[{name} {time.perf_counter() - started:.0f} s] {json.dumps(row)}", flush=True)


def run_part(name: str, options: Options, limit: float) -> Row:
    """Measure one part in a process of its own; returns its rows, seconds and, where it failed, how it ended."""
    (options.out / f"{name}.json").unlink(missing_ok=True)
    started = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.card", name, "--inside", *options.arguments()]
    process = subprocess.Popen(command, start_new_session=True)
    ended: str | int
    try:
        ended = process.wait(limit)
    except subprocess.TimeoutExpired:
        ended = f"stopped after {limit:.0f} s"
        os.killpg(process.pid, signal.SIGKILL)  # what it started too
        process.wait()
    path = options.out / f"{name}.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["results"] if path.is_file() else []
    return {"seconds": time.perf_counter() - started, "ended": ended, "rows": rows}


def card(device: str) -> dict[str, Any]:
    """The card, its driver and the versions of what computes on it."""
    import torch

    result: dict[str, Any] = {"device": device, "torch": torch.__version__, "cuda": torch.version.cuda}
    result |= {"python": platform.python_version(), "cores": os.cpu_count()}
    if device != "cpu":
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        result["card"] = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
        result["cudnn"] = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        result["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))  # type: ignore[no-untyped-call]
    return result


def main() -> int:
    """Run the parts one after the other; 1 where one did not end well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(LIMITS)}; by default all")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    add_arguments(parser)
    chosen = parser.parse_args()
    if unknown := [name for name in chosen.parts if name not in LIMITS]:
        parser.error(f"{', '.join(unknown)}: the parts are {', '.join(LIMITS)}")
    if chosen.inside:
        run_inside(chosen.parts[0], options_of(chosen))
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        chosen.work = chosen.work or Path(temporary)
        return run_parts(chosen.parts or list(LIMITS), options_of(chosen))


def run_parts(names: list[str], options: Options) -> int:
    """Run the parts, each with its limit; 1 where one did not end well."""
    options.out.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"card": card(options.device), "parts": {}}
    for name in names:
        print(f"=== {name}", flush=True)
        result["parts"][name] = run_part(name, options, LIMITS[name] * (10 if options.small else 1))
        write_results("card", result, options.out / "card.json")
    failed = [name for name, part in result["parts"].items() if part["ended"] != 0]
    for name, part in result["parts"].items():
        print(f"{name}: {len(part['rows'])} rows, {part['seconds']:.0f} s, ended {part['ended']}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

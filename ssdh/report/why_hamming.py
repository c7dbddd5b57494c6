"""The part of the report that answers "why Hamming at all?", where PQ, OPQ or RaBitQ are among the baselines.

Quality and bytes are the run's own; speeds were measured once, on one machine, by `python -m benchmarks.baselines
--publish`, which writes `search_speed.csv`: method, times_float, hamming, and what was searched: codes, bits, dim.
"""

from pathlib import Path
from typing import Any

from ssdh.core.files import read_table
from ssdh.hashing.codes import width
from ssdh.report.contents import Report
from ssdh.report.markup import number, table, text

SPEED = Path(__file__).with_name("search_speed.csv")
ANSWER = """<p>A Hamming distance is an exclusive or and a count of bits: no decoder, no tables, no floats. So codes are
scanned several times as fast, and every database that has bit strings compares them. Quantisers keep more of the order
among the nearest; re-ranking a shortlist of codes by the features brings that back.</p>"""


def read_speeds() -> dict[str, dict[str, str]]:
    """The rows of `search_speed.csv` by method."""
    return {row["method"]: row for row in read_table(SPEED.read_text(encoding="utf-8"))}


def why_hamming(report: Report) -> str:
    """Bytes, quality and speed of every method that was timed; empty where no baseline is other than Hamming codes."""
    speeds, known = read_speeds(), report.results.baselines
    if not any(row["hamming"] == "0" and name in known for name, row in speeds.items() if name != "float"):
        return ""
    metrics = report.results.metrics
    own: dict[str, Any] = {"title": "SSDH", "bytes_per_image": width(int(metrics.get("bits", 0)))} | metrics
    nearest = min(metrics.get("neighbor_recall_at", {}), key=int, default="")
    rows = []
    for name, row in speeds.items():
        if (values := own if name == "ssdh" else known.get(name)) is None:
            continue
        size = values.get("bytes_per_image")
        recall = values.get("neighbor_recall_at", {}).get(nearest)
        rows.append(
            (
                text(values.get("title", name)),
                "" if size is None else number(int(size)),
                *([number(values["map"])] if "map" in metrics else []),
                "" if recall is None else number(recall),
                number(float(row["times_float"]), 1),
            )
        )
    header = ("method", "bytes a code", *(["mAP"] if "map" in metrics else []))
    header += (f"recall of the {nearest} nearest", "queries a second, times the float scan")
    at = next(iter(speeds.values()))
    caption = (
        f"Speeds are not of this run: one query after the other among {int(at['codes']):,} codes of {at['bits']} bits, "
        f"from its {at['dim']} features to its hundred nearest, on one thread "
        "(<code>python -m benchmarks.baselines</code>)"
    )
    return f"<h3>Why Hamming at all?</h3>{table(caption, header, rows, kind='numbers')}{ANSWER}"

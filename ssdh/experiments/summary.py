"""The short table after a run: mAP beside the baselines, pairs labelled, and each stage's seconds or "cached"."""

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from ssdh.core.records import read_timings

STAGES = ("check", "prepare", "extract", "views", "structure", "train", "encode", "evaluate", "baselines", "report")


def read_metrics(folder: Path) -> dict[str, Any]:
    """Return `{name: content}` of every JSON file of `folder`, e.g. `{"metrics": {"map": …}, "structure": …}`."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def stage_seconds(timings: Path, since: datetime) -> dict[str, float]:
    """Return the seconds of each stage that ended at or after `since`, from `$SSDH_HOME/timings.csv`."""
    return {run.stage: run.seconds for run in read_timings(timings) if run.ended >= since}


def summary_table(metrics: Mapping[str, Any], seconds: Mapping[str, float], *, smoke_run: bool) -> str:
    """Lay out the table as lines of text.

    metrics: what `read_metrics` returns; a part that is absent is left out. seconds: stages that ran; others are
    "cached". smoke_run: say that random weights are no measurement of the method.
    """
    results = metrics.get("metrics", {})
    rows = [("data set", str(results.get("dataset", "?"))), ("bits", str(results.get("bits", "?")))]
    rows += _quality(results, metrics.get("baselines", {}))
    if structure := metrics.get("structure"):
        similar, dissimilar = structure["fraction_similar"], structure["fraction_dissimilar"]
        rows.append(("pairs labelled", f"{similar:.1%} similar, {dissimilar:.1%} dissimilar"))
    took = [f"{stage} {seconds[stage]:.1f}" if stage in seconds else f"{stage} cached" for stage in STAGES]
    rows.append(("seconds", ", ".join(took)))
    width = max(len(name) for name, _ in rows) + 2
    lines = [f"{name:<{width}}{value}" for name, value in rows]
    if smoke_run:
        lines.append("A smoke run: the backbone's weights are random, so this is no measurement of the method.")
    return "\n".join(lines)


def _quality(results: Mapping[str, Any], baselines: Mapping[str, Any]) -> list[tuple[str, str]]:
    """mAP and that of the baselines; of a run without labels, the shares of neighbours that the codes keep."""
    if "map" in results:
        others = [(f"  {method.upper()}", baselines.get(method, {})) for method in ("itq", "lsh", "float")]
        result = [(f"mAP@{results['topk']}", results), *((name, own) for name, own in others if "map" in own)]
        return [(name, f"{own['map']:.4f}") for name, own in result]
    recalls = {f"recall of {k} nearest": value for k, value in results.get("neighbor_recall_at", {}).items()}
    if "manifold_recall" in results:
        recalls["manifold recall"] = results["manifold_recall"]
    return [(name, f"{value:.4f}") for name, value in recalls.items()]

"""How far rivals are behind `manifold`, beside quick versions of them: is a rival weak, or badly written?

The quick versions were written from the papers' formulas before the recipes, on the same features but one split of
their own, without any search of settings: mAP@5000. A recipe is at most SLACK further behind `manifold`, the default
then, than its quick version, or the page says why.
"""

from collections.abc import Mapping, Sequence
from typing import Any

SLACK = 0.01
QUICK: dict[str, dict[int, float]] = {
    "manifold": {16: 0.415, 32: 0.444, 64: 0.468},
    "greedyhash": {16: 0.336, 32: 0.346, 64: 0.381},
    "bihalf": {16: 0.333, 32: 0.365, 64: 0.390},
    "sdc": {16: 0.363, 32: 0.384, 64: 0.402},
    "cibhash": {32: 0.370},
    "crovca": {32: 0.282},
}
MANIFOLD = "and `manifold` is 0.023 above that of the quick versions, which is of one split"
WHY: dict[tuple[str, int], str] = {  # of those that are further behind
    (
        "greedyhash",
        16,
    ): "settings are chosen at 32 bits; with a quantisation of 0.1, not 1, it has 0.340 (five seeds), the "
    f"quick version 0.336, {MANIFOLD}",
    ("bihalf", 16): f"it is 0.008 above the quick version, {MANIFOLD}",
    ("sdc", 16): f"it is 0.009 above the quick version, {MANIFOLD}",
}


def section(rows: Sequence[Mapping[str, Any]]) -> str:
    """The section of the page, Markdown; empty where no row has a quick version."""
    maps = {(row["method"], row["bits"]): row["map_mean"] for row in rows if row["settings"] == "chosen"}
    lines = []
    for method, quick in QUICK.items():
        for bits, value in quick.items():
            if method == "manifold" or not {(method, bits), ("manifold", bits)} <= maps.keys():
                continue
            here, there = maps["manifold", bits] - maps[method, bits], QUICK["manifold"][bits] - value
            verdict = "yes" if here <= there + SLACK else f"no: {WHY.get((method, bits), 'not known why')}"
            lines.append(f"| `{method}` | {bits} | {here:+.3f} | {there:+.3f} | {here - there:+.3f} | {verdict} |")
    return "\n".join([HEAD, *lines, "", TAIL]) if lines else ""


HEAD = f"""### Rivals beside quick versions of them

A recipe that is far behind could be badly written. So here is how far each is behind `manifold` (settings `chosen`,
means of the seeds above), beside how far a quick version was: written from the formulas before the recipe, on the
same features, on one other split, without any search. At most {SLACK} further behind is right.

| method | bits | behind here | quick version | difference | right? |
|---|---|---|---|---|---|"""
TAIL = "Of MLS3RDUH and CIMON there is no quick version; their losses and gradients have tests against formulas alone."

"""The page of all methods, from the rows that `benchmarks.quality` wrote: `docs/leaderboard.md`.

    python -m benchmarks.quality --features FILE.npz --views FILE.npy --methods NAME --json LEADERBOARD.json
    python -m benchmarks.leaderboard [benchmarks/results/leaderboard-*.json] [--out docs/leaderboard.md]

The first command measures a method and puts its rows beside those that LEADERBOARD.json has, such as
`benchmarks/results/leaderboard-cifar10.json`; the second writes the page: one section a file, whose name says which
features it is of (ABOUT).
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
from scipy.special import stdtrit

from benchmarks import quick_versions
from benchmarks.common import COMMITTED
from ssdh.evaluation.baselines import registry
from ssdh.evaluation.baselines._base import Codes
from ssdh.experiments.bootstrap import student_half

OUT = COMMITTED.parents[1] / "docs" / "leaderboard.md"
OURS = ("default", "published", "centred", "manifold", "manifold_views", "soft", "neighbors", "float")
ABOUT = {
    "leaderboard-cifar10": (
        "CIFAR-10, VGG16 features",
        "All 60,000 images, VGG16 `pool5` at 128 px averaged to 512 values; 1,000 queries, 5,000 train, 59,000 in the "
        "database, mAP@5000. Of methods on views `manifold_views`, the default, takes four random crops of each train "
        "image, `cibhash`, `cimon` and `crovca` take six.",
    ),
    "leaderboard-digits": (
        "Digits, VGG16 features",
        "The 1,797 digits of the default data set, VGG16 `pool5` at 64 px averaged to 512 values, in bf16; 200 "
        "queries, 1,000 train, 1,597 in the database, mAP@1000. Methods on views take four random crops of each train "
        "image, also those that ask for six. Settings were chosen on CIFAR-10 features: these chose nothing.",
    ),
    "leaderboard-fashion": (
        "Fashion-MNIST, VGG16 features",
        "All 70,000 images, VGG16 `pool5` at 64 px averaged to 512 values, in bf16; 1,000 queries, 5,000 train, 69,000 "
        "in the database, mAP@5000. Methods on views take four random crops of each train image, also those that ask "
        "for six. Settings were chosen on CIFAR-10 features, so these chose nothing.",
    ),
}
HEAD = """# Leaderboard

Every method on the same features, splits, seeds and exact evaluator; written by `python -m benchmarks.leaderboard`
from the JSON files in `benchmarks/results/`, not by hand. To add a line, measure a recipe or a baseline, then write
the page:

```bash parse
python -m benchmarks.quality --features FILE.npz --views FILE.npy --bits 32,64 --methods NAME --json LEADERBOARD.json
python -m benchmarks.leaderboard
```

LEADERBOARD.json is `benchmarks/results/leaderboard-cifar10.json` for the features below, a file of its own for others.

mAP is tie-aware, mean ± deviation over the seeds, each of which draws split, weights and batches; the column *seeds*
says how many there were. *Settings*: `authors` are those of its paper, or of a baseline, which has none to choose;
`chosen` those of the recipe's own file, for a rival the best of eight trials; `trials` the best of as many for a
recipe of ours, whose file keeps the paper's settings or those of a longer search. All eight are drawn from a small
grid and scored at 32 bits on validation queries of two CIFAR-10 splits that no figure here is of: `python -m
benchmarks.studies.rivals`, every run in `benchmarks/studies/rivals.json`. **Collapsed** codes hold almost nothing (a
constant bit, or fewer than one code in a hundred images); such a row stays as it is. *Same picture* is the share of
the ten nearest images by features among the first ten and the first hundred by code. *Seconds* are processor time of
one core: fit, and codes of all images. No method is given anything besides images. *The default's lead* is the
difference of the means, with the 95% interval over the seeds, which holds the noise of splits, queries and training:
Student's of the seeds' differences where each seed's mAP is kept, since both methods had its split; else Welch's of
the two means and deviations, which is wider.
"""

ABSENT = """## What is not here

Sets with several labels an image: of COCO 256 photos were at hand, of MIRFLICKR-25K and NUS-WIDE the labels and no
image. A protocol takes 5,000 queries of COCO and 2,000 of MIRFLICKR-25K, so 256 photos say nothing. Recipes for
`dataset: coco`, `flickr25k` and `nus_wide_10` stand ready; `python -m benchmarks.quality` takes their features with
labels (N, C) as they are.
"""


def title(method: str) -> str:
    """What a method is called on the page."""
    if method == "float":
        return "Float, no codes"
    if method == "default":
        return "**SSDH, the default**"
    return registry.get(method).TITLE if method in registry.names() else f"`{method}`"


def by_hamming(method: str) -> bool:
    """Whether codes are compared with codes: those of recipes, and of baselines whose `fit` gives Codes."""
    return method not in registry.names() or get_type_hints(registry.get(method).fit)["return"] is Codes


def interval(default: dict[str, Any], row: dict[str, Any]) -> tuple[float, float]:
    """The 95% interval of default − row, each a mean over two seeds or more.

    Where both rows hold each seed's mAP it is of the seeds that both have, whose splits are the same; else Welch's
    (B. L. Welch, *The Generalization of "Student's" Problem*, Biometrika 34, 1947).
    """
    if "maps" in default and "maps" in row:
        differences = [ours - theirs for ours, theirs in zip(default["maps"], row["maps"], strict=False)]
        difference, half = np.mean(differences), student_half(differences, 0.95)
    else:
        parts = np.array([one["map_std"] ** 2 / one["seeds"] for one in (default, row)])
        freedom = parts.sum() ** 2 / (parts**2 / [default["seeds"] - 1, row["seeds"] - 1]).sum()
        difference, half = default["map_mean"] - row["map_mean"], stdtrit(freedom, 0.975) * np.sqrt(parts.sum())
    return float(difference - half), float(difference + half)


def lead(default: dict[str, Any] | None, row: dict[str, Any]) -> str:
    """How far the default is ahead, in words; nothing beside itself and where one has a single seed."""
    if default is None or default is row or min(default["seeds"], row["seeds"]) < 2:
        return ""
    low, high = interval(default, row)
    words = "more than noise" if low > 0 else "behind by more than noise" if high < 0 else "within noise"
    return f"{default['map_mean'] - row['map_mean']:+.4f} ({low:+.4f} to {high:+.4f}), {words}"


def default_of(rows: Sequence[dict[str, Any]], bits: int) -> dict[str, Any] | None:
    """The default's row of this length."""
    return next((row for row in rows if row["method"] == "default" and row["bits"] == bits), None)


def best_rival(rows: Sequence[dict[str, Any]], bits: int) -> str:
    """One sentence on the default and the best method of others that gives Hamming codes."""
    own = default_of(rows, bits)
    others = [row for row in rows if row["bits"] == bits and row["method"] not in OURS and by_hamming(row["method"])]
    if own is None or not others:
        return ""
    best = max(others, key=lambda row: row["map_mean"])
    return (
        f"The best method of others that gives bits is {title(best['method'])} with {best['map_mean']:.4f}; the "
        f"default has {own['map_mean']:.4f}: {lead(own, best)}."
    )


def cost(rows: Sequence[dict[str, Any]]) -> str:
    """One sentence on the time of all methods, each with one of its settings."""
    seconds = {row["method"]: row["seconds"] for row in sorted(rows, key=lambda row: row["settings"] == "chosen")}
    return f"Fit and codes of all {len(seconds)} methods together take {sum(seconds.values()):.0f} seconds a split."


def collapse(row: dict[str, Any]) -> str:
    """What is said beside the number of different codes where seeds gave codes that hold almost nothing."""
    result = row.get("collapsed", 0)
    return f" **collapsed** ({result} of {row['seeds']} seeds)" if result else ""


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Lines of a table of one length, best mAP first."""
    lines = [
        "| method | settings | mAP | mAP@1000 | same picture: in 10; in 100 | different codes | seconds | seeds "
        "| the default's lead |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    default = default_of(rows, rows[0]["bits"])
    for row in sorted(rows, key=lambda row: -row["map_mean"]):
        unique = "" if row["unique_codes"] is None else f"{row['unique_codes']:,}" + collapse(row)
        cells = (
            title(row["method"]),
            row["settings"],
            f"{row['map_mean']:.4f}{spread(row)}",
            f"{row['map_at_1000']:.4f}",
            f"{row['neighbor_recall_at_10']:.3f}; {row['recall_10_in_100']:.3f}",
            unique,
            f"{row['seconds']:.1f}",
            str(row["seeds"]),
            lead(default, row),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def overview(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Lines of a table of mAP, a line each method and settings, a column each length; best first.

    A row of fewer seeds than others says so: other splits have other means.
    """
    most = max(row["seeds"] for row in rows)
    lengths = sorted({row["bits"] for row in rows})
    methods: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    for row in rows:
        methods.setdefault((row["method"], row["settings"]), {})[row["bits"]] = row
    lines = ["| method | settings | " + " | ".join(f"{bits} bits" for bits in lengths) + " |"]
    lines.append("|---" * (2 + len(lengths)) + "|")
    for (method, settings), own in sorted(
        methods.items(), key=lambda item: -max(r["map_mean"] for r in item[1].values())
    ):
        cells = [f"{own[bits]['map_mean']:.4f}{spread(own[bits])}" if bits in own else "" for bits in lengths]
        seeds = max(row["seeds"] for row in own.values())
        note = settings if seeds == most else f"{settings}, {seeds} of {most} seeds"
        lines.append("| " + " | ".join((title(method), note, *cells)) + " |")
    return lines


def spread(row: dict[str, Any]) -> str:
    """The deviation over the seeds, where there are several."""
    return f" ± {row['map_std']:.4f}" if row["seeds"] > 1 else ""


def page(files: Sequence[Path]) -> str:
    """The page, Markdown."""
    parts = [HEAD]
    for path in files:
        rows = json.loads(path.read_text(encoding="utf-8"))
        heading, about = ABOUT.get(path.stem, (path.stem.removeprefix("leaderboard-"), ""))
        parts.append(f"## {heading}\n\n{about}".rstrip() + "\n")
        parts.append("\n".join(overview(rows)) + "\n")
        for bits in sorted({row["bits"] for row in rows}):
            own = [row for row in rows if row["bits"] == bits]
            text = " ".join(part for part in (best_rival(rows, bits), cost(own)) if part)
            text = f"### {bits} bits\n\n{text}"
            parts.append(text + "\n\n" + "\n".join(table(own)) + "\n")
        if path.stem == "leaderboard-cifar10" and (beside := quick_versions.section(rows)):
            parts.append(beside + "\n")
    return "\n".join([*parts, ABSENT])


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path, nargs="*", help="rows of benchmarks.quality; by default all there are")
    parser.add_argument("--out", type=Path, default=OUT)
    chosen = parser.parse_args()
    files = chosen.files or sorted(COMMITTED.glob("leaderboard-*.json"))
    if not files:
        parser.error(f"there is no leaderboard-*.json in {COMMITTED}: write one with benchmarks.quality --json")
    chosen.out.write_text(page(files), encoding="utf-8", newline="\n")
    print(f"{chosen.out}: {len(files)} feature sets")


if __name__ == "__main__":
    main()

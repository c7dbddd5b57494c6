"""What each step of the method adds: variants of the recipes on the same splits, with a label-free number.

    python -m benchmarks.studies.ablation --features FILE.npz --views FILE.npy [--groups steps,k,…] [--table OUT.md]

A variant is a recipe of `ssdh/methods` with some values replaced. FILE.npy holds features of views, as for
`benchmarks.quality`; without it the variants that take views are left out. Results go to
`benchmarks/studies/ablation.json` run by run (variant, bits, seed): what is there is not measured again, so it can be
stopped and go on; `--plot OUT.svg` draws it. For each run the mAP, `ssdh.evaluation.manifold_recall`'s recall of
manifold neighbours on 5000 images that did not train, and the mAP of 1000 of these as validation queries: settings may
be chosen by either, and the test queries choose nothing.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from loguru import logger
from numpy.typing import NDArray
from scipy.stats import spearmanr

from benchmarks.common import STUDIES, write_results
from benchmarks.quality import draw, load, load_views, recipe_codes, recipe_pairs, score
from benchmarks.settings import takes_views
from ssdh.core.params import read_params, section
from ssdh.core.split import Split
from ssdh.evaluation.manifold_recall import DECAY, GRAPH_NEIGHBORS, POWER, RANK, STEPS, neighbor_share
from ssdh.features.params import ViewsParams
from ssdh.structure.manifold import diffusion_embedding
from ssdh.structure.params import StructureParams
from ssdh.structure.vectors import power_normalise
from ssdh.training.method import chosen_method

ADAM = {"epochs": 50, "optimizer": "adam", "weight_decay": 0.0, "batch_size": 256}
VIEWS = "manifold_views"
HELD_OUT, VALIDATION, SHARE = 5000, 1000, 0.02


@dataclass(frozen=True)
class Variant:
    """A recipe with values replaced."""

    group: str
    name: str
    recipe: str = "manifold"
    structure: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    views: dict[str, Any] = field(default_factory=dict)
    num_train: int = 5000


def variants() -> Iterator[Variant]:
    """Every variant, by group; `steps` goes from the published recipe to the default, one step at a time."""
    plain: dict[str, Any] = {"power": 0.0}
    feature: dict[str, Any] = {"space": "feature", "power": 0.0}
    yield Variant("steps", "published", "published")
    yield Variant("steps", "+ centred", "centred")
    yield Variant("steps", "+ Adam, batches of 256", "centred", train=ADAM)
    yield Variant("steps", "+ unknown pairs to 0", structure=feature, train=plain)
    yield Variant("steps", "+ manifold", structure=plain, train=plain)
    yield Variant("steps", "+ power-normalised features (manifold)")
    yield Variant("steps", "+ views (manifold_views)", VIEWS)
    yield Variant("steps", "manifold, soft targets instead", "soft")
    yield Variant("steps", "manifold, unknown pairs left out", train={"unknown_weight": 0.0})
    yield Variant("steps", "manifold, feature distances", structure={"space": "feature"})
    yield Variant("steps", "manifold, published optimiser", "published",
                  {"space": "manifold", "power": 0.7, "rank": 48},
                  {"centre": True, "power": 0.7, "unknown_weight": 0.5})  # fmt: skip
    yield from changed_default()
    for power in (0.5, 1.0):
        yield Variant("power", str(power), structure={"power": power}, train={"power": power})
    for k in (10, 40):
        yield Variant("k", str(k), structure={"neighbors": k})
    for rank in (24, 128, 256):
        yield Variant("r", str(rank), structure={"rank": rank})
    for steps, decay in ((0, 0.9), (20, 0.95)):
        yield Variant("g", f"{steps} steps, decay {decay}", structure={"steps": steps, "decay": decay})
    for alpha in (1.5, 2.5):
        yield Variant("alpha", str(alpha), structure={"alpha": alpha})
    for beta in (1.0, 3.0):
        yield Variant("beta", str(beta), structure={"beta": beta})
    for weight in (0.25, 1.0):
        yield Variant("unknown weight", str(weight), train={"unknown_weight": weight})
    for count in (500, 1000, 2000, 10_000, 50_000):
        yield Variant("train images", str(count), num_train=count)


def changed_default() -> Iterator[Variant]:
    """The default with one value changed."""
    for count in (1, 2):
        yield Variant("views", f"{count} of 4", VIEWS, views={"count": count})
    for strength in (0.0, 1.0, 10.0):
        yield Variant("views", f"whitening {strength}", VIEWS, {"view_whitening": strength})
    yield Variant("views", "feature distances", VIEWS, {"space": "feature"})
    for power in (0.5, 1.0):
        yield Variant("views", f"power {power}", VIEWS, {"power": power}, {"power": power})
    for k in (10, 40):
        yield Variant("views", f"k {k}", VIEWS, {"neighbors": k})
    for rank in (24, 96):
        yield Variant("views", f"r {rank}", VIEWS, {"rank": rank})
    for weight in (0.0, 0.25, 1.0):
        yield Variant("views", f"unknown weight {weight}", VIEWS, train={"unknown_weight": weight})
    yield Variant("views", "soft targets", VIEWS, train={"target": "soft"})


def run(
    variant: Variant, features: NDArray[np.float32], labels: NDArray[np.uint8], references: dict[Any, Any],
    *, bits: list[int], seed: int, topk: int, views: Path | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """One row for each code length: mAP and recall of manifold neighbours without labels."""
    params = read_params() | {"recipe": variant.recipe}
    params = params | {name: params[name] | getattr(variant, name) for name in ("structure", "train", "views")}
    method = chosen_method(params)
    split = draw(labels, 1000, variant.num_train, seed)
    started = time.perf_counter()
    structure: StructureParams = section(params, "structure", StructureParams)
    asked: ViewsParams = section(params, "views", ViewsParams)
    made = load_views(views, split)[: asked.count] if views and asked.count else ()
    pairs = recipe_pairs(features[split.train], structure, seed, made)
    shared = time.perf_counter() - started
    rows = []
    for k in bits:
        started = time.perf_counter()
        packed = recipe_codes(features, split, pairs, method, k, seed, made)
        seconds = time.perf_counter() - started + shared
        row = {"group": variant.group, "variant": variant.name, "bits": k, "seed": seed, "seconds": seconds}
        row["map"] = score(packed, labels, split, k, topk)
        held_out, reference = held_out_reference(features, labels, seed, references)
        row["manifold_recall"] = neighbor_share(
            packed[held_out], reference, bits=k, neighbors=round(SHARE * len(held_out))
        )
        queries = held_out[:VALIDATION]
        validation = Split(query=queries, train=split.train, database=np.setdiff1d(split.database, queries))
        row["validation_map"] = score(packed, labels, validation, k, topk)
        rows.append(row)
    return rows


def held_out_reference(
    features: NDArray[np.float32], labels: NDArray[np.uint8], seed: int, references: dict[Any, Any]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Database images of a seed's split that train in no variant of up to 50,000, and their diffusion map."""
    if ("held out", seed) not in references:
        split = draw(labels, 1000, min(50_000, len(labels) - 1000 - HELD_OUT), seed)
        rows = split.database[~np.isin(split.database, split.train)][:HELD_OUT]
        embedding = diffusion_embedding(
            power_normalise(features[rows], POWER), neighbors=GRAPH_NEIGHBORS, rank=RANK, steps=STEPS, decay=DECAY
        )
        references["held out", seed] = rows, embedding
    result: tuple[NDArray[np.int64], NDArray[np.float32]] = references["held out", seed]
    return result


def summary(rows: list[dict[str, Any]], order: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """Mean and deviation over seeds of each variant and code length, in the order of the variants."""
    result = []
    for group, name in order:
        for bits in sorted({row["bits"] for row in rows}):
            own = [r for r in rows if (r["group"], r["variant"], r["bits"]) == (group, name, bits)]
            if own:
                maps = np.array([r["map"] for r in own])
                result.append({
                    "group": group, "variant": name, "bits": bits, "seeds": len(own), "map": float(maps.mean()),
                    "deviation": float(maps.std(ddof=1)) if len(own) > 1 else 0.0,
                    "manifold_recall": float(np.mean([r["manifold_recall"] for r in own])),
                    "validation_map": float(np.mean([r["validation_map"] for r in own])),
                })  # fmt: skip
    return result


def rank_correlation(result: list[dict[str, Any]], bits: int) -> float:
    """Spearman's correlation of mAP and recall over the variants of `result` at one code length."""
    own = [row for row in result if row["bits"] == bits]
    return float(spearmanr([r["map"] for r in own], [r["manifold_recall"] for r in own]).statistic)


def views_apart(result: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The variants without views, and those with some."""
    with_views = {(v.group, v.name) for v in variants() if takes_views(v.recipe)}
    apart: tuple[list[dict[str, Any]], list[dict[str, Any]]] = [], []
    for row in result:
        apart[(row["group"], row["variant"]) in with_views].append(row)
    return apart


def markdown(result: list[dict[str, Any]]) -> str:
    """The table of `docs/method.md`."""
    lines = ["| what | value | bits | mAP@5000 | validation mAP | neighbours found | seeds |", "|---|" + 6 * "---|"]
    lines += [
        f"| {r['group']} | {r['variant']} | {r['bits']} | {r['map']:.4f} ± {r['deviation']:.4f} | "
        f"{r['validation_map']:.4f} | {r['manifold_recall']:.3f} | {r['seeds']} |"
        for r in result
    ]
    return "\n".join(lines) + "\n"


def plot(result: list[dict[str, Any]], path: Path, bits: int) -> None:
    """Two panels: what each step adds, and mAP against the number without labels."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    own = [row for row in result if row["bits"] == bits]
    steps = [row for row in own if row["group"] == "steps"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), width_ratios=(3, 2), layout="constrained")
    left.barh([r["variant"] for r in steps], [r["map"] for r in steps], xerr=[r["deviation"] for r in steps],
              color="#4c72b0")  # fmt: skip
    left.invert_yaxis()
    left.set_xlabel(f"mAP@5000 at {bits} bits")
    titles = []
    for name, color, part in zip(("no views", "views"), ("#4c72b0", "#dd8452"), views_apart(own), strict=True):
        right.scatter([r["manifold_recall"] for r in part], [r["map"] for r in part], s=14, color=color, label=name)
        titles.append(f"{name} {rank_correlation(part, bits):.2f}")
    right.legend()
    right.set_xlabel("manifold neighbours found (no labels)")
    right.set_ylabel("mAP@5000")
    right.set_title(f"rank correlation: {', '.join(titles)}", fontsize=10)
    figure.savefig(path)


def main() -> None:
    """Measure what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=Path, help=".npz with features and labels; without it, only table and plot")
    parser.add_argument("--views", type=Path, help=".npy with features of views (V, N, D)")
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--groups", help="only these groups of variants")
    parser.add_argument("--bits", default="32")
    parser.add_argument("--topk", type=int, default=5000)
    parser.add_argument("--json", type=Path, default=STUDIES / "ablation.json")
    parser.add_argument("--table", type=Path, help="write the table as Markdown")
    parser.add_argument("--plot", type=Path, help="write the plot as SVG")
    chosen = parser.parse_args()
    logger.disable("ssdh")
    bits = [int(k) for k in chosen.bits.split(",")]
    rows = json.loads(chosen.json.read_text(encoding="utf-8"))["results"] if chosen.json.exists() else []
    expected = [v for v in variants() if not chosen.groups or v.group in chosen.groups.split(",")]
    if not chosen.views:
        expected = [v for v in expected if not takes_views(v.recipe)]
    if chosen.features:
        features, labels = load(chosen.features)
        references: dict[Any, Any] = {}
        for variant in expected:
            for seed in map(int, chosen.seeds.split(",")):
                done = {
                    r["bits"]
                    for r in rows
                    if (r["group"], r["variant"], r["seed"]) == (variant.group, variant.name, seed)
                }
                missing = [k for k in bits if k not in done]
                if not missing:
                    continue
                rows += run(variant, features, labels, references, bits=missing, seed=seed, topk=chosen.topk,
                            views=chosen.views)  # fmt: skip
                write_results("ablation", rows, chosen.json)
            print(markdown(summary(rows, [(variant.group, variant.name)])).splitlines()[-1], flush=True)
    result = summary(rows, [(v.group, v.name) for v in variants()])
    for k in bits:
        plain, with_views = views_apart(result)
        fine = [row for row in plain if row["group"] not in ("steps", "train images") or "(manifold)" in row["variant"]]
        print(
            f"Spearman's rank correlation of mAP and neighbours found, {k} bits: {rank_correlation(plain, k):.2f} "
            f"without views, {rank_correlation(fine, k):.2f} where one value of manifold was changed, "
            f"{rank_correlation(with_views, k):.2f} with views"
        )
    if chosen.table:
        chosen.table.write_text(markdown(result), encoding="utf-8")
    if chosen.plot:
        plot(result, chosen.plot, bits[0])


if __name__ == "__main__":
    main()

"""How the cost of each step grows with the number of images, and the plots of docs/scaling.md.

    python -m benchmarks.scaling [--plots docs/images] [--largest 1000000] [--redraw]

Processor seconds of one process whose libraries use one thread each: growth shows in them even where the machine is
shared. Each curve is fitted by t = c·n^p, least squares in logarithms over its three largest points; --redraw draws
from results/scaling.json without measuring. On another machine the constants change and the powers stay.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks.common import RESULTS, table, write_results
from benchmarks.retrieval import clustered, ours
from benchmarks.search import codes
from benchmarks.structure import features as made_features
from benchmarks.training import train_params
from ssdh.core.device import threads
from ssdh.core.distributed import Rank
from ssdh.core.files import write_array, write_csv
from ssdh.core.stage import configure_logging
from ssdh.features.backbone import build_network
from ssdh.features.blocks import compute_rows
from ssdh.features.forward import image_blocks
from ssdh.features.images import open_images
from ssdh.features.params import Preprocessing
from ssdh.hashing.network import seeded_hashnet
from ssdh.search.index import Index, Kind
from ssdh.structure.distances import PairDistances
from ssdh.structure.fit import fit_pairs
from ssdh.structure.pseudo_labels import PairLabels
from ssdh.structure.thresholds import Structure, pseudo_labels
from ssdh.training.head import ClosedFormStep, FeatureSource
from ssdh.training.optimizer import HeadOptimizer
from ssdh.training.pairs import PairBatches

Points = list[dict[str, Any]]
BITS, QUERIES, TOP = 64, 500, 20
GRID = (10_000, 30_000, 100_000, 300_000, 1_000_000)
LARGEST_GRAPH = 100_000  # a graph of a million codes takes minutes to build


def best(work: Callable[[], Any], rounds: int = 3) -> float:
    """The least processor seconds of several rounds."""
    result = []
    for _ in range(rounds):
        started = time.process_time()
        work()
        result.append(time.process_time() - started)
    return min(result)


def evaluation(largest: int) -> Points:
    """Seconds of the tie-aware mAP of 500 queries."""
    points = []
    for n in filter(lambda n: n <= largest, GRID):
        given = clustered(QUERIES, n, BITS, 10)
        points.append({"curve": "500 queries", "n": n, "seconds": best(partial(ours, given))})
    return points


def search(largest: int) -> Points:
    """Median seconds of one query for 20 neighbours, one at a time, and what building the index took."""
    points = []
    queries = codes(100, BITS, crowd=True, seed=2)
    kinds: tuple[Kind, ...] = ("flat", "hash", "hnsw")
    for n in filter(lambda n: n <= largest, GRID):
        packed = codes(n, BITS, crowd=True)
        for kind in kinds:
            if kind == "hnsw" and n > LARGEST_GRAPH:
                continue
            started = time.process_time()
            index = Index(packed, bits=BITS, kind=kind)
            build = time.process_time() - started
            asked = [best(partial(index.search, q[None], TOP), 1) for q in queries]
            points.append({"curve": kind, "n": n, "seconds": float(np.median(asked)), "build_seconds": build})
    return points


def extraction(largest: int) -> Points:
    """Seconds of the extract stage's path: VGG16 fc7 at 64 px, from an array of 32 px images."""
    preprocessing = Preprocessing(64, 64, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    network = build_network("vgg16", "fc7", 64).eval()
    points = []
    for precision in ("fp32", "bf16"):
        for n in filter(lambda n: n <= largest, (64, 128, 256, 512)):
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                write_array(folder / "images/images.npy", np.zeros((n, 32, 32, 3), np.uint8))
                write_csv(folder / "images/manifest.csv", ("row", "path", "sha256"), [])
                source = open_images(folder / "images")
                blocks = image_blocks(network, preprocessing, source, torch.device("cpu"), precision)

                def run(folder: Path = folder, n: int = n, blocks: Any = blocks) -> None:
                    with tempfile.TemporaryDirectory(dir=folder) as work:
                        compute_rows(folder / "features.npy", Path(work), n, blocks, Rank())

                points.append({"curve": precision, "n": n, "seconds": best(run, 1)})
    return points


def training(largest: int) -> Points:
    """Seconds of a step of the hash layer on n train images: labels looked up in the matrix, or computed."""
    structure = Structure(0.9, 0.1, 0.1, 0.6, 1.1, 1, 0.0, 0.0)
    points = []
    for n in filter(lambda n: n <= largest, (5000, 20_000, 100_000)):
        values = made_features(n, 512)
        x = torch.from_numpy(values)
        for batch in (24, 256):
            for way in ("matrix", "on the fly"):
                if way == "matrix" and n > 20_000:
                    continue
                matrix = np.zeros((n, n), np.int8) if way == "matrix" else None
                pairs = PairBatches(PairLabels(values, structure, matrix), torch.device("cpu"))
                pairs.pair_labels.block(np.arange(2), np.arange(2))  # the unit vectors are made once
                seconds = steps_seconds(x, pairs, batch)
                points.append({"curve": f"batch {batch}, {way}", "n": n, "seconds": seconds})
    return points


def steps_seconds(x: torch.Tensor, pairs: PairBatches, batch: int, steps: int = 200) -> float:
    """Seconds of one step, of the loop's parts: features, labels, loss, gradient, update."""
    model = seeded_hashnet(x.shape[1], BITS, 0)
    step, source = ClosedFormStep(model), FeatureSource(x)
    optimizer = HeadOptimizer([step.weight, step.bias], train_params(batch_size=batch))
    rng = np.random.default_rng(0)
    batches = [rng.choice(len(x), batch, replace=False) for _ in range(steps)]

    def run() -> None:
        for inputs, (targets, weights) in zip(source.batches(batches), pairs.of(batches), strict=True):
            step(inputs, targets, weights)
            optimizer.step()

    with threads(1):
        return best(run) / steps


def structure(largest: int) -> Points:
    """Fit and labels of all pairs, and the fit on sampled pairs, after which labels are computed batch by batch."""
    points = []
    kept, recomputed = "all pairs, distances kept", "all pairs, distances computed for each pass"
    sizes = [(kept, n) for n in (1250, 2500, 5000)] + [(recomputed, n) for n in (10_000, 20_000, 40_000)]
    for curve, n in ((curve, n) for curve, n in sizes if n <= largest):
        values = made_features(n, 512)

        def run(values: NDArray[np.float32] = values) -> None:
            pairs = PairDistances(values)
            pseudo_labels(pairs, fit_pairs(pairs, alpha=2.0, beta=2.0, bins=500)[0])

        points.append({"curve": curve, "n": n, "seconds": best(run, 3 if n < 10_000 else 1)})
    for n in filter(lambda n: n <= largest, (10_000, 30_000, 100_000)):
        values = made_features(n, 512)

        def fit(values: NDArray[np.float32] = values) -> None:
            fit_pairs(PairDistances(values).sample(10**7, 0), alpha=2.0, beta=2.0, bins=500)

        points.append({"curve": "10⁷ sampled pairs, fit", "n": n, "seconds": best(fit, 1)})
    return points


MEASURES: dict[str, Callable[[int], Points]] = {
    "structure": structure,
    "evaluation": evaluation,
    "search": search,
    "extraction": extraction,
    "training": training,
}
LABELS = {
    "structure": ("train images", "processor seconds", "Structure, 512 values an image"),
    "evaluation": ("database images", "processor seconds", "Tie-aware mAP of 500 queries, 64 bits"),
    "search": ("codes", "processor seconds a query", "20 nearest of 64-bit codes, one query at a time"),
    "extraction": ("images", "processor seconds", "Extraction, VGG16 fc7 at 64 px on the CPU"),
    "training": ("train images", "processor seconds a step", "A step of the hash layer, 512 values, 64 bits"),
}


def fits(points: Points) -> Points:
    """c and p of t = c·n^p for each curve, least squares in logarithms over its largest three sizes."""
    result = []
    for curve in dict.fromkeys(point["curve"] for point in points):
        own = sorted((point["n"], point["seconds"]) for point in points if point["curve"] == curve)[-3:]
        if len(own) < 2:
            continue
        n, seconds = np.log(np.array(own)).T
        power, constant = np.polyfit(n, seconds, 1)
        result.append({"curve": curve, "power": float(power), "constant": float(np.exp(constant)), "points": len(own)})
    return result


def draw(name: str, points: Points, folder: Path) -> Path:
    """Points and fitted lines in logarithmic axes, as SVG."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    plt.rcParams |= {"svg.hashsalt": name, "svg.fonttype": "none", "font.size": 9}
    figure, axes = plt.subplots(figsize=(5.2, 3.4), layout="constrained")
    model = {result["curve"]: result for result in fits(points)}
    for number, curve in enumerate(dict.fromkeys(point["curve"] for point in points)):
        own = np.array(sorted((point["n"], point["seconds"]) for point in points if point["curve"] == curve))
        label, colour = curve, f"C{number}"
        if curve in model:
            power, constant = model[curve]["power"], model[curve]["constant"]
            label += f": n^{power:.2f}"
            axes.plot(own[:, 0], constant * own[:, 0] ** power, color=colour, linewidth=0.8)
        axes.plot(own[:, 0], own[:, 1], "o", markersize=4, color=colour, label=label)
    axes.set(xscale="log", yscale="log", xlabel=LABELS[name][0], ylabel=LABELS[name][1], title=LABELS[name][2])
    axes.grid(visible=True, which="major", linewidth=0.3)
    figure.legend(loc="outside lower center", frameon=False)  # never on the points
    path = folder / f"scaling-{name}.svg"
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return path


def main() -> None:
    """Measure, print, write `benchmarks/results/scaling.json` and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(MEASURES), help=f"of {', '.join(MEASURES)}")
    parser.add_argument("--largest", type=int, default=GRID[-1], help="images of the largest point")
    parser.add_argument("--plots", type=Path, help="folder for scaling-*.svg")
    parser.add_argument("--redraw", action="store_true", help="draw results/scaling.json, measure nothing")
    chosen = parser.parse_args()
    configure_logging("WARNING")
    torch.set_num_threads(1)
    path = RESULTS / "scaling.json"
    known = json.loads(path.read_text(encoding="utf-8"))["results"]["points"] if path.is_file() else {}
    for name in () if chosen.redraw else chosen.only.split(","):
        with threadpool_limits(1):
            known[name] = MEASURES[name](chosen.largest)
        print(f"\n{LABELS[name][2]}\n{table(known[name])}", flush=True)
    if not chosen.redraw:
        print(write_results("scaling", {"points": known, "fits": {name: fits(p) for name, p in known.items()}}))
    if chosen.plots:
        for name, points in known.items():
            print(draw(name, points, chosen.plots))


if __name__ == "__main__":
    main()

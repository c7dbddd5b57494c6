"""From cached features to the mAP, beside the same job done the usual way: structure → train → encode → evaluate.

    python -m benchmarks.pipeline --features FILE.npz [--bits 64] [--num-train 5000] [--num-query 1000]

FILE.npz holds `features` (N, D) and `labels` (N,) classes or (N, C) multi-hot. The usual way: `pdist`, `squareform` and
`norm.fit`; a DataLoader loop with autograd; a DataLoader to encode; an argsort a query for the mAP alone. Both follow
recipe `centred`; the labels differ a little, since the usual way bins from 0, counts each pair twice and the diagonal.
With our functions the evaluation holds all that the evaluate stage computes, and `manifold` is timed too.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.common import table, write_results
from benchmarks.quality import draw, load, recipe_pairs
from benchmarks.retrieval import usual_loop
from benchmarks.structure import usual as usual_structure
from ssdh.core.device import threads
from ssdh.core.params import read_params, section
from ssdh.core.split import Split
from ssdh.core.stage import configure_logging
from ssdh.evaluation.manifold_recall import manifold_recall
from ssdh.evaluation.metrics import evaluate
from ssdh.evaluation.pair_precision import pair_precision
from ssdh.evaluation.params import EvaluateParams
from ssdh.hashing.codes import pack, sign_codes
from ssdh.hashing.encoder import feature_blocks, packed
from ssdh.hashing.network import seeded_hashnet
from ssdh.structure.params import StructureParams
from ssdh.structure.pseudo_labels import PairLabels
from ssdh.training.head import train_head
from ssdh.training.loop import Run
from ssdh.training.loss import weighted_loss
from ssdh.training.method import chosen_method

RECIPES = ("centred", "manifold")
SEED, TOPK = 0, 5000
STEPS = ("structure", "train", "encode", "evaluate")
T = TypeVar("T")


class Clock:
    """Seconds of each step, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, step: str, work: Callable[[], T]) -> T:
        """Run `work`, note its seconds, return what it returns."""
        started = time.perf_counter()
        result = work()
        self.seconds[step] = time.perf_counter() - started
        return result


def ours(
    features: NDArray[np.float32], labels: NDArray[np.uint8], split: Split, bits: int, recipe: str
) -> tuple[dict[str, float], float]:
    """Seconds of each step, and the mAP; the functions are those of the stages."""
    params = read_params() | {"recipe": recipe}
    device, clock = torch.device("cpu"), Clock()
    train = np.ascontiguousarray(features[split.train])
    structure: StructureParams = section(params, "structure", StructureParams)
    pairs: PairLabels = clock("structure", lambda: recipe_pairs(train, structure, SEED))
    model, _ = clock("train", lambda: train_head(train, pairs, Run(chosen_method(params), bits, SEED)))
    blocks_of = packed(feature_blocks(model.eval(), features, device))
    codes = clock("encode", lambda: np.concatenate(list(blocks_of(np.arange(len(features))))))
    expected: EvaluateParams = section(params, "evaluate", EvaluateParams)

    def measured() -> float:
        result = evaluate(codes, labels, features, split, bits=bits, topk=TOPK, params=expected).metrics
        manifold_recall(codes, features, split, bits=bits)
        pair_precision(pairs, labels[split.train])
        return float(result["map"])

    result = clock("evaluate", measured)
    return clock.seconds, result


def usual(
    features: NDArray[np.float32], labels: NDArray[np.uint8], split: Split, bits: int
) -> tuple[dict[str, float], float]:
    """The same job as one finds it in repositories; the mAP is that of an argsort."""
    clock = Clock()
    train = torch.from_numpy(features[split.train])
    pseudo = torch.from_numpy(clock("structure", lambda: usual_structure(train.numpy())))
    model = seeded_hashnet(features.shape[1], bits, SEED)
    model.center.copy_(train.mean(0))
    torch.nn.init.zeros_(model.hash.bias)
    with threads(1):  # its fastest setting for such small steps
        clock("train", lambda: usual_training(model, train, pseudo))

    def encode() -> NDArray[np.int8]:
        loader = DataLoader(TensorDataset(torch.from_numpy(features)), batch_size=64)
        with torch.no_grad():
            return sign_codes(np.concatenate([model(x).numpy() for (x,) in loader]))

    codes = pack(clock("encode", encode))
    parts = {"query": split.query, "database": split.database}
    given: dict[str, Any] = {"bits": bits}
    for name, rows in parts.items():
        given |= {f"{name}_packed": codes[rows], f"{name}_labels": labels[rows]}
    precisions = clock("evaluate", lambda: usual_loop(given))
    return clock.seconds, float(precisions.mean())


def usual_training(model: torch.nn.Module, train: torch.Tensor, pseudo: torch.Tensor) -> None:
    """Recipe `centred` (50 epochs of SGD in batches of 24) through a DataLoader, autograd and torch.optim."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-5)
    loader = DataLoader(TensorDataset(train, torch.arange(len(train))), batch_size=24, shuffle=True)
    for _ in range(50):
        for x, rows in loader:
            expected = pseudo[rows][:, rows].float()
            loss = weighted_loss(model(x), expected, expected.abs())
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()


def main() -> None:
    """Print the table and write `benchmarks/results/pipeline.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path, required=True, help=".npz with features and labels")
    parser.add_argument("--bits", type=int, default=64)
    parser.add_argument("--num-query", type=int, default=1000)
    parser.add_argument("--num-train", type=int, default=5000)
    chosen = parser.parse_args()
    configure_logging("WARNING")
    features, labels = load(chosen.features)
    split = draw(labels, chosen.num_query, chosen.num_train, SEED)
    ways = {name: ours(features, labels, split, chosen.bits, name) for name in RECIPES}
    ways["the usual way"] = usual(features, labels, split, chosen.bits)
    total = {name: sum(seconds.values()) for name, (seconds, _) in ways.items()}
    rows = [
        {
            "way": name,
            **{step: seconds[step] for step in STEPS},
            "total": total[name],
            "times centred": total[name] / total["centred"],
            "map": value,
        }
        for name, (seconds, value) in ways.items()
    ]
    sizes = {"images": len(features), "dimensions": features.shape[1], "bits": chosen.bits}
    sizes |= {"query": len(split.query), "train": len(split.train), "threads": torch.get_num_threads()}
    print(", ".join(f"{name} {value}" for name, value in sizes.items()) + "; seconds")
    print(table(rows))
    print(write_results("pipeline", sizes | {"rows": rows}))


if __name__ == "__main__":
    main()

"""The field's protocol with the whole network trained, through the ordinary stages: mAP and seconds."""

import json
import math
from collections.abc import Iterator
from typing import Any

from benchmarks.card.options import Options, Row
from benchmarks.card.workspace import Workspace, prepared
from ssdh.core.files import read_array

# recipe and bits, in the order of their weight; the readme of TreezzZ/SSDH_PyTorch: 0.2695 for 64 bits, 0.2511 for 16
SETTINGS = (("published", 64), ("manifold_views", 16), ("published", 16), ("manifold_views", 64))
PER_PART = 2  # of them, unless the time left allows more


def rows(options: Options) -> Iterator[Row]:
    """What is shared, then one row for each setting."""
    workspace, seconds = prepared(options)
    images = len(read_array(workspace.folder / "features/features.npy"))
    yield {"stages": seconds, "images": images, "features": "pool5" if options.weights else "random weights"}
    for recipe, bits in SETTINGS[:PER_PART]:
        yield _trained(workspace, recipe, bits, options)


def _trained(workspace: Workspace, recipe: str, bits: int, options: Options) -> Row:
    """Train, encode and measure; the pseudo-labels are those of the recipe."""
    workspace.set(recipe=recipe, bits=bits, train__finetune=True, train__precision="bf16")
    epochs = _affordable_epochs(recipe, options)
    workspace.set(train__epochs=epochs)
    seconds = workspace.run("views", "structure", "train", "encode", "evaluate")
    metrics: dict[str, Any] = json.loads((workspace.folder / "metrics/metrics.json").read_text(encoding="utf-8"))
    kept = ("map", "map_stable", "map_without_train", "topk", "unique_codes", "bit_balance")
    losses = (workspace.folder / "metrics/train.csv").read_text(encoding="utf-8").splitlines()
    return {
        "recipe": recipe,
        "bits": bits,
        "precision": "bf16",
        "epochs": epochs,
        "seconds": seconds,
        **{name: metrics[name] for name in kept if name in metrics},
        "first_and_last_loss": [line.split(",")[-1] for line in (losses[1], losses[-1])],
    }


def _affordable_epochs(recipe: str, options: Options) -> int:
    """All epochs of the recipe, or as many as fit into the time by what a step was measured to take."""
    batch = 24 if recipe == "published" else 256
    path = options.out / "steps.json"
    if not path.is_file():
        return options.epochs
    for row in json.loads(path.read_text(encoding="utf-8"))["results"]:
        if row["batch"] == batch and row["precision"] == "bf16" and row["deterministic"]:
            epoch = math.ceil(5000 / batch) * row["ours_ms"] / 1000
            return max(1, min(options.epochs, int(options.training_seconds / epoch)))
    return options.epochs

"""A small run on the disk, as the stages write it, for tests of the report: arrays or files, labelled or not."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

from ssdh.core.files import write_array, write_csv, write_json
from ssdh.core.split import Split, write_split
from ssdh.hashing.codes import pack

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
SPLIT = Split(query=np.array([3, 0, 7, 1, 9, 4, 12]), train=np.array([10, 20, 11]), database=np.r_[10, 20, 13:20, 11])

METRICS: dict[str, Any] = {
    "dataset": "digits",
    "bits": 12,
    "topk": 5000,
    "map": 0.51234567,
    "map_stable": 0.5198765,
    "map_without_train": 0.5011223,
    "precision_at": {"1": 0.71717, "10": 0.61616},
    "precision_radius_2": 0.4242424,
    "queries_without_relevant": 2,
    "bit_balance": 0.0535353,
    "bit_correlation": 0.0878787,
    "unique_codes": 9,
    "neighbor_recall_at": {"10": 0.333444},
    "rerank": {
        "100": {"float_recall_at_10": 0.5151, "shortlist": 112.25, "map": 0.5252, "precision_at_10": 0.6262},
        "500": {"float_recall_at_10": 0.9191, "shortlist": 540.5, "map": 0.5353, "precision_at_10": 0.6363},
    },
}
UNLABELLED = ("dataset", "bits", "topk", "bit_balance", "bit_correlation", "unique_codes", "neighbor_recall_at")
BASELINES: dict[str, Any] = {
    "float": {"title": "Float", "map": 0.6111222, "map_centred": 0.6333444, "precision_at": {"10": 0.6464}},
    "itq": {"title": "ITQ", "about": "rotated", "bytes_per_image": 2,
            "map": 0.4777888, "map_stable": 0.4711, "neighbor_recall_at": {"10": 0.2777},
            "rerank": {"100": {"float_recall_at_10": 0.7171, "shortlist": 101.5}}},
}  # fmt: skip
STRUCTURE = {
    "mode": 0.0398123,
    "sigma_left": 0.0117456,
    "sigma_right": 0.0131789,
    "threshold_similar": 0.0163211,
    "threshold_dissimilar": 0.0661701,
    "num_pairs": 44850,
    "fraction_similar": 0.0241,
    "fraction_dissimilar": 0.0253,
}
PAIRS = {"similar_precision": 0.8688827, "dissimilar_precision": 0.9964028}


class SmallRun:
    """A project folder with everything that the report reads: 21 images, 7 queries, a database of 10."""

    def __init__(self, folder: Path, project: Path, *, bits: int = 12, labelled: bool = True) -> None:
        self.folder = folder
        rng = np.random.default_rng(bits)
        self.codes = rng.choice(np.array([-1, 1], np.int8), size=(21, bits))
        self.labels = np.eye(3, dtype=np.uint8)[np.arange(21) % 3] if labelled else np.zeros((21, 0), np.uint8)
        self.classes = ["zero", HOSTILE, "two & three"] if labelled else []
        self.precisions = np.array([0.31, 0.05, 0.92, 0.0, 0.77, 0.5, 0.11])
        self.params: dict[str, Any] = yaml.safe_load((project / "params.yaml").read_text())
        self.params["bits"] = bits
        self.metrics = METRICS | {"bits": bits}
        if not labelled:
            self.metrics = {key: self.metrics[key] for key in UNLABELLED}
        self._write_data()
        self._write_metrics(labelled)

    def _write_data(self) -> None:
        rng = np.random.default_rng(1)
        write_array(self.folder / "models/codes.npy", pack(self.codes))
        write_array(self.folder / "data/labels.npy", self.labels)
        write_array(self.folder / "data/images/images.npy", rng.integers(0, 256, (21, 8, 8, 3), np.uint8))
        rows = [(row, f"digits/{row:04d}", "") for row in range(21)]
        write_csv(self.folder / "data/images/manifest.csv", ("row", "path", "sha256"), rows)
        write_split(self.folder / "data/split", SPLIT, 21)

    def _write_metrics(self, labelled: bool) -> None:
        metrics = self.folder / "metrics"
        counts = {"dataset": "digits", "images": 21, "query": 7, "train": 3, "database": 10, "classes": self.classes}
        write_json(metrics / "data.json", counts)
        write_json(metrics / "metrics.json", self.metrics)
        write_json(metrics / "structure.json", STRUCTURE)
        write_json(metrics / "baselines.json", BASELINES if labelled else {})
        write_json(metrics / "pairs.json", PAIRS if labelled else {})
        rows = zip(SPLIT.query.tolist(), self.precisions.tolist(), strict=True)
        write_csv(metrics / "per_query.csv", ("row", "ap"), list(rows) if labelled else [])
        distance = np.linspace(0.003, 0.11, 50)
        fit = np.exp(-(((distance - 0.0398) / 0.0125) ** 2) / 2)
        header = ("distance", "density", "fit", "threshold_similar", "threshold_dissimilar")
        write_csv(
            metrics / "distances.csv",
            header,
            [(d, f + 0.01, f, 0.0163211, 0.0661701) for d, f in zip(distance, fit, strict=True)],
        )
        write_csv(metrics / "train.csv", ("epoch", "iteration", "loss"), [(1, 12, 0.91), (2, 24, 0.4321987)])
        write_csv(metrics / "validation.csv", ("iteration", "map"), [(12, 0.3), (24, 0.3456123)] if labelled else [])
        curve = [(r, r / 4, 1 - r / 5, 10 * r) for r in range(1, 5)] if labelled else []
        write_csv(metrics / "pr_curve.csv", ("radius", "recall", "precision", "retrieved"), curve)
        write_csv(metrics / "precision_at_n.csv", ("n", "precision"), [(1, 0.7), (10, 0.6)] if labelled else [])
        others = [
            ("itq", "pr", "", 0.5, 0.5),
            ("itq", "precision_at_n", 1, "", 0.6),
            ("itq", "precision_at_n", 10, "", 0.5),
        ]
        write_csv(metrics / "baselines_curves.csv", ("method", "curve", "n", "recall", "precision"), others * labelled)

    def as_files(self, root: Path, images: NDArray[np.uint8], *, names: list[str] | None = None) -> None:
        """Make it a set of image files under `root`: `images` (21, H, W, 3) as JPEG, the data set `folder`."""
        names = names or [f"photo {row:02d}.jpg" for row in range(21)]
        (self.folder / "data/images/images.npy").unlink()
        rows = []
        for row, (name, pixels) in enumerate(zip(names, images, strict=True)):
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path, "JPEG", quality=95)
            rows.append((row, name, hashlib.sha256(path.read_bytes()).hexdigest()))
        write_csv(self.folder / "data/images/manifest.csv", ("row", "path", "sha256"), rows)
        self.params["dataset"] = "folder"
        self.params["datasets"]["folder"]["data"]["root"] = str(root)

    def change(self, name: str, **values: Any) -> None:
        """Change values of a JSON file of `metrics/`."""
        path = self.folder / "metrics" / f"{name}.json"
        write_json(path, json.loads(path.read_text()) | values)

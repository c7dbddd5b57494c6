"""Measure the codes: `python -m stages.evaluate`, mAP and curves where there are labels."""

from pathlib import Path

from ssdh.core.files import read_array, read_json, write_csv, write_json
from ssdh.core.params import Bits, TopK, effective, read_params, section
from ssdh.core.split import read_split
from ssdh.core.stage import stage
from ssdh.evaluation.manifold_recall import manifold_recall
from ssdh.evaluation.metrics import PER_QUERY, PR_CURVE, PRECISION_AT_N, evaluate
from ssdh.evaluation.pair_precision import pair_precision
from ssdh.evaluation.params import EvaluateParams
from ssdh.structure.pseudo_labels import open_pair_labels

METRICS = Path("metrics")


@stage("evaluate")
def main() -> None:
    """Read codes, labels, split, class names, features and structure; write metrics, pairs, and three tables."""
    params = read_params()
    dataset: str = section(params, "dataset", str)
    split = read_split(Path("data/split"))
    labels = read_array(Path("data/labels.npy"))
    features = read_array(Path("features/features.npy"))
    pairs = open_pair_labels(Path("features/structure.npz"), None, features)
    packed = read_array(Path("models/codes.npy"))
    bits: int = section(params, "bits", Bits)
    result = evaluate(
        packed,
        labels,
        features,
        split,
        bits=bits,
        topk=section(params, f"datasets.{dataset}.topk", TopK),
        params=section(params, "evaluate", EvaluateParams),
        classes=read_json(METRICS / "data.json").get("classes", []),
        nested=effective(params, "train").get("nested", []),
    )
    if (recall := manifold_recall(packed, features, split, bits=bits)) is not None:
        result.metrics["manifold_recall"] = recall
    write_json(METRICS / "pairs.json", pair_precision(pairs, labels[split.train]))
    write_csv(METRICS / "per_query.csv", PER_QUERY, result.per_query)
    write_csv(METRICS / "pr_curve.csv", PR_CURVE, result.pr_curve)
    write_csv(METRICS / "precision_at_n.csv", PRECISION_AT_N, result.precision_at_n)
    weights: str = section(params, f"datasets.{dataset}.images.weights", str)  # "random": a smoke run
    write_json(METRICS / "metrics.json", {"dataset": dataset, "weights": weights, **result.metrics})


if __name__ == "__main__":
    main()

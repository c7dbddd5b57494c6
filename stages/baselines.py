"""Measure float features and the baselines on the same split: `python -m stages.baselines`."""

from pathlib import Path

from ssdh.core.files import read_array, write_csv, write_json
from ssdh.core.params import Bits, Seed, TopK, lookup, read_params, section
from ssdh.core.split import read_split
from ssdh.core.stage import stage
from ssdh.evaluation.comparison import CURVES, evaluate_baselines
from ssdh.evaluation.params import EvaluateParams


@stage("baselines")
def main() -> None:
    """Read features, labels and split; write a metric file and the curves of every baseline."""
    params = read_params()
    metrics, curves = evaluate_baselines(
        read_array(Path("features/features.npy")),
        read_array(Path("data/labels.npy")),
        read_split(Path("data/split")),
        bits=section(params, "bits", Bits),
        topk=section(params, f"datasets.{lookup(params, 'dataset')}.topk", TopK),
        seed=section(params, "seed", Seed),
        params=section(params, "evaluate", EvaluateParams),
    )
    write_csv(Path("metrics/baselines_curves.csv"), CURVES, curves)
    write_json(Path("metrics/baselines.json"), metrics)


if __name__ == "__main__":
    main()

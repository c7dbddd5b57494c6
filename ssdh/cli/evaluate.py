"""`python -m ssdh evaluate --model FILE`: measure a trained model on the current data and split, without training.

Its codes are computed anew: of a whole network from the images; of a hash layer alone from `features/features.npy` if
its frozen network is the one of `params.yaml`, else from the images too. Nothing of the pipeline is overwritten.
"""

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ssdh.core.errors import DataError
from ssdh.core.files import check_writable, write_json

OWN = Path("models/hashnet.safetensors")


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand's parser."""
    parser = subparsers.add_parser("evaluate", help="measure a model without training", description=__doc__)
    parser.add_argument("--model", type=Path, default=OWN, metavar="FILE", help="default: %(default)s")
    parser.add_argument("--weights-file", type=Path, metavar="FILE", help="weights of the model's frozen network")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write every metric to this file too")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the metrics, one a line; raises DataError where --model does not exist or --json cannot be written."""
    from ssdh.cli.measure import measure  # imports torch

    if options.model != OWN and not options.model.exists():
        raise DataError(f"{options.model} does not exist: --model takes a .safetensors of this pipeline, such as {OWN}")
    if options.json:
        check_writable(options.json)
    metrics = measure(options.model, options.weights_file)
    lines = list(_flat(metrics))
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        print(f"{name:<{width}}  {value:.4f}" if isinstance(value, float) else f"{name:<{width}}  {value}")
    if options.json:
        write_json(options.json, metrics)
    return 0


def _flat(metrics: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of each metric."""
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value

"""The command line of the earlier program: `python -m ssdh --dataset cifar10 --code-length 64 --train --gpu 0 …`.

Every old flag is one parameter of the pipeline; the job runs as an experiment and its `dvc exp run` line is printed.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssdh.check import check_parameters
from ssdh.core.errors import DataError, ParameterError, SSDHError
from ssdh.core.params import lookup, read_params
from ssdh.core.runtime import num_cores
from ssdh.experiments.dvc import environment, run_child, set_options, shell_line, with_values

OLD_NAMES = {"nus-wide-tc-10": "nus_wide_10", "nus-wide-tc-21": "nus_wide_21"}
OLD_SETS = ("cifar10", "flickr25k", *OLD_NAMES.values())  # the others have a protocol of their own


@dataclass(frozen=True)
class Flag:
    """One old flag; `parameter` is its dotted name, with `{dataset}` for the chosen set's block."""

    short: str
    long: str
    kind: type[str] | type[int] | type[float]
    default: Any
    parameter: str
    help: str


FLAGS = (
    Flag("-d", "--dataset", str, None, "dataset", "data set; nus-wide-tc-10 and -21 are nus_wide_10 and _21"),
    Flag("-r", "--root", str, None, "datasets.{dataset}.data.root", "folder of the data set; left out: download it"),
    Flag("-c", "--code-length", int, 12, "bits", "bits of a code"),
    Flag("-T", "--max-iter", int, 50, "train.epochs", "passes over the training images"),
    Flag("-l", "--lr", float, 1e-3, "train.lr", "learning rate"),
    Flag("-q", "--num-query", int, 1000, "datasets.{dataset}.data.num_query", "query images"),
    Flag("-t", "--num-train", int, 5000, "datasets.{dataset}.data.num_train", "training images"),
    Flag("-w", "--num-workers", int, 0, "runtime.workers", "processes that decode images"),
    Flag("-b", "--batch-size", int, 24, "train.batch_size", "images a batch"),
    Flag("-a", "--arch", str, "vgg16", "backbone.arch", "network"),
    Flag("-k", "--topk", int, 5000, "datasets.{dataset}.topk", "mAP at this many items"),
    Flag("-g", "--gpu", int, None, "runtime.device", "number of the CUDA card; left out: the CPU"),
    Flag("-e", "--evaluate-interval", int, 500, "train.eval_interval", "batches between two validation mAPs"),
    Flag("-s", "--snapshot-interval", int, 800, "train.snapshot_interval", "batches between two snapshots"),
    Flag("", "--alpha", float, 2.0, "structure.alpha", "similar below mode − α·σ"),
    Flag("", "--beta", float, 2.0, "structure.beta", "dissimilar above mode + β·σ"),
)

OF_THE_SET = ("num_query", "num_train", "topk")


def parser() -> argparse.ArgumentParser:
    """The old flags, with their short forms and defaults, and two new ones: --head-only and --dry-run."""
    old = argparse.ArgumentParser(
        prog="python -m ssdh",
        usage="python -m ssdh --dataset NAME [flags] (--train | --resume | --evaluate)",
        description="The command line of the earlier program, run through the pipeline with recipe=published. "
        "It prints the `dvc exp run -S …` line that does the same.",
    )
    for flag in FLAGS:
        names = [name for name in (flag.short, flag.long) if name]
        shown = "" if flag.default is None else f" (default: {flag.default})"
        parameter = flag.parameter.format(dataset="NAME")
        old.add_argument(*names, type=flag.kind, default=None, help=f"{flag.help}{shown}  → {parameter}")
    old.add_argument("-v", "--verbose", action="store_true", help="log every batch  → runtime.log_level=TRACE")
    old.add_argument("--train", action="store_true", help="train and measure")
    old.add_argument("--resume", action="store_true", help="go on from the last snapshot of the same job")
    old.add_argument("--evaluate", action="store_true", help="measure --checkpoint without training")
    old.add_argument("-C", "--checkpoint", help="a model (.safetensors) to measure, or to start from with --resume")
    old.add_argument("--head-only", action="store_true", help="train the hash layer on cached features only")
    old.add_argument("--dry-run", action="store_true", help="print the line and stop")
    return old


def settings(options: argparse.Namespace, params: dict[str, Any]) -> dict[str, object]:
    """The parameters of the old job by dotted name: its flags, and its defaults where a flag is left out.

    Raises ParameterError for a data set that does not exist and for a flag that the chosen set does not have.
    """
    known = ", ".join(lookup(params, "datasets"))
    if options.dataset is None:
        raise ParameterError(f"--dataset is missing: give one of {known}")
    dataset = OLD_NAMES.get(options.dataset, options.dataset)
    if dataset not in lookup(params, "datasets"):
        raise ParameterError(f"--dataset must be one of {known} or {', '.join(OLD_NAMES)}, got {options.dataset!r}")
    values: dict[str, object] = {"dataset": dataset, "recipe": "published", "train.finetune": not options.head_only}
    for flag in FLAGS[1:]:
        name = flag.parameter.format(dataset=dataset)
        key = name.rpartition(".")[2]
        value = getattr(options, flag.long[2:].replace("-", "_"))
        if value is None and (flag.default is None or (key in OF_THE_SET and dataset not in OLD_SETS)):
            continue
        if not _exists(params, name):
            if value is not None:
                raise ParameterError(f"{flag.long}: {dataset} has no such choice ({name}): leave the flag out")
            continue
        values[name] = flag.default if value is None else value
    if options.root is not None:
        values[f"datasets.{dataset}.data.root"] = Path(options.root).expanduser().resolve().as_posix()
    values["runtime.device"] = "cpu" if options.gpu is None else f"cuda:{options.gpu}"
    values["runtime.log_level"] = "TRACE" if options.verbose else "INFO"
    if options.resume and not options.train and options.checkpoint:
        values["train.init_file"] = _existing(options.checkpoint)
    return values


def main(arguments: Sequence[str]) -> int:
    """Run the old job; returns the exit code."""
    options = parser().parse_args(arguments)
    if not (options.train or options.resume or options.evaluate):
        raise ParameterError("say what to do: --train, --resume or --evaluate")
    params = read_params()
    values = settings(options, params)
    changed = with_values(params, values)
    check_parameters(changed)
    if not (options.train or options.resume):
        return _evaluate(options, values)
    command = ["exp", "run", *set_options(values)]
    _say("The same by DVC:", shell_line(["dvc", *command]))
    if options.gpu is None:
        _say(_cpu_warning(changed))
    if options.resume:
        _say("An unfinished run of the same job goes on from its last snapshot by itself.")
    if not options.dry_run:
        _experiment(command)
        print(_result())
    return 0


def _experiment(command: Sequence[str]) -> None:
    """Run dvc in the foreground; raises SSDHError where it fails, after its own lines."""
    # a queue worker holds the lock for moments
    if code := run_child([sys.executable, "-m", "dvc", "--wait-for-lock", *command], environment()):
        raise SSDHError(f"dvc {command[0]} failed with exit code {code}")


def _say(*lines: str) -> None:
    """Print lines and an empty one, before DVC writes to the same terminal."""
    print(*lines, "", sep="\n", flush=True)


def _exists(params: dict[str, Any], name: str) -> bool:
    try:
        lookup(params, name)
    except ParameterError:
        return False
    return True


def _existing(path: str) -> str:
    """An absolute path, so that a copy of the workspace finds it too."""
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise DataError(f"--checkpoint {path} does not exist: give a model file (models/hashnet.safetensors)")
    return file.as_posix()


def _evaluate(options: argparse.Namespace, values: dict[str, object]) -> int:
    """Make the split and the frozen features, on which nothing of the model depends; then measure it, no training."""
    from ssdh.hashing.model_file import read_metadata

    if not options.checkpoint:
        raise ParameterError("--evaluate needs --checkpoint FILE (a model file such as models/hashnet.safetensors)")
    model = _existing(options.checkpoint)
    metadata = read_metadata(Path(model))
    if options.code_length not in (None, metadata["bits"]):
        raise ParameterError(f"--code-length {options.code_length}: {model} makes codes of {metadata['bits']} bits")
    command = ["exp", "run", *set_options(values | {"bits": metadata["bits"]}), "extract"]
    measure = ["evaluate", "--model", model]
    _say("The same by DVC:", shell_line(["dvc", *command]), shell_line(["python", "-m", "ssdh", *measure]))
    if options.dry_run:
        return 0
    _experiment(command)
    return run_child([sys.executable, "-m", "ssdh", *measure], environment())


def _cpu_warning(params: dict[str, Any]) -> str:
    """How long the job may take on this CPU, measured by one forward pass, and the two ways out."""
    from ssdh.core.params import section
    from ssdh.experiments.feasibility import BACKWARD, forward_seconds, in_words, num_images, num_train
    from ssdh.features.backbone import image_size
    from ssdh.features.params import BackboneParams, image_params

    name = lookup(params, "dataset")
    if (images := image_params(params, name)) is None:
        return "No network runs on embeddings: on the CPU the hash layer needs minutes at most."
    backbone: BackboneParams = section(params, "backbone", BackboneParams)
    each = forward_seconds(backbone, images)
    what = f"{num_cores()} cores, {backbone.arch} at {image_size(backbone, images)} px: {1 / each:.1f} images/s"
    total = num_images(params)
    if total is None:
        return f"On the CPU ({what}) the time is not known, as the number of images is not; --gpu 0 uses a card."
    extraction = total * each
    head = f"{in_words(extraction)} to extract the features of all images"
    if not lookup(params, "train.finetune"):
        return f"On the CPU ({what}) this may take {head}; --gpu 0 uses a card."
    passes = lookup(params, "train.epochs") * num_train(params, total)
    whole = passes * each * BACKWARD + 2 * extraction
    return (
        f"On the CPU ({what}) this may take {in_words(whole)}: {passes:,} images forward and backward. "
        f"--gpu 0 uses a card; --head-only needs {head}, then minutes at most."
    )


def _result() -> str:
    """The mAP as the last line, as the earlier program ended."""
    from ssdh.experiments.summary import read_metrics

    metrics = read_metrics(Path("metrics"))["metrics"]
    if "map" not in metrics:
        return "no labels, no mAP: metrics/metrics.json"
    return (
        f"[map@{metrics['topk']}:{metrics['map']:.4f}] (ties as a stable sort leaves them: {metrics['map_stable']:.4f})"
    )

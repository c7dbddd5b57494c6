"""`python -m ssdh run [STAGE …]`: `dvc repro`, then a short table of what came out."""

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from ssdh.core.cache_dir import ssdh_home
from ssdh.core.package import check_pipeline
from ssdh.core.params import lookup, read_params
from ssdh.experiments.dvc import environment, run_child
from ssdh.experiments.summary import read_metrics, stage_seconds, summary_table


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand's parser."""
    parser = subparsers.add_parser(
        "run", help="dvc repro, then a table of mAP, baselines and seconds", description=__doc__
    )
    parser.add_argument("stages", nargs="*", metavar="STAGE", help="reproduce only these stages and what they need")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run `dvc repro` in this folder; returns its exit code, after the table where it is 0."""
    check_pipeline()
    started = datetime.now(UTC)
    code = run_child([sys.executable, "-m", "dvc", "repro", *options.stages], environment())
    if code != 0:
        return code
    params = read_params()
    smoke_run = lookup(params, f"datasets.{lookup(params, 'dataset')}.images.weights") == "random"
    seconds = stage_seconds(ssdh_home() / "timings.csv", started)
    print("\n" + summary_table(read_metrics(Path("metrics")), seconds, smoke_run=smoke_run))
    return 0

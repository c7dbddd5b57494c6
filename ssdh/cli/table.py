"""`python -m ssdh table`: the grid data set × recipe × bits × seed through DVC's queue, then docs/results.md and a CSV.

Cells whose result is known (in the CSV or as an experiment, with the same parameters and the same code) are not run
again, queued or running ones are waited for, so an interrupted table goes on where it was.
"""

import argparse
import hashlib
import importlib.resources
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from ssdh.cli.arguments import hours, positive, positives, wholes, words
from ssdh.core.errors import ParameterError, SSDHError
from ssdh.core.files import is_placeholder, read_table, write_csv
from ssdh.core.params import lookup, read_params, section
from ssdh.core.records import is_code, parse_lock
from ssdh.experiments.dvc import TRIES, dvc, git_file, parse_settings, set_options, with_values
from ssdh.experiments.results_table import (
    HEADER,
    Cell,
    Row,
    blank_row,
    code_of,
    grid,
    is_whole_run,
    key_of,
    measured,
    merge,
    method_hash,
    read_rows,
    render,
    write_page,
)

SKIPPED_STAGES = ("check", "report")  # they change no number
METHODS = ("ssdh/methods/", "methods/")  # in a clone, and in a pipeline of `ssdh init`
COMMITS = 20  # experiments of that many last commits are looked through

INTERRUPTED = (
    "interrupted: queued experiments go on in the background (`dvc queue stop --kill` ends them); the next run of this "
    "command waits for them"
)


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand's parser."""
    parser = subparsers.add_parser(
        "table", help="run or reuse a grid of experiments and write the results table", description=__doc__
    )
    parser.add_argument("--datasets", type=words, help="names, with commas (default: every set but folder)")
    parser.add_argument(
        "--bits", type=positives, default=[16, 32, 64, 128], help="code lengths (default: 16,32,64,128)"
    )
    parser.add_argument("--seeds", type=wholes, default=[0, 1, 2, 3, 4], help="seeds (default: 0,1,2,3,4)")
    parser.add_argument("--recipes", type=words, help="recipes (default: that of params.yaml)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a parameter for all cells")
    parser.add_argument("--jobs", type=positive, default=1, help="queue workers side by side (default: 1)")
    parser.add_argument("--download", action="store_true", help="fetch missing data sets and weights first")
    parser.add_argument(
        "--max-hours",
        type=hours,
        default=1.0,
        help="leave out sets whose extraction on the CPU takes longer (default: 1)",
    )
    parser.add_argument("--known", action="store_true", help="write the table of what is known; run nothing")
    parser.add_argument("--dry-run", action="store_true", help="say what would run and why what would not, and stop")
    parser.add_argument("--page", type=Path, default=Path("docs/results.md"), help="Markdown page (docs/results.md)")
    parser.add_argument(
        "--csv", type=Path, default=Path("docs/results.csv"), help="table of all cells (docs/results.csv)"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run what is missing and write both files; returns 1 where an experiment failed."""
    params = read_params()
    settings = parse_settings(options.set, params)
    params = with_values(params, settings)
    datasets = options.datasets or [name for name in lookup(params, "datasets") if name != "folder"]
    cells = grid(params, datasets, options.recipes or [params["recipe"]], options.bits, options.seeds)
    hashes = fixed_files(params)
    code = code_of(hashes)
    blank = {cell.key: _blank(cell, params, code, " ".join(options.set)) for cell in cells}
    # before the results are read: one that ends between the two looks is then in both, not in neither
    waiting = set() if options.known or options.dry_run else unfinished()
    rows = known_rows(blank, code, hashes, read_rows(options.csv))
    reasons = {name: _why_not(name, cells, params, options) for name in datasets}
    todo = [cell for cell in cells if cell.key not in rows and not reasons[cell.dataset]]
    _summary(cells, rows, todo, reasons)
    if options.dry_run:
        return 0
    failed: dict[str, str] = {}
    try:
        if options.known:
            failed = {cell.key: "not yet (make table)" for cell in todo}
        else:
            run_cells(todo, waiting, settings, options.jobs)
            rows = known_rows(blank, code, hashes, read_rows(options.csv))
            unknown = {cell.key: "did not run: dvc queue status" for cell in todo}
            failed = {key: why for key, why in (unknown | failures()).items() if key not in rows}
    finally:
        for cell in cells:
            why = reasons[cell.dataset] or failed.get(cell.key)
            rows.setdefault(cell.key, {**blank[cell.key], **({"reason": why} if why else {})})
        everything = merge(read_rows(options.csv), rows.values())
        write_csv(options.csv, HEADER, [[row.get(name, "") for name in HEADER] for row in everything])
        write_page(options.page, render(everything, published(), code))
        print(f"{options.page} and {options.csv} are written.")
    return 1 if not options.known and any(cell.key in failed for cell in todo) else 0


# --- what is known --------------------------------------------------------------------------------------------------


def fixed_files(params: dict[str, Any]) -> dict[str, str]:
    """DVC's MD5, by path, of what all cells depend on: the stages' code, and weights that `params` name by path.

    The recipe's own file is part of a cell's key.
    """
    from dvc.repo import Repo

    with Repo() as repo:
        deps = {dep.def_path: dep for stage in repo.index.stages if stage.name in _stages() for dep in stage.deps}
        code = [path for path in sorted(deps) if is_code(path) and not path.startswith(METHODS)]
        hashes = {path: str(deps[path].get_hash().value) for path in code}
    for name in ("backbone.weights_file", "train.init_file"):
        path = Path(lookup(params, name))
        if path.is_file() and not is_placeholder(path):
            hashes[str(path)] = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    return hashes


def _stages() -> dict[str, Any]:
    """The stages that numbers depend on, from dvc.yaml."""
    with Path("dvc.yaml").open(encoding="utf-8") as file:
        stages = yaml.safe_load(file)["stages"]
    return {name: stage for name, stage in stages.items() if name not in SKIPPED_STAGES}


def known_rows(blank: dict[str, Row], code: str, hashes: dict[str, str], earlier: Sequence[Row]) -> dict[str, Row]:
    """Rows with numbers by key: of this code from the earlier table, else from an experiment that DVC keeps.

    An experiment counts where its `dvc.lock` says that every stage ran with the cell's parameters and this code
    (hashes: MD5 by path, `code` their digest).
    """
    rows = {row["key"]: row for row in earlier if row["key"] in blank and row["code"] == code and "map" in row}
    if len(rows) == len(blank):
        return rows
    stages = {name: stage.get("params", []) for name, stage in _stages().items()}
    for revision, state, data in experiments(shown()):
        key = _key(data)
        if state not in (None, "success") or key is None or key not in blank or key in rows:
            continue
        try:
            lock = parse_lock(git_file(revision, "dvc.lock") or "")
        except ValueError:
            continue
        if not is_whole_run(lock, stages, _params(data), hashes | method_hash(_params(data)["recipe"])):
            continue
        metrics = {Path(name).stem: result.get("data", {}) for name, result in data["metrics"].items()}
        row = measured(blank[key], metrics.get("metrics", {}), metrics.get("baselines", {}), revision[:7])
        if row:
            rows[key] = row
    return rows


def shown() -> list[dict[str, Any]]:
    """The last commits with their experiments, as `dvc exp show` has them."""
    result: list[dict[str, Any]] = json.loads(dvc("exp", "show", "--json", "-n", str(COMMITS), quiet=True))
    return result


def experiments(commits: Sequence[dict[str, Any]]) -> Iterator[tuple[str, str | None, dict[str, Any]]]:
    """(revision, state, data) of each experiment of the commits; a commit itself proves no run."""
    for commit in commits:
        for group in commit.get("experiments") or []:
            state = (group.get("executor") or {}).get("state")
            for one in group["revs"]:
                if one.get("data"):
                    yield one["rev"], state, one["data"]


def _params(data: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = data["params"]["params.yaml"]["data"]
    return result


def _key(data: dict[str, Any]) -> str | None:
    """The key of an experiment; None where its parameters are not those of an experiment of this project."""
    try:
        return key_of(_params(data))
    except (ParameterError, KeyError, TypeError, ValueError):
        return None


def failures() -> dict[str, str]:
    """The cells whose last try failed, by key, with the command that shows why."""
    result = {}
    for commit in shown():
        for group in commit.get("experiments") or []:
            if (group.get("executor") or {}).get("state") == "failed":
                for one in group["revs"]:
                    if one.get("data") and (key := _key(one["data"])):
                        result[key] = f"failed: dvc queue logs {one['name'] or one['rev'][:7]}"
    return result


# --- what runs ------------------------------------------------------------------------------------------------------


def run_cells(todo: Sequence[Cell], waiting: set[str | None], settings: dict[str, object], jobs: int) -> None:
    """Queue what is not `waiting` yet and wait. One cell of each set goes first: it extracts for the others."""
    first = {cell.dataset: cell for cell in reversed(todo)}
    rest = [cell for cell in todo if cell not in first.values()]
    for part, workers in ((list(first.values()), 1), (rest, jobs)):
        if part:
            for dataset, recipe, bits, seeds in sweeps([cell for cell in part if cell.key not in waiting]):
                fixed = set_options({"dataset": dataset, "recipe": recipe, **settings})
                dvc("exp", "run", "--queue", *fixed, "-S", f"bits={bits}", "-S", f"seed={seeds}")
            try:
                wait_for_all(workers)
            except KeyboardInterrupt:
                raise KeyboardInterrupt(INTERRUPTED) from None


def wait_for_all(workers: int) -> None:
    """Run what is queued, with that many workers, and wait for the end.

    DVC gives up waiting where it reads a file that a worker is writing, and the workers go on: it is asked again while
    experiments are left. One that failed is in the table, with its reason.
    """
    for _ in range(TRIES):
        try:
            dvc("exp", "run", "--run-all", "--jobs", str(workers))
        except SSDHError:
            if unfinished():
                continue
        return


def unfinished() -> set[str | None]:
    """The keys of the experiments that wait in DVC's queue or run."""
    return {_key(data) for _, state, data in experiments(shown()) if state in ("queued", "running")}


def sweeps(cells: Sequence[Cell]) -> Iterator[tuple[str, str, str, str]]:
    """Cells as few sweeps: (data set, recipe, bits, seeds) with commas; seeds with the same lengths go together."""
    lengths: dict[tuple[str, str, int], list[int]] = {}
    for cell in cells:
        lengths.setdefault((cell.dataset, cell.recipe, cell.seed), []).append(cell.bits)
    together: dict[tuple[str, str, str], list[int]] = {}
    for (dataset, recipe, seed), bits in lengths.items():
        together.setdefault((dataset, recipe, ",".join(map(str, sorted(bits)))), []).append(seed)
    for (dataset, recipe, joined), seeds in together.items():
        yield dataset, recipe, joined, ",".join(map(str, sorted(seeds)))


# --- small parts ----------------------------------------------------------------------------------------------------


def _why_not(name: str, cells: Sequence[Cell], params: dict[str, Any], options: argparse.Namespace) -> str:
    from ssdh.experiments.feasibility import why_not

    first = next(cell for cell in cells if cell.dataset == name)
    chosen = with_values(params, {"dataset": name, "recipe": first.recipe, "bits": first.bits, "seed": first.seed})
    return why_not(chosen, download=options.download, max_hours=options.max_hours)


def _blank(cell: Cell, params: dict[str, Any], code: str, settings: str) -> Row:
    from ssdh.features.backbone import resolve_layer
    from ssdh.features.params import BackboneParams

    backbone: BackboneParams = section(params, "backbone", BackboneParams)
    weights = lookup(params, f"datasets.{cell.dataset}.images.weights")
    try:
        layer = resolve_layer(backbone, weights)
    except SSDHError:
        layer = backbone.layer
    return blank_row(cell, params, code, layer, settings)


def _summary(cells: Sequence[Cell], rows: dict[str, Row], todo: Sequence[Cell], reasons: dict[str, str]) -> None:
    print(f"{len(cells)} cells: {len(rows)} known, {len(todo)} to run", flush=True)
    for name, why in reasons.items():
        if why:
            print(f"  {name}: not here: {why}", flush=True)
    for dataset, recipe, bits, seeds in sweeps(todo):
        print(f"  {dataset}: recipe={recipe} bits={bits} seed={seeds}", flush=True)


def published() -> list[dict[str, str]]:
    """The rows of ssdh/report/published.csv."""
    text = importlib.resources.files("ssdh.report").joinpath("published.csv").read_text(encoding="utf-8")
    return read_table(text)

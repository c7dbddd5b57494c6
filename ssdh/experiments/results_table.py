"""The results table: a grid data set × recipe × bits × seed, its cells' identity, and the page and CSV made of them.

`python -m ssdh table` (`make table`) runs what is missing; this module neither runs nor reads the workspace.
"""

import csv
import hashlib
import itertools
import json
import re
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssdh.core.errors import DataError
from ssdh.core.files import atomic_path, read_table
from ssdh.core.params import RECIPE_SECTIONS, effective, lookup, read_recipe, recipe_file, recipes_folder
from ssdh.core.records import hashes_by_path

BASELINES = {"float": "float features", "lsh": "LSH", "pcah": "PCAH", "itq": "ITQ"}
EARLIER = "earlier"  # the code of a row that is known to be out of date
TIES = "expected"  # the mean over all orders of items at equal distance

HEADER = (
    *("key", "code", "dataset", "recipe", "bits", "seed", "map", "map_stable", *BASELINES, "num_query", "num_train"),
    *("topk", "ties", "arch", "layer", "weights", "size", "settings", "commit", "reason"),
)

NUMBERS = ("bits", "seed", "map", "map_stable", *BASELINES, "num_query", "num_train", "topk", "size")
START, END = "<!-- table:start -->", "<!-- table:end -->"
Row = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One experiment of the grid. key: a digest of every parameter that its result depends on."""

    dataset: str
    recipe: str
    bits: int
    seed: int
    key: str


def grid(
    params: Mapping[str, Any],
    datasets: Sequence[str],
    recipes: Sequence[str],
    bits: Sequence[int],
    seeds: Sequence[int],
) -> list[Cell]:
    """All cells; neighbours differ in the seed and share no stage, so parallel workers do not repeat work."""
    return [
        Cell(*values, key_of({**params, **dict(zip(("dataset", "recipe", "bits", "seed"), values, strict=True))}))
        for values in itertools.product(datasets, recipes, bits, seeds)
    ]


def key_of(params: Mapping[str, Any]) -> str:
    """A digest of what a result depends on: the chosen set's block, the recipe's effective values and its code.

    `runtime` is no part of it, nor are other recipes: a new or edited one leaves the cells of all others as they are.
    """
    chosen = dict(params)
    part = {name: chosen[name] for name in ("dataset", "bits", "seed", "recipe", "backbone", "evaluate")}
    part |= {name: effective(chosen, name) for name in RECIPE_SECTIONS}
    part["method"] = method_hash(str(chosen["recipe"]))
    part["block"] = lookup(chosen, f"datasets.{chosen['dataset']}")
    return _digest(part)


def method_hash(recipe: str) -> dict[str, str]:
    """MD5, by path, of the Python file of a recipe; empty where it has none."""
    file = recipes_folder() / f"{recipe}.py"
    md5 = hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest() if file.is_file() else ""
    return {recipe_file(recipe, "py"): md5} if md5 else {}


def code_of(hashes: Mapping[str, str]) -> str:
    """A digest of the MD5, by path, of the code and of weights that are given by path."""
    return _digest(dict(hashes))


def is_whole_run(
    stages: Mapping[str, Any],
    read: Mapping[str, Sequence[str | Mapping[str, Sequence[str]]]],
    params: Mapping[str, Any],
    code: Mapping[str, str],
) -> bool:
    """Whether the results that a `dvc.lock` records are all of one run, of these parameters and of this code.

    An experiment may have run in part only; its other results are then those of an earlier run.

    stages: of dvc.lock, by name. read: the parameters that each stage reads, as dvc.yaml has them: dotted names of
    params.yaml, and lists of names by file. code: MD5, by path, of the code and of weights that are given by path. True
    where every stage stands there with the values of `params` and of its recipe, and every file that stages read or
    wrote has one hash, that of `code` where it is one of these.
    """
    given = dict(params)
    for stage, entries in read.items():
        result = stages.get(stage, {}).get("params", {})
        for entry in entries:
            by_file = {"params.yaml": [entry]} if isinstance(entry, str) else entry
            for file, names in by_file.items():
                values = given if file == "params.yaml" else read_recipe(str(given["recipe"]))
                recorded = result.get(_filled(file, given), {})
                for name in (_filled(name, given) for name in names):
                    if name not in recorded or recorded[name] != lookup(values, name):
                        return False
    hashes = hashes_by_path(stages.get(stage, {}) for stage in read)
    return (
        read.keys() <= stages.keys()
        and all(len(result) == 1 for result in hashes.values())
        and all(hashes.get(path) == {md5} for path, md5 in code.items())
    )


def _filled(template: str, params: dict[str, Any]) -> str:
    """`${name}` replaced as DVC does in dvc.yaml."""
    return re.sub(r"\$\{([\w.]+)\}", lambda match: str(lookup(params, match[1])), template)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


# --- rows -----------------------------------------------------------------------------------------------------------


def blank_row(cell: Cell, params: Mapping[str, Any], code: str, layer: str, settings: str) -> Row:
    """The row of a cell before its numbers: identity, and what each number will have been measured on."""
    block, backbone = lookup(dict(params), f"datasets.{cell.dataset}"), params["backbone"]
    return {
        **{"key": cell.key, "code": code, "dataset": cell.dataset, "recipe": cell.recipe},
        **{"bits": cell.bits, "seed": cell.seed, "ties": TIES, "layer": layer, "arch": backbone["arch"]},
        **{"weights": block["images"]["weights"], "size": block["images"]["size"]},
        **({"topk": block["topk"]} if block["topk"] else {}),
        **{name: block["data"][name] for name in ("num_query", "num_train") if block["data"].get(name)},
        **({"settings": settings} if settings else {}),
    }


def measured(row: Row, metrics: Mapping[str, Any], baselines: Mapping[str, Any], commit: str) -> Row | None:
    """The row with its numbers; None where metrics are of another data set or length, or have no mAP."""
    if (metrics.get("dataset"), metrics.get("bits")) != (row["dataset"], row["bits"]) or "map" not in metrics:
        return None
    result = {name: baselines[name]["map"] for name in BASELINES if "map" in baselines.get(name, {})}
    return {**row, "map": metrics["map"], "map_stable": metrics["map_stable"], **result, "commit": commit}


def read_rows(path: Path) -> list[Row]:
    """Rows of an earlier table, numbers as numbers; none where the file does not exist.

    Raises DataError where it cannot be read, or a column is missing.
    """
    if not path.exists():
        return []
    try:
        table = read_table(path.read_bytes().decode("utf-8-sig"))
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a table in UTF-8 ({error}): remove it, it is made anew") from None
    if missing := {"key", "code", "map"} - set(table[0] if table else ("key", "code", "map")):
        raise DataError(f"{path} has no column {', '.join(sorted(missing))}: remove it, the table is made anew")
    return [
        {name: _number(text) if name in NUMBERS else text for name, text in row.items() if name in HEADER and text}
        for row in table
    ]


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def merge(old: Iterable[Row], new: Iterable[Row]) -> list[Row]:
    """One row for each place in the table: a new row replaces an old one, but a reason replaces no number.

    A number that stays although its parameters are no longer those of its place is marked as of earlier code.
    """
    rows = {_place(row): row for row in old}
    for row in new:
        before = rows.get(_place(row), {})
        kept = "map" in before and "map" not in row
        rows[_place(row)] = (
            {**before, "code": before["code"] if before["key"] == row["key"] else EARLIER} if kept else row
        )
    order = ("dataset", "recipe", "settings", "bits", "seed")
    return sorted(rows.values(), key=lambda row: tuple(_order(row.get(name, "")) for name in order))


def _place(row: Row) -> tuple[Any, ...]:
    return (*(row.get(name) for name in ("dataset", "recipe", "bits", "seed")), *_setting(row))


def _order(value: Any) -> tuple[int, float, str]:
    return (0, float(value), "") if isinstance(value, int | float) else (1, 0.0, str(value))


# --- the page -------------------------------------------------------------------------------------------------------


def render(rows: Sequence[Row], published: Sequence[Mapping[str, str]], code: str) -> str:
    """The Markdown between the markers: a table for each data set, and a note for each cell that has no number."""
    parts = []
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        own = [row for row in rows if row["dataset"] == dataset]
        parts.append(_table(dataset, own, [line for line in published if line["dataset"] == dataset], code))
    return "\n\n".join(parts)


def _table(dataset: str, rows: Sequence[Row], published: Sequence[Mapping[str, str]], code: str) -> str:
    """One data set's table; a column a code length, a row a method, with what its cells were measured on."""
    lengths = sorted({int(row["bits"]) for row in rows} | {int(line["bits"]) for line in published})
    notes: list[str] = []
    lines = [
        f"### {dataset}\n",
        "| method | data: queries / train | features | mAP at, ties | "
        + " | ".join(f"{b} bits" for b in lengths)
        + " |",
        "|---|---|---|---|" + "---|" * len(lengths),
    ]
    lines += _published_rows(published, lengths, notes)
    for setting in dict.fromkeys(_setting(row) for row in rows):
        own = [row for row in rows if _setting(row) == setting]
        lines += _measured_rows(own, lengths, code, notes)
    return "\n".join([*lines, "", *(f"[{number}] {note}  " for number, note in enumerate(notes, start=1))]).rstrip()


def _published_rows(published: Sequence[Mapping[str, str]], lengths: Sequence[int], notes: list[str]) -> Iterator[str]:
    """A line for each method and source; the order of ties is whatever its authors' sort gave."""
    by_method = itertools.groupby(published, key=lambda line: (line["method"], line["setting"], line["source"]))
    for (method, setting, source), group in by_method:
        own = list(group)
        values = {int(line["bits"]): f"{float(line['map']):.4f}" for line in own}
        about = f"{own[0]['num_query']} / {own[0]['num_train']} | {setting} | {own[0]['topk']}, as its authors sorted"
        cells = " | ".join(values.get(length, "–") for length in lengths)
        yield f"| {method}, published{_note(notes, source)} | {about} | {cells} |"


def _measured_rows(rows: Sequence[Row], lengths: Sequence[int], code: str, notes: list[str]) -> Iterator[str]:
    """The baselines and each recipe of one protocol, one kind of features and the same settings."""
    about = _about(rows[0])
    extra = f", {rows[0]['settings']}" if "settings" in rows[0] else ""

    def line(title: str, chosen: Sequence[Row], name: str) -> str:
        cells = (_mean([row for row in chosen if row["bits"] == length], name, code, notes) for length in lengths)
        return f"| {title} | {about} | {' | '.join(cells)} |"

    for name, title in BASELINES.items():
        if any(name in row for row in rows):
            yield line(f"{title}{extra}", rows, name)
    for recipe in dict.fromkeys(row["recipe"] for row in rows):
        yield line(f"**SSDH, recipe {recipe}**{extra}", [row for row in rows if row["recipe"] == recipe], "map")


def _setting(row: Row) -> tuple[Any, ...]:
    names = ("num_query", "num_train", "arch", "layer", "weights", "size", "topk", "ties", "settings")
    return tuple(row.get(name) for name in names)


def _about(row: Row) -> str:
    counts = " / ".join(str(row.get(name, "the set's lists")) for name in ("num_query", "num_train"))
    size = f"{row['size']} px" if row.get("size") else "the network's own size"
    features = (
        "embeddings" if row["weights"] == "none" else f"{row['arch']} {row['layer']}, {row['weights']} weights, {size}"
    )
    return f"{counts} | {features} | {row.get('topk', 'all')}, {row['ties']} over ties"


def _mean(rows: Sequence[Row], name: str, code: str, notes: list[str]) -> str:
    """`mean ± deviation` over the seeds; says how many where some are missing, and why none where none is there."""
    values = {row["seed"]: float(row[name]) for row in rows if name in row}
    if not values:
        reasons = dict.fromkeys(str(row["reason"]) for row in rows if "reason" in row)
        return f"not run{_note(notes, '; '.join(reasons))}" if reasons else "–"
    numbers = list(values.values())
    text = f"{statistics.fmean(numbers):.4f}"
    if len(numbers) > 1:
        text += f" ± {statistics.stdev(numbers):.4f}"
    seeds = len({row["seed"] for row in rows})
    text += f" ({len(numbers)} of {seeds} seeds)" if len(numbers) < seeds else ""
    old = {str(row.get("commit", "?")) for row in rows if name in row and row["code"] != code}
    return text + (
        _note(notes, f"measured with earlier code or parameters, commit {', '.join(sorted(old))}") if old else ""
    )


def _note(notes: list[str], text: str) -> str:
    if text not in notes:
        notes.append(text)
    return f" [{notes.index(text) + 1}]"


def write_page(path: Path, table: str) -> None:
    """Put `table` between the markers of a Markdown page; makes the page where it does not exist.

    Raises DataError where the page has no markers (or only one).
    """
    text = path.read_text(encoding="utf-8") if path.exists() else f"# Results\n\n{START}\n{END}\n"
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise DataError(f"{path} needs the lines {START} and {END}: the table is written between them")
    with atomic_path(path) as temporary:
        temporary.write_text(f"{before}{START}\n\n{table}\n\n{END}{after}", encoding="utf-8", newline="\n")

"""The rows of `dvc exp show --csv` as Markdown, or as text that fits a terminal.

In a terminal long values lose their start, then wide columns go.
"""

from collections.abc import Iterable, Mapping, Sequence

from ssdh.core.errors import one_line

LEAST, LEAST_MEASURE, LEAST_NAME = 8, 12, 14  # characters to which columns of parameters, measures, names may shrink

ABOUT_ROW = ("Experiment", "rev", "typ", "parent")  # of these the first column is made

BRANCH = "branch"  # how DVC's `typ` of an experiment begins


def fitted(rows: Sequence[Mapping[str, str]], measures: Sequence[str], width: int) -> list[str]:
    """The lines of the table: a row's name, the measures, then narrow columns before wide ones.

    Where the lines are longer than `width` the widest columns shrink; a path keeps its end, and no number of a measure
    loses a digit. Where that is not enough the last columns go, and a line below names them.

    >>> rows = [{"rev": "main", "map": "0.857139", "root": "/home/somebody/photos/of/2024"}]
    >>> print("\\n".join(fitted(rows, ["map"], 31)))
    experiment  map      root
    main        0.85714  …s/of/2024
    """
    columns, num_measures = _columns(rows, measures)
    widths = [max(map(len, column)) for column in columns]
    least = [LEAST_NAME, *(LEAST_MEASURE if i < num_measures else LEAST for i in range(len(columns) - 1))]
    kept = 1 + num_measures
    while kept < len(columns) and _length(map(min, widths[: kept + 1], least)) <= width:
        kept += 1
    columns, widths, left_out = columns[:kept], widths[:kept], [column[0] for column in columns[kept:]]
    while _length(widths) > width:
        shrinking = [i for i, size in enumerate(widths) if size > least[i]]
        if not shrinking:
            break
        widths[max(shrinking, key=lambda i: widths[i])] -= 1
    lines = [
        "  ".join(_end(cell, size).ljust(size) for cell, size in zip(line, widths, strict=True)).rstrip()
        for line in zip(*columns, strict=True)
    ]
    return [*lines, f"too wide for here: {', '.join(left_out)} (--md and --csv have all)"] if left_out else lines


def markdown(rows: Sequence[Mapping[str, str]], measures: Sequence[str]) -> list[str]:
    r"""The lines of the whole table in Markdown.

    >>> rows = [{"rev": "main", "map": "0.857139", "root": "a|b"}]
    >>> print("\n".join(markdown(rows, ["map"])))
    | experiment | map | root |
    |---|---|---|
    | main | 0.85714 | a\|b |
    """
    columns, _ = _columns(rows, measures)
    cells = ([cell.strip().replace("|", "\\|") for cell in line] for line in zip(*columns, strict=True))
    header, *lines = (f"| {' | '.join(line)} |" for line in cells)
    return [header, f"|{'---|' * len(columns)}", *lines]


def _columns(rows: Sequence[Mapping[str, str]], measures: Sequence[str]) -> tuple[list[list[str]], int]:
    """The columns with their headers: of names, of measures, then narrow ones before wide; and how many measures."""
    names = [name for name in (rows[0] if rows else ()) if name not in ABOUT_ROW]
    first = [name for name in measures if name in names]
    cells = {name: [name.removeprefix("params.yaml:"), *(_value(row[name]) for row in rows)] for name in names}
    others = sorted((name for name in names if name not in first), key=lambda name: max(map(len, cells[name])))
    return [["experiment", *map(_name, rows)], *(cells[name] for name in (*first, *others))], len(first)


def _length(widths: Iterable[int]) -> int:
    """Characters of a line of columns so wide."""
    return sum(size + 2 for size in widths) - 2


def _name(row: Mapping[str, str]) -> str:
    """An experiment by its name, below the commit that it started from."""
    return f"  {row.get('Experiment') or row['rev']}" if row.get("typ", "").startswith(BRANCH) else row["rev"]


def _value(text: str) -> str:
    """A number with the five digits that DVC shows; anything else as one line."""
    try:
        return f"{float(text):.5g}" if "." in text else one_line(text)
    except ValueError:
        return one_line(text)


def _end(text: str, size: int) -> str:
    return text if len(text) <= size else "…" + text[len(text) - size + 1 :]

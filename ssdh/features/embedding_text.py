"""Embeddings in text, .csv and .tsv in UTF-8: a line a row, its values in numbered columns (`f0`, `f1`, …).

The first line names the columns; without one all columns are values.
"""

import csv
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from ssdh.core.errors import DataError, one_line
from ssdh.core.params import is_number
from ssdh.features.embedding_part import Part, Values, kept_type, numbered, reading

SHOWN = 8  # names of columns in a message


def open_text(path: Path, key: str | None) -> list[Part]:
    """Rows of float32, parsed block by block; an empty field is a null, which makes its row odd."""
    names = text_header(path)
    places = list(range(len(next(text_rows(path))))) if names is None else numbered(path, names, key)
    if names is not None and not places:
        shown = ", ".join(map(one_line, names[:SHOWN])) + (", …" if len(names) > SHOWN else "")
        raise DataError(f"{path} has no numbered columns (f0, f1, …) of values: its columns are {shown}")
    first = 0 if names is None else 1
    count = sum(1 for _ in text_rows(path)) - first
    kept_dtype = kept_type(path, (count, len(places)), "float32")

    def read(step: int) -> Iterator[Values]:
        with reading(path), np.errstate(over="ignore"):  # what float32 cannot hold becomes infinity: a bad row
            rows = islice(text_rows(path), first, None)
            for start in range(0, count, step):
                block = np.zeros((min(step, count - start), len(places)), kept_dtype)
                odd = np.zeros(len(block), np.bool_)
                for i, row in enumerate(islice(rows, len(block))):
                    fields = [row[place] for place in places]
                    try:
                        block[i] = list(map(float, fields))
                    except ValueError:
                        block[i] = [_number(path, start + i, place, row[place], names) for place in places]
                        odd[i] = "" in map(str.strip, fields)
                yield block, odd

    return [Part(path, count, len(places), kept_dtype, read)]


def _number(path: Path, row: int, place: int, field: str, names: list[str] | None) -> float:
    """The number in a field, 0 where it is empty; DataError where it is none."""
    try:
        return float(field.strip() or 0)
    except ValueError:
        column = f"{place}" if names is None else repr(names[place])
        raise DataError(f"{path}: row {row}, column {column} holds {field[:40]!r}, which is no number") from None


def text_rows(path: Path) -> Iterator[list[str]]:
    """The fields of each line, or of several where quotes hold them together; blank lines are passed over.

    In a file of one column a blank line is an empty field. Raises DataError where the file is no text in UTF-8, or a
    row has another number of fields than the first.
    """
    width = 0
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
            for row in reader:
                row = row or [""]
                width = width or len(row)
                if row == [""] and width > 1:
                    continue
                if len(row) != width:
                    raise DataError(
                        f"{path}, line {reader.line_num}: expected {width} fields as in line 1, got {len(row)}"
                    )
                yield row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as text in UTF-8 ({error})") from None


def text_header(path: Path) -> list[str] | None:
    """The names in the first line; None where it holds numbers alone, and not 0, 1, 2, … that number the columns.

    Raises DataError where it holds names and numbers such as 0.5: it is a row then, and the names are missing.
    """
    first = [field.strip() for field in next(text_rows(path), [""])]
    given = [field for field in first if field]
    numbers = [field for field in given if is_number(field) and "_" not in field]  # 0_1 is a name, to Python 1
    if len(numbers) == len(given) > 0 and given != list(map(str, range(len(given)))):
        return None
    if values := [field for field in numbers if not field.isdecimal()]:
        raise DataError(
            f"{path}: the first line must name the columns, it holds {values[0]!r}: write names above it, such as "
            "id, f0, f1, …"
        )
    return first

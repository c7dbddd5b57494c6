"""`labels.csv`: which labels each image has, one image a line; what is no such line is named, and nothing is guessed.

path,label
cats/felix.jpg,cat;black
"a, b.jpg",dog
"""

import csv
from collections.abc import Collection, Iterator
from pathlib import Path

from ssdh.core.errors import DataError
from ssdh.datasets.text_lists import clean_name
from ssdh.features.image_files import EXTENSIONS, UNREAD

OPEN_QUOTE = 'a quote is not closed: close it, or write a quote of the text itself as "" inside quotes'

HEADERS = (
    *("path", "file", "filename", "image", "name", "filepath"),
    *("image_path", "file_name", "file_path", "image_name"),
)


def read_labels(path: Path, there: Collection[str]) -> dict[str, set[str]]:
    """The labels of each listed path, in the order of the file; several lines of a path add up.

    there: the images' paths; one that is listed as it stands is left so, another is cleaned (`clean_name`).
    Raises DataError, naming the line, where the file is no CSV in UTF-8 of two fields a line, or a quote is left open.
    """
    labels_of: dict[str, set[str]] = {}
    for place, (number, cells) in enumerate(_records(path)):
        if len(cells) != 2:
            raise DataError(f"{path}, line {number}: expected path,label[;label…], got {len(cells)} fields")
        if place == 0 and _is_header(cells[0]):
            continue
        if place == 0 and not _names_an_image(cells[0]):
            raise DataError(
                f"{path}, line {number}: {cells[0]!r} is neither an image nor a known header "
                f"({', '.join(HEADERS)}): name the columns path,label, or remove the line"
            )
        if "\n" in cells[1] or "\r" in cells[1]:
            raise DataError(f"{path}, line {number}: {OPEN_QUOTE}")
        if len(cells[1].splitlines()) > 1 or "\0" in cells[1]:
            raise DataError(f"{path}, line {number}: {cells[1]!r} holds a line break or a null, which no label does")
        own = {label.strip() for label in cells[1].split(";")} - {""}
        labels_of.setdefault(cells[0] if cells[0] in there else clean_name(cells[0], path), set()).update(own)
    return labels_of


def _records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(number of its first line, cells) of each record that is not empty; Excel's `sep=,` on top is passed over."""
    number = 0
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            for cells in reader:
                first, number = number + 1, reader.line_num
                if first == 1 and cells and cells[0].lower().startswith("sep="):
                    if ",".join(cells).strip().lower() != "sep=,":
                        raise DataError(f"{path}, line 1: {','.join(cells)!r}: save it with commas between the fields")
                elif any(cell.strip() for cell in cells):
                    yield first, cells
    except csv.Error as error:
        raise DataError(f"{path}, line {number + 1}: {OPEN_QUOTE} ({error})") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as CSV in UTF-8 ({error})") from None


def _is_header(cell: str) -> bool:
    return cell.strip().lower().replace(" ", "_") in HEADERS


def _names_an_image(cell: str) -> bool:
    return cell.strip().lower().endswith((*EXTENSIONS, *UNREAD))

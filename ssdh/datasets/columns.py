"""A column beside embeddings: labels, names or roles, one entry a row, from whatever file it lies in."""

import math
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssdh.core.errors import DataError
from ssdh.core.inflation import ROW_BYTES, TIMES, refuse_inflation
from ssdh.datasets.base import check_label_size
from ssdh.datasets.text_lists import read_lines
from ssdh.features.embedding_numpy import read_header
from ssdh.features.embedding_part import choose, missing_package, reading
from ssdh.features.embedding_tables import hdf5_arrays, parquet_values
from ssdh.features.embedding_text import text_header, text_rows
from ssdh.features.embeddings import natural_order

Column = Sequence[Any] | NDArray[Any]  # numbers, texts, lists of them, None; or a matrix (N, C)


def read_column(path: Path, key: str | None, usual: tuple[str, ...]) -> Column | None:
    """The column `key` of a file, or the first one of a `usual` name; None where it has none of them.

    A .npy, and a .csv, .tsv or .txt of one column, is the column itself. Of a folder of shards the `metadata_*.parquet`
    in it or in `metadata/` are read. Raises DataError where the file cannot be read or has no column `key`.
    """
    if path.is_dir():
        files = sorted([*path.glob("metadata_*.parquet"), *path.glob("metadata/*.parquet")], key=natural_order)
        files = files or sorted(path.glob("*.parquet"), key=natural_order)
        columns = [read_column(file, key, usual) for file in files]
        whole = [column for column in columns if column is not None]
        return [value for column in whole for value in column] if whole else None
    with reading(path):
        is_column = path.suffix.lower() == ".npy"
        column = _read_npy(path) if is_column else _choose(path, dict(_tables(path)), key, usual)
        if isinstance(column, np.ndarray) and column.dtype.kind == "U":
            _refuse_no_text(column)
        return column


def _choose(path: Path, columns: dict[str, Any], key: str | None, usual: tuple[str, ...]) -> Column | None:
    if key is None and not set(usual) & set(columns):
        return None
    column: Column = columns[choose(path, list(columns), key, usual)]()
    return column


def _tables(path: Path) -> Iterator[tuple[str, Any]]:
    """(name, function that reads it) of each column of a file."""
    suffix = path.suffix.lower()
    if suffix == ".npz":
        with zipfile.ZipFile(path) as file:
            names = [name.removesuffix(".npy") for name in file.namelist()]
        yield from ((name, lambda name=name: _read_npz(path, name)) for name in names)
    elif suffix in (".csv", ".tsv", ".txt"):
        yield from _text(path)
    elif suffix == ".parquet":
        yield from _parquet(path)
    elif suffix in (".h5", ".hdf5"):
        yield from _hdf5(path)
    elif suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, "np") as tensors:
            keys = list(tensors.keys())
        yield from ((name, lambda name=name: _tensor(path, name)) for name in keys)
    else:
        raise DataError(
            f"{path} holds no column: known are .npy, .npz, .csv, .tsv, .txt, .parquet, .h5 and .safetensors"
        )


def _read_npy(path: Path) -> NDArray[Any]:
    with path.open("rb") as file:
        _refuse_objects(path, read_header(file, path)[2])
    array: NDArray[Any] = np.load(path, allow_pickle=False)
    return array


def _read_npz(path: Path, name: str) -> NDArray[Any]:
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as member:
        shape, _, dtype = read_header(member, path)
        _refuse_objects(path, dtype)
        refuse_inflation(path, math.prod(shape) * dtype.itemsize, f"column {name!r}")
    with np.load(path, allow_pickle=False) as file:
        array: NDArray[Any] = file[name]
    return array


def _refuse_objects(path: Path, dtype: np.dtype[Any]) -> None:
    if dtype.hasobject:
        raise DataError(
            f"{path} holds Python objects, which are not read: save texts as `numpy.array(texts, dtype=str)`"
        )


def _refuse_no_text(column: NDArray[np.str_]) -> None:
    """NumPy takes any 32 bits for a character: Python fails on some, and half characters cannot be written."""
    codes = np.frombuffer(column.astype(column.dtype.newbyteorder("=")).tobytes(), np.uint32)
    if ((codes > 0x10FFFF) | ((codes >= 0xD800) & (codes < 0xE000))).any():
        raise ValueError("it holds what is no character")


def _tensor(path: Path, name: str) -> NDArray[Any]:
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        tensor: NDArray[Any] = file.get_tensor(name)
    return tensor


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise missing_package("pyarrow", path) from None

    def read(name: str) -> list[Any]:
        with pq.ParquetFile(path, read_dictionary=texts) as file:  # a text that was written once is read once
            refuse_inflation(path, parquet_values(file, name) * ROW_BYTES, f"column {name!r}")
            return [value for batch in file.iter_batches(columns=[name]) for value in _values(batch.column(0))]

    with pq.ParquetFile(path) as file:
        leaves = [file.schema.column(place) for place in range(len(file.schema))]
        texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
        names = file.schema_arrow.names
    yield from ((name, lambda name=name: read(name)) for name in names)


def _values(array: Any) -> list[Any]:
    """An Arrow array as Python's objects, a text that stands there again and again as one."""
    import pyarrow as pa

    if pa.types.is_dictionary(array.type):
        words = array.dictionary.to_pylist()
        return [None if place is None else words[place] for place in array.indices.to_pylist()]
    if pa.types.is_list(array.type):
        inside = iter(_values(array.flatten()))
        return [None if size is None else list(islice(inside, size)) for size in array.value_lengths().to_pylist()]
    values: list[Any] = array.to_pylist()
    return values


def _hdf5(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        import h5py
    except ImportError:
        raise missing_package("h5py", path) from None

    def read(name: str) -> Column:
        with h5py.File(path, "r") as file:
            stored = file[name]
            refuse_inflation(path, stored.size * stored.dtype.itemsize, f"column {name!r}")
            if stored.dtype.kind not in "OS":
                return np.asarray(stored[()])
            texts: list[str] = []
            taken = 0
            for start in range(0, len(stored), TIMES):  # all may lead to one long text
                texts += (block := [text.decode() for text in stored[start : start + TIMES]])
                refuse_inflation(path, taken := taken + sum(map(len, block)), f"column {name!r}")
            return texts

    yield from ((name, lambda name=name: read(name)) for name in hdf5_arrays(path))


def _text(path: Path) -> Iterator[tuple[str, Callable[[], list[str]]]]:
    """Columns of a .csv (or .tsv), whose first line names them; a line each of a .txt, without a name.

    A .csv of one column needs no first line: it has one where that says label, class, name, id, role or so.
    """
    if path.suffix.lower() == ".txt":
        yield "", lambda: read_lines(path)
        return
    width = len(next(text_rows(path), []))
    if width == 0:
        return
    names = text_header(path) or []
    whole = width == 1 and (not names or names[0].lower() not in HEADERS)

    def read(place: int) -> list[str]:
        return [row[place] for row in islice(text_rows(path), 0 if whole else 1, None)]

    yield from ((name, partial(read, place)) for place, name in enumerate([""] if whole else names))


LABELS = ("", "labels", "label", "class", "classes", "category", "y")  # usual names of columns, best first
NAMES = ("", "names", "name", "id", "ids", "key", "path", "image_path", "filename", "url")
ROLES = ("", "role", "split")
NEGATIVE = re.compile(r"-[0-9]+(\.0*)?")  # a class number that is no label, written out
HEADERS = {*LABELS, *NAMES, *ROLES} - {""}


# --- what the columns mean --------------------------------------------------------------------------------------------


def labels_of(column: Column, where: str) -> tuple[tuple[str, ...], NDArray[np.uint8]]:
    """(C class names, (N, C) uint8 multi-hot) of class numbers, texts, a multi-hot matrix, or lists of either.

    A text may hold several labels, set apart by semicolons; an empty one, None, NaN and a negative number, as text too,
    are no label.
    `where` begins the error for what is none of these.
    """
    array = np.asarray(column) if _is_matrix(column) else None
    if array is not None and array.ndim == 2 and array.shape[1] > 1:
        if array.dtype.kind not in "biuf" or not np.isin(array, (0, 1)).all():
            raise DataError(f"{where} of shape {array.shape} must be 0 and 1, a column a class")
        return tuple(map(str, range(array.shape[1]))), array.astype(np.uint8)
    if array is not None and array.ndim > 2:
        raise DataError(f"{where} must be class numbers (N,) or multi-hot (N, C), got shape {array.shape}")
    values = np.ravel(column) if array is not None or isinstance(column, np.ndarray) else column
    known: dict[str, Any] = {}  # texts that were taken apart
    own = [_labels(value, where, known) for value in values]
    classes = sorted({label for labels in own for label in labels}, key=_numbers_first)
    check_label_size(where, len(own), len(classes))
    column_of = {label: i for i, label in enumerate(classes)}
    labels = np.zeros((len(own), len(classes)), np.uint8)
    for row, names in enumerate(own):
        labels[row, [column_of[label] for label in names]] = 1
    return tuple(map(str, classes)), labels


def _is_matrix(column: Column) -> bool:
    """Lists of zeros and ones, all as long, are rows of a matrix; other lists are labels."""
    if isinstance(column, np.ndarray):
        return column.ndim > 1
    lists = [value for value in column if isinstance(value, (list, np.ndarray))]
    lengths = {len(value) for value in lists}
    return len(lists) == len(column) > 0 and len(lengths) == 1 and all(x in (0, 1) for value in lists for x in value)


def _labels(value: Any, where: str, known: dict[str, Any]) -> list[int] | list[str]:
    if value is None:
        return []
    if isinstance(value, (list, tuple, np.ndarray)):
        return [label for item in value for label in _labels(item, where, known)]  # type: ignore[return-value]
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, str):
        if value not in known:
            parts = [part.strip() for part in value.split(";")]
            known[value] = list(dict.fromkeys(part for part in parts if part and not NEGATIVE.fullmatch(part)))
        labels: list[str] = known[value]
        return labels
    if isinstance(value, (bool, np.bool_, int, np.integer, float, np.floating)):
        if value != value or value < 0:
            return []
        if value == int(value):
            return [int(value)]
    shown = value.item() if isinstance(value, np.generic) else value
    raise DataError(f"{where} holds {shown!r}: labels are class numbers, texts or a matrix of 0 and 1")


def _numbers_first(label: int | str) -> tuple[bool, int, str]:
    return (True, 0, label) if isinstance(label, str) else (False, label, "")


def names_of(column: Column, where: str) -> list[str]:
    """N different texts; numbers are written out. Raises DataError for empty and repeated ones, NaN, and for lists."""
    if odd := [value for value in column if isinstance(value, (list, tuple, dict, np.ndarray))]:
        raise DataError(f"{where} holds {str(odd[0])[:40]!r}: a name is a text or a number, one a row")
    names = [value.decode(errors="replace") if isinstance(value, bytes) else str(value) for value in column]
    pairs = enumerate(zip(names, column, strict=True))
    if empty := [row for row, (name, value) in pairs if not name or value is None or _is_nan(value)]:
        raise DataError(f"{where}: row {empty[0]} has no name; {len(empty)} of {len(names)} are empty")
    if null := [name for name in names if "\0" in name]:
        raise DataError(f"{where} holds {null[0][:40]!r}: no name has a null character in it")
    _refuse_repeated(names, where, "a name is of one row")
    return names


def _is_nan(value: Any) -> bool:
    """Whether it is what tables of numbers have where there is no value."""
    return isinstance(value, (float, np.floating)) and value != value


def _refuse_repeated(names: Sequence[str], where: str, rule: str) -> None:
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(f"{where}: {repeated[0]!r} stands there more than once, {rule}")


ROLE_OF = {"query": "query", "test": "query", "train": "train", "database": "database", "unused": "unused"}


def roles_of(path: Path, names: list[str]) -> NDArray[Any]:
    """(N,) texts query, train, database and unused, from a column in the rows' order, or beside `row` or `name`."""
    if path.suffix.lower() in (".csv", ".tsv") and {"row", "name"} & (table := dict(_text(path))).keys():
        beside = "row" if "row" in table else "name"
        known = map(str, range(len(names))) if beside == "row" else names
        given, row_of = table[beside](), {name: row for row, name in enumerate(known)}
        if unknown := [name for name in given if name not in row_of]:
            raise DataError(f"{path}: {unknown[0]!r} is no row of the features")
        _refuse_repeated(given, str(path), "a row has one role")
        roles = np.full(len(names), "unused", object)
        roles[[row_of[name] for name in given]] = table[choose(path, list(table), None, ROLES)]()
    else:
        column = read_column(path, None, ROLES)
        roles = np.asarray([] if column is None else [str(role) for role in column], object)
    if len(roles) != len(names):
        raise DataError(f"{path} has {len(roles):,} roles, the features have {len(names):,} rows")
    if wrong := sorted(set(roles) - ROLE_OF.keys()):
        raise DataError(f"{path}: a role is one of {', '.join(ROLE_OF)}, got {wrong[0]!r}")
    return np.array([ROLE_OF[role] for role in roles])

"""Embeddings in .safetensors, HDF5 and Parquet; h5py and pyarrow (`pip install 'ssdh[embeddings]'`) where needed."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssdh.core.errors import DataError, one_line
from ssdh.core.inflation import refuse_inflation
from ssdh.features.embedding_part import Part, Values, choose, kept_type, missing_package, numbered, part, reading

# pyarrow else reads a column of a group of rows as a whole, and those of all groups ahead
STREAMED = {"pre_buffer": False, "buffer_size": 1 << 16}


def open_safetensors(path: Path, key: str | None) -> list[Part]:
    """A tensor of the file; bfloat16 becomes float32."""
    from safetensors import safe_open

    types = {"F16": "float16", "F32": "float32", "F64": "float64", "BF16": "bfloat16", "I8": "int8", "U8": "uint8"}
    with safe_open(path, "np") as file:
        name = choose(path, sorted(file.keys()), key)
        about = file.get_slice(name)
        shape, kind = tuple(about.get_shape()), str(about.get_dtype())
    if kind not in types:
        raise DataError(f"{path} holds {kind}, embeddings are {', '.join(types)}: convert it to F32")

    def rows(step: int) -> Iterator[NDArray[Any]]:
        with safe_open(path, "pt" if kind == "BF16" else "np") as file:  # NumPy has no bfloat16
            values = file.get_slice(name)
            for start in range(0, shape[0], step):
                block = values[start : min(start + step, shape[0])]
                yield block.float().numpy() if kind == "BF16" else block

    return [part(path, shape, types[kind], rows)]


def open_hdf5(path: Path, key: str | None) -> list[Part]:
    """The layout of nearest-neighbour benchmarks: `train` is the database, `test` holds the queries."""
    try:
        import h5py
    except ImportError:
        raise missing_package("h5py", path) from None
    arrays = hdf5_arrays(path)
    roles = {"train": "train", "test": "test"} if key is None and "train" in arrays else {}
    names = [name for name in roles if name in arrays] or [choose(path, list(arrays), key)]
    with h5py.File(path, "r") as file:
        for name in names:
            chunk = math.prod(file[name].chunks or ()) * file[name].dtype.itemsize
            refuse_inflation(path, chunk, f"a chunk of {name!r}")

    def opened(name: str) -> Part:
        def rows(step: int) -> Iterator[NDArray[Any]]:
            with h5py.File(path, "r") as file:
                values = file[name]
                yield from (values[start : start + step] for start in range(0, len(values), step))

        return part(path, *arrays[name], rows, roles.get(name, ""))

    return [opened(name) for name in names]


def hdf5_arrays(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """{name: (shape, type)} of every array of an HDF5 file; of one in a group the name is GROUP/NAME."""
    import h5py

    arrays = {}
    with h5py.File(path, "r") as file:

        def visit(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                arrays[name] = (item.shape, item.dtype)

        file.visititems(visit)
    return arrays


def open_parquet(path: Path, key: str | None) -> list[Part]:
    """A column of lists of numbers; a row of another length than most of the first rows, or with a null, is odd.

    Where there is no such column, numbered columns of numbers, one a dimension.
    """
    try:
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq
    except ImportError:
        raise missing_package("pyarrow", path) from None
    with pq.ParquetFile(path, **STREAMED) as file:
        schema, count = file.schema_arrow, file.metadata.num_rows
        lists = [field.name for field in schema if _list_of_numbers(field.type)]
        if key is not None and key in schema.names and key not in lists:
            raise DataError(f"{path}: column {key!r} holds {schema.field(key).type}, not lists of numbers")
        if not lists:
            numbers = [field.name for field in schema if _is_number(field.type)]
            if places := numbered(path, numbers, key):
                return [_wide(path, count, [schema.field(numbers[place]) for place in places])]
            raise DataError(
                f"{path} has no column of lists of numbers: its columns are {', '.join(map(one_line, schema.names))}"
            )
        column = choose(path, lists, key)
        refuse_inflation(path, 8 * parquet_values(file, column), f"column {column!r}")
        first = next(file.iter_batches(1024, columns=[column]), None)
        dim = 0 if first is None else _usual_length(first[column])
    kept_dtype = _kept(path, (count, dim), schema.field(column).type.value_type)

    def read(step: int) -> Iterator[Values]:
        with reading(path), pq.ParquetFile(path, **STREAMED) as file:
            for batch in file.iter_batches(step, columns=[column]):
                lists = batch.column(0)
                odd = pc.list_value_length(lists).fill_null(-1).to_numpy(zero_copy_only=False) != dim
                values = lists.filter(pa.array(~odd)).flatten()
                rows = values.fill_null(0).to_numpy(zero_copy_only=False).reshape(-1, dim)
                block = np.zeros((len(odd), dim), kept_dtype)
                block[~odd] = rows
                if values.null_count:
                    odd[~odd] |= values.is_null().to_numpy(zero_copy_only=False).reshape(-1, dim).any(axis=1)
                yield block, odd

    return [Part(path, count, dim, kept_dtype, read)]


def _wide(path: Path, count: int, fields: list[Any]) -> Part:
    """Columns of numbers of one type, `fields` of an Arrow schema, one a dimension; a row with a null is odd."""
    import pyarrow.parquet as pq

    first = fields[0]
    if other := next((field for field in fields if field.type != first.type), None):
        raise DataError(
            f"{path}: column {first.name!r} holds {first.type}, column {other.name!r} {other.type}: convert them to one"
        )
    names = [field.name for field in fields]
    kept_dtype = _kept(path, (count, len(names)), first.type)

    def read(step: int) -> Iterator[Values]:
        with reading(path), pq.ParquetFile(path, **STREAMED) as file, np.errstate(over="ignore"):
            for batch in file.iter_batches(step, columns=names):
                block = np.zeros((len(batch), len(names)), kept_dtype)
                odd = np.zeros(len(batch), np.bool_)
                for place, name in enumerate(names):
                    column = batch.column(name)
                    block[:, place] = column.fill_null(0).to_numpy(zero_copy_only=False)
                    if column.null_count:
                        odd |= column.is_null().to_numpy(zero_copy_only=False)
                yield block, odd

    return Part(path, count, len(names), kept_dtype, read)


def _kept(path: Path, shape: tuple[int, int], kind: Any) -> np.dtype[Any]:
    """`kept_type` of an Arrow type."""
    name = {"halffloat": "float16", "float": "float32", "double": "float64"}.get(str(kind), str(kind))
    return kept_type(path, shape, name)


def parquet_values(file: Any, column: str) -> int:
    """How many values the lists of a column hold together, or the column itself, by what the file says of its parts."""
    groups = (file.metadata.row_group(number) for number in range(file.metadata.num_row_groups))
    parts = (group.column(place) for group in groups for place in range(group.num_columns))
    return sum(part.num_values for part in parts if f"{part.path_in_schema}.".startswith(f"{column}."))


def _list_of_numbers(kind: Any) -> bool:
    import pyarrow as pa

    is_list: bool = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return is_list and _is_number(kind.value_type)


def _is_number(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def _usual_length(column: Any) -> int:
    import pyarrow.compute as pc

    lengths = pc.list_value_length(column).drop_null().to_numpy(zero_copy_only=False)
    values, counts = np.unique(lengths, return_counts=True)
    return int(values[counts.argmax()]) if len(lengths) else 0

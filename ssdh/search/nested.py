"""Shorter codes of a model that was trained with `train.nested`: the first bits of each code, in search and export."""

from dataclasses import replace
from pathlib import Path

from ssdh.core.errors import ParameterError
from ssdh.hashing.codes import first_bits
from ssdh.hashing.model_file import read_metadata
from ssdh.search.engines import CodeTable
from ssdh.search.gallery import Encoded
from ssdh.search.index import Index, Kind


def check_length(model: Path, bits: int) -> None:
    """Raise ParameterError unless the model in this file was trained so that its first `bits` bits are codes."""
    metadata = read_metadata(model)
    longest = int(metadata["bits"])
    known = [*metadata.get("train", {}).get("nested", []), longest]
    if bits not in known:
        raise ParameterError(
            f"--bits must be one of {', '.join(map(str, known))}, got {bits}: the first bits of these codes are codes "
            "only at lengths that train.nested named in training (params.yaml: train.nested)"
        )


def shorter_index(index: Index, bits: int, kind: Kind) -> Index:
    """The index of the first `bits` of each code of a flat index."""
    packed = first_bits(index.packed, index.bits, bits)
    return Index(packed, bits=bits, names=index.names, features=index.features, kind=kind)


def shorter_table(table: CodeTable, bits: int) -> CodeTable:
    """The table of the first `bits` of each code."""
    return replace(table, packed=first_bits(table.packed, table.bits, bits), bits=bits)


def shorter_queries(encoded: Encoded, bits: int) -> Encoded:
    """The first `bits` of the codes and outputs of queries."""
    longest = encoded.outputs.shape[1]
    return Encoded(first_bits(encoded.packed, longest, bits), encoded.outputs[:, :bits], encoded.features)

"""The nearest codes by Hamming distance, through faiss' binary indexes; one copy of the codes in memory.

    from ssdh import Index

    index = Index(np.load("models/codes.npy"), bits=32, names=names)
    distances, rows = index.search(query_packed, top=20, radius=8)

    features = np.load("features/features.npy", mmap_mode="r")  # two stages: 500 by code, those by cosine
    index = Index(codes, bits=32, features=features)
    distances, rows = index.search(query_packed, top=20, rerank=500, query_features=query_features)

Kinds: "flat" compares with every code (exact; a million 64-bit codes take about a millisecond a query); "hnsw" walks a
graph and "hash" looks into buckets of equal first bits, both approximate: `recall` measures them against flat.
"""

import csv
import json
import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import faiss
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssdh.core.arrays import Packed, from_tensor
from ssdh.core.errors import DataError, ParameterError
from ssdh.core.files import atomic_path, read_array, write_array, write_csv, write_json
from ssdh.hashing.codes import check_packed, hamming, pack, unpack, width
from ssdh.hashing.rerank import Features, Scores, asymmetric_scores, best_first, cosines, nearest_first

Kind = Literal["flat", "hnsw", "hash"]
KINDS: tuple[Kind, ...] = get_args(Kind)
HNSW_NEIGHBOURS = 16  # links of a node and layer: 2·16·4 bytes a code in the lowest one
HNSW_BUILD_EFFORT = 80
HNSW_SEARCH_EFFORT = 128  # candidates kept while walking; at least 2·top
HASH_FLIPS = 3  # buckets whose key differs in at most so many bits are looked into
HASH_BUCKET = 128  # codes a bucket, on average, if all keys were equally likely
ONE_THREAD = 32  # up to so many queries are searched on one thread: faiss shares out queries, never the codes
HISTOGRAM_BLOCK = 1 << 16  # rows whose distances are in memory at once


class Neighbours(NamedTuple):
    """What a search finds, in its order: by distance and ascending row unless it was asked for a finer one.

    distances: int32 (q, k), bits that differ; rows: int64 (q, k). Where a query has fewer than k results, both are −1
    at the end.
    """

    distances: NDArray[np.int32]
    rows: NDArray[np.int64]


class Index:
    """Packed codes that can be searched.

    packed: uint8 (n, ⌈bits/8⌉) as `pack` makes them, n ≥ 1; copied, so a memory map may be closed after.
    names: n names of the images, by row; optional, kept for the caller. features: (n, D) by row, of any real type,
    for re-ranking; not copied, so a memory map is read row by row. kind: "flat", "hnsw" or "hash".
    Results of "hnsw" may differ between two builds: faiss links the graph on several threads.

    >>> codes = pack([[1, 1, 1], [1, -1, 1], [-1, -1, -1], [1, 1, 1]])
    >>> Index(codes, bits=3).search(codes[:1], top=3)
    Neighbours(distances=array([[0, 0, 1]], dtype=int32), rows=array([[0, 3, 1]]))
    """

    features: Features | None

    def __init__(
        self,
        packed: ArrayLike,
        *,
        bits: int,
        names: Sequence[str] | None = None,
        features: Features | None = None,
        kind: Kind = "flat",
    ) -> None:
        bits = operator.index(bits)
        codes = np.ascontiguousarray(check_packed(packed, bits))
        if kind not in KINDS:
            raise ParameterError(f"index must be one of {', '.join(KINDS)}, got {kind!r}")
        if len(codes) == 0:
            raise DataError("there are no codes to search: run `dvc repro` on at least one image")
        index = _empty(kind, bits, len(codes))
        index.add(codes)
        self._set(index, bits, kind, names, codes)
        if features is not None and len(features) != len(codes):
            raise DataError(f"{len(features)} features do not fit {len(codes)} codes: run `dvc repro`")
        self.features = from_tensor(features)

    def _set(self, index: Any, bits: int, kind: Kind, names: Sequence[str] | None, codes: Packed | None) -> None:
        if names is not None and len(names) != index.ntotal:
            raise DataError(f"{len(names)} names do not fit {index.ntotal} codes: run `dvc repro`")
        self.faiss, self.bits, self.kind, self.names = index, bits, kind, names
        self.features = None
        # flat and hnsw hold the codes themselves, in one piece; hash scatters them over its buckets
        self.packed: Packed = _stored(index, kind) if kind != "hash" else np.array(codes)

    def __len__(self) -> int:
        return int(self.faiss.ntotal)

    # --- searching ------------------------------------------------------------------------------------------------

    def search(
        self,
        query_packed: ArrayLike,
        top: int = 20,
        radius: int | None = None,
        *,
        rerank: int = 0,
        query_features: ArrayLike | None = None,
        query_outputs: ArrayLike | None = None,
    ) -> Neighbours:
        """The `top` nearest codes of each query, those within `radius` differing bits where it is given.

        query_packed: uint8 (q, ⌈bits/8⌉). rerank: length R of a shortlist by code that is then ordered by cosine of
        query_features (q, D) with the index's own, or, where either is missing, by query_outputs (q, bits), the real
        outputs whose signs the query codes are, against the ±1 codes. All codes that tie with the R-th are in the
        shortlist, and it is never shorter than `top`; of an approximate index it is what that finds. Without `rerank`,
        query_outputs order equal distances by that same score; without these, equal distances are in row order.

        Raises ParameterError for a top below 1, a negative radius or rerank, one that is no whole number, queries that
        do not fit each other, and a rerank with nothing to go by.
        """
        query = np.ascontiguousarray(check_packed(query_packed, self.bits, "query codes"))
        top = min(_whole("top", top, 1), len(self))
        radius = None if radius is None else _whole("radius", radius, 0)
        rerank = _whole("rerank", rerank, 0)
        finer = self._scores(len(query), rerank, query_features, query_outputs)
        if finer is None:
            distances, rows = self._nearest(query, top)
        else:
            distances, rows = np.empty((len(query), top), np.int32), np.empty((len(query), top), np.int64)
            order = best_first if rerank else nearest_first
            for i in range(len(query)):
                near, result = self._shortlist(query[i : i + 1], max(top, rerank))
                if radius is not None:
                    near, result = near[near <= radius], result[near <= radius]
                best = order(near, finer(i, result))[:top]
                distances[i], rows[i] = -1, -1
                distances[i, : len(best)], rows[i, : len(best)] = near[best], result[best]
        if radius is not None:
            outside = distances > radius
            distances[outside], rows[outside] = -1, -1
        return Neighbours(distances, rows)

    def _nearest(self, query: Packed, top: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        effort = None
        if self.kind == "hnsw":
            effort = faiss.SearchParametersHNSW(efSearch=max(HNSW_SEARCH_EFFORT, 2 * top))  # type: ignore[attr-defined]
        with _faiss_threads(len(query)):
            distances, rows = self.faiss.search(query, top, params=effort)  # (q, top), rows −1 where nothing was found
        order = np.lexsort((rows, np.where(rows < 0, np.iinfo(np.int32).max, distances)))  # ties by row, missing last
        distances, rows = np.take_along_axis(distances, order, 1), np.take_along_axis(rows, order, 1)
        distances[rows < 0] = -1
        return distances, rows

    def _shortlist(self, query: Packed, size: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Distances and rows (n,) of the `size` codes nearest to one query (1, B), with all that tie with the last."""
        distances, rows = (result[0] for result in self._nearest(query, min(size, len(self))))
        if self.kind == "flat":
            with _faiss_threads(1):
                _, distances, rows = self.faiss.range_search(query, int(distances[-1]) + 1)  # closer than that
            order = np.argsort(rows)
            return distances[order].astype(np.int32), rows[order]
        return distances[rows >= 0], rows[rows >= 0]

    def _scores(
        self, queries: int, rerank: int, query_features: ArrayLike | None, query_outputs: ArrayLike | None
    ) -> Callable[[int, NDArray[np.int64]], Scores] | None:
        """What orders rows (n,) for the i-th query, the highest first; None: nothing but distance and row."""
        if rerank and self.features is not None and query_features is not None:
            kept, given = self.features, np.asarray(from_tensor(query_features))
            dim = kept[np.zeros(1, np.int64)].shape[1]
            if given.shape != (queries, dim):
                raise ParameterError(f"query_features must be ({queries}, {dim}), got {given.shape}")
            return lambda i, rows: cosines(given[i], kept[rows])
        if query_outputs is not None:
            outputs = np.asarray(from_tensor(query_outputs))
            if outputs.shape != (queries, self.bits):
                raise ParameterError(f"query_outputs must be ({queries}, {self.bits}), got {outputs.shape}")
            return lambda i, rows: asymmetric_scores(outputs[i], self.packed[rows], self.bits)
        if rerank:
            lacking = "query_features" if self.features is not None else "an index with features and query_features"
            raise ParameterError(f"rerank needs {lacking}, or query_outputs")
        return None

    def histogram(self, query_packed: ArrayLike) -> NDArray[np.int64]:
        """How many codes lie at each distance 0…bits from each query, exactly for every kind: int64 (q, bits + 1)."""
        query = check_packed(query_packed, self.bits, "query codes")
        counts = np.zeros((len(query), self.bits + 1), np.int64)
        for start in range(0, len(self), HISTOGRAM_BLOCK):
            distances = hamming(query, self.packed[start : start + HISTOGRAM_BLOCK])  # (q, block)
            for i, line in enumerate(distances):
                counts[i] += np.bincount(line, minlength=self.bits + 1)
        return counts

    # --- files ----------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """Write `codes.npy`, `index.faiss` (any faiss reads it), `index.json` and, with names, `names.csv`."""
        folder = Path(folder)
        write_array(folder / "codes.npy", self.packed)
        write_faiss(folder / "index.faiss", self.faiss)
        if self.names is not None:
            write_csv(folder / "names.csv", ("row", "name"), enumerate(self.names))
        write_json(folder / "index.json", {"kind": self.kind, "bits": self.bits, "images": len(self)})

    @classmethod
    def load(cls, folder: str | Path) -> "Index":
        """Read what `save` wrote; raises DataError where a file is missing or they do not belong together."""
        folder = Path(folder)
        try:
            about = json.loads((folder / "index.json").read_text(encoding="utf-8"))
            bits, kind, images = int(about["bits"]), str(about["kind"]), int(about["images"])
            index = faiss.read_index_binary(str(folder / "index.faiss"))
            codes = read_array(folder / "codes.npy") if kind == "hash" else None
            names = _read_names(folder / "names.csv")
        except FileNotFoundError as error:
            raise DataError(f"{error.filename} does not exist: write it with `python -m ssdh export`") from None
        except (RuntimeError, OSError, ValueError, LookupError, TypeError, OverflowError, csv.Error) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DataError(f"{folder} holds no whole index ({reason}): `python -m ssdh export` writes one") from None
        if index.d != 8 * width(bits) or index.ntotal != images or kind not in KINDS:
            raise DataError(f"{folder}: index.json and index.faiss do not belong together: export them again")
        self = cls.__new__(cls)
        self._set(index, bits, kind, names, codes)
        return self


def write_faiss(path: Path, index: Any) -> None:
    """Write a binary index as faiss does; its own writer takes a disk that is full at the end for a success."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(faiss.serialize_index_binary(index).data)


def recall(found: Neighbours, exact: Neighbours) -> float:
    """Share of the exact k nearest that an approximate search found, ties counted as equals.

    found, exact: (q, k) of the same queries. A result counts where it is no farther than the exact k-th; where nothing
    is to be found, everything was. Raises ValueError where the shapes differ.

    >>> rows = np.zeros((1, 4), np.int64)
    >>> recall(Neighbours(np.int32([[1, 2, 3, -1]]), rows), Neighbours(np.int32([[1, 1, 2, 2]]), rows))
    0.5
    """
    if found.distances.shape != exact.distances.shape:
        raise ValueError(f"results must have the same shape, got {found.distances.shape}, {exact.distances.shape}")
    farthest = exact.distances.max(axis=1, keepdims=True)  # (q, 1)
    good = (found.distances >= 0) & (found.distances <= farthest)
    count = int((exact.distances >= 0).sum())
    return float(good.sum() / count) if count else 1.0


def parse_code(text: str, bits: int) -> Packed:
    """A packed code from its hexadecimal text (`code.tobytes().hex()`), as uint8 (1, ⌈bits/8⌉).

    Raises ParameterError where the text is no code of `bits` bits.

    >>> parse_code("a0", 3).tolist()
    [[160]]
    """
    digits = 2 * width(bits)
    if len(text) == digits and set(text.lower()) <= set("0123456789abcdef"):
        code = np.frombuffer(bytes.fromhex(text), np.uint8)[None]
        if np.array_equal(pack(unpack(code, bits)), code):
            return code
    raise ParameterError(f"code must be {digits} hexadecimal digits of {bits} bits, got {text[:80]!r}")


# --- faiss ----------------------------------------------------------------------------------------------------------


def _empty(kind: Kind, bits: int, count: int) -> Any:
    """An empty faiss index for `count` codes; its dimension is a multiple of 8, the padding bits equal in all codes."""
    dimension = 8 * width(bits)
    if kind == "hnsw":
        graph = faiss.IndexBinaryHNSW(dimension, HNSW_NEIGHBOURS)
        graph.hnsw.efConstruction = HNSW_BUILD_EFFORT
        return graph
    if kind == "hash":
        key = int(np.clip(np.log2(max(count, 1) / HASH_BUCKET), 1, min(bits, 32)))
        buckets = faiss.IndexBinaryHash(dimension, key)
        buckets.nflip = min(HASH_FLIPS, key)
        return buckets
    return faiss.IndexBinaryFlat(dimension)


def _stored(index: Any, kind: Kind) -> Packed:
    """The codes inside a flat or hnsw index, (n, width), not copied; the caller keeps the index alive."""
    flat: Any = faiss.downcast_IndexBinary(index.storage) if kind == "hnsw" else index
    view: Packed = faiss.rev_swig_ptr(flat.xb.data(), index.ntotal * index.code_size)
    view = view.reshape(index.ntotal, index.code_size)
    view.flags.writeable = False
    return view


@contextmanager
def _faiss_threads(queries: int) -> Iterator[None]:
    """One thread for a few queries: waking a team takes longer than a search, on a busy machine 200 times as long.

    The number of threads belongs to the calling thread alone, so a server's workers do not disturb each other.
    """
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1 if queries <= ONE_THREAD else before)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _whole(name: str, value: Any, least: int) -> int:
    """A number, Python's or NumPy's, as Python's; ParameterError where it is no whole one of at least `least`."""
    try:
        number = operator.index(value)
    except TypeError:
        raise ParameterError(f"{name} must be a whole number, got {value!r}") from None
    if number < least:
        raise ParameterError(f"{name} must be at least {least}, got {number}")
    return number


def _read_names(path: Path) -> list[str] | None:
    if not path.exists():
        return None
    with path.open(newline="", encoding="utf-8") as file:
        return [row[1] for row in list(csv.reader(file))[1:]]

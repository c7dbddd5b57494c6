"""Codes into a folder, or a server, as one other engine loads them: `python -m ssdh export FOLDER --to ENGINE`."""

from pathlib import Path

from ssdh.core.errors import DataError, ParameterError
from ssdh.core.files import file_sha256
from ssdh.search.engines import ENGINES, METADATA, SERVERS, CodeTable, load
from ssdh.search.export_folder import ABOUT, announce, finish, open_folder, remove


def check_uri(engine: str, uri: str | None) -> None:
    """Raise ParameterError where the engine is none that is reached by a URI."""
    if uri is not None and engine not in SERVERS:
        raise ParameterError(f"--uri is for {' and '.join(SERVERS)}: {engine} loads {ENGINES[engine][1]}, written here")


def export_to(engine: str, folder: Path, table: CodeTable, uri: str | None = None) -> list[Path]:
    """Write the codes for an engine into `folder` (made if need be); returns what was written.

    Files of an earlier export go. With `uri` the codes are loaded into that server and nothing is written. Raises
    SSDHError where the engine's package is missing, DataError where `folder` holds something else than an export or
    the codes cannot be loaded.
    """
    write = load(engine).write
    if uri is not None:
        write(folder, table, uri)
        return []
    if len(table) == 0:
        raise DataError("there are no codes to export")
    earlier = open_folder(folder)
    name = ENGINES[engine][1]
    announce(folder, earlier | {name, METADATA})
    remove(folder / name)
    remove(folder / METADATA)
    made = [write(folder, table, None)]
    if (folder / METADATA).exists():
        made.append(folder / METADATA)
    about = {
        "engine": engine,
        "bits": table.bits,
        "images": len(table),
        "sha256": {path.name: None if path.is_dir() else file_sha256(path) for path in made},
    }
    finish(folder, about, earlier)
    return [*made, folder / ABOUT]

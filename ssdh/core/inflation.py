"""How much a file that people bring may unpack to: what claims more is refused before the memory is taken.

A few kilobytes of a compressed format, or a header alone, can ask for any amount.
"""

from pathlib import Path

from ssdh.core.errors import DataError

FREE_BYTES = 2**30  # that any file may take in memory, however small it is
TIMES = 32  # above it: so many times the file's own bytes
STREAMED = 64  # so many times as much may pass through the memory block by block, which takes a minute, not days
ROW_BYTES = 256  # that a row of a table takes as Python's objects: its name, its digest, its label


def refuse_inflation(path: Path, claimed: int, what: str, *, streamed: bool = False) -> None:
    """Raise DataError where `what` of the file would take `claimed` bytes, and that is too much for a file of its size.

    streamed: whether they are never in memory together.
    """
    size = path.stat().st_size
    most = max(FREE_BYTES, TIMES * size) * (STREAMED if streamed else 1)
    if claimed > most:
        raise DataError(
            f"{path} is broken or made to fill the machine: {what} would take {claimed / 2**30:,.1f} GiB, the file has "
            f"{size:,} bytes (at most {most / 2**30:,.1f} GiB are taken for it): write it again"
        )

"""The code of an installed package as one file: `ssdh.txt` of a pipeline that `ssdh init` made.

In a clone of the repository the stages depend on the folders of code themselves. Where the code lies in site-packages
they depend on this file instead; `check` compares it with what is installed, so that no result of other code is served.
"""

import hashlib
from pathlib import Path

from ssdh import __version__
from ssdh.core.errors import DataError

PACKAGE = Path(__file__).resolve().parents[1]
PACKAGE_FILE = Path("ssdh.txt")
NOT_OF_STAGES = {"cli", "experiments", "methods", "search"}  # methods lie in the pipeline's own folder


def is_initialised(folder: Path = Path()) -> bool:
    """Whether the folder holds a pipeline that `ssdh init` made."""
    return (folder / PACKAGE_FILE).is_file()


def no_pipeline() -> str:
    """What to say in a folder that holds no pipeline."""
    return (
        f"{Path.cwd()} holds no pipeline: go to the folder of one that `dvc repro` has run, or write one with "
        "`ssdh init FOLDER`"
    )


def check_pipeline() -> None:
    """Raise DataError in a folder that holds no pipeline."""
    if not Path("dvc.yaml").is_file():
        raise DataError(no_pipeline())


def package_text() -> str:
    """What `ssdh.txt` says of the installed package: its version, and the SHA-256 of the sources that stages use."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*")):
        name = path.relative_to(PACKAGE)
        if path.suffix in (".py", ".css", ".csv") and name.parts[0] not in NOT_OF_STAGES:
            digest.update(name.as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return f"ssdh {__version__}\nsha256 {digest.hexdigest()}\n"


def check_package() -> None:
    """Raise DataError where `ssdh.txt` is there and names other code than the installed package's."""
    if not is_initialised():
        return
    written, installed = PACKAGE_FILE.read_text(encoding="utf-8"), package_text()
    if written != installed:
        raise DataError(
            f"{PACKAGE_FILE} is of {written.splitlines()[0] if written else 'no version'}, installed is other code "
            f"({installed.splitlines()[0]}): `ssdh init .` renews it, and the stages run again"
        )

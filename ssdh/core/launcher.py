"""What other programs leave in the environment: a launcher's variables and the number of threads."""

import os

from ssdh.core.errors import ParameterError

LAUNCHER = (
    "start all ranks by a launcher such as torchrun, or, where an earlier one left its variables, "
    "unset RANK WORLD_SIZE LOCAL_RANK MASTER_ADDR MASTER_PORT (environment)"
)


def is_launched() -> bool:
    """Whether a launcher started this process as one of several ranks: it then sets RANK."""
    return "RANK" in os.environ


def launcher_number(name: str, *, least: int = 0, below: int | None = None) -> int:
    """A variable that a launcher sets beside RANK; raises ParameterError where it is missing or out of range."""
    text = os.environ.get(name)
    if text is None:
        raise ParameterError(f"{name} is not set, though RANK is: {LAUNCHER}")
    number = int(text) if text.isascii() and text.isdecimal() else -1
    if number < least or (below is not None and number >= below):
        upper = "" if below is None else f" below {below}"
        raise ParameterError(f"{name} must be a whole number from {least} on{upper}, got {text!r}: {LAUNCHER}")
    return number


def threads_allowed() -> int | None:
    """OMP_NUM_THREADS; None where it is not set, or holds no positive number, which OpenMP passes over as well."""
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isascii() and first.isdecimal() and int(first) else None

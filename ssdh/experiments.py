"""DVC from Python: parameter overrides as `dvc exp run -S` takes them, and dvc with this interpreter's environment."""

import copy
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssdh.errors import ParameterError, SSDHError
from ssdh.params import lookup, parse_value

# what Hydra's grammar, which -S follows, reads as plain text without quotes
_PLAIN = re.compile(r"[A-Za-z_/][\w/.:@+-]*")
_WORDS_WITH_A_MEANING = {"true", "false", "null", "inf", "nan"}


def override(name: str, value: object) -> str:
    r"""`name=value` for `-S`; text that Hydra would read as something else is quoted.

    >>> override("train.lr", 0.001), override("train.compile", False), override("seed", None)
    ('train.lr=0.001', 'train.compile=false', 'seed=null')
    >>> print(override("datasets.cifar10.data.root", "/data/cifar 10"))
    datasets.cifar10.data.root='/data/cifar 10'
    """
    if value is None:
        return f"{name}=null"
    if isinstance(value, bool):
        return f"{name}={str(value).lower()}"
    if isinstance(value, int | float):
        return f"{name}={value!r}"
    text = str(value)
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS_WITH_A_MEANING:
        return f"{name}={text}"
    # inside quotes only a backslash before a quote (or the end) is special
    escaped = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text)
    return f"{name}='{escaped}'"


def with_values(params: Mapping[str, Any], values: Mapping[str, object]) -> dict[str, Any]:
    """A copy of `params` with the values at dotted names replaced; raises ParameterError where a name is unknown."""
    changed = copy.deepcopy(dict(params))
    for name, value in values.items():
        lookup(changed, name)
        parents, _, last = name.rpartition(".")
        block = lookup(changed, parents) if parents else changed
        block[last] = value
    return changed


def set_options(values: Mapping[str, object]) -> list[str]:
    """`["-S", "a=1", "-S", "b=2"]` of dotted names and their values."""
    return [word for name, value in values.items() for word in ("-S", override(name, value))]


def shell_line(words: Sequence[str]) -> str:
    """The words as one line that this system's shell reads back as the same words."""
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def dvc(*arguments: str, quiet: bool = False, check: bool = True) -> str:
    """Run dvc here and return what it printed; with `quiet` nothing reaches the terminal.

    Raises SSDHError with dvc's last error line where it fails and `check` is true. Without `quiet` output goes straight
    to the terminal and the returned text is empty.
    """
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "--wait-for-lock", *arguments],  # a queue worker holds it for moments
        env=environment(),
        capture_output=quiet,
        text=True,
        check=False,
    )
    if done.returncode and check:
        lines = [line for line in (done.stderr or "").splitlines() if line.startswith("ERROR")]
        why = f": {lines[-1].removeprefix('ERROR: ')}" if lines else ""
        raise SSDHError(f"dvc {arguments[0]} failed with exit code {done.returncode}{why}")
    return done.stdout or ""


def environment() -> dict[str, str]:
    """This environment, the interpreter's folder first on PATH: dvc's workers and stages call `dvc` and `python`."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}


def parse_settings(words: Sequence[str], params: Mapping[str, Any]) -> dict[str, object]:
    """`["train.epochs=5"]` to `{"train.epochs": 5}`, values as YAML reads them.

    Raises ParameterError where a word has no `=` or names no parameter.
    """
    settings: dict[str, object] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise ParameterError(f"--set needs NAME=VALUE, got {word!r}")
        lookup(dict(params), name)
        settings[name] = parse_value(text)
    return settings

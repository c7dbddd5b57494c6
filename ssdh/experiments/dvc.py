"""DVC from Python: parameter overrides as `dvc exp run -S` takes them, and dvc with this interpreter's environment."""

import contextlib
import copy
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from ssdh.core.errors import DataError, ParameterError, SSDHError
from ssdh.core.params import lookup, parse_value

_LEFT_OUT = ("PYTHONWARNINGS", "PYTHONIOENCODING", "PYTHONSAFEPATH")  # of this environment in dvc's

# who commits experiments where git knows nobody: DVC asks for a name and an address, and takes them from here
_NOBODY = {"name": "ssdh", "email": "ssdh@localhost"}

# what Hydra's grammar, which -S follows, reads as plain text without quotes
_PLAIN = re.compile(r"[A-Za-z_/][\w/.:@+-]*")
_WORDS_WITH_A_MEANING = {"true", "false", "null", "inf", "nan"}

# json's own message, that of DVC's reader, and of a file (STASH/STASH.run) that a worker makes once it has begun
_HALF_WRITTEN = re.compile(
    r": line \d+ column \d+ \(char \d+\)|JSON file structure is corrupted|No such file or directory: '[^']*\.run'"
)
TRIES, PAUSE = 5, 1.0  # how often dvc is asked, and the seconds between
ANSWER = 300.0  # seconds that an answer may take


def override(name: str, value: object) -> str:
    r"""`name=value` for `-S`; text that Hydra would read as something else is quoted.

    >>> override("train.lr", 0.001), override("train.compile", False), override("seed", None)
    ('train.lr=0.001', 'train.compile=false', 'seed=null')
    >>> print(override("datasets.cifar10.data.root", "/data/cifar 10"), override("evaluate.precision_at", [1, 10]))
    datasets.cifar10.data.root='/data/cifar 10' evaluate.precision_at=[1,10]

    Raises ParameterError for a mapping, which DVC would merge with the old one instead of replacing it.
    """
    if isinstance(value, Mapping):
        raise ParameterError(f"{name} is a mapping: set its parts by their dotted names, {name}.KEY=VALUE")
    return f"{name}={_as_hydra(value)}"


def _as_hydra(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_as_hydra, value))}]"
    text = str(value)
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS_WITH_A_MEANING:
        return text
    # inside quotes only a backslash before a quote (or the end) is special
    escaped = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text)
    return f"'{escaped}'"


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

    A quiet command is one that only asks: where it met a file that a queue worker was writing, or gave no answer in
    ANSWER seconds (dvc can wait for itself, for ever, while a worker removes what it reads), it is run again, TRIES
    times in all. Raises SSDHError where that was in vain, and with dvc's last error line where it fails and `check` is
    true. Without `quiet` output goes straight to the terminal and the returned text is empty.
    """
    for left in reversed(range(TRIES if quiet else 1)):
        try:
            done = subprocess.run(
                [sys.executable, "-m", "dvc", "--wait-for-lock", *arguments],  # a queue worker holds it for moments
                env=environment(),
                capture_output=quiet,
                encoding="utf-8",
                errors="replace",
                check=False,
                timeout=ANSWER if quiet else None,
            )
        except subprocess.TimeoutExpired:
            if left:
                continue
            raise SSDHError(
                f"dvc {arguments[0]} gave no answer in {ANSWER:g} s, {TRIES} times: try it by itself"
            ) from None
        if not (left and done.returncode and met_half_written(done.stderr or "")):
            break
        time.sleep(PAUSE)
    if done.returncode and check:
        lines = [line for line in (done.stderr or "").splitlines() if line.startswith("ERROR")]
        why = f": {lines[-1].removeprefix('ERROR: ')}" if lines else ""
        raise SSDHError(f"dvc {arguments[0]} failed with exit code {done.returncode}{why}")
    return done.stdout or ""


def met_half_written(stderr: str) -> bool:
    """Whether dvc failed since it read a JSON file that a queue worker was writing, or about to write, at that moment.

    The worker's library (kombu) creates files of `.dvc/tmp/exps` before it fills them.

    >>> met_half_written("ERROR: unexpected error - Expecting value: line 1 column 1 (char 0)")
    True
    >>> met_half_written("ERROR: unexpected error - [Errno 2] No such file or directory: '/a/exps/run/1/1.run'")
    True
    >>> met_half_written("ERROR: failed to read 'params.yaml'")
    False
    """
    return bool(_HALF_WRITTEN.search(stderr))


def environment() -> dict[str, str]:
    """This environment, the interpreter's folder first on PATH: dvc's workers and stages call `dvc` and `python`.

    Where git knows no author, one is named: DVC commits every experiment and refuses to do so without. PYTHONWARNINGS
    is left out: with `error` dvc stops at the first deprecation in its own packages; PYTHONSAFEPATH too: with it stages
    are not found. Python's text is UTF-8, whatever the locale: dvc prints and reads parameters and names that an ASCII
    one has no letters for.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    own = {name: value for name, value in os.environ.items() if name not in _LEFT_OUT}
    return _author() | own | {"PATH": path, "PYTHONUTF8": "1"}


def _author() -> dict[str, str]:
    """Git's variables for a name and an address, {} where its configuration has both (DVC reads it only whole)."""
    configured = {key: (git("config", f"user.{key}") or "").strip() for key in _NOBODY}
    if all(configured.values()):
        return {}
    return {
        f"GIT_{who}_{key.upper()}": configured[key] or nobody
        for who in ("AUTHOR", "COMMITTER")
        for key, nobody in _NOBODY.items()
    }


def git(*arguments: str) -> str | None:
    """What a git command prints; None where it answers no (exit code 1: no such revision, no such setting).

    Raises DataError with git's own message where it fails, and where there is no git: nothing is known then.
    """
    try:
        done = subprocess.run(
            ["git", *arguments], capture_output=True, encoding="utf-8", errors="surrogateescape", check=False
        )
    except FileNotFoundError:
        raise DataError("git is not installed: install it (https://git-scm.com)") from None
    if done.returncode > 1 or (done.returncode and done.stderr.strip()):
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise DataError(f"git {arguments[0]} failed: {said.removeprefix('fatal: ')}")
    return done.stdout if done.returncode == 0 else None


def git_file(revision: str, path: str) -> str | None:
    """The text of a file below this folder in a commit; None where the commit holds none (`git show` fails alike).

    Raises UnicodeDecodeError, a ValueError, where it is not in UTF-8.
    """
    if not git("ls-tree", "--name-only", revision, "--", path):
        return None
    text = git("show", f"{revision}:./{path}")
    return None if text is None else text.encode("utf-8", "surrogateescape").decode("utf-8")


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


INTERRUPTED = "interrupted: the next run goes on from here"
PATIENCE = 10  # seconds that a process has to end by itself


def run_child(words: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a program that writes to this terminal; returns its exit code.

    A terminal sends Ctrl-C to every process of a job, and each would print its own traceback: the program and what it
    starts do not hear it, and are ended from here. Raises KeyboardInterrupt with the line to say then.
    """
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # children inherit it
    try:
        try:
            process = subprocess.Popen(words, env=dict(environment))
        finally:
            signal.signal(signal.SIGINT, before)
        return process.wait()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C leaves nothing half ended
        try:
            _end(process.pid)
            process.wait()
        finally:
            signal.signal(signal.SIGINT, before)
        raise KeyboardInterrupt(INTERRUPTED) from None


def _end(process: int) -> None:
    """End a process and all that it started, those above first, so that none starts another or reports the end."""
    try:
        top = psutil.Process(process)
        family = [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for one in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.terminate()
    _, left = psutil.wait_procs(family, timeout=PATIENCE)
    for one in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()

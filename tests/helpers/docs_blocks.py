"""Command blocks of the documentation: found with their tag, and checked word by word against the programs they call.

A fenced block whose language is a shell's or `python` carries a tag after the language, which GitHub does not show:

    ```bash run                          executed as it stands, with the committed parameters
    ```bash small bits=12 train.lr=0.01  executed with these parameters instead (`small` alone: those of `clone`)
    ```bash parse                        needs a network, a GPU or a cluster: only checked
    ```python engine NAME                the query of docs/engines.md: executed by tests/search/test_engines.py

Blocks that change files carry `file=PATH` (the block is that new file) or, with the language `diff`, `apply`.
"""

import argparse
import contextlib
import io
import itertools
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ssdh.core.errors import ParameterError
from ssdh.core.params import lookup, read_params

COMMAND_LANGUAGES = ("bash", "sh", "shell", "console", "python", "powershell", "bat")
TAGS = ("run", "small", "parse", "engine")
FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,}|~{3,})(?P<info>.*)$")


@dataclass(frozen=True)
class Block:
    """One fenced block: where it stands, its language, its tag and the words after it, its text."""

    file: str
    line: int
    language: str
    tag: str
    words: tuple[str, ...]
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def blocks(project: Path) -> list[Block]:
    """Every fenced block of README.md, CONTRIBUTING.md and docs/*.md, in reading order."""
    files = [project / "README.md", project / "CONTRIBUTING.md", *sorted((project / "docs").glob("*.md"))]
    return [block for file in files if file.exists() for block in blocks_of(file, file.relative_to(project).as_posix())]


def blocks_of(file: Path, name: str) -> Iterator[Block]:
    """The fenced blocks of one Markdown file; a fence that is never closed is an error."""
    opened: re.Match[str] | None = None
    start, lines = 0, []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        fence = FENCE.match(line)
        if opened is None:
            if fence:
                opened, start, lines = fence, number, []
        elif fence and fence["ticks"].startswith(opened["ticks"]) and not fence["info"].strip():
            words = opened["info"].split()
            language, tag = (words[0] if words else ""), (words[1] if len(words) > 1 else "")
            yield Block(name, start, language, tag, tuple(words[2:]), "\n".join(lines) + "\n")
            opened = None
        else:
            lines.append(line.removeprefix(opened["indent"]))
    assert opened is None, f"{name}:{start}: this block is never closed"


def is_edit(block: Block) -> bool:
    return block.tag.startswith("file=") or (block.language == "diff" and block.tag == "apply")


def is_command(block: Block) -> bool:
    return block.language in COMMAND_LANGUAGES and not is_edit(block)


def apply_edit(block: Block, folder: Path) -> None:
    """Write the new file, or apply the diff with git."""
    if block.tag.startswith("file="):
        path = folder / block.tag.removeprefix("file=")
        assert not path.exists(), f"{block}: {path} exists already"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text, encoding="utf-8")
        return
    command = ["git", "apply", "-C0", "-"]
    done = subprocess.run(command, cwd=folder, input=block.text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{block} does not apply: {done.stderr}"


def changed_lines(block: Block) -> int:
    """Lines that an edit adds or removes; empty ones are not counted."""
    lines = [line for line in block.text.splitlines() if line.strip()]
    if block.language != "diff":
        return len(lines)
    return len([line for line in lines if re.match(r"[+-](?![+-]{2} )\s*\S", line)])


# --- commands -------------------------------------------------------------------------------------------------------


def commands(text: str) -> list[list[str]]:
    """The simple commands of a shell text, each its words; no comments, redirections or leading assignments."""
    joined = re.sub(r"\\\n", " ", text)
    result: list[list[str]] = []
    for line in joined.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.commenters, lexer.whitespace_split = "#", True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word and set(word) <= set(";&|()"):
                result.append(words)
                words = []
            else:
                words.append(word)
    return [command for command in map(_plain, result) if command]


def _plain(words: list[str]) -> list[str]:
    """Without assignments in front, redirections and shell keywords."""
    while words and (re.fullmatch(r"\w+=.*", words[0]) or words[0] in ("do", "then", "if", "while", "else", "time")):
        words = words[1:]
    kept: list[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif re.fullmatch(r"&?[<>]{1,2}&?", word):
            skip = True
            if kept and kept[-1].isdigit() and word != "<":  # 2>file, 2>&1
                kept.pop()
        else:
            kept.append(word)
    return [] if kept and kept[0] in ("for", "done", "fi") else kept


def check_command(words: list[str], project: Path) -> str | None:
    """What is wrong with one command, or None: flags by the program's own parser, parameters by params.yaml."""
    program, *rest = words
    if program in ("python", "python3", "py"):
        return _check_python(rest[1:] if program == "py" else rest, project)  # py -3.12 …
    if program == "ssdh":
        return _check_ssdh(rest)
    checks = {"dvc": _check_dvc, "make": _check_make, "torchrun": _check_torchrun, "pip": _check_pip}
    if program in checks:
        return checks[program](rest, project)
    return None if program in SHELL else f"nothing here knows the command {program!r} (docs_blocks.py: SHELL)"


SHELL = shlex.split(
    """. .venv/bin/activate .venv/Scripts/activate apt-get aws cat cd cp curl diff echo export git grep head
    kubectl ls mkdir mv mypy nvidia-smi open pre-commit pytest rm rsync ruff sbatch sed seq set sleep sort source srun
    ssh sudo tail tar test touch unzip wait wsl xargs xdg-open psql"""
)


def _parses(parser: argparse.ArgumentParser, words: list[str]) -> str | None:
    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message), contextlib.redirect_stdout(message):
            parser.parse_args(words)
    except SystemExit as done:
        return message.getvalue().strip().splitlines()[-1] if done.code else None
    except Exception as error:  # dvc's parser logs what is wrong and raises an exception of its own
        return f"{words}: {error}"
    return None


def _check_dvc(words: list[str], project: Path) -> str | None:
    from dvc.cli.parser import get_main_parser

    if wrong := _parses(get_main_parser(), words):
        return wrong
    if words[:1] == ["exp"]:
        names = [b for a, b in itertools.pairwise(words) if a in ("-S", "--set-param")]
        names += [word.split("=", 1)[1] for word in words if word.startswith("--set-param=")]
        return next(filter(None, (check_parameter(name, project) for name in names)), None)
    return None


def check_parameter(setting: str, project: Path) -> str | None:
    """What is wrong with the name in `NAME=VALUE`, or None."""
    name = setting.split("=", 1)[0].lstrip("+~").removeprefix("params.yaml:")
    try:
        lookup(read_params(project / "params.yaml"), name)
    except ParameterError as error:
        return str(error)
    return None


def _check_python(words: list[str], project: Path) -> str | None:
    if words[:2] == ["-m", "ssdh"]:
        return _check_ssdh(words[2:])
    if words[:1] == ["-m"]:
        module = words[1]
        if module.split(".")[0] in ("stages", "benchmarks", "ssdh", "tests"):
            path = project / module.replace(".", "/")
            return None if path.with_suffix(".py").exists() or (path / "__main__.py").exists() else f"no {module}"
        return (
            None
            if module in ("venv", "pip", "pytest", "dvc", "http.server", "moto.server", "torch.distributed.run")
            else f"no {module}"
        )
    script = next((word for word in words if word.endswith(".py")), None)
    if script is None:
        return None if words[:1] == ["-c"] else f"no script in python {shlex.join(words)}"
    if not (project / script).exists():
        return f"{script} does not exist"
    known = set(re.findall(r"\"(--[\w-]+)\"", (project / script).read_text(encoding="utf-8"))) | {"--help"}
    unknown = [word for word in words if word.startswith("--") and word.split("=")[0] not in known]
    return f"{script} has no {', '.join(unknown)}" if unknown else None


def _check_ssdh(words: list[str]) -> str | None:
    import ssdh.__main__ as program
    from ssdh.cli import legacy

    if program.is_old(words):
        return _parses(legacy.parser(), words)
    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message), contextlib.redirect_stdout(message):
            program.parse(words)
    except SystemExit as done:
        return message.getvalue().strip().splitlines()[-1] if done.code else None
    return None


def _check_make(words: list[str], project: Path) -> str | None:
    targets = set(re.findall(r"^([\w-]+):", (project / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    unknown = [word for word in words if "=" not in word and not word.startswith("-") and word not in targets]
    return f"the Makefile has no {', '.join(unknown)}" if unknown else None


def _check_torchrun(words: list[str], project: Path) -> str | None:
    from torch.distributed.run import get_args_parser

    if wrong := _parses(get_args_parser(), words):
        return wrong
    stage = next((b for a, b in itertools.pairwise(words) if a == "-m"), "")
    if stage == "ssdh":
        return _check_ssdh(words[words.index("ssdh") + 1 :])
    return (
        None
        if (project / f"{stage.replace('.', '/')}.py").exists()
        else f"torchrun starts {stage!r}, which does not exist"
    )


def _check_pip(words: list[str], project: Path) -> str | None:
    import tomllib

    known = set(
        tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    )
    asked = {extra for word in words for group in re.findall(r"^\.\[(.+)\]$", word) for extra in group.split(",")}
    return f"pyproject.toml has no extra {', '.join(sorted(asked - known))}" if asked - known else None

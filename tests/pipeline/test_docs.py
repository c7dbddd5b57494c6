"""Every command of the documentation works: tagged, checked against the programs, and executed where its tag says so.

The blocks of a page run one after the other in a clone of the project, as a reader would type them.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ssdh.cli import COMMANDS as COMMANDS_OF_SSDH
from ssdh.cli import legacy, load
from tests.helpers.clone import SMALL, Clone, make_clone
from tests.helpers.docs_blocks import (
    TAGS,
    Block,
    apply_edit,
    blocks,
    blocks_of,
    changed_lines,
    check_command,
    check_parameter,
    commands,
    is_command,
    is_edit,
)

PROJECT = Path(__file__).resolve().parents[2]
ALL = blocks(PROJECT)
COMMANDS = [block for block in ALL if is_command(block)]
EXECUTED = [block for block in ALL if is_edit(block) or (is_command(block) and block.tag in ("run", "small"))]
START = "start"  # a git tag
# a queue's status is asked again: its workers may be writing what it reads (ssdh/experiments/dvc.py)
ASKED_AGAIN = r"""dvc() {
    for try in 1 2 3 4 5; do
        command dvc --wait-for-lock "$@" && return
        [[ "$1 $2" =~ queue\ (status|start) ]] || return
        sleep 1
    done
    return 1
}
"""


# --- every block ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", ALL, ids=str)
def test_a_block_says_its_language_and_a_command_carries_a_tag(block: Block) -> None:
    assert block.language, "say the language of the block: `text` for what a program prints"
    if is_command(block):
        assert block.tag in TAGS, f"a command block carries one of {', '.join(TAGS)} after its language"
    if block.tag == "small":
        for word in block.words:
            assert check_parameter(word, PROJECT) is None


@pytest.mark.parametrize("block", [block for block in COMMANDS if block.language != "python"], ids=str)
def test_flags_and_parameters_are_those_of_the_programs(block: Block) -> None:
    if block.file == "docs/adding.md":
        pytest.skip("adds the parameters that it uses; every block of this page is executed")
    text = block.text.replace("\\", "/") if block.language in ("powershell", "bat") else block.text
    result = commands(text)
    assert result, "the block has no command"
    wrong = [f"{' '.join(words)}: {why}" for words in result if (why := check_command(words, PROJECT))]
    assert not wrong, "\n".join(wrong)


def test_two_thirds_of_the_blocks_are_executed() -> None:
    executed = [block for block in COMMANDS if block.tag in ("run", "small", "engine")]
    assert len(executed) >= 2 / 3 * len(COMMANDS), f"{len(executed)} of {len(COMMANDS)}"


def test_parameters_named_in_the_text_exist() -> None:
    """`-S name=value` outside of blocks too."""
    import re

    wrong = []
    for page in (PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))):
        for setting in re.findall(r"-S '?([a-z][\w.]*=)", page.read_text(encoding="utf-8")):
            if page.name != "adding.md" and (why := check_parameter(setting, PROJECT)):
                wrong.append(f"{page.name}: {why}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", COMMANDS_OF_SSDH)
def test_every_option_says_what_it_is(name: str) -> None:
    subparsers = argparse.ArgumentParser().add_subparsers()
    load(name).register(subparsers)
    parser = subparsers.choices[name]
    assert parser.description
    assert [action.dest for action in parser._actions if not action.help] == []
    assert parser.format_help()  # a stray % in a text would raise


def test_every_flag_of_the_earlier_program_says_what_it_is() -> None:
    assert [action.dest for action in legacy.parser()._actions if not action.help] == []
    assert legacy.parser().format_help()


# --- the blocks that are executed -----------------------------------------------------------------------------------


@dataclass
class Reader:
    """A clone in which the blocks are typed, and what the last block was."""

    clone: Clone
    last: tuple[str, str, tuple[str, ...]] = ("", "", ())

    def follow(self, block: Block) -> None:
        """Execute one block; a page, and a change of the tag, start from the committed state."""
        mode = ("", "", ()) if is_edit(block) else (block.file, block.tag, block.words)
        if is_edit(block):
            if self.last[0] != block.file or self.last[1] != "edited":
                self.reset()
            apply_edit(block, self.clone.folder)
            self.last = (block.file, "edited", ())
            return
        if self.last != mode and self.last[:2] != (block.file, "edited"):
            self.reset()
        if block.tag == "small" and self.last != mode:
            self.clone.set_all(SMALL | dict(word.split("=", 1) for word in block.words))
        self.last = mode
        command = [sys.executable, "-c"] if block.language == "python" else ["bash", "-euo", "pipefail", "-c"]
        text = block.text if block.language == "python" else ASKED_AGAIN + block.text
        with tempfile.TemporaryFile("w+") as file:  # not a pipe, which a queue worker would keep open
            done = subprocess.run(
                [*command, text], cwd=self.clone.folder, env=self.clone.environment, stdout=file,
                stderr=subprocess.STDOUT, check=False, stdin=subprocess.DEVNULL,
            )  # fmt: skip
            file.seek(0)
            message = file.read()
        assert done.returncode == 0, f"{block}\n{block.text}\n{message[-5000:]}"
        assert "Traceback" not in message, message
        if "queue start" in block.text:
            self.clone.wait_for_queue()

    def reset(self) -> None:
        self.clone.run("git", "checkout", "-q", "-f", "-B", "main", START)
        self.clone.run("git", "clean", "-fdq")
        self.clone.dvc("checkout", "--force")


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    folder = tmp_path_factory.mktemp("docs")
    clone = make_clone(PROJECT, folder / "clone", small=False)
    environment_of(clone)
    clone.environment |= {"HOME": str(folder), "COLUMNS": "120"}
    clone.environment.pop("OMP_NUM_THREADS")
    (folder / ".gitconfig").write_text("[user]\n  name = reader\n  email = reader@localhost\n")
    clone.repro()
    clone.commit("the default run")
    clone.run("git", "tag", START)
    yield Reader(clone)
    clone.dvc("queue", "stop", "--kill", check=False)


def environment_of(clone: Clone) -> None:
    """A `.venv` in the clone that is this interpreter's: `make` and `source .venv/bin/activate` find it ready."""
    own = Path(sys.prefix)
    (clone.folder / ".venv").mkdir()
    for part in own.iterdir():
        if part.name not in (".ready", "bin"):
            (clone.folder / ".venv" / part.name).symlink_to(part)
    binaries = clone.folder / ".venv" / "bin"
    binaries.mkdir()
    for part in (own / "bin").iterdir():
        (binaries / part.name).symlink_to(part)
    activate = binaries / "activate"
    text = activate.read_text(encoding="utf-8").replace(str(own), str(clone.folder / ".venv"))
    activate.unlink()
    activate.write_text(text, encoding="utf-8")
    (clone.folder / ".venv" / ".ready").touch()


@pytest.mark.long
@pytest.mark.skipif(os.name == "nt" or not shutil.which("bash"), reason="needs bash")
@pytest.mark.parametrize("block", EXECUTED, ids=str)
def test_a_block_does_what_it_says(reader: Reader, block: Block) -> None:
    reader.follow(block)


# --- adding.md ------------------------------------------------------------------------------------------------------


def test_each_addition_is_under_forty_lines() -> None:
    page = (PROJECT / "docs" / "adding.md").read_text(encoding="utf-8").splitlines()
    headings = [number for number, line in enumerate(page, start=1) if line.startswith("## ")]
    counts = {}
    for start, end in zip(headings, [*headings[1:], len(page) + 1], strict=True):
        inside = [
            block for block in ALL if block.file == "docs/adding.md" and start < block.line < end and is_edit(block)
        ]
        if inside:
            counts[page[start - 1]] = sum(map(changed_lines, inside))
    assert len(counts) == 3, counts
    limits = {"## A method": 60}  # two files: values and loss
    assert all(count < limits.get(name, 40) for name, count in counts.items()), counts


# --- the checker itself ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("dvc exp run -S train.learning_rate=1", "train.learning_rate is missing"),
        ("dvc exp run --queueue", "queueue"),
        ("python -m ssdh tabel", "invalid choice"),
        ("python -m ssdh table --bit", None),
        ("python -m ssdh table --foo", "unrecognized arguments"),
        ("python -m ssdh -d cifar10 --code-lenght 3 --train", "unrecognized arguments"),
        ("python -m stages.nothing", "no stages.nothing"),
        ("python benchmarks/nothing.py", "does not exist"),
        ("make everything", "the Makefile has no everything"),
        ("pip install .[nothing]", "no extra nothing"),
        ("torchrun --nodes 2 -m stages.train", "unrecognized arguments"),
        ("frobnicate", "nothing here knows"),
        ("dvc exp run --queue -S 'bits=16,32' -S seed=0", None),
        ("python -m ssdh -d cifar10 -c 64 --train -g 0", None),
        ("CUDA_VISIBLE_DEVICES=0 dvc queue start && make run", None),
        ("torchrun --nnodes 2 --nproc-per-node 8 -m stages.train", None),
    ],
)
def test_the_checker_finds_what_is_wrong(command: str, message: str | None) -> None:
    if command.endswith("--bit"):
        command += "s 16"
    result = [why for words in commands(command) if (why := check_command(words, PROJECT))]
    assert bool(result) == (message is not None), result
    assert message is None or message in result[0]


def test_blocks_are_found_with_tag_and_words(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n\n```bash small bits=12 train.lr=0.1\nls \\\n  -l\n```\n\n1. b\n\n   ~~~text\n   ```\n   ~~~\n")
    first, second = blocks_of(page, "page.md")
    assert (first.line, first.language, first.tag, first.words) == (3, "bash", "small", ("bits=12", "train.lr=0.1"))
    assert commands(first.text) == [["ls", "-l"]]
    assert (second.language, second.text) == ("text", "```\n")
    page.write_text("```bash run\nls\n")
    with pytest.raises(AssertionError, match="never closed"):
        list(blocks_of(page, "page.md"))


def test_shell_text_is_cut_into_commands() -> None:
    text = "A=1 B='x y' dvc repro # note\ncd a && (make run; ls) > out 2>&1 | head -3\nfor i in 1 2; do echo $i; done\n"
    assert commands(text) == [["dvc", "repro"], ["cd", "a"], ["make", "run"], ["ls"], ["head", "-3"], ["echo", "$i"]]

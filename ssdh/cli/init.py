"""`ssdh init FOLDER`: a ready pipeline in a folder of its own, run by `dvc repro` with the installed package.

Again in the same folder it renews what belongs to the package (`ssdh.txt`, `stages/`, `dvc.yaml`) after an upgrade, and
leaves `params.yaml` and the recipes in `methods/` as they are.
"""

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

from ssdh.core.errors import DataError
from ssdh.core.package import PACKAGE, PACKAGE_FILE, is_initialised, package_text

OF_THE_PACKAGE = "stages/"  # like dvc.yaml and ssdh.txt renewed in a folder that is a pipeline already
HEADER = """\
# check → prepare → extract → views → structure → train → encode → evaluate; baselines beside them; report shows all.
# ssdh.txt stands for the code of the installed package: `check` compares them each time, `ssdh init .` renews it.

"""


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand's parser."""
    parser = subparsers.add_parser(
        "init", help="a ready pipeline in an empty folder", description=__doc__.splitlines()[0]
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="empty, not there yet, or such a pipeline")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write the pipeline, initialise git and DVC; returns the exit code."""
    folder: Path = options.folder
    renewed = is_initialised(folder)
    if folder.exists() and not renewed and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} is not empty and holds no pipeline of `ssdh init`: name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    if not renewed:
        _call(folder, "git", "init", "-q")
        _call(folder, sys.executable, "-m", "dvc", "init", "-q", "-f")
        shutil.copytree(PACKAGE / "methods", folder / "methods", ignore=shutil.ignore_patterns("__*"))
    root = pipeline_files()
    for name in (PACKAGE / "pipeline.txt").read_text(encoding="utf-8").split():
        if name != "dvc.yaml" and (not renewed or name.startswith(OF_THE_PACKAGE)):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, folder / name)
    text = (root / "dvc.yaml").read_text(encoding="utf-8")
    (folder / "dvc.yaml").write_text(own_pipeline(text), encoding="utf-8", newline="\n")
    ignored = (folder / ".dvcignore").read_text(encoding="utf-8").replace("/ssdh/", "/methods/")
    (folder / ".dvcignore").write_text(
        ignored.replace("/methods/methods/", "/methods/"), encoding="utf-8", newline="\n"
    )
    (folder / PACKAGE_FILE).write_text(package_text(), encoding="utf-8", newline="\n")
    if renewed:
        print(f"{folder}: ssdh.txt, stages/ and dvc.yaml are those of the installed package; now run `dvc repro`")
    else:
        print(
            f"{folder} holds a pipeline: params.yaml, the recipes in methods/, dvc.yaml. Go on there with\n"
            '    git add -A && git commit -m "Pipeline"\n'
            "    dvc repro"
        )
    return 0


def pipeline_files() -> Path:
    """The folder that holds the files of `pipeline.txt`: in the wheel, or the repository's root in a clone."""
    installed = PACKAGE / "pipeline"
    return installed if installed.is_dir() else PACKAGE.parent


def own_pipeline(text: str) -> str:
    """`dvc.yaml` of the repository with `ssdh.txt` in place of the folders of code, and recipes in `methods/`."""
    head, *stages = re.split(r"(?m)^(?=  \w+:)", text[text.index("stages:") :])
    stages[-1], rest = stages[-1].split("\nplots:", 1)
    own = [_own_stage(stage) for stage in stages]
    own[0] = own[0].replace(
        "    cmd:", "    always_changed: true   # a second: is the installed code that of ssdh.txt?\n    cmd:"
    )
    return HEADER + head + "".join(own) + "\nplots:" + rest


def _own_stage(stage: str) -> str:
    stage = re.sub(r"ssdh/(?!methods)[\w./]+", str(PACKAGE_FILE), stage, count=1)
    stage = re.sub(r"\n *- ssdh/(?!methods)[\w./]+(?=\n)", "", stage)
    stage = re.sub(r",\s+ssdh/(?!methods)[\w./]+", "", stage)
    return stage.replace("ssdh/methods", "methods")


def _call(folder: Path, *command: str) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise DataError(f"{command[0]} is not installed, and a pipeline is a git repository: install it") from None
    if done.returncode != 0:
        raise DataError(f"{' '.join(command)} failed in {folder}: {(done.stderr or done.stdout).strip()}")

"""No stage waits for what it does not use: importing torch takes seconds, and other packages tenths of one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ssdh.features.backbone import feature_size
from ssdh.features.families.torchvision import SMALLEST, Torchvision, architectures
from tests.helpers.clone import make_clone

TORCH = {"torch", "torchvision", "torch._dynamo", "safetensors"}
COMPILER = {"torchvision", "torch._dynamo"}  # as slow to import as torch itself
TOOLS = {"faiss", "sklearn", "pandas", "matplotlib", "scipy.sparse", "scipy.stats", "dvc", "fastapi"}

# stage: what it must not import
UNUSED = {
    "check": TORCH | TOOLS,
    "prepare": TORCH | TOOLS,
    "extract": COMPILER | TOOLS,
    "views": TORCH | TOOLS | {"PIL"},
    "structure": TORCH | TOOLS | {"scipy", "PIL"},
    "train": COMPILER | TOOLS,
    "encode": COMPILER | TOOLS,
    "evaluate": TORCH | TOOLS,
    "baselines": TORCH | TOOLS - {"faiss", "scipy.sparse"},
    "report": TORCH | TOOLS - {"matplotlib", "pandas"},
}
RUN = ("check", "prepare", "extract", "views", "structure", "train", "encode")
# the neighbour graph; torchvision builds the network
RUNNING_NEEDS = {"structure": {"faiss", "scipy", "scipy.sparse"}, "extract": UNUSED["extract"]}


def imported(project: Path, statement: str, folder: Path | None = None) -> set[str]:
    """Modules that a fresh interpreter holds after `statement`."""
    code = f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    environment = os.environ | {"PYTHONPATH": str(folder or project)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder or project,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_every_stage_is_in_the_table(project: Path) -> None:
    assert {path.stem for path in (project / "stages").glob("[a-z]*.py")} == set(UNUSED)


@pytest.mark.long
@pytest.mark.parametrize("stage", [stage for stage in UNUSED if stage not in RUN or stage in RUNNING_NEEDS])
def test_a_stage_imports_only_what_it_uses(project: Path, stage: str) -> None:
    assert imported(project, f"import stages.{stage}") & UNUSED[stage] == set()


@pytest.mark.long
def test_running_check_prepare_structure_and_head_training_imports_no_more(
    project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What is imported at the head and inside functions, on the small pipeline of the tests."""
    folder = tmp_path_factory.mktemp("imports") / "clone"
    clone = make_clone(project, folder)
    clone.environment["PYTHONPATH"] = str(folder)
    for name in RUN:
        code = f"import json, sys, stages.{name} as stage\nstage.main()\nprint(json.dumps(sorted(sys.modules)))"
        done = clone.run(sys.executable, "-c", code)
        unused = UNUSED[name] - RUNNING_NEEDS.get(name, set())
        assert set(json.loads(done.stdout.splitlines()[-1])) & unused == set(), name


@pytest.mark.parametrize("family", SMALLEST)
def test_networks_known_to_fit_do(family: str) -> None:
    known_to_fit = Torchvision().known_to_fit
    arch = next(name for name in architectures() if name.startswith(family))
    layers = ("fc6", "fc7", "pool5") if family in ("vgg", "alexnet") else ("penultimate",)
    for size in (SMALLEST[family], SMALLEST[family] + 1):
        assert known_to_fit(arch, size)
        assert all(feature_size(arch, layer, size) > 0 for layer in layers)
    assert not known_to_fit(arch, SMALLEST[family] - 1)
    assert not known_to_fit("vit_b_16", 230)

"""The real pipeline in a temporary clone: which change reruns which stages, and that results can be trusted.

Every case changes something in a copy of the first run, runs `dvc repro` and puts it back.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers.clone import Clone, make_clone

pytestmark = pytest.mark.long

AFTER_CODES = ["evaluate", "report"]
AFTER_TRAIN = ["train", "encode", *AFTER_CODES]
ALL = {"check", "prepare", "extract", "views", "structure", "train", "encode", "evaluate", "baselines", "report"}


@pytest.fixture(scope="module")
def clone(first_run: Clone, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    return first_run.copy(tmp_path_factory.mktemp("pipeline") / "clone")


@pytest.fixture
def restored(clone: Clone) -> Iterator[Clone]:
    """The clone as after its first run, before and after the test."""
    yield clone
    clone.run("git", "checkout", "-q", ".")
    clone.run("git", "clean", "-fdq")
    clone.dvc("checkout", "--force")


@pytest.fixture
def untouched(clone: Clone) -> Iterator[Clone]:
    """The clone, of which the test changes parameters or code alone and no result."""
    before = results(clone)
    yield clone
    clone.run("git", "checkout", "-q", "params.yaml", "ssdh")
    assert results(clone) == before


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("structure.alpha", "1.5", ["structure", *AFTER_TRAIN]),
        ("train.lr", "2.0e-3", AFTER_TRAIN),
        ("views.count", "1", ["views", "train", "report"]),  # none are made: the small run's weights are random
        ("views.required", "true", ["views", "structure", *AFTER_TRAIN]),
        ("seed", "1", ["prepare", "views", "structure", *AFTER_TRAIN, "baselines"]),
        ("datasets.digits.topk", "500", [*AFTER_CODES, "baselines"]),
        ("backbone.precision", "bf16", ["extract", "views", "structure", *AFTER_TRAIN, "baselines"]),
    ],
)
def test_a_parameter_reruns_exactly_the_stages_that_read_it(
    restored: Clone, name: str, value: str, expected: list[str]
) -> None:
    restored.set_all({name: value})
    assert set(restored.repro()) == {"check", *expected}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("evaluate.radius", "3", {"evaluate", "baselines", "report"}),
        ("evaluate.baselines", "[lsh,pca_rr]", {"baselines", "report"}),
        ("datasets.digits.data.num_train", "200", {"prepare", "report"}),
    ],
)
def test_a_parameter_is_tracked_by_the_stages_that_read_it(
    untouched: Clone, name: str, value: str, expected: set[str]
) -> None:
    untouched.set_all({name: value})
    assert stale(untouched) == {"check", *expected}


def stale(clone: Clone) -> set[str]:
    """The stages whose own code, data or parameters are others than those of their last run; nothing runs."""
    return set(json.loads(clone.dvc("status", "--json").stdout))


def test_runtime_other_data_sets_and_other_recipes_rerun_the_check_only(restored: Clone) -> None:
    others = {
        "runtime.log_level": "DEBUG",
        "runtime.workers": "1",
        "runtime.device": "cpu",
        "datasets.cifar10.topk": "1000",
        "datasets.cifar10.data.num_train": "4000",
        "datasets.flickr25k.images.size": "200",
    }
    restored.set_all(others)
    recipe = restored.folder / "ssdh/methods/published.yaml"
    recipe.write_text(recipe.read_text().replace("epochs: 50", "epochs: 7").replace("alpha: 2.0", "alpha: 1.0"))
    assert restored.repro() == ["check"]


# Of the others none reruns anything.
OUTSIDE = ("ssdh/search/index.py", "ssdh/cli/show.py", "ssdh/experiments/results_table.py", "ssdh/training/loss.py~")


@pytest.mark.parametrize(
    ("modules", "expected"),
    [
        (["ssdh/training/loss.py"], {"check", "train"}),
        (["ssdh/report/page.py", *OUTSIDE], {"report"}),
        (["ssdh/methods/published.py", "ssdh/methods/mine.py"], {"check"}),  # another one's, a new one's first file
    ],
)
def test_a_changed_module_reruns_the_stages_that_import_it(
    restored: Clone, modules: list[str], expected: set[str]
) -> None:
    """A comment changes no result, so nothing further down reruns."""
    comment(restored, modules)
    assert set(restored.repro()) == expected


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("ssdh/evaluation/comparison.py", {"check", "evaluate", "baselines"}),
        ("ssdh/structure/histogram.py", {"check", "structure", "train", "evaluate"}),
        ("ssdh/datasets/digits.py", {"check", "prepare"}),
        ("ssdh/core/split.py", ALL),
        ("ssdh/methods/manifold_views.py", {"check", "train"}),  # the chosen recipe's
    ],
)
def test_a_module_is_tracked_by_the_stages_that_import_it(untouched: Clone, module: str, expected: set[str]) -> None:
    comment(untouched, [module])
    assert stale(untouched) == expected


def comment(clone: Clone, modules: list[str]) -> None:
    """Append a comment to each module, or make it of one."""
    for module in modules:
        with (clone.folder / module).open("a") as file:
            file.write("# a comment\n")


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("bits", "0", "bits must be greater than or equal to 1, got 0"),
        ("train.epochs", "abc", "train.epochs must be a valid integer, got 'abc'"),
        ("backbone.weights_file", "none/w.pth", "backbone.weights_file none/w.pth does not exist"),
        ("train.init_file", "none/m.safetensors", "train.init_file none/m.safetensors does not exist"),
        ("dataset", "cifar100", "dataset must be one of cifar10, cifar10_i"),
        ("recipe", "best", "recipe must be one of"),
    ],
)
def test_a_mistake_is_one_line_and_earlier_results_stay(untouched: Clone, name: str, value: str, line: str) -> None:
    untouched.set_all({name: value})
    done = untouched.dvc("repro", check=False)
    assert done.returncode != 0
    assert f"check: {line}" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def results(clone: Clone) -> dict[str, bytes]:
    """The bytes of every out and metric of the pipeline, by path."""
    files = [path for name in ("data", "features", "models", "metrics") for path in (clone.folder / name).rglob("*")]
    return {str(path.relative_to(clone.folder)): path.read_bytes() for path in files if path.is_file()}


def test_an_unknown_key_is_named(untouched: Clone) -> None:
    with (untouched.folder / "params.yaml").open("a") as file:
        file.write("bitz: 16\n")
    done = untouched.dvc("repro", check=False)
    assert "check: bitz is not a parameter" in done.stderr
    assert "Traceback" not in done.stderr


def test_missing_data_and_no_network_say_what_to_do(untouched: Clone) -> None:
    untouched.set(dataset="cifar10")
    done = untouched.dvc("repro", check=False)
    assert done.returncode != 0
    assert "SSDH_OFFLINE" in done.stderr
    assert "cifar-10-python.tar.gz" in done.stderr
    assert "Traceback" not in done.stderr


def test_shuffled_labels_change_no_code(restored: Clone) -> None:
    """No label reaches pseudo-labels or weights: of shuffled labels the outs are the same bytes, the curve is not."""
    import numpy as np

    restored.set(train__eval_interval="2")
    outs = ("features/pseudo_labels.npy", "features/structure.npz", "models/hashnet.safetensors", "models/codes.npy")
    curve = restored.folder / "metrics/validation.csv"

    def made() -> dict[str, bytes]:
        for out in outs:
            (restored.folder / out).unlink()
        for name in ("structure", "train", "encode"):
            restored.run("python", "-m", f"stages.{name}")
        return {out: (restored.folder / out).read_bytes() for out in outs}

    before, before_curve = made(), curve.read_text()
    labels = np.load(restored.folder / "data/labels.npy")
    shuffled = np.random.default_rng(0).permutation(labels)
    assert not np.array_equal(labels, shuffled)
    np.save(restored.folder / "data/labels.npy", shuffled)
    assert made() == before
    assert curve.read_text() != before_curve


def test_a_second_clean_run_gives_the_same_bits(restored: Clone, tmp_path_factory: pytest.TempPathFactory) -> None:
    clone = restored
    other = make_clone(clone.folder, tmp_path_factory.mktemp("again") / "clone")
    other.repro()
    assert locked(other) == locked(clone)
    for name in ("metrics/metrics.json", "metrics/per_query.csv", "metrics/train.csv", "models/codes.npy"):
        assert (other.folder / name).read_bytes() == (clone.folder / name).read_bytes(), name
    shutil.rmtree(other.folder)


def locked(clone: Clone) -> Any:
    return yaml.safe_load((clone.folder / "dvc.lock").read_text())


def test_a_clone_with_windows_line_ends_has_a_clean_status(restored: Clone, tmp_path: Path) -> None:
    """Git for Windows sets core.autocrlf; DVC's hashes are of bytes, so .gitattributes keeps them."""
    restored.run("git", "clone", "-q", "-c", "core.autocrlf=true", ".", str(tmp_path / "windows"))
    other = Clone(tmp_path / "windows")
    listed = other.run("git", "ls-files", "--eol").stdout.splitlines()
    assert [line for line in listed if "w/crlf" in line or "w/mixed" in line] == []
    shutil.copytree(restored.folder / ".dvc/cache", other.folder / ".dvc/cache")
    other.dvc("checkout")
    assert "Data and pipelines are up to date." in other.dvc("status").stdout


def test_a_queued_experiment_runs_its_own_copy_of_the_code(restored: Clone) -> None:
    """The loss is broken in the workspace after queueing: the queued run must not see it."""
    restored.dvc("exp", "run", "--queue", "--name", "queued", "-S", "bits=24")
    (restored.folder / "ssdh/training/loss.py").write_text("raise RuntimeError('the workspace, not the queue')\n")
    done = restored.dvc("exp", "run", "--run-all", check=False)
    assert done.returncode == 0, done.stderr
    (result,) = restored.run("git", "for-each-ref", "--format=%(refname)", "refs/exps/**/queued").stdout.split()
    metrics = restored.run("git", "show", f"{result}:metrics/metrics.json").stdout
    assert json.loads(metrics)["bits"] == 24

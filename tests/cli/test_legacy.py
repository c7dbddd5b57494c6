"""The old command line: every flag, short and long, reaches its parameter, by DVC's own reading of `-S`."""

import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from ssdh.__main__ import is_old
from ssdh.cli import legacy
from ssdh.core.errors import DataError, ParameterError
from ssdh.core.params import effective, lookup, read_params
from tests.helpers.galleries import disc


@pytest.fixture
def workspace(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with only params.yaml, to stand in."""
    folder = tmp_path / "workspace"
    folder.mkdir()
    shutil.copy(project / "params.yaml", folder)
    monkeypatch.chdir(folder)
    return folder


def applied(line: str) -> dict[str, Any]:
    """params.yaml after DVC itself has applied the printed line's `-S` options."""
    from dvc.utils.hydra import apply_overrides

    words = shlex.split(line)
    assert words[:3] == ["dvc", "exp", "run"]
    assert words[3::2] == ["-S"] * (len(words[3:]) // 2)
    apply_overrides(Path("params.yaml"), words[4::2])
    return read_params()


def dry(capsys: pytest.CaptureFixture[str], *arguments: str, mode: str = "--train") -> str:
    """The `dvc exp run` line that the flags stand for."""
    assert legacy.main([mode, "--dry-run", "--gpu", "1", *arguments]) == 0
    return next(line for line in capsys.readouterr().out.splitlines() if line.startswith("dvc "))


CASES = [
    (("-d", "--dataset"), "nus-wide-tc-10", "dataset", "nus_wide_10"),
    (("-r", "--root"), "/data/it's, (here) = 1", "datasets.cifar10.data.root", "/data/it's, (here) = 1"),
    (("-c", "--code-length"), "64", "bits", 64),
    (("-T", "--max-iter"), "7", "train.epochs", 7),
    (("-l", "--lr"), "1e-5", "train.lr", 1e-5),
    (("-q", "--num-query"), "500", "datasets.cifar10.data.num_query", 500),
    (("-t", "--num-train"), "4000", "datasets.cifar10.data.num_train", 4000),
    (("-w", "--num-workers"), "4", "runtime.workers", 4),
    (("-b", "--batch-size"), "32", "train.batch_size", 32),
    (("-a", "--arch"), "alexnet", "backbone.arch", "alexnet"),
    (("-k", "--topk"), "100", "datasets.cifar10.topk", 100),
    (("-v", "--verbose"), None, "runtime.log_level", "TRACE"),
    (("-g", "--gpu"), "3", "runtime.device", "cuda:3"),
    (("-e", "--evaluate-interval"), "50", "train.eval_interval", 50),
    (("-s", "--snapshot-interval"), "80", "train.snapshot_interval", 80),
    (("--alpha",), "1.5", "structure.alpha", 1.5),
    (("--beta",), "3", "structure.beta", 3),
    (("--head-only",), None, "train.finetune", False),
]


@pytest.mark.parametrize(
    ("flag", "given", "name", "expected"),
    [(flag, given, name, expected) for flags, given, name, expected in CASES for flag in flags],
)
@pytest.mark.usefixtures("workspace")
def test_every_flag_reaches_its_parameter(
    capsys: pytest.CaptureFixture[str], flag: str, given: str | None, name: str, expected: object
) -> None:
    params = applied(dry(capsys, "--dataset", "cifar10", flag, *([] if given is None else [given])))
    assert lookup(params, name) == expected
    section, _, key = name.partition(".")
    if section in ("train", "structure"):  # the explicit value is the one that counts, not the recipe's
        assert effective(params, section)[key] == expected


def test_no_flag_of_the_program_is_left_out_of_the_cases() -> None:
    modes = {"--help", "-h", "--train", "--resume", "--evaluate", "--checkpoint", "-C", "--dry-run"}
    flags = {name for action in legacy.parser()._actions for name in action.option_strings}
    assert flags - modes == {flag for flags, *_ in CASES for flag in flags}


@pytest.mark.usefixtures("workspace")
def test_the_old_defaults_are_the_old_job(capsys: pytest.CaptureFixture[str]) -> None:
    params = applied(dry(capsys, "--dataset", "cifar10"))
    assert (params["dataset"], params["recipe"], params["bits"]) == ("cifar10", "published", 12)
    train = effective(params, "train")
    assert (train["finetune"], train["epochs"], train["lr"], train["batch_size"]) == (True, 50, 1e-3, 24)
    assert (train["optimizer"], train["momentum"], train["weight_decay"]) == ("sgd", 0.9, 1e-5)
    assert (train["eval_interval"], train["snapshot_interval"], train["unknown_weight"]) == (500, 800, 0)
    structure = effective(params, "structure")
    assert (structure["alpha"], structure["beta"]) == (2, 2)
    assert params["datasets"]["cifar10"] == {
        "data": {"root": None, "num_query": 1000, "num_train": 5000},
        "images": {"size": 224, "resize": 256, "weights": "imagenet", "mean": None, "std": None},
        "topk": 5000,
    }
    assert (params["backbone"]["arch"], params["runtime"]["workers"]) == ("vgg16", 0)


@pytest.mark.usefixtures("workspace")
def test_a_set_the_old_program_did_not_know_keeps_its_own_protocol(capsys: pytest.CaptureFixture[str]) -> None:
    digits = applied(dry(capsys, "-d", "digits", "-t", "300"))["datasets"]["digits"]
    assert digits["data"] == {"num_query": 200, "num_train": 300}
    assert digits["topk"] == 1000


@pytest.mark.usefixtures("workspace")
def test_nothing_but_the_named_parameters_changes(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = yaml.safe_load((workspace / "params.yaml").read_text())
    after = applied(dry(capsys, "-d", "cifar10"))
    before.pop("train"), before.pop("structure"), before.pop("runtime")
    for name, value in before.items():
        if name not in ("dataset", "recipe", "bits"):
            assert after[name] == value


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-d", "cifar10"], "say what to do: --train, --resume or --evaluate"),
        (["--train"], "--dataset is missing: give one of digits, cifar10"),
        (["-d", "cifar100", "--train"], "--dataset must be one of digits, .* got 'cifar100'"),
        (["-d", "digits", "-r", "/data", "--train"], "--root: digits has no such choice"),
        (["-d", "nus-wide-tc-21", "-q", "100", "--train"], "--num-query: nus_wide_21 has no such choice"),
        (["-d", "cifar10", "-c", "0", "--train"], "bits must be greater than or equal to 1, got 0"),
        (["-d", "cifar10", "-a", "vgg17", "--train"], "backbone.arch must be"),
        (["-d", "cifar10", "--evaluate"], "--evaluate needs --checkpoint FILE"),
    ],
)
@pytest.mark.usefixtures("workspace")
def test_a_mistake_is_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(ParameterError, match=f"^{message}") as error:
        legacy.main(arguments)
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("workspace")
def test_a_missing_checkpoint_is_named() -> None:
    with pytest.raises(DataError, match=r"--checkpoint none\.safetensors does not exist"):
        legacy.main(["-d", "cifar10", "--evaluate", "--checkpoint", "none.safetensors"])


def test_resume_with_a_file_starts_from_it(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = workspace / "model.safetensors"
    model.touch()
    line = dry(capsys, "-d", "cifar10", "-C", str(model), mode="--resume")
    assert applied(line)["train"]["init_file"] == model.as_posix()
    assert "init_file" not in dry(capsys, "-d", "cifar10", mode="--resume")


def test_a_number_that_looks_like_text_stays_text_and_the_other_way_round() -> None:
    from dvc.utils.hydra import to_hydra_overrides

    from ssdh.experiments.dvc import override

    texts = ("12", "true", "a b", "x,y", "c:\\data\\", "it's", "\\'", "", "nan", "[1]", "]")
    lists = ([], [1, 10], ["a", "12", "x,y", "it's"], [[1], [], [None, True, 0.5]], list(texts))
    for value in (*texts, None, True, 1e-5, 3, 0.25, *lists):
        assert to_hydra_overrides([override("a", value)])[0].value() == value, value


def test_a_mapping_is_set_by_its_parts() -> None:
    from ssdh.experiments.dvc import override

    with pytest.raises(ParameterError, match=r"^train is a mapping: set its parts by .*train\.KEY=VALUE"):
        override("train", {"lr": 1})


def test_a_list_replaces_a_list_by_dvcs_own_reading(workspace: Path) -> None:
    from dvc.utils.hydra import apply_overrides

    from ssdh.experiments.dvc import override

    for value in ([], [1, 7]):
        apply_overrides(Path("params.yaml"), [override("evaluate.precision_at", value)])
        assert read_params()["evaluate"]["precision_at"] == value


@pytest.mark.parametrize(
    ("arguments", "old"),
    [(["--dataset"], True), (["-d"], True), (["--help"], False), (["-h"], False), (["run"], False)],
)
def test_only_a_flag_in_front_means_the_old_program(arguments: list[str], old: bool) -> None:
    assert is_old(arguments) is old


@pytest.mark.usefixtures("workspace")
def test_without_a_card_it_says_how_long_and_the_ways_out(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["-d", "digits", "-a", "squeezenet1_1", "--train", "--dry-run"]
    assert legacy.main(arguments) == 0
    message = capsys.readouterr().out
    assert "On the CPU" in message
    assert "50,000 images forward and backward" in message  # 1000 train images, 50 epochs
    assert "--head-only" in message
    assert "--gpu 0" in message


@pytest.mark.parametrize("more", [[], ["-t", "4"]], ids=["all that remain", "four"])
def test_the_time_of_a_folder_is_that_of_its_images(
    workspace: Path, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    """num_train: null is all that remain of a small folder, not none."""
    for number in range(20):
        disc(number, (40, 30)).save(workspace / f"{number}.png")
    flags = ["-d", "folder", "-r", str(workspace), "-a", "squeezenet1_1", *more, "--train", "--dry-run"]
    assert legacy.main(flags) == 0
    passes = 50 * (4 if more else 20 - 2)  # epochs; a tenth are queries
    assert f": {passes:,} images forward and backward" in capsys.readouterr().out


def test_the_time_of_a_folder_that_is_not_there_is_not_known(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["-d", "folder", "-r", str(workspace / "none"), "-a", "squeezenet1_1", "--train", "--dry-run"]
    assert legacy.main(flags) == 0
    message = capsys.readouterr().out
    assert "the time is not known, as the number of images is not" in message
    assert "less than a minute" not in message


@pytest.mark.usefixtures("workspace")
def test_embeddings_need_no_network_and_no_time_for_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert legacy.main(["-d", "embeddings", "--train", "--head-only", "--dry-run"]) == 0
    message = capsys.readouterr().out
    assert "No network runs on embeddings" in message
    assert "images/s" not in message


def test_a_size_that_is_left_to_the_weights_is_theirs(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = workspace / "params.yaml"
    path.write_text(path.read_text().replace("size: 224, resize: 256", "size: null, resize: null"))
    assert legacy.main(["-d", "cifar10", "-a", "squeezenet1_1", "--train", "--dry-run"]) == 0
    assert "squeezenet1_1 at 224 px" in capsys.readouterr().out

"""`python -m ssdh compare`: experiments by name, revision, folder and file, and what cannot be compared."""

import argparse
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from ssdh.cli import compare
from ssdh.core.errors import DataError, ParameterError
from ssdh.core.files import write_csv, write_json
from ssdh.evaluation.metrics import PER_QUERY
from ssdh.experiments.dvc import git as ask_git
from ssdh.experiments.dvc import git_file


def write_run(folder: Path, shift: float, *, rows: range = range(200), topk: int = 1000, labelled: bool = True) -> None:
    """The two files of an experiment whose average precision differs by `shift`."""
    rng = np.random.default_rng(0)
    values = np.clip(rng.beta(2, 2, len(rows)) + shift, 0, 1)
    table = [(row, ap, "", 100, 3) for row, ap in zip(rows, values.tolist(), strict=True)]
    write_csv(folder / "metrics/per_query.csv", PER_QUERY, table if labelled else [])
    write_json(folder / "metrics/metrics.json", {"dataset": "digits", "topk": topk, "map": float(values.mean())})


def git(*arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    done = subprocess.run(["git", *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A commit, an experiment under a reference as DVC writes it, and a third run in the workspace."""
    monkeypatch.chdir(tmp_path)
    git("init", "-q", "-b", "main")
    for shift, name in ((0.0, "first"), (0.05, "second")):
        write_run(tmp_path, shift)
        git("add", "metrics")
        git("commit", "-q", "-m", name)
    git("update-ref", "refs/exps/ab/cdef0123/round-dawn", "HEAD")
    git("reset", "-q", "--hard", "HEAD~1")
    write_run(tmp_path, 0.02)
    return tmp_path


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    compare.register(parser.add_subparsers())
    options = parser.parse_args(["compare", *arguments])
    return int(options.run(options))


def test_experiment_revision_and_workspace(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("HEAD", "round-dawn") == 0
    words = capsys.readouterr().out
    assert "mAP@1000" in words
    assert "round-dawn is better than HEAD by 0.0" in words
    assert run("main", "workspace", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["difference"] == pytest.approx(0.02, abs=1e-3)
    assert result["beyond_noise"]
    assert result["num_queries"] == 200
    short = git("rev-parse", "--short", "refs/exps/ab/cdef0123/round-dawn")
    run("round-dawn", short)
    assert "there is no difference" in capsys.readouterr().out


def test_folders_and_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "a", 0.0)
    write_run(tmp_path / "b", 0.03)
    for second in ("b", "b/metrics", "b/metrics/per_query.csv"):
        run(str(tmp_path / "a"), str(tmp_path / second), "--json", "--resamples", "500", "--confidence", "0.9")
        result = json.loads(capsys.readouterr().out)
        assert result["low"] <= result["difference"] + 1e-12
        assert result["difference"] == pytest.approx(0.03, abs=1e-3)
        assert result["confidence"] == 0.9


def test_queries_are_paired_by_their_row_and_not_by_their_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "a", 0.0)
    table = (tmp_path / "a/metrics/per_query.csv").read_text(encoding="utf-8").splitlines()
    turned = "\n".join([table[0], *reversed(table[1:])]) + "\n"
    (tmp_path / "turned.csv").write_text(turned, encoding="utf-8")
    run(str(tmp_path / "a"), str(tmp_path / "turned.csv"))
    assert "there is no difference" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"topk": 500}, "topk 1000 and .* 500: their average precisions measure different things"),
        (
            {"rows": range(100, 300)},
            "share 100 of 200 and 200 queries: compare .* of one data set and one seed",
        ),
        ({"labelled": False}, "holds no average precision .its images have no labels"),
    ],
)
def test_what_cannot_be_paired_is_said(tmp_path: Path, other: dict, message: str) -> None:
    write_run(tmp_path / "a", 0.0)
    write_run(tmp_path / "b", 0.1, **other)
    with pytest.raises(DataError, match=message):
        run(str(tmp_path / "a"), str(tmp_path / "b"))


@pytest.mark.parametrize(
    ("name", "content"),
    [("per_query.csv", b"\xff\xfe\x00row"), ("metrics.json", b'{"map": 0.'), ("metrics.json", b"\xff")],
)
def test_tables_that_cannot_be_read_are_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    write_run(tmp_path / "a", 0.0)
    write_run(tmp_path / "b", 0.1)
    (tmp_path / "b/metrics" / name).write_bytes(content)
    with pytest.raises(DataError, match=r"b: its tables cannot be read .*: run `dvc repro evaluate`"):
        run(str(tmp_path / "a"), str(tmp_path / "b"))


def test_databases_of_other_train_images_are_not_paired_without_them(tmp_path: Path) -> None:
    for name, train in (("a", 1000), ("b", 300)):
        write_run(tmp_path / name, 0.1)
        write_json(tmp_path / name / "metrics/data.json", {"dataset": "digits", "train": train, "database": 1597})
    assert run(str(tmp_path / "a"), str(tmp_path / "b")) == 0
    with pytest.raises(DataError, match=r"a has train 1000 and .*b 300: their average precisions measure different"):
        compare.pair(
            *(
                compare.Experiment(name, {1: 0.5}, {"topk": 10, "train": train, "database": 1597}, "")
                for name, train in (("a", 1000), ("b", 300))
            ),
            same=compare.SAME + compare.HELD_OUT,
        )


def write_seed(folder: Path, shift: float, seed: int, bits: int = 32, topk: int = 1000) -> None:
    """A run of a seed, whose queries are its own, with what dvc.lock records of it."""
    write_run(folder, shift, rows=range(1000 * seed, 1000 * seed + 200), topk=topk)
    stages = {"prepare": {"seed": seed}, "train": {"bits": bits, "seed": seed}}
    lock = {"stages": {name: {"params": {"params.yaml": values}} for name, values in stages.items()}}
    (folder / "dvc.lock").write_text(json.dumps(lock), encoding="utf-8")  # JSON is YAML


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three seeds of a method, and of one that is better by 0.02, 0.03 and 0.04."""
    monkeypatch.chdir(tmp_path)
    for seed in range(3):
        write_seed(Path(f"a{seed}"), 0.0, seed)
        write_seed(Path(f"b{seed}"), 0.02 + 0.01 * seed, seed)
    return tmp_path


def test_seeds_are_paired_and_pooled_in_one_verdict(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("a2,a0,a1", "b0,b1,b2", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert [(each["seed"], each["names"]) for each in result["seeds"]] == [
        (seed, [f"a{seed}", f"b{seed}"]) for seed in range(3)
    ]
    differences = [each["difference"] for each in result["seeds"]]
    assert differences == pytest.approx([0.02, 0.03, 0.04], abs=2e-3)
    assert result["difference"] == pytest.approx(np.mean(differences))
    expected = stats.ttest_1samp(differences, 0).confidence_interval()
    assert (result["low"], result["high"]) == pytest.approx((expected.low, expected.high))
    assert (result["num_seeds"], result["num_queries"], result["beyond_noise"]) == (3, 600, True)
    run("a1", "b1", "--json")
    assert json.loads(capsys.readouterr().out).items() <= result["seeds"][1].items()  # a seed as it is by itself
    run("a0,a1,a2", "b0,b1,b2")
    lines = capsys.readouterr().out.splitlines()
    numbers = [[str(each["seed"]), f"{each['first']:.4f}"] for each in result["seeds"]]
    assert [line.split()[:4:2] for line in lines[1:4]] == numbers
    assert lines[4].startswith("mAP@1000 0.")
    assert lines[4].endswith("for B, the means of 3 seeds.")
    assert lines[5].startswith("B is better than A by 0.0")
    assert lines[5].endswith("for B − A): more than the noise of seeds and queries.")


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("a0,a1", "b0,b2", "^A has seeds 0, 1 and B 0, 2: name experiments of the same seeds$"),
        ("a0,a1", "b0", "^A has seeds 0, 1 and B 0: "),
        ("a0,b0", "b0,b1", "^a0 and b0 both have seed 0: name one experiment a seed$"),
        ("a0,long", "b0,b1", "^a0 and long differ in params.yaml:bits, not in the seed alone: name experiments of one"),
        ("a0,a1", "b0,deep", "^a1 has topk 1000 and deep 500: their average precisions measure different things"),
        ("a0,a1", "b0,mixed", r"^mixed: stages of seeds \[0, 1\] stand in its dvc.lock: run `dvc repro evaluate`$"),
        (
            "a0,a1",
            "b0,b1/metrics/per_query.csv",
            r"^b1/metrics/per_query.csv: its seed is not known, since it has no whole dvc.lock \(",
        ),
    ],
)
def test_groups_that_are_no_seeds_of_two_methods_are_one_line(
    sweep: Path, first: str, second: str, message: str
) -> None:
    write_seed(sweep / "long", 0.0, 1, bits=64)
    write_seed(sweep / "deep", 0.0, 1, topk=500)
    write_seed(sweep / "mixed", 0.0, 1)
    lock = sweep / "mixed/dvc.lock"
    lock.write_text(lock.read_text(encoding="utf-8").replace('"seed": 1', '"seed": 0', 1), encoding="utf-8")
    with pytest.raises(DataError, match=message):
        run(first, second)


def test_seeds_of_experiments_and_of_a_path_with_a_comma(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the parameters that each commit's dvc.lock records, whatever params.yaml says by now."""
    for seed in (3, 4):
        write_seed(repository, 0.0, seed)
        git("add", "metrics", "dvc.lock")
        git("commit", "-q", "-m", "a seed")
        git("update-ref", f"refs/exps/ab/cdef0123/short-{seed}", "HEAD")
    write_seed(repository / "one, two", 0.1, 3)
    write_seed(repository / "other", 0.1, 4)
    assert run("short-3", "one, two") == 0
    assert "one, two is better than short-3" in capsys.readouterr().out
    (repository / "one, two").rename("copy")
    assert run("short-4,short-3", "copy,other", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert [each["names"] for each in result["seeds"]] == [["short-3", "copy"], ["short-4", "other"]]


def test_names_that_lead_nowhere_are_said(repository: Path) -> None:
    with pytest.raises(DataError, match="nothing-here is no experiment, git revision or path here: `dvc exp list`"):
        run("workspace", "nothing-here")
    with pytest.raises(DataError, match="column ap_without_train is empty"):
        run("workspace", "HEAD", "--without-train")
    (repository / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty holds no metrics/per_query.csv: run `dvc repro evaluate` there"):
        run("workspace", "empty")
    Path("broken.csv").write_text("row,ap\n1,many\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"broken.csv: .* not a whole table of numbers"):
        run("workspace", "broken.csv")
    git("rm", "-rq", "--cached", "metrics")
    git("commit", "-q", "-m", "without results")
    with pytest.raises(DataError, match=r"HEAD \(.{7}\) holds no metrics/per_query.csv"):
        run("workspace", "HEAD")


def test_one_name_of_two_experiments_is_said(repository: Path) -> None:
    git("update-ref", "refs/exps/cd/ef456789/round-dawn", "HEAD")
    with pytest.raises(DataError, match=r"names 2 experiments: say which one, refs/exps/ab/.* or refs/exps/cd/"):
        run("workspace", "round-dawn")
    assert run("workspace", "refs/exps/ab/cdef0123/round-dawn") == 0


@pytest.mark.parametrize("flag", [("--confidence", "95"), ("--resamples", "0"), ("--seed", "-1")])
def test_flags_out_of_range_are_named(flag: tuple[str, str]) -> None:
    with pytest.raises(ParameterError, match=rf"{flag[0]} must be .*got {flag[1]}"):
        run("workspace", "HEAD", *flag)


def test_git_that_will_not_speak_is_quoted(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(DataError, match=r"^git for-each-ref failed: detected dubious ownership in repository at"):
        run("workspace", "HEAD")
    with pytest.raises(DataError, match=r"^git ls-tree failed: detected dubious ownership"):
        git_file("HEAD", "dvc.lock")


def test_what_git_does_not_know_is_told_from_a_failure(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask_git("config", "user.nonsense") is None
    assert git_file("HEAD", "dvc.lock") is None
    assert (git_file("HEAD", "metrics/per_query.csv") or "").startswith("row,")
    monkeypatch.chdir(repository.parent)
    with pytest.raises(DataError, match=r"^HEAD is no path, and .* holds no pipeline: .*ssdh init"):
        run("HEAD", "HEAD")

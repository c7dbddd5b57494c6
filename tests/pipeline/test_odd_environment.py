"""What notebooks, clusters, continuous integration and other projects leave in the environment changes no result."""

from pathlib import Path

import pytest

from tests.helpers.clone import Clone

pytestmark = pytest.mark.long

LEFT_BEHIND = {
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "OMP_NUM_THREADS": "abc",
    "MKL_NUM_THREADS": "0",
    "OPENBLAS_NUM_THREADS": "",
    "LOKY_MAX_CPU_COUNT": "x",
    "CUDA_VISIBLE_DEVICES": "",
    "TORCH_HOME": "/nonexistent/torch",
    "TMPDIR": "/nonexistent/tmp",
    "COLUMNS": "0",
    "LC_ALL": "C",
    "PYTHONUTF8": "0",
    "PYTHONIOENCODING": "ascii",
    "TZ": "Pacific/Kiritimati",
    "PYTHONOPTIMIZE": "2",
    "PYTHONHASHSEED": "123",
    "NO_COLOR": "1",
    "SLURM_JOB_ID": "12",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS": "4",
    "PMI_RANK": "1",
    "PMI_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "2",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


def test_what_other_programs_leave_behind_changes_nothing(first_run: Clone, tmp_path: Path) -> None:
    clone = first_run.copy(tmp_path / "clone")
    for name in ("ssdh", "stages"):  # packages of the same names elsewhere
        (tmp_path / "elsewhere" / name).mkdir(parents=True)
        (tmp_path / "elsewhere" / name / "__init__.py").write_text("raise SystemExit('of another project')\n")
    clone.environment |= LEFT_BEHIND | {"PYTHONPATH": str(tmp_path / "elsewhere")}
    for name in ("HOME", "LANG"):
        clone.environment.pop(name, None)
    ran = clone.repro("--force")
    assert ran == clone.record.read_text().split() if clone.record.exists() else len(ran) == 10
    assert clone.run("git", "status", "--porcelain").stdout == ""  # metrics, report and the hashes in dvc.lock


def test_every_warning_an_error(first_run: Clone, tmp_path: Path) -> None:
    """DVC's own packages do not survive it, so dvc is started without by `ssdh run`; the stages do."""
    clone = first_run.copy(tmp_path / "clone")
    clone.environment |= {"PYTHONWARNINGS": "error"}
    for stage in ("check", "structure", "train", "encode", "evaluate", "report"):
        clone.run("python", "-m", f"stages.{stage}")
    assert "check cached" in clone.run("python", "-m", "ssdh", "run").stdout

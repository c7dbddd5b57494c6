"""Puts the pipeline's files, which ssdh/pipeline.txt lists, into the wheel, where `ssdh init` finds them."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


class BuildWithPipeline(build_py):
    """Copies each file to `ssdh/pipeline/` of the wheel."""

    def run(self) -> None:
        """Build the package, then add the pipeline's files."""
        super().run()
        for name in (ROOT / "ssdh/pipeline.txt").read_text(encoding="utf-8").split():
            target = Path(self.build_lib) / "ssdh/pipeline" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            self.copy_file(str(ROOT / name), str(target))


setup(cmdclass={"build_py": BuildWithPipeline})

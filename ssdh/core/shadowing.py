"""A stray `yaml.py` or `random.py` in the working folder or on PYTHONPATH stands before the real module: say which.

Nothing is looked for until an import fails, or a module lacks what the real one has. Imports little: it comes first.
"""

import os
import sys
from pathlib import Path
from types import TracebackType

# modules of other packages, by the names that they are imported by
NEEDED = {
    *("numpy", "scipy", "pandas", "torch", "torchvision", "faiss", "sklearn", "matplotlib", "PIL", "yaml", "pydantic"),
    *("loguru", "psutil", "filelock", "threadpoolctl", "safetensors", "tqdm", "timm", "h5py", "pyarrow", "fastapi"),
}


def name_what_shadows(program: str) -> None:
    """From here on an error that comes from a file in a module's place ends with two lines that name the file."""

    def say(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        files = _files(trace)
        lacks = issubclass(kind, ImportError | AttributeError)
        stray = [path for path in shadowing() if _arose_in(path, files) or (lacks and _is_loaded(path))]
        if not stray:
            sys.__excepthook__(kind, error, trace)
            return
        said = " ".join(str(error).split()) or kind.__name__
        stand = f"{', '.join(map(str, stray))} {'stands' if len(stray) == 1 else 'stand'}"
        print(f"{program}: {stand} in the place of a module of that name ({said})", file=sys.stderr)
        print(f"{program}: rename it, or take its folder out of PYTHONPATH, and run again", file=sys.stderr)

    sys.excepthook = say


def _files(trace: TracebackType | None) -> list[str]:
    """The files through which an error came."""
    result = []
    while trace is not None:
        result.append(trace.tb_frame.f_code.co_filename)
        trace = trace.tb_next
    return result


def _arose_in(path: Path, files: list[str]) -> bool:
    return any(Path(file) in (path, path / "__init__.py") for file in files)


def _is_loaded(path: Path) -> bool:
    """Whether the module of that name came from the file or package."""
    module = sys.modules.get(path.name.removesuffix(".py"))
    return _arose_in(path, [str(getattr(module, "__file__", ""))])


def shadowing() -> list[Path]:
    """Files and packages that are found before a module of Python or of a package that is needed, of the same name.

    Of folders that an installer filled (there are `.dist-info` beside the packages) nothing is stray.
    """
    stray: list[Path] = []
    for folder in dict.fromkeys(Path(entry).absolute() for entry in sys.path):
        if folder == Path(os.__file__).parent:
            break
        try:
            entries = sorted(folder.iterdir())
        except OSError:
            continue
        if any(entry.suffix == ".dist-info" for entry in entries):
            continue
        for entry in entries:
            name = entry.name.removesuffix(".py")
            if (name in NEEDED or name in sys.stdlib_module_names) and (
                entry.suffix == ".py" or (entry / "__init__.py").is_file()
            ):
                stray.append(entry)
    return stray

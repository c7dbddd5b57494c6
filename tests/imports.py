"""What a stage really imports; `python -m tests.imports` writes it into dvc.yaml as the stages' `deps`."""

import ast
import re
from pathlib import Path


def module_file(project: Path, name: str) -> Path | None:
    """The file of module `name` in the project, or None where it is someone else's."""
    base = project.joinpath(*name.split("."))
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def is_only_a_docstring(path: Path) -> bool:
    body = ast.parse(path.read_text()).body
    return all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in body)


def imports(project: Path, path: Path) -> set[Path]:
    """Project files that `path` imports, at the top or inside a function, with the packages around them."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively: write the whole name"
            assert node.module is not None
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    names = {name for name in names if name.split(".")[0] in ("ssdh", "stages")}
    names |= {name.rsplit(".", n)[0] for name in names for n in range(1, name.count(".") + 1)}
    files = {module_file(project, name) for name in names}
    return {file for file in files if file is not None}


def closure(project: Path, path: Path) -> set[str]:
    seen: set[Path] = set()
    todo = {path}
    while todo:
        file = todo.pop()
        seen.add(file)
        todo |= imports(project, file) - seen
    return {str(file.relative_to(project)) for file in seen if not is_only_a_docstring(file)}


def main(project: Path) -> None:
    """Replace the modules in every stage's `deps` in dvc.yaml, keeping all else."""
    path = project / "dvc.yaml"
    text = path.read_text()
    for entry in sorted((project / "stages").glob("[a-z]*.py")):
        found = re.search(rf"(?m)^  {entry.stem}:.*\n(?:    .*\n|\n)*?    deps:\n((?:      - .*\n)+)", text)
        if found:
            kept = [line for line in found[1].splitlines() if not line.endswith(".py")]
            lines = [*kept, *(f"      - {name}" for name in sorted(closure(project, entry)))]
            text = text[: found.start(1)] + "\n".join(lines) + "\n" + text[found.end(1) :]
    path.write_text(text)


if __name__ == "__main__":
    main(Path(__file__).resolve().parents[1])

"""Command line subcommands, one module each: `register(subparsers)` adds the parser, `run(options)` does the work."""

import importlib
from types import ModuleType

COMMANDS = [
    *("init", "run", "datasets", "evaluate", "compare", "show", "table", "search", "export", "serve", "cache"),
    *("encode", "add", "remove", "list", "duplicates"),
]


def load(name: str) -> ModuleType:
    """Import the module of one subcommand; only what is run is imported."""
    return importlib.import_module(f"ssdh.cli.{name}")

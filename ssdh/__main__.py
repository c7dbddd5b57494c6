"""Everything that is not a stage: `python -m ssdh --help`."""

import argparse
import sys

from ssdh.cli import COMMANDS, load
from ssdh.errors import SSDHError
from ssdh.runs import configure_logging


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and run one subcommand; returns its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        prog="python -m ssdh",
        description="Compact binary codes for images without labels. The pipeline itself is run by `dvc repro`.",
    )
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    wanted = [name for name in COMMANDS if name in arguments[:1]] or COMMANDS
    for name in wanted:
        load(name).register(subparsers)
    options = parser.parse_args(arguments)
    configure_logging()
    try:
        return int(options.run(options))
    except SSDHError as error:
        print("\n".join(f"ssdh: {line}" for line in str(error).splitlines()), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())

"""Everything that is not a stage: `python -m ssdh --help`."""

import argparse
import io
import os
import sys

from ssdh import __version__
from ssdh.cli import COMMANDS, load
from ssdh.core.errors import SSDHError
from ssdh.core.shadowing import name_what_shadows

PIPE_CLOSED = 141  # 128 + SIGPIPE, as a shell reports it and dvc does


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and run one subcommand, or the earlier program's flags; returns the exit code."""
    from ssdh.core.stage import configure_logging

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a Windows console's code page has no → and no −
            stream.reconfigure(errors="replace")
    arguments = sys.argv[1:] if arguments is None else arguments
    old = is_old(arguments)
    options = None if old else parse(arguments)
    configure_logging("INFO" if os.environ.get("RANK", "0") == "0" else "WARNING")  # of several processes, one speaks
    try:
        code = int(options.run(options) if options else load("legacy").main(arguments))
        sys.stdout.flush()
    except SSDHError as error:
        print("\n".join(f"ssdh: {line}" for line in str(error).splitlines()), file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        if interrupt.args:
            print(*interrupt.args, file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still flushed at the exit
        return PIPE_CLOSED
    return code


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options of one subcommand; `run` among them is what carries it out."""
    parser = argparse.ArgumentParser(
        prog="python -m ssdh",
        description="Compact binary codes for images without labels. The pipeline itself is run by `dvc repro`.",
        epilog="The earlier program's flags work too: `python -m ssdh --dataset cifar10 --train …`; "
        "`python -m ssdh --train --help` lists them.",
    )
    parser.add_argument("--version", action="version", version=f"ssdh {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    names = [name for name in COMMANDS if name in arguments[:1]] or COMMANDS
    for name in names:
        load(name).register(subparsers)
    options = parser.parse_args(arguments)
    options.arguments = arguments  # for a command that starts itself again as several processes
    return options


def is_old(arguments: list[str]) -> bool:
    """Whether a command line is the earlier program's: it begins with a flag that is not a request for help."""
    return bool(arguments) and arguments[0].startswith("-") and arguments[0] not in ("-h", "--help", "--version")


def run() -> None:
    """The command `ssdh`; like `python -m ssdh` it finds modules of the working directory first."""
    sys.path.insert(0, "")
    name_what_shadows("ssdh")
    sys.exit(main())


if __name__ == "__main__":
    run()

"""`python -m ssdh serve`: a web page on this machine to search by image."""

import argparse
import ipaddress
import os
import socket

from loguru import logger

from ssdh.cli.arguments import add_collection, add_index, whole
from ssdh.core.errors import SSDHError


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand's parser."""
    parser = subparsers.add_parser("serve", help="a local web page to search by image", description=__doc__)
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine only)"
    )
    parser.add_argument("--port", type=whole, default=8000, help="0 takes any free one (default: 8000)")
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name by which browsers may call this machine",
    )
    add_collection(parser)
    add_index(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Open the run in this folder and serve it until interrupted."""
    try:
        import uvicorn

        from ssdh.search.web.app import create_app
    except ImportError as error:
        raise SSDHError(f"{error.name} is not installed: pip install -e '.[web]'") from None
    from ssdh.search.searchable import open_searchable

    listening = _listen(options.host, options.port)  # before the network is loaded: a port in use is an error at once
    with listening:
        app = create_app(
            open_searchable(options.collection).open_gallery(options.index), hosts=tuple(options.allow_host)
        )
        host, port = listening.getsockname()[:2]
        if not ipaddress.ip_address(host).is_loopback:
            logger.warning("everyone who reaches {} can see all images of this data set: there is no password", host)
        address = f"[{host}]" if ":" in host else host
        print(f"Search by image: http://{address}:{port}  (stop with Ctrl+C)", flush=True)
        config = uvicorn.Config(app, log_level="warning", limit_concurrency=256, timeout_graceful_shutdown=3)
        uvicorn.Server(config).run(sockets=[listening])
    return 0


def _listen(host: str, port: int) -> socket.socket:
    if port > 65_535:
        raise SSDHError(f"--port must be at most 65535, got {port}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        if os.name == "posix":  # on Windows it would let two servers share one port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(512)
    except OSError as error:
        hint = "choose another --port" if host == "127.0.0.1" else "choose another --host or --port"
        raise SSDHError(f"cannot listen on {host}:{port} ({error.strerror or error}): {hint}") from None
    return listening

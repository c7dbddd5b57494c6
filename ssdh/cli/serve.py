"""`python -m ssdh serve`: a web page on this machine to search by image."""

import argparse
import ipaddress
import os
import socket
from typing import TYPE_CHECKING

from loguru import logger

from ssdh.cli.arguments import add_collection, add_index, whole
from ssdh.core.errors import ParameterError, SSDHError

if TYPE_CHECKING:
    from ssdh.search.collection import Collection
    from ssdh.search.photo_adder import PhotoAdder


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
    parser.add_argument(
        "--allow-add", action="store_true", help="let photos be added to the collection on the page (default: no)"
    )
    add_index(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Open the run in this folder and serve it until interrupted."""
    try:
        import uvicorn

        from ssdh.search.web.app import create_app
    except ImportError as error:
        raise SSDHError(f"{error.name} is not installed: pip install -e '.[web]'") from None
    from ssdh.search import finished_run
    from ssdh.search.collection import open_collection
    from ssdh.search.searchable import searchable_collection

    if options.allow_add and options.collection is None:
        raise ParameterError("--allow-add needs --collection FOLDER: the images of a run are those of its data set")
    listening = _listen(options.host, options.port)  # before the network is loaded: a port in use is an error at once
    with listening:
        collection = None if options.collection is None else open_collection(options.collection)
        opened = finished_run if collection is None else searchable_collection(collection)
        gallery = opened.open_gallery(options.index)
        adder = _adder(collection) if collection is not None and options.allow_add else None
        app = create_app(gallery, collection=collection, hosts=tuple(options.allow_host), adder=adder)
        host, port = listening.getsockname()[:2]
        if not ipaddress.ip_address(host).is_loopback:
            can = "see all images of this data set" + (" and add others" if options.allow_add else "")
            logger.warning("everyone who reaches {} can {}: there is no password", host, can)
        address = f"[{host}]" if ":" in host else host
        print(f"Search by image: http://{address}:{port}  (stop with Ctrl+C)", flush=True)
        config = uvicorn.Config(app, log_level="warning", limit_concurrency=256, timeout_graceful_shutdown=3)
        uvicorn.Server(config).run(sockets=[listening])
    return 0


def _adder(collection: "Collection") -> "PhotoAdder":
    from ssdh.core.device import use_device
    from ssdh.search.encode import EncodeOptions
    from ssdh.search.photo_adder import PhotoAdder

    collection.check_writable()
    return PhotoAdder(collection, EncodeOptions(use_device("auto", deterministic=True), workers=0))


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

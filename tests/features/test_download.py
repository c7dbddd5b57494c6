"""Downloads over a real HTTP server on the loopback: resumed, verified, one at a time, never half there."""

import contextlib
import hashlib
import http.server
import io
import os
import socket
import subprocess
import sys
import tarfile
import threading
import types
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from loguru import logger

from ssdh.core.cache_dir import offline
from ssdh.core.errors import DataError
from ssdh.features import download as downloads
from ssdh.features.download import RemoteFile, fetch, obtain, unpack
from ssdh.features.families.torchvision import torchvision_file

CONTENT = hashlib.sha256(b"seed").digest() * 40_000  # 1.25 MiB
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server:
    """Serves `content` at any path; can drop the connection after some bytes, ignore ranges, or answer an error."""

    def __init__(self) -> None:
        self.content = CONTENT
        self.drop_after: list[int] = []  # one entry is used up by each request
        self.status: list[int] = []
        self.ranges = True
        self.requests: list[str] = []  # the Range header of each request, "" without one
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/sets/archive.bin"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        expected = handler.headers.get("Range", "")
        self.requests.append(expected)
        if self.status:
            handler.send_error(self.status.pop(0))
            return
        start = int(expected.removeprefix("bytes=").split("-")[0]) if expected and self.ranges else 0
        if start >= len(self.content):
            handler.send_error(416)
            return
        body = self.content[start:]
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if self.drop_after:
            body = body[: self.drop_after.pop(0)]
        with contextlib.suppress(BrokenPipeError):
            handler.wfile.write(body)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.delenv("SSDH_OFFLINE")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(downloads.time, "sleep", lambda _: None)
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def said() -> Iterator[list[str]]:
    lines: list[str] = []
    sink = logger.add(lambda message: lines.append(str(message)), format="{message}")
    yield lines
    logger.remove(sink)


def test_whole_download_is_verified_and_logged(server: Server, tmp_path: Path, said: list[str]) -> None:
    path = fetch(RemoteFile(server.url, MD5), tmp_path)
    assert path == tmp_path / "archive.bin"
    assert path.read_bytes() == CONTENT
    assert server.requests == [""]
    assert not (tmp_path / "archive.bin.part").exists()
    assert any("downloading archive.bin" in line for line in said)
    fetch(RemoteFile(server.url, MD5), tmp_path)
    assert server.requests == [""]  # nothing is fetched twice


def test_resumes_where_an_earlier_process_was_killed(server: Server, tmp_path: Path) -> None:
    (tmp_path / "archive.bin.part").write_bytes(CONTENT[:300_000])
    assert fetch(RemoteFile(server.url, MD5), tmp_path).read_bytes() == CONTENT
    assert server.requests == ["bytes=300000-"]


def test_dropped_connections_are_continued(server: Server, tmp_path: Path) -> None:
    server.drop_after = [400_000, 400_000]
    assert fetch(RemoteFile(server.url, MD5), tmp_path).read_bytes() == CONTENT
    assert server.requests == ["", "bytes=400000-", "bytes=800000-"]


def test_server_without_ranges_sends_all_again(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    (tmp_path / "archive.bin.part").write_bytes(CONTENT[:300_000])
    assert fetch(RemoteFile(server.url, MD5), tmp_path).read_bytes() == CONTENT


def test_whole_part_that_was_not_yet_renamed(server: Server, tmp_path: Path) -> None:
    (tmp_path / "archive.bin.part").write_bytes(CONTENT)
    assert fetch(RemoteFile(server.url, MD5), tmp_path).read_bytes() == CONTENT
    assert server.requests == [f"bytes={len(CONTENT)}-"]  # answered 416


@pytest.fixture
def weights(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torchvision's weights of alexnet will lie, whose address is the server's."""
    kept = tmp_path / "ssdh-home" / "weights"
    monkeypatch.setenv("SSDH_HOME", str(kept.parent))
    name = f"alexnet-{hashlib.sha256(CONTENT).hexdigest()[:8]}.pth"
    enum = types.SimpleNamespace(url=server.url.replace("archive.bin", name))
    monkeypatch.setattr("ssdh.features.families.torchvision.torchvision_enum", lambda arch, weights: enum)
    return kept / name


def test_weights_are_continued_and_fetched_once(server: Server, weights: Path) -> None:
    server.drop_after = [400_000]
    for _ in range(2):
        assert torchvision_file("alexnet", "imagenet") == weights
    assert weights.read_bytes() == CONTENT
    assert server.requests == ["", "bytes=400000-"]


def test_weights_with_another_checksum_are_not_kept(server: Server, weights: Path) -> None:
    server.content = b"an error page"
    with pytest.raises(
        DataError, match=r"^\S+alexnet\S+ sent a file with the checksum .* by hand and put it at"
    ) as error:
        torchvision_file("alexnet", "imagenet")
    assert "\n" not in str(error.value)
    assert not list(weights.parent.glob("alexnet*"))
    server.content = CONTENT
    assert torchvision_file("alexnet", "imagenet") == weights


def test_part_of_another_file_is_found_out(server: Server, tmp_path: Path) -> None:
    (tmp_path / "archive.bin.part").write_bytes(b"x" * 300_000)
    assert fetch(RemoteFile(server.url, MD5), tmp_path).read_bytes() == CONTENT
    assert server.requests == ["bytes=300000-", ""]


def test_wrong_content_leaves_nothing(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT + b"!"
    with pytest.raises(DataError, match=f"{hashlib.md5(server.content).hexdigest()}.*put it at .*{MD5}") as caught:
        fetch(RemoteFile(server.url, MD5), tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("archive*"))


def test_server_errors_are_tried_again_and_missing_files_are_not(server: Server, tmp_path: Path) -> None:
    server.status = [503, 503]
    assert fetch(RemoteFile(server.url, MD5), tmp_path).read_bytes() == CONTENT
    assert len(server.requests) == 3

    server.status = [404]
    with pytest.raises(DataError, match="HTTP 404"):
        fetch(RemoteFile(server.url + ".gone", MD5), tmp_path)
    assert len(server.requests) == 4


def test_host_that_is_down_gives_one_line_with_the_way_out(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as held:  # nobody listens, and no other program gets the port
        held.bind(("127.0.0.1", 0))
        archive = RemoteFile(f"http://127.0.0.1:{held.getsockname()[1]}/cifar.tar.gz", MD5, size=1234)
        with pytest.raises(DataError) as caught:
            fetch(archive, tmp_path / "cache")
    line = str(caught.value)
    assert "\n" not in line
    for part in (archive.url, str(tmp_path / "cache" / "cifar.tar.gz"), MD5, "1,234 bytes", "refused"):
        assert part in line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", True),
        ("true", True),
        ("on", True),
        ("YES", True),
        ("", False),
        ("0", False),
        ("False", False),
        ("no", False),
    ],
)
def test_what_forbids_the_network(text: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSDH_OFFLINE", text)
    assert offline() is expected


def test_offline_never_asks(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSDH_OFFLINE", "1")
    with pytest.raises(DataError, match=r"SSDH_OFFLINE=1 .*fetch http.* put it at .*md5"):
        fetch(RemoteFile(server.url, MD5), tmp_path)
    assert server.requests == []
    (tmp_path / "archive.bin").write_bytes(CONTENT)  # by hand, as the line says
    assert fetch(RemoteFile(server.url, MD5), tmp_path).read_bytes() == CONTENT


def test_file_put_by_hand_is_verified_once_and_again_when_it_changes(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "archive.bin"
    path.write_bytes(CONTENT)
    fetch(RemoteFile(server.url, MD5), tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(RemoteFile, "digest", lambda *_: pytest.fail("3 GB were hashed again"))
        fetch(RemoteFile(server.url, MD5), tmp_path)
    path.write_bytes(CONTENT[:-1] + b"!")
    os.utime(path, ns=(1, 1))
    with pytest.raises(DataError, match="not the official file"):
        fetch(RemoteFile(server.url, MD5), tmp_path)
    assert path.exists()  # a person's file is not removed
    assert server.requests == []


def test_several_processes_fetch_and_unpack_once(server: Server, tmp_path: Path) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for number in range(20):
            entry = tarfile.TarInfo(f"set/file{number}")
            entry.size = 50_000
            archive.addfile(entry, io.BytesIO(os.urandom(entry.size)))
    server.content = data.getvalue()
    program = (
        "import sys; from pathlib import Path; from ssdh.features.download import RemoteFile, obtain\n"
        "home = Path(sys.argv[3])\n"
        "target = obtain(RemoteFile(sys.argv[1], sys.argv[2]), home, home / 'set', member='set')\n"
        "assert len(list(target.iterdir())) == 20"
    )
    arguments = [server.url, hashlib.md5(server.content).hexdigest(), str(tmp_path / "cache")]
    root = Path(downloads.__file__).parents[2]
    running = [subprocess.Popen([sys.executable, "-c", program, *arguments], cwd=root) for _ in range(4)]
    assert [process.wait() for process in running] == [0, 0, 0, 0]
    assert server.requests == [""]


def _tar(path: Path, *entries: tuple[str, str]) -> Path:
    """A tar of (name, "file") or (name, link target) entries."""
    with tarfile.open(path, "w") as archive:
        for name, kind in entries:
            entry = tarfile.TarInfo(name)
            if kind == "file":
                entry.size = 3
                archive.addfile(entry, io.BytesIO(b"abc"))
            else:
                entry.type, entry.linkname = tarfile.SYMTYPE, kind
                archive.addfile(entry)
    return path


@pytest.mark.parametrize(
    "entries",
    [
        [("good", "file"), ("../escaped", "file")],
        [("good", "file"), ("/tmp/ssdh-escaped", "file")],
        [("set/link", "../.."), ("set/link/escaped", "file")],
        [("set/link", "/etc/passwd")],
        [("a/../../escaped", "file")],
    ],
)
def test_tar_that_leads_outside_is_refused(tmp_path: Path, entries: list[tuple[str, str]]) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    path = _tar(inner / "evil.tar", *entries)
    with pytest.raises(DataError, match=r"evil\.tar"):
        unpack(path, inner / "out")
    assert sorted(item.name for item in inner.iterdir()) == ["evil.tar"]
    assert not (tmp_path / "escaped").exists()
    assert not Path("/tmp/ssdh-escaped").exists()


@pytest.mark.parametrize("name", ["../escaped", "/abs", "..\\escaped", "a/../../b", "C:\\x"])
def test_zip_that_leads_outside_is_refused(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("good", "abc")
        archive.writestr(name, "abc")
    with pytest.raises(DataError, match="unsafe path"):
        unpack(tmp_path / "evil.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_unpacks_tar_and_zip_and_a_member(tmp_path: Path) -> None:
    unpack(_tar(tmp_path / "a.tar", ("set/x", "file"), ("other", "file")), tmp_path / "one", member="set")
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["x"]
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("deep/y.txt", "abc")
    unpack(tmp_path / "b.zip", tmp_path / "two")
    assert (tmp_path / "two" / "deep" / "y.txt").read_text() == "abc"
    with pytest.raises(DataError, match="does not hold the folder"):
        unpack(tmp_path / "a.tar", tmp_path / "three", member="nowhere")


def test_broken_archive_leaves_nothing(tmp_path: Path) -> None:
    whole = _tar(tmp_path / "whole.tar", *[(f"set/{number}", "file") for number in range(50)])
    cut = tmp_path / "cut.tar"
    cut.write_bytes(whole.read_bytes()[:20_000])
    with pytest.raises(DataError, match=r"cut\.tar could not be unpacked"):
        unpack(cut, tmp_path / "out", member="set")
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_obtain_takes_what_is_there_without_asking(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    assert obtain(RemoteFile(server.url, MD5), tmp_path, tmp_path / "set") == tmp_path / "set"
    assert server.requests == []


def test_bar_on_a_terminal(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    fetch(RemoteFile(server.url, MD5), tmp_path)
    assert "archive.bin" in terminal.getvalue()
    assert "100%" in terminal.getvalue()

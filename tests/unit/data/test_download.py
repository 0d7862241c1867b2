"""Downloads against a server on loopback: resumed, verified, never half there."""

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from skiprec.data.ingest import download

CONTENT = bytes(range(256)) * 20_000


@dataclass
class Server:
    """What the server sends, and what was asked of it."""

    url: str = ""
    content: bytes = CONTENT
    md5: str = hashlib.md5(CONTENT).hexdigest()
    knows_ranges: bool = True
    cut_after: list[int] = field(default_factory=list)  # bytes of the next answers, then no cut
    asked: list[str | None] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.endswith(".md5"):
                self.answer(200, f"MD5 (ml.zip) = {state.md5}\n".encode())
                return
            wanted = self.headers.get("Range")
            state.asked.append(wanted)
            if not wanted or not state.knows_ranges:
                self.answer(200, state.content)
                return
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(state.content):
                self.answer(416, b"")
            else:
                self.answer(206, state.content[start:])

        def answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            cut = state.cut_after.pop(0) if state.cut_after and len(body) > 100 else None
            self.wfile.write(body[:cut])
            self.close_connection = True

        def log_message(self, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    state.url = f"http://127.0.0.1:{http.server_port}/ml.zip"
    yield state
    http.shutdown()
    thread.join()
    http.server_close()


def test_a_whole_download(server: Server, tmp_path: Path) -> None:
    path = download(server.url, tmp_path / "cache", progress=str)
    assert path == tmp_path / "cache" / "ml.zip"
    assert path.read_bytes() == CONTENT
    assert list(path.parent.iterdir()) == [path]
    download(server.url, tmp_path / "cache", progress=str)
    assert server.asked == [None]  # the second call fetched nothing


def test_it_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    (tmp_path / "ml.zip.part").write_bytes(CONTENT[:1000])
    server.cut_after = [500_000]
    assert download(server.url, tmp_path, progress=str).read_bytes() == CONTENT
    assert server.asked == ["bytes=1000-", "bytes=501000-"]


def test_a_server_without_ranges_starts_over(server: Server, tmp_path: Path) -> None:
    (tmp_path / "ml.zip.part").write_bytes(b"x" * 1000)
    server.knows_ranges = False
    assert download(server.url, tmp_path, progress=str).read_bytes() == CONTENT


def test_a_complete_part_is_only_verified(server: Server, tmp_path: Path) -> None:
    (tmp_path / "ml.zip.part").write_bytes(CONTENT)
    assert download(server.url, tmp_path, progress=str).read_bytes() == CONTENT
    assert server.asked == [f"bytes={len(CONTENT)}-"]


def test_a_wrong_checksum_removes_the_file(server: Server, tmp_path: Path) -> None:
    server.md5 = "0" * 32
    with pytest.raises(ValueError, match=r"ml\.zip: md5 is .*\.md5 says 0{32}"):
        download(server.url, tmp_path, progress=str)
    assert list(tmp_path.iterdir()) == []
    server.md5 = "none"
    with pytest.raises(ValueError, match="expected 32 hexadecimal digits"):
        download(server.url, tmp_path, progress=str)


def test_a_connection_that_keeps_breaking_keeps_what_it_has(server: Server, tmp_path: Path) -> None:
    server.cut_after = [10_000] * 5
    with pytest.raises(ValueError, match=r"50,000 bytes are kept in .*ml\.zip\.part"):
        download(server.url, tmp_path, progress=str)
    assert download(server.url, tmp_path, progress=str).read_bytes() == CONTENT


def test_no_such_server(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a file with the md5 there"):
        download("http://127.0.0.1:9/ml.zip", tmp_path, progress=str)

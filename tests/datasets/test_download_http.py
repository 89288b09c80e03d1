"""Downloads from a loopback server: whole, cut, resumed, changed, refused, of the wrong size, by two processes."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from recbole_llm.datasets import download, manifest
from recbole_llm.datasets.contracts import RawFile
from recbole_llm.errors import UserError

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA = hashlib.sha256(CONTENT).hexdigest()


class Server:
    """Serves one file and notes the requests.

    Attributes:
        content, tag: what is served and its ETag (``None``: none).
        cuts: bytes after which each of the next connections is cut.
        ranges: whether ranges are understood.
    """

    def __init__(self):
        self.content, self.tag, self.ranges = CONTENT, '"v1"', True
        self.cuts: list[int] = []
        self.asked: list[str | None] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/file.gz"

    def answer(self, request):
        self.asked.append(request.headers.get("Range"))
        if request.path != "/file.gz":
            request.send_error(404)
            return
        start = 0
        wanted = request.headers.get("Range")
        if wanted and self.ranges and request.headers.get("If-Range", self.tag) == self.tag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(self.content):
                request.send_error(416)
                return
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        else:
            request.send_response(200)
        body = self.content[start:]
        request.send_header("Content-Length", str(len(body)))
        if self.tag:
            request.send_header("ETag", self.tag)
        request.end_headers()
        request.wfile.write(body[: self.cuts.pop(0)] if self.cuts else body)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    found = Server()
    yield found
    found.http.shutdown()
    found.http.server_close()


def test_a_file_is_fetched_once_and_remembered_as_the_publishers(server, tmp_path, capsys):
    target = tmp_path / "raw" / "file.gz"
    for _ in range(2):
        assert download.fetch(server.url, target, len(CONTENT), SHA, progress=False) == target
    assert target.read_bytes() == CONTENT and server.asked == [None]
    assert "1.0 MB" in capsys.readouterr().err  # the size notice
    assert sorted(p.name for p in target.parent.iterdir()) == ["file.gz", "file.gz.origin.json"]
    assert manifest.raw_record(RawFile("file.gz"), target)["publisher"] is True
    target.write_bytes(b"mine")
    assert manifest.raw_record(RawFile("file.gz"), target)["publisher"] == "unknown"
    assert manifest.raw_record(RawFile("file.gz", sha256=SHA), target)["publisher"] is False


def test_a_cut_connection_is_resumed_in_the_same_call(server, tmp_path):
    server.cuts = [1000, 70_000, 0, 0]
    download.fetch(server.url, tmp_path / "file.gz", sha256=SHA, progress=False)
    assert (tmp_path / "file.gz").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1000-", "bytes=71000-", "bytes=71000-", "bytes=71000-"]


def test_given_up_and_resumed_by_the_next_call(server, tmp_path):
    target = tmp_path / "file.gz"
    server.cuts = [5000, 0, 0, 0]
    with pytest.raises(UserError, match="cut after") as e:
        download.fetch(server.url, target, progress=False)
    assert "Run the same command again" in e.value.hint
    assert not target.exists() and (tmp_path / "file.gz.part").stat().st_size == 5000
    server.asked.clear()
    download.fetch(server.url, target, sha256=SHA, progress=False)
    assert server.asked == ["bytes=5000-"] and target.read_bytes() == CONTENT
    assert not (tmp_path / "file.gz.part").exists()


def test_a_file_that_changed_meanwhile_starts_anew(server, tmp_path):
    server.cuts = [5000, 0, 0, 0]
    with pytest.raises(UserError):
        download.fetch(server.url, tmp_path / "file.gz", progress=False)
    server.content, server.tag = CONTENT[::-1], '"v2"'
    download.fetch(server.url, tmp_path / "file.gz", progress=False)
    assert (tmp_path / "file.gz").read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("without", ["ranges", "tag"])
def test_a_server_that_cannot_resume_starts_anew(server, tmp_path, without):
    setattr(server, without, False if without == "ranges" else None)
    server.cuts = [5000]
    download.fetch(server.url, tmp_path / "file.gz", sha256=SHA, progress=False)
    assert (tmp_path / "file.gz").read_bytes() == CONTENT


def test_a_finished_part_left_by_a_killed_process(server, tmp_path):
    (tmp_path / "file.gz.part").write_bytes(CONTENT)
    (tmp_path / "file.gz.part.tag").write_text(server.tag)
    download.fetch(server.url, tmp_path / "file.gz", sha256=SHA, progress=False)
    assert (tmp_path / "file.gz").read_bytes() == CONTENT


def test_not_found_names_page_and_place(server, tmp_path):
    with pytest.raises(UserError, match="404") as e:
        download.fetch(server.url + ".old", tmp_path / "file.gz", progress=False, page="https://publisher.example")
    assert "https://publisher.example" in e.value.hint and str(tmp_path) in e.value.hint
    assert not (tmp_path / "file.gz.part").exists()


def test_no_network(server, tmp_path):
    server.http.server_close()
    with pytest.raises(UserError, match="cannot be reached"):
        download.fetch(server.url, tmp_path / "file.gz", progress=False)


def test_another_size_than_the_publishers_is_refused_before_the_download(server, tmp_path):
    with pytest.raises(UserError, match=r"has 1,048,576 bytes; the publisher's file has 7"):
        download.fetch(server.url, tmp_path / "file.gz", size=7, progress=False)
    assert not (tmp_path / "file.gz").exists() and not (tmp_path / "file.gz.part").exists()


def test_another_content_than_the_publishers_is_not_kept(server, tmp_path):
    with pytest.raises(UserError, match="sha256"):
        download.fetch(server.url, tmp_path / "file.gz", sha256="0" * 64, progress=False)
    assert not (tmp_path / "file.gz").exists() and not (tmp_path / "file.gz.part").exists()


def test_a_full_disk_is_said_before_the_download(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10})())
    with pytest.raises(UserError, match=r"10 bytes free; the download needs 1\.0 MB"):
        download.fetch(server.url, tmp_path / "file.gz", progress=False)


def test_two_at_once_fetch_once(server, tmp_path):
    target = tmp_path / "file.gz"
    threads = [threading.Thread(target=download.fetch, args=(server.url, target, None, SHA, False)) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert target.read_bytes() == CONTENT and server.asked == [None]


def test_a_folder_that_cannot_be_made(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot write"):
        download.fetch(server.url, tmp_path / "file" / "file.gz", progress=False)

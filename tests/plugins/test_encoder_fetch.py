"""Fetching a model that is not cached, through the hub's own client, from a hub on this machine."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from recbole_llm import UserError
from recbole_llm.testing.network import no_network
from recbole_llm_plugins.sbert import Options, Sbert

pytest.importorskip("sentence_transformers", reason="the extra 'encoders' is not installed")
COMMIT = "c" * 40
UNREAD = ["README.md", "onnx/model.onnx", "pytorch_model.bin", "tf_model.h5", ".gitattributes"]


@pytest.fixture
def hub(tiny_bert, tmp_path, monkeypatch):
    """The tiny BERT as `own/tiny`, with files nobody needs; yields the paths that were downloaded."""
    files = {p.name: p.read_bytes() for p in tiny_bert.iterdir()} | dict.fromkeys(UNREAD, b"never read")
    downloaded: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.reply()

        def do_HEAD(self):
            self.reply()

        def reply(self):
            path = self.path.partition("?")[0]
            file = re.fullmatch(rf"/own/tiny/resolve/(?:main|{COMMIT})/(.+)", path)
            if re.fullmatch(r"/api/models/own/tiny(/revision/(main|c{40}))?", path):
                siblings = [{"rfilename": n} for n in files]
                self.send({"id": "own/tiny", "sha": COMMIT, "siblings": siblings})
            elif re.fullmatch(r"/api/models/own/tiny/tree/(main|c{40})", path):
                self.send([{"type": "file", "path": n, "size": len(c), "oid": oid(c)} for n, c in files.items()])
            elif file and file[1] in files:
                if self.command == "GET":
                    downloaded.append(file[1])
                self.send(files[file[1]])
            else:
                self.send({"error": "Repository not found"}, 404, [("X-Error-Code", "RepoNotFound")])

        def send(self, body, status=200, headers=()):
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in [("X-Repo-Commit", COMMIT), ("ETag", f'"{oid(content)}"'), *headers]:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    with no_network(loopback=True):
        yield downloaded
    server.shutdown()


def oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


def test_first_use_fetches_what_is_read_and_later_ones_nothing(hub, tiny_bert):
    texts = ["rose water toner", "soap"]
    first = Sbert(Options(model="own/tiny"))
    first.prepare()
    assert first.fingerprint()["revision"] == COMMIT
    assert "model.safetensors" in hub and not set(UNREAD) & set(hub)
    got = first.encode(texts)
    hub.clear()
    with no_network() as refused:
        again = Sbert(Options(model="own/tiny"))
        again.prepare()
        np.testing.assert_array_equal(again.encode(texts), got)
    assert not hub and not refused
    np.testing.assert_allclose(got, Sbert(Options(model=str(tiny_bert))).encode(texts), atol=1e-6)


def test_interrupted_download_is_completed(hub, tmp_path):
    encoder = Sbert(Options(model="own/tiny"))
    encoder.prepare()
    (weights,) = tmp_path.rglob("model.safetensors")
    weights.unlink()
    hub.clear()
    assert Sbert(Options(model="own/tiny")).encode(["soap"]).shape == (1, 32)


def test_unknown_model_and_revision(hub):
    for options in (Options(model="own/gone"), Options(model="own/tiny", revision="v9")):
        with pytest.raises(UserError, match=r"cannot be fetched") as e:
            Sbert(options).prepare()
        assert "Check the name" in e.value.hint

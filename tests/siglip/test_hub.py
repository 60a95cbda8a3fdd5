"""SigLIPs by name: from a server on loopback that stands for the Hugging Face Hub."""

import functools
import hashlib
import http.server
import json
import pathlib
import threading
import urllib.parse
from typing import ClassVar

import pytest

from safe_jax import backbones
from safe_jax.checkpoints import named
from safe_jax.runtime.errors import InputError
from safe_jax.siglip import convert, hub

NAME = "google/siglip-base-patch16-224"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Handler(http.server.BaseHTTPRequestHandler):
    """What the Hub's library asks for, of the files of one folder.

    `cut` are how many bytes of each of the next large answers are sent before the connection
    breaks off; `wrong` is whether the Hub says another sha256 than the weights have.
    """

    cut: ClassVar[list[int]] = []
    ranges: ClassVar[list[str | None]] = []
    wrong: ClassVar[bool] = False
    protocol_version = "HTTP/1.1"

    def __init__(self, *args, folder: pathlib.Path):
        self.folder = folder
        super().__init__(*args)

    def _infos(self):
        for file in sorted(self.folder.iterdir()):
            content = file.read_bytes()
            info = {"type": "file", "path": file.name, "rfilename": file.name}
            info |= {"size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            if file.suffix == ".safetensors":
                sha256 = hashlib.sha256(content + b"!" * self.wrong).hexdigest()
                info["lfs"] = {
                    "oid": sha256,
                    "sha256": sha256,
                    "size": len(content),
                    "pointerSize": 9,
                }
            yield info

    def _send(self, content: bytes, headers=(), status=200):
        self.send_response(status)
        for name, value in (("Content-Length", str(len(content))), *headers):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_HEAD(self):
        self.do_GET()

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        asked = urllib.parse.parse_qs(body).get("paths") or json.loads(body)["paths"]
        infos = [info for info in self._infos() if info["path"] in asked]
        self._send(json.dumps(infos).encode(), [("Content-Type", "application/json")])

    def do_GET(self):
        path = urllib.parse.urlparse(self.path).path
        if path.startswith("/api/models/"):
            if "/tree/" in path:
                content = list(self._infos())
            else:
                content = {
                    "id": NAME,
                    "modelId": NAME,
                    "sha": COMMIT,
                    "siblings": list(self._infos()),
                }
            self._send(json.dumps(content).encode(), [("Content-Type", "application/json")])
            return
        file = self.folder / path.rpartition("/")[2]
        if not file.is_file():
            self._send(b"", [("X-Error-Code", "EntryNotFound")], 404)
            return
        self._send_file(file)

    def _send_file(self, file: pathlib.Path):
        content = file.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        headers = [("ETag", f'"{digest}"'), ("X-Repo-Commit", COMMIT), ("Accept-Ranges", "bytes")]
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
        status = 206 if asked else 200
        if asked:
            headers.append(("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}"))
        if self.command == "GET" and file.suffix == ".safetensors":
            self.ranges.append(asked)
            if self.cut:
                self.send_response(status)
                for name, value in (("Content-Length", str(len(content) - start)), *headers):
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content[start:][: self.cut.pop(0)])
                self.close_connection = True
                return
        self._send(content[start:], headers, status)

    def log_message(self, *_):
        pass


@pytest.fixture
def endpoint(siglip, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(named, "convert", lambda module, source, to: convert.convert(source, to))
    monkeypatch.setattr(Handler, "ranges", [])
    handler = functools.partial(Handler, folder=siglip[0])
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_name_is_fetched_verified_converted_and_kept(endpoint, siglip, tmp_path):
    folder = hub.fetch(NAME, tmp_path / "cache", endpoint)
    assert folder.name == "siglip-base-patch16-224"
    assert backbones.read_metadata(folder).digest == backbones.read_metadata(siglip[2]).digest
    assert hub.fetch(NAME, tmp_path / "cache", "http://127.0.0.1:1") == folder  # from the cache


def test_a_download_that_broke_off_goes_on_where_it_ended(endpoint, siglip, tmp_path, monkeypatch):
    size = (siglip[0] / "model.safetensors").stat().st_size
    monkeypatch.setattr(Handler, "cut", [size // 2])
    # The library writes what has come in pieces of ten megabytes, and this file is smaller.
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1 << 10)
    folder = hub.fetch(NAME, tmp_path / "cache", endpoint)
    first, second = Handler.ranges
    assert first is None
    assert second.startswith(f"bytes={size // 2 >> 10 << 10}-")
    assert backbones.read_metadata(folder).digest == backbones.read_metadata(siglip[2]).digest


def test_weights_that_are_not_the_hubs_are_refused(endpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(Handler, "wrong", True)
    with pytest.raises(InputError, match=r"model\.safetensors has sha256 .* expected .* remove it"):
        hub.fetch(NAME, tmp_path / "cache", endpoint)
    assert not (tmp_path / "cache" / "weights" / "siglip-base-patch16-224").exists()


def test_without_a_network_the_message_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(InputError, match=r"could not be downloaded .* convert FOLDER DEST"):
        hub.fetch(NAME, tmp_path / "cache", "http://127.0.0.1:1")

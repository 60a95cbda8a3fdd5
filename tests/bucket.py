"""A bucket in place of Google's: `gs://bucket/...` is a folder of this disk.

It has objects and nothing else: a folder is there while something is in it, an object appears when
all of it is written, and nothing is appended. Python reaches it through fsspec, TensorStore (in
Orbax) through `serve`. This file is also a config, as `tiny.py` is, for processes with the bucket.
"""

import http.server
import io
import json
import os
import pathlib
import sys
import threading
import types
import urllib.parse

import fsspec

from tests import tiny

FOLDER = "SAFE_JAX_TEST_BUCKET"  # the environment variable that has it


def _file(path):
    return pathlib.Path(os.environ[FOLDER]) / path


class Objects(fsspec.AbstractFileSystem):
    """What gcsfs does, as far as it is used."""

    protocol = "gcs"
    cachable = False

    @classmethod
    def _strip_protocol(cls, path):
        return os.fspath(path).removeprefix("gs://").removeprefix("gcs://").rstrip("/")

    def info(self, path, **_):
        path = self._strip_protocol(path)
        file = _file(path)
        if file.is_file():
            stat = file.stat()
            return {"name": path, "size": stat.st_size, "type": "file", "mtime": stat.st_mtime}
        if file.is_dir() and any(x.is_file() for x in file.rglob("*")):
            return {"name": path, "size": 0, "type": "directory"}
        raise FileNotFoundError(path)

    def ls(self, path, detail=True, **_):
        path = self._strip_protocol(path)
        if self.info(path)["type"] == "file":
            found = [path]
        else:
            found = [f"{path}/{file.name}" for file in sorted(_file(path).iterdir())]
        found = [self.info(name) for name in found if self.exists(name)]
        return found if detail else [one["name"] for one in found]

    def mkdir(self, path, create_parents=True, **_):
        pass

    def makedirs(self, path, exist_ok=False):
        pass

    def _open(self, path, mode="rb", **_):
        if mode == "rb":
            return io.BytesIO(_file(self._strip_protocol(path)).read_bytes())
        if mode != "wb":
            raise ValueError(f"a bucket has no mode {mode}")
        return _Upload(_file(self._strip_protocol(path)))

    def _rm(self, path):
        _file(self._strip_protocol(path)).unlink()

    def cp_file(self, path1, path2, **_):
        _put(_file(self._strip_protocol(path2)), _file(self._strip_protocol(path1)).read_bytes())

    def rmdir(self, path):
        pass

    def rm(self, path, recursive=False, maxdepth=None):
        for found in self.find(path) if recursive else [path]:
            self._rm(found)


class _Upload(io.BytesIO):
    def __init__(self, file):
        super().__init__()
        self.file = file

    def close(self):
        if not self.closed:
            _put(self.file, self.getvalue())
        super().close()


def _put(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f"{file.name}.{os.getpid()}.{threading.get_ident()}.new")
    new.write_bytes(content)
    new.replace(file)


class _Handler(http.server.BaseHTTPRequestHandler):
    """What TensorStore asks of Google's JSON API: to read, write, list and delete objects."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def _parsed(self):
        url = urllib.parse.urlsplit(self.path)
        parts = url.path.removeprefix("/upload").split("/")  # /storage/v1/b/BUCKET/o/OBJECT
        query = dict(urllib.parse.parse_qsl(url.query))
        name = urllib.parse.unquote("/".join(parts[6:])) or query.get("name", "")
        return parts[4], name, query

    def _answer(self, code, content=b"", generation=None, part=None):
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        if generation:
            self.send_header("x-goog-generation", str(generation))
        if part:
            self.send_header("Content-Range", part)
        self.end_headers()
        self.wfile.write(content)

    def _described(self, bucket, name):
        stat = _file(f"{bucket}/{name}").stat()
        return {
            "name": name, "bucket": bucket, "generation": str(stat.st_mtime_ns),
            "size": str(stat.st_size), "updated": "2024-01-01T00:00:00Z",
            "timeCreated": "2024-01-01T00:00:00Z",
        }  # fmt: skip

    def do_GET(self):
        bucket, name, query = self._parsed()
        if not name:
            root = _file(bucket)
            names = sorted(str(f.relative_to(root)) for f in root.rglob("*") if f.is_file())
            names = [n for n in names if n.startswith(query.get("prefix", ""))]
            items = [self._described(bucket, n) for n in names]
            return self._answer(200, json.dumps({"items": items}).encode())
        file = _file(f"{bucket}/{name}")
        if not file.is_file():
            return self._answer(404)
        generation, content = file.stat().st_mtime_ns, file.read_bytes()
        if query.get("alt") != "media":
            return self._answer(200, json.dumps(self._described(bucket, name)).encode())
        if asked := self.headers.get("Range"):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start = int(first) if first else len(content) - int(last)
            stop = min(int(last) + 1, len(content)) if first and last else len(content)
            part = f"bytes {start}-{stop - 1}/{len(content)}"
            return self._answer(206, content[start:stop], generation, part)
        return self._answer(200, content, generation)

    def do_POST(self):
        bucket, name, _ = self._parsed()
        content = self.rfile.read(int(self.headers["Content-Length"]))
        _put(_file(f"{bucket}/{name}"), content)
        self._answer(200, json.dumps(self._described(bucket, name)).encode())

    def do_DELETE(self):
        bucket, name, _ = self._parsed()
        file = _file(f"{bucket}/{name}")
        if not file.is_file():
            return self._answer(404)
        file.unlink()
        return self._answer(204)


def serve():
    """Serves the bucket; returns the server and its address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}"


class _Client:
    """Google's own client, which Orbax asks of what kind a bucket is before it deletes."""

    def get_bucket(self, _):
        return types.SimpleNamespace(hierarchical_namespace_enabled=False)


def take_the_place_of_google():
    """From here on `gs://` leads to this bucket."""
    fsspec.register_implementation("gcs", Objects, clobber=True)
    storage = types.SimpleNamespace(Client=_Client)
    cloud = types.SimpleNamespace(storage=storage)
    sys.modules.update({"google.cloud": cloud, "google.cloud.storage": storage})


def get_config():
    take_the_place_of_google()
    return tiny.get_config()

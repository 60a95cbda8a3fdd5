"""Weights by name: from a server on loopback that stands for OpenAI's, and from the package."""

import functools
import hashlib
import http.server
import pathlib
import threading
from typing import ClassVar

import pytest

from safe_jax import clip
from safe_jax.backbones import convert as backbones_convert
from safe_jax.checkpoints import files as torch_files
from safe_jax.clip import convert, download
from safe_jax.runtime.errors import InputError
from tests import in_process


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files, or the rest of one from the byte asked for.

    `cut` are how many bytes of each of the next answers are sent before the connection breaks off,
    and `ranges` what was asked for.
    """

    cut: ClassVar[list[int]] = []
    ranges: ClassVar[list[str | None]] = []

    def do_GET(self):
        content = pathlib.Path(self.translate_path(self.path)).read_bytes()
        asked = self.headers.get("Range")
        self.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if start >= len(content) > 0:
            self.send_error(416)
            return
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][: self.cut.pop(0) if self.cut else None])

    def log_message(self, *_):
        pass


@pytest.fixture
def released(checkpoint, tmp_path, monkeypatch):
    """A server with `RN50.pt` where OpenAI has it: its address, and the file."""
    sha256 = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    file = tmp_path / "served" / sha256 / "RN50.pt"
    file.parent.mkdir(parents=True)
    checkpoint.rename(file)
    monkeypatch.setitem(download.SHA256, "RN50", sha256)
    handler = functools.partial(Handler, directory=tmp_path / "served")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", file
        server.shutdown()


def test_a_download_is_verified_converted_and_kept(released, tmp_path):
    host, file = released
    folder = download.fetch("RN50", tmp_path / "cache", host)
    assert clip.load(folder).image_size == 64
    file.unlink()
    assert download.fetch("RN50", tmp_path / "cache", host) == folder  # from the cache
    kept = sorted(p.name for p in (tmp_path / "cache" / "weights").iterdir())
    assert kept == ["RN50", "RN50.lock", "RN50.pt"]


def test_another_file_than_openais_is_refused(released, tmp_path):
    host, file = released
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"sha256 .* expected .* put RN50.pt with sha256"):
        download.fetch("RN50", tmp_path / "cache", host)
    assert [p.name for p in (tmp_path / "cache" / "weights").iterdir()] == ["RN50.lock"]
    by_hand = tmp_path / "cache" / "weights" / "RN50.pt"
    by_hand.write_bytes(b"something else")
    with pytest.raises(InputError, match=r"is not the RN50\.pt that was released"):
        download.fetch("RN50", tmp_path / "cache", host)


def test_a_download_that_broke_off_goes_on_where_it_ended_and_a_run_follows(
    released, tiny_root, tmp_path, monkeypatch
):
    monkeypatch.setattr(download, "_convert", convert.convert)  # in this process: sooner
    host, file = released
    half = file.stat().st_size // 2
    monkeypatch.setattr(Handler, "cut", [half])
    monkeypatch.setattr(Handler, "ranges", [])
    with pytest.raises(InputError, match=r"MB are there, and the next try goes on from them"):
        download.fetch("RN50", tmp_path / "cache", host)
    assert (tmp_path / "cache" / "weights" / "RN50.pt.partial").stat().st_size == half
    folder = download.fetch("RN50", tmp_path / "cache", host)
    assert Handler.ranges == [None, f"bytes={half}-"]
    assert clip.load(folder).image_size == 64
    assert (folder.parent / "RN50.pt").read_bytes() == file.read_bytes()
    assert not (folder.parent / "RN50.pt.partial").exists()
    printed = in_process.call_tiny(
        tiny_root, tmp_path / "run", tmp_path / "cache", weights="RN50", methods="zero_shot"
    )
    assert printed.startswith("patches, RN50@")


def test_a_whole_but_unverified_file_is_not_fetched_again(released, tmp_path, monkeypatch):
    """A kill right before the file gets its name leaves that."""
    monkeypatch.setattr(download, "_convert", convert.convert)
    host, file = released
    partial = tmp_path / "cache" / "weights" / "RN50.pt.partial"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(file.read_bytes())
    assert clip.load(download.fetch("RN50", tmp_path / "cache", host)).image_size == 64


def test_a_link_is_never_written_through(released, tmp_path):
    host, _ = released
    folder = tmp_path / "cache" / "weights"
    folder.mkdir(parents=True)
    link = folder / "RN50.pt.partial"
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"RN50\.pt\.partial cannot be opened .*: remove it"):
        download.fetch("RN50", tmp_path / "cache", host)
    assert link.is_symlink()
    assert not (tmp_path / "elsewhere").exists()


def test_without_a_network_the_message_says_which_file_to_put_where(
    released, tmp_path, monkeypatch
):
    monkeypatch.setattr(download, "_convert", convert.convert)  # in this process: sooner
    _, file = released
    place = tmp_path / "cache" / "weights" / "RN50.pt"
    with pytest.raises(InputError, match=f"could not be downloaded .* at {place}"):
        download.fetch("RN50", tmp_path / "cache", "http://127.0.0.1:1")
    assert [p.name for p in place.parent.iterdir()] == ["RN50.lock"]
    place.write_bytes(file.read_bytes())
    folder = download.fetch("RN50", tmp_path / "cache", "http://127.0.0.1:1")
    assert clip.load(folder).image_size == 64


def test_the_small_clip_is_converted_once_and_exactly(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "_convert", convert.convert)
    model = clip.load("small", cache_dir=tmp_path)
    assert (model.image_size, model.config.dense_shape) == (128, (4, 4, 512))
    directory = download.fetch("small", tmp_path)
    assert download.fetch("small", tmp_path) == directory  # as it was made
    backbones_convert.convert_back(directory, tmp_path / "back.safetensors")
    before = torch_files.read(download.SMALL)
    after = torch_files.read(tmp_path / "back.safetensors")
    assert before.keys() == after.keys()
    assert all((before[name] == after[name]).all() for name in before)

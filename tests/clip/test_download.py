"""Weights by name: from a server on loopback that stands for OpenAI's, and from the package."""

import functools
import hashlib
import http.server
import threading

import pytest

from safe_jax import clip
from safe_jax.clip import download, torch_files
from safe_jax.runtime.errors import InputError


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files without a log."""

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
    with pytest.raises(InputError, match=r"is not OpenAI's RN50\.pt"):
        download.fetch("RN50", tmp_path / "cache", host)


def test_an_existing_file_or_link_is_never_written_through(released, tmp_path, monkeypatch):
    host, _ = released
    folder = tmp_path / "cache" / "weights"
    folder.mkdir(parents=True)
    monkeypatch.setattr(download.secrets, "token_hex", lambda size: "guessed")
    link = folder / "RN50.pt.guessed.partial"
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"could not be downloaded \(.*File exists"):
        download.fetch("RN50", tmp_path / "cache", host)
    assert link.is_symlink()
    assert not (tmp_path / "elsewhere").exists()


def test_without_a_network_the_message_says_which_file_to_put_where(
    released, tmp_path, monkeypatch
):
    monkeypatch.setattr(download, "_convert", torch_files.convert)  # in this process: sooner
    _, file = released
    place = tmp_path / "cache" / "weights" / "RN50.pt"
    with pytest.raises(InputError, match=f"could not be downloaded .* at {place}"):
        download.fetch("RN50", tmp_path / "cache", "http://127.0.0.1:1")
    assert [p.name for p in place.parent.iterdir()] == ["RN50.lock"]
    place.write_bytes(file.read_bytes())
    folder = download.fetch("RN50", tmp_path / "cache", "http://127.0.0.1:1")
    assert clip.load(folder).image_size == 64


def test_the_small_clip_is_converted_once_and_exactly(tmp_path):
    model = clip.load("small", cache_dir=tmp_path)
    assert (model.image_size, model.config.dense_shape) == (128, (4, 4, 512))
    directory = clip.locate("small", tmp_path)
    assert clip.locate("small", tmp_path) == directory  # as it was made
    torch_files.convert_back(directory, tmp_path / "back.safetensors")
    before = torch_files.read(download.SMALL)
    after = torch_files.read(tmp_path / "back.safetensors")
    assert before.keys() == after.keys()
    assert all((before[name] == after[name]).all() for name in before)

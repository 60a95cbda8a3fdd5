"""Files and folders that appear whole or not at all, and locks between processes."""

import os
import re
import stat
import subprocess
import sys
import threading

import pytest

from configs import default
from safe_jax.experiment import run as experiment
from safe_jax.runtime import disk, paths
from safe_jax.runtime.errors import InputError


@pytest.fixture
def umask():
    """Sets a umask that is neither the usual one nor that of `tempfile`."""
    before = os.umask(0o026)
    yield
    os.umask(before)


def permissions(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_written_file_replaces_the_old_one_and_nothing_else_remains(tmp_path):
    for content in (b"first", b"", b"second"):
        paths.write(tmp_path / "file", content)
        assert (tmp_path / "file").read_bytes() == content
        assert os.listdir(tmp_path) == ["file"]


def test_files_and_folders_have_the_permissions_of_new_ones(tmp_path, umask):
    paths.write(tmp_path / "file", b"")
    with paths.whole_folder(tmp_path / "folder"):
        pass
    assert permissions(tmp_path / "file") == 0o640
    assert permissions(tmp_path / "folder") == 0o751


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_alone(tmp_path, monkeypatch, step):
    paths.write(tmp_path / "file", b"old")

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="no space left"):
        paths.write(tmp_path / "file", b"new")
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_only_durable_files_are_synchronised_before_they_appear(tmp_path, monkeypatch):
    synchronised = []

    def fsync(descriptor):
        assert not (tmp_path / "durable").exists()
        synchronised.append(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", fsync)
    paths.write(tmp_path / "durable", b"content")
    paths.write(tmp_path / "fast", b"content", durable=False)
    assert synchronised == [(tmp_path / "durable").stat().st_ino]
    assert (tmp_path / "fast").read_bytes() == b"content"


def test_links_at_names_that_can_be_guessed_are_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    guesses = ["file", "file.partial", f"file.{os.getpid()}.partial", ".file.partial", ".file.tmp"]
    for guess in guesses:
        (tmp_path / guess).symlink_to(victim)
    paths.write(tmp_path / "file", b"new")
    assert victim.read_bytes() == b"precious"
    assert (tmp_path / "file").read_bytes() == b"new"
    assert not (tmp_path / "file").is_symlink()  # the link was replaced, not what it leads to
    assert all((tmp_path / guess).is_symlink() for guess in guesses[1:])


def test_temporary_names_are_hidden_and_differ_and_a_link_there_is_refused(tmp_path, monkeypatch):
    names = []
    replace = paths.pathlib.Path.replace

    def record(self, target):
        names.append(self.name)
        return replace(self, target)

    monkeypatch.setattr(paths.pathlib.Path, "replace", record)
    for _ in range(2):
        paths.write(tmp_path / "file", b"old")
    assert len(set(names)) == 2
    assert all(name.startswith(".") and "file" not in name for name in names)

    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    monkeypatch.setattr(paths.secrets, "token_hex", lambda _: "guessed")
    planted = paths._temporary(tmp_path / "file")
    planted.symlink_to(victim)
    paths._temporary(tmp_path / "folder").symlink_to(victim)
    with pytest.raises(FileExistsError):
        paths.write(tmp_path / "file", b"new")
    with pytest.raises(FileExistsError), paths.whole_folder(tmp_path / "folder"):
        pytest.fail("the folder of somebody else was used")
    assert victim.read_bytes() == b"precious"
    assert (tmp_path / "file").read_bytes() == b"old"
    assert planted.is_symlink()  # not ours to remove


def test_what_a_killed_process_left_is_removed_by_the_next_that_writes_the_same(tmp_path):
    script = (
        "import os, pathlib, signal, sys; from safe_jax.runtime import paths\n"
        "paths.os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "with paths.whole_folder(folder / 'folder') as unfinished:\n"
        "    (unfinished / 'part').write_text('half')\n"
        "    paths.write(folder / 'file', b'half')\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path)])
    assert killed.returncode == -9
    assert len(os.listdir(tmp_path)) == 2
    paths.write(tmp_path / "other", b"x")
    assert len(os.listdir(tmp_path)) == 3  # of another file: left alone
    paths.write(tmp_path / "file", b"whole")
    with paths.whole_folder(tmp_path / "folder"):
        pass
    assert sorted(os.listdir(tmp_path)) == ["file", "folder", "other"]


def test_what_another_process_is_writing_is_left_alone(tmp_path):
    with paths.whole_folder(tmp_path / "folder") as unfinished:
        with paths.whole_folder(tmp_path / "folder"):
            pass
        assert unfinished.is_dir()


def test_many_threads_write_one_file_and_one_content_remains(tmp_path):
    contents = [bytes([number]) * 10_000 for number in range(8)]
    threads = [
        threading.Thread(target=paths.write, args=(tmp_path / "file", content))
        for content in contents
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "file").read_bytes() in contents
    assert os.listdir(tmp_path) == ["file"]


def test_a_folder_appears_after_the_block(tmp_path):
    with paths.whole_folder(tmp_path / "folder") as folder:
        (folder / "file").write_text("content")
        assert folder.parent == tmp_path
        assert paths.names(tmp_path) == []  # hidden until it is whole
    assert os.listdir(tmp_path) == ["folder"]
    assert (tmp_path / "folder" / "file").read_text() == "content"


def test_a_folder_is_removed_when_its_block_or_the_rename_fails(tmp_path):
    def interrupted():
        with paths.whole_folder(tmp_path / "folder") as folder:
            (folder / "file").write_text("content")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert os.listdir(tmp_path) == []

    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").write_text("old")  # by another process, meanwhile
    with pytest.raises(InputError, match="exists"), paths.whole_folder(tmp_path / "folder"):
        pass
    assert os.listdir(tmp_path) == ["folder"]
    assert os.listdir(tmp_path / "folder") == ["old"]


def test_a_lock_waits_for_the_process_that_holds_it_and_goes_with_it(tmp_path):
    file = tmp_path / "new folder" / "lock"
    script = (
        "import pathlib, sys; from safe_jax.runtime import paths\n"
        "with paths.lock(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(file)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    acquired = threading.Event()

    def wait():
        with paths.lock(file):
            acquired.set()

    with holder:
        assert holder.stdout.readline() == "held\n"
        waiting = threading.Thread(target=wait)
        waiting.start()
        assert not acquired.wait(0.3)
        holder.kill()
        assert acquired.wait(30)
        waiting.join()


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ("file", "file is no folder"),
        ("file/below", "file is no folder"),
        ("loop", "loop is a link that leads nowhere"),
        ("loop/below/it", "loop is a link that leads nowhere"),
        ("dangling", "dangling is a link that leads nowhere"),
        ("read-only", "read-only is no folder that can be written to"),
        ("read-only/below", "read-only is no folder that can be written to"),
    ],
)
def test_a_folder_that_cannot_be_made_is_named_with_its_knob(tmp_path, monkeypatch, given, what):
    (tmp_path / "file").write_bytes(b"kept")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("absent")
    (tmp_path / "read-only").mkdir()
    # Permissions do not bind the superuser, whom tests may run as.
    monkeypatch.setattr(os, "access", lambda path, mode: path.name != "read-only")
    folder = tmp_path / given
    message = f"--workdir={folder}: {tmp_path}/{what}; name another"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        experiment.run(default.get_config(), folder)
    if given != "read-only":
        with pytest.raises(InputError, match=r"^config\.cache_dir="):
            paths.cache(folder)
    assert (tmp_path / "file").read_bytes() == b"kept"
    assert os.listdir(tmp_path / "read-only") == []


def test_a_path_with_nul_is_refused():
    for read in (paths.parse, paths.cache):
        with pytest.raises(InputError, match=r"^'a\\x00b': a path without NUL is expected$"):
            read("a\0b")


def test_folders_that_are_there_or_can_be_made_are_taken(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    for given in ("there", "link", "link/below", "new/below/it"):
        disk.check_writable(tmp_path / given)
        assert paths.cache(tmp_path / given) == tmp_path / given
    assert sorted(os.listdir(tmp_path)) == ["link", "there"]

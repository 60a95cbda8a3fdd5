"""States of a tuning: damage is noticed, the tuning begins anew, and ends as if undisturbed."""

import logging
import pathlib
import shutil

import pytest

from safe_jax.runtime.errors import InputError
from safe_jax.tuning import states
from tests.hostile_subjects import tune

pytestmark = pytest.mark.usefixtures("little_to_collect")


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The folder of a tuning that was killed after step 4, and how an undisturbed one ends."""
    root = tmp_path_factory.mktemp("states")
    tune(root / "killed", stop_before=4)
    return root / "killed", tune(root / "whole")


@pytest.fixture
def folder(killed, tmp_path):
    """A copy of the killed tuning's folder."""
    return shutil.copytree(killed[0], tmp_path / "states")


def removed(name):
    def damage(folder):
        (found,) = folder.glob(name)
        shutil.rmtree(found) if found.is_dir() else found.unlink()

    return damage


def written(name, content):
    return lambda folder: next(folder.glob(name)).write_bytes(content)


def halved(name):
    def damage(folder):
        for file in filter(pathlib.Path.is_file, folder.glob(name)):
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    return damage


def added(name):
    return lambda folder: (folder / name).mkdir()


def flipped(folder):
    """A bit in each of the files with values: at least one of them is read."""
    for file in folder.glob("4/state/ocdbt.process_0/d/*"):
        content = bytearray(file.read_bytes())
        for at in range(100, len(content), 40):
            content[at] ^= 1
        file.write_bytes(content)


DAMAGE = {
    "bits flipped": flipped,
    "no metadata of the arrays": removed("4/state/_METADATA"),
    "metadata of the arrays cut": halved("4/state/_METADATA"),
    "metadata that is a list": written("4/_CHECKPOINT_METADATA", b"[]"),
    "metadata of the arrays that is null": written("4/state/_METADATA", b"null"),
    "shards of the arrays cut": halved("4/state/array_metadatas/process_0"),
    "no manifest": removed("4/state/manifest.ocdbt"),
    "an empty manifest": written("4/state/manifest.ocdbt", b""),
    "the index cut": halved("4/state/d/*"),
    "the arrays cut": halved("4/state/ocdbt.process_0/d/*"),
    "no arrays": removed("4/state/ocdbt.process_0"),
    "an empty step": added("9"),
}
HARMLESS = {
    "a folder that a kill left": added("6.orbax-checkpoint-tmp"),
    "a folder of an older kill": added("6.orbax-checkpoint-tmp-1699999999"),
    "no time of the commit": removed("4/commit_success.txt"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_state_is_told_of_and_the_tuning_begins_anew(killed, folder, caplog, name):
    DAMAGE[name](folder)
    ended = tune(folder)
    (line,) = [one.message for one in caplog.records if one.name == states.__name__]
    assert line.startswith(f"the state in {folder} is damaged, and this tuning begins anew (")
    assert "\n" not in line
    assert ended == killed[1]


@pytest.mark.parametrize("name", HARMLESS)
def test_what_a_kill_leaves_beside_a_state_does_no_harm(killed, folder, caplog, name):
    HARMLESS[name](folder)
    with caplog.at_level(logging.INFO, "safe_jax"):
        ended = tune(folder)
    assert "is damaged" not in caplog.text
    assert "resuming at step 4 of 6" in caplog.text
    assert ended == killed[1]


@pytest.mark.parametrize("text", ["Permission denied", "UNAVAILABLE: the bucket"])
def test_a_system_that_refuses_costs_no_state(killed, folder, monkeypatch, text):
    def refuse(*_, **__):
        raise ValueError(f"Error reading: {text}")

    with monkeypatch.context() as patch:
        patch.setattr(states.ocp.training.Checkpointer, "load", refuse)
        with pytest.raises(InputError, match=r"cannot be used .*; the same command goes on"):
            tune(folder)
    assert tune(folder) == killed[1]
    assert list(folder.iterdir())


def test_a_full_disk_has_one_line_and_nothing_half_written(folder, monkeypatch):
    def fill_up(*_, **__):
        (folder / "6.orbax-checkpoint-tmp-1").mkdir()
        raise RuntimeError("Error writing: No space left on device\nmore of it")

    monkeypatch.setattr(states.ocp.training.Checkpointer, "save", fill_up)
    with pytest.raises(InputError) as raised:
        tune(folder)
    assert str(raised.value) == (
        f"a checkpoint cannot be written in {folder} (No space left on device): make room, or set "
        "another --workdir; the same command goes on"
    )
    assert not list(folder.glob("*tmp*"))
    assert (folder / "4").is_dir()

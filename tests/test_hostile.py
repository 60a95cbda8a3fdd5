"""Damaged files of every kind, full disks: one line or the right value, and nothing half-written.

At random for longer: `pytest tests/test_hostile.py --seconds 600 --hypothesis-seed 1`, which tells
how many files it damaged.
"""

import collections
import os
import pathlib
import random
import signal
import subprocess
import tempfile
import threading
import time

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from safe_jax.backbones import convert as backbones_convert
from safe_jax.checkpoints import state_dict, weights
from safe_jax.classifier import artifact
from safe_jax.clip import convert as clip_convert
from safe_jax.clip.family import FAMILY
from safe_jax.commands.answers import Answers, answer
from safe_jax.data import images
from safe_jax.experiment.results import Results
from safe_jax.report import page
from safe_jax.runtime import paths
from safe_jax.runtime.errors import InputError
from tests import hostile, hostile_subjects, in_process, tiny
from tests.fake_run import parsed, rows

pytestmark = pytest.mark.usefixtures("one_device", "little_to_collect")
_BATCH = 25


@pytest.fixture(scope="module")
def subjects(tmp_path_factory):
    """Each kind of file, with what is read of it undamaged."""
    made = hostile_subjects.make(tmp_path_factory.mktemp("hostile"))
    scratch = tmp_path_factory.mktemp("undamaged")
    wanted = {name: one.read(hostile.copied(one, scratch / name)) for name, one in made.items()}
    return {name: (one, wanted[name]) for name, one in made.items()}


def test_what_is_damaged_at_random_is_refused_or_right(
    subjects, tmp_path, pytestconfig, record_property
):
    seconds, base = pytestconfig.getoption("--seconds"), pytestconfig.getoption("hypothesis_seed")
    base = random.SystemRandom().randrange(2**32) if base in (None, "random") else int(base)
    outcomes: collections.Counter = collections.Counter()

    def holds(name, which, edit):
        subject, wanted = subjects[name]
        folder = hostile.copied(subject, tmp_path / name)
        files = hostile.files_of(folder)
        file = files[int(which * len(files))]
        hostile.damage(folder, file, edit)
        hypothesis.note(f"{folder / file} of --hypothesis-seed {base}")
        outcomes[name, hostile.check(subject, folder, wanted, edit)] += 1

    settings = hypothesis.settings(
        max_examples=_BATCH, deadline=None, database=None, print_blob=False,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )  # fmt: skip
    names, where = st.sampled_from(sorted(subjects)), st.floats(0, 1, exclude_max=True)
    end, batch = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        one_batch = settings(hypothesis.given(names, where, hostile.EDITS)(holds))
        hypothesis.seed(base * 1_000_003 + batch)(one_batch)()
        batch += 1
    told = [f"{name} {outcome} {count}" for (name, outcome), count in sorted(outcomes.items())]
    record_property(f"{outcomes.total()} damaged files, --hypothesis-seed {base}", ", ".join(told))


def tensors(**changes):
    """The state dict of the smallest CLIP, with tensors changed, or left out where None."""
    state = state_dict.to_torch(FAMILY, tiny.leaves(hostile_subjects.CONFIG))
    return {name: x for name, x in (state | changes).items() if x is not None}


def many_blocks():
    return {f"visual.layer4.{n}.conv1.weight": np.zeros(1, np.float32) for n in range(60)}


CHECKPOINTS = {
    "a block of a high number": ({"visual.layer4.999999.x": np.zeros(1)}, "not a part of a CLIP"),
    "more blocks than any CLIP": (many_blocks(), r"layers\[3\]=60: .* at most 50"),
    "no cells": ({"visual.attnpool.positional_embedding": np.zeros((1, 64))}, "1 rows; a square"),
    "no rows": ({"visual.attnpool.positional_embedding": np.zeros((0, 64))}, "square map of cells"),
    "no words": ({"token_embedding.weight": np.zeros((0, 64))}, "vocab_size=0: at least 1"),
    "no channels": ({"visual.layer1.0.conv1.weight": np.zeros((0, 2, 1, 1))}, "vision_width=0"),
    "a number for a matrix": ({"text_projection": np.float32(0)}, "text_projection: shape"),
    "an odd width": ({"ln_final.weight": np.zeros(65, np.float32)}, "text_width=65: a multiple"),
    "a resolution of two values": (
        {"input_resolution": np.array([64, 64])}, r"input_resolution: shape \(2,\)"),
    "a resolution that is no number": (
        {"input_resolution": np.array(np.nan, np.float32)}, "input_resolution: nan"),
    "a count of batches without a value": (
        {"visual.bn1.num_batches_tracked": np.zeros(0, np.int64)},
        r"num_batches_tracked: shape \(0,\)"),
    "a count of half a batch": (
        {"visual.bn1.num_batches_tracked": np.array(0.5)}, "num_batches_tracked: 0.5"),
    "a scale of two values": ({"logit_scale": np.zeros(2, np.float32)}, "logit_scale: shape"),
    "a scale that is infinite": (
        {"logit_scale": np.array(np.inf, np.float32)}, "not finite:\n  logit_scale"),
    "a vision transformer": ({"visual.proj": np.zeros((2, 2))}, "ViT image tower"),
    "nothing": (dict.fromkeys(tensors()), "not a CLIP ResNet"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_that_makes_no_sense_is_refused(tmp_path, name):
    change, message = CHECKPOINTS[name]
    began = time.monotonic()
    with pytest.raises(InputError, match=message):
        state_dict.from_torch(FAMILY, tensors(**change))
    assert time.monotonic() - began < hostile.SECONDS


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory):
    """A disk of 1 MB."""
    disk = tmp_path_factory.mktemp("disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a small disk cannot be mounted here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.fixture
def full_disk(small_disk):
    """It, but for some bytes: a function from how many they are to a folder."""
    # A folder of its own for each test: threads of Orbax that failed may still write into the last.
    folder, ballast = pathlib.Path(tempfile.mkdtemp(dir=small_disk)), small_disk / "ballast"

    def fill(free):
        with open(ballast, "wb") as file:
            size = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize - free
            os.posix_fallocate(file.fileno(), 0, size)
        return folder

    yield fill
    ballast.unlink(missing_ok=True)
    paths.remove_folder(folder)


def write_rows(folder, subjects):
    with Results(folder / "results.jsonl", "pets") as results:
        for row in parsed(rows() * 20):
            results.add(row)


def predict(folder, subjects):
    with Answers(folder / "answers.csv", 1) as answers:
        for number in range(2000):
            answers.add(answer(f"{number}.jpg", np.array([0.5, 0.5]), ("a", "b"), 1, 0))


def keep(folder, subjects):
    artifact.save(artifact.load(subjects["classifier"][0].folder / "pets"), folder / "pets")


def convert(folder, subjects):
    clip_convert.convert(subjects["pt"][0].folder / "clip.pt", folder / "clip")


def convert_unforeseen(folder, subjects):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights.disk, "check_room", lambda *_: None)
        convert(folder, subjects)


def convert_back(folder, subjects):
    backbones_convert.convert_back(subjects["weights"][0].folder / "clip", folder / "clip.pt")


def fill_bank(folder, subjects):
    subjects["bank"][0].read(folder)


def tune(folder, subjects):
    hostile_subjects.tune(folder / "tuning")


def report(folder, subjects):
    paths.write(folder / "report.html", bytes(100_000))


# What is written, how many bytes are free, and what is left: all that was whole.
PHASES = {
    "weights are converted": (convert, 100_000, "take 0.3 MB, but {} has 0.1 MB free", []),
    "weights are converted, and others write": (
        convert_unforeseen, 100_000, "{}/clip cannot be written: No space left", []),
    "weights are converted back": (convert_back, 100_000, "{}/clip.pt cannot be written", []),
    "a bank is filled": (fill_bank, 0, "{}/banks/.* cannot be written", ["banks/.*lock"]),
    "a state is written": (tune, 0, "in {}/tuning .No space left on device.*--workdir", []),
    "rows are written": (
        write_rows, 8192, "{}/results.jsonl cannot be written.*--workdir", ["results.jsonl"]),
    "the report is written": (report, 8192, "{}/report.html cannot be written", []),
    "a classifier is kept": (keep, 100_000, "{}.* cannot be written", []),
    "answers are written": (predict, 8192, "{}/answers.csv cannot be written", []),
}  # fmt: skip


@pytest.mark.parametrize("phase", PHASES)
def test_a_full_disk_has_one_line_and_nothing_half_written(subjects, full_disk, phase):
    write, free, message, left = PHASES[phase]
    folder = full_disk(free)
    with pytest.raises(InputError, match=message.replace("{}", str(folder))) as raised:
        write(folder, subjects)
    assert "\n" not in str(raised.value)
    found = [name for name in hostile.files_of(folder) if not name.endswith("lock")]
    assert found == [name for name in left if not name.endswith("lock")]
    if found:  # rows, of which all are whole
        assert (folder / "results.jsonl").read_bytes().endswith(b"}\n")


def signalled(patch, owner, name, number):
    """Has this process sent a signal when a function is called."""
    original = getattr(owner, name)

    def called(*args, **kwargs):
        os.kill(os.getpid(), number)
        time.sleep(0.2 if threading.current_thread() is threading.main_thread() else 0)
        return original(*args, **kwargs)

    patch.setattr(owner, name, called)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("command", ["convert", "report"])
def test_a_signal_ends_a_command_with_one_line(subjects, tmp_path, monkeypatch, command, number):
    owner, name = {"convert": (weights.ocp, "save"), "report": (page, "render")}[command]
    source = subjects[{"convert": "pt", "report": "rows"}[command]][0].folder
    arguments = {
        "convert": [source / "clip.pt", tmp_path / "clip"],
        "report": [source, "--output", tmp_path / "report.html"],
    }[command]
    signalled(monkeypatch, owner, name, number)
    ended = in_process.safe_jax(command, *arguments)
    assert ended.code == 128 + number
    assert ended.err == "interrupted: nothing was written; the same command begins again\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_an_extraction_with_one_line(
    tiny_root, tmp_path, monkeypatch, capsys, number
):
    signalled(monkeypatch, images, "load", number)
    with pytest.raises(SystemExit) as ended:
        in_process.call_tiny(tiny_root, tmp_path / "run", tmp_path / "cache", methods="zero_shot")
    assert ended.value.code == 128 + number
    assert "\ninterrupted: the same command goes on\n" in capsys.readouterr().err
    assert not list((tmp_path / "cache").rglob("*.tmp*"))


def test_two_at_once_make_one_bank(subjects, tmp_path):
    """And what both get is what an undisturbed one gets."""
    bank, wanted = subjects["bank"]
    found: list[str] = []
    runs = [threading.Thread(target=lambda: found.append(bank.read(tmp_path))) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert found == [wanted] * 2
    assert sum(one.is_dir() for one in (tmp_path / "banks").iterdir()) == 1

"""Damaged files of every kind, full disks: one line or the right value, and nothing half-written.

At random for longer: `pytest tests/test_hostile.py --seconds 600 --hypothesis-seed 1`, which tells
how many files it damaged.
"""

import collections
import os
import random
import subprocess
import time

import hypothesis
import hypothesis.strategies as st
import pytest

from safe_jax.classifier import artifact
from safe_jax.clip import torch_files, weights
from safe_jax.commands.answers import Answers, answer
from safe_jax.experiment.results import Results
from safe_jax.runtime import paths
from safe_jax.runtime.errors import InputError
from tests import hostile, hostile_subjects, tiny
from tests.fake_run import parsed, rows

pytestmark = pytest.mark.usefixtures("one_device")
_BATCH = 25


@pytest.fixture(scope="module")
def subjects(tmp_path_factory):
    """Each kind of file, with what is read of it undamaged."""
    made = hostile_subjects.make(tmp_path_factory.mktemp("hostile"))
    scratch = tmp_path_factory.mktemp("undamaged")
    wanted = {name: one.read(hostile.copied(one, scratch / name)) for name, one in made.items()}
    return {name: (one, wanted[name]) for name, one in made.items()}


def test_what_is_damaged_at_random_is_refused_or_right(subjects, tmp_path, pytestconfig, capsys):
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
        outcomes[name, hostile.check(subject, folder, wanted)] += 1

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
    with capsys.disabled():
        print(
            f"\n{outcomes.total()} damaged files, --hypothesis-seed {base}:",
            *(f"{name} {outcome} {count}," for (name, outcome), count in sorted(outcomes.items())),
        )


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
    folder, ballast = small_disk / "folder", small_disk / "ballast"
    folder.mkdir()

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
            answers.add(answer(f"{number}.jpg", tiny.np.array([0.5, 0.5]), ("a", "b"), 1, 0))


def keep(folder, subjects):
    artifact.save(artifact.load(subjects["classifier"][0].folder / "pets"), folder / "pets")


def convert(folder, subjects):
    torch_files.convert(subjects["pt"][0].folder / "clip.pt", folder / "clip")


def convert_unforeseen(folder, subjects):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights.paths, "check_room", lambda *_: None)
        convert(folder, subjects)


def convert_back(folder, subjects):
    torch_files.convert_back(subjects["weights"][0].folder / "clip", folder / "clip.pt")


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

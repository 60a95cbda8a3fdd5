"""Data, weights and results in a bucket (`gs://...`); `tests/bucket.py` stands in for it."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import fsspec
import pytest

from safe_jax.backbones import convert
from safe_jax.data import check, datasets, folders, imagenet
from safe_jax.report import __main__ as report_command
from safe_jax.runtime import paths
from safe_jax.runtime.errors import InputError
from tests import bucket, in_process
from tests.commands import ROOT, command

DATA = "gs://safe-jax/data"


@pytest.fixture(scope="module")
def folder(tiny_root, tmp_path_factory):
    """Where the bucket `safe-jax` lies on the disk; what `tiny.make` wrote is in `data`."""
    root = tmp_path_factory.mktemp("buckets")
    shutil.copytree(tiny_root, root / "safe-jax" / "data")
    return root / "safe-jax"


@pytest.fixture
def here(folder, monkeypatch):
    """The bucket in this process."""
    monkeypatch.setenv(bucket.FOLDER, str(folder.parent))
    fsspec.register_implementation("gcs", bucket.Objects, clobber=True)
    return folder


@pytest.fixture(scope="module")
def environment(folder):
    """For processes that use the bucket."""
    server, address = bucket.serve()
    yield os.environ | {
        bucket.FOLDER: str(folder.parent),
        "TENSORSTORE_GCS_HTTP_URL": address,
        "GCE_METADATA_ROOT": "127.0.0.1:1",  # nobody is asked for credentials
    }
    server.shutdown()
    server.server_close()


def run(environment, tmp_path, **knobs):
    given = {"data_root": DATA, "weights": f"{DATA}/clip_tiny", "shots": "2", "seeds": "1"}
    arguments = command(tmp_path, tmp_path, tmp_path / "cache", **given | knobs)
    arguments[arguments.index("tests/tiny.py")] = "tests/bucket.py"
    arguments[arguments.index("--workdir") + 1] = "gs://safe-jax/run"
    return subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_everything_but_the_cache_in_a_bucket(done, environment, here, tmp_path, capsys):
    process = run(environment, tmp_path, checkpoint_every=2)
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[-2:] == [
        "rows: gs://safe-jax/run/results.jsonl", "report: gs://safe-jax/run/report.html"
    ]  # fmt: skip
    written = (here / "run" / "results.jsonl").read_bytes()
    whole = map(json.loads, (done.workdir / "results.jsonl").read_text().splitlines())
    wanted = [row for row in whole if (row["shots"], row["seed"]) == (2, 1)]
    apart = "seconds", "images", "examples"  # a bucket tells other times of the files
    for row, one in zip(map(json.loads, written.splitlines()), wanted, strict=True):
        assert {k: x for k, x in row.items() if k not in apart} == {
            k: x for k, x in one.items() if k not in apart
        }
    assert (here / "run" / "configs" / f"{row['config_hash']}.json").exists()
    assert not [f for f in (here / "run" / "checkpoints").rglob("*") if f.is_file()]
    assert not list(pathlib.Path().glob("gs:*"))  # what pathlib would make of such a path

    again = run(environment, tmp_path)
    assert again.stdout == process.stdout, again.stderr
    assert (here / "run" / "results.jsonl").read_bytes() == written

    page = (here / "run" / "report.html").read_bytes()
    assert report_command.main(["gs://safe-jax/run"]) == 0
    assert capsys.readouterr().out == "report: gs://safe-jax/run/report.html\n"
    assert (here / "run" / "report.html").read_bytes() == page
    assert page.count(b"data:image/jpeg") == 10  # the examples' pictures


def test_weights_are_converted_into_a_bucket_and_back(environment, here, tiny_root):
    before, after = here / "before.safetensors", here / "after.safetensors"
    assert convert.main(["--to-torch", str(tiny_root / "clip_tiny"), str(before)]) == 0
    script = (
        "from tests import bucket; bucket.take_the_place_of_google()\n"
        "from safe_jax.backbones import convert\n"
        "root = 'gs://safe-jax'\n"
        "assert convert.main([f'{root}/before.safetensors', f'{root}/weights']) == 0\n"
        "assert convert.main(['--to-torch', f'{root}/weights', f'{root}/after.safetensors']) == 0"
    )
    command = [sys.executable, "-c", script]
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert after.read_bytes() == before.read_bytes()


def test_listings_of_a_bucket_are_those_of_a_disk(here):
    there, on_disk = paths.parse(f"{DATA}/patches/images"), here / "data" / "patches" / "images"
    assert folders.read(there) == folders.read(on_disk)
    wnids = list(imagenet.benchmark_classes())[:2]
    for number, part in enumerate(("train", "train", "val")):
        for wnid in wnids:
            file = here / "net" / "images" / part / wnid / f"{number}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"")
    (here / "net" / "classnames.txt").write_text("".join(f"{wnid} a thing\n" for wnid in wnids))
    there, on_disk = paths.parse("gs://safe-jax/net/images"), here / "net" / "images"
    assert imagenet.read(there) == imagenet.read(on_disk)
    assert imagenet.read_variant(there / "val", dict.fromkeys(wnids, "a"), True) == (
        imagenet.read_variant(on_disk / "val", dict.fromkeys(wnids, "a"), True)
    )


def test_the_check_looks_into_a_bucket(here, tiny_config):
    tiny_config.data_root = DATA
    assert check.look_at(tiny_config).summary == "4 classes; 40 train, 24 val and 48 test images"
    tiny_config.image_dir = f"{DATA}/patches/images"  # beside a data root, as on a disk
    assert check.look_at(tiny_config).problems == []
    tiny_config.image_dir = "patches/image"
    assert check.look_at(tiny_config).problems == [
        f"{DATA}/patches/images is probably image: rename it"
    ]


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"data_root": "s3://other"}, "s3://other: a path on a disk, or in a bucket"),
        ({"data_root": DATA, "tfds": "x", "image_dir": "", "split_file": ""}, "read by position"),
        ({"data_root": DATA, "dataset": "digits", "split_file": ""}, "digits are drawn on a disk"),
    ],
)
def test_what_cannot_be_read_from_a_bucket_is_refused(here, tiny_config, knobs, said):
    tiny_config.update(knobs)
    with pytest.raises(InputError, match=said):
        datasets.load(tiny_config)


def test_a_cache_in_a_bucket_is_refused(here, tiny_root):
    message = "^error: config.cache_dir=gs://safe-jax/cache: banks are read by position"
    with pytest.raises(SystemExit, match=message):
        in_process.call_tiny(tiny_root, "gs://safe-jax/none", "gs://safe-jax/cache", data_root=DATA)


def test_without_gcsfs_the_message_says_what_to_install(monkeypatch):
    def absent(_):
        raise ImportError

    monkeypatch.setattr(fsspec, "get_filesystem_class", absent)
    with pytest.raises(InputError, match="not installed: pip install gcsfs"):
        paths.parse(DATA)
    assert paths.parse("~") == pathlib.Path.home()


def test_a_file_is_whole_or_absent(here, tmp_path):
    for file in (tmp_path / "file", paths.parse("gs://safe-jax/file")):
        paths.write(file, b"one")
        paths.write(file, b"two")
        assert file.read_bytes() == b"two"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]

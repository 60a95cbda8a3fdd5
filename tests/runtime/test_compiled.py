"""The folder of compiled programs: what is used of it, and what goes wrong without harm."""

import os
import subprocess
import sys
import time

import jax
import pytest

from safe_jax.runtime import compiled
from tests.commands import ROOT

PROGRAM = """
import logging, pathlib, sys
import jax, jax.numpy as jnp
from safe_jax.runtime import compiled
logging.basicConfig(format="%(message)s")
counts = {"/jax/compilation_cache/cache_hits": 0, "/jax/compilation_cache/cache_misses": 0}
jax.monitoring.register_event_listener(
    lambda name, **_: counts.update({name: counts[name] + 1}) if name in counts else None
)
compiled.keep_in(pathlib.Path(sys.argv[1]))
print(jax.jit(lambda x: jnp.sin(x) @ x)(jnp.eye(3)).sum())
print(*counts.values())
"""


def run(folder) -> tuple[int, str]:
    """Compiles a program or two; returns how many were found, and what else was printed."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", PROGRAM, folder], cwd=ROOT, env=environment,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    answer, counts = done.stdout.splitlines()
    assert answer.startswith("2.52")
    return int(counts.split()[0]), done.stderr


def test_the_next_process_finds_what_was_compiled_and_damage_costs_a_compilation(tmp_path):
    folder = tmp_path / "compiled"
    assert run(folder) == (0, "")
    entries = list(folder.glob("*-cache"))
    assert len(entries) > 1
    assert folder.stat().st_mode & 0o077 == 0
    assert run(folder) == (len(entries), "")
    whole = entries[0].read_bytes()
    entries[0].write_bytes(whole[:-10])  # as a full disk leaves it
    assert run(folder) == (len(entries) - 1, "")
    assert entries[0].read_bytes() == whole[:-10]  # for another process might be writing it
    os.utime(entries[0], (time.time() - 100,) * 2)
    assert run(folder) == (len(entries) - 1, "")
    assert run(folder) == (len(entries), "")


@pytest.fixture
def kept(monkeypatch):
    """What `keep_in` sets of JAX."""
    settings = {}
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setattr(jax.config, "update", settings.__setitem__)
    return settings


def test_a_folder_that_others_may_write_to_is_not_used(tmp_path, kept, caplog):
    """Its entries are machine code."""
    tmp_path.chmod(0o777)
    compiled.keep_in(tmp_path)
    assert not kept
    assert "whoever likes to write there" in caplog.text


def test_a_folder_that_cannot_be_written_to_is_read(tmp_path, kept, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    damaged = tmp_path / "jit_f-cache"
    damaged.write_bytes(b"")
    os.utime(damaged, (0, 0))
    compiled.keep_in(tmp_path)
    assert kept["jax_compilation_cache_dir"] == str(tmp_path)
    assert kept["jax_persistent_cache_min_compile_time_secs"] > 1e6
    assert damaged.exists()


def test_where_no_folder_can_be_made_nothing_is_kept(tmp_path, kept, caplog):
    (tmp_path / "file").touch()
    compiled.keep_in(tmp_path / "file" / "compiled")
    assert not kept
    assert "Not a directory" in caplog.text


def test_of_too_many_programs_those_longest_out_of_use_go(tmp_path, kept, monkeypatch):
    monkeypatch.setattr(compiled, "MOST_BYTES", 25)
    monkeypatch.setattr(compiled, "_is_whole", lambda _: True)
    for age in range(4):
        entry = tmp_path / f"{age}-cache"
        entry.write_bytes(bytes(10))
        os.utime(entry, (time.time() - 1000 * age,) * 2)
    compiled.keep_in(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["0-cache", "1-cache"]

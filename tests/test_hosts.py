"""Several processes on this machine in place of hosts: the same run, and the same end for all."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from safe_jax.runtime import hosts
from tests.commands import ROOT, command, rows

TIMEOUT = 8  # seconds after which a silent host is given up


def start(count, devices, root, workdir, cache, **knobs):
    """Starts the command on `count` hosts of `devices` devices each.

    Args:
        cache: a function from a host to its cache.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = [f"--coordinator=127.0.0.1:{port}", f"--processes={count}", f"--host_timeout={TIMEOUT}"]
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "TF_CPP_MIN_LOG_LEVEL": "2",  # without what XLA tells of its own
    }
    return [
        subprocess.Popen(
            [*command(root, workdir, cache(host), **knobs), *flags, f"--process_id={host}"],
            cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for host in range(count)
    ]  # fmt: skip


def finish(processes, seconds=120):
    """Exit code, output and errors of each; none takes longer than `seconds`."""
    until = time.monotonic() + seconds
    try:
        said = [process.communicate(timeout=until - time.monotonic()) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(p.returncode, *texts) for p, texts in zip(processes, said, strict=True)]


def same_rows(found, wanted):
    """Whatever their order, which is another where tunings run together."""

    def in_order(rows):
        return sorted(rows, key=lambda row: (row["shots"], row["seed"], row["method"]))

    for row, one in zip(in_order(found), in_order(wanted), strict=True):
        assert row["accuracy"] == one["accuracy"]
        assert row.get("losses", []) == pytest.approx(one.get("losses", []), rel=1e-5)
        told = "losses", "curve", "examples"  # the examples' attention differs in the last digit
        assert {k: x for k, x in row.items() if k not in told} == {
            k: x for k, x in one.items() if k not in told
        }
        assert row.get("curve") == one.get("curve")


def last_saved(workdir):
    """The last step of which SAFE has a checkpoint, with 2 shots and seed 1."""
    folders = (workdir / "checkpoints").glob("*-2-1-*/safe-*/*")
    return max((int(folder.name) for folder in folders if folder.name.isdigit()), default=0)


ONE = {"shots": "2", "seeds": "1", "checkpoint_every": 1}


def first_rows(done):
    """Those that a run of `ONE` has."""
    return [row for row in rows(done.workdir) if (row["shots"], row["seed"]) == (2, 1)]


def wait_for(condition, processes, seconds=120):
    until = time.monotonic() + seconds
    while not condition():
        assert all(process.poll() is None for process in processes), finish(processes)
        assert time.monotonic() < until
        time.sleep(0.005)


def test_two_hosts_with_disks_of_their_own_write_what_one_writes(done, tiny_root, tmp_path):
    """Tunings of a population, divided between the hosts' devices, against one by one on one."""

    def cache(host):
        return tmp_path / f"cache{host}"

    workdir = tmp_path / "run"
    (code, out, err), (other_code, other_out, other_err) = finish(
        start(2, 2, tiny_root, workdir, cache, checkpoint_every=1000, population=4)
    )
    assert (code, other_code) == (0, 0), err + other_err
    assert "4 x cpu" in err
    same_rows(rows(workdir), rows(done.workdir))
    table = done.process.stdout.splitlines()[:-2]
    assert out.splitlines()[-len(table) - 2 : -2] == table
    assert (workdir / "report.html").exists()
    assert "SAFE" not in other_out  # the first alone tells how it goes
    assert other_err == ""
    for file in (cache(0) / "banks").rglob("*.npy"):
        copies = [c / file.relative_to(cache(0)) for c in (cache(1), done.cache)]
        assert all(copy.read_bytes() == file.read_bytes() for copy in copies)


def test_where_a_host_dies_all_stop_and_go_on_together(done, tiny_root, tmp_path):
    """Hosts with one disk; first one that is waited for dies, then the one that all know."""
    workdir = tmp_path / "run"

    def hosts_of(count):
        return start(count, 1, tiny_root, workdir, lambda _: tmp_path / "cache", **ONE)

    for count, victim, moment in ((4, 2, 1), (2, 0, 3)):
        processes = hosts_of(count)
        wait_for(lambda moment=moment: last_saved(workdir) >= moment, processes)
        processes[victim].kill()
        for host, (code, _, err) in enumerate(finish(processes, seconds=TIMEOUT + 20)):
            assert code != 0
            assert (f"host {host} of {count}: " if host else "error: ") + hosts.GONE in err
    (code, _, err), *others = finish(hosts_of(4))
    assert [code, *(other[0] for other in others)] == [0] * 4, err
    assert "resuming at step" in err
    same_rows(rows(workdir), first_rows(done))
    assert not list((tmp_path / "cache").rglob(".host-*"))


def test_all_hosts_stop_at_the_same_step_when_one_is_told_to(done, tiny_root, tmp_path):
    workdir = tmp_path / "run"

    def two():
        return start(2, 1, tiny_root, workdir, lambda _: done.cache, **ONE)

    processes = two()
    wait_for(lambda: last_saved(workdir) >= 1, processes)
    os.kill(processes[1].pid, signal.SIGTERM)
    (code, _, err), (other, _, other_err) = finish(processes)
    assert (code, other) == (128 + signal.SIGTERM,) * 2, err + other_err
    step = last_saved(workdir)
    assert f"SIGTERM: stopped after step {step}" in err
    (code, _, err), (other, *_) = finish(two())
    assert (code, other) == (0, 0), err
    assert f"resuming at step {step}" in err
    same_rows(rows(workdir), first_rows(done))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((True, "somewhere:1", 2, 0), "--distributed finds the other hosts by itself"),
        ((False, "somewhere:1", None, 0), "belong together"),
        ((False, "somewhere:1", 2, 2), "do not find each other"),
    ],
)
def test_flags_that_do_not_fit_are_told(given, said):
    with pytest.raises(hosts.InputError, match=said), hosts.cluster(*given, TIMEOUT):
        pytest.fail("joined")


def test_hosts_that_do_not_find_each_other_say_so():
    script = (
        "from safe_jax.runtime import hosts\n"
        "with hosts.cluster(False, '127.0.0.1:9', 2, 1, 8, patience=1): print('joined')"
    )
    command = [sys.executable, "-c", script]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert process.returncode != 0
    assert "error: the hosts do not find each other in 1 seconds: start the" in process.stderr
    assert process.stdout == ""


def test_one_host_needs_no_other():
    with hosts.cluster(False, None, None, None, TIMEOUT):
        assert (hosts.count(), hosts.is_first(), hosts.prefix()) == (1, True, "")
        assert hosts.from_first({"a": [1]}) == {"a": [1]}
        with pytest.raises(hosts.InputError, match="mend it"), hosts.raise_together():
            raise hosts.InputError("mend it")

"""Several processes on this machine in place of hosts: the same run, and the same end for all."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from concurrent import futures

import pytest

from safe_jax.runtime import hosts
from tests import interrupted
from tests.commands import ROOT, command, rows

TIMEOUT = 8  # seconds after which a silent host is given up


@pytest.fixture(scope="module", autouse=True)
def lonely_host():
    """A host whose peer never comes: it waits for some seconds while other tests run."""
    script = (
        "from safe_jax.runtime import hosts\n"
        "flags = hosts.ClusterFlags(False, '127.0.0.1:9', 2, 1, 8)\n"
        "with hosts.cluster(flags, patience=1): print('joined')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    with process:
        yield process
        process.kill()


@contextlib.contextmanager
def free_port():
    """A port of this machine that is given to nobody else meanwhile.

    The socket that holds it does not listen, and lets others of this user share the port.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def run_hosts(devices, root, workdir, cache, moments=(), **knobs):
    """Runs the command on two hosts; gives exit code, output and errors of each.

    Args:
        devices: how many each host has.
        cache: a function from a host to its cache.
        moments: a host, and when it sends itself which signal, as `interrupted.command` takes it.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    environment = os.environ | {
        "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={devices}",
        "TF_CPP_MIN_LOG_LEVEL": "2",  # XLA's own log would hide that a host says nothing
    }
    with free_port() as port:
        processes = []
        for host in range(2):
            arguments = command(root, workdir, cache(host), **knobs)
            for interrupted_host, *moment in moments:
                if host == interrupted_host:
                    arguments = interrupted.command(arguments, *moment)
            arguments += [
                f"--coordinator=127.0.0.1:{port}", "--processes=2", f"--process_id={host}",
                f"--host_timeout={TIMEOUT}",
            ]  # fmt: skip
            process = subprocess.Popen(
                arguments, cwd=ROOT, env=environment, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
            processes.append(process)
        return finish(processes)


def finish(processes):
    """What `run_hosts` gives, once all have ended: within seconds of the first."""
    with futures.ThreadPoolExecutor() as pool:
        waiting = [pool.submit(process.communicate) for process in processes]
        try:
            futures.wait(waiting, timeout=120, return_when=futures.FIRST_COMPLETED)
            futures.wait(waiting, timeout=TIMEOUT + 20)
            late = [host for host, printed in enumerate(waiting) if not printed.done()]
        finally:
            for process in processes:
                process.kill()
    printed = [future.result() for future in waiting]
    assert not late, printed
    return [(p.returncode, *texts) for p, texts in zip(processes, printed, strict=True)]


def assert_same_rows(found, wanted):
    """In any order: where tunings run together they are written in another."""

    def in_order(rows):
        return sorted(rows, key=lambda row: (row["shots"], row["seed"], row["method"]))

    # The last digits depend on the number of devices; the examples' attention shows that, too.
    rounded = {"losses", "examples"}
    for row, expected in zip(in_order(found), in_order(wanted), strict=True):
        assert row.get("losses", []) == pytest.approx(expected.get("losses", []), rel=1e-5)
        assert {name: row[name] for name in row.keys() - rounded} == {
            name: expected[name] for name in expected.keys() - rounded
        }


def test_two_hosts_with_disks_of_their_own_write_what_one_writes(done, tiny_root, tmp_path):
    """Tunings of a population, divided between the hosts' devices, against one by one on one."""

    def cache(host):
        return tmp_path / f"cache{host}"

    workdir = tmp_path / "run"
    (code, out, err), (other_code, other_out, other_err) = run_hosts(
        2, tiny_root, workdir, cache, population=4
    )
    assert (code, other_code) == (0, 0), err + other_err
    assert "4 x cpu" in err
    assert_same_rows(rows(workdir), rows(done.workdir))
    table = done.process.stdout.splitlines()[:-2]
    assert out.splitlines()[-len(table) - 2 : -2] == table
    assert (workdir / "report.html").exists()
    assert "SAFE" not in other_out  # the first host alone reports progress
    assert other_err == ""
    for file in (cache(0) / "banks").rglob("*.npy"):
        copies = [c / file.relative_to(cache(0)) for c in (cache(1), done.cache)]
        assert all(copy.read_bytes() == file.read_bytes() for copy in copies)


def test_hosts_that_die_or_stop_go_on_together(done, tiny_root, tmp_path):
    """Two hosts with one disk and ten steps: each dies once, then one of them is sent SIGTERM."""
    workdir = tmp_path / "run"

    def go_on(*moments):
        return run_hosts(
            1, tiny_root, workdir, lambda _: tmp_path / "cache", moments,
            shots="4", seeds="1", checkpoint_every=1,
        )  # fmt: skip

    for victim in (1, 0):  # one that the other waits for, then the one where all meet
        ended = go_on((victim, "step", 3, signal.SIGKILL))
        for host, (code, _, err) in enumerate(ended):
            assert code == -signal.SIGKILL if host == victim else code != 0, err
            assert (f"host {host} of 2: " if host else "error: ") + hosts.GONE in err

    (code, _, err), (other_code, _, other_err) = go_on((1, "step", 2, signal.SIGTERM))
    assert (code, other_code) == (128 + signal.SIGTERM,) * 2, err + other_err
    resumed = int(re.search(r"resuming at step (\d+) of 10", err)[1])
    assert 2 <= resumed < 6
    stopped = int(re.search(r"SIGTERM: stopped after step (\d+)", err)[1])
    assert stopped == resumed + 3  # a step later than the signal: no step waits for the other host

    (code, _, err), (other_code, *_) = go_on()
    assert (code, other_code) == (0, 0), err
    assert f"resuming at step {stopped} of 10" in err
    first = [row for row in rows(done.workdir) if (row["shots"], row["seed"]) == (4, 1)]
    assert_same_rows(rows(workdir), first)
    assert not list((tmp_path / "cache").rglob(".host-*"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((True, "somewhere:1", 2, 0), "--distributed finds the other hosts by itself"),
        ((False, "somewhere:1", None, 0), "belong together"),
        ((False, "somewhere", 2, 0), "--coordinator=somewhere: HOST:PORT is expected"),
        ((False, "somewhere:1", 2, 2), "do not find each other"),
    ],
)
def test_flags_that_do_not_fit_are_refused(given, message):
    flags = hosts.ClusterFlags(*given, TIMEOUT)
    with pytest.raises(hosts.InputError, match=message), hosts.cluster(flags):
        pytest.fail("joined")


def test_hosts_that_do_not_find_each_other_say_so(lonely_host):
    out, err = lonely_host.communicate(timeout=60)
    assert lonely_host.returncode != 0
    assert "error: the hosts do not find each other in 1 seconds: start the" in err
    assert out == ""


def test_one_host_needs_no_other():
    with hosts.cluster(hosts.ClusterFlags()):
        assert (hosts.count(), hosts.is_first(), hosts.prefix()) == (1, True, "")
        assert hosts.from_first({"a": [1]}) == {"a": [1]}
        with pytest.raises(hosts.InputError, match="mend it"), hosts.raise_together():
            raise hosts.InputError("mend it")

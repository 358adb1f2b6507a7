"""One writer for a run: claims that a dead process cannot hold, and that nobody can make twice."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace

import pytest

from families.units import RunFailed
from train import lease
from train.lease import LeaseHeld, Owner, acquire_lease, lease_holder, leased


def left_by(folder, owner, number=1, silent_for=0.0):
    """A claim as another process left it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"claim-{number:06}.json"
    path.write_text(json.dumps(asdict(owner)))
    moment = time.time() - silent_for
    os.utime(path, (moment, moment))


def elsewhere(**more):
    return replace(Owner.me(), host="another", **more)


def test_a_run_that_is_being_trained_is_refused_and_free_again_afterwards(tmp_path):
    with leased(tmp_path / "run"):
        assert lease_holder(tmp_path / "run") is not None
        with pytest.raises(LeaseHeld, match=f"run is being trained by process {os.getpid()} on"):
            acquire_lease(tmp_path / "run")
    assert lease_holder(tmp_path / "run") is None
    with leased(tmp_path / "run"):
        pass
    assert list((tmp_path / "run").iterdir()) == []


def test_a_killed_process_holds_nothing(tmp_path):
    code = (
        "import sys, pathlib, train.lease as c; c.acquire_lease(pathlib.Path(sys.argv[1])); "
        "print('ours', flush=True); input()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"ours\n"
    with pytest.raises(LeaseHeld):
        acquire_lease(tmp_path)
    process.send_signal(signal.SIGKILL)
    time.sleep(0.1)  # still unreaped, and dead all the same
    with leased(tmp_path):
        pass
    process.communicate()


def test_a_machine_without_a_sign_of_life_holds_nothing_and_one_with_it_does(tmp_path):
    left_by(tmp_path, elsewhere(), silent_for=lease.STALE - 20)
    with pytest.raises(LeaseHeld, match="on another"):
        acquire_lease(tmp_path)
    left_by(tmp_path, elsewhere(), silent_for=lease.STALE + 20)
    with leased(tmp_path) as ours:
        assert ours.number == 2


def test_a_process_number_that_is_used_again_is_another_process(tmp_path):
    left_by(tmp_path, replace(Owner.me(), began="1"))
    with leased(tmp_path):
        pass


def test_a_container_on_this_host_is_judged_by_its_signs_of_life(tmp_path):
    left_by(tmp_path, replace(Owner.me(), space="other numbers", pid=2**22))
    with pytest.raises(LeaseHeld):
        acquire_lease(tmp_path)


def test_an_owner_that_slept_finds_its_run_taken_and_writes_nothing_more(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "HEARTBEAT", 0.02)
    ours = acquire_lease(tmp_path)
    ours.check()
    left_by(tmp_path, elsewhere(), number=2)
    deadline = time.monotonic() + 5
    while not ours.lost and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(RunFailed, match=r"is now trained by process .* on another"):
        ours.check()
    ours.release()
    assert lease_holder(tmp_path) is not None


def test_an_owner_that_wakes_looks_before_it_does_anything(tmp_path, monkeypatch):
    ours = acquire_lease(tmp_path)
    awake = lease._clock
    monkeypatch.setattr(
        lease, "_clock", lambda: awake() + 3600
    )  # the machine slept; its thread has not woken yet
    ours.check()
    left_by(tmp_path, elsewhere(), number=2)
    monkeypatch.setattr(lease, "_clock", lambda: awake() + 7200)
    with pytest.raises(RunFailed, match="is now trained by"):
        ours.check()
    ours.release()


def test_signs_of_life_are_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "HEARTBEAT", 0.02)
    with leased(tmp_path) as ours:
        before = ours.path.stat().st_mtime_ns
        time.sleep(0.3)
        assert ours.path.stat().st_mtime_ns > before


def _try(folder, start, results):
    start.wait()
    try:
        acquire_lease(folder)
        results.put(True)
        time.sleep(1.0)
    except LeaseHeld:
        results.put(False)


def test_of_many_who_take_over_a_dead_claim_at_once_one_succeeds(tmp_path):
    context = multiprocessing.get_context("fork")
    for attempt in range(3):
        folder = tmp_path / str(attempt)
        left_by(folder, elsewhere(), silent_for=1000)
        start, results = context.Event(), context.Queue()
        workers = [context.Process(target=_try, args=(folder, start, results)) for _ in range(6)]
        for worker in workers:
            worker.start()
        start.set()
        assert sum(results.get(timeout=20) for _ in workers) == 1
        for worker in workers:
            worker.join()

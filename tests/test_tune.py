"""The tuner: lines through two probes pick what a whole grid would, and what runs out of memory harms nobody."""

import json
import os

import numpy as np
import pytest

from families.units import BadInput
from scaling.machine import MachineFile, StepBackend
from train.backend import BackendRequest, select_backend
from train.tune import probe
from train.tune.model import (
    Line,
    Model,
    Trial,
    TrialConfig,
    micro_batches,
    pick,
    space_rows,
    two_micro_batches,
)
from train.tune.probe import run_probe
from train.tune.tuner import scaling_curve, tune

from . import tiny
from .test_examples import TUNE, smaller

PLAIN = StepBackend(threads=2)
FAST = StepBackend(dtype="bf16", compile=True, attention="eager", threads=2)


@pytest.fixture(autouse=True)
def own_profile(monkeypatch, tmp_path):
    monkeypatch.setenv("SCALING_CACHE", str(tmp_path))
    monkeypatch.setattr("train.tune.tuner.available_dtypes", lambda device: ("fp32", "bf16"))


def settings(**changes):
    return tiny.settings(
        **{"tokens": 10**6, "batch_size": 16, "lr": None, "warmup": None, "threads": 2, **changes}
    )


# The arithmetic


def test_two_probes_draw_the_line_that_memory_and_time_follow():
    rng = np.random.default_rng(0)
    for fixed, slope in rng.uniform(0.1, 5.0, (50, 2)):
        low, high = sorted(rng.choice(np.arange(1, 33), 2, replace=False).tolist())
        line = Line.through((low, fixed + slope * low), (high, fixed + slope * high))
        assert (line.fixed, line.slope) == (pytest.approx(fixed), pytest.approx(slope))


def test_a_line_promises_nothing_below_nothing():
    assert Line.through((1, 5.0), (4, 3.0)) == Line(fixed=5.0, slope=0.0)
    assert Line.through((1, 1.0), (4, 8.0)) == Line(fixed=0.0, slope=2.0)
    assert Line.through((4, 8.0), (4, 8.0)).at(2) == pytest.approx(4.0)


def test_the_pick_is_the_best_of_the_whole_grid_that_fits():
    rng = np.random.default_rng(1)
    for _ in range(50):
        models = [
            Model(
                way=TrialConfig(engine=PLAIN, devices=int(rng.choice([1, 2, 4]))),
                memory=Line(fixed=rng.uniform(1, 5), slope=rng.uniform(0.1, 1)),
                seconds=Line(fixed=rng.uniform(0, 2), slope=rng.uniform(0.1, 1)),
                update=rng.uniform(0, 2),
            )
            for _ in range(3)
        ]
        room = rng.uniform(4, 15)
        grid = [
            (16 // (model.way.devices * m) * model.seconds.at(m) + model.update, model.memory.at(m))
            for model in models
            for m in range(1, 17)
            if 16 % (model.way.devices * m) == 0
        ]
        best = min((step for step, memory in grid if memory <= room), default=None)
        found = pick(models, 16, room)
        assert (None if found is None else pytest.approx(found.step)) == best


@pytest.mark.parametrize("batch", [1, 2, 3, 6, 8, 12, 64, 512])
@pytest.mark.parametrize("devices", [1, 2])
def test_the_global_batch_is_what_it_was(batch, devices):
    for micro in micro_batches(batch, devices):
        name = TrialConfig(engine=PLAIN, devices=devices).name(micro, batch)
        passes = int(name.split("_")[1].removeprefix("gas"))
        assert passes * micro * devices == batch


def test_probes_lie_within_what_is_allowed():
    for batch in range(1, 65):
        allowed = micro_batches(batch)
        low, high = two_micro_batches(allowed)
        assert {low, high} <= set(allowed)
        assert low < high or len(allowed) == 1


def test_the_table_has_a_row_for_each_space_and_one_for_all():
    ways = [TrialConfig(engine=PLAIN), TrialConfig(engine=FAST)]
    tried = [Trial(way=ways[0], micro=2, seconds=1.0), Trial(way=ways[1], micro=6, seconds=1.5),
             Trial(way=ways[1], micro=12, fits=False)]  # fmt: skip
    rows = space_rows(tried, 12)
    assert [(row.space, row.experiments) for row in rows] == [
        ("z0 fp32-plain-sdpa-2t", 1), ("z0 bf16-compiled-eager-2t", 2), ("global", 3),
    ]  # fmt: skip
    assert rows[-1].best_name == "z0_gas2_tmbspg6"
    assert rows[-1].best == pytest.approx(4.0)


# The search, on a machine made up


class Machine:
    """Answers probes by lines of its own; remembers what was asked. Memory in bytes."""

    def __init__(self, room=8e9, each=0.2e9):
        self.room, self.each, self.asked = room, each, []

    def seconds(self, ask):
        speed = (2.0 if ask["dtype"] == "bf16" else 1.0) * (1.5 if ask["compile"] else 1.0)
        speed *= 0.6 if ask["threads"] == 1 else 1.0
        return (0.05 + 0.1 * ask["micro_batch"]) * ask["n_layer"] / speed

    def __call__(self, asks, devices=1):
        answers = []
        for text in asks:
            ask = json.loads(text["settings"])
            self.asked.append((ask, devices))
            memory = 1e9 + self.each * ask["micro_batch"]
            if memory > self.room:
                answers.append({"fits": False})
                continue
            passes = ask["batch_size"] // (devices * ask["micro_batch"])
            seconds = self.seconds(ask)
            answers.append(
                {
                    "fits": True,
                    "seconds": seconds,
                    "update": 0.02,
                    "first": 30.0 if ask["compile"] else 0.1,
                    "memory": memory,
                    "step": passes * seconds + 0.02,
                }
            )
        return answers


def search(monkeypatch, machine, room=8e9, wanted=None, **changes):
    monkeypatch.setattr(probe, "run_probe", machine)
    return tune(
        settings(**changes),
        wanted or BackendRequest(threads=2),
        device="cpu",
        room=room,
        log=lambda line: None,
    )


def test_four_probes_find_the_best_of_the_grid(monkeypatch):
    machine = Machine()
    found = search(monkeypatch, machine)
    assert found.probes <= 4
    assert found.picked.model.way.engine == FAST
    ask = {"dtype": "bf16", "compile": True, "threads": 2, "n_layer": 2}
    grid = {m: 16 / m * machine.seconds({**ask, "micro_batch": m}) + 0.02 for m in (1, 2, 4, 8, 16)}
    assert found.picked.micro == min(grid, key=grid.get)
    assert found.picked.step == pytest.approx(grid[found.picked.micro])
    assert found.verified.step == pytest.approx(found.picked.step)
    assert found.verified.probed.memory == pytest.approx(found.picked.memory)


@pytest.mark.parametrize(("slower", "dtype"), [(1.2, "bf16"), (1.6, "fp32")])
def test_sixteen_bits_a_little_slower_are_compiled_all_the_same(monkeypatch, slower, dtype):
    class Casts(Machine):
        def seconds(self, ask):
            return super().seconds(ask) * (
                2.0 * slower if ask["dtype"] == "bf16" and not ask["compile"] else 1.0
            )

    found = search(monkeypatch, Casts())
    assert (found.picked.model.way.engine.dtype, found.picked.model.way.engine.compile) == (dtype, True)


def test_memory_keeps_the_micro_batch_down_and_the_global_batch_as_it_is(monkeypatch):
    found = search(monkeypatch, Machine(room=3e9), room=2.2e9)
    assert found.picked.memory <= 2.2e9
    assert found.picked.micro == 4
    assert found.picked.name == "z0_gas4_tmbspg4"


def test_a_probe_that_runs_out_of_memory_is_taken_again_smaller(monkeypatch):
    found = search(monkeypatch, Machine(room=1.9e9), room=1e10)
    assert any(not one.fits for one in found.tried)
    assert found.verified.probed.fits
    assert found.verified.probed.memory <= 1.9e9


def test_a_member_too_big_for_the_memory_is_one_line(monkeypatch):
    with pytest.raises(BadInput, match="memory is 600M bytes; one sequence of tiny needs"):
        search(monkeypatch, Machine(), room=6e8)


def test_training_takes_what_was_tuned(monkeypatch):
    monkeypatch.setattr("train.tune.tuner.cpu_share", lambda threads, seconds: 0.75)
    found = search(monkeypatch, Machine(room=3e9), room=2.2e9)
    (kept,) = MachineFile.open().machines.values()
    assert {one.share for one in kept} == {0.75}
    chosen = settings()
    assert chosen.micro_batch == found.picked.micro == 4
    asks = {"steps": 1000, "expected": 1000.0, "device": "cpu", "log": lambda line: None}
    assert select_backend(BackendRequest(), chosen, **asks, measure=None) == FAST
    assert select_backend(BackendRequest(), chosen, **{**asks, "steps": 5}, measure=None) == StepBackend(), (
        "compiling does not pay"
    )


def test_a_curve_is_measured_where_it_was_measured_and_fitted_through_it(monkeypatch):
    found = search(monkeypatch, Machine())
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    curve = scaling_curve(found, [1, 2], lambda line: None)
    assert set(curve.measured) == {1, 2}
    for count, seconds in curve.measured.items():
        assert curve.model.seconds(count) == pytest.approx(seconds, rel=1e-6)
    assert curve.model.seconds(4) < curve.measured[2]
    for bad in ([1], [1, 3], [0, 1]):
        with pytest.raises(BadInput, match="devices is"):
            scaling_curve(found, bad, lambda line: None)


# Real processes


def ask_of(limit, **changes):
    return {
        "settings": settings(**changes).model_copy(update={"threads": 1}).dump().replace("\n", " "),
        "device": "cpu", "zero": 0, "limit": limit, "whole": True,
    }  # fmt: skip


def test_a_real_probe_answers_and_one_without_memory_says_so_and_harms_nobody():
    good, greedy = run_probe(
        [ask_of(None, batch_size=2), ask_of(1.5e9, batch_size=2048, micro_batch=2048, n_positions=256)]
    )
    assert good["fits"]
    assert good["step"] == pytest.approx(good["seconds"] + good["update"], rel=0.9)
    assert 5e7 < good["memory"] < 4e9
    assert greedy == {"fits": False}


@pytest.mark.slow
def test_tune_prints_its_table_and_two_processes_are_measured(cli):
    done = cli(*smaller("tune", TUNE), "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["probes"] <= 6
    assert set(found["curve"]["measured_seconds"]) == {"1", "2"}
    assert found["spaces"][-1]["space"] == "global"
    assert found["step_seconds"]["measured"] > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--devices", "1,x"], "devices is '1,x'; write numbers separated by commas, like 1,2"),
        (["--devices", "1"], "devices is 1; give"),
        (["--devices", "1,4096"], "devices is 1,4096; give"),
        (["--memory", "lots"], "memory is 'lots'"),
    ],
)
def test_what_cannot_be_tuned_is_one_line_before_anything_is_measured(cli, words, said):
    done = cli("tune", "family=gpt2", "batch_size=4", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_printed_table_names_each_way_once_and_says_whether_processes_pay(monkeypatch, capsys):
    from scaling.cli.tune import _print, _print_curve
    from scaling.planning.throughput import fit_times
    from train.tune.tuner import ScalingCurve

    tuning = search(monkeypatch, Machine())
    _print(tuning)
    _print_curve(
        tuning, ScalingCurve(measured={1: 4.0, 2: 2.5}, model=fit_times({1: 4.0, 2: 2.5}), threads=1), 10**9
    )
    lines = capsys.readouterr().out.splitlines()
    for start in ("baseline", "hand-tuned", "tuned ", "global"):
        assert sum(line.startswith(start) for line in lines) == 1
    sources = [
        line.split()[-1]
        for line in lines
        if line.strip().endswith(("measured", "predicted")) and line.split()[0].isdigit()
    ]
    assert sources == ["measured", "measured", "predicted", "predicted"]
    assert "devices=" in lines[-1]


def test_a_run_may_not_take_all_the_memory_that_is_free(monkeypatch):
    from train.backend import free_memory

    pages = {"SC_AVPHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr("os.sysconf", pages.__getitem__)
    assert 0.5 * 1000 * 4096 < free_memory("cpu") < 0.9 * 1000 * 4096

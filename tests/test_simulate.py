"""A planned sweep tried on a known surface."""

import json

import numpy as np
import pytest

from families.units import BadInput
from scaling.laws import Law
from scaling.planning.experiment_design import PilotQuery, pilot_plan
from scaling.planning.planfile import PlanFile, write_plan
from scaling.planning.simulate import SimulatedSweep, simulate
from scaling.published_laws import published_law

SURFACE = published_law("chinchilla").law
PLAN, BASKET = pilot_plan(PilotQuery(target="gpt2-125m", tokens="2.5B"))
TARGET = (124_439_808.0, 2.5e9)


def test_a_good_sweep_covers_what_it_promises():
    verdict = simulate(SimulatedSweep.of(PLAN, "total"), SURFACE, target=TARGET, replicates=8)
    assert verdict.truth == SURFACE.loss(*TARGET)
    assert verdict.rms_error < 0.04
    assert abs(verdict.bias) <= verdict.rms_error
    assert 0.5 <= verdict.coverage_80 <= verdict.coverage_95 <= 1.0
    assert verdict.coverage_95 >= 0.8
    # pilot foretells the interval that the fits then have
    assert verdict.half_width_80 == pytest.approx(BASKET.half_width_80, rel=0.25)


def test_less_noise_means_less_error():
    quiet, loud = (
        simulate(
            SimulatedSweep.of(PLAN, "total"),
            SURFACE,
            target=TARGET,
            replicates=2,
            run_noise=noise,
            row_noise=noise,
        ).half_width_80
        for noise in (0.0005, 0.01)
    )
    assert quiet < loud


def test_outcomes_are_a_function_of_the_seed():
    sweep = SimulatedSweep.of(PLAN, "total")
    once, twice, other = (
        simulate(sweep, SURFACE, target=TARGET, replicates=2, seed=seed) for seed in (1, 1, 2)
    )
    assert once == twice != other


def test_too_small_a_sweep_or_senseless_noise_is_refused():
    with pytest.raises(BadInput, match="at least 4"):
        SimulatedSweep.of(PlanFile(members=PLAN.members[:3]), "total")
    with pytest.raises(BadInput, match="negative"):
        simulate(SimulatedSweep.of(PLAN, "total"), SURFACE, target=TARGET, run_noise=-1.0)
    with pytest.raises(BadInput, match="replicates"):
        simulate(SimulatedSweep.of(PLAN, "total"), SURFACE, target=TARGET, replicates=0)


def test_noise_free_rows_lie_on_the_surface():
    law = Law(E=2.0, A=60.0, B=300.0, alpha=0.35, beta=0.4)
    runs = SimulatedSweep.of(PLAN, "total").observe(
        law, np.random.default_rng(0), run_noise=0.0, row_noise=0.0
    )
    assert len(runs) == sum(len(one.rungs) for one in PLAN.members)
    assert all(run.loss == pytest.approx(law.loss(run.params, run.tokens)) for run in runs)


def test_the_command_reports(cli, tmp_path):
    path = tmp_path / "ladder.json"
    write_plan(PLAN, path)
    arguments = (
        "simulate",
        str(path),
        "--target",
        "gpt2-125m",
        "--tokens",
        "2.5B",
        "--replicates",
        "3",
        "--json",
    )
    value = json.loads(cli(*arguments).stdout)
    assert value["replicates"] == 3
    assert value["truth"] == pytest.approx(SURFACE.loss(*TARGET))
    assert cli("simulate", str(tmp_path / "nothing.json"), "--target", "1M", "--tokens", "1M").returncode == 2

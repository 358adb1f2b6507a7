"""The live forecast: a law of the curve that knows the schedule, what siblings teach, and intervals."""

from dataclasses import replace

import numpy as np
import pytest

from families.units import BadInput
from scaling.monitoring.curves import PlannedRung
from scaling.monitoring.forecast import combine_forecasts, forecast_final_loss, offset_at
from scaling.monitoring.siblings import default_prior, forecast_from_siblings, gp_at_size, loss_gap
from scaling.monitoring.trajectory import NAMES, LrProfile, Points, TrajectoryPrior, fit_trajectory
from scaling.schedule import Schedule
from scaling.stats import Z_80

from .simulated_runs import family, going, law, level_of, seen_until, simulated, standing, taught

WSD = Schedule(peak=0.01, warmup=20, steps=1000).to(1000, 0.2)
COSINE = Schedule(peak=0.01, warmup=20, steps=1000, kind="cosine")


# The law


def test_annealing_brings_nothing_before_the_rate_falls_and_at_most_all_of_it():
    profile = LrProfile.of(WSD)
    step = np.array([100.0, 500.0, 800.0, 850.0, 900.0, 1000.0])
    for fast in profile.annealed(step, np.array([5.0, 50.0, 500.0])):
        assert np.all(fast[:3] < 1e-6)
        assert np.all(np.diff(fast[2:]) > 0)
        assert fast[-1] < 1


def test_a_longer_memory_pays_later():
    quick, slow = LrProfile.of(WSD).annealed(np.array([850.0, 1000.0]), np.array([5.0, 200.0]))
    assert np.all(quick > slow)


def test_a_constant_rate_carries_a_run_a_step_for_a_step():
    profile = LrProfile.of(Schedule(peak=0.01, warmup=0, steps=700))
    assert profile.area_at(np.array([350.0, 700.0])) == pytest.approx([350, 700])
    assert profile.annealed(np.array([700.0]), np.array([10.0]))[0] == pytest.approx(0, abs=1e-9)


def test_cosine_carries_a_run_less_far_than_wsd_but_further_than_the_area_under_it():
    cosine, wsd = LrProfile.of(COSINE).area[-1], LrProfile.of(WSD).area[-1]
    area = sum(COSINE.lr(step) for step in range(1000)) / COSINE.peak
    assert area < cosine < wsd < 1000


@pytest.mark.parametrize("schedule", [WSD, COSINE])
def test_known_constants_are_recovered_from_a_curve_with_little_noise(schedule):
    profile = LrProfile.of(schedule)
    reference = profile.area[-1]
    step = np.linspace(60, 1000, 150)
    loss = law(profile, step, reference=reference, level=3.6, slope=0.3, gain=0.25, alpha=0.45, memory=20.0)
    loss = loss + np.random.default_rng(0).normal(0, 0.002, len(step))
    points = Points(
        profile=profile, step=step, loss=loss, noise=np.full(len(step), 0.002), train=np.zeros(len(step))
    )
    vague = TrajectoryPrior(
        mean=np.array([3.5, 0.2, 0.2, 0, 0]),
        sd=np.array([3, 0.3, 0.3, 1, 1.0]),
        alpha=(0.5, 0.5),
        log_memory=(3.0, 2.0),
    )
    mean, sd = fit_trajectory((points,), vague, reference).constants()
    for name, value, found, error in zip(
        ("level", "slope", "gain"), (3.6, 0.3, 0.25), mean, sd, strict=False
    ):
        assert abs(found - value) < max(4 * error, 0.01), name
    assert mean[5] == pytest.approx(0.45, abs=0.08)
    assert NAMES[:3] == ("level", "slope", "gain")


def test_a_cooldown_ahead_lowers_the_forecast_by_about_what_siblings_gained():
    rng = np.random.default_rng(3)
    siblings, batches = family(rng)
    run = simulated(going("x", 220_000), rng, batches=batches, level=level_of(220_000), until=330)
    flat = run.plan.model_copy(update={"rungs": (PlannedRung(steps=1000, folder="flat"),)})
    constant = forecast_final_loss(
        type(run)(name="x", plan=flat, trunk=run.trunk, branches={}, finals={}), siblings, steps=1000
    )
    cooled = forecast_final_loss(run, siblings, steps=1000)
    assert 0.12 < constant.loss - cooled.loss < 0.35


def test_the_forecast_does_not_look_past_the_step_it_is_made_at():
    rng = np.random.default_rng(4)
    siblings, batches = family(rng)
    whole = simulated(going("x", 220_000), rng, batches=batches, level=level_of(220_000))
    then = forecast_final_loss(seen_until(whole, 333), siblings, steps=1000)
    now = forecast_final_loss(whole, siblings, steps=1000, until=333)
    assert then.loss == pytest.approx(now.loss)
    assert then.sd == pytest.approx(now.sd)


# What siblings teach


def test_siblings_of_any_size_leave_a_constant_at_the_runs_own_size_between_them():
    mean, sd = gp_at_size(
        np.array([-1.0, 1.0]), np.array([2.0, 4.0]), np.array([0.1, 0.1]),
        before=(0.0, 10.0), trend=(0.0, 2.0), wander=0.1, scatter=0.1,
    )  # fmt: skip
    assert mean == pytest.approx(3.0, abs=0.05)
    assert 0.1 < sd < 0.4


def test_far_siblings_teach_less_than_near_ones():
    def doubt(distance):
        return gp_at_size(
            np.array([distance]), np.array([2.0]), np.array([0.1]),
            before=(0.0, 5.0), trend=(0.0, 1.0), wander=0.3, scatter=0.1,
        )[1]  # fmt: skip

    assert doubt(-0.1) < doubt(-1.0) < doubt(-3.0) < 5.2


def test_the_whole_eval_set_is_placed_by_a_line_through_finished_rungs():
    mean, sd = offset_at(3.5, [(4.0, 3.95), (3.8, 3.73), (3.6, 3.51)])
    assert mean == pytest.approx(-0.1, abs=0.01)
    assert sd < 0.03


def test_where_siblings_of_the_same_length_ended_counts_and_other_lengths_and_schedules_do_not():
    rng = np.random.default_rng(11)
    siblings, batches = family(rng)
    run = simulated(going("x", 220_000), rng, batches=batches, level=level_of(220_000), until=333)
    mean, sd = forecast_from_siblings(run, siblings, 1000)
    assert min(one.finals[1000] for one in siblings) > mean > min(one.finals[1000] for one in siblings) - 0.15
    assert sd < 0.15
    shorter = [replace(one, finals={400: one.finals[400]}) for one in siblings]
    assert forecast_from_siblings(run, shorter, 1000) is None
    cosine = simulated(going("c", 90_000, schedule="cosine"), rng, batches=batches, level=level_of(90_000))
    assert forecast_from_siblings(run, [cosine], 1000) is None


def test_a_gap_on_the_same_batches_is_known_far_better_than_a_line_of_loss():
    rng = np.random.default_rng(12)
    (sibling, *_), batches = family(rng)
    run = simulated(going("x", 220_000), rng, batches=batches, level=level_of(220_000), until=333)
    found, error = loss_gap(run, 1000, sibling, 1000)
    now = [one.trunk.loss[one.trunk.step == 330].item() for one in (sibling, run)]
    assert found == pytest.approx(np.log(now[0] / now[1]), abs=0.015)
    assert error < 0.003  # a line is off by 0.1 nats


def test_a_gap_on_other_batches_is_taken_from_the_windows_that_both_looked_at():
    rng = np.random.default_rng(13)
    (sibling, *_), _ = family(rng)
    other = going("x", 220_000, batches="other")
    run = simulated(other, rng, noise=0.4, level=level_of(220_000), until=333)
    found, _ = loss_gap(run, 1000, sibling, 1000)
    expected = np.log(np.interp(330, sibling.trunk.eval_step, sibling.trunk.eval_loss)) - np.log(
        np.interp(330, run.trunk.eval_step, run.trunk.eval_loss)
    )
    assert found == pytest.approx(expected, abs=0.02)  # a line of ten steps is off by 0.4 nats
    assert loss_gap(replace(run, trunk=run.trunk.until(60)), 1000, sibling, 1000) is None


def test_a_run_that_is_ahead_now_is_expected_ahead_but_less_so_and_the_less_the_more_is_to_come():
    siblings, healthy = taught()
    alone = siblings[-1:]  # so that nothing is learnt of how long gaps last
    kept = []
    for step in (250, 500, 750):
        ends = [
            forecast_from_siblings(standing(healthy, ahead), alone, 1000, step)[0] for ahead in (0.0, 0.04)
        ]
        kept.append(np.log(ends[0] / ends[1]) / 0.04)
    assert 0 < kept[0] < kept[1] < kept[2] < 1


def test_siblings_whose_gaps_lasted_teach_that_gaps_last():
    _, healthy = taught()
    here = going("x", 220_000).params

    def expected(lasting):
        """Of a run 4 % ahead of three siblings of its own size that stood 8 % apart, and ended `lasting` of it apart."""
        siblings = [
            replace(
                standing(healthy, -0.08 * i), name=f"s{i}",
                finals={1000: 3.0 * np.exp(0.08 * i * lasting)},
            )
            for i in range(3)
        ]  # fmt: skip
        assert {one.plan.params for one in siblings} == {here}
        return np.log(3.0 / forecast_from_siblings(standing(healthy, 0.04), siblings, 1000, 333)[0]) / 0.04

    assert 0.1 < expected(0.2) < 0.35
    assert 0.65 < expected(1.0) < 1.0


def test_a_sibling_out_of_line_with_the_others_counts_for_less(monkeypatch):
    siblings, healthy = taught()
    off = replace(siblings[-1], finals={step: 1.06 * loss for step, loss in siblings[-1].finals.items()})
    plain = forecast_from_siblings(healthy, siblings, 1000, 333)[0]
    robust = forecast_from_siblings(healthy, [*siblings[:-1], off], 1000, 333)[0]
    monkeypatch.setattr("scaling.monitoring.constants.DISAGREEMENT", np.inf)
    assert forecast_from_siblings(healthy, siblings, 1000, 333)[0] == pytest.approx(plain, rel=1e-3), (
        "those in line all count"
    )
    believed = forecast_from_siblings(healthy, [*siblings[:-1], off], 1000, 333)[0]
    assert abs(robust - plain) < 0.3 * abs(believed - plain)


def test_siblings_ends_count_by_their_certainty_and_little_where_the_curve_goes_elsewhere():
    assert combine_forecasts((3.0, 0.05), None) == (3.0, 0.05)
    between, doubt = combine_forecasts((3.0, 0.05), (3.06, 0.05))
    assert between == pytest.approx(3.03)
    assert doubt < 0.05
    far, _ = combine_forecasts((4.0, 0.05), (3.0, 0.05))
    assert far > 3.99


def test_siblings_that_read_the_same_batches_make_the_forecast_surer():
    doubts = {}
    for batches in ("same", "other"):
        rng = np.random.default_rng(5)
        siblings, noise = family(rng)
        run = simulated(
            going("x", 220_000, batches=batches), rng, batches=noise, level=level_of(220_000), until=330
        )
        doubts[batches] = forecast_final_loss(run, siblings, steps=1000).sd
    assert doubts["same"] < doubts["other"]


def test_without_siblings_the_forecast_is_of_the_runs_own_looks_and_much_wider():
    rng = np.random.default_rng(6)
    siblings, batches = family(rng)
    run = simulated(going("x", 220_000), rng, batches=batches, level=level_of(220_000), until=330)
    alone, taught = forecast_final_loss(run, (), steps=1000), forecast_final_loss(run, siblings, steps=1000)
    assert (alone.target, taught.target) == ("glance", "held-out")
    assert alone.sd > 1.5 * taught.sd


def test_the_intervals_cover_simulated_runs_at_least_as_often_as_they_say():
    inside, errors = [], []
    for seed in range(40):
        rng = np.random.default_rng([7, seed])
        of_study = {
            "alpha": rng.uniform(0.3, 0.7),
            "slope": rng.uniform(0.22, 0.36),
            "gain": rng.uniform(0.18, 0.32),
        }
        siblings, batches = family(rng, **of_study)
        own = {key: value * rng.normal(1, 0.04) for key, value in of_study.items()}
        level = level_of(220_000) + rng.normal(0, 0.03)
        run = simulated(going("x", 220_000), rng, batches=batches, level=level, **own)
        seen = forecast_final_loss(run, siblings, steps=1000, until=333)
        truth = run.finals[1000]
        errors.append(abs(seen.loss / truth - 1))
        inside.append(abs(seen.loss - truth) < Z_80 * seen.sd)
    assert np.mean(inside) >= 0.8
    assert np.mean(errors) < 0.01


def test_a_longer_look_makes_the_forecast_surer():
    rng = np.random.default_rng(8)
    siblings, batches = family(rng)
    run = simulated(going("x", 220_000), rng, batches=batches, level=level_of(220_000))
    doubts = [forecast_final_loss(run, siblings, steps=1000, until=step).sd for step in (200, 400, 780, 960)]
    assert doubts == sorted(doubts, reverse=True)


def test_too_little_is_said_to_be_too_little():
    run = simulated(going(), np.random.default_rng(9), level=3.6, until=30)
    with pytest.raises(BadInput, match="has logged 3 lines; a forecast needs 4"):
        forecast_final_loss(run, (), steps=1000)


def test_the_universal_prior_scales_with_the_loss():
    assert default_prior(4.0).mean == pytest.approx(2 * default_prior(2.0).mean)

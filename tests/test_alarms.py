"""Alarms: faults are seen early, and healthy runs raise none."""

from dataclasses import replace

import numpy as np
import pytest

from scaling.monitoring.alarms import first_alarm

from .simulated_runs import changed, family, going, level_of, seen_until, simulated, taught


@pytest.fixture(scope="module")
def study():
    return taught()


def test_healthy_runs_raise_no_alarm_with_or_without_siblings(study):
    siblings, healthy = study
    for run in (healthy, *siblings):
        for steps in run.finals:
            assert first_alarm(run, siblings[:1] if run is not healthy else siblings, steps) is None
            assert first_alarm(run, (), steps) is None


@pytest.mark.parametrize("taught", [True, False])
@pytest.mark.parametrize(
    ("how", "fault"),
    [
        (lambda step, loss: loss + 0.8, "diverging"),
        (lambda step, loss: loss + 0.008 * (step - 400), "diverging"),
        (lambda step, loss: loss - 0.012 * (step - 400), "repeating data"),
    ],
)
def test_a_fault_is_seen_within_a_tenth_of_the_budget(study, taught, how, fault):
    siblings, healthy = study
    found = first_alarm(changed(healthy, 400, how), siblings if taught else (), 1000, since=400)
    assert found is not None
    assert found.fault == fault
    assert found.step - 400 <= 100


def test_a_run_that_stays_where_it_began_is_not_learning(study):
    _, healthy = study
    stuck = changed(healthy, 30, lambda step, loss: 6.4 + 0.1 * np.sin(step))
    found = first_alarm(stuck, (), 1000)
    assert found is not None
    assert found.fault == "not learning"
    assert found.step <= 100


def test_a_run_asleep_beside_siblings_that_are_not_awake_either_is_not_learning_where_its_gradient_is_half_theirs(
    study,
):
    siblings, healthy = study

    def slow(run, extra, norm):
        trunk = run.trunk
        loss = np.where(trunk.step <= 200, 6.3 + 0.004 * (100 - trunk.step) / 10 + extra, trunk.loss)
        return replace(run, trunk=replace(trunk, loss=loss, norm=np.full(len(trunk.step), norm)))

    siblings = [slow(one, 0.0, 0.6) for one in siblings]
    ill = replace(slow(healthy, 0.05, 0.28), branches={}, finals={})
    found = first_alarm(ill, siblings, 1000)
    assert found is not None
    assert (found.fault, found.step <= 100) == ("not learning", True)
    well = replace(slow(healthy, -0.02, 0.6), branches={}, finals={})
    early = first_alarm(replace(well, trunk=well.trunk.until(120)), siblings, 1000)
    assert early is None


@pytest.mark.parametrize(
    ("rate", "lost", "regained", "norm"),
    [(0.9, 0.22, 0.15, 0.6), (0.7, 0.185, 0.1, 0.6), (0.9, 0.15, 0.1, 0.4)],
)
def test_a_deeper_run_that_begins_late_and_falls_is_learning(study, rate, lost, regained, norm):
    siblings, healthy = study

    def early(run, loss_at, norm=0.6):
        trunk = run.trunk
        loss = np.where(trunk.step <= 200, loss_at(trunk.step), trunk.loss)
        norms = np.full(len(trunk.step), norm)
        return replace(run, trunk=replace(trunk, loss=loss, norm=norms).until(120), branches={})

    def awake(step):
        return 6.4 - rate * np.log(np.maximum(step, 15) / 15)

    def late(step):  # two thirds as fast from step 30 to 60, then 4 % behind and catching up
        behind, caught_up = np.clip(np.log2(step / np.array([[30], [60]])), 0, 1)
        return awake(step) + lost * behind - regained * caught_up

    others = [early(one, awake) for one in siblings]
    assert first_alarm(replace(early(healthy, late, norm), finals={}), others, 1000) is None
    stuck = replace(early(healthy, lambda step: 6.3 + 0 * step), finals={})
    assert first_alarm(stuck, others, 1000) is not None


def test_a_run_far_behind_that_falls_is_not_diverging_while_it_is_early(study):
    siblings, healthy = study

    def early(run, behind):
        trunk = run.trunk
        steep = 6.4 - 1.2 * np.log(np.maximum(trunk.step, 15) / 15)
        late = steep + behind * np.clip(np.log(trunk.step / 40), 0, 0.9)
        return replace(run, trunk=replace(trunk, loss=late).until(120), branches={})

    others = [early(one, 0.0) for one in siblings]
    falling, standing = (replace(early(healthy, behind), finals={}) for behind in (0.4, 1.3))
    assert first_alarm(falling, others, 1000) is None, "8 % behind, and falling two thirds as fast"
    assert first_alarm(standing, others, 1000) is not None


def test_a_run_far_ahead_of_siblings_that_have_not_begun_is_not_reading_its_data_again(study):
    siblings, healthy = study

    def early(run, rate):
        trunk = run.trunk
        loss = 6.4 - rate * np.log(np.maximum(trunk.step, 15) / 15)
        return replace(run, trunk=replace(trunk, loss=loss).until(120), branches={})

    others = [early(one, 0.5) for one in siblings]
    falling, leaping = (replace(early(healthy, rate), finals={}) for rate in (0.83, 1.3))
    assert first_alarm(falling, others, 1000) is None, "15 % ahead, and falling by 12 to 20 % an e-fold"
    assert first_alarm(leaping, others, 1000) is not None


def test_a_run_of_four_times_the_size_may_be_further_ahead_of_its_siblings():
    rng = np.random.default_rng(10)
    siblings, batches = family(rng)

    def ahead(params, by):
        level = level_of(160_000) - by
        return simulated(going("x", params), rng, batches=batches, level=level)

    near = first_alarm(ahead(220_000, 0.6), siblings, 1000)
    assert near is not None
    assert near.fault == "repeating data"
    assert first_alarm(ahead(640_000, 0.6), siblings, 1000) is None, "0.16; span-10-headers' target was 0.17"
    assert first_alarm(ahead(640_000, 1.2), siblings, 1000) is not None


def test_training_loss_far_below_held_out_loss_is_data_read_again(study):
    siblings, healthy = study
    looks = np.where(healthy.trunk.eval_step > 400, 5.5, healthy.trunk.eval_loss)
    stale = replace(healthy, trunk=replace(healthy.trunk, eval_loss=looks), branches={}, finals={})
    found = first_alarm(stale, siblings, 1000, since=400)
    assert found is not None
    assert (found.fault, found.step) == ("repeating data", 450)
    assert "5.5000 on held-out text" in found.evidence


def test_a_run_that_begins_from_trained_weights_need_not_fall_at_first(study):
    _, healthy = study
    flat = changed(healthy, 0, lambda step, loss: 3.3 + 0.02 * np.sin(step))
    flat = replace(flat, trunk=replace(flat.trunk, eval_loss=np.full(len(flat.trunk.eval_step), 3.4)))
    assert first_alarm(flat, (), 1000) is not None
    tuned = replace(flat, plan=flat.plan.model_copy(update={"fresh": False}))
    assert first_alarm(seen_until(tuned, 190), (), 1000) is None

"""Schedules of the learning rate: warm-up, a trunk that rungs share, and the way down."""

import itertools

import pytest
import torch

from scaling.schedule import Schedule


def test_a_wsd_schedule_warms_up_stays_and_cools_down_to_nothing():
    schedule = Schedule(peak=1.0, warmup=10, steps=0).to(100, 0.2)
    rates = [schedule.lr(step) for step in range(100)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert set(rates[9:80]) == {1.0}
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[79:]))
    assert rates[-1] == pytest.approx(1 / 21)


def test_rungs_share_their_trunk():
    trunk = Schedule(peak=1.0, warmup=10, steps=0)
    short, long = trunk.to(100, 0.2), trunk.to(400, 0.2)
    assert [short.lr(step) for step in range(80)] == [long.lr(step) for step in range(80)]


@pytest.mark.parametrize("warmup", [0, 1, 5, 22, 23])
@pytest.mark.parametrize("kind", ["cosine", "linear", "1-sqrt"])
def test_every_step_has_a_rate_above_nothing(kind, warmup):
    base = Schedule(peak=1e-3, warmup=warmup, steps=23, kind="cosine")
    schedule = base if kind == "cosine" else base.to(23, 1.0, kind)
    assert min(schedule.lr(step) for step in range(23)) > 1e-6


def test_cosine_is_torchs_own_that_ends_a_step_after_the_run():
    schedule = Schedule(peak=0.5, warmup=0, steps=49, kind="cosine")
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50)
    for step in range(49):
        optimizer.step()
        theirs.step()
        assert schedule.lr(step) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)

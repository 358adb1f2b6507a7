"""Backtest: the held rows decide nothing, the scores are what they say, and the default stands up to the plain forms."""

import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from families.units import BadInput
from scaling.fitting import ensemble
from scaling.fitting.backtest import backtest, split
from scaling.fitting.fit import fit
from scaling.laws import Law
from scaling.runs import Run

GENERAL = Law(E=1.6, A=1.5e5, B=6e5, alpha=0.6, beta=0.58, gamma=0.45)


def sweep(law=GENERAL, noise=0.003, seed=0, group=""):
    rng = np.random.default_rng(seed)
    return [
        Run(
            run=f"{C}{q}",
            group=group,
            params=np.sqrt(C / 120) * q,
            tokens=C / 6 / (np.sqrt(C / 120) * q),
            loss=law.loss(np.sqrt(C / 120) * q, C / 6 / (np.sqrt(C / 120) * q))
            * np.exp(noise * rng.normal()),
        )
        for C, q in itertools.product(np.geomspace(1e16, 1e20, 9), np.geomspace(0.3, 3, 5))
    ]


def test_the_split_is_by_compute_and_nothing_is_lost():
    runs = sweep()
    cheap, held = split(runs, "top-decade")
    assert len(cheap) + len(held) == len(runs)
    assert max(r.params * r.tokens for r in cheap) * 10 <= max(r.params * r.tokens for r in held) * (1 + 1e-6)
    assert len(split(runs, "top-20%")[1]) == pytest.approx(9, abs=5)
    assert all(run.params > 1e8 for run in split(runs, "params>100M")[1])
    assert all(run.params * run.tokens * 6 > 1.5e19 for run in split(runs, "compute>15e18")[1])
    with pytest.raises(BadInput, match="known: top-decade"):
        split(runs, "last-week")
    with pytest.raises(BadInput, match="holdout params"):
        split(runs, "params>big")


def test_the_held_losses_change_no_prediction():
    runs = sweep()
    _, held = split(runs, "top-decade")
    names = {run.run for run in held}
    doubled = [run.model_copy(update={"loss": run.loss * 2}) if run.run in names else run for run in runs]
    a, b = (backtest(rows, bootstrap=20).groups[0] for rows in (runs, doubled))
    for form in ("chinchilla", "general"):
        # error' = predicted/(2·actual) − 1, so that bias' = (bias + 1)/2 − 1
        assert b.forms[form].bias == pytest.approx((a.forms[form].bias + 1) / 2 - 1, rel=1e-9)
    assert b.default.bias == pytest.approx((a.default.bias + 1) / 2 - 1, rel=1e-9)


def test_the_default_beats_chinchilla_on_a_general_surface_and_is_near_it_on_its_own():
    there = backtest(sweep(), bootstrap=30).groups[0]
    assert there.default.mean_error < 0.6 * there.forms["chinchilla"].mean_error
    own = Law(E=1.8, A=480.0, B=2000.0, alpha=0.35, beta=0.37)
    errors = [backtest(sweep(own, seed=s), bootstrap=30).groups[0] for s in range(3)]
    assert (
        np.mean([e.default.mean_error for e in errors])
        < 1.5 * np.mean([e.forms["chinchilla"].mean_error for e in errors]) + 1e-3
    )


def test_scores_are_per_group_and_a_group_that_is_too_small_is_named():
    runs = [*sweep(group="a"), *sweep(group="b", seed=1), *sweep(group="tiny")[:5]]
    found = backtest(runs, bootstrap=20)
    assert [one.group for one in found.groups] == ["a", "b"]
    assert "training rows from" in found.skipped["tiny"]
    for one in found.groups:
        assert one.fit_rows + one.held_rows == 45
        assert one.compute_ratio == pytest.approx(10, rel=0.01)
        assert set(one.forms) >= {"chinchilla", "general", "kaplan"}
        assert abs(one.default.bias) <= one.default.mean_error <= one.default.max_error
        assert 0 <= one.default.coverage_80 <= one.default.coverage_95 <= 1
        assert one.default.relative_width_80 > 0
    with pytest.raises(BadInput, match="leaves no group to score"):
        backtest(sweep(group="tiny")[:5])


def test_the_command_prints_one_json_object_with_the_promised_keys(tmp_path):
    path = tmp_path / "runs.csv"
    rows = [f"{r.run},{r.params},{r.tokens},{r.loss}" for r in sweep()]
    path.write_text("run,params,tokens,loss\n" + "\n".join(rows) + "\n")
    command = [str(Path(sys.executable).with_name("scaling")), "backtest", str(path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    group = json.loads(done.stdout)["groups"][0]
    assert {"group", "fit_rows", "held_rows", "compute_ratio", "forms", "default"} <= set(group)
    assert set(group["forms"]["chinchilla"]) == {"mean_error", "max_error", "bias"}
    assert set(group["default"]) == {
        "mean_error", "max_error", "bias", "coverage_80", "coverage_95", "relative_width_80",
    }  # fmt: skip


def test_losses_two_per_cent_too_high_on_the_smallest_rung_are_flagged_and_move_the_default_little():
    # PITFALLS row 10: untuned small runs bend the law.
    runs = sweep(Law(E=1.8, A=480.0, B=2000.0, alpha=0.35, beta=0.37), noise=0.001)
    bent = [
        run.model_copy(update={"loss": run.loss * (1.02 if run.params * run.tokens * 6 < 3e16 else 1)})
        for run in runs
    ]
    found = backtest(bent, bootstrap=20).groups[0]
    assert found.default.mean_error < 0.0075
    assert "smallest runs lie +" in fit(bent, bootstrap=0).card["warnings"]
    assert fit(runs, bootstrap=0).card["warnings"] == "none"


def test_mid_schedule_rows_of_a_mixed_group_are_left_out_and_said_to_be():
    runs = sweep()
    extra = [
        run.model_copy(update={"annealed": False, "loss": run.loss * 1.1, "run": f"hot{run.run}"})
        for run in runs
    ]
    alone, mixed = backtest(runs, bootstrap=20), backtest([*runs, *extra], bootstrap=20)
    assert mixed.groups == alone.groups
    assert mixed.left_out == {"": "45 rows not annealed"}
    assert backtest(extra, bootstrap=20).left_out == {}


def test_held_rows_off_to_one_side_are_said_to_be_and_rows_on_the_law_are_not(tmp_path):
    # A study whose dearest decade lies 5 % above the law of the rest: no cheap row can know.
    runs = sweep()
    dear = {run.run for run in split(runs, "top-decade")[1]}
    off = [run.model_copy(update={"loss": run.loss * (1.05 if run.run in dear else 1)}) for run in runs]
    (fine,), (group,) = (backtest(rows, bootstrap=20).groups for rows in (runs, off))
    assert fine.doubt == ""
    assert f"0 of {len(dear)} held-out rows lie in the 80 % interval" in group.doubt
    assert f"all {len(dear)} predictions are too low, by 4." in group.doubt
    # Four rows outside are chance.
    assert replace(group, held_rows=4).doubt == ""
    # One prediction on the other side, and half of the rows inside: nothing to say.
    mixed = replace(group.default, bias=group.default.bias * 0.9, coverage_80=0.5)
    assert replace(group, default=mixed).doubt == ""
    path = tmp_path / "runs.csv"
    rows = [f"{r.run},{r.params},{r.tokens},{r.loss}" for r in off]
    path.write_text("run,params,tokens,loss\n" + "\n".join(rows) + "\n")
    command = [str(Path(sys.executable).with_name("scaling")), "backtest", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"all {len(dear)} predictions are too low" in done.stderr


@pytest.mark.parametrize("form", ["auto", "chinchilla"])
def test_cuts_between_the_same_budgets_are_one_rollout(form, monkeypatch):
    # Budgets a decade apart: all four cuts lie between the two largest, and are evidence once.
    law = Law(E=1.8, A=480.0, B=2000.0, alpha=0.35, beta=0.37)
    rng = np.random.default_rng(3)
    runs = [
        Run(
            run=f"{C}{q}",
            params=N,
            tokens=C / 6 / N,
            loss=law.loss(N, C / 6 / N) * np.exp(0.01 * rng.normal()),
        )
        for C, q in itertools.product(np.geomspace(1e16, 1e19, 4), np.geomspace(0.3, 3, 5))
        for N in [np.sqrt(C / 120) * q]
    ]
    four = fit(runs, form=form, bootstrap=0)
    monkeypatch.setattr(ensemble, "CUTS", (0.5,))
    one = fit(runs, form=form, bootstrap=0)
    assert four.drift == one.drift
    assert [f.weight for f in four.forms] == [f.weight for f in one.forms]
    # Cuts that part the rows otherwise stay two.
    monkeypatch.setattr(ensemble, "CUTS", (0.5, 1.5))
    assert fit(runs, form=form, bootstrap=0).drift != one.drift


def test_a_group_of_two_eval_sets_is_skipped_with_the_reason():
    two = [run.model_copy(update={"eval_set": "ab"[i % 2]}) for i, run in enumerate(sweep(group="two"))]
    found = backtest([*sweep(group="one"), *two], bootstrap=20)
    assert [one.group for one in found.groups] == ["one"]
    assert "2 eval sets" in found.skipped["two"]

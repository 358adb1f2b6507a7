"""Approaches 1 and 2: their known biases, and no optimum where there is none."""

import numpy as np
import pytest

from families.units import BadInput
from scaling.fitting.fit import fit
from scaling.fitting.isoflop import (
    ParabolaStatus,
    approach_1,
    approach_2,
    bias_of_approach_2,
    isoflops,
    parabola,
)
from scaling.fitting.sensitivity import isoflop_report
from scaling.laws import Law
from scaling.runs import Run, RunTable

from .surfaces import BESIROGLU

# alpha is three times beta: the asymmetric surface on which the bias of approach 2 is quoted.
ASYMMETRIC = Law(E=1.69, A=406.4, B=410.7, alpha=0.465, beta=0.155)
SYMMETRIC = Law(E=1.69, A=406.4, B=410.7, alpha=0.31, beta=0.31)


def sampled(law, ratio=16.0, points=51, budgets=(6e18, 6e19, 6e20), shift=0.0):
    runs = []
    for C in budgets:
        for q in np.geomspace(1 / ratio, ratio, points):
            N = law.allocate(C).N * q * (C / budgets[0]) ** shift
            runs.append(Run(run=f"{C}{q}", params=N, tokens=C / 6 / N, loss=law.loss(N, C / 6 / N)))
    return RunTable.of(runs)


def test_approach_2_overstates_the_optimum_by_a_quarter_on_an_asymmetric_surface_without_noise():
    # PITFALLS row 6: a ±16× grid gives N*(1e22) +27 %.
    assert bias_of_approach_2(ASYMMETRIC, sampled(ASYMMETRIC), 1e22).ratio == pytest.approx(1.27, abs=0.01)


def test_approach_2_is_exact_on_a_symmetric_surface_sampled_symmetrically():
    bias = bias_of_approach_2(SYMMETRIC, sampled(SYMMETRIC, points=9), 1e22)
    assert bias.ratio == pytest.approx(1, abs=1e-6)
    assert bias.exponent == pytest.approx(bias.true_exponent, abs=1e-6)


def test_the_bias_is_that_of_the_surface_whatever_the_noise_of_the_runs():
    clean = sampled(ASYMMETRIC, points=9)
    noisy = clean.with_arrays(L=clean.L * np.exp(np.random.default_rng(0).normal(0, 0.01, len(clean))))
    assert bias_of_approach_2(ASYMMETRIC, noisy, 1e22) == bias_of_approach_2(ASYMMETRIC, clean, 1e22)


def test_a_grid_that_drifts_off_the_optimum_bends_even_the_exponent():
    bias = bias_of_approach_2(ASYMMETRIC, sampled(ASYMMETRIC, ratio=8, points=9, shift=0.1), 1e22)
    assert abs(bias.exponent - bias.true_exponent) > 0.003


def test_a_concave_parabola_is_an_error_not_an_optimum():
    # PITFALLS row 7.
    x = np.linspace(-2, 2, 7)
    found = parabola(1e8 * np.exp(x), 3 - 0.1 * x**2, 1e19)
    assert found.verdict is ParabolaStatus.CONCAVE
    assert found.N is None
    with pytest.raises(BadInput, match="opens downwards"):
        found.optimum()


@pytest.mark.parametrize(
    ("vertex", "verdict"), [(-3.0, ParabolaStatus.EDGE_LOW), (3.0, ParabolaStatus.EDGE_HIGH)]
)
def test_a_vertex_off_the_grid_is_a_bound(vertex, verdict):
    x = np.linspace(-2, 2, 7)
    found = parabola(1e8 * np.exp(x), 3 + 0.1 * (x - vertex) ** 2, 1e19)
    assert found.verdict is verdict
    assert pytest.approx(1e8 * np.exp(np.sign(vertex) * 2)) == found.N
    with pytest.raises(BadInput, match="bound"):
        found.optimum()


def test_fewer_than_five_points_or_two_on_a_side_are_too_few():
    x = np.linspace(-1, 1, 4)
    assert parabola(1e8 * np.exp(x), 3 + x**2, 1e19).verdict is ParabolaStatus.TOO_FEW
    x = np.linspace(-1, 1, 7)
    assert parabola(1e8 * np.exp(x), 3 + (x - 0.95) ** 2, 1e19).verdict is ParabolaStatus.TOO_FEW


def test_the_least_point_of_a_coarse_grid_is_never_taken_for_the_optimum():
    # PITFALLS row 8: argmin on a coarse grid gives exponents 0.38 to 0.98 for a true 0.51, without noise.
    law = BESIROGLU
    true = law.beta / (law.alpha + law.beta)
    grid = np.geomspace(2e7, 4e10, 9)
    budgets = np.geomspace(1e19, 1e22, 4)
    picked = [grid[np.argmin(law.loss(grid, C / 6 / grid))] for C in budgets]
    argmin = np.polyfit(np.log(budgets), np.log(picked), 1)[0]
    runs = [
        Run(run=f"{C}{N}", params=N, tokens=C / 6 / N, loss=law.loss(N, C / 6 / N))
        for C in budgets
        for N in grid
        if 0.02 < N / law.allocate(C).N < 50
    ]
    ours = approach_2(isoflops(RunTable.of(runs))).exponent
    assert abs(argmin - true) > 0.02
    assert abs(ours - true) < abs(argmin - true)


def test_budgets_are_told_apart_by_their_compute():
    found = isoflops(sampled(SYMMETRIC, points=9))
    assert [one.points for one in found] == [9, 9, 9]
    assert [one.verdict for one in found] == [ParabolaStatus.OK] * 3
    assert [one.C for one in found] == pytest.approx([6e18, 6e19, 6e20])


def test_approach_1_follows_the_envelope_of_training_curves():
    runs = [
        Run(run=f"{N}", params=N, tokens=D, loss=SYMMETRIC.loss(N, D))
        for N in np.geomspace(1e7, 1e10, 40)
        for D in np.geomspace(1e7, 1e13, 90)
    ]
    assert approach_1(RunTable.of(runs)).exponent == pytest.approx(0.5, abs=0.06)


def test_one_budget_gives_no_power_law():
    with pytest.raises(BadInput, match="needs at least 2"):
        approach_2(isoflops(sampled(SYMMETRIC, points=9, budgets=(6e18,))))


def test_the_bias_of_approach_2_stands_beside_the_parametric_fit_and_after_it():
    # PITFALLS row 6: shown, never alone.
    runs = [
        Run(run=f"{i}", params=N, tokens=D, loss=ASYMMETRIC.loss(N, D))
        for i, (N, D) in enumerate(
            zip(*(getattr(sampled(ASYMMETRIC, points=9), name).tolist() for name in "ND"), strict=True)
        )
    ]
    found = fit(runs, form="chinchilla", bootstrap=0)
    value, lines = isoflop_report(found, runs)
    bias = value["bias_of_approach_2"]
    assert bias["ratio"] > 1.2
    assert f"on the fitted surface approach 2 would say {bias['ratio'] - 1:+.1%} of N*" in lines[-1]
    assert "the parametric fit is preferred" in lines[0]

"""Intervals: by run, held to their promise, refused where they would be empty words, and marked beyond the data."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from families.units import BadInput
from scaling.fitting.certify import certify
from scaling.fitting.fit import fit
from scaling.fitting.forms import Status
from scaling.fitting.optimise import ALPHA_, SHAPES, Problem, influence, log_loss, minimise, objective
from scaling.fitting.selection import BENDING, bend_on_card
from scaling.fitting.sensitivity import loss_sensitivity, profiles, sensitivity_report
from scaling.fitting.uncertainty import cluster_draws, cluster_weights, noise_of
from scaling.laws import Law
from scaling.planning.notes import bend_note
from scaling.planning.seal import BENT
from scaling.runs import Run, RunTable
from scaling.stats import Z_80

LAW = Law(E=1.8, A=480.0, B=2000.0, alpha=0.35, beta=0.37)


def ladder(seed, sizes=6, noise=0.004, own=0.001):
    """Runs with four annealed checkpoints each, which share the run's noise."""
    rng = np.random.default_rng(seed)
    runs = []
    for N in np.geomspace(1e7, 2.9e8, sizes):
        shared = rng.normal(0, noise)
        for ratio in (5, 10, 20, 40):
            loss = LAW.loss(N, N * ratio) * np.exp(shared + rng.normal(0, own))
            runs.append(Run(run=f"{N:g}", params=N, tokens=N * ratio, loss=loss))
    return runs


def independent(seed, noise=0.004, count=6):
    rng = np.random.default_rng(seed)
    cells = itertools.product(np.geomspace(1e7, 1e9, count), np.geomspace(5, 100, count))
    return [
        Run(run=f"{i}", params=N, tokens=N * r, loss=LAW.loss(N, N * r) * np.exp(rng.normal(0, noise)))
        for i, (N, r) in enumerate(cells)
    ]


def covered(found, seed, noise=0.004):
    """Shares of five runs at ten times the compute inside the two intervals."""
    rng = np.random.default_rng([seed, 9])
    C = 10 * found.domain.C[1]
    N = np.sqrt(C / 120) * np.exp(rng.uniform(-0.7, 0.7, 5))
    actual = LAW.loss(N, C / 6 / N) * np.exp(rng.normal(0, noise, 5))
    p = found.predict(N, C / 6 / N)
    return [np.mean((low <= actual) & (actual <= high)) for low, high in (p.interval_80, p.interval_95)]


def test_rows_of_one_run_are_resampled_together():
    cluster = np.array([0, 0, 0, 1, 2, 2])
    weights = cluster_weights(cluster, 500, np.random.default_rng(0))
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, 4] == weights[:, 5]).all()
    assert weights.mean() == pytest.approx(1, abs=0.05)
    assert not (weights[:, 0] == weights[:, 3]).any()


def test_bootstrap_by_run_is_wider_than_by_row_where_rows_of_a_run_are_alike():
    runs = ladder(0)
    each = [run.model_copy(update={"run": f"{i}"}) for i, run in enumerate(runs)]
    spread = []
    for rows in (runs, each):
        table = RunTable.of(rows)
        problem = Problem.of(table.N, table.D, table.L)
        shape = SHAPES["chinchilla"]
        theta = certify(problem, shape).theta
        spread.append(cluster_draws(problem, shape, theta, table.cluster, 200, 0)[:, 3].std())
    assert spread[0] > 1.3 * spread[1]


@pytest.mark.parametrize("count", [4, 6, 9])
def test_the_spread_of_few_runs_is_widened_for_the_constants_a_law_takes(count):
    # To first order the resampled exponent is linear in weights G·Dirichlet(1, …, 1), whose covariance is
    # (G·I − 1·1')/(G + 1); G/(G − 3) restores the three degrees of freedom that a law takes from G runs.
    rows = RunTable.of([run for run in ladder(0, sizes=count) for _ in range(1200 // (4 * count))])
    problem, shape = Problem.of(rows.N, rows.D, rows.L), SHAPES["chinchilla"]
    theta = certify(problem, shape).theta
    moved = np.bincount(rows.cluster, influence(problem, shape, theta)[ALPHA_])
    assert len(moved) == count
    dirichlet = (count * np.eye(count) - 1) / (count + 1)
    draws = cluster_draws(problem, shape, theta, rows.cluster, 4000, 0)[:, 3]
    assert draws.std() == pytest.approx(math.sqrt(moved @ dirichlet @ moved * count / (count - 3)), rel=0.05)


def test_six_runs_of_four_checkpoints_cover_what_they_say_ten_times_beyond():
    # PITFALLS row 5: a bootstrap by row covers 50 % at nominal 80 %. On these 16 seeds it covers 22 and 41 %, ours 59 and 88;
    # on the 80 of the slow test 46 and 69, ours 78 and 89.
    shares = np.array([covered(fit(ladder(seed), bootstrap=20), seed) for seed in range(16)])
    assert 0.45 <= shares[:, 0].mean() <= 0.95
    assert shares[:, 1].mean() >= 0.75


@pytest.mark.slow
def test_six_runs_of_four_checkpoints_cover_seventy_to_ninety_per_cent():
    shares = np.array([covered(fit(ladder(seed), bootstrap=100), seed) for seed in range(80)])
    assert 0.70 <= shares[:, 0].mean() <= 0.90
    assert shares[:, 1].mean() >= 0.88


def test_under_four_runs_an_interval_is_refused():
    runs = [run for run in ladder(0) if run.params < 5e7]
    assert len({run.run for run in runs}) == 3
    with pytest.raises(BadInput, match="3 runs; intervals need at least 4"):
        fit(runs)
    assert fit(runs, bootstrap=0).predict(1e8, 1e9).interval_80 is None


def test_intervals_widen_beyond_the_data_and_the_distance_is_named():
    found = fit(independent(0), bootstrap=60)
    N = found.domain.N[1] * np.array([1.0, 3.0, 10.0, 25.0])
    D = found.domain.D[1] * np.array([1.0, 3.0, 10.0, 25.0])
    widths = [
        np.diff(found.predict(n, d).interval_80)[0] / found.predict(n, d).loss
        for n, d in zip(N, D, strict=True)
    ]
    assert all(a < b for a, b in itertools.pairwise(widths))
    # No narrower than what the rollouts inside the data say that two decades add.
    calm = replace(found, drift=0.03)
    low, high = calm.predict(N[2], D[2]).interval_80
    assert np.log(high / low) > 2 * Z_80 * 0.03 * 2
    far = found.predict(N[2], D[2]).extrapolation
    assert far.compute_factor == pytest.approx(100)
    assert far.N_factor == pytest.approx(10)
    assert "100x the largest" in far.message
    assert "N is 10x outside the fitted range" in far.message
    assert "D is 10x outside the fitted range" in far.message
    inside = found.predict(found.domain.N[0] * 2, found.domain.D[0] * 2).extrapolation
    assert inside.inside
    assert inside.message == ""


def test_a_thousand_times_beyond_is_refused_unless_forced():
    found = fit(independent(0), bootstrap=0)
    N, D = found.domain.N[1] * 40, found.domain.D[1] * 40
    with pytest.raises(BadInput, match="1,000 times at most"):
        found.predict(N, D)
    with pytest.raises(BadInput, match="1,000 times at most"):
        found.allocate(6 * N * D)
    assert found.predict(N, D, force=True).loss < found.predict(N / 40, D / 40).loss
    assert found.allocate(6 * N * D, force=True).N > 0


def test_first_order_resampling_agrees_with_refitting():
    table = RunTable.of(independent(1, count=33))
    problem = Problem.of(table.N, table.D, table.L)
    shape = SHAPES["chinchilla"]
    theta = certify(problem, shape).theta
    rng = np.random.default_rng(0)
    weights = cluster_weights(table.cluster, 300, rng)
    refitted = minimise(
        replace(problem, weights=weights), shape, np.tile(theta, (300, 1)), continuation=(1.0,)
    ).theta
    linear = theta + (weights - 1) @ influence(problem, shape, theta).T
    for at in (ALPHA_, 4):
        assert linear[:, at].std() == pytest.approx(refitted[:, at].std(), rel=0.15)


def test_noise_comes_from_replicated_cells_where_there_are_some():
    rng = np.random.default_rng(0)
    runs = [
        Run(
            run=f"{N}{s}",
            params=N,
            tokens=20 * N,
            loss=LAW.loss(N, 20 * N) * np.exp(rng.normal(0, 0.006)),
            seed=s,
        )
        for N in np.geomspace(1e7, 1e9, 20)
        for s in range(4)
    ]
    table = RunTable.of(runs)
    assert noise_of(table, np.zeros(len(table))) == pytest.approx(0.006, rel=0.3)


def test_a_known_standard_error_is_a_floor_of_the_noise():
    runs = [run.model_copy(update={"loss_se": 0.02 * run.loss}) for run in independent(0)]
    assert noise_of(RunTable.of(runs), np.full(len(runs), 1e-4)) == pytest.approx(0.02, rel=0.01)


@pytest.mark.parametrize("failed", [0.0, 0.15])
def test_runs_that_failed_upwards_do_not_make_the_others_noisier(failed):
    runs = independent(0, count=14)
    rng = np.random.default_rng(1)
    residuals = rng.normal(0, 0.004, len(runs)) + 0.4 * (rng.random(len(runs)) < failed)
    assert noise_of(RunTable.of(runs), residuals) == pytest.approx(0.004, rel=0.2)


def test_resampling_is_the_same_for_the_same_seed():
    runs = independent(0)
    a, b, c = (fit(runs, seed=seed, bootstrap=30).predict(1e10, 1e11).interval_80 for seed in (1, 1, 2))
    assert a == b
    assert a != c


def test_profile_likelihood_brackets_the_truth_and_its_least_is_the_fit():
    for shown, truth in zip(profiles(RunTable.of(independent(3))), (LAW.alpha, LAW.beta), strict=True):
        assert min(shown.objectives) == pytest.approx(shown.objectives[len(shown.objectives) // 2], rel=1e-6)
        low, high = shown.interval_95
        assert low < shown.best < high
        assert low < truth < high
        assert low < shown.interval_80[0]


def test_the_fan_of_loss_functions_is_flagged_where_it_is_wider_than_the_interval():
    # PITFALLS row 4: a few outliers make N* a matter of the loss function.
    runs = independent(0, noise=0.002)
    spoiled = [
        run.model_copy(update={"loss": run.loss * (1.15 if run.params > 9e8 and i % 2 else 1)})
        for i, run in enumerate(runs)
    ]
    calm, wild = loss_sensitivity(runs), loss_sensitivity(spoiled)
    kinds = {"log-Huber, 1e-3", "log-Huber, 1e-2", "MSE", "LAD", "lower envelope"}
    assert {choice.loss for choice in calm.choices} == kinds
    assert len(calm.choices) == 2 * len(kinds)
    assert all(choice.status is Status.OK for choice in calm.choices)
    assert not calm.wider
    assert wild.wider
    assert wild.factor > 1.5 * wild.interval_factor
    assert "MSE" in {choice.loss for choice in wild.outside}
    said = "\n".join(sensitivity_report(fit(spoiled, form="chinchilla"), spoiled)[1])
    assert f"moves N* by a factor of {wild.factor:.2f}" in said
    assert "warning: that is wider than the interval" in said
    assert "warning: the interval does not hold for" in said
    quiet = "\n".join(sensitivity_report(fit(runs, form="chinchilla"), runs)[1])
    assert f"moves N* by a factor of {calm.factor:.2f}" in quiet
    assert "warning: that is wider" not in quiet


def test_the_lower_envelope_lies_below_nine_rows_of_ten():
    table = RunTable.of(independent(0, count=12))
    problem = replace(Problem.of(table.N, table.D, table.L, delta=1e-5), tilt=10.0)
    certificate = certify(problem, SHAPES["chinchilla"])
    residuals = log_loss(certificate.theta[None], problem.x, problem.z)[0] - problem.y
    assert np.mean(residuals > 0) == pytest.approx(1 / 11, abs=0.04)  # the quantile of a tilt of 10 to 1
    middle = certify(replace(problem, tilt=1.0), SHAPES["chinchilla"])
    assert certificate.objective < float(objective(problem, middle.theta[None])[0])


def test_noise_free_rows_leave_a_narrow_interval_and_six_runs_a_wide_one():
    exact, few = fit(independent(0, noise=0.0), bootstrap=60), fit(ladder(0), bootstrap=60)
    for found, low, high in ((exact, 0.0, 0.003), (few, 0.008, 0.1)):
        C = 10 * found.domain.C[1]
        N = math.sqrt(C / 120)
        half = found.explain(N, C / 6 / N)["all"]
        assert low < half < high
    assert exact.predict(1e10, 1e12).loss == pytest.approx(LAW.loss(1e10, 1e12), rel=1e-3)


def test_eighteen_noise_free_runs_of_a_narrow_range_give_the_surface_a_hundred_times_beyond():
    cells = list(itertools.product(np.geomspace(2e7, 1e9, 5), (5, 12, 30, 70)))
    N, D = (np.array(part) for part in zip(*((n, r * n) for n, r in cells), strict=True))
    found = fit(N=N, D=D, loss=LAW.loss(N, D), bootstrap=60)
    best, C = found.allocate(1e23), 1e23
    assert pytest.approx(LAW.allocate(C).N, rel=0.04) == best.N
    low, high = best.loss_interval_80
    assert low < LAW.loss(best.N, best.D) < high
    assert high / low < 1.02


def test_the_parts_of_an_interval_add_up_to_it_and_are_named_on_the_card():
    found = fit(ladder(1), bootstrap=60)
    N, D = 1e9, 2e10
    parts = found.explain(N, D)
    low, high = found.predict(N, D).interval_80
    whole = parts.pop("all")
    assert math.hypot(*parts.values()) == pytest.approx(whole, rel=1e-9)
    assert math.log(high / low) / 2 == pytest.approx(whole, rel=1e-9)
    assert {"run noise", "unseen size", "constants", "form", "drift with distance"} == set(parts)
    assert parts["unseen size"] > 0
    assert found.explain(1e7, D)["unseen size"] == 0, "that size was fitted"
    for name in ("run noise", "constants"):
        assert name in found.card["uncertainty at 10x the data"]


@pytest.mark.parametrize("seed", [0, 2])
def test_many_rows_that_err_alike_leave_the_constants_less_certain_than_rows_on_a_law(seed):
    # A bend that no law of the form follows, seen by many rows: they err together, and do not average out.
    straight = independent(seed, noise=0.001, count=14)
    bent = [
        run.model_copy(update={"loss": run.loss * (1 + 0.01 * math.sin(math.log(run.tokens)))})
        for run in straight
    ]
    on_a_law, off_it = (np.ptp(fit(rows, bootstrap=100).interval("alpha")) for rows in (straight, bent))
    assert off_it > 1.5 * on_a_law


@pytest.mark.parametrize("times", [1, 100])
def test_every_interval_of_an_optimum_holds_its_own_estimate(times):
    found = fit(independent(5), bootstrap=60)
    best = found.allocate(times * found.domain.C[1])
    for value, (low, high) in (
        (best.N, best.N_interval_80),
        (best.D, best.D_interval_80),
        (best.loss, best.loss_interval_80),
    ):
        assert low < value < high
    for name in ("E", "A", "B", "alpha", "beta", "gamma"):
        low, high = found.interval(name)
        assert low < getattr(found.main_form.law, name) < high


def test_runs_too_short_for_a_law_are_said_to_bend_and_runs_on_a_law_are_not():
    straight = fit(independent(4), bootstrap=30)
    assert BENDING not in straight.card["warnings"]
    # Sizes in the middle of the ladder are trained worst: no sum of powers rises and falls again.
    bent = [
        run.model_copy(
            update={"loss": run.loss * (1 + 0.15 * math.exp(-((math.log10(run.params) - 8) ** 2) / 0.3))}
        )
        for run in independent(4)
    ]
    found = fit(bent, bootstrap=30)
    assert BENDING in found.card["warnings"]
    assert "it would need" in found.card["warnings"]
    bend = bend_on_card(found.card["warnings"])
    assert bend_note(found, 3.0, (3 - bend.size, 3 + bend.size)).startswith(BENT)
    assert bend_note(found, 3.0, (3 - 20 * bend.size, 3 + 20 * bend.size)) == ""
    assert bend_note(straight, 3.0, (2.999, 3.001)) == ""

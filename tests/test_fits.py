"""The fit: recovers named surfaces, agrees with scipy, depends on nothing it should not, and names its doubts."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from scaling.files import sha256_file
from scaling.fitting.certify import certify
from scaling.fitting.fit import fit
from scaling.fitting.forms import ResidualGP, Status
from scaling.fitting.optimise import SHAPES, Problem, objective
from scaling.fitting.predictor import load_law
from scaling.laws import PUBLISHED_REPETITION, Law, Repetition
from scaling.runs import Run, RunTable

from .surfaces import BESIROGLU, GENERAL, HOFFMANN, KAPLAN, STEEP, grid


def constants(law):
    return np.array([law.E, law.A, law.B, law.alpha, law.beta, law.gamma])


@pytest.mark.parametrize(
    ("form", "law"),
    [
        ("chinchilla", BESIROGLU),
        ("chinchilla", HOFFMANN),
        ("chinchilla", STEEP),
        ("general", GENERAL),
        ("general", BESIROGLU),
        ("kaplan", KAPLAN),
    ],
)
def test_a_named_surface_is_recovered_to_a_millionth_without_noise(form, law):
    found = fit(grid(law), form=form, bootstrap=0)
    assert found.status is Status.OK
    np.testing.assert_allclose(constants(found.main_form.law), constants(law), rtol=1e-6)


@pytest.mark.parametrize("form", ["L(N)", "L(D)", "L(C)"])
def test_a_law_of_one_variable_is_recovered(form):
    law = Law(E=1.7, A=300.0, B=0.0, alpha=0.3, beta=0.0)
    runs = []
    for i, N in enumerate(np.geomspace(1e7, 1e9, 8)):
        D = {"L(N)": 1e12, "L(D)": N, "L(C)": 20 * N}[form]
        variable = 6 * N * D if form == "L(C)" else N
        runs.append(
            Run(run=f"{i}", params=5e8 if form == "L(D)" else N, tokens=D, loss=law.loss(variable, 1.0))
        )
    found = fit(runs, form=form, bootstrap=0)
    exponent = found.main_form.law.beta if form == "L(D)" else found.main_form.law.alpha
    assert found.status is Status.OK
    assert exponent == pytest.approx(0.3, rel=1e-6)
    assert found.predict(runs[-1].params * 1.5, runs[-1].tokens * 1.5, force=True).loss > 1.7


@given(st.floats(-6, 6), st.floats(-6, 6))
@settings(max_examples=12)
def test_the_fit_does_not_depend_on_the_units_of_n_and_d(log_n, log_d):
    runs = grid(BESIROGLU, noise=0.005)
    scaled = [
        run.model_copy(update={"params": run.params * 10**log_n, "tokens": run.tokens * 10**log_d})
        for run in runs
    ]
    a, b = (fit(rows, form="chinchilla", bootstrap=0) for rows in (runs, scaled))
    assert a.forms[0].objective == pytest.approx(b.forms[0].objective, rel=1e-9)
    assert constants(a.main_form.law)[[0, 3, 4]] == pytest.approx(
        constants(b.main_form.law)[[0, 3, 4]], rel=1e-6
    )


def test_the_fit_does_not_depend_on_the_order_of_rows():
    runs = grid(BESIROGLU, noise=0.005)
    shuffled = [runs[i] for i in np.random.default_rng(1).permutation(len(runs))]
    for form in ("chinchilla", "auto"):
        a, b = (fit(rows, form=form, bootstrap=0).predict(1e10, 2e11).loss for rows in (runs, shuffled))
        assert a == pytest.approx(b, rel=1e-8)


def test_no_random_start_of_scipy_finds_a_better_objective():
    table = RunTable.of(grid(GENERAL, noise=0.01))
    problem = Problem.of(table.N, table.D, table.L)
    for name in ("chinchilla", "general"):
        shape = SHAPES[name]
        ours = certify(problem, shape).objective
        rng = np.random.default_rng(0)

        def cost(free, shape=shape):
            theta = np.zeros(6)
            theta[list(shape.free)] = free
            return 1e3 * float(objective(problem, shape.at(theta)[None])[0])

        for _ in range(3):
            start = np.array([*rng.uniform(-1, 1, 3), *rng.uniform(0.1, 1, 2), 0.0])[list(shape.free)]
            theirs = (
                minimize(cost, start, method="L-BFGS-B", options={"maxiter": 3000, "maxfun": 10**5}).fun / 1e3
            )
            assert ours <= theirs * (1 + 1e-6)


@pytest.mark.parametrize("tilt", [1.0, 10.0])
def test_gradient_and_curvature_agree_with_differences(tilt):
    from scaling.fitting.optimise import evaluate

    table = RunTable.of(grid(GENERAL, noise=0.01))
    problem = replace(Problem.of(table.N, table.D, table.L, delta=10.0), tilt=tilt)
    weights = np.ones((1, len(table)))
    theta = problem.theta(Law(E=1.5, A=900.0, B=2000.0, alpha=0.35, beta=0.4, gamma=0.8))
    for name in ("general", "kaplan"):
        shape = SHAPES[name]
        at = shape.at(theta)
        _, gradient, hessian, _ = evaluate(problem, shape, at[None], weights, 10.0)
        for i, coordinate in enumerate(shape.free):
            step = np.zeros(6)
            step[coordinate] = 1e-6
            up, down = (
                evaluate(problem, shape, shape.at(at + s * step)[None], weights, 10.0) for s in (1, -1)
            )
            assert gradient[0, i] == pytest.approx(float(up[0][0] - down[0][0]) / 2e-6, rel=1e-5, abs=1e-8)
            if name == "general":
                np.testing.assert_allclose(
                    hessian[0, i], (up[1][0] - down[1][0]) / 2e-6, rtol=1e-4, atol=1e-6
                )


def test_a_small_study_of_four_models_gets_a_usable_default_fit():
    for seed, ratios in zip(range(2), ((5, 10, 20), (5, 10, 20, 40)), strict=True):
        rng = np.random.default_rng(seed)
        runs = [
            Run(
                run=f"{N}",
                params=N,
                tokens=N * r,
                loss=HOFFMANN.loss(N, N * r) * np.exp(0.004 * rng.normal()),
            )
            for N in (3e5, 8e5, 2e6, 5e6)
            for r in ratios
        ]
        found = fit(runs, seed=seed)
        answer = found.predict(2e7, 4e8)
        assert found.status is Status.OK
        assert answer.loss == pytest.approx(HOFFMANN.loss(2e7, 4e8), rel=0.06)
        assert answer.interval_95[0] < answer.interval_80[0] < answer.loss < answer.interval_80[1]
        assert 1e6 < found.allocate(1e16).N < 1e9


def test_a_law_file_predicts_what_the_fit_predicted(tmp_path):
    found = fit(grid(GENERAL, noise=0.01))
    path = tmp_path / "law.json"
    found = replace(found, inputs={"runs.csv": "0" * 64})
    found.save(path)
    read = load_law(path)
    points = np.geomspace(1e8, 3e9, 5), np.geomspace(1e10, 1e11, 5)
    a, b = found.predict(*points), read.predict(*points)
    np.testing.assert_allclose(a.loss, b.loss, rtol=1e-12)
    np.testing.assert_allclose(a.interval_95, b.interval_95, rtol=1e-12)
    assert read.sha256 == found.sha256 == sha256_file(path)
    assert pytest.approx(found.allocate(1e21).N) == read.allocate(1e21).N
    assert read.inputs == {"runs.csv": "0" * 64}
    assert read.main_form.law == found.main_form.law


def test_no_field_of_the_fit_card_is_empty():
    for form in ("auto", "chinchilla"):
        card = fit(grid(BESIROGLU, noise=0.005), form=form).card
        assert all(text.strip() for text in card.values())
        for name in (
            "form",
            "data",
            "objective",
            "starts",
            "exclusions",
            "convention",
            "domain",
            "warnings",
            "exponents",
        ):
            assert name in card


def test_no_other_point_on_the_isoflop_beats_the_allocation():
    found = fit(grid(GENERAL, noise=0.01))
    smooth = replace(found, local=ResidualGP.nothing())
    for C in (1e20, 1e22):
        best = found.allocate(C)
        N = best.N * np.geomspace(0.1, 10, 4001)
        assert smooth.loss(best.N, best.D) <= smooth.loss(N, C / 6 / N).min() * (1 + 1e-9)
        assert best.loss == found.predict(best.N, best.D).loss
        assert pytest.approx(C) == 6 * best.N * best.D


def test_repeated_tokens_are_worth_less_and_their_worth_is_recovered():
    truth = Repetition(R_N=5.0, R_D=15.0)
    runs = []
    for N, U, epochs in itertools.product(np.geomspace(1e7, 1e9, 5), (1e8, 1e9, 1e10), (1.0, 2.0, 8.0, 40.0)):
        n, d = truth.effective(np.array([N]), np.array([U * epochs]), np.array([U]))
        runs.append(
            Run(
                run=f"{N}{U}{epochs}",
                params=N,
                tokens=U * epochs,
                unique_tokens=U,
                loss=BESIROGLU.loss(n[0], d[0]),
            )
        )
    found = fit(runs, form="data-constrained", bootstrap=0)
    assert pytest.approx(15, rel=0.1) == found.repetition.R_D
    assert pytest.approx(5, rel=0.1) == found.repetition.R_N
    assert "takes repeated tokens for fresh ones" not in found.card["warnings"]
    assert "R_D 15" in found.card["repetition"] or "R_D 14" in found.card["repetition"]
    assert "edge" not in found.card["warnings"]
    fresh, stale = found.predict(1e9, 4e10), found.predict(1e9, 4e10, unique_tokens=1e9)
    assert stale.loss > fresh.loss
    plain = fit(runs, form="chinchilla", bootstrap=0)
    assert "takes repeated tokens for fresh ones" in plain.card["warnings"]


def test_repeats_that_cost_nothing_leave_their_worth_unsaid():
    runs = [
        Run(
            run=f"{N}{U}{epochs}",
            params=N,
            tokens=U * epochs,
            unique_tokens=U,
            loss=BESIROGLU.loss(N, U * epochs),
        )
        for N, U, epochs in itertools.product(np.geomspace(1e7, 1e9, 5), (1e9, 1e10, 1e11), (1.0, 2.0, 3.0))
    ]
    found = fit(runs, form="data-constrained", bootstrap=0)
    assert found.repetition.R_D >= 149
    assert f"R_D {found.repetition.R_D:.3g}: at the edge" in found.card["warnings"]


def test_fresh_tokens_are_left_as_they_are():
    N, D = np.array([1e8, 1e9]), np.array([1e9, 1e10])
    np.testing.assert_allclose(Repetition(R_N=5, R_D=15).effective(N, D, D), (N, D))


def test_a_notebook_shows_a_fit_a_prediction_and_an_allocation_in_words():
    found = fit(grid(BESIROGLU, noise=0.003), form="chinchilla", bootstrap=20)
    assert repr(found).startswith("form ")
    one = found.predict(1e9, 2e10)
    assert repr(one).startswith(f"loss {one.loss:.4f}, perplexity ")
    assert f"80 % {one.interval_80[0]:.4f} to {one.interval_80[1]:.4f}" in repr(one)
    far = found.predict(np.full(20, 1e10), np.full(20, 2e12))
    assert "… 20 losses in all" in repr(far)
    assert "x the largest fitted" in repr(far)
    assert "95 %" not in repr(fit(grid(BESIROGLU), form="chinchilla", bootstrap=0).predict(1e9, 2e10))
    assert repr(found.allocate(1e21)).startswith("1e+21 FLOPs: N ")


def test_rows_that_say_nothing_of_a_repeats_worth_leave_the_published_one():
    """A ladder with one row of 1.07 epochs and fewer parameters than U/20 throughout: R_N stood at its grid's edge, 0.195."""
    rng = np.random.default_rng(3)
    U = 8.14e6
    runs = [
        Run(run=f"{N}{D}", params=N, tokens=D, unique_tokens=min(D, U), vocab_size=512,
            loss=1 + 40 * N**-0.3 + 300 * D**-0.4 + 0.003 * rng.standard_normal())
        for N, D in itertools.product((3e4, 6e4, 9e4), (2e6, 4e6, 8.7e6))
    ]  # fmt: skip
    found = fit(runs, bootstrap=0)
    assert found.repetition == PUBLISHED_REPETITION
    assert "R_N and R_D: the published value" in found.card["repetition"]
    assert "at the edge" not in found.card["warnings"]

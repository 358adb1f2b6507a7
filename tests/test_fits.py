"""The fit: recovers named surfaces, agrees with scipy, depends on nothing it should not, and names its doubts."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from families.errors import BadInput
from scaling.fits import FORMS, fit
from scaling.fitting.certify import certify
from scaling.fitting.optimise import SHAPES, Problem, minimise, objective
from scaling.lawfile import LawFile
from scaling.laws import Law, kaplan_law
from scaling.predictor import Status
from scaling.repetition import Repetition
from scaling.runs import Run, columns

BESIROGLU = Law(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658)
HOFFMANN = Law(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
# The surface on which boxes of A, B below 1e4 turn alpha .684 into .502 (PITFALLS row 3).
STEEP = Law(E=3.169, A=215886.0, B=4750.0, alpha=0.684, beta=0.439)
GENERAL = Law(E=1.6, A=1.5e5, B=6e5, alpha=0.6, beta=0.58, gamma=0.45)
KAPLAN = kaplan_law(Nc=6.4e13, Dc=1.8e13, aN=0.076, aD=0.103)


def grid(law, sizes=(1e7, 1e9), ratios=(3, 300), count=7, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    cells = itertools.product(np.geomspace(*sizes, count), np.geomspace(*ratios, count))
    return [
        Run(run=f"{i}", params=N, tokens=N * r, loss=law.loss(N, N * r) * np.exp(noise * rng.normal()))
        for i, (N, r) in enumerate(cells)
    ]


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
    np.testing.assert_allclose(constants(found.law), constants(law), rtol=1e-6)


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
    exponent = found.law.beta if form == "L(D)" else found.law.alpha
    assert found.status is Status.OK
    assert exponent == pytest.approx(0.3, rel=1e-6)
    assert found.predict(runs[-1].params * 1.5, runs[-1].tokens * 1.5, force=True).loss > 1.7


@given(st.floats(-6, 6), st.floats(-6, 6))
@settings(max_examples=12, deadline=None)
def test_the_fit_does_not_depend_on_the_units_of_n_and_d(log_n, log_d):
    runs = grid(BESIROGLU, noise=0.005)
    scaled = [
        run.model_copy(update={"params": run.params * 10**log_n, "tokens": run.tokens * 10**log_d})
        for run in runs
    ]
    a, b = (fit(rows, form="chinchilla", bootstrap=0) for rows in (runs, scaled))
    assert a.forms[0].objective == pytest.approx(b.forms[0].objective, rel=1e-9)
    assert (a.law.E, a.law.alpha, a.law.beta) == pytest.approx((b.law.E, b.law.alpha, b.law.beta), rel=1e-6)


def test_the_fit_does_not_depend_on_the_order_of_rows():
    runs = grid(BESIROGLU, noise=0.005)
    shuffled = [runs[i] for i in np.random.default_rng(1).permutation(len(runs))]
    for form in ("chinchilla", "auto"):
        a, b = (fit(rows, form=form, bootstrap=0).predict(1e10, 2e11).loss for rows in (runs, shuffled))
        assert a == pytest.approx(b, rel=1e-8)


def test_no_random_start_of_scipy_finds_a_better_objective():
    table = columns(grid(GENERAL, noise=0.01))
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

    table = columns(grid(GENERAL, noise=0.01))
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


def test_hoffmanns_constants_as_the_only_start_do_not_survive():
    # PITFALLS row 1: a mean-reduced Huber of about 1e-6 meets ftol at once, and the start comes back as a success.
    runs = grid(BESIROGLU, noise=0.01)
    free = fit(runs, form="chinchilla", bootstrap=0)
    alone = fit(runs, form="chinchilla", bootstrap=0, starts=[HOFFMANN])
    assert free.status is Status.OK
    assert alone.forms[0].objective == pytest.approx(free.forms[0].objective, rel=1e-6)
    assert alone.law.beta != pytest.approx(HOFFMANN.beta, abs=0.02)


def test_a_fit_stopped_early_is_not_converged():
    table = columns(grid(GENERAL, noise=0.01))
    problem = Problem.of(table.N, table.D, table.L)
    shape = SHAPES["general"]
    from scaling.fitting.certify import _judge

    start = problem.theta(HOFFMANN)
    halted = minimise(problem, shape, start[None], steps=1, continuation=(1.0,))
    status, detail, _ = _judge(
        problem, shape, halted.theta[0], 9, float(halted.gradient[0]), float(halted.objective[0])
    )
    assert status is Status.NOT_CONVERGED
    assert "gradient" in detail
    assert _judge(problem, shape, halted.theta[0], 1, 0.0, 1.0)[0] is Status.NOT_CONVERGED


def test_a_constant_that_runs_to_its_edge_is_reported():
    law = Law(E=0.0, A=50.0, B=300.0, alpha=0.2, beta=0.3)
    found = fit(grid(law, noise=0.0), form="chinchilla", bootstrap=0)
    assert found.status is Status.AT_BOUND
    assert "E ran to 0" in found.detail
    assert found.predict(1e9, 2e10).loss == pytest.approx(law.loss(1e9, 2e10), rel=1e-3)


@pytest.mark.parametrize("form", ["auto", "chinchilla"])
def test_sizes_and_tokens_that_move_together_are_ill_conditioned(form):
    rng = np.random.default_rng(0)
    runs = [
        Run(
            run=f"{N}", params=N, tokens=20 * N, loss=BESIROGLU.loss(N, 20 * N) * np.exp(0.003 * rng.normal())
        )
        for N in np.geomspace(1e7, 1e9, 16)
    ]
    found = fit(runs, form=form)
    assert found.status in (Status.ILL_CONDITIONED, Status.AT_BOUND)
    if form == "auto":
        assert found.predict(2e9, 4e10).loss == pytest.approx(BESIROGLU.loss(2e9, 4e10), rel=0.02)


def test_too_few_distinct_points_for_the_constants_are_said_to_be_too_few():
    runs = [
        run.model_copy(update={"run": f"{run.run}{k}"}) for run in grid(BESIROGLU, count=2) for k in range(3)
    ]
    assert fit(runs, form="chinchilla").status in (Status.TOO_FEW, Status.AT_BOUND, Status.ILL_CONDITIONED)
    assert fit(runs).status is Status.TOO_FEW


def test_mixing_annealed_and_mid_schedule_rows_is_an_error_that_counts_them():
    runs = grid(BESIROGLU)
    mixed = [run.model_copy(update={"annealed": i % 7 != 0}) for i, run in enumerate(runs)]
    with pytest.raises(BadInput, match="7 of 49 rows are not annealed"):
        fit(mixed)
    only = fit(mixed, annealed="only", bootstrap=0)
    assert only.rows == 42
    assert "7 rows not annealed" in only.card["exclusions"]
    assert fit(mixed, annealed="all", bootstrap=0).rows == 49


def test_two_groups_or_two_eval_sets_are_not_fitted_as_one():
    runs = grid(BESIROGLU)
    two = [run.model_copy(update={"group": "ab"[i % 2]}) for i, run in enumerate(runs)]
    with pytest.raises(BadInput, match="2 groups"):
        fit(two)
    assert fit(two, group="a", bootstrap=0).rows == 25
    with pytest.raises(BadInput, match="did you mean"):
        fit([r.model_copy(update={"group": "webtext"}) for r in runs], group="webtxt")
    sets = [run.model_copy(update={"eval_set": "ab"[i % 2]}) for i, run in enumerate(runs)]
    with pytest.raises(BadInput, match="2 eval sets"):
        fit(sets)


def test_another_convention_of_n_is_refused():
    found = fit(grid(BESIROGLU), bootstrap=0)
    with pytest.raises(BadInput, match="fitted on 'total'"):
        found.predict(1e8, 1e9, convention="non_embedding")


def test_three_conventions_give_one_surface_three_exponents():
    # PITFALLS row 9: Kaplan's range without embeddings, with them, and at scale (Porian et al. 2024; Pearce & Song 2024).
    from scaling.fitting.sensitivity import conventions

    runs = []
    for C in np.geomspace(1e16, 1e19, 6):
        for ratio in np.geomspace(0.2, 5, 7):
            N = np.sqrt(C / 120) * ratio
            body = N - 47491 * N ** (
                1 / 3
            )  # Pearce & Song 2024, eq. 5: total = body + 47491·body^(1/3), inverted roughly
            if body > 0.02 * N:
                D = C / 6 / N
                runs.append(
                    Run(
                        run=f"{C}{ratio}",
                        params=N,
                        params_non_embedding=body,
                        tokens=D,
                        loss=BESIROGLU.loss(N, D),
                    )
                )
    total, without, mixed = (one.exponent for one in conventions(runs))
    assert total == pytest.approx(0.513, abs=0.002)
    assert mixed > total + 0.1
    assert without > mixed + 0.1


def test_form_names_are_checked_with_the_nearest_match():
    with pytest.raises(BadInput, match="did you mean chinchilla"):
        fit(grid(BESIROGLU), form="chinchila")
    assert "auto" in FORMS


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
    found.document({"runs.csv": "0" * 64}).write(path)
    read = LawFile.read(path)
    points = np.geomspace(1e8, 3e9, 5), np.geomspace(1e10, 1e11, 5)
    a, b = found.predict(*points), read.predictor().predict(*points)
    np.testing.assert_allclose(a.loss, b.loss, rtol=1e-12)
    np.testing.assert_allclose(a.interval_95, b.interval_95, rtol=1e-6)
    assert pytest.approx(found.allocate(1e21).N) == read.predictor().allocate(1e21).N
    assert read.inputs == {"runs.csv": "0" * 64}
    assert read.law == found.law


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
    for C in (1e20, 1e22):
        best = found.allocate(C)
        N = best.N * np.geomspace(0.1, 10, 4001)
        on_grid = sum(form.weight * form.log_loss(N, C / 6 / N) for form in found.forms)
        assert np.log(best.loss) <= on_grid.min() + 1e-9
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
    assert pytest.approx(15, rel=0.1) == found.predictor.repetition.R_D
    assert pytest.approx(5, rel=0.1) == found.predictor.repetition.R_N
    fresh, stale = found.predict(1e9, 4e10), found.predict(1e9, 4e10, unique_tokens=1e9)
    assert stale.loss > fresh.loss
    plain = fit(runs, form="chinchilla", bootstrap=0)
    assert "repeat their data" in plain.card["warnings"]


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

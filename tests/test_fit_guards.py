"""A fit that may not be trusted says so: a status where it is usable, an error where rows do not belong together."""

import numpy as np
import pytest

from families.units import BadInput
from scaling.fitting.fit import FORMS, fit
from scaling.fitting.forms import Status
from scaling.fitting.optimise import SHAPES, Problem, minimise
from scaling.laws import Law
from scaling.runs import Run, RunTable

from .surfaces import BESIROGLU, GENERAL, HOFFMANN, grid


def test_hoffmanns_constants_as_the_only_start_do_not_survive():
    # PITFALLS row 1: a mean-reduced Huber of about 1e-6 meets ftol at once, and the start comes back as a success.
    runs = grid(BESIROGLU, noise=0.01)
    free = fit(runs, form="chinchilla", bootstrap=0)
    alone = fit(runs, form="chinchilla", bootstrap=0, starts=[HOFFMANN])
    assert free.status is Status.OK
    assert alone.forms[0].objective == pytest.approx(free.forms[0].objective, rel=1e-6)
    assert alone.main_form.law.beta != pytest.approx(HOFFMANN.beta, abs=0.02)


def test_a_fit_stopped_early_is_not_converged():
    table = RunTable.of(grid(GENERAL, noise=0.01))
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
def test_sizes_and_tokens_that_move_together_give_no_law_of_both(form):
    rng = np.random.default_rng(0)
    runs = [
        Run(
            run=f"{N}", params=N, tokens=20 * N, loss=BESIROGLU.loss(N, 20 * N) * np.exp(0.003 * rng.normal())
        )
        for N in np.geomspace(1e7, 1e9, 16)
    ]
    found = fit(runs, form=form)
    if form == "chinchilla":
        assert found.status in (Status.ILL_CONDITIONED, Status.AT_BOUND)
    else:  # a curve of compute alone, which predicts along it and says that it knows no optimum
        assert found.status is Status.OK
        assert "this is a law of compute alone" in " ".join(repr(found).split())
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

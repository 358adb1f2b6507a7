"""One answer to one question: every path that predicts gives the law's own number, for random laws and questions."""

import itertools
import json

import numpy as np
import pytest

from families import MEMBERS, accounting, count, member
from families.units import BadInput
from scaling.budget import parse_budget
from scaling.fitting.forms import FittedForm, ResidualGP, Status
from scaling.fitting.predictor import Fit, load_law
from scaling.laws import CONSTANTS, Domain, Law, LossModel, Repetition
from scaling.planning.candidates import candidates
from scaling.planning.evaluate import Objective
from scaling.planning.law import PredictQuery, predict
from scaling.planning.pilot import sealed_plan
from scaling.planning.plan import make_plan
from scaling.planning.planfile import PlanFile
from scaling.planning.seal import seal, sealed_predictions
from scaling.published_laws import PUBLISHED

EXACT = 1e-9
ROUNDS, LAWS = 10, 100  # 1,000 laws, each with a question of its own
SHAPES = candidates("all")
SOME = SHAPES.chosen(np.isin(np.arange(len(SHAPES)), np.arange(2, 60, 4)))
CLOSE = pytest.approx  # shorter where several are compared


def random_law(rng):
    return Law(
        E=rng.uniform(0.8, 2.2),
        A=np.exp(rng.uniform(4, 8)),
        B=np.exp(rng.uniform(5, 9)),
        alpha=rng.uniform(0.25, 0.5),
        beta=rng.uniform(0.25, 0.5),
        gamma=rng.uniform(0.7, 1.2),
    )


def random_fit(rng):
    """An ensemble about one law, with draws that are biased as few runs bias them, and a correction of some per mille."""
    constants = np.array([getattr(random_law(rng), name) for name in CONSTANTS])
    weights = rng.dirichlet(np.ones(rng.integers(1, 5)))
    forms = []
    for number, weight in enumerate(weights):
        own = constants * np.exp(0.03 * rng.standard_normal(6))
        bias = 0.1 * rng.standard_normal(6)
        forms.append(
            FittedForm(
                name=f"form {number}",
                law=Law(**dict(zip(CONSTANTS, own.tolist(), strict=True))),
                status=Status.OK,
                objective=1e-3,
                weight=float(weight),
                draws=own * np.exp(bias + 0.03 * rng.standard_normal((12, 6))),
            )
        )
    rows = int(rng.integers(4, 12))
    return Fit(
        forms=tuple(forms),
        domain=Domain(N=(1e7, 2e9), D=(1e8, 4e10), C=(6e15, 2e20)),
        convention="total" if rng.random() < 0.7 else "non_embedding",
        noise=rng.uniform(0.001, 0.004),
        drift=rng.uniform(0.002, 0.01),
        status=Status.OK,
        runs=rows,
        rows=rows,
        local=ResidualGP(
            log_N=rng.uniform(np.log(1e7), np.log(2e9), rows),
            log_D=rng.uniform(np.log(1e8), np.log(4e10), rows),
            coefficient=2e-3 * rng.standard_normal(rows),
        ),
        fitted_repetition=Repetition(R_N=rng.uniform(2, 10), R_D=rng.uniform(5, 30))
        if rng.random() < 0.5
        else None,
    )


def random_objective(rng, law):
    scarce = rng.random() < 0.3 and law.frontier is None
    return Objective(
        target=law.irreducible + rng.uniform(0.5, 1.5) if rng.random() < 0.4 else None,
        inference_tokens=10 ** rng.uniform(8, 10) if rng.random() < 0.3 and law.frontier is None else 0.0,
        tokens_available=10 ** rng.uniform(8, 10) if scarce else None,
    )


def random_plan(rng, law):
    """A plan of one or two budgets, or of a target; None where the question has no answer."""
    ask = random_objective(rng, law)
    budgets = [parse_budget(repr(10 ** rng.uniform(17, 21))) for _ in range(rng.integers(1, 3))]
    try:
        plan = make_plan(budgets[:1] if ask.target else budgets, law, SOME, ask=ask, force=True)
    except BadInput:
        return ask, None
    return ask, plan


def inside(value, *intervals):
    return all(low <= value <= high for interval in intervals if interval for low, high in [interval])


def rows_of(plan):
    band = plan.band.members if plan.band else ()
    return [
        plan.recommended,
        *plan.frontier,
        *(rung.choice for rung in plan.ladder),
        *(near.choice for near in band),
    ]


def check_rows(law, ask, plan):
    for row in rows_of(plan):
        assert inside(row.loss, row.interval_80, row.interval_95)
        size = row.params if law.convention == "total" else row.params_non_embedding
        answer = law.predict(size, row.tokens, unique_tokens=ask.tokens_available, force=True)
        assert law.loss(size, row.tokens, unique_tokens=ask.tokens_available) == CLOSE(answer.loss, rel=EXACT)
        if law.frontier is None:
            assert row.loss == CLOSE(answer.loss, rel=EXACT)
            assert row.interval_80 == (answer.interval_80 and CLOSE(answer.interval_80, rel=EXACT))
        else:
            assert row.loss == CLOSE(law.frontier.loss(row.N), rel=EXACT)
            assert row.converged_loss == CLOSE(answer.loss, rel=EXACT)


def check_nothing_beats_the_recommended(ask, plan):
    chosen = {rung.budget.text: rung.choice for rung in plan.ladder} or {plan.budget.text: plan.recommended}
    for row in rows_of(plan):
        best = chosen[row.budget]
        if ask.target is None:
            assert row.loss >= best.loss * (1 - EXACT)
        else:
            assert row.flops + row.inference_flops >= (best.flops + best.inference_flops) * (1 - EXACT)
            assert row.loss <= ask.target * (1 + 1e-6)
    if plan.band:
        assert all(near.extra_flops is None or near.extra_flops >= 0 for near in plan.band.members)


def check_members(law, ask, plan):
    for planned in plan.members:
        size = count(planned.spec, law.convention)
        answer = law.predict(size, planned.tokens, unique_tokens=ask.tokens_available, force=True)
        expected = law.frontier.loss(accounting.params_kaplan(planned.spec)) if law.frontier else answer.loss
        assert planned.prediction.loss == CLOSE(expected, rel=EXACT)
        if isinstance(law, Fit) and law.domain.extrapolation(size, planned.tokens).factor < 1000:
            promised = sealed_predictions(seal(sealed_plan(planned, law)))[0]
            fresh = law.predict(size, planned.tokens)
            assert promised.loss == CLOSE(fresh.loss, rel=EXACT)
            assert inside(promised.loss, promised.interval_80, promised.interval_95)


def check_allocation(law, C):
    best = law.allocate(C, force=True)
    answer = law.predict(best.N, best.D, force=True)
    assert best.loss == CLOSE(answer.loss, rel=EXACT)
    assert inside(best.N, best.N_interval_80)
    assert inside(best.D, best.D_interval_80)
    assert inside(best.loss, best.loss_interval_80, answer.interval_80, answer.interval_95)
    if isinstance(law, Fit):
        assert inside(*law.optimum_exponent(C))
        assert inside(law.irreducible, law.irreducible_interval_80)
        for name in CONSTANTS:
            assert inside(getattr(law.main_form.law, name), law.interval(name))


def check_inverse(law, rng):
    N = 10 ** rng.uniform(7, 9.5, 6)
    U = 10 ** rng.uniform(8, 11) if rng.random() < 0.5 else None
    loss = law.irreducible + rng.uniform(0.3, 1.5)
    tokens = law.tokens_for(N, loss, unique_tokens=U)
    for size, needed in zip(N, tokens, strict=True):
        if np.isfinite(needed) and (U is None or abs(needed / U - 1) > 1e-8):
            assert law.loss(size, needed, unique_tokens=U) == CLOSE(loss, rel=EXACT)
            assert law.loss(size, 0.5 * needed, unique_tokens=U) > loss


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_every_path_gives_one_number_and_no_row_beats_the_recommended(round_):
    answered = 0
    for number in range(LAWS):
        rng = np.random.default_rng([12, round_, number])
        law = random_fit(rng) if number % 5 else PUBLISHED[rng.choice(list(PUBLISHED))]
        assert isinstance(law, LossModel)
        check_allocation(law, 10 ** rng.uniform(17, 22))
        check_inverse(law, rng)
        ask, plan = random_plan(rng, law)
        if plan is None:
            continue
        answered += 1
        check_rows(law, ask, plan)
        check_nothing_beats_the_recommended(ask, plan)
        check_members(law, ask, plan)
        assert PlanFile.parse(plan.dump(), "plan.json") == plan
    assert answered > 0.8 * LAWS


@pytest.mark.parametrize("seed", range(8))
def test_a_saved_law_its_file_and_the_predict_verb_agree(tmp_path, seed):
    rng = np.random.default_rng([13, seed])
    law = random_fit(rng)
    path = tmp_path / "law.json"
    law.save(path)
    back = load_law(path)
    for name, tokens in itertools.islice(zip(MEMBERS, 10 ** rng.uniform(8, 11, 20), strict=False), 20):
        unique = tokens * rng.uniform(0.1, 1)
        answer = law.predict(family=name, tokens=tokens, unique_tokens=unique, force=True)
        size = count(member(name).spec, law.convention)
        for other in (law, back):
            again = other.predict(size, tokens, unique_tokens=unique, force=True)
            assert again.loss == CLOSE(answer.loss, rel=EXACT)
            assert again.interval_95 == CLOSE(answer.interval_95, rel=EXACT)
        query = PredictQuery(family=name, tokens=tokens, unique_tokens=unique)
        said = predict(str(path), query, force=True)
        assert said.loss == CLOSE(answer.loss, rel=EXACT)
        assert said.loss_interval_80 == CLOSE(answer.interval_80, rel=EXACT)


def test_plan_and_predict_print_the_same_loss_to_four_decimals(cli, tmp_path):
    law = random_fit(np.random.default_rng(14))
    law.save(tmp_path / "law.json")
    asked = ("plan", "--law", str(tmp_path / "law.json"), "--budget", "1e20")
    chosen = json.loads(cli(*asked, "--json").stdout)["recommended"]
    size = chosen["params" if law.convention == "total" else "params_non_embedding"]
    line = cli("predict", str(tmp_path / "law.json"), f"params={size}", f"tokens={chosen['tokens']}").stdout
    text = cli(*asked).stdout
    assert f"expected loss {chosen['loss']:.4f} nats/token" in text
    assert f"loss       {chosen['loss']:.4f}   80 %: {chosen['interval_80'][0]:.4f} to " in line
    frontier = [float(row.split()[3]) for row in text.splitlines() if row.startswith("frontier")]
    assert all(loss >= round(chosen["loss"], 4) for loss in frontier)


@pytest.mark.parametrize(
    ("tokens", "said"), [(4e10, ""), (4.01e10, ""), (4.1e10, "D is 1.02x outside the fitted range")]
)
def test_what_is_printed_as_once_the_largest_is_inside(tokens, said):
    found = Domain(N=(1e7, 2e9), D=(1e8, 4e10), C=(6e15, 2e21)).extrapolation(1e9, tokens)
    assert (found.message, found.inside) == (said, not said)

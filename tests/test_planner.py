"""The planner against the published table, the closed form and brute force."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from families import accounting, member
from families.design import DesignRule
from families.units import BadInput
from scaling.budget import parse_budget
from scaling.hardware import accelerator
from scaling.laws import PUBLISHED_REPETITION
from scaling.planning.band import band
from scaling.planning.candidates import candidates, designed
from scaling.planning.evaluate import Objective, evaluate_candidates, pareto, to_choice
from scaling.planning.law import find_law
from scaling.planning.memory import fit_memory
from scaling.planning.plan import budget_for, estimate_budget, make_plan
from scaling.planning.published_mfu import reached
from scaling.published_laws import PUBLISHED, published_law
from scaling.stats import perplexity

# Kaplan's frontier at N = 12·n_layer·n_embd²: the card's "predicted perplexity", to the last digit.
CARD = {
    "gpt2-52m": ("02:44@8xA100", 0.0684, 3.482618529842513, 32.54483020726001, 4.649e9, 0.985),
    "gpt2-83m": ("04:52@8xA100", 0.0748, 3.32654107284093, 27.8418719514438, 5.956e9, 1.032),
    "gpt2-125m": ("08:25@8xA100", 0.0830, 3.2042232768969785, 24.63635695536824, 7.291e9, 0.993),
}
CHINCHILLA = find_law("chinchilla")
ALL, GRID = candidates(), candidates("grid")
BUDGETS = st.floats(1e17, 1e24)


@pytest.mark.parametrize("name", CARD)
@pytest.mark.parametrize("family", ["all", "gpt2-kaplan"])
def test_the_cards_budgets_recommend_the_cards_members(name, family):
    text, mfu, loss, ppl, tokens, share = CARD[name]
    plan = make_plan(parse_budget(text, mfu=mfu), find_law("kaplan"), candidates(family))
    chosen = plan.recommended
    assert chosen.member == name
    assert chosen.loss == loss
    assert chosen.ppl == ppl
    assert chosen.tokens == pytest.approx(tokens, rel=2e-4)
    assert chosen.share == pytest.approx(share, abs=1e-3)
    assert chosen.flops == pytest.approx(
        accounting.train_flops_per_token(member(name).spec) * tokens, rel=2e-4
    )
    assert any("counts as affordable" in note for note in plan.notes) == (share > 1)


@given(flops=BUDGETS)
@settings(max_examples=30)
def test_no_candidate_beats_the_recommended_one(flops):
    costed = evaluate_candidates(Objective(flops=flops), CHINCHILLA, ALL)
    best = costed.best()
    for index in range(len(ALL)):
        spec = ALL.member(index).spec
        tokens = round(flops / accounting.train_flops_per_token(spec))
        loss = CHINCHILLA.law.loss(accounting.params(spec), tokens)
        assert loss >= costed.loss[best] or tokens < 20 * spec.n_positions


@given(flops=st.floats(1e19, 1e24))
@settings(max_examples=30)
def test_the_choice_lies_near_the_closed_form_allocation(flops):
    """Exact FLOPs shift the optimum a little from C = 6ND; the shapes are about 20 % apart."""
    costed = evaluate_candidates(Objective(flops=flops), CHINCHILLA, ALL)
    closed = CHINCHILLA.law.allocate(flops)
    assert ALL.params[costed.best()] == pytest.approx(closed.N, rel=0.35)
    assert costed.loss[costed.best()] == pytest.approx(closed.loss, rel=0.01)


@given(flops=BUDGETS, name=st.sampled_from(sorted(PUBLISHED)), served=st.sampled_from([0.0, 1e9, 1e12]))
@settings(max_examples=30)
def test_the_frontier_is_what_nothing_dominates(flops, name, served):
    ask = Objective(flops=flops, inference_tokens=0.0 if name == "kaplan" else served)
    try:
        costed = evaluate_candidates(ask, published_law(name), ALL)
    except BadInput:
        return
    kept = {index for _, index in pareto(costed)}
    points = np.stack([costed.flops, costed.loss, ALL.flops_per_token], axis=1)
    for index in range(len(ALL)):
        rivals = costed.feasible & (points <= points[index] * (1 + 1e-12)).all(axis=1)
        beaten = (rivals & (points < points[index] * (1 - 1e-9)).any(axis=1)).any()
        assert (index in kept) == (bool(costed.feasible[index]) and not beaten)


def test_several_budgets_make_a_ladder():
    plan = make_plan([parse_budget(text) for text in ("1e20", "1e18", "1e19")], CHINCHILLA, ALL)
    assert [rung.budget.flops for rung in plan.ladder] == [1e18, 1e19, 1e20]
    assert plan.recommended == plan.ladder[-1].choice
    losses = [rung.choice.loss for rung in plan.ladder]
    assert losses == sorted(losses, reverse=True)
    assert [planned.member for planned in plan.members] == [rung.choice.member for rung in plan.ladder]
    kept = [(one.flops, one.loss, one.inference_flops_per_token) for one in plan.frontier]
    assert len({round(flops / 1e18) for flops, _, _ in kept}) == 3  # cheaper training is on the frontier too
    for one in kept:
        assert not any(
            other != one and all(x <= y * (1 + 1e-9) for x, y in zip(other, one, strict=True))
            for other in kept
        )


@given(flops=BUDGETS)
@settings(max_examples=20)
def test_a_target_is_the_inverse_of_a_budget(flops):
    spent = evaluate_candidates(Objective(flops=flops), CHINCHILLA, ALL)
    loss = float(spent.loss[spent.best()])
    back = evaluate_candidates(Objective(target=loss), CHINCHILLA, ALL)
    assert back.flops[back.best()] == pytest.approx(flops, rel=1e-9)
    assert back.best() == spent.best()


@given(loss=st.floats(2.0, 3.5))
@settings(max_examples=20)
def test_a_targets_frontier_trades_training_for_serving_and_nothing_else(loss):
    costed = evaluate_candidates(Objective(target=loss), CHINCHILLA, GRID)
    kept = [index for _, index in pareto(costed)]
    assert kept[-1] == costed.best()
    assert (np.diff(costed.flops[kept]) < 0).all()
    assert (np.diff(GRID.flops_per_token[kept]) > 0).all()


def test_a_target_below_the_irreducible_loss_names_it():
    with pytest.raises(BadInput, match=r"1\.817"):
        evaluate_candidates(Objective(target=1.8), CHINCHILLA, ALL)
    with pytest.raises(BadInput, match="no candidate reaches it"):
        evaluate_candidates(Objective(target=1.9), CHINCHILLA, candidates("gpt2-kaplan"))


def test_serving_many_tokens_asks_for_a_smaller_model_trained_longer():
    """Sardana et al. 2023: the optimum shifts from large to small as more is served; checked against
    scipy.
    """
    sizes = []
    for served in (0.0, 1e11, 1e12, 1e13):
        costed = evaluate_candidates(Objective(target=2.5, inference_tokens=served), CHINCHILLA, GRID)
        best = costed.best()
        sizes.append(int(GRID.params[best]))

        def total(log_n, served=served):
            n = math.exp(log_n)
            rest = 2.5 - CHINCHILLA.law.E - CHINCHILLA.law.A * n**-CHINCHILLA.law.alpha
            if rest <= 0:
                return 1e40
            return 6 * n * (CHINCHILLA.law.B / rest) ** (1 / CHINCHILLA.law.beta) + 2 * n * served

        exact = minimize_scalar(total, bounds=(math.log(1e7), math.log(1e12)), method="bounded")
        assert sizes[-1] == pytest.approx(math.exp(exact.x), rel=0.25)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 2 * sizes[-1]


@given(flops=st.floats(1e20, 1e24), served=st.floats(1e9, 1e11))
@settings(max_examples=20)
def test_a_budget_pays_for_training_and_serving_together(flops, served):
    ask = Objective(flops=flops, inference_tokens=served, includes_serving=True)
    costed = evaluate_candidates(ask, CHINCHILLA, ALL)
    assert costed.total[costed.feasible] == pytest.approx(flops)
    best = to_choice(costed, costed.best(), CHINCHILLA, parse_budget(repr(flops)))
    assert best.flops + best.inference_flops == pytest.approx(flops)
    assert best.inference_flops == pytest.approx(served * best.inference_flops_per_token)


@given(
    unique=st.floats(1e6, 1e12),
    draws=st.floats(0.1, 100),
)
def test_draws_are_the_inverse_of_what_repeated_tokens_are_worth(unique, draws):
    _, worth = PUBLISHED_REPETITION.effective(np.array([1.0]), np.array([draws * unique]), np.array([unique]))
    assert worth[0] <= draws * unique * (1 + 1e-12)
    assert PUBLISHED_REPETITION.tokens_worth(worth, unique)[0] == pytest.approx(draws * unique, rel=1e-6)


def test_scarce_data_costs_loss_and_shrinks_the_model():
    free = evaluate_candidates(Objective(flops=1e21), CHINCHILLA, ALL)
    enough = evaluate_candidates(Objective(flops=1e21, tokens_available=1e13), CHINCHILLA, ALL)
    scarce = evaluate_candidates(Objective(flops=1e21, tokens_available=2e9), CHINCHILLA, ALL)
    assert enough.best() == free.best()
    assert scarce.loss[scarce.best()] > free.loss[free.best()] + 0.05
    assert ALL.params[scarce.best()] < ALL.params[free.best()]
    plan = make_plan(parse_budget("1e21"), CHINCHILLA, ALL, ask=Objective(tokens_available=2e9))
    assert plan.recommended.epochs == pytest.approx(plan.recommended.tokens / 2e9)
    assert any("epochs" in note for note in plan.notes)


def test_a_target_with_scarce_data_is_met_exactly():
    costed = evaluate_candidates(Objective(target=2.7, tokens_available=2e9), CHINCHILLA, ALL)
    able = costed.feasible & (costed.tokens > 21 * ALL.n_positions)
    assert costed.loss[able] == pytest.approx(2.7, rel=1e-9)


@given(flops=st.floats(1e18, 1e23), nats=st.sampled_from([0.003, 0.01, 0.05]))
@settings(max_examples=20)
def test_the_band_is_all_within_its_width_and_its_price_buys_the_best_loss(flops, nats):
    costed = evaluate_candidates(Objective(flops=flops), CHINCHILLA, ALL)
    budget = parse_budget(repr(flops), on="8xA100")
    found = band(costed, CHINCHILLA, budget, nats=nats)
    best = float(costed.loss[costed.best()])
    inside = [ALL.member(int(i)).name for i in np.flatnonzero(costed.loss <= best + nats)]
    listed = [one.choice.member for one in found.members]
    assert listed == inside if len(inside) <= 64 else set(listed) < set(inside)
    for one in found.members:
        per_token = one.choice.flops / one.choice.tokens
        tokens = (flops + one.extra_flops) / per_token
        assert CHINCHILLA.law.loss(one.choice.params, tokens) == pytest.approx(best, rel=1e-7)
        assert one.extra_price == pytest.approx(one.extra_hours * 8 * 1.79)
    assert (
        found.cheapest_to_serve
        == min(found.members, key=lambda one: one.choice.inference_flops_per_token).choice.member
    )


def test_a_share_of_the_cost_bounds_the_band_too():
    costed = evaluate_candidates(Objective(flops=1e20), CHINCHILLA, ALL)
    found = band(costed, CHINCHILLA, parse_budget("1e20"), share=0.02)
    assert 1 < len(found.members) < 20
    assert all(one.extra_flops <= 0.02 * 1e20 for one in found.members)
    with pytest.raises(BadInput, match="one of them"):
        band(costed, CHINCHILLA, parse_budget("1e20"), share=0.02, nats=0.01)
    with pytest.raises(BadInput, match="positive"):
        band(costed, CHINCHILLA, parse_budget("1e20"), nats=-1.0)


def test_pareto_members_are_marked_with_the_laws_that_want_them():
    plan = make_plan(parse_budget("1e20"), CHINCHILLA, ALL)
    marked = {choice.member: choice.preferred_by for choice in plan.frontier}
    assert "chinchilla" in marked[plan.recommended.member]
    assert marked["gpt2-52m"] == ()
    kaplan = plan.others[0].choice.member
    assert "kaplan" in marked.get(kaplan, ("kaplan",))


def test_the_plan_says_what_other_laws_would_choose_and_leaves_superseded_ones_out():
    budget = parse_budget("1e20")
    assert {other.law for other in make_plan(budget, find_law("kaplan"), ALL).others} == {"chinchilla"}
    plan = make_plan(budget, find_law("hoffmann"), ALL)
    assert {other.law for other in plan.others} == {"kaplan", "chinchilla"}
    assert any("superseded" in note for note in plan.notes)


def test_the_planned_member_is_whole_steps_and_its_prediction_is_for_exactly_those():
    planned = make_plan(parse_budget("1e20"), CHINCHILLA, ALL).members[0]
    assert planned.tokens == planned.recipe.steps * planned.recipe.batch_tokens
    assert planned.prediction.loss == CHINCHILLA.law.loss(planned.params, planned.tokens)
    assert accounting.params(planned.spec) == planned.params


def test_the_planned_member_fits_its_device():
    planned = make_plan(parse_budget("8xA100-days"), CHINCHILLA, ALL).members[0]
    assert sum(planned.memory.values()) < 80e9
    assert planned.micro_batch >= 1
    with pytest.raises(BadInput, match="T4 has 16"):
        make_plan(parse_budget("1e24", on="T4"), CHINCHILLA, ALL)


def test_an_estimated_mfu_agrees_with_the_member_it_buys():
    found = estimate_budget("8xH200-hours", CHINCHILLA, ALL, Objective(), on=None)
    assert found.mfu_source == "estimated"
    known = reached("H200")
    assert known.low < found.mfu < known.high
    with pytest.raises(BadInput, match="--on"):
        estimate_budget("1e20", CHINCHILLA, ALL, Objective(), on=None)


def test_a_target_becomes_a_budget_with_hours():
    budget = budget_for(Objective(target=2.6), CHINCHILLA, ALL, text="target loss 2.6", on="8xA100")
    assert budget.hours(budget.flops) == pytest.approx(budget.flops / (8 * 312e12 * 0.4 * 3600))


def test_a_grid_holds_more_than_twenty_thousand_shapes_that_count_as_members_do():
    assert len(GRID) > 20_000
    assert (np.diff(GRID.params) >= 0).all()
    for index in range(0, len(GRID), len(GRID) // 50):
        spec = GRID.member(index).spec
        assert accounting.params(spec) == GRID.params[index]
        assert accounting.train_flops_per_token(spec) == GRID.flops_per_token[index]
        assert 32 <= spec.n_embd / spec.n_layer <= 128


def test_a_fixed_size_asks_only_for_tokens():
    shapes = designed(125e6, DesignRule())
    costed = evaluate_candidates(Objective(flops=1e19), CHINCHILLA, shapes)
    choice = to_choice(costed, 0, CHINCHILLA, parse_budget("1e19"))
    assert (choice.member, len(shapes)) == ("gpt2-125m", 1)
    assert choice.tokens == pytest.approx(1e19 / accounting.train_flops_per_token(member("gpt2").spec), abs=1)


@pytest.mark.parametrize("law", ["kaplan", "chinchilla"])
def test_nothing_affordable_names_the_cheapest(law):
    with pytest.raises(BadInput, match=r"the cheapest is gpt2-52m at .* FLOPs"):
        make_plan(parse_budget("1e9"), find_law(law), candidates("gpt2-kaplan"))


def test_kaplans_frontier_trades_nothing():
    for ask in (Objective(flops=1e20, inference_tokens=1e9), Objective(flops=1e20, tokens_available=1e9)):
        with pytest.raises(BadInput, match="fixes the tokens of each size"):
            evaluate_candidates(ask, find_law("kaplan"), ALL)


def test_an_unknown_law_or_family_gets_the_nearest():
    with pytest.raises(BadInput, match="did you mean chinchilla"):
        find_law("chinchila")
    with pytest.raises(BadInput, match="did you mean gpt2"):
        candidates("gpt-2")


@pytest.mark.parametrize("unique", [2e3, 1e5, 3e5, 1e6])
@pytest.mark.parametrize("flops", ["1e14", "1e19"])
def test_a_text_far_too_small_still_plans_and_says_so(unique, flops):
    plan = make_plan(parse_budget(flops), CHINCHILLA, ALL, ask=Objective(tokens_available=unique))
    assert math.isfinite(plan.recommended.ppl)
    assert any("times fewer than any that law chinchilla was fitted on" in note for note in plan.notes)
    assert any("worse than guessing among 50,257 tokens (10.8249)" in note for note in plan.notes)
    assert all(one.extra_flops is None or one.extra_flops >= 0 for one in plan.band.members)


def test_a_text_that_fills_no_context_is_refused():
    with pytest.raises(BadInput, match="do not fill one context of 1,024 tokens"):
        make_plan(parse_budget("1e19"), CHINCHILLA, ALL, ask=Objective(tokens_available=500))


def test_a_perplexity_beyond_a_float_is_the_largest_there_is():
    assert perplexity(2.0) == math.exp(2.0)
    assert math.isfinite(perplexity(1e6))
    assert perplexity(1e6) >= perplexity(699.0)


@pytest.mark.parametrize("size", [1, 4, 16])
def test_a_plan_leaves_a_device_the_memory_that_no_arithmetic_counts(size):
    # A context, the libraries' workspaces and the allocator's rounding take a few per cent: what fills a device to the
    # last byte on paper does not run on it, and a tenth spare is enough.
    planned = member("gpt2-125m")
    needed = sum(accounting.training_memory(planned.spec, size, bf16=True).values())
    a100 = accelerator("A100")

    def fitted(share):
        found = fit_memory(planned.spec, replace(a100, memory=needed * share), 8, 8 * 64)
        assert sum(found.memory.values()) < 0.95 * needed * share
        return found

    assert fitted(1.1).micro_batch == size
    assert not fitted(1.1).checkpointing
    assert fitted(1.04).micro_batch < size or fitted(1.04).checkpointing or fitted(1.04).shards > 1

"""Which pilot runs to buy."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from families import accounting, member
from families.design import DesignRule, rule_for
from families.units import BadInput
from scaling.laws import Law
from scaling.planning.candidates import candidates
from scaling.planning.experiment_design import (
    DRIFT,
    ROW_NOISE,
    RUN_NOISE,
    PilotQuery,
    candidate_ladders,
    half_width,
    jacobian,
    optimal_tokens,
    pilot_plan,
    prior,
    rows_information,
    select_ladders,
)
from scaling.planning.pilot import pilot_family
from scaling.planning.planfile import PlanFile
from scaling.published_laws import published_law

LAW = published_law("chinchilla").law
SHAPES = candidates("all", DesignRule(ratio=40, head_size=32))
SIZES = SHAPES.params.astype(float)
TARGET = member("gpt2-125m")
N, D = float(accounting.params(TARGET.spec)), 2.5e9
BUDGET = 0.05 * accounting.train_flops(TARGET.spec, D)
BASKET = select_ladders(LAW, SHAPES, SIZES, target=(TARGET, N, D), budget=BUDGET)


@given(
    n=st.floats(1e5, 1e10),
    d=st.floats(1e7, 1e12),
    gamma=st.floats(0.3, 1.5),
)
def test_the_jacobian_is_the_slope_of_log_loss(n, d, gamma):
    law = Law(E=1.8, A=480.0, B=2000.0, alpha=0.35, beta=0.37, gamma=gamma)
    found = jacobian(law, np.array([n]), np.array([d]))[0]

    def log_loss(step, place):
        e, a, alpha, b, beta, g = (step if i == place else 0.0 for i in range(6))
        moved = Law(
            E=law.E * math.exp(e),
            A=law.A * math.exp(a),
            alpha=law.alpha + alpha,
            B=law.B * math.exp(b),
            beta=law.beta + beta,
            gamma=law.gamma * math.exp(g),
        )
        return math.log(moved.loss(n, d))

    for place in range(6):
        slope = (log_loss(1e-6, place) - log_loss(-1e-6, place)) / 2e-6
        assert found[place] == pytest.approx(slope, rel=1e-4, abs=1e-6)


def deviation(purchases):
    total = prior(math.sqrt(1 / 600) * N, D / 10) + sum(
        rows_information(LAW, *one.points, 6 * N * D) for one in purchases
    )
    g = jacobian(LAW, np.array([N]), np.array([D]))[0]
    return math.sqrt(g @ np.linalg.solve(total, g))


def test_the_basket_is_within_its_cost_and_has_one_ladder_per_member():
    assert BASKET.flops <= BUDGET
    assert BASKET.flops == pytest.approx(sum(one.flops for one in BASKET.ladders))
    assert len({one.member.name for one in BASKET.ladders}) == len(BASKET.ladders) >= 4
    assert max(one.flops for one in BASKET.ladders) <= 0.25 * BUDGET * (1 + 1e-9)
    assert BASKET.deviation == pytest.approx(deviation(BASKET.ladders))


def test_no_exchange_of_one_ladder_for_another_narrows_it_further():
    offered = candidate_ladders(SHAPES, SIZES, (N, D), BUDGET)
    for place in range(len(BASKET.ladders)):
        others = [*BASKET.ladders[:place], *BASKET.ladders[place + 1 :]]
        left = BUDGET - sum(one.flops for one in others)
        names = {one.member.name for one in others}
        for one in offered[::7]:
            if one.flops <= left and one.member.name not in names:
                assert deviation([*others, one]) >= BASKET.deviation * (1 - 1e-4)


@settings(max_examples=10)
@given(share=st.floats(0.02, 0.2))
def test_more_money_narrows_more(share):
    compute = accounting.train_flops(TARGET.spec, D)
    less = select_ladders(LAW, SHAPES, SIZES, target=(TARGET, N, D), budget=share * compute)
    more = select_ladders(LAW, SHAPES, SIZES, target=(TARGET, N, D), budget=3 * share * compute)
    assert more.deviation < less.deviation


def test_no_ladder_starts_before_a_token_per_parameter():
    assert all(one.rungs[0] >= 0.99 * one.N for one in BASKET.ladders)
    assert all(one.N <= N / 2 for one in BASKET.ladders)


def test_the_interval_never_falls_below_the_noise_of_one_run():
    assert BASKET.half_width_80 > 1.28 * RUN_NOISE


def test_optimal_tokens_invert_the_allocation():
    best = LAW.allocate(1e21)
    assert optimal_tokens(LAW, best.N) == pytest.approx(best.D)


def test_the_plan_is_ladders_in_whole_steps_without_predictions():
    plan, basket = pilot_plan(PilotQuery(target="gpt2-125m", tokens="2.5B"))
    assert len(plan.members) == len(basket.ladders)
    for one in plan.members:
        assert one.prediction is None
        assert one.rungs[-1] == one.tokens
        assert all(rung % one.recipe.batch_tokens == 0 for rung in one.rungs)
        assert one.recipe.warmup_steps * one.recipe.batch_tokens <= 0.21 * one.rungs[0]


def test_the_command_writes_a_plan(cli, tmp_path):
    out = tmp_path / "ladder.json"
    result = cli("pilot", "--target", "125M", "--budget", "5%", "--out", str(out), "--json")
    value = json.loads(result.stdout)
    assert value["share_of_target"] <= 0.05
    assert [one.member for one in PlanFile.read(out).members] == [one["member"] for one in value["members"]]
    assert "%" in cli("pilot", "--target", "gpt2-83m", "--budget", "1e17").stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--target", "big"), "target"),
        (("--target", "125M", "--budget", "200%"), "must cost less"),
        (("--target", "125M", "--budget", "1e9"), "budget"),
        (("--target", "125M", "--law", "kaplam"), "did you mean kaplan"),
        ((), "--target"),
    ],
)
def test_the_command_refuses_in_one_line(cli, arguments, said):
    result = cli("pilot", *arguments)
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert said in result.stderr


def test_too_little_money_is_refused():
    with pytest.raises(BadInput, match="budget"):
        select_ladders(LAW, SHAPES, SIZES, target=(TARGET, N, D), budget=1e10)


def test_the_ladders_shares_of_the_cost_add_up_to_it(cli):
    lines = cli("pilot", "--target", "125M", "--budget", "5%").stdout.splitlines()
    shares = [float(line.split()[-1].removesuffix("%")) for line in lines[2:] if line.startswith("gpt2-")]
    assert len(shares) > 4
    assert sum(shares) == pytest.approx(100, abs=2)


@pytest.mark.parametrize("architecture", ["gpt2", "bert", "llama"])
def test_a_pilot_family_is_of_its_rules_architecture(architecture):
    rule = DesignRule(ratio=32, head_size=16, architecture=architecture)
    pilot = pilot_family(rule, (32, 48, 64, 96, 128), batch_sequences=8)
    assert [spec.n_layer for spec in pilot.specs] == [2, 2, 2, 3, 4]
    for spec in pilot.specs:
        assert spec == replace(rule.at_width(spec.n_embd), n_layer=spec.n_layer)


@pytest.mark.parametrize("decades", [1.0, 2.0, 3.5])
def test_the_half_width_holds_the_drift_of_the_decades_beyond_the_runs(decades):
    # Runs that obey the law and are many leave nothing open but a run's own noise and how far the law bends.
    rng = np.random.default_rng(0)
    bent = rng.normal(0, DRIFT, 400_000) * decades
    outcomes = bent + rng.normal(0, RUN_NOISE, bent.size) + rng.normal(0, ROW_NOISE, bent.size)
    said = half_width(0.0, 1000, decades)
    assert np.mean(np.abs(outcomes) <= said) == pytest.approx(0.8, abs=0.005)
    assert said > 1.3 * half_width(0.0, 1000, 0.0)


def test_the_basket_is_judged_by_the_decades_between_its_dearest_rung_and_the_target():
    dearest = max(6 * one.N * max(one.rungs) for one in BASKET.ladders)
    beyond = math.log10(6 * N * D / dearest)
    assert beyond > 1
    assert BASKET.half_width_80 == pytest.approx(
        half_width(BASKET.lawful_deviation, len(BASKET.ladders), beyond), rel=0.01
    )
    assert BASKET.half_width_80 >= 1.28 * math.hypot(RUN_NOISE, ROW_NOISE, DRIFT * beyond)


@pytest.mark.parametrize("decades", [0.0, 1.0, 3.0])
def test_a_row_tells_less_the_further_it_lies_below_the_target(decades):
    # One row: its gradient's outer product over the variance of its run, of itself and of the law's bend.
    n, d = np.array([1e8]), np.array([2e9])
    told = rows_information(LAW, n, d, float(6 * n[0] * d[0]) * 10**decades)
    g = jacobian(LAW, n, d)[0]
    noise = RUN_NOISE**2 + ROW_NOISE**2 + (DRIFT * decades) ** 2
    assert told == pytest.approx(np.outer(g, g) / noise)


@pytest.mark.parametrize("runs", [4, 6, 12])
def test_the_half_width_of_few_runs_is_widened_as_a_fit_widens_it(runs):
    left = 0.02
    said = half_width(left, runs, 0.0) ** 2 - half_width(0.0, runs, 0.0) ** 2
    endless = half_width(left, 10**9, 0.0) ** 2 - half_width(0.0, 10**9, 0.0) ** 2
    assert said / endless == pytest.approx(runs / (runs - 3))


@pytest.mark.parametrize(("family", "target"), [("olmo2", "1B"), ("qwen3-moe", "3B")])
def test_ladders_of_any_family_are_of_its_shapes_and_within_the_budget(family, target):
    plan, design = pilot_plan(PilotQuery(target=target, family=family, budget="3%"))
    rule = rule_for(family)
    assert design.flops <= 0.03 * design.target_flops
    assert len(plan.members) >= 4
    for one in plan.members:
        own = rule.at_width(one.spec.n_embd)
        assert one.spec == replace(own, n_layer=max(own.n_layer, 2))  # below, attention cannot copy


def test_a_published_target_has_ladders_of_its_own_family_at_the_context_they_share():
    plan, design = pilot_plan(PilotQuery(target="llama-3.1-8b", budget="1%"))
    assert {one.spec.architecture for one in plan.members} == {"llama"}
    assert {one.spec.n_positions for one in plan.members} == {design.target.spec.n_positions} == {8192}


@pytest.mark.parametrize(
    ("query", "said"),
    [
        (PilotQuery(target="llama3.1-8b"), "did you mean llama-3.1-8b"),
        (PilotQuery(target="8B", family="lama3"), "family is 'lama3'; did you mean llama3"),
    ],
)
def test_a_target_or_family_that_is_not_known_names_the_nearest(query, said):
    with pytest.raises(BadInput, match=said):
        pilot_plan(query)


@pytest.mark.parametrize(("target", "tokens", "share"), [("500k", "14M", "60%"), ("5M", "100M", "20%")])
def test_ladders_span_a_decade_of_sizes_past_the_bend(target, tokens, share):
    plan, design = pilot_plan(
        PilotQuery(target=target, tokens=tokens, budget=share, vocab="512", context="128")
    )
    sizes = [one.N for one in design.ladders]
    assert max(sizes) >= 8 * min(sizes)
    assert max(sizes) >= design.target_N / 5
    for one in plan.members:
        assert one.spec.n_layer >= 2
        assert one.rungs[0] >= 0.99 * min(3e6, design.target_tokens / 5)
        assert one.rungs[0] >= 0.49 * one.tokens  # its batch is not far from a batch of its own


def test_runs_of_one_point_each_inform_as_the_sum_of_runs():
    N, D = np.array([2e6, 5e6, 2e7]), np.array([8e7, 4e8, 2e8])
    apart = sum(rows_information(LAW, N[[i]], D[[i]], 1e18) for i in range(3))
    assert rows_information(LAW, N, D, 1e18, one_run=False) == pytest.approx(apart, rel=1e-12)
    # rungs share their run's noise
    assert rows_information(LAW, N, D, 1e18) != pytest.approx(apart, rel=0.05)

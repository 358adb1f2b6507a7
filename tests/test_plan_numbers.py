"""What a plan's numbers are of: which of Kaplan's losses, which budget, training or serving."""

import json

import pytest

from families import member
from scaling.budget import parse_budget
from scaling.planning.candidates import candidates
from scaling.planning.evaluate import Objective
from scaling.planning.law import PredictQuery, find_law, predict
from scaling.planning.plan import make_plan

ALL = candidates()
KAPLAN, CHINCHILLA = find_law("kaplan"), find_law("chinchilla")


@pytest.mark.parametrize("name", ["gpt2-52m", "gpt2-83m", "gpt2-125m"])
def test_plan_and_predict_give_both_of_kaplans_losses_alike(name):
    shapes = candidates("gpt2-kaplan")
    plan = make_plan(parse_budget(repr(1.4 * flops_of(name))), KAPLAN, shapes)
    chosen = next(one for one in (plan.recommended, *plan.frontier) if one.member == name)
    said = predict("kaplan", PredictQuery(family=name, tokens=float(chosen.tokens)))
    assert said.compute_efficient_loss == chosen.loss
    assert said.compute_efficient_perplexity == chosen.ppl
    assert said.compute_efficient_tokens == pytest.approx(chosen.tokens)
    assert said.loss == pytest.approx(chosen.converged_loss)
    assert said.loss_is == "L(N, D)"
    assert "L(C_min)" in "\n".join(said.lines())


def flops_of(name):
    answered = make_plan(parse_budget("1e21"), KAPLAN, candidates("gpt2-kaplan"))
    shape = member(name).spec
    return next(one.flops for one in (answered.recommended, *answered.frontier) if one.n_embd == shape.n_embd)


def test_another_laws_answers_have_one_loss():
    assert predict("chinchilla", PredictQuery(params=1e9, tokens=2e10)).compute_efficient_loss is None
    assert make_plan(parse_budget("1e20"), CHINCHILLA, ALL).recommended.converged_loss is None


@pytest.mark.parametrize(("flops", "left"), [("1e17", True), ("1.68e18", False)])
def test_what_kaplans_frontier_leaves_of_a_budget_is_explained(flops, left):
    plan = make_plan(parse_budget(flops), KAPLAN, ALL)
    assert (plan.recommended.share < 0.95) == left
    assert (
        any("of the budget is left: law kaplan fixes each member's tokens" in note for note in plan.notes)
        == left
    )


def test_shares_count_serving_and_the_recommended_takes_the_least():
    target = make_plan(
        parse_budget("1e20"), CHINCHILLA, ALL, ask=Objective(target=2.6, inference_tokens=1e12)
    )
    assert target.recommended.share == pytest.approx(1)
    assert all(one.share >= 1 - 1e-12 for one in target.frontier)
    least = target.recommended.flops + target.recommended.inference_flops
    assert all(
        one.share == pytest.approx((one.flops + one.inference_flops) / least) for one in target.frontier
    )
    budget = make_plan(parse_budget("1e21"), CHINCHILLA, ALL, ask=Objective(inference_tokens=1e12))
    assert budget.recommended.share == pytest.approx(1)


@pytest.mark.parametrize("goal", [("--target-loss", "2.6"), ("--budget", "1e21")])
def test_the_text_tells_training_from_serving(cli, goal):
    text = cli("plan", *goal, "--inference-tokens", "1T", "--on", "8xA100").stdout
    assert "FLOPs and serving" in text
    header = next(line for line in text.splitlines() if line.lstrip().startswith("member"))
    assert {"train", "serve"} <= set(header.split())
    assert max(len(line) for line in text.splitlines()) <= 100


def test_each_of_several_budgets_is_told_with_its_own_rows(cli):
    words = ("plan", "--budget", "24h@8xA100,1.4e18,0.02 PF-days,64 H100-hours")
    found = json.loads(cli(*words, "--json").stdout)
    budgets = {rung["budget"]["text"]: rung["budget"] for rung in found["ladder"]}
    for one in found["frontier"]:
        budget = budgets[one["budget"]]
        assert one["share"] == pytest.approx(one["flops"] / budget["flops"])
        assert (one["hours"] is None) == (budget["accelerator"] is None)
    text = cli(*words).stdout
    for number, name in enumerate(budgets, 1):
        assert f"budget {number}: " in text
        if "@" in name or "H100" in name:
            assert f"budget {number}: {name} = " in text
    numbers = {one["member"]: str(list(budgets).index(one["budget"]) + 1) for one in found["frontier"]}
    rows = [line.split() for line in text.splitlines() if line.startswith("frontier, ")]
    assert rows
    assert all(numbers[row[2]] == row[1] for row in rows)
    assert max(len(line) for line in text.splitlines()) <= 100


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("plan", "--params", "300k", "--budget", "1e15"),
            "300k parameters requested, 3.33M designed (+1,011 %)",
        ),
        (("plan", "--params", "1M", "--budget", "1e15"), "50,257 tokens at width 64 has 3.22M"),
        (("design", "--params", "1"), "1 parameters requested, 3.33M designed"),
        (("design", "--width", "100"), "width 100 requested, 128 designed"),
        (("design", "--params", "85M"), ""),
        (("design", "--width", "768"), ""),
        (("plan", "--params", "125M", "--budget", "1e19"), ""),
    ],
)
def test_a_size_that_no_shape_comes_near_is_said_to_be_missed(cli, words, said):
    result = cli(*words)
    assert result.returncode == 0
    assert said in result.stderr
    assert ("requested" in result.stderr) == bool(said)

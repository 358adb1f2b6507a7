"""How far a plan reaches beyond what its law was fitted on: one factor, and one rule for plan and predict."""

import json

import pytest

from families.units import BadInput
from scaling.budget import parse_budget
from scaling.planning.candidates import candidates
from scaling.planning.evaluate import Objective
from scaling.planning.law import PredictQuery, find_law, predict
from scaling.planning.plan import make_plan, other_choices

ALL = candidates()


@pytest.mark.parametrize("law", ["chinchilla", "kaplan"])
@pytest.mark.parametrize("flops", ["1e28", "1e30"])
def test_plan_refuses_what_predict_refuses(law, flops):
    with pytest.raises(BadInput, match=r"compute is .*unless forced"):
        make_plan(parse_budget(flops), find_law(law), ALL)
    forced = make_plan(parse_budget(flops), find_law(law), ALL, force=True).recommended
    asked = PredictQuery(params=forced.N, tokens=float(forced.tokens))
    with pytest.raises(BadInput, match=r"compute is .*unless forced"):
        predict(law, asked)
    assert forced.extrapolation == pytest.approx(predict(law, asked, force=True).extrapolation)


@pytest.mark.parametrize("flops", ["1e16", "1e20", "1e25"])
def test_plan_and_predict_say_one_factor_the_largest_of_three(flops):
    chosen = make_plan(parse_budget(flops), find_law("chinchilla"), ALL).recommended
    answer = predict("chinchilla", PredictQuery(params=chosen.N, tokens=float(chosen.tokens)))
    assert chosen.extrapolation == pytest.approx(answer.extrapolation)
    assert chosen.extrapolation >= answer.compute_factor * (1 - 1e-9)


def test_a_row_beyond_its_laws_data_says_by_how_much(cli):
    result = cli("plan", "--law", "kaplan", "--budget", "1e15", "--vocab", "1k", "--context", "128", "--json")
    other = json.loads(result.stdout)["others"][0]["choice"]
    assert other["extrapolation"] > 10
    text = cli("plan", "--law", "kaplan", "--budget", "1e15", "--vocab", "1k", "--context", "128").stdout
    row = next(line for line in text.splitlines() if line.startswith("under chinchilla"))
    assert f"{other['extrapolation']:.3g}x" in row
    assert "beyond: factor by which" in text


def test_another_law_out_of_its_reach_is_left_out():
    law = find_law("kaplan")
    assert other_choices(Objective(flops=1e28), parse_budget("1e28"), law, ALL) == ()

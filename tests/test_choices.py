"""Experts and vocabulary that a plan leaves to the law: published laws against their papers, fitted ones against themselves."""

import json
from dataclasses import replace
from itertools import cycle

import numpy as np
import pytest

from families import accounting, member
from families.design import rule_for
from families.units import BadInput
from scaling.fitting.coordinates import multiplier, shift_of
from scaling.fitting.fit import fit
from scaling.mixtures import joint_law
from scaling.planning import choices
from scaling.planning.api import plan
from scaling.planning.law import PredictQuery, plan_params, predict
from scaling.planning.vocabulary import vocabulary_parameters
from scaling.published_laws import published_law
from scaling.runs import Run

from .surfaces import BESIROGLU
from .test_fit_command import scaling


@pytest.fixture(scope="module")
def of_experts():
    """A law of runs with experts whose N counts E^0.4 times."""
    rng = np.random.default_rng(3)
    return fit([
        Run(run=f"{N:g}-{E}-{D:g}", params=N, tokens=D, n_experts=E,
            loss=BESIROGLU.loss(N * E**0.4, D) * np.exp(0.001 * rng.normal()))
        for N in np.geomspace(1e7, 3e8, 4) for D in (2e9, 2e10) for E in (2, 8, 32)
    ], bootstrap=20, coordinates=["n_experts"])  # fmt: skip


@pytest.fixture(scope="module")
def of_vocabularies():
    """A law of runs whose loss has the term 2·V^-0.5."""
    rng = np.random.default_rng(3)
    return fit([
        Run(run=f"{N:g}-{V}-{D:g}", params_non_embedding=N, tokens=D, vocab_size=V,
            loss=BESIROGLU.loss(N, D) + 2 * V**-0.5 + 0.003 * rng.normal())
        for N in np.geomspace(1e7, 3e8, 4) for D in (2e9, 2e10) for V in (2048, 8192, 32768)
    ], bootstrap=20, coordinates=["vocab_size"])  # fmt: skip


# Ludziejewski et al. 2025, table 1: budget, experts, optimal active parameters and tokens
TABLE_1 = [
    (1e20, 1, 1.7e9, 9.7e9), (1e20, 8, 990e6, 17e9), (1e20, 32, 669e6, 24.9e9), (1e21, 1, 5.7e9, 29.3e9),
    (1e21, 16, 3.3e9, 51.2e9), (1e22, 2, 17.4e9, 96e9), (1e22, 32, 12.2e9, 136.9e9),
]  # fmt: skip


@pytest.mark.parametrize(("budget", "experts", "N", "D"), TABLE_1)
def test_the_joint_law_splits_budgets_as_its_paper_does(budget, experts, N, D):
    best = joint_law(experts).allocate(budget, force=True)
    assert pytest.approx(N, rel=0.03) == best.N
    assert pytest.approx(D, rel=0.03) == best.D


def test_vocabularies_are_those_of_the_paper():
    """Tao et al. 2024's abstract: at least 216K for Llama2-70B, and 43K for 3B at 2.3e21 FLOPs."""
    assert vocabulary_parameters(70e9).loss / 8192 == pytest.approx(216e3, rel=0.02)
    assert vocabulary_parameters(2.87e9, 2.3e21).loss / 3200 == pytest.approx(43e3, rel=0.03)
    assert vocabulary_parameters(33e6).derivative == 3145728
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(BadInput, match="must be positive"):
            vocabulary_parameters(wrong)


def test_a_law_at_its_experts_answers_as_the_law_that_is_given_them(of_experts):
    at = of_experts.at(n_experts=8)
    plain, fixed = of_experts.predict(2e8, 1e10, n_experts=8), at.predict(2e8, 1e10)
    assert (fixed.loss, fixed.interval_80) == (plain.loss, plain.interval_80)
    best = at.allocate(1e20)
    for shift in (0.8, 1.25):
        assert at.loss(best.N * shift, best.D / shift) >= best.loss * (1 - 1e-4)
    for unique in (None, 3e9):
        tokens = float(at.tokens_for(2e8, fixed.loss, unique_tokens=unique))
        assert at.loss(2e8, tokens, unique_tokens=unique) == pytest.approx(fixed.loss, rel=1e-9)
    with pytest.raises(BadInput, match="no multiplier or term 'lr'"):
        of_experts.at(lr=1e-3)
    counted = replace(of_experts.fitted_coordinates.parts[0], saturating=True)
    coordinates = replace(of_experts.fitted_coordinates, parts=(counted,))
    with pytest.raises(BadInput, match=r"n_experts is 0\.5; it must be at least 1"):
        coordinates.columns({"n_experts": 0.5}, np.ones(1))


def test_a_law_whose_experts_help_at_one_n_counts_what_a_token_passes_through(of_experts, tmp_path):
    spec = member("mixtral-8x7b").spec
    assert plan_params(of_experts, spec) == accounting.params_active(spec)
    of_experts.save(tmp_path / "law.json")
    asked = PredictQuery(family="mixtral-8x7b", tokens=1e11)
    answer = predict(str(tmp_path / "law.json"), asked, force=True)
    direct = of_experts.predict(accounting.params_active(spec), 1e11, n_experts=8, force=True)
    assert (answer.loss, answer.settings) == (direct.loss, {"n_experts": "8"})
    parts = of_experts.fitted_coordinates.parts
    worse = replace(
        parts[0], values=(-0.4, *parts[0].values[1:])
    )  # of all parameters, more experts leave a token fewer
    coordinates = replace(of_experts.fitted_coordinates, parts=(worse,))
    total = replace(of_experts, fitted_coordinates=coordinates)
    assert plan_params(total, spec) == accounting.params(spec)


def test_a_count_of_an_older_law_starts_with_the_first_expert():
    old = multiplier("e", saturating=True, trend=False)
    old = type(old)(
        column="e", kind="multiplier", names=("power", "log_limit"), values=(0.4, 5.0), saturating=True
    )
    shift = shift_of([old], np.array([0.4, 5.0]), np.zeros(3), np.zeros(3), {"e": np.array([1.0, 8.0, 64.0])})
    limit, count = np.exp(5.0), np.array([1.0, 8.0, 64.0])
    assert shift.dx == pytest.approx(0.4 * np.log((1 / (1 + 1 / limit)) ** -1 / (1 / count + 1 / limit)))


def test_a_plan_takes_the_fewest_experts_within_the_band(of_experts):
    made = {E: plan(1e19, law=of_experts, family="mixtral", experts=E).recommended for E in (2, 8, 32)}
    auto = plan(1e19, law=of_experts, family="mixtral", experts="auto", within=1e-9)
    losses = [made[E].loss for E in (2, 8, 32)]
    assert losses == sorted(losses, reverse=True)
    assert auto.members[0].config["num_local_experts"] == 32
    assert auto.recommended.loss == pytest.approx(min(losses), abs=1e-12)
    assert auto.recommended.interval_80 is not None
    wide = plan(1e19, law=of_experts, family="mixtral", experts="auto", within=9.0)
    assert accounting.experts(wide.members[0].spec)[0] == 2
    assert "the fewest within 9 nats" in wide.notes[-1]


def test_a_law_of_active_parameters_plans_mixtures_by_them():
    runs = [
        Run(run=f"{N:g}-{D:g}", params=8 * N, params_active=N, tokens=D, n_experts=8, loss=BESIROGLU.loss(N, D))
        for N in np.geomspace(1e7, 3e8, 4) for D in (2e9, 8e9, 2e10)
    ]  # fmt: skip
    assert runs[0].flops == 6 * runs[0].params_active * runs[0].tokens
    law = fit(runs, bootstrap=0)  # by default too, since compute goes with them
    assert law.convention == "active"
    assert fit(runs, convention="total", bootstrap=0).domain.C[1] == pytest.approx(8 * law.domain.C[1])
    assert law.card["convention"].endswith("one token passes through")
    made = plan(1e19, law=law, family="mixtral").recommended
    assert made.loss == pytest.approx(BESIROGLU.loss(made.N, made.tokens), rel=0.01)
    assert 0.2 * made.params < made.N < 0.6 * made.params
    with pytest.raises(BadInput, match="has no params_active"):
        fit([run.model_copy(update={"params_active": None}) for run in runs], convention="active")


def test_experts_that_nobody_has_are_refused(of_experts):
    for words, message in (
        ({"experts": 8}, "names a family that has them: mixtral"),
        ({"experts": "auto", "family": "mixtral", "law": "chinchilla"}, "leave --law out for joint-moe"),
        ({"experts": 12, "family": "deepseek-v3"}, "a multiple of 8 from 16 on"),
        ({"experts": 8, "family": "llama3"}, "names a family that has them"),
        ({"experts": 8, "family": "gpt2-kaplan"}, "--experts designs shapes"),
    ):
        with pytest.raises(BadInput, match=message):
            plan(1e20, **words)
    said = plan(1e20, family="mixtral", experts=8, law=published_law("chinchilla"))
    assert accounting.params_active(said.members[0].spec) == said.recommended.N
    assert "sees no experts" in said.notes[-1]


def test_experts_that_the_devices_do_not_hold_are_not_chosen():
    made = plan("200 A100-hours", family="mixtral", experts="auto", within=1e-9)
    assert "(too large)" in made.notes[-1]
    number, per_token = accounting.experts(made.members[0].spec)
    assert per_token <= number < 64


def test_the_vocabulary_of_a_laws_own_term_has_the_least_loss(of_vocabularies):
    auto = plan(1e18, law=of_vocabularies, vocab_size="auto")
    size = auto.recommended.vocab_size
    assert 2048 < size < 32768
    for other in (2048, round(size / 1.5), round(size * 1.5), 32768):
        found = plan(1e18, law=of_vocabularies, vocab_size=other).recommended
        assert found.loss > auto.recommended.loss - 1e-4  # widths come in steps of 64
    assert f"vocabulary {size:,} (80 %:" in auto.notes[-1]


def test_the_command_line_leaves_the_vocabulary_to_the_published_law():
    done = scaling("plan", "--budget", "1e20", "--vocab", "auto", "--json")
    found = json.loads(done.stdout)
    assert found["recommended"]["vocab_size"] == plan(1e20, vocab_size="auto").recommended.vocab_size
    assert "a range of opinions, not an interval" in found["notes"][-1]
    rule = rule_for("gpt2", vocab_size=found["recommended"]["vocab_size"])
    assert rule.vocab_size % 128 == 0


def test_vocabularies_that_prefer_each_other_are_said_not_left_unconverged(monkeypatch):
    turns = cycle([1024, 2048])
    monkeypatch.setattr(choices, "rounded", lambda value: next(turns))
    found = plan(1e19, vocab_size="auto")
    (note,) = (note for note in found.notes if "None is best" in note)
    assert found.recommended.vocab_size == 1024
    assert "vocabulary 1,024 for" in note
    assert "1,024 for 2,048, 2,048 for 1,024" in note

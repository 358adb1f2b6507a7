"""Published runs are typed in as facts; what can be recomputed of them agrees with other authorities."""

import math

import pytest

from families.units import BadInput
from scaling.laws import KaplanFrontier
from scaling.published_laws import published_law
from scaling.published_runs import PUBLISHED_RUNS, published_runs

CARD = published_runs("composer-gpt2")
ALL = [run for published_set in PUBLISHED_RUNS.values() for run in published_set.runs]


@pytest.mark.parametrize("run", CARD.runs, ids=lambda run: run.member)
def test_the_cards_printed_perplexities_are_those_of_its_losses_and_of_its_law(run):
    frontier = published_law(CARD.law).frontier
    assert isinstance(frontier, KaplanFrontier)
    spec = run.spec
    assert math.exp(frontier.loss(12 * spec.n_layer * spec.n_embd**2)) == pytest.approx(
        run.predicted_ppl, abs=0.005
    )
    assert abs(math.log(run.actual_ppl) - run.loss) < 0.5 * 10**-CARD.digits


def test_the_cards_own_columns_are_kept_beside_the_corrected_ones():
    assert [run.params for run in CARD.runs] == [51_475_968, 82_056_320, 124_439_808]
    assert [run.tokens for run in CARD.runs] == [4_718_592_000, 5_767_168_000, 7_340_032_000]
    assert all(run.stated_params != run.params and run.stated_tokens < run.tokens for run in CARD.runs)


# Steps, sequences and the FLOPs of the same model card; its FLOPs count lookups and softmax too.
@pytest.mark.parametrize(
    ("member", "batch", "steps", "flops"),
    [("cerebras-gpt-111m", 120, 9037, 2.6e18), ("cerebras-gpt-1.3b", 528, 24334, 2.8e20)],
)
def test_tokens_are_those_of_the_sources_steps_and_flops_just_below_its_own(member, batch, steps, flops):
    run = published_runs("cerebras-gpt").run(member)
    assert run.tokens == pytest.approx(batch * steps * 2048, rel=2e-3)
    assert 0.7 < run.flops / flops < 1


def test_names_carry_the_sizes_of_their_shapes():
    for run in published_runs("cerebras-gpt").runs:
        size = run.member.removeprefix("cerebras-gpt-")
        factor = {"m": 1e6, "b": 1e9}[size[-1]]
        assert run.params == pytest.approx(float(size[:-1]) * factor, rel=0.03)


def test_a_larger_model_of_one_set_has_the_lower_loss():
    for published_set in PUBLISHED_RUNS.values():
        by_size = sorted(published_set.runs, key=lambda run: run.params)
        assert [run.loss for run in by_size] == sorted((run.loss for run in by_size), reverse=True)


def test_every_set_says_where_it_is_from_and_what_to_mind():
    for published_set in PUBLISHED_RUNS.values():
        assert published_set.source
        assert published_set.text
        assert published_set.tokenizer
        assert published_set.caveat


def test_an_unknown_set_or_member_is_one_line_with_the_nearest():
    with pytest.raises(BadInput, match="did you mean"):
        published_runs("composer-gpt")
    with pytest.raises(BadInput, match="did you mean"):
        CARD.run("gpt2-53m")

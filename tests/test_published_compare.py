"""A published table, recomputed: predictions to the last digit, corrections found by the audit alone, a fit of our own."""

import json
import math

import numpy as np
import pytest

from families.units import BadInput
from scaling.auditing.published import card, compare_published
from scaling.auditing.trends import frontier_fit
from scaling.laws import KaplanFrontier
from scaling.published_runs import published_runs

# N without embeddings, loss and perplexity of Kaplan et al. 2020's frontier at the card's three shapes.
FRONTIER = {
    "gpt2-52m": (25_165_824, 3.482618529842513, 32.54483020726001, 4.649e9),
    "gpt2-83m": (49_152_000, 3.32654107284093, 27.8418719514438, 5.956e9),
    "gpt2-125m": (84_934_656, 3.2042232768969785, 24.63635695536824, 7.291e9),
}


@pytest.fixture(scope="module")
def comparison():
    return compare_published("composer-gpt2")


def test_predictions_are_the_laws_to_the_last_digit(comparison):
    for row in comparison.rows:
        N, loss, ppl, tokens = FRONTIER[row.member]
        assert (row.params_non_embedding, row.predicted_loss, row.predicted_ppl) == (
            N,
            pytest.approx(loss, rel=1e-14),
            pytest.approx(ppl, rel=1e-14),
        )
        assert row.law_tokens == pytest.approx(tokens, rel=1e-3)
        assert round(row.predicted_ppl, 2) == row.printed_predicted_ppl


def test_every_slip_of_the_card_is_marked(comparison):
    by_column = {correction.column: correction for correction in comparison.corrections}
    assert set(by_column) == {"params", "member", "tokens", "hours", "ppl", "loss"}
    assert by_column["params"].findings[0].recomputed == "51,475,968, 82,056,320, 124,439,808"
    assert [f.recomputed for f in by_column["tokens"].findings] == [
        "4,718,592,000", "5,767,168,000", "7,340,032,000",
    ]  # fmt: skip
    assert [f.recomputed for f in by_column["hours"].findings] == ["6.8%", "7.5%", "8.3%"]
    assert [round(100 * row.mfu, 1) for row in comparison.rows] == [6.8, 7.5, 8.3]
    assert (by_column["member"].findings[0].stated, by_column["member"].findings[0].recomputed) == (
        "8",
        "512",
    )
    assert by_column["loss"].findings[0].recomputed == "0.0456"
    first, second, _ = comparison.rows
    assert "member" in first.marks
    assert "member" not in second.marks, "only the 52M row has the slip"


def test_our_fit_crosses_the_law_beyond_the_table(comparison):
    fit = comparison.fit
    assert (round(fit.exponent, 4), round(fit.factor, 1), fit.largest) == (0.0456, 7.5, "gpt2-125m")
    assert fit.exponent_80[0] < fit.exponent < fit.exponent_80[1]
    assert fit.ahead_own > fit.ahead_law, "beyond the crossing the law is too optimistic"


@pytest.mark.parametrize("exponent", [0.03, 0.045, 0.07])
def test_a_power_law_through_its_own_points_is_recovered(exponent):
    C = np.array([0.01, 0.1, 1.0, 10.0])
    law = KaplanFrontier()
    fit = frontier_fit(law, C, (5e7 / C) ** exponent)
    assert fit.exponent == pytest.approx(exponent, rel=1e-9)
    assert fit.scale == pytest.approx(5e7, rel=1e-6)
    at = fit.crossing
    assert fit.loss(at) == pytest.approx((law.C_scale / at) ** law.L_exponent, rel=1e-9)


def test_one_budget_has_no_exponent():
    with pytest.raises(BadInput, match="1 distinct budgets"):
        frontier_fit(KaplanFrontier(), np.array([1.0, 1.0]), np.array([3.0, 3.1]))


def test_the_card_prints_what_the_document_prints():
    text = card(published_runs("composer-gpt2"))
    assert "| gpt2-52m | 53.9M | 02:44 | 4.6B | 3.43 | 32.54 | 30.88 |" in text
    assert "| gpt2-52m | 8 | 512 | 2048 | 8 | 8 |" in text


def test_the_command_prints_the_table_and_its_corrections(cli):
    done = cli("compare", "--published", "composer-gpt2")
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 100
    for text in (
        "32.54483",
        "27.84187",
        "24.63636",
        "53.9M [a]",
        "124,439,808",
        "-0.0456",
        "7.5x the budget",
    ):
        assert text in done.stdout
    value = json.loads(cli("compare", "--published", "composer-gpt2", "--json").stdout)
    assert value["rows"][0]["predicted_ppl"] == pytest.approx(32.54483020726001, rel=1e-14)
    assert math.isclose(value["fit"]["factor"], 7.4538, rel_tol=1e-3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--published", "cerebras-gpt"), "prints no predictions"),
        (("--published", "composer"), "composer-gpt2"),
        (("--published", "composer-gpt2", "--under", "."), "exclude each other"),
    ],
)
def test_a_set_without_predictions_is_one_line(cli, words, message):
    done = cli("compare", *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1

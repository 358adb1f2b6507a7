"""Sizes and lists of them: a comma is never taken for something else than it is."""

import pytest

from families.units import BadInput, listed, parse_size
from scaling.auditing.tables import parse_stated
from scaling.budget import parse_budget, split_budgets
from scaling.planning.law import PredictQuery
from train.config import Rungs
from train.jobs.grid import expand


@pytest.mark.parametrize(
    ("text", "write"),
    [
        ("1,4B", "1.4B"),
        ("1,5M", "1.5M"),
        ("1,4e18", "1.4e18"),
        ("1,5", "1.5"),
        ("1,500M", "1500M or 1.500M"),
        ("1,000.5", "1000.5"),
    ],
)
def test_a_decimal_comma_is_refused_with_the_number_to_write(text, write):
    with pytest.raises(BadInput, match=f"tokens is '{text}'; decimals take a point.* write {write}$"):
        parse_size(text, "tokens")


@pytest.mark.parametrize(("text", "value"), [("1,000", 1e3), ("12,345,678", 12345678), ("1_000_000", 1e6)])
def test_commas_group_the_thousands_of_a_plain_number(text, value):
    assert parse_size(text) == value
    assert parse_budget(text).flops == value


@pytest.mark.parametrize(
    ("text", "write"),
    [
        ("1,4e18", "1.4e18"),
        ("1,5h@8xA100", "1.5h@8xA100"),
        ("0,02 PF-days", "0.02 PF-days"),
        ("1e18,1,4e19", "1e18,1.4e19"),
        ("1,000M A100-hours", "1000M A100-hours or 1.000M A100-hours"),
    ],
)
def test_a_budget_with_a_decimal_comma_is_neither_ten_times_as_much_nor_two_budgets(text, write):
    for read in (parse_budget, split_budgets):
        with pytest.raises(BadInput, match=f"budget is '{text}'; decimals take a point.* write {write}$"):
            read(text)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("1e18,1e19,1e20", ["1e18", "1e19", "1e20"]),
        ("1.4e18, 2e18", ["1.4e18", "2e18"]),
        ("24h@8xA100,48h@8xA100", ["24h@8xA100", "48h@8xA100"]),
        ("1000000000000000000,2000000000000000000", ["1" + "0" * 18, "2" + "0" * 18]),
        ("1,000,000", ["1000000"]),
        ("1,000 A100-hours", ["1000 A100-hours"]),
    ],
)
def test_several_budgets_are_separated_by_commas(text, parts):
    assert split_budgets(text) == parts


@pytest.mark.parametrize("text", ["10M,85M", "8,16", "0,0.1", "0,1e-2", "500000,1M", "1e-3,2e-3"])
def test_a_list_of_sizes_is_separated_by_commas(text):
    assert listed(text, "sizes") == text.split(",")


@pytest.mark.parametrize("read", [lambda text: listed(text, "params"), Rungs.parse])
def test_a_list_does_not_take_a_decimal_comma_for_two_sizes(read):
    with pytest.raises(BadInput, match=r"2,5M, which may be one number or two.*write 2\.5M"):
        read("1M,2,5M")


def test_a_sweep_does_not_train_at_a_learning_rate_of_one_for_a_decimal_comma():
    with pytest.raises(BadInput, match=r"lr has 1,5e-3.*write 1\.5e-3"):
        expand(["lr=1,5e-3"])
    assert len(expand(["weight_decay=0,1e-2", "batch_size=8,16"])) == 4


def test_a_question_names_the_key_whose_comma_it_is():
    with pytest.raises(ValueError, match="params is '1,4B'"):
        PredictQuery.model_validate({"params": "1,4B", "tokens": "1.5B"})


def test_an_audited_number_with_a_decimal_comma_is_no_number():
    assert parse_stated("1,4B") is None
    assert parse_stated("1,234") is not None
    assert parse_stated("1,024 tokens").value == 1024

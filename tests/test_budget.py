"""Budgets read as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from families.units import BadInput
from scaling.budget import ASSUMED_MFU, parse_budget, parse_devices, parse_mfu

A100 = 312e12


@pytest.mark.parametrize(
    ("text", "device_seconds", "devices", "accelerator"),
    [
        ("8xA100-hours", 8 * 3600, 8, "A100"),
        ("8xa100-hour", 8 * 3600, 8, "A100"),
        ("8 x A100-hours", 8 * 3600, 8, "A100"),
        ("24h@8xA100", 24 * 8 * 3600, 8, "A100"),
        ("02:44@8xA100", (2 * 60 + 44) * 60 * 8, 8, "A100"),
        ("00:00:30@A100", 30, 1, "A100"),
        ("64 H100-hours", 64 * 3600, 1, "H100"),
        ("3 days@4xH100", 3 * 86400 * 4, 4, "H100"),
        ("8xA100-days", 8 * 86400, 8, "A100"),
        ("90min@2xL4", 90 * 60 * 2, 2, "L4"),
        ("1h30m @ L4", 90 * 60, 1, "L4"),
        ("2 8xA100-40GB-hours", 16 * 3600, 8, "A100-40GB"),
        ("8xRTX 4090-hours", 8 * 3600, 8, "RTX-4090"),
        ("500 H100h", 500 * 3600, 1, "H100"),
        ("8 H100s, 3 days", 8 * 3 * 86400, 8, "H100"),
        ("3 days, 8 H100s", 8 * 3 * 86400, 8, "H100"),
        ("10 H100 years", 10 * 365 * 86400, 1, "H100"),
    ],
)
def test_a_budget_of_hours_is_devices_times_time(text, device_seconds, devices, accelerator):
    budget = parse_budget(text)
    assert budget.device_seconds == pytest.approx(device_seconds)
    assert (budget.devices, budget.accelerator) == (devices, accelerator)
    assert (budget.mfu, budget.mfu_source) == (ASSUMED_MFU, "assumed")


@pytest.mark.parametrize(
    ("text", "flops"),
    [
        ("1.4e18", 1.4e18),
        ("1.4e18 FLOPs", 1.4e18),
        ("1.4e18flop", 1.4e18),
        ("0.02 PF-days", 0.02 * 8.64e19),
        ("2 petaFLOP/s-days", 2 * 8.64e19),
        ("20 EFLOPs", 2e19),
        ("1.4 zettaflops", 1.4e21),
        ("6.7k PF-days", 6700 * 8.64e19),
        ("2 pfs-days", 2 * 8.64e19),
        ("10 PFLOP/s for 10 days", 8.64e21),
    ],
)
def test_a_budget_of_flops_needs_no_device(text, flops):
    budget = parse_budget(text)
    assert budget.flops == pytest.approx(flops)
    assert budget.accelerator is None
    assert budget.mfu is None
    assert budget.hours(1e18) is None
    assert budget.price(1e18) is None


def test_flops_are_seconds_times_dense_peak_times_mfu():
    assert parse_budget("02:44@8xA100", mfu=0.0684).flops == pytest.approx(9840 * 8 * A100 * 0.0684)


@given(flops=st.floats(1e12, 1e26), mfu=st.floats(0.01, 1), devices=st.integers(1, 4096))
def test_a_budget_spent_whole_takes_its_own_time(flops, mfu, devices):
    budget = parse_budget(f"{flops!r}", mfu=mfu, on=f"{devices}xA100")
    assert budget.device_seconds == pytest.approx(flops / (A100 * mfu))
    assert budget.hours(budget.flops) == pytest.approx(budget.device_seconds / devices / 3600)


def test_on_spreads_device_hours_over_devices():
    assert parse_budget("64 H100-hours", on="8xH100").hours(
        parse_budget("64 H100-hours").flops
    ) == pytest.approx(8)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("8xZ9000-hours", "A100"),
        ("8xA1000-hours", "did you mean A100"),
        ("banana", "8xA100-hours"),
        ("", "empty"),
        ("-1e18", "positive"),
        ("0", "positive"),
        ("0h@A100", "positive"),
        ("nan", "finite"),
        ("inf", "finite"),
        ("1e999", "finite"),
        ("1e80", "at most 1e40"),
        ("5 parsecs@A100", "not a time"),
        ("8xA100-parsecs", "8xA100-hours"),
        ("0xA100-hours", "at least 1"),
        ("3:99@A100", "not a time"),
        ("72 on 8xH100", "72 of what"),
        ("24h on 8xA100 at 50% MFU", "--mfu"),
        ("$10k on H100 at $2/h", "--price"),
        ("8 Gaudi2 for 1 day", "accelerator is 'Gaudi2', which is not known"),
    ],
)
def test_what_is_no_budget_is_named_with_what_is_allowed(text, said):
    with pytest.raises(BadInput, match=said) as caught:
        parse_budget(text)
    assert "\n" not in str(caught.value)


def test_devices_named_twice_differently_are_refused():
    with pytest.raises(BadInput, match="one accelerator"):
        parse_budget("8xA100-hours", on="8xH100")
    with pytest.raises(BadInput, match="one number"):
        parse_budget("8xA100-hours", on="4xA100")


@pytest.mark.parametrize("text", ["0", "-0.1", "1.2", "40", "nan", "fast"])
def test_mfu_is_a_share(text):
    with pytest.raises(BadInput, match="mfu"):
        parse_mfu(text)


def test_mfu_reads_percent():
    assert parse_mfu("6.84%") == pytest.approx(0.0684)
    assert parse_devices("8 x a100")[0] == 8

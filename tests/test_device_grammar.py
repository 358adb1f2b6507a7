"""One grammar of how many of what: every spelling of devices gives one count of one device, or one refusal."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from families.units import BadInput
from scaling.auditing import audit_text
from scaling.budget import parse_budget, parse_devices, split_budgets
from scaling.devices import Devices, combine, read_devices, recognise
from scaling.hardware import CATALOGUE, accelerator

NAMES = st.sampled_from(sorted(CATALOGUE))
COUNTS = st.integers(1, 20_000)
ORDERS = (
    "{n}x{name}",
    "{n} x {name}",
    "{n} × {name}",
    "{n}*{name}",
    "{n} {name}",
    "{name} x {n}",
    "{name} ({n})",
    "{name} (x{n})",
    "{name}, {n}",
    "{name}: {n}",
    "{n} GPUs {name}",
    "{n} GPUs ({name})",
    "{n} {name} GPUs",
    "{name}, {n} GPUs",
    "{name} ({n} GPUs)",
    "{n} NVIDIA {name}",
    "1 node of {n} {name}",
    "1 node with {n} x {name}",
    "{grouped} {name}",
)


def spelled(name, separator, upper):
    """The catalogue's name as people type it."""
    text = name.replace("-", separator)
    return text.upper() if upper else text.lower() if upper is None else text


@given(
    name=NAMES,
    n=COUNTS,
    order=st.sampled_from(ORDERS),
    separator=st.sampled_from("- _"),
    upper=st.sampled_from([True, False, None]),
)
def test_the_order_of_words_and_their_case_change_nothing(name, n, order, separator, upper):
    text = order.format(n=n, grouped=f"{n:,}", name=spelled(name, separator, upper))
    assert read_devices(text) == Devices(count=n, accelerator=CATALOGUE[name])


@given(name=NAMES, n=COUNTS, nodes=st.integers(2, 64))
def test_nodes_multiply_what_each_of_them_has(name, n, nodes):
    for text in (
        f"{nodes} nodes of {n} {name}",
        f"{nodes} nodes x {n} {name}",
        f"{nodes} nodes ({n} {name} each)",
        f"{n}x{name} per node, {nodes} nodes",
        f"{nodes} x {n} {name}",
        f"{nodes}x{n}x{name}",
    ):
        assert read_devices(text) == Devices(count=nodes * n, accelerator=CATALOGUE[name]), text
    assert read_devices(f"{n}x{name} on {nodes} nodes").count == n
    assert "each node, or of all" in read_devices(f"{nodes} nodes, {n} {name}").problem


@given(name=NAMES, n=COUNTS)
def test_devices_are_printed_as_they_are_read(name, n):
    devices = Devices(count=n, accelerator=CATALOGUE[name])
    assert read_devices(str(devices)) == devices
    assert recognise(str(devices)) == (n, CATALOGUE[name])


@given(name=NAMES, n=st.integers(2, 999))
def test_a_plural_is_its_singular_and_never_one_device(name, n):
    if f"{name}S" in CATALOGUE:
        assert f"may be {name}S or several {name}" in read_devices(f"{n} {name}s").problem
        return
    assert read_devices(f"{n} {name}s") == Devices(count=n, accelerator=CATALOGUE[name])
    assert "how many" in read_devices(f"{name}s").problem
    assert recognise(f"{name}s") == (1, None)


def test_a_name_without_a_number_has_no_count():
    assert read_devices("H100") == Devices(accelerator=CATALOGUE["H100"])
    assert parse_devices("H100") == (None, CATALOGUE["H100"])
    assert read_devices("8 GPUs") == read_devices("8") == Devices(count=8)


@pytest.mark.parametrize(
    ("text", "count", "name"),
    [
        ("TPU v4-32", 16, "TPU-v4"),
        ("TPU-v4-256", 128, "TPU-v4"),
        ("v4-8", 4, "TPU-v4"),
        ("TPU v3-8", 4, "TPU-v3"),
        ("v2-32", 16, "TPU-v2"),
        ("TPU v5p-128", 64, "TPU-v5p"),
        ("TPU v5e-256", 256, "TPU-v5e"),
        ("v5litepod-16", 16, "TPU-v5e"),
        ("v6e-8", 8, "TPU-v6e"),
        ("a TPU v3-256 pod slice", 128, "TPU-v3"),
        ("2 x v4-32", 32, "TPU-v4"),
        ("v4-32 (16 chips)", 16, "TPU-v4"),
        ("8 TPU v3 cores", 4, "TPU-v3"),
        ("8xTPU-v5e", 8, "TPU-v5e"),
        ("16 TPU v4", 16, "TPU-v4"),
    ],
)
def test_slices_are_named_by_cores_up_to_v4_and_v5p_and_by_chips_else(text, count, name):
    assert read_devices(text) == Devices(count=count, accelerator=CATALOGUE[name])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("TPU v4-31", "2 cores"),
        ("v4-32 (32 chips)", "16 chips, not 32"),
        ("8 A100 cores", "not by cores"),
        ("0 A100", "at least 1"),
        ("99,000,000 A100", "at most"),
        ("1.5 A100", "not known"),
        ("A100 8", "not known"),
        ("8 H1000", "did you mean H100"),
        ("MI250x8", "8xMI250X"),
        ("4 nodes of A100", "how many does a node have"),
        ("DGX A100", "not known"),
        ("", "no devices"),
        ("A" * 1000, "1000 letters"),
        ("1.2345k A100", "whole"),
    ],
)
def test_what_is_not_understood_is_said_and_counts_as_nothing(text, said):
    found = read_devices(text)
    assert said in found.problem
    assert "\n" not in found.problem
    assert recognise(text)[1] is None
    with pytest.raises(BadInput):
        parse_devices(text)


@given(st.text(max_size=60))
def test_any_text_is_devices_or_a_problem(text):
    found = read_devices(text)
    assert found.problem or found.count or found.accelerator


@pytest.mark.parametrize(
    "said",
    [
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 3090 Ti Laptop GPU",
        "NVIDIA A100-SXM4-80GB MIG 3g.40gb",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA A100-SXM-64GB",
        "NVIDIA A100X",
        "NVIDIA H100 NVL Laptop",
        "Tesla V100S-PCIE-32GB",
        "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition",
        "NVIDIA RTX 4000 Ada Generation",
        "Quadro RTX 6000",
        "NVIDIA GeForce RTX 5090 D",
        "NVIDIA L20",
        "NVIDIA T4G",
        "AMD Instinct MI300A",
        "Apple M3 Max",
        "TPU v5",
        "TPU v7",
    ],
)
def test_a_neighbour_is_never_taken_for_the_device(said):
    assert recognise(said) == (1, None)
    assert recognise(f"8x{said}")[1] is None
    with pytest.raises(BadInput, match="not known"):
        accelerator(said)


def test_devices_named_in_several_places_agree_or_are_refused():
    a100, eight = Devices(accelerator=CATALOGUE["A100"]), Devices(count=8)
    assert combine(a100, None, eight) == Devices(count=8, accelerator=CATALOGUE["A100"])
    assert "one accelerator" in combine(a100, Devices(accelerator=CATALOGUE["H100"])).problem
    assert "one number" in combine(eight, Devices(count=4)).problem
    assert combine(a100, read_devices("8 cats")).problem


# Budgets

TIMES = (
    "{devices} for {hours} hours",
    "{hours} hours on {devices}",
    "{hours}h@{devices}",
    "{hours} hours with {devices}",
    "{hours}h on {devices}",
    "{hours} hours ({devices})",
)


@given(
    name=NAMES,
    n=COUNTS,
    hours=st.integers(1, 5000),
    form=st.sampled_from(TIMES),
    order=st.sampled_from(["{n}x{name}", "{n} {name}", "{name} x {n}", "1 node of {n} {name}"]),
)
def test_a_time_on_devices_has_one_meaning_in_every_order(name, n, hours, form, order):
    text = form.format(devices=order.format(n=n, name=name), hours=hours)
    budget = parse_budget(text)
    assert budget.device_seconds == pytest.approx(n * hours * 3600)
    assert budget.flops == pytest.approx(n * hours * 3600 * CATALOGUE[name].training_peak * 0.4)
    assert (budget.devices, budget.devices_source, budget.accelerator) == (n, "given", name)


@pytest.mark.parametrize("name", ["A100", "H100-NVL", "RTX-4090", "TPU-v5e"])
@pytest.mark.parametrize(
    "text",
    [
        "73,500 {}-hours",
        "73500 {}-hours",
        "73.5k {}-hours",
        "0.0735M {}-hours",
        "73.5 thousand {} hours",
        "73,500 GPU-hours on {}",
        "73.5k GPU hours on {}s",
        "73,500 device-hours of {}",
        "73,500 hours of {}",
        "73,500 {} GPU-hours",
    ],
)
def test_device_hours_have_one_meaning_in_every_spelling(text, name):
    budget = parse_budget(text.format(name))
    assert budget.device_seconds == pytest.approx(73_500 * 3600)
    assert (budget.accelerator, budget.devices, budget.devices_source) == (name, 1, "assumed")
    assert parse_budget(text.format(name), on=f"64x{name}").devices == 64


@pytest.mark.parametrize(
    "text",
    ["3e20", "3 x 10^20", "3×10^20 FLOPs", "3*10**20", "3·10²⁰", "3x10^{20}", "300 EFLOPs", "0.3 ZFLOPs"],
)
def test_powers_of_ten_are_floating_point_operations(text):
    assert parse_budget(text).flops == pytest.approx(3e20)
    assert parse_budget(f"{text} on 4 H100").devices == 4


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("a week on L4", 7 * 86400),
        ("two weeks on L4", 14 * 86400),
        ("1 month on L4", 30 * 86400),
        ("1 year on L4", 365 * 86400),
        ("2 days and 6 hours on L4", 54 * 3600),
        ("1.5 months on L4", 45 * 86400),
        ("00:30@L4", 1800),
        ("30m on L4", 1800),
    ],
)
def test_times_are_read_as_written(text, seconds):
    assert parse_budget(text).device_seconds == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["$4,485", "$4485", "US$4.485k", "4485 USD", "4.485k USD", "4485 dollars", "USD 4485"]
)
def test_money_buys_hours_at_the_catalogues_price_or_at_ones_own(text):
    budget = parse_budget(f"{text} on 8 H100")
    assert budget.device_seconds == pytest.approx(4485 / CATALOGUE["H100"].price * 3600)
    assert budget.hourly_price == CATALOGUE["H100"].price
    assert re.search("Lambda.*20[0-9]{2}", budget.price_source)
    own = parse_budget(text, on="8 H100", price=1.5)
    assert own.device_seconds == pytest.approx(4485 / 1.5 * 3600)
    assert own.price_source == "given"
    assert own.price(own.flops) == pytest.approx(4485)


def test_a_price_of_ones_own_holds_for_other_budgets():
    flops = parse_budget("100 A30-hours").flops
    assert parse_budget("100 A30-hours").price(flops) is None
    assert parse_budget("100 A30-hours", price=0.5).price(flops) == pytest.approx(50)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("$5000", "no device.*--on"),
        ("$5000 on A30", "no price of A30 is known; give --price"),
        ("€5000 on H100", "USD"),
        ("24h", "no device"),
        ("8 GPUs for 2 days", "no device"),
        ("GPU-hours", "no device"),
        ("8 A100", "without a time"),
        ("2 weeks on H100s", "how many"),
        ("H100s for 2 weeks", "how many"),
        ("24h@RTX 4090 Laptop", "did you mean RTX-4090"),
        ("24h@M3", "not known"),
        ("1e18@8xA100", "not a time"),
        ("10 500 A100-hours", "must be like"),
        ("1,500M A100-hours", "decimals take a point"),
        ("1,5 weeks on 8 A100", "1.5 weeks"),
        ("10^9999", "finite"),
        ("2 weeks on " + "A" * 500, "letters"),
    ],
)
def test_a_budget_that_is_not_understood_says_what_is_missing(text, said):
    with pytest.raises(BadInput, match=said) as caught:
        parse_budget(text)
    assert "\n" not in str(caught.value)


def test_on_names_what_the_budget_leaves_out():
    assert parse_budget("24h", on="8 A100s").devices == 8
    assert parse_budget("24h on 8 GPUs", on="A100").device_seconds == pytest.approx(8 * 86400)
    assert parse_budget("500k GPU-hours", on="1,024 H100").devices == 1024
    with pytest.raises(BadInput, match="price"):
        parse_budget("1e18", price=2.0)
    with pytest.raises(BadInput, match="positive"):
        parse_budget("1e18", on="A100", price=0.0)


def test_grouped_thousands_do_not_split_a_list_of_budgets():
    assert split_budgets("57,600 A100-hours,100,000 A100-hours") == ["57600 A100-hours", "100000 A100-hours"]
    assert split_budgets("24h@8xH200,480h@8xH200") == ["24h@8xH200", "480h@8xH200"]


# Audits: 5B tokens of gpt2 (854,438,400 FLOPs each) in 20 hours on 4 H100.

MFU = f"{5e9 * 854_438_400 / (20 * 3600 * 4 * 989e12):.1%}"
ROW = "| gpt2 | 12 | 768 | 12 | 5.0B |"
HEAD = "| model | n_layer | n_embd | n_head | tokens |"


def findings(columns, cells):
    rule = "|-" * (5 + columns.count("|")) + "|"
    return audit_text(f"{HEAD} {columns}\n{rule}\n{ROW} {cells}\n")


def of(found, check):
    return [finding for finding in found if finding.check == check]


@pytest.mark.parametrize(
    ("columns", "cells"),
    [
        *(
            ("hours | accelerator |", f"20 | {text} |")
            for text in (
                "4xH100",
                "4 H100",
                "4 H100s",
                "H100 x 4",
                "H100 (4)",
                "4 NVIDIA H100 80GB HBM3",
                "1 node of 4 H100",
                "2 nodes of 2 H100",
                "4 GPUs H100",
                "4 H100 SXM",
            )
        ),
        ("hours | GPU | GPUs |", "20 | H100 | 4 |"),
        ("hours | GPU | num_gpus |", "20 | H100 SXM5 | 4 |"),
        ("hours | GPUs |", "20 | 4xH100 |"),
        ("hours | device | nodes | GPUs per node |", "20 | H100 | 2 | 2 |"),
        ("Training hours on 4 H100s |", "20 |"),
        ("Training hours (on 4xH100) |", "20 |"),
        ("hours on 4 GPUs | GPU |", "20 | H100 |"),
        ("GPU hours | accelerator |", "80 | H100 x 4 |"),
        ("H100-hours |", "80 |"),
    ],
)
def test_every_spelling_in_a_table_gives_one_mfu(columns, cells):
    (finding,) = of(findings(columns, cells), "MFU")
    assert finding.recomputed == MFU


def test_a_slice_of_a_table_counts_its_chips():
    (finding,) = of(findings("hours | hardware |", "6 | TPU v4-16 |"), "MFU")
    assert finding.recomputed == f"{5e9 * 854_438_400 / (6 * 3600 * 8 * 275e12):.1%}"


@pytest.mark.parametrize(
    ("columns", "cells", "said"),
    [
        ("hours | GPU |", "20 | NVIDIA RTX 4000 Ada |", "not known"),
        ("hours | GPU |", "20 | NVIDIA GeForce RTX 4090 Laptop GPU |", "not known"),
        ("hours | GPU |", "20 | H100s |", "how many"),
        ("hours | GPU | nodes |", "20 | H100 | 4 |", "how many devices a node has"),
        ("hours | GPU | GPUs |", "20 | 8xH100 | 4 |", "one number"),
        ("hours on 4xA100 | GPU |", "20 | H100 |", "one accelerator"),
        ("hours | GPUs |", "20 | 4 |", "no accelerator"),
    ],
)
def test_devices_that_are_not_understood_are_said_and_give_no_mfu(columns, cells, said):
    found = findings(columns, cells)
    assert not of(found, "MFU")
    (finding,) = of(found, "device")
    assert said in finding.explanation


def test_a_device_without_a_number_is_one_and_that_is_said():
    (finding,) = of(findings("hours | GPU |", "20 | H100 |"), "MFU")
    assert "no number of devices is stated" in finding.explanation

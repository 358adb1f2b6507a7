"""What people ask a plan: several sizes, money, serving, distinct tokens, and what another MFU would change."""

from dataclasses import replace
from pathlib import Path

import pytest

import scaling as sc
from families import member
from families.memory import Layout
from families.units import BadInput
from scaling.cli.plan_text import lines
from scaling.hardware import known
from scaling.planning.notes import MIXTURES_REACH_LESS
from scaling.planning.parallel_time import links, step_time
from scaling.planning.published_mfu import (
    REPORTED,
    Reached,
    calibration,
    generation,
    measured_runs,
    reached,
    width_exponent,
)
from scaling.planning.throughput import _ratios, estimated_mfu, predicted_published


def text(plan):
    return "\n".join(lines(plan.document, {}))


def test_each_of_several_sizes_spends_the_same_budget_and_all_are_to_be_trained():
    plan = sc.plan("8xA100-days", law="chinchilla", params=["300M", 1e9, "3B"])
    assert [one.member for one in plan.document.sizes] == [one.member for one in plan.members]
    for choice, asked in zip(plan.document.sizes, (300e6, 1e9, 3e9), strict=True):
        assert choice.flops == pytest.approx(plan.budget.flops)
        assert choice.params == pytest.approx(asked, rel=0.1)
    assert plan.recommended.loss == min(one.loss for one in plan.document.sizes)
    assert "equal budgets: every size has 8xA100-days" in text(plan)


def test_sizes_and_as_many_budgets_are_paired_in_their_order_and_called_unequal():
    plan = sc.plan("1e21,1e19", law="chinchilla", params="3B,300M", on="64xH100")
    assert [(f"{rung.budget.flops:g}", round(rung.choice.params / 1e8)) for rung in plan.ladder] == [
        ("1e+19", 3),
        ("1e+21", 30),
    ]
    assert "unequal budgets: " in text(plan)
    with pytest.raises(
        BadInput, match="3 sizes and 2 budgets; give one budget for all sizes, or one for each"
    ):
        sc.plan("1e21,1e19", law="chinchilla", params="3B,300M,1B")


def test_sizes_of_a_target_have_one_loss_and_costs_of_their_own():
    plan = sc.plan(target_loss=2.6, law="chinchilla", params="300M,1B", on="8xH100")
    assert {round(one.loss, 6) for one in plan.document.sizes} == {2.6}
    assert len({one.flops for one in plan.document.sizes}) == 2
    assert "equal loss, unequal cost" in text(plan)


def test_a_published_family_answers_for_its_sizes_and_says_so_where_it_is_too_coarse():
    plan = sc.plan("1e21", law="chinchilla", params="350M,1.5B", family="gpt2")
    assert [one.member for one in plan.members] == ["gpt2-medium", "gpt2-xl"]
    with pytest.raises(BadInput, match=r"no member of about 3B .* nearest is gpt2-xl .*--family grid"):
        sc.plan("1e21", law="chinchilla", params="350M,3B", family="gpt2")
    with pytest.raises(BadInput, match="both nearest to"):
        sc.plan("1e21", law="chinchilla", params="1B,1.0001B")


def test_money_states_its_price_with_source_and_date_and_takes_ones_own():
    plan = sc.plan("$50000 on 64xH100", law="chinchilla")
    assert plan.recommended.price == pytest.approx(50_000)
    assert "at 2.99 USD per device-hour (Lambda, 8x, list price of 2025)" in text(plan)
    assert "per device-hour" in text(sc.plan("64 H100 for 1 week", law="chinchilla"))
    own = sc.plan("$50000 on 64xH100", law="chinchilla", price=2.5)
    assert own.budget.flops / plan.budget.flops == pytest.approx(2.99 / 2.5)
    assert "at 2.5 USD per device-hour (given)" in text(own)


def test_a_budget_is_of_training_unless_it_includes_serving_and_both_costs_are_shown():
    asked = {"law": "chinchilla", "on": "64xH100", "inference_tokens": "1T"}
    alone, both = sc.plan("1e22", **asked), sc.plan("1e22", **asked, budget_includes_serving=True)
    bare = sc.plan("1e22", law="chinchilla", on="64xH100")
    assert alone.recommended.member == bare.recommended.member
    assert alone.recommended.flops == pytest.approx(1e22)
    assert alone.recommended.inference_flops > 0
    assert both.recommended.flops + both.recommended.inference_flops == pytest.approx(1e22)
    assert both.recommended.params < alone.recommended.params
    for plan in (alone, both):
        choice = plan.recommended
        assert choice.inference_price / choice.price == pytest.approx(choice.inference_flops / choice.flops)
        assert "serve USD" in text(plan)
    assert "the budget pays for training alone" in text(alone)
    assert "the budget pays for both" in text(both)


def test_distinct_tokens_give_every_row_its_epochs():
    plan = sc.plan("8xA100-days", law="chinchilla", tokens_available="2B", on="8xA100")
    table = [
        line
        for line in text(plan).splitlines()
        if line.startswith(("  ", "recomm", "at MFU", "under", "front"))
    ]
    assert any(line.split()[2:3] == ["epochs"] or " epochs " in line for line in table)
    for case in plan.document.sensitivity:
        assert case.choice.epochs == pytest.approx(case.choice.tokens / 2e9)


def test_another_mfu_buys_more_or_less_of_a_time_and_takes_another_time_for_a_compute():
    bought = sc.plan("64 H100 for 1 week", law="chinchilla", mfu=0.35)
    losses = [case.choice.loss for case in bought.document.sensitivity]
    assert losses == sorted(losses, reverse=True)
    assert bought.document.sensitivity[1].choice.loss == bought.recommended.loss
    fixed = sc.plan("1e21", law="chinchilla", on="64xH100", mfu=0.35)
    for case in fixed.document.sensitivity:
        assert case.choice.member == fixed.recommended.member
        assert case.choice.hours * case.mfu == pytest.approx(fixed.recommended.hours * 0.35)
    assert not sc.plan("1e21", law="chinchilla").document.sensitivity


def test_the_estimate_of_every_published_run_holds_what_it_reached():
    assert len(measured_runs()) == 130
    for run in measured_runs():
        found = estimated_mfu(
            run.spec,
            run.accelerator,
            micro_batch=run.micro_batch,
            batch_sequences=run.batch_sequences,
            devices=run.devices,
            layout=run.layout,
            interleave=run.interleave,
        )
        assert found.low * (1 - 1e-9) <= run.mfu <= found.high * (1 + 1e-9), run
        assert found.low < found.mfu < found.high, run


def test_half_of_the_published_runs_lie_above_their_estimate_on_each_generation():
    exponent = width_exponent(_ratios())
    for name in ("A100", "H100"):
        runs = [one for one in _ratios() if one.kind == name and one.engine == "fsdp"]
        factor, low, high = calibration(name, "fsdp", _ratios(), exponent)
        above = sum(one.value / (one.width / 2048) ** exponent > factor for one in runs)
        assert above == len(runs) // 2
        assert high / low < 1.5


def test_from_the_other_published_runs_all_but_two_are_within_15_percent():
    wrong = [run for run, mfu in predicted_published() if abs(mfu / run.mfu - 1) > 0.15]
    # 70B on the fewest A100s of 40 GB that hold it, and a 1B that reached less than on half and on twice as many devices
    assert [(run.accelerator.name, run.spec.n_embd, run.devices) for run in wrong] == [
        ("A100-40GB", 8192, 64),
        ("A100-40GB", 2048, 32),
    ]


def test_degrees_cost_what_crosses_the_links_and_the_bubble():
    spec, device = member("llama-3.1-70b").spec, known()["H100"]

    def time(micro_batches=64, **degrees):
        return step_time(
            replace(spec, n_positions=8192),
            device,
            Layout(**degrees),
            micro_batch=1,
            micro_batches=micro_batches,
            mfu=0.6,
        )

    assert time().slowdown == 1
    piped = time(pipeline=8, micro_batches=16)
    assert piped.bubble == 7 / 16  # Narayanan et al. 2021, section 2.2: (p - 1) / m
    assert time(pipeline=3).unevenness == pytest.approx(27 * 3 / 80)
    # Korthikanti et al. 2022, section 4.2.2: an all-reduce is a gather and a scatter, four of them in a block, 2 bytes a value
    bytes_of = 4 * 2 * 2 * 8192 * 8192 * 7 / 8
    assert time(tensor=8).tensor == pytest.approx(bytes_of / (0.8 * 450e9))
    assert time(tensor=2).tensor < time(tensor=8).tensor
    assert time(tensor=8).slowdown < time(tensor=8, checkpointing=True).slowdown
    assert time(context=2).context == 0  # attention hides the ring at this length
    assert time(shards=8, stage=3).slowdown == 1  # gathered while blocks compute
    assert links("MI300X") is None


def test_an_estimate_for_64_h100_lies_within_what_such_runs_reached_and_the_plan_says_so():
    for time in ("1 day", "2 weeks"):
        plan = sc.plan(f"64 H100 for {time}", law="chinchilla", mfu="estimate")
        assert reached("H100").low < plan.budget.mfu < reached("H100").high
        (note,) = (note for note in plan.notes if "is estimated" in note)
        assert "published runs on H100s reached 0.33 to 0.59 on 8 to 16,384 devices" in note


def test_an_estimate_for_a_mixture_says_what_mixtures_reached():
    asked = {"law": "chinchilla", "mfu": "estimate"}
    assert MIXTURES_REACH_LESS in sc.plan("64 H100 for 1 day", family="mixtral", **asked).notes
    assert MIXTURES_REACH_LESS not in sc.plan("64 H100 for 1 day", family="llama3", **asked).notes


def test_a_device_without_published_runs_has_a_wider_band():
    spec = sc.design(params=1e9).spec

    def width(name):
        found = estimated_mfu(spec, known()[name], micro_batch=4, batch_sequences=512, devices=8)
        return found.high / found.low

    assert width("MI300X") > max(width("H100"), width("A100"))


def test_reported_runs_name_devices_and_sources():
    for one in REPORTED:
        assert 0 < one.low <= one.high < 0.65
        assert one.source
        assert one.accelerator in known()
    assert generation("H200") == "H100"
    assert reached("RTX-4090") is None


def test_the_page_has_the_table_of_published_runs():
    from benchmarks.scale import efficiency_table

    page = Path(__file__).parents[1] / "docs" / "scale.md"
    assert efficiency_table() in page.read_text(encoding="utf-8")


def test_one_published_run_is_no_range():
    one = Reached(low=0.46, high=0.46, runs=1, devices=(6144, 6144))
    assert (one.counted, str(one)) == ("one published run", "0.46 on 6,144 devices")
    many = Reached(low=0.33, high=0.59, runs=7, devices=(8, 16384))
    assert (many.counted, str(many)) == ("7 published runs", "0.33 to 0.59 on 8 to 16,384 devices")

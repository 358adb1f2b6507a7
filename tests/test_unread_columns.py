"""What a table says beside the numbers that are read: states, schedules, units, other texts. Refused or said, never silent."""

import math

import pytest

from families.units import BadInput
from scaling.auditing import audit
from scaling.laws import Law
from scaling.runs.columns import field_of, header_factor, loss_name
from scaling.runs.identity import unfinished
from scaling.runs.readers import read_runs

LAW = Law(E=1.8, A=480.0, B=2000.0, alpha=0.35, beta=0.37)
ROWS = [
    (f"r{i}", N, r * N, LAW.loss(N, r * N))
    for i, (N, r) in enumerate((N, r) for N in (2e7, 8e7, 3e8) for r in (5, 20))
]
NUMBERS = [row[1:] for row in ROWS]


def table(folder, header, rows, name="runs.csv"):
    path = folder / name
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def numbers(found):
    return [(run.params, pytest.approx(run.tokens), pytest.approx(run.loss)) for run in found]


@pytest.mark.parametrize(
    "state",
    [
        "PRUNED",
        "NODE_FAIL",
        "CANCELLED by 1001",
        "OOMKilled",
        "JOB_STATE_FAILED",
        "InProgress",
        "not finished",
        "Crashed (OOM)",
        "timed out",
    ],
)
def test_a_state_in_the_words_of_any_scheduler_is_one_that_is_not_finished(state):
    assert unfinished(state)


@pytest.mark.parametrize(
    "state", ["finished", "COMPLETE", "Succeeded", "done", "published", "info", "nanogpt"]
)
def test_what_is_finished_or_says_nothing_is_not_left_out(state):
    assert unfinished(state) is None


@pytest.mark.parametrize(
    ("column", "good", "bad"),
    [
        ("crashed", "False", "True"),
        ("diverged", "no", "yes"),
        ("finished", "TRUE", "FALSE"),
        ("exit_code", "0", "137"),
        ("sys/failed", "0", "1"),
    ],
)
def test_truth_values_and_exit_codes_that_say_a_run_failed_leave_it_out(column, good, bad, tmp_path):
    rows = [(*row, bad if i == 2 else good) for i, row in enumerate(ROWS)]
    found = read_runs(table(tmp_path, f"run,params,tokens,loss,{column}", rows))
    assert [run.run for run in found] == ["r0", "r1", "r3", "r4", "r5"]
    assert found.warnings[0].startswith("left out by their state, 1 row")


def test_a_state_that_is_not_understood_and_a_remark_of_trouble_are_said(tmp_path):
    rows = [
        (*row, "terminated" if i else "finished", "diverged at 3k" if i == 1 else "")
        for i, row in enumerate(ROWS)
    ]
    said = read_runs(table(tmp_path, "run,params,tokens,loss,state,notes", rows)).warnings
    assert any(line == "the state 'terminated' is not understood; such rows count" for line in said)
    assert any("'notes' says 'diverged at 3k' of r1" in line for line in said)


@pytest.mark.parametrize(
    ("header", "field", "factor"),
    [
        ("Params (non-emb)", "params_non_embedding", 1), ("Params (active)", "params_active", 1), ("Params (total)", "params", 1),
        ("Tokens (unique)", "unique_tokens", 1), ("Tokens (per step)", "batch_tokens", 1),
        ("Batch size (M tokens)", "batch_tokens", 1e6),
        ("FLOPs (per token)", None, 1), ("FLOPs (forward)", None, 1), ("Params (log10)", None, 1), ("Params (GB)", None, 1),
        ("M params", "params", 1e6), ("Btokens", "tokens", 1e9), ("params_millions", "params", 1e6),
        ("tokens/1e9", "tokens", 1e9),
        ("tokens ×10⁹", "tokens", 1e9), ("PF-days", "compute", 8.64e19), ("compute_pf_days", "compute", 8.64e19),
        ("Tokens (B, unique)", "unique_tokens", 1e9), ("TFLOPs", None, 1),
    ],
)  # fmt: skip
def test_brackets_and_units_of_a_header_say_which_quantity_it_is(header, field, factor):
    assert field_of(header) == field
    assert field is None or header_factor(header, field) == pytest.approx(factor)


@pytest.mark.parametrize(
    ("header", "unit", "per"),
    [
        ("Val loss (log2)", "bits", ""),
        ("val_nll_base2", "bits", ""),
        ("loss_per_sequence", "nats", "sequence"),
    ],
)
def test_the_base_of_a_logarithm_and_whole_sequences_in_the_name_of_a_loss_are_read(header, unit, per):
    found = loss_name(header)
    assert (found.unit, found.per) == (unit, per)


@pytest.mark.parametrize("header", ["nll_sum", "val_loss_normalized", "initial_val_loss"])
def test_sums_first_values_and_relative_losses_are_not_taken_for_the_loss(header):
    assert loss_name(header) is None


@pytest.mark.parametrize(
    ("header", "cells", "way"),
    [
        ("max_steps,step,batch_tokens", lambda D: (2 * D / 5e5, D / 5e5, 5e5), "steps × batch_tokens"),
        ("samples_seen,seq_len", lambda D: (D / 2048, 2048), "sequences × context"),
        ("steps,global_batch_size,gradient_accumulation_steps,seq_len",
         lambda D: (D / 524288, 256, 4, 2048), "steps × batch × context"),
        ("steps,per_device_train_batch_size,gradient_accumulation_steps,world_size,seq_len",
         lambda D: (D / 524288, 8, 4, 8, 2048), "steps × batch of a device × devices × context × gradient accumulation"),
        ("unique_tokens,epochs", lambda D: (D / 4, 4), "unique_tokens × epochs"),
    ],
)  # fmt: skip
def test_tokens_are_those_that_were_trained_on_whatever_they_follow_from(header, cells, way, tmp_path):
    rows = [(*row[:2], *cells(row[2]), row[3]) for row in ROWS]
    found = read_runs(table(tmp_path, f"run,params,{header},loss", rows))
    assert numbers(found) == NUMBERS
    assert f"tokens are not stated in 6 rows: derived as {way}" in found.warnings


def test_tokens_per_parameter_give_tokens(tmp_path):
    found = read_runs(
        table(tmp_path, "run,params,tokens_per_param,loss", [(r, N, D / N, L) for r, N, D, L in ROWS])
    )
    assert numbers(found) == NUMBERS


def test_rows_before_the_last_step_of_their_schedule_are_not_annealed(tmp_path):
    rows = [(r, N, D / 5e5, (2 if i == 0 else 1) * D / 5e5, 5e5, L) for i, (r, N, D, L) in enumerate(ROWS)]
    path = table(tmp_path, "run,params,step,total_steps,batch_tokens,loss", rows)
    found = read_runs(path)
    assert [run.annealed for run in found] == [False, True, True, True, True, True]
    assert any(line.startswith("1 row end before the last step") for line in found.warnings)
    assert all(run.annealed for run in read_runs(path, unstated="all"))


def test_a_loss_in_bits_is_refused_where_a_perplexity_or_a_column_shows_it(tmp_path):
    bits = [(r, N, D, L / math.log(2), math.exp(L)) for r, N, D, L in ROWS]
    shown = table(tmp_path, "run,params,tokens,valid_loss,valid_ppl", bits)
    stated = table(
        tmp_path, "run,params,tokens,loss,loss_unit", [(*row[:4], "bits") for row in bits], "stated.csv"
    )
    for path in (shown, stated):
        with pytest.raises(BadInput, match="--loss-unit bits"):
            read_runs(path)
        assert numbers(read_runs(path, loss_unit="bits")) == NUMBERS
    agreeing = table(
        tmp_path, "run,params,tokens,val_loss,val_ppl", [(*row, math.exp(row[3])) for row in ROWS], "nats.csv"
    )
    assert numbers(read_runs(agreeing)) == NUMBERS


def test_the_last_loss_counts_before_the_best_one(tmp_path):
    rows = [(*row[:3], row[3] - 0.05, row[3]) for row in ROWS]
    assert (
        numbers(read_runs(table(tmp_path, "run,params,tokens,best_val_loss,final_val_loss", rows))) == NUMBERS
    )


def test_words_that_part_the_rows_and_second_counts_are_said(tmp_path):
    rows = [(*row, "abc"[i % 2] * 3, 2 * row[2]) for i, row in enumerate(ROWS)]
    said = read_runs(table(tmp_path, "run,params,tokens,loss,mixture_of_ours,tokens_seen", rows)).warnings
    assert any("the rows differ in 'mixture_of_ours'" in line for line in said)
    assert any("tokens is read from 'tokens', and 'tokens_seen' holds other numbers" in line for line in said)
    epochs = read_runs(
        table(tmp_path, "run,params,tokens,loss,epochs", [(*row, 4) for row in ROWS], "e.csv")
    ).warnings
    assert any("epochs is up to 4" in line for line in epochs)


def test_the_rows_of_a_log_between_evaluations_are_left_out_and_counted(tmp_path):
    rows = [
        line for step in (500, 1000) for line in ((step, 5 - step / 1000, ""), (step, "", 5.1 - step / 1000))
    ]
    path = table(tmp_path, "step,train_loss,val_loss", rows)
    found = read_runs(path, column_names={"params": "124M", "batch_tokens": "0.5M"})
    assert [run.loss for run in found] == pytest.approx([4.6, 4.1])
    assert any("2 rows have a training loss and no val_loss" in line for line in found.warnings)


def test_a_header_that_repeats_and_a_rule_of_dashes_are_no_rows(tmp_path):
    lines = [",".join(map(str, row)) for row in ROWS]
    head = "run,params,tokens,loss"
    twice = tmp_path / "twice.csv"
    twice.write_text("\n".join([head, *lines[:3], head, *lines[3:]]) + "\n")
    found = read_runs(twice)
    assert numbers(found) == NUMBERS
    assert found.warnings == ("the header occurs 2 times and is read once",)
    printed = tmp_path / "printed.txt"
    rows = [" | ".join(line.split(",")) for line in lines]
    printed.write_text(
        "\n".join([" run | params | tokens | loss ", "-----+-----+------+-----", *rows, "(6 rows)"]) + "\n"
    )
    assert numbers(read_runs(printed)) == NUMBERS


def test_a_first_row_of_round_numbers_is_no_row_of_units(tmp_path):
    path = table(tmp_path, "run,params,tokens,loss", [("a", "1e8", "1e10", "x"), ("b", "2e8", "1e10", "3.1")])
    with pytest.raises(BadInput, match="line 2: loss is 'x'"):
        read_runs(path)


def test_numbers_in_the_words_of_other_languages_and_in_bold_are_read(tmp_path):
    cells = [(r, f"{N / 1e6:g} Mio", f"{D / 1e8:g}亿", L) for r, N, D, L in ROWS]
    assert numbers(read_runs(table(tmp_path, "run,params,tokens,loss", cells))) == NUMBERS
    bold = tmp_path / "bold.md"
    bold.write_text(
        "| run | params | tokens | loss |\n|---|---|---|---|\n"
        + "".join(f"| {r} | {N / 1e6:g}M | {D / 1e9:g}bn | **{L}** |\n" for r, N, D, L in ROWS)
    )
    assert numbers(read_runs(bold)) == NUMBERS


@pytest.mark.parametrize("hours", ["10 h", "36000 s", "600 min", "10:00:00", "10h 0m"])
def test_a_cell_of_hours_with_a_unit_of_its_own_is_read_by_it(hours, tmp_path):
    path = table(tmp_path, "model,tokens,hours,hardware", [("gpt2", "1e10", hours, "8xA100")])
    mfu = {found.check: found.recomputed for found in audit(path).findings}["MFU"]
    assert mfu == "9.5%"  # 854,438,400 FLOPs per token x 1e10 / (36000 s x 8 x 312e12)


@pytest.mark.parametrize("header", ["Hours (8xA100)", "Hours on 8 A100s", "Training hours [8 x A100]"])
def test_the_header_of_hours_names_devices_in_brackets_too(header, tmp_path):
    path = table(tmp_path, f"model,tokens,{header}", [("gpt2", "1e10", 10)])
    assert {found.check: found.recomputed for found in audit(path).findings}["MFU"] == "9.5%"


@pytest.mark.parametrize("compute", ["3640 PF-days", "314 zettaFLOPs", "3.14 x 10^23", "3.14e23 FLOPs"])
def test_flops_in_words_are_read_by_fit_and_audit(compute, tmp_path):
    path = table(tmp_path, "run,params,tokens,compute,loss", [("gpt3", "175B", "300B", compute, 2.0)])
    assert read_runs(path)[0].compute == pytest.approx(3.14e23, rel=0.003)
    (found,) = [found for found in audit(path).findings if found.check == "compute"]
    assert found.explanation == "equals 6·N·D"


def test_an_mfu_by_exact_flops_says_that_by_the_stated_ones_too(tmp_path):
    path = table(
        tmp_path,
        "model,params,tokens,compute,hours,hardware",
        [("llama-2-70b", "70B", "16384000", "6.89e18", 13.5, "16 A100")],
    )
    (found,) = [found for found in audit(path).findings if found.check == "MFU"]
    assert "2.8% by the stated 6.89e18" in found.explanation  # 6.89e18 / (48,600 s x 16 x 312e12)

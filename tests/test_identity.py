"""What rows must share, and units that cannot be: refused or said, never taken in silence."""

import math
import re

import pytest

from families.units import BadInput
from scaling.auditing import audit
from scaling.fitting.fit import fit
from scaling.laws import Law
from scaling.runs import Run
from scaling.runs.identity import vocabularies
from scaling.runs.mapping import parse_columns
from scaling.runs.readers import read_runs

LAW = Law(E=1.8, A=480.0, B=2000.0, alpha=0.35, beta=0.37)
GRID = [(N, r * N) for N in (2e7, 6e7, 1.6e8, 4e8, 1e9) for r in (5, 12, 30, 70)]


def table(folder, header, rows, name="runs.csv"):
    path = folder / name
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def grid(loss=LAW.loss, N=1.0, D=1.0):
    return [(f"r{i}", n / N, d / D, loss(n, d)) for i, (n, d) in enumerate(GRID)]


# Vocabularies, states, checkpoints


def test_rows_of_two_tokenizers_are_no_law_and_the_remedy_in_the_message_is_one(tmp_path):
    rows = [(*row, (32000, 128256)[i % 2]) for i, row in enumerate(grid())]
    rows = [(*row[:3], row[3] + (row[4] > 1e5), row[4]) for row in rows]
    path = table(tmp_path, "run,params,tokens,loss,vocab_size", rows)
    with pytest.raises(
        BadInput, match=r"2 vocabularies \(32000, 128256\).*--columns group=vocab_size --group 128256"
    ):
        fit(read_runs(path), bootstrap=0)
    for group, E in (("32000", 1.8), ("128256", 2.8)):
        found = fit(
            read_runs(path, column_names={"group": "vocab_size"}), group=group, form="chinchilla", bootstrap=0
        )
        assert pytest.approx(E, abs=0.01) == found.main_form.law.E


def test_a_padded_vocabulary_is_the_same_one():
    def runs(*sizes):
        return [Run(run="a", params=1, tokens=1, loss=1, vocab_size=size) for size in sizes]

    assert vocabularies(runs(50257, 50304, 50432)) == [50257]
    assert vocabularies(runs(32000, 50257, None)) == [32000, 50257]


def test_runs_that_did_not_finish_are_left_out_and_named(tmp_path):
    states = {3: "crashed", 7: "failed", 11: "Running"}
    rows = [
        (*row[:3], row[3] + 0.5 * (i in states), states.get(i, "finished")) for i, row in enumerate(grid())
    ]
    found = read_runs(table(tmp_path, "run,params,tokens,loss,State", rows))
    assert len(found) == len(rows) - 3
    (said,) = found.warnings
    assert said == "left out by their state, 3 rows: 1 crashed, 1 failed, 1 running (r3, r7, r11)"
    alone = table(tmp_path, "run,params,tokens,loss,status", [("a", 1e6, 2e7, 3, "KILLED")], "alone.csv")
    with pytest.raises(BadInput, match="no row is of a finished run"):
        read_runs(alone)


def checkpoints():
    """Ten checkpoints of each of five cosine runs: losses in mid-schedule lie above the law's."""
    return [
        (f"n{N:g}", N, 20 * N * k / 10, LAW.loss(N, 20 * N * k / 10) + 0.15 * (1 - k / 10))
        for N in (2e7, 6e7, 1.6e8, 4e8, 1e9)
        for k in range(1, 11)
    ]


def test_checkpoints_without_a_column_annealed_are_asked_about_and_only_the_last_counts(tmp_path):
    found = read_runs(table(tmp_path, "run,params,tokens,loss", checkpoints()))
    assert [run.tokens for run in found if run.annealed] == [20 * N for N in (2e7, 6e7, 1.6e8, 4e8, 1e9)]
    assert "50 rows of 5 runs at several tokens: only the last of each counts" in found.warnings[0]
    with pytest.raises(BadInput, match="45 of 50 rows are not annealed"):
        fit(found, bootstrap=0)
    assert fit(found, annealed="only", form="L(C)", bootstrap=0).rows == 5


@pytest.mark.parametrize(("schedule", "marked"), [("cosine", True), ("WSD", False), ("constant", False)])
def test_checkpoints_compare_with_one_another_under_a_schedule_that_does_not_decay(
    schedule, marked, tmp_path
):
    rows = [(*row, schedule) for row in checkpoints()]
    found = read_runs(table(tmp_path, "run,params,tokens,loss,schedule", rows))
    assert any(not run.annealed for run in found) == marked
    assert "no column annealed" in found.warnings[0]


def test_a_rate_that_follows_the_schedule_is_no_setting_and_may_end_at_zero(tmp_path):
    rates = [(*row, 1e-3 * (10 - i % 10 - 1) / 10) for i, row in enumerate(checkpoints())]
    found = read_runs(table(tmp_path, "run,params,tokens,loss,lr", rates))
    assert [run.lr for run in found] == [None] * 50
    assert "it is the rate at a row and no setting" in found.warnings[0]
    swept = [(f"{row[0]}-{lr}", *row[1:], lr) for row in grid()[:6] for lr in (1e-3, 2e-3)]
    assert {run.lr for run in read_runs(table(tmp_path, "run,params,tokens,loss,lr", swept, "s.csv"))} == {
        1e-3,
        2e-3,
    }


@pytest.mark.parametrize("header", ["n_positions", "seq_len"])
def test_two_contexts_are_said(header, tmp_path):
    rows = [(*row[:4], 1024 * (1 + i % 2)) for i, row in enumerate(grid())]
    found = read_runs(table(tmp_path, f"run,params,tokens,loss,{header}", rows))
    assert any(
        "contexts (1,024, 2,048)" in line or f"differ in '{header}'" in line for line in found.warnings
    )


@pytest.mark.parametrize("header", ["val_log_perplexity", "eval/logppl"])
def test_the_logarithm_of_a_perplexity_is_a_loss(header, tmp_path):
    found = read_runs(table(tmp_path, f"run,params,tokens,{header}", [row[:4] for row in grid()]))
    assert [run.loss for run in found] == pytest.approx([row[3] for row in grid()])


def test_all_rows_count_where_the_user_says_so_and_a_column_annealed_is_believed(tmp_path):
    path = table(tmp_path, "run,params,tokens,loss", checkpoints())
    assert all(run.annealed for run in read_runs(path, unstated="all"))
    rows = [(*row, str(i % 2 == 0)) for i, row in enumerate(checkpoints())]
    stated = read_runs(table(tmp_path, "run,params,tokens,loss,annealed", rows, "stated.csv"))
    assert sum(run.annealed for run in stated) == 25
    assert stated.warnings == ()


def test_one_name_for_several_sizes_or_seeds_is_no_run_with_checkpoints(tmp_path):
    rows = [("ours", N, 20 * N, 3.0, seed) for N in (1e7, 2e7) for seed in (1, 2)]
    found = read_runs(table(tmp_path, "run,params,tokens,loss,seed", rows))
    assert all(run.annealed for run in found)
    assert found.warnings == ()


def test_one_observation_with_two_losses_is_said(tmp_path):
    rows = [("a", 1e7, 2e8, 3.0), ("a", 1e7, 2e8, 3.4), ("b", 2e7, 2e8, 2.9)]
    (said,) = read_runs(table(tmp_path, "run,params,tokens,loss", rows)).warnings
    assert said.startswith("1 observation has rows with different losses (run 'a'")


# Held-out loss before training loss


def test_the_held_out_loss_counts_before_the_training_loss_and_both_are_named(tmp_path):
    rows = [(*row[:3], row[3] - 0.3, row[3]) for row in grid()]
    found = read_runs(table(tmp_path, "run,params,tokens,loss,val_loss", rows))
    assert [run.loss for run in found] == [row[4] for row in rows]
    assert found.warnings[0] == (
        "loss is read from 'val_loss', which is held out, and not from 'loss': --columns loss=loss reads that"
    )
    path = tmp_path / "runs.csv"
    assert [run.loss for run in read_runs(path, column_names={"loss": "loss"})] == [row[3] for row in rows]


def test_losses_on_several_texts_are_asked_about(tmp_path):
    rows = [(*row, row[3] + 0.2) for row in grid()]
    path = table(tmp_path, "run,params,tokens,eval_c4_loss,eval_pile_loss", rows)
    with pytest.raises(
        BadInput, match=r"2 held-out losses, 'eval_c4_loss', 'eval_pile_loss'.*--columns loss=eval_c4_loss"
    ):
        read_runs(path)
    assert read_runs(path, column_names={"loss": "eval_c4_loss"})[0].loss == rows[0][3]


def test_a_table_of_several_eval_sets_is_fitted_to_the_one_that_is_named(tmp_path):
    rows = [(*row, text) for row in grid() for text in ("c4", "pile")]
    found = read_runs(table(tmp_path, "run,params,tokens,loss,eval_set", rows))
    with pytest.raises(BadInput, match=r"2 eval sets \('c4', 'pile'\).*--eval-set c4"):
        fit(found, bootstrap=0)
    assert fit(found, eval_set="c4", form="chinchilla", bootstrap=0).eval_set == "c4"
    with pytest.raises(BadInput, match="eval set is 'c5'; did you mean c4"):
        fit(found, eval_set="c5", bootstrap=0)


# Units


@pytest.mark.parametrize(
    ("N", "D", "said"),
    [
        (1, 1e9, "tokens are counted one by one, so 300 billion is 300B"),
        (1, 1e6, "tokens are counted one by one"),
        (1e6, 1, "the largest N is 1000: sizes are counted in parameters"),
        (1e3, 1, "D/N is 2.1e+04 in the median and the largest N is 1M: sizes are counted"),
    ],
)
def test_sizes_and_tokens_in_another_unit_are_said(N, D, said, tmp_path):
    warnings = read_runs(table(tmp_path, "run,params,tokens,loss", grid(N=N, D=D))).warnings
    assert len(warnings) == 1
    assert said in warnings[0]


@pytest.mark.parametrize(
    "header",
    [
        "run,Params (M),tokens_B,loss",
        "run,params (millions),Tokens (B),loss",
        "Run,params_M,tokens (1e9),Loss",
        "run,#Parameters (×10⁶),Training tokens [10^9],Loss (nats/token)",
    ],
)
def test_a_unit_in_a_header_is_read_and_said(header, tmp_path):
    path = table(tmp_path, header, grid(N=1e6, D=1e9))
    found = read_runs(path)
    assert [(run.params, run.tokens) for run in found] == [pytest.approx(cell) for cell in GRID]
    assert len([line for line in found.warnings if "in units of" in line]) == 2
    named = {"params": header.split(",")[1], "tokens": header.split(",")[2]}
    assert [run.tokens for run in read_runs(path, column_names=named)] == [pytest.approx(D) for _, D in GRID]


def test_single_letters_are_proposed_with_their_units_and_read_by_them_where_named(tmp_path):
    path = table(tmp_path, "run,N [10^6],D [10^9],loss", grid(N=1e6, D=1e9))
    with pytest.raises(BadInput) as refused:
        read_runs(path)
    columns = re.search(r'--columns "(.*)"$', str(refused.value))[1]
    found = read_runs(path, column_names=parse_columns(columns))
    assert [(run.params, run.tokens) for run in found] == [pytest.approx(cell) for cell in GRID]


@pytest.mark.parametrize(
    "cell",
    ["1.5×10^9", "1.5 x 10^9", "1.5×10⁹", "1.5e9", "1.5B tokens", "1.5 billion", "~1.5B", "1,500,000,000"],
)
def test_a_size_is_read_as_people_write_it(cell, tmp_path):
    (run,) = read_runs(table(tmp_path, "run,params,tokens,loss", [("a", "124M", f'"{cell}"', 3.2)]))
    assert run.tokens == 1.5e9


def test_cells_too_large_for_the_unit_of_their_header_are_counted(tmp_path):
    rows = [(name, N, D * (1e-9 if i % 2 else 1), loss) for i, (name, N, D, loss) in enumerate(grid())]
    found = read_runs(table(tmp_path, "run,params,Tokens (B),loss", rows))
    assert [run.tokens for run in found] == [pytest.approx(D) for _, D in GRID]
    assert "10 of 'Tokens (B)' are too large for its unit, and read as printed" in found.warnings


def test_losses_of_two_tokenizers_are_two_groups_and_other_differences_are_said(tmp_path):
    rows = [(*row, ("a", "b")[i % 2], ("c4", "pile")[i % 2]) for i, row in enumerate(grid())]
    found = read_runs(table(tmp_path, "run,params,tokens,loss,tokenizer,dataset", rows))
    assert set(found.by_group()) == {"a", "b"}
    assert any("the rows differ in 'dataset'" in line for line in found.warnings)
    with pytest.raises(BadInput, match="there are 2 groups"):
        fit(found, bootstrap=0)


def test_a_training_loss_alone_is_asked_about_and_said(tmp_path):
    path = table(tmp_path, "run,params,tokens,train_loss", grid())
    with pytest.raises(BadInput, match=r"--columns loss=train_loss$"):
        read_runs(path)
    (said,) = read_runs(path, column_names={"loss": "train_loss"}).warnings
    assert "a training loss" in said


def test_a_cell_with_its_own_unit_keeps_it_under_a_header_with_one(tmp_path):
    rows = [
        ("a", "124M", "2.5B", 3.2),
        ("b", "124000000", "2.5", 3.2),
        ("c", "0.124 billion", "2.5 billion", 3.2),
    ]
    found = read_runs(table(tmp_path, "run,Params (M),Tokens (B),loss", rows))
    assert {(run.params, run.tokens) for run in found} == {(124e6, 2.5e9)}


def test_rows_of_two_schedules_are_said(tmp_path):
    rows = [(*row, ("cosine", "wsd")[i % 2]) for i, row in enumerate(grid())]
    (said,) = read_runs(table(tmp_path, "run,params,tokens,loss,schedule", rows)).warnings
    assert said.startswith("the rows have 2 schedules (cosine, wsd)")


def test_a_loss_above_that_of_guessing_is_said(tmp_path):
    ppl = [(*row[:3], math.exp(row[3]), 50257) for row in grid()]
    (said,) = read_runs(table(tmp_path, "run,params,tokens,loss,vocab_size", ppl)).warnings
    assert "above ln 50,257 = 10.82" in said
    assert "--loss-unit ppl" in said
    assert read_runs(tmp_path / "runs.csv", loss_unit="ppl").warnings == ()


@pytest.mark.parametrize(
    "column", ["word_perplexity", "byte_perplexity", "bits_per_byte", "nats_per_byte", "val_bpb"]
)
def test_a_loss_per_word_or_byte_is_doubted_by_its_name(column, tmp_path):
    path = table(tmp_path, f"run,params,tokens,{column}", grid(loss=lambda n, d: LAW.loss(n, d) + 1))
    with pytest.raises(BadInput, match=r"has no column loss.*a law's losses are per token"):
        read_runs(path)
    assert "a law's losses are per token" in read_runs(path, column_names={"loss": column}).warnings[0]


def test_swapped_tokens_and_unique_tokens_are_named_by_fit_and_audit(tmp_path):
    rows = [(*row[:2], row[2], row[2] * 4, row[3]) for row in grid()]
    path = table(tmp_path, "run,params,tokens,unique_tokens,loss", rows)
    (said,) = read_runs(path).warnings
    assert "unique_tokens are more than tokens in 20 of 20 rows" in said
    assert "swapped columns" in str(audit(path).findings)
    swapped = read_runs(path, column_names={"tokens": "unique_tokens", "unique_tokens": "tokens"})
    assert swapped.warnings == ()
    assert swapped[0].tokens == 4 * swapped[0].unique_tokens


# Derived columns


@pytest.mark.parametrize(
    ("header", "cells", "way"),
    [
        ("flops", lambda N, D: [6 * N * D], "compute/(6·N)"),
        ("Compute (PF-days)", lambda N, D: [6 * N * D / 8.64e19], "compute/(6·N)"),
        ("steps,batch_tokens", lambda N, D: [D / 524288, 524288], "steps × batch_tokens"),
        ("iterations,batch_size,seq_len", lambda N, D: [D / 524288, 512, 1024], "steps × batch × context"),
    ],
)
def test_tokens_that_follow_from_other_columns_are_derived_and_that_is_said(header, cells, way, tmp_path):
    rows = [(*row[:2], *cells(row[1], row[2]), row[3]) for row in grid()]
    found = read_runs(table(tmp_path, f"run,params,{header},loss", rows))
    assert [run.tokens for run in found] == [pytest.approx(D) for _, D in GRID]
    assert f"tokens are not stated in 20 rows: derived as {way}" in found.warnings


def test_columns_that_are_not_guessed_are_listed_and_any_of_them_can_be_named(tmp_path):
    names = [f"thing {i}, with a comma" for i in range(20)]
    rows = [(*row, *range(17)) for row in grid()]
    header = ",".join(f'"{name}"' for name in [*names, "run"][:21])
    path = table(tmp_path, header, rows)
    with pytest.raises(BadInput) as refused:
        read_runs(path)
    assert all(name in str(refused.value) for name in names)
    named = {"run": names[0], "params": names[1], "tokens": names[2], "loss": names[3]}
    assert len(read_runs(path, column_names=named)) == 20

"""More columns give more checks; derived, swapped and unread columns are said; a stated MFU is recomputed."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from families import ModelSpec, params, train_flops_per_token
from scaling.auditing import audit, audit_text
from scaling.auditing.findings import Verdict
from scaling.auditing.specs import Experts, expert_params
from scaling.auditing.tables import field_of, header_factor, parse_share
from scaling.hardware import accelerator

from .surfaces import BESIROGLU

MISTRAL = ModelSpec(
    architecture="llama",
    n_layer=32,
    n_embd=4096,
    n_head=32,
    n_kv_head=8,
    n_inner=14336,
    vocab_size=32000,
    n_positions=8192,
)


def of(findings, check):
    return [finding for finding in findings if finding.check == check]


def markdown(**columns):
    """A Markdown table of one row, or of as many as the lists have."""
    rows = max(len(cell) if isinstance(cell, list) else 1 for cell in columns.values())
    cells = [cell if isinstance(cell, list) else [cell] * rows for cell in columns.values()]
    lines = [list(columns), ["-"] * len(columns), *map(list, zip(*cells, strict=True))]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def runs_file(tmp_path, rows, header="run,params,tokens,loss", name="runs.csv"):
    path = tmp_path / name
    lines = [
        ",".join(f"{cell:.9g}" if isinstance(cell, float) else str(cell) for cell in row) for row in rows
    ]
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def random_search(rows, seed=3, noise=0.003):
    """Runs with a size each, N log-uniform from 20M to 2B and D/N from 4 to 150."""
    rng = np.random.default_rng(seed)
    N = 10 ** rng.uniform(7.3, 9.3, rows)
    D = N * 10 ** rng.uniform(0.6, 2.2, rows)
    L = BESIROGLU.loss(N, D) * np.exp(rng.normal(0, noise, rows))
    return [
        [f"r{place}", float(round(n)), float(round(d)), float(x)]
        for place, (n, d, x) in enumerate(zip(N, D, L, strict=True))
    ]


# Llama shapes


def test_grouped_queries_counted_as_full_are_named():
    full = params(ModelSpec(**{**_fields(MISTRAL), "n_kv_head": 32}))
    (finding,) = of(audit_text(_llama_table(full)), "parameters")
    assert finding.verdict is Verdict.MISMATCH
    assert finding.recomputed == f"{params(MISTRAL):,}"
    assert f"all 32 heads, {full:,}" in finding.explanation


def _fields(spec):
    return {name: getattr(spec, name) for name in spec.__dataclass_fields__}


def _llama_table(count, name="mistral-like"):
    return markdown(
        model=name,
        n_layer=32,
        d_model=4096,
        n_heads=32,
        n_kv_heads=8,
        d_ff=14336,
        vocab=32000,
        params=count,
    )


@pytest.mark.parametrize(
    ("tables", "words"),
    [(1, "embedding, head included"), (2, "all but embedding and head")],
)
def test_a_llamas_count_without_its_tables_is_a_convention(tables, words):
    count = params(MISTRAL) - tables * 32000 * 4096
    (finding,) = of(audit_text(_llama_table(f"{count / 1e9:.2f}B")), "parameters")
    assert finding.verdict in (Verdict.SUSPICIOUS, Verdict.OK)
    assert words in finding.explanation or "tied" in finding.explanation


def test_unstated_key_and_value_heads_follow_from_the_count():
    table = markdown(
        model="llama-ours", n_layer=32, d_model=4096, n_heads=32, d_ff=14336, vocab=32000, params="7.24B"
    )
    (finding,) = of(audit_text(table), "parameters")
    assert finding.verdict is Verdict.OK
    assert "8 key and value heads assumed" in finding.explanation


def test_a_table_that_is_tied_and_counted_twice_is_named():
    tied = ModelSpec(architecture="llama", n_layer=5, n_embd=320, n_head=5, n_inner=864, vocab_size=32000)
    table = markdown(
        model="llama toy16M", n_layer=5, d_model=320, n_heads=5, d_ff=864, vocab=32000, params=params(tied)
    )
    (finding,) = of(audit_text(table), "parameters")
    assert finding.verdict is Verdict.MISMATCH
    assert f"{params(tied) - 32000 * 320:,}" in finding.explanation


def test_shape_columns_leave_the_mfu_of_a_llama():
    base = {"model": "llama-2-7b", "params": "6.74B", "tokens": "1.5T", "GPU": "A100", "GPU hours": 140000}
    shape = {"n_layer": 32, "d_model": 4096, "n_heads": 32, "context": 4096, "vocab": 32000, "d_ff": 11008}
    (without,), (within,) = (of(audit_text(markdown(**row)), "MFU") for row in (base, base | shape))
    assert without.recomputed == within.recomputed
    exact = train_flops_per_token(
        ModelSpec(**{**_fields(MISTRAL), "n_kv_head": 32, "n_inner": 11008, "n_positions": 4096})
    )
    assert without.recomputed == f"{exact * 1.5e12 / (140000 * 3600 * 312e12):.1%}"


def test_parameters_of_a_mixture_of_experts_are_transformers_own():
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.MixtralConfig(
        vocab_size=500,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=6,
        num_experts_per_tok=2,
        tie_word_embeddings=False,
    )
    with torch.device("meta"):
        model = transformers.MixtralForCausalLM(config)
    spec = ModelSpec(
        architecture="llama", n_layer=3, n_embd=64, n_head=4, n_kv_head=2, n_inner=160, vocab_size=500
    )
    whole, active = expert_params(spec, Experts(number=6, per_token=2))
    assert whole == sum(parameter.numel() for parameter in model.parameters())
    assert whole - active == 4 * 3 * 3 * 64 * 160


# Padded vocabularies


@pytest.mark.parametrize(
    ("vocabulary", "padded"), [(50257, 50304), (50257, 50432), (50254, 50688), (32003, 32128)]
)
@pytest.mark.parametrize("stated", ["{}", "{:,}"])
def test_a_padded_vocabulary_explains_a_count(vocabulary, padded, stated):
    spec = ModelSpec(n_layer=10, n_embd=640, n_head=10, vocab_size=padded)
    table = markdown(
        model="gpt2 own",
        n_layer=10,
        n_embd=640,
        n_head=10,
        vocab_size=vocabulary,
        params=stated.format(params(spec)),
    )
    (finding,) = of(audit_text(table), "parameters")
    assert finding.verdict is Verdict.SUSPICIOUS
    assert f"padded to {padded}" in finding.explanation
    assert f"{padded - vocabulary} x 640" in finding.explanation


def test_a_rounded_count_of_a_padded_vocabulary_is_explained():
    spec = ModelSpec(n_layer=24, n_embd=1024, n_head=16, vocab_size=50304)
    table = markdown(model="gpt2-m", n_layer=24, n_embd=1024, n_head=16, params=f"{params(spec) / 1e6:.2f}M")
    (finding,) = of(audit_text(table), "parameters")
    assert "padded to 50304" in finding.explanation


# Active parameters


def test_flops_go_with_the_active_parameters():
    rows = {"model": ["a", "b"], "total params": "100B", "active params": "20B", "tokens": "2T"}
    fits, dense = of(audit_text(markdown(**rows, compute=["1.20e24", "2.40e23"])), "compute")
    assert (dense.where, fits.where) == ("b", "a")
    assert (dense.verdict, fits.verdict) == (Verdict.OK, Verdict.SUSPICIOUS)
    assert "active" in dense.explanation
    assert fits.recomputed == "2.4e+23"


def test_stated_experts_give_the_active_parameters():
    whole, active = expert_params(MISTRAL, Experts(number=8, per_token=2))
    shape = {"experts": 8, "top_k": 2, "params": whole, "tokens": "1T"}
    for count, verdict in ((active, Verdict.OK), (whole, Verdict.SUSPICIOUS)):
        table = markdown(
            model="mixtral-like", n_layer=32, d_model=4096, n_heads=32, n_kv_heads=8, d_ff=14336, vocab=32000,
            context=8192, compute=f"{6e12 * count:.2e}", **shape,
        )  # fmt: skip
        result = audit_text(table)
        assert [finding.verdict for finding in of(result, "parameters")] == [Verdict.OK]
        assert [finding.verdict for finding in of(result, "compute")] == [verdict]


def test_more_active_parameters_than_parameters_are_swapped():
    (finding,) = of(
        audit_text(markdown(model="m", params="5B", **{"active params": "40B"})), "active parameters"
    )
    assert finding.verdict is Verdict.MISMATCH


# MFU and throughput


@pytest.mark.parametrize("stated", ["47%", "0.47", "47"])
def test_a_stated_mfu_is_recomputed_from_the_throughput(stated):
    per_token = train_flops_per_token(ModelSpec(n_layer=24, n_embd=1024, n_head=16))
    speed = round(0.47 * 8 * accelerator("H100").training_peak / per_token)
    row = {"model": "gpt2 m", "n_layer": 24, "n_embd": 1024, "n_head": 16, "accelerator": "8xH100"}
    (right,) = of(audit_text(markdown(**row, MFU=stated, **{"tokens/s": speed})), "stated MFU")
    assert (right.verdict, right.recomputed) == (Verdict.OK, "47.0%")
    (wrong,) = of(audit_text(markdown(**row, MFU=stated, **{"tokens/s": speed // 2})), "stated MFU")
    assert (wrong.verdict, wrong.recomputed) == (Verdict.MISMATCH, "23.5%")


def test_a_stated_mfu_over_another_devices_peak_names_it():
    row = {"model": "x", "params": "1B", "tokens/s": 50000, "accelerator": "1xH100"}
    mfu = 6e9 * 50000 / accelerator("A100").training_peak
    (finding,) = of(audit_text(markdown(**row, MFU=f"{mfu:.1%}")), "stated MFU")
    assert finding.verdict is Verdict.MISMATCH
    assert "A100" in finding.explanation


def test_a_stated_mfu_of_all_devices_over_the_peak_of_one_is_named():
    mfu = 6e9 * 200000 / accelerator("A100").training_peak
    row = {"model": "x", "params": "1B", "tokens/s": 200000, "accelerator": "16xA100", "MFU": f"{mfu:.1%}"}
    (finding,) = of(audit_text(markdown(**row)), "stated MFU")
    assert "16 devices over the peak of one" in finding.explanation


def test_an_mfu_above_one_is_a_mismatch_with_nothing_beside_it():
    (finding,) = of(audit_text(markdown(model="x", MFU="131%")), "stated MFU")
    assert finding.verdict is Verdict.MISMATCH


def test_a_stated_throughput_is_held_against_tokens_and_hours():
    row = {"model": "x", "params": "1B", "tokens": "36.0B", "hours": 10, "accelerator": "8xA100"}
    for speed, verdict in (("1000000", Verdict.OK), ("125000", Verdict.SUSPICIOUS)):
        (finding,) = of(audit_text(markdown(**row, **{"tokens/s": speed})), "throughput")
        assert finding.verdict is verdict
    assert "one of the 8 devices" in finding.explanation


@pytest.mark.parametrize("column", ["GPUs", "num_gpus", "world size"])
def test_a_column_counts_the_devices(column):
    row = {"model": "x", "params": "1B", "tokens": "36.0B", "hours": 10, "accelerator": "A100"}
    (beside,) = of(audit_text(markdown(**row, **{column: 8})), "MFU")
    (inside,) = of(audit_text(markdown(**(row | {"accelerator": "8xA100"}))), "MFU")
    assert beside.recomputed == inside.recomputed
    assert "no number of devices" not in beside.explanation


def test_a_device_that_is_not_known_is_said():
    row = {"model": "x", "params": "1B", "tokens": "36B", "hours": 10, "accelerator": "8x Abacus 9"}
    (finding,) = of(audit_text(markdown(**row)), "device")
    assert finding.stated == "8x Abacus 9"


def test_a_number_of_devices_that_is_not_stated_is_said():
    row = {"model": "x", "params": "1B", "tokens": "3.6B", "hours": 10, "accelerator": "A100"}
    (finding,) = of(audit_text(markdown(**row)), "MFU")
    assert "no number of devices is stated" in finding.explanation


def test_shares_are_read_as_people_write_them():
    for text in ("46%", "46 %", "0.46", "46", "46 percent"):
        assert parse_share(text).value == pytest.approx(0.46)
    assert parse_share("0.9", percent=True).value == pytest.approx(0.009)


# Columns


@pytest.mark.parametrize(
    ("header", "field", "factor"),
    [
        ("Params (M)", "params", 1e6),
        ("parameters in billions", "params", 1e9),
        ("tokens_B", "tokens", 1e9),
        ("Tokens [T]", "tokens", 1e12),
        ("FLOPs (1e18)", "compute", 1e18),
        ("Compute (PF-days)", "compute", 8.64e19),
        ("Training tokens", "tokens", 1.0),
        ("hours", "hours", 1.0),
        ("USD per GPU-hour", None, None),
        ("price per hour", None, None),
    ],
)
def test_units_in_a_header_scale_its_column(header, field, factor):
    assert field_of(header) == field
    if field:
        assert header_factor(header, field) == factor


def test_a_table_in_millions_and_billions_adds_up_as_one_in_ones():
    plain = markdown(model="a", params=125_000_000, tokens=2_500_000_000, compute="1.875e18")
    scaled = markdown(model="a", **{"Params (M)": 125, "Tokens (B)": 2.5, "compute": "1.875e18"})
    assert [(f.check, f.verdict) for f in audit_text(plain)] == [
        (f.check, f.verdict) for f in audit_text(scaled)
    ]


def test_tokens_follow_from_compute_and_parameters(tmp_path):
    rows = [[name, N, 6 * N * D, loss] for name, N, D, loss in random_search(40)]
    rows[7][3] *= 1.5
    result = audit(runs_file(tmp_path, rows, "run,params,flops,loss"))
    assert any("derived as flops / (6 x parameters)" in note for note in result.notes)
    assert [finding.where for finding in result.of("outlier")] == ["all rows: r7"]


def test_tokens_follow_from_steps_and_batch(tmp_path):
    rows = [[name, N, round(D / 2**16), 2**16, loss] for name, N, D, loss in random_search(40)]
    result = audit(runs_file(tmp_path, rows, "run,params,steps,batch_tokens,loss"))
    assert any("derived as steps x batch_tokens" in note for note in result.notes)
    assert result.of("residuals")
    assert result.of("tokens per parameter")


def test_columns_of_tokens_and_unique_tokens_that_are_swapped_are_named(tmp_path):
    rng = np.random.default_rng(5)
    right = [[name, N, D, D / rng.choice([1, 2, 4]), loss] for name, N, D, loss in random_search(30)]
    swapped = [[name, N, unique, D, loss] for name, N, D, unique, loss in right]
    header = "run,params,tokens,unique_tokens,loss"
    (fine,) = audit(runs_file(tmp_path, right, header)).of("unique tokens")
    (named,) = audit(runs_file(tmp_path, swapped, header)).of("unique tokens")
    assert fine.verdict is Verdict.OK
    assert named.verdict is Verdict.MISMATCH
    assert "swapped" in named.explanation
    assert named.where == f"{sum(row[2] > row[3] for row in right)} of 30 rows"


def test_one_corpus_size_in_all_rows_is_no_swap(tmp_path):
    rows = [[name, N, D, 3e12, loss] for name, N, D, loss in random_search(20)]
    (finding,) = audit(runs_file(tmp_path, rows, "run,params,tokens,unique_tokens,loss")).of("unique tokens")
    assert "swapped" not in finding.explanation
    assert finding.verdict is Verdict.SUSPICIOUS


def test_an_audit_without_checks_says_why(cli, tmp_path):
    path = tmp_path / "thin.csv"
    path.write_text("model,params,colour\na,124M,red\n", encoding="utf-8")
    result = audit(path)
    assert result.findings == ()
    assert "nothing could be checked" in result.notes[0]
    assert "n_layer" in result.notes[0]
    assert any("colour" in note for note in result.notes)
    assert "nothing could be checked" in cli("audit", str(path)).stdout


def test_the_held_out_loss_is_read_where_two_stand(tmp_path):
    path = tmp_path / "two.csv"
    path.write_text(f"model,loss,val_loss,ppl\na,2.80,3.000,{math.exp(3):.2f}\n", encoding="utf-8")
    result = audit(path)
    assert [finding.verdict for finding in result.of("perplexity")] == [Verdict.OK]
    assert any("'val_loss'" in note and "'loss'" in note for note in result.notes)


def test_cells_that_are_no_numbers_are_said(tmp_path):
    path = tmp_path / "odd.csv"
    path.write_text("model,params,tokens,loss\na,1B,20B,diverged\nb,2B,40B,2.4\n", encoding="utf-8")
    assert any("'diverged' on line 2" in note for note in audit(path).notes)


ROW = {
    "model": "gpt2 own",
    "family": "web",
    "params": "124439808",
    "non-embedding params": "85.1M",
    "n_layer": "12",
    "d_model": "768",
    "n_heads": "12",
    "d_ff": "3072",
    "d_attn": "768",
    "vocab": "50257",
    "context": "1024",
    "tokens": "2621440000",
    "unique_tokens": "2621440000",
    "steps": "5000",
    "batch_tokens": "524288",
    "batch": "512",
    "compute": "1.957e18",
    "hours": "4.0",
    "accelerator": "8xA100",
    "GPUs": "8",
    "tokens/s": "182000",
    "MFU": "6.2%",
    "loss": "3.40",
    "ppl": "29.96",
    "predicted loss": "3.41",
    "dataset": "web",
    "active params": "60M",
    "annealed": "true",
    "notes": "fine",
    "learning_rate": "6e-4",
}
OTHER_CELLS = [
    "",
    "0",
    "1",
    "7",
    "-1",
    "nan",
    "12",
    "1e9",
    "124M",
    "llama",
    "bert",
    "A100",
    "8 x ?",
    "50%",
    "½",
]
CHANCE = {"law", "exponent", "one-sided errors", "loss unit", "heads", "cells", "duplicated row"}


def checks(columns):
    return Counter(finding.check for finding in audit_text(markdown(**columns))) if columns else Counter()


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_adding_a_column_never_removes_a_check(data):
    names = data.draw(st.lists(st.sampled_from(list(ROW)), min_size=2, max_size=12, unique=True))
    added = data.draw(st.sampled_from([name for name in ROW if name not in names]))
    cell = data.draw(st.sampled_from([ROW[added], *OTHER_CELLS]))
    before = checks({name: ROW[name] for name in names})
    after = checks({name: ROW[name] for name in names} | {added: cell})
    lost = {check for check in before if check not in CHANCE and after[check] < before[check]}
    assert not lost


# Many sizes


def test_continuous_sizes_are_not_chained_into_one(tmp_path):
    rows = random_search(3000)
    rows[11][3] *= 1.6
    result = audit(runs_file(tmp_path, rows))
    (outlier,) = result.of("outlier")
    assert outlier.where == "all rows: r11"
    (residuals,) = result.of("residuals")
    assert residuals.recomputed


def test_two_sizes_are_said_to_be_too_few(tmp_path):
    rows = [[f"r{at}", float(1e8 * (1 + at % 2)), 2e9 * (1 + at), 3.1 - 0.01 * at] for at in range(12)]
    (finding,) = audit(runs_file(tmp_path, rows)).of("residuals")
    assert "there are 2 and 12" in finding.explanation


def test_a_runs_last_row_is_fitted_where_no_column_says_which_are_final(tmp_path):
    rows = []
    for name, N, D, loss in random_search(24):
        rows += [[name, N, D / 2, loss * 1.2], [name, N, D, loss]]
    result = audit(runs_file(tmp_path, rows))
    assert any("48 rows are of 24 runs" in note for note in result.notes)
    (residuals,) = result.of("residuals")
    assert "of 24 rows" in residuals.explanation

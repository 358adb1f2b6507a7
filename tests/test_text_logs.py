"""What trainers print: Megatron's, GPT-NeoX's, nanoGPT's and llm.c's text logs, and more exports of trackers."""

import json
import math

import pytest

from families.units import BadInput
from scaling.runs.readers import parse_columns, read_runs

from .nasty_foreign import MEGATRON_LOG, NANOGPT_LOG
from .trainer_logs import FAIRSEQ, FAIRSEQ_JSON, LITGPT_CSV, LOGS, NANOCHAT, TORCHTUNE

ARGUMENTS = """  seq_length ...................................... 2048
  global_batch_size ............................... 512
"""
NEOX = """  seq_length ...................... 2048........................updated
  train_batch_size ................ 1024........................updated
 samples/sec: 12.3 | iteration     1000/  143000 | elapsed time per iteration (ms): 1234.5 | lm_loss: 4.5123E+00 |
 validation results at iteration 1000 | lm_loss value: 4.4123E+00 | lm_loss_ppl value: 8.247E+01 |
 validation results at iteration 143000 | lm_loss value: 2.4123E+00 | lm_loss_ppl value: 1.1E+01 |
"""
LLM_C = "s:0 tel:11.0\ns:1 trl:11.0 lr:1e-6 norm:1\ns:250 tel:4.62\ns:500 tel:4.1\n"
MODDED = "step:0/1750 val_loss:10.8258 train_time:0ms\nstep:1750/1750 val_loss:3.28 train_time:200ms\n"


def read(tmp_path, text, columns="", name="a.log"):
    path = tmp_path / name
    path.write_text(text)
    return read_runs(path, column_names=parse_columns(columns))


@pytest.mark.parametrize(
    ("text", "columns", "rows"),
    [
        (ARGUMENTS + MEGATRON_LOG, "", [(124439808, 51200 * 2048, 3.412345, True)]),
        (MEGATRON_LOG, "n_positions=1024", [(124439808, 51200 * 1024, 3.412345, True)]),
        (NEOX, "params=1.3B", [(1.3e9, 1000 * 1024 * 2048, 4.4123, False), (1.3e9, 143000 * 1024 * 2048, 2.4123, True)]),
        (NANOGPT_LOG, "", [(124373760, 500 * 491520, 3.912, True)]),
        (LLM_C, "params=124M,batch_tokens=524288", [(124e6, 250 * 524288, 4.62, False), (124e6, 500 * 524288, 4.1, True)]),
        (MODDED, "params=124M,batch_tokens=393216", [(124e6, 1750 * 393216, 3.28, True)]),
    ],
)  # fmt: skip
def test_tokens_of_a_text_log_follow_from_its_own_numbers_or_those_given(text, columns, rows, tmp_path):
    found = read(tmp_path, text, columns)
    assert [(run.params, run.tokens, run.loss, run.annealed) for run in found] == rows
    assert {run.run for run in found} == {"a"}


def test_a_log_says_what_it_lacks_and_what_supplies_it(tmp_path):
    with pytest.raises(
        BadInput,
        match=r"no column tokens; it has .*batch.*n_positions=2048 makes them steps × batch × context",
    ):
        read(tmp_path, MEGATRON_LOG)
    with pytest.raises(BadInput, match="--columns params=124M gives that of every row"):
        read(tmp_path, NEOX)
    with pytest.raises(BadInput, match="is no log that is known here"):
        read(tmp_path, "[INFO] starting\n[INFO] done\n")


def test_counted_tokens_win_and_training_losses_are_named(tmp_path):
    line = " iteration 100/ 200 | consumed samples: 256 | consumed tokens: 52428800 | lm loss: 6.5E+00 |\n"
    found = read(tmp_path, ARGUMENTS + line, "params=345M")
    assert [run.tokens for run in found] == [52428800]
    assert any("training losses alone" in note for note in found.warnings)


def test_parameters_of_some_ranks_are_not_those_of_the_model(tmp_path):
    text = "  tensor_model_parallel_size ............ 4\n" + ARGUMENTS + MEGATRON_LOG
    with pytest.raises(BadInput, match="no column params"):
        read(tmp_path, text)
    assert any("1 of 4 ranks" in note for note in read(tmp_path, text, "params=500M").warnings)


def test_a_users_tokens_per_step_serve_where_a_trainer_counts_none(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    state = {"log_history": [{"step": 100, "eval_loss": 3.5}], "max_steps": 100}
    (folder / "trainer_state.json").write_text(json.dumps(state))
    (run,) = read_runs(folder, column_names=parse_columns("params=124M,batch_tokens=0.5M"))
    assert (run.params, run.tokens, run.annealed) == (124e6, 5e7, True)


@pytest.mark.parametrize("trainer", LOGS)
def test_a_public_trainers_log_gives_its_sizes_and_losses_in_nats(trainer, tmp_path):
    text, columns, rows = LOGS[trainer]
    found = read(tmp_path, text, columns)
    assert [(run.params, run.tokens, run.loss, run.annealed, run.eval_set) for run in found] == [
        (n, d, pytest.approx(loss), *rest) for n, d, loss, *rest in rows
    ]


@pytest.mark.parametrize(
    ("loss", "ppl", "nats", "said"),
    [
        ("4.000", "16", 4 * math.log(2), "in bits (base 2)"),
        ("2.773", "16", 2.773, ""),  # of a fork in nats
        ("5.250", "16", 4 * math.log(2), "the log's loss holds other terms"),
    ],
)
def test_a_loss_of_fairseq_is_in_the_base_of_its_perplexity(tmp_path, loss, ppl, nats, said):
    found = read(tmp_path, FAIRSEQ.replace("loss 4.000 | ppl 16", f"loss {loss} | ppl {ppl}"))
    assert found.L.min() == pytest.approx(nats, abs=2e-3)
    assert said in " ".join(found.warnings)


def test_what_a_trainers_log_means_by_its_loss_is_said(tmp_path):
    notes = " ".join(read(tmp_path, FAIRSEQ_JSON).warnings)
    assert "base 2" in notes
    assert "nll_loss" in notes
    assert any("bits per byte, not read" in note for note in read(tmp_path, NANOCHAT).warnings)
    with pytest.raises(BadInput, match="params=124M,batch_tokens=524288"):
        read(tmp_path, TORCHTUNE)


def test_bits_per_byte_alone_are_refused_with_what_makes_nats_of_them(tmp_path):
    report = "## Base\n- Number of parameters: 5,000\n- Number of training tokens: 90,000\n- Minimum validation bpb: 0.8\n"
    with pytest.raises(BadInput, match="bits per byte × ln 2 × bytes per token"):
        read(tmp_path, report, name="report.md")


def test_litgpts_metrics_have_the_tokens_of_all_devices_and_one_run(tmp_path):
    folder = tmp_path / "out" / "tiny" / "logs" / "csv" / "version_0"
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text(LITGPT_CSV)
    found = read_runs(folder / "metrics.csv", column_names={"params": "1.1B"})
    assert [(run.run, run.tokens, run.loss, run.annealed) for run in found] == [
        ("tiny", 800 * 65536, 4.5123, False),
        ("tiny", 524288000, 3.1123, True),
    ]


EXPORTS = {  # header and row by tracker; 0 is the number of the run, 1 its parameters, 2 its tokens, 3 its loss
    "Neptune": (
        "sys/id,sys/name,sys/state,parameters/n_params,metrics/eval/loss,metrics/train/loss,metrics/tokens",
        "P-{0},r{0},Inactive,{1},{3},9,{2}",
    ),
    "Comet": (
        "Name,Experiment Key,Duration,eval_loss,train_loss,n_params,tokens_seen",
        "r{0},k{0},1:00,{3},9,{1},{2}",
    ),
    "DVC": (
        "Experiment,rev,typ,Created,eval_loss,tokens_seen,train.n_params",
        ",r{0},branch_commit,2026-01-0{0},{3},{2},{1}",
    ),
    "LLM Foundry": (
        "Name,State,time/token,metrics/eval/LanguageCrossEntropy,loss/train/total,n_params",
        "r{0},finished,{2},{3},9,{1}",
    ),
    "Levanter": (
        "Name,State,throughput/total_tokens,eval/paloma/c4_en/loss,eval/loss,train/loss,parameter_count",
        "r{0},finished,{2},9,{3},9,{1}",
    ),
    "OLMo": (
        "Name,State,throughput/total_tokens,eval/c4_en-validation/CrossEntropyLoss,train/CrossEntropyLoss,model/num_params",
        "r{0},finished,{2},{3},9,{1}",
    ),
}


@pytest.mark.parametrize("tracker", EXPORTS)
def test_exports_of_more_trackers_need_no_columns_named(tracker, tmp_path):
    header, row = EXPORTS[tracker]
    sizes = [(n, 1e7 * 2**n, 2e8 * 2**n, 5 - n / 4) for n in range(4)]
    path = tmp_path / "export.csv"
    path.write_text("\n".join([header, *(row.format(*size) for size in sizes)]) + "\n")
    found = read_runs(path)
    assert [(run.run, run.params, run.tokens, run.loss) for run in found] == [
        (f"r{n}", *rest) for n, *rest in sizes
    ]

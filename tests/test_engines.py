"""Members handed to engines of others, and their runs taken back.

The schedule and the shards were also read by megatron-core 0.16.1 and nemo-automodel 0.7.0 themselves (docs/log.md);
tests/test_megatron.py runs Megatron-LM.
"""

import json
import math
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from families.units import BadInput
from scaling.files import sha256_file
from scaling.runs.readers import read_runs
from scaling.schedule import Schedule
from train.config import TrainConfig
from train.emitting import emit_files, job_of_config, parse_targets
from train.engines import ingest, megatron
from train.engines.contract import Contract, schedule_of
from train.engines.shards import MEGATRON_HEADER

from . import tiny

GOLDEN = Path(__file__).with_name("golden")
KEYS = {
    "family": "tiny", "data": "x", "tokens": "40k", "batch_size": 8, "lr": 1e-2, "warmup": 15, "micro_batch": 4,
    "device": "cpu", "dtype": "bf16", **tiny.SHAPE,
}  # fmt: skip


def job_of(study, **keys):
    job = job_of_config(TrainConfig.model_validate({**KEYS, **keys}), ("family=tiny",), None)
    return replace(job, study=study)


def emitted(target, study, **keys):
    return emit_files(job_of(study, **keys), parse_targets(target))[target]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    tiny.text_in(folder)
    return folder


def tokens(study):
    return np.fromfile(study / "data" / "train-00000.bin", dtype=np.uint16)


@pytest.mark.parametrize(("target", "file"), [("megatron", "megatron.sh"), ("automodel", "automodel.yaml")])
def test_the_files_of_a_target_are_the_golden_ones(target, file, study):
    assert emitted(target, study).files[file] == (GOLDEN / file).read_text(encoding="utf-8")


def test_context_parallelism_and_uneven_stages_are_in_an_engines_arguments(study):
    job = job_of(study)
    (run,) = job.runs
    member = run.member.model_copy(update={"pipeline": 2, "context_parallel": 2, "shards": 2, "n_layer": 3})
    planned = replace(run, planned=member, spec=member.spec)
    words = megatron.arguments(replace(job, runs=(planned,), devices=4), planned)
    assert words["--context-parallel-size"] == 2
    assert (
        words["--pipeline-model-parallel-layout"] == "Et*2|t*1L"
    )  # as docs of Megatron Core write it: Et*16|t*12,L
    assert "--context-parallel-size" not in megatron.arguments(job, run)


def rate_of_theirs(words, step):
    """Learning rate of step `step`, from 0, as Megatron's OptimizerParamScheduler (core 0.16) and AutoModel's copy say."""
    warm, peak, until = words["--lr-warmup-iters"], words["--lr"], words["--lr-decay-iters"]
    if warm and step <= warm:
        return words["--lr-warmup-init"] + (peak - words["--lr-warmup-init"]) * step / warm
    if step > until:
        return words["--min-lr"]
    if words["--lr-decay-style"] == "cosine":
        return peak * 0.5 * (math.cos(math.pi * (step - warm) / (until - warm)) + 1)
    begins = until - words["--lr-wsd-decay-iters"]
    if step <= begins:
        return peak
    share = (step - begins) / words["--lr-wsd-decay-iters"]
    return peak * (1 - share if words["--lr-wsd-decay-style"] == "linear" else 1 - math.sqrt(share))


@pytest.mark.parametrize(
    "keys",
    [{}, {"cooldown_shape": "1-sqrt", "cooldown": 0.4}, {"warmup": 0}, {"warmup": 1}, {"schedule": "cosine"}],
)
def test_their_learning_rate_is_ours_at_every_step(keys, study):
    (run,) = job_of(study, **keys).runs
    ours, words = schedule_of(run), megatron.schedule_words(run)
    assert [rate_of_theirs(words, step) for step in range(ours.steps)] == pytest.approx(
        [ours.lr(step) for step in range(ours.steps)], abs=1e-15
    )


@pytest.mark.parametrize(
    ("degrees", "exported"),
    [
        ({}, False),
        ({"tensor": 2}, True),
        ({"context_parallel": 2}, True),
        ({"tensor": 2, "shards": 2}, False),
    ],
)
def test_megatrons_connections_are_one_where_its_parser_asks_for_it(degrees, exported, study):
    job = job_of(study)
    run = replace(job.runs[0], planned=job.runs[0].planned.model_copy(update=degrees))
    script = megatron.script(megatron.arguments(job, run), job)
    assert ("export CUDA_DEVICE_MAX_CONNECTIONS=1\n" in script) == exported


def test_the_token_shards_hold_the_tokens_of_the_study(study, tmp_path):
    for target, size in (("megatron", 0), ("automodel", 1024)):
        found = emitted(target, study)
        for name, shard in found.shards.items():
            shard.write(tmp_path / target / name)
        contract = json.loads(found.files["contract.json"])
        assert contract["data"] == {name: sha256_file(tmp_path / target / name) for name in found.shards}
        held = (tmp_path / target / "data" / "train-00000.bin").read_bytes()
        assert np.array_equal(np.frombuffer(held[size:], dtype=np.uint16), tokens(study))
    header = np.frombuffer(held[:1024], dtype="<i4")
    assert header[:4].tolist() == [278895051, 1, len(tokens(study)), 2]
    index = (tmp_path / "megatron" / "data" / "train-00000.idx").read_bytes()
    assert index.startswith(MEGATRON_HEADER)
    version, code, sequences, documents = struct.unpack_from("<QBQQ", index, 9)
    lengths = np.frombuffer(index, dtype=np.int32, count=sequences, offset=34)
    assert (version, code, documents, lengths.sum()) == (1, 8, 2, len(tokens(study)))


@pytest.mark.parametrize(
    ("target", "keys", "message"),
    [
        ("megatron", {"optimizer": "adafactor"}, "optimizer is adafactor; --to megatron cannot express it"),
        ("automodel", {"dropout": 0.1}, "dropout is 0.1; --to automodel cannot express it"),
        ("automodel", {"dtype": "fp16"}, "dtype is fp16; --to automodel takes bf16 and fp32"),
        (
            "megatron",
            {"family": "bert-mini", **dict.fromkeys(tiny.SHAPE), "n_positions": 32, "batch_size": 8},
            "architecture bert; --to megatron takes gpt2 and llama",
        ),
    ],
)
def test_what_an_engine_cannot_express_is_refused_or_listed(target, keys, message, study):
    with pytest.raises(BadInput, match=message):
        emitted(
            target,
            study,
            **{key: value for key, value in keys.items() if value is not None or key in tiny.SHAPE},
        )


def test_what_it_does_otherwise_is_in_the_contract_with_its_effect(study):
    contract = Contract.parse(
        emitted("automodel", study, rungs="20k,40k").files["contract.json"], "contract.json"
    )
    assert [gap.field for gap in contract.gaps] == ["seed", "rungs", "batches", "weight_decay"]
    assert all(gap.effect for gap in contract.gaps)


# Back


@pytest.fixture(scope="module")
def contract(study):
    return Contract.parse(emitted("megatron", study).files["contract.json"], "contract.json")


def rate(contract, step):
    schedule = Schedule(
        peak=contract.lr,
        warmup=contract.warmup_steps,
        steps=contract.steps,
        cooldown_steps=contract.cooldown_steps,
    )
    return schedule.lr(step)


def megatron_log(contract, *, steps=None, batch=8, params=None, total=None, lr=1.0, ranks="tensor, pipeline"):
    """Lines as Megatron prints them."""
    lines = [
        f" > number of parameters on ({ranks}) model parallel rank ({', '.join('0' for _ in ranks.split())}): "
        f"{contract.padded_params if params is None else params}"
    ]
    for step in range(1, (steps or contract.steps) + 1):
        lines.append(
            f" [2026-11-30 10:00:00] iteration {step:8}/{total or contract.steps:8} | consumed samples: {step * batch:12} | "
            f"elapsed time per iteration (ms): 12.3 | learning rate: {lr * rate(contract, step - 1):.6E} | "
            f"global batch size: {batch:5} | lm loss: {6 - step / 100:.6E} | loss scale: 1.0 | grad norm: 0.5 |"
        )
    return "\n".join(lines) + "\n"


def automodel_log(contract):
    """AutoModel's training.jsonl."""
    rows = [
        {"step": step, "epoch": 0, "loss": 6 - (step + 1) / 100, "lr": rate(contract, step),
         "num_label_tokens": contract.batch_tokens}
        for step in range(contract.steps)
    ]  # fmt: skip
    return "".join(json.dumps(row) + "\n" for row in rows)


def wandb_export(contract):
    """A chart of W&B as CSV."""
    rows = [f"{step},{6 - step / 100}" for step in range(1, contract.steps + 1)]
    return "\n".join(['"Step","run - lm loss"', *rows]) + "\n"


def test_a_step_that_is_no_count_is_no_point(contract, tmp_path):
    """Found by tests.nasty: NaN, 1e5000 and integers of 400 digits left as OverflowError."""
    steps = ["NaN", '"1e5000"', "9" * 400, "99999999999999999999", "4"]
    lines = [f'{{"step": {step}, "loss": 3.0, "lr": 0.001, "num_label_tokens": 8}}\n' for step in steps]
    (tmp_path / "training.jsonl").write_text("".join(lines))
    assert list(ingest.read_log(tmp_path / "training.jsonl", contract).points) == [4]


@pytest.mark.parametrize(
    ("name", "write"),
    [("out.log", megatron_log), ("training.jsonl", automodel_log), ("chart.csv", wandb_export)],
)
def test_a_log_becomes_rows_that_are_annealed_only_at_the_end(name, write, contract, tmp_path):
    (tmp_path / name).write_text(write(contract))
    log = ingest.read_log(tmp_path / name, contract)
    ingest.check(log, contract)
    rows = ingest.runs_of(log, contract, None)
    assert rows[-1].tokens == contract.tokens
    assert rows[-1].loss == pytest.approx(6 - contract.steps / 100)
    assert [row.annealed for row in rows] == [False] * (len(rows) - 1) + [True]
    assert {row.eval_set for row in rows} == {"training loss of megatron"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 16}, "batches of 16 sequences; the contract says 8"),
        ({"total": 999}, "the log is of 999 steps; the contract says 156"),
        ({"params": 12345}, r"12345\); the contract says 36096"),
        ({"lr": 2.0}, "the learning rate is .* the contract's schedule says"),
    ],
)
def test_a_log_of_another_run_is_refused(change, message, contract, tmp_path):
    (tmp_path / "out.log").write_text(megatron_log(contract, **change))
    with pytest.raises(BadInput, match=message):
        ingest.check(ingest.read_log(tmp_path / "out.log", contract), contract)


@pytest.mark.parametrize("ranks", ["tensor, pipeline", "tensor, gtp_remat, pipeline"])  # core 0.16, and 0.19
def test_the_parameters_of_each_version_of_megatron_are_counted(ranks, contract, tmp_path):
    (tmp_path / "out.log").write_text(megatron_log(contract, ranks=ranks, params=12345))
    with pytest.raises(BadInput, match="12345"):
        ingest.check(ingest.read_log(tmp_path / "out.log", contract), contract)


def test_padding_of_the_vocabulary_is_in_the_contract_where_there_is_any(study):
    gaps = [
        [
            gap.field
            for gap in Contract.parse(emitted("megatron", study, **keys).files["contract.json"], "c").gaps
        ]
        for keys in ({}, {"vocab_size": 384})
    ]
    assert gaps == [["seed", "vocab_size"], ["seed"]]


def test_a_run_that_was_cut_short_has_no_annealed_loss(contract, tmp_path):
    (tmp_path / "out.log").write_text(megatron_log(contract, steps=20))
    log = ingest.read_log(tmp_path / "out.log", contract)
    assert any("ends at step 20 of 156" in note for note in ingest.check(log, contract))
    assert not any(row.annealed for row in ingest.runs_of(log, contract, None))


def test_the_command_adds_the_score_of_validate_to_the_study(contract, cli, tmp_path):
    (tmp_path / "out.log").write_text(megatron_log(contract))
    contract.write(tmp_path / "contract.json")
    score = {"parameters": contract.params, "loss": 4.5, "loss_se": 0.01, "eval_set": "heldout-1"}
    (tmp_path / "score.json").write_text(json.dumps(score))
    words = ("ingest", "out.log", "--contract", "contract.json", "--study", "study", "--json")
    done = cli(*words, "--score", "score.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (run,) = read_runs(tmp_path / "study" / "runs.jsonl").runs
    assert (run.loss, run.loss_se, run.eval_set, run.annealed) == (4.5, 0.01, "heldout-1", True)
    assert run.flops == contract.tokens * contract.flops_per_token
    with pytest.raises(BadInput, match="the score is of a model of 7 parameters"):
        ingest.runs_of(ingest.read_log(tmp_path / "out.log", contract), contract, {**score, "parameters": 7})

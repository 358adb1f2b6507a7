"""Members trained by Megatron-LM itself, on a CPU: megatron-core 0.19 or later, which needs Python 3.12.

pip install "megatron-core>=0.19" && pytest -m "slow or not slow" tests/test_megatron.py
"""

import importlib.util
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scaling.runs.readers import read_runs
from train.config import TrainConfig
from train.emitting import emit_files, job_of_config, parse_targets
from train.engines.contract import schedule_of

from . import tiny


def has_megatron():
    try:
        return importlib.util.find_spec("megatron.training") is not None
    except ModuleNotFoundError:
        return False


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not has_megatron(), reason="megatron-core 0.19 is not installed"),
]

# The vocabulary is a multiple of 128, for Megatron's softmax covers its padding too.
KEYS = {
    "family": "tiny", "data": "x", "tokens": 8192, "batch_size": 8, "lr": 3e-3, "warmup": 6, "micro_batch": 4,
    "device": "cpu", "dtype": "fp32", "compile": False, **tiny.SHAPE, "vocab_size": 384,
}  # fmt: skip

# What a CPU cannot do as a GPU does, and fewer evaluations; the last value of an option counts.
ON_CPU = shlex.split(
    "--transformer-impl local --distributed-backend gloo --no-gradient-accumulation-fusion --no-persist-layer-norm "
    "--use-cpu-initialization --num-workers 0 --eval-iters 1 --eval-interval 1000 --save-interval 1000"
)


def words_of(script):
    """The arguments of pretrain_gpt.py in an emitted script, as its shell would pass them."""
    _, _, options = script.partition('pretrain_gpt.py" \\\n')
    return shlex.split(options.replace("\\\n", " "))


def job_of(study, degrees=None, **keys):
    """A job of the keys; its run at degrees of parallelism, which a plan alone gives."""
    asked = {key: value for key, value in {**KEYS, **keys}.items() if value is not None}
    job = job_of_config(TrainConfig.model_validate(asked), ("family=tiny",), None)
    if degrees is not None:
        (run,) = job.runs
        job = replace(job, runs=(replace(run, planned=run.planned.model_copy(update=degrees)),))
    return replace(job, study=study)


def written(job, folder):
    """The files of a job in a folder; the arguments."""
    found = emit_files(job, parse_targets("megatron"))["megatron"]
    for name, text in found.files.items():
        (folder / name).write_text(text)
    for name, shard in found.shards.items():
        shard.write(folder / name)
    return words_of(found.files["megatron.sh"])


def in_megatron(program, arguments, folder):
    """Run a program with arguments where megatron-core is installed; its output."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    environment = {
        **os.environ,
        "TORCHDYNAMO_DISABLE": "1",
        "OMP_NUM_THREADS": "1",
        "WORLD_SIZE": "1",
        **place,
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *program, *arguments], cwd=folder, env=environment, timeout=500,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A study's folder, and its text."""
    folder = tmp_path_factory.mktemp("study")
    return folder, tiny.text_in(folder, vocab_size=384)


def test_megatrons_own_training_logs_the_losses_of_ours_and_comes_back_scored(prepared, cli, tmp_path):
    import torch
    from safetensors.torch import load_file

    from train.loop import start, train_step

    study, text = prepared
    job = job_of(study)
    words = written(job, tmp_path)
    log = in_megatron([str(Path(__file__).with_name("megatron_on_cpu.py"))], [*words, *ON_CPU], tmp_path)
    theirs = [float(loss) for loss in re.findall(r"lm loss: (\S+) \|", log)]

    weights = load_file(tmp_path / "first.safetensors")
    session = start(tiny.settings(text, **KEYS), "cpu", weights=weights)
    schedule = schedule_of(job.runs[0])
    windows = np.load(tmp_path / "windows.npy").reshape(schedule.steps, KEYS["batch_size"], -1)
    ours = [
        float(train_step(session, torch.from_numpy(batch.astype(np.int64)), schedule.lr(step))[0])
        for step, batch in enumerate(windows)
    ]
    # Its log does not forget the first step's loss before it prints the second's: that line is their mean.
    assert theirs == pytest.approx([ours[0], sum(ours[:2]) / 2, *ours[2:]], abs=1e-4)

    (tmp_path / "out.log").write_text(log)
    (tmp_path / "last.safetensors").rename(tmp_path / "model.safetensors")
    shutil.copy(study / "data" / "tokenizer.json", tmp_path)
    score = cli("validate", ".", "--data", str(study / "data"), "--json", cwd=tmp_path)
    assert score.returncode == 0, score.stderr
    (tmp_path / "score.json").write_text(score.stdout)
    came = cli(
        "ingest",
        "out.log",
        "--contract",
        "contract.json",
        "--score",
        "score.json",
        "--study",
        "back",
        cwd=tmp_path,
    )
    assert came.returncode == 0, came.stderr
    assert "does not say" not in came.stderr
    (row,) = read_runs(tmp_path / "back" / "runs.jsonl").runs
    assert row.loss == pytest.approx(json.loads(score.stdout)["loss"])
    assert row.annealed
    assert row.params == sum(weight.numel() for weight in session.model.parameters())


CHECKED = """
import contextlib, io, json, os, sys, torch
torch.cuda.get_device_properties = lambda *_: type("", (), {"major": 9, "minor": 0})
from megatron.training.arguments import parse_args, validate_args
for name, (world, exported, words) in json.loads(sys.argv.pop()).items():
    sys.argv[1:] = words
    os.environ.pop("CUDA_DEVICE_MAX_CONNECTIONS", None)
    os.environ.update(exported)
    with contextlib.redirect_stdout(io.StringIO()):
        args = parse_args()
        args.world_size = world
        validate_args(args)
    print(name, args.data_parallel_size, args.lr_decay_style)
"""


def test_its_parser_takes_the_arguments_of_every_kind_of_member(prepared, tmp_path):
    study, _ = prepared
    kinds = {
        "wsd": {},
        "1-sqrt": {"cooldown_shape": "1-sqrt"},
        "cosine": {"schedule": "cosine"},
        "bf16": {"dtype": "bf16", "checkpointing": True},
        "fp16": {"dtype": "fp16"},
        "sharded": {"dtype": "bf16", "devices": 8, "zero": 3, "device": "auto", "micro_batch": 1},
        "llama": {
            **dict.fromkeys(tiny.SHAPE),
            "family": "llama-3.2-1b",
            "n_positions": 2048,
            "tokens": "10M",
        },
    }
    large = {**kinds["llama"], "dtype": "bf16", "devices": 8, "device": "auto", "micro_batch": 1}
    kinds |= {
        "tensor": {**large, "degrees": {"tensor": 2, "shards": 4}},
        "pipeline": {**large, "degrees": {"pipeline": 4, "shards": 2}},
        "uneven": {**large, "n_layer": 6, "degrees": {"tensor": 2, "pipeline": 4}},
        "context": {**large, "degrees": {"context_parallel": 2, "shards": 8}},
    }
    asked = {}
    for name, keys in kinds.items():
        job = job_of(study, **keys)
        words = written(job, tmp_path)
        exported = dict(re.findall(r"^export (\w+)=(\w+)$", (tmp_path / "megatron.sh").read_text(), re.M))
        asked[name] = job.devices, exported, words
    answer = in_megatron(["-c", CHECKED], [json.dumps(asked)], tmp_path)
    assert [name for name in kinds if not re.search(rf"^{name} ", answer, re.M)] == [], answer

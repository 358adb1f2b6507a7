"""A member trained by NeMo AutoModel itself, on a CPU: nemo-automodel 0.7, installed or in a folder of its own.

The folder, $AUTOMODEL_PACKAGES, holds what `.ci/run` installs there: no dependencies that training on a CPU does not import.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from scaling.runs.readers import read_runs
from train.emitting import emit_files, parse_targets
from train.engines.contract import schedule_of

from . import tiny
from .test_megatron import KEYS, job_of

PACKAGES = os.environ.get("AUTOMODEL_PACKAGES", "")
INSTALLED = (
    importlib.util.find_spec("nemo_automodel") is not None or Path(PACKAGES, "nemo_automodel").is_dir()
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not INSTALLED, reason="nemo-automodel is not installed, nor in $AUTOMODEL_PACKAGES"),
]


def test_automodels_own_training_logs_the_losses_of_ours_and_comes_back_scored(cli, tmp_path):
    import torch
    from safetensors.torch import load_file

    from train.loop import start, train_step

    study, folder = tmp_path / "study", tmp_path / "engine"
    study.mkdir()
    folder.mkdir()
    text = tiny.text_in(study, vocab_size=KEYS["vocab_size"])
    # Its AdamW decays norms and biases too, as the contract's gap says: without decay both are one.
    job = job_of(study, weight_decay=0)
    found = emit_files(job, parse_targets("automodel"))["automodel"]
    for name, content in found.files.items():
        (folder / name).write_text(content)
    for name, shard in found.shards.items():
        shard.write(folder / name)

    paths = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), PACKAGES)))
    environment = {**os.environ, "TORCHDYNAMO_DISABLE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(Path(__file__).with_name("automodel_on_cpu.py")), "automodel.yaml"], cwd=folder,
        env=environment, timeout=500, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    log = folder / "checkpoints" / "training.jsonl"
    theirs = [json.loads(line)["loss"] for line in log.read_text().splitlines()]

    weights = load_file(folder / "first.safetensors")
    session = start(tiny.settings(text, **{**KEYS, "weight_decay": 0}), "cpu", weights=weights)
    schedule = schedule_of(job.runs[0])
    windows = np.load(folder / "windows.npy").reshape(schedule.steps, KEYS["batch_size"], -1)
    ours = [
        float(train_step(session, torch.from_numpy(batch.astype(np.int64)), schedule.lr(step))[0])
        for step, batch in enumerate(windows)
    ]
    assert theirs == pytest.approx(ours, abs=1e-5)

    exported = (
        next((folder / "checkpoints").glob(f"epoch_*_step_{schedule.steps - 1}")) / "model/consolidated"
    )
    shutil.copy(study / "data" / "tokenizer.json", exported)
    score = cli("validate", str(exported), "--data", str(study / "data"), "--json", cwd=folder)
    assert score.returncode == 0, score.stderr
    (folder / "score.json").write_text(score.stdout)
    back = ("--contract", "contract.json", "--score", "score.json", "--study", "back")
    came = cli("ingest", str(log), *back, cwd=folder)
    assert came.returncode == 0, came.stderr
    (row,) = read_runs(folder / "back" / "runs.jsonl").runs
    assert row.loss == pytest.approx(json.loads(score.stdout)["loss"])
    assert row.annealed
    assert row.params == sum(weight.numel() for weight in session.model.parameters())

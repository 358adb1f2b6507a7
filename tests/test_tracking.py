"""What a run says while it goes: events that TensorBoard reads, and a line with speed and a named peak."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.proto.event_pb2 import SessionLog
from tensorboard.util.tensor_util import make_ndarray

from families import accounting, member
from families.units import BadInput
from scaling.cli.output import fitted
from scaling.hardware import accelerator
from scaling.runs.events import read_scalars
from scaling.runs.readers import read_runs
from train import metrics as pace_file
from train.metrics import PeakFlops, Scalars, device_name, metrics_writer, peak_of, throughput_text
from train.rung import RungFile

from .tiny import SMALLER, words, write_corpus

SHAPE = words(**SMALLER, batch_size=4)


# TensorBoard


def test_tensorboards_own_loader_reads_what_is_written(tmp_path):
    scalars = Scalars(tmp_path, 0)
    scalars.write({"step": 300, "loss": 2.5, "wall_s": 1.0})
    scalars.close()
    (path,) = tmp_path.iterdir()
    version, start, scalar = EventFileLoader(str(path)).Load()
    assert version.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (1, SessionLog.START)
    assert [(scalar.step, one.tag, make_ndarray(one.tensor).item()) for one in scalar.summary.value] == [
        (300, "train/loss", 2.5)
    ]


@pytest.mark.parametrize("new_style", [False, True])  # a simple value, and a tensor as TensorFlow 2 writes it
def test_what_torchs_own_writer_leaves_is_read_and_all_but_scalars_is_left_out(tmp_path, new_style):
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as theirs:
        for step in (10, 300):
            theirs.add_scalar("eval/loss", step / 8, step, new_style=new_style)
        theirs.add_text("notes", "three words here", 300)
        theirs.add_histogram("weights", np.arange(9.0), 300)
    (path,) = tmp_path.iterdir()
    assert list(read_scalars(path)) == [(10, "eval/loss", 1.25), (300, "eval/loss", 37.5)]


def test_a_file_cut_anywhere_is_a_run_under_way_and_a_damaged_one_is_refused(tmp_path):
    scalars = Scalars(tmp_path, 0)
    for step in (1, 2, 3):
        scalars.write({"step": step, "loss": float(step)})
    scalars.close()
    (path,) = tmp_path.iterdir()
    whole, every = path.read_bytes(), list(read_scalars(path))
    assert len(every) == 3
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        found = list(read_scalars(path))
        assert found == every[: len(found)]
    path.write_bytes(whole + bytes(64))  # as a power cut leaves a file that had grown
    assert list(read_scalars(path)) == every
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x81]) + whole[at + 1 :])
        with pytest.raises(BadInput, match="broken record at byte"):
            list(read_scalars(path))
    path.write_text("not an event file")
    with pytest.raises(BadInput, match="is not a TensorBoard event file: broken record at byte 0"):
        list(read_scalars(path))


@pytest.mark.parametrize(
    ("verb", "asked"),
    [
        (
            ["train", "family=tiny", "tokens=4096", *SHAPE, "data=corpus", "tensorboard=true"],
            "tensorboard is true",
        ),
        (["fit", "theirs"], "theirs/events.out.tfevents.1.host is a TensorBoard event file"),
    ],
)
def test_without_tensorboard_one_line_says_how_to_get_it_and_nothing_is_written(tmp_path, verb, asked):
    write_corpus(tmp_path / "corpus", files=20)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "events.out.tfevents.1.host").write_bytes(b"")
    before = sorted(tmp_path.rglob("*"))
    code = "import sys; sys.modules['tensorboard'] = None\nfrom scaling.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *verb, "--study", "study"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    install = "which needs TensorBoard: pip install 'scaling-planner[tensorboard]'"
    assert done.stderr == f"scaling: {asked}, {install}\n"
    assert sorted(tmp_path.rglob("*")) == before


@pytest.fixture(scope="module")
def run(tmp_path_factory, cli):
    """A run that writes TensorBoard's files."""
    place = tmp_path_factory.mktemp("tracking")
    corpus = write_corpus(place / "corpus", files=20)
    words = ["family=tiny", "tokens=4096", *SHAPE, "lr=3e-3", "warmup=3", "log_every=3", "tensorboard=true"]
    done = cli("train", *words, f"data={corpus}", "--study", "study", cwd=place)
    assert done.returncode == 0, done.stderr
    return place / "study" / "runs" / "tiny-s0", done.stderr


def test_events_hold_the_very_lines_of_metrics_and_the_rungs_own_loss(run):
    folder, _ = run
    (branch,) = folder.glob("rung-*")
    for part in (folder / "trunk", branch):
        lines = [json.loads(line) for line in (part / "metrics.jsonl").read_text().splitlines()]
        found = [scalar for path in part.glob("events.*") for scalar in read_scalars(path)]
        losses = {step: value for step, tag, value in found if tag == "train/loss"}
        assert losses == {line["step"]: pytest.approx(line["loss"], rel=1e-6) for line in lines}
    rung = RungFile.read(branch / "rung.json")
    assert (32, "eval/loss", pytest.approx(rung.observation.loss, rel=1e-6)) in found


def test_tensorboard_reads_them_and_forgets_what_a_killed_run_logged_again(tmp_path):
    for start, stop, value in ((0, 40, 1.0), (20, 60, 2.0)):  # stopped at 40, its last checkpoint was at 20
        with metrics_writer(tmp_path, start, writes=True, tensorboard=True) as log:
            for step in range(start + 10, stop + 1, 10):
                log.write("metrics.jsonl", step=step, loss=value)
        os.utime(next(iter(tmp_path.glob(f"events.*.{start}"))), (start, start))
    read = EventAccumulator(str(tmp_path))
    read.Reload()
    found = [(event.step, event.value) for event in read.Scalars("train/loss")]
    assert found == [(10, 1.0), (20, 1.0), (30, 2.0), (40, 2.0), (50, 2.0), (60, 2.0)]


def test_a_run_without_the_key_writes_no_event(tmp_path):
    with metrics_writer(tmp_path, 0, writes=True) as log:
        log.write("metrics.jsonl", step=1, loss=1.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl"]


def test_fit_reads_a_folder_of_events(run, tmp_path):
    import shutil

    folder, _ = run
    (branch,) = folder.glob("rung-*")
    shutil.copytree(branch, tmp_path / "theirs")
    (tmp_path / "theirs" / "trainer_state.json").unlink()
    (last,) = [one for one in read_runs(tmp_path / "theirs").runs if one.annealed]
    rung = RungFile.read(branch / "rung.json").observation
    assert last.loss == pytest.approx(rung.loss, rel=1e-6)
    assert (last.tokens, last.params) == (rung.tokens, rung.params)


# The progress line


def test_a_run_says_what_its_mfu_is_of(run):
    _, said = run
    assert "MFU is relative to " in said
    assert "FLOP/s: a plain fp32 matmul, measured here" in said


def test_mfu_is_exact_flops_over_the_named_peak():
    spec = member("gpt2").spec
    peak = PeakFlops(flops_per_s=accelerator("H200").training_peak, word="H200", source="")
    rate = 0.45 * peak.flops_per_s / accounting.train_flops_per_token(spec)
    assert throughput_text(spec, rate, peak) == "521k tokens/s, MFU 45% of H200"
    assert throughput_text(spec, rate, None) == "521k tokens/s"


def test_a_known_gpu_is_held_against_its_data_sheet_and_others_against_a_matmul(monkeypatch):
    monkeypatch.setattr(pace_file.torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    assert device_name("cuda", 8) == "8xNVIDIA H200"
    known = peak_of("cuda", 1e12, "bf16", 8)
    assert (known.flops_per_s, known.word) == (8 * 989e12, "H200")
    assert known.sentence.startswith("MFU is relative to 7.91e+03 TFLOP/s: 8 × H200, dense bf16")
    monkeypatch.setattr(pace_file.torch.cuda, "get_device_name", lambda: "Some New GPU")
    assert peak_of("cuda", 3e12, "bf16").flops_per_s == 3e12
    assert "measured here" in peak_of("cpu", 4.2e10, "fp32").sentence


@pytest.mark.parametrize("room", [20, 40, 80, 120])
def test_the_time_left_is_always_in_the_line(room):
    line = fitted(
        " 12%  a-long-name-s0 rung-4718592000 step 40/9000 loss 3.115, 65k tokens/s", "3 s left", room
    )
    assert len(line) <= room
    assert line.endswith("3 s left")

"""One run on several processes: what it reaches, who writes, and how it moves between process counts."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from families import ModelSpec, params
from families.units import BadInput, RunFailed
from scaling.files import first_problem
from scaling.runs.readers import read_runs
from scaling.runs.store import read_ledger
from train import parts
from train.config import Settings, TrainConfig
from train.distributed import World
from train.jobs import ranks
from train.jobs.pool import Process
from train.jobs.ranks import run_distributed
from train.model.config import build
from train.settings import planned_steps

from . import tiny
from .tiny import write_corpus
from .two import RUNGS, climb_in, run_pair

SCALING = Path(sys.executable).with_name("scaling")


def settings(text, **changes):
    return tiny.settings(text, tokens=RUNGS[-1], **changes)


@pytest.fixture(scope="module")
def cases(text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    plain, pieces, dropout = settings(text), settings(text, micro_batch=1), settings(text, dropout=0.1)
    assert run_pair(folder, plain, pieces, dropout, text) == [0, 0]
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    climb_in(folder / "one", plain, text)
    torch.set_num_threads(before)
    return folder


def metrics(folder):
    paths = sorted((folder / "run").glob("*/metrics.jsonl"))
    return [(path.parent.name, line) for path in paths for line in tiny.json_lines(path)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["z0", "z2", "z3", "pieces", "pieces3", "moved", "parts"])
def test_two_processes_log_what_one_does(name, cases):
    ours, theirs = metrics(cases / name), metrics(cases / "one")
    assert [part for part, _ in ours] == [part for part, _ in theirs]
    for (_, found), (_, expected) in zip(ours, theirs, strict=True):
        assert found.keys() == expected.keys()
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        assert found["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-4)
        assert (found["step"], found["lr"]) == (expected["step"], expected["lr"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["z0", "z2", "z3", "pieces", "moved", "parts"])
def test_their_finished_models_are_as_good_on_held_out_text(name, cases):
    for ours, theirs in zip(
        *(read_runs(cases / which / "runs.jsonl").runs for which in (name, "one")), strict=True
    ):
        assert (ours.run, ours.tokens, ours.eval_set) == (theirs.run, theirs.tokens, theirs.eval_set)
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-5)
        assert ours.loss_se == pytest.approx(theirs.loss_se, rel=1e-3)


@pytest.mark.slow
def test_a_state_in_parts_has_a_file_of_each_process_in_safetensors(cases):
    files = (cases / "parts-seen.txt").read_text().split()
    assert {name.partition("-model")[0] for name in files} == {"shard-00001", "shard-00002"}
    assert all(name.endswith(".safetensors") for name in files)


def test_a_state_is_written_in_parts_only_where_it_is_sharded_and_large(monkeypatch):
    model = torch.nn.Linear(100, 100)
    for world, bound, expected in (
        (World(size=2, zero=3), 0, True),
        (World(size=2, zero=2), 12 * 10_100 - 1, True),
        (World(size=2, zero=3), 12 * 10_100, False),
        (World(size=2, zero=0), 0, False),
        (World(size=2, zero=3, engine="deepspeed"), 0, False),
        (World(), 0, False),
    ):
        monkeypatch.setattr(parts, "GATHERED", bound)
        assert parts.in_parts(model, world) == expected


def test_a_model_without_memory_has_the_shapes_of_one_with_it():
    spec = ModelSpec(n_layer=1, n_head=2, n_embd=16, n_positions=16, vocab_size=300)
    found = build(spec, seed=0, meta=True)
    assert {weight.device.type for weight in found.parameters()} == {"meta"}
    assert sum(weight.numel() for weight in found.parameters()) == params(spec)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["z0", "z2", "z3"])
def test_the_files_of_a_run_are_those_of_one_process_and_its_ledger_too(name, cases, text):
    assert tiny.files_under(cases / name) == tiny.files_under(cases / "one")
    booked = sum(work.tokens for work in read_ledger(cases / name / "ledger.jsonl"))
    assert booked == planned_steps(settings(text), RUNGS) * settings(text).batch_tokens


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 3])
def test_two_processes_with_dropout_that_were_stopped_twice_log_every_byte_again(zero, cases):
    for part in ("trunk", *(f"rung-{rung}" for rung in RUNGS)):
        cut, whole = (
            (cases / f"{which}{zero}" / "run" / part / "metrics.jsonl").read_bytes()
            for which in ("cut", "whole")
        )
        assert cut == whole


@pytest.mark.slow
def test_the_processes_draw_dropout_of_their_own(cases, text):
    plain, dropped = metrics(cases / "z0")[0][1], metrics(cases / "whole0")[0][1]
    assert plain["loss"] != dropped["loss"]


def test_the_batch_is_shared_evenly_or_not_at_all():
    rows = list(range(12))
    parts = [World(rank=rank, size=3).part(rows) for rank in range(3)]
    assert [*parts[0], *parts[1], *parts[2]] == rows
    assert {len(part) for part in parts} == {4}
    with pytest.raises(BadInput, match="batch_size is 8; it must be a multiple of the 3 processes"):
        World(size=3).local(8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"zero": "1"}, "engine=deepspeed"),
        ({"zero": "4"}, "0, 1, 2 or 3"),
        ({"devices": 3, "batch_size": 4}, "devices=3 must divide it"),
        ({"devices": 0}, "greater than or equal to 1"),
    ],
)
def test_a_wrong_stage_or_count_is_one_clear_line(change, message):
    from pydantic import ValidationError

    with pytest.raises(ValidationError) as caught:
        TrainConfig.model_validate({"family": "gpt2-52m", "data": "x", "tokens": "100k", **change})
    assert message in first_problem(caught.value)


def workers_of(parent):
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = dict(
                part.split(b"=", 1) for part in (folder / "environ").read_bytes().split(b"\0") if b"=" in part
            )
        except OSError:
            continue
        if environment.get(b"SCALING_PARENT") == str(parent).encode():
            found[int(environment[b"RANK"])] = int(folder.name)
    return found


@pytest.mark.slow
def test_a_killed_process_ends_the_job_in_one_line_and_the_same_command_goes_on(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", files=20)
    (tmp_path / "work").mkdir()
    for name in ("train", "plots", "scaling", "families", "torch"):
        (tmp_path / "work" / f"{name}.py").write_text('raise SystemExit("a file of the folder was run")\n')
    words = [
        "train", "family=tiny", "tokens=20k", *tiny.words(**tiny.SHAPE), "batch_size=4", "lr=3e-3",
        f"data={corpus}", "dropout=0.1", "save_every=0.2", "devices=2", "--json",
    ]  # fmt: skip

    def begin(out):
        return subprocess.Popen(
            [SCALING, *words, f"out={out}"], cwd=tmp_path / "work", stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    whole = begin("whole")
    cut = begin("cut")
    trunk = tmp_path / "work" / "cut" / "trunk"
    while not list(trunk.glob("step-*")):
        assert cut.poll() is None, cut.stderr.read()
        time.sleep(0.05)
    os.kill(workers_of(cut.pid)[1], signal.SIGKILL)
    _, errors = cut.communicate(timeout=60)
    assert cut.returncode == 1
    assert "process 1 of 2 was killed by SIGKILL" in errors.splitlines()[-1]
    assert "Traceback" not in errors
    again = begin("cut")
    found, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    expected, _ = whole.communicate(timeout=120)
    assert json.loads(found)["rungs"][0]["loss"] == json.loads(expected)["rungs"][0]["loss"]
    for part in ("trunk", "rung-19968"):
        one, other = (tmp_path / "work" / out / part / "metrics.jsonl" for out in ("cut", "whole"))
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.slow
def test_processes_whose_parent_is_killed_save_and_end_and_the_same_command_goes_on(begin, tmp_path):
    corpus = write_corpus(tmp_path / "corpus", files=20)
    words = [
        "train", "family=tiny", "tokens=60k", *tiny.words(**tiny.SHAPE), "batch_size=4", "lr=3e-3", f"data={corpus}",
        "save_every=1000", "log_every=5", "devices=2", "--json", f"out={tmp_path / 'run'}",
    ]  # fmt: skip
    killed = begin(*words, OMP_NUM_THREADS="1")
    metrics = tmp_path / "run" / "trunk" / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text().count("\n") > 2):
        assert killed.poll() is None
        time.sleep(0.05)
    killed.kill()
    deadline = time.monotonic() + 30
    while workers_of(killed.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not workers_of(killed.pid)
    assert len(list((tmp_path / "run" / "trunk").glob("step-*/checkpoint.json"))) == 1
    done = begin(*words, OMP_NUM_THREADS="1")
    assert done.wait(120) == 0, done.communicate()
    work = read_ledger(tmp_path / "run" / "ledger.jsonl")
    assert work[0].to_step > 0
    assert [entry.from_step for entry in work[1:]] == [entry.to_step for entry in work[:-1]]


@pytest.mark.parametrize(
    ("codes", "outcome"),
    [
        ((0, 0), None),
        ((-15, 75), KeyboardInterrupt),  # a signal that was passed on before the process could hear it
        ((130, 1), None),
        ((-9, 75), RunFailed),
        ((0, 75), RunFailed),
    ],
)
def test_how_the_processes_ended_is_how_the_command_ends(codes, outcome):
    ended = [Process(SimpleNamespace(poll=lambda code=code: code)) for code in codes]
    if outcome is None:
        assert ranks._status(ended, {signal.SIGTERM}) == codes[0]
        return
    with pytest.raises(outcome, match="resume from the last checkpoint"):
        ranks._status(ended, {signal.SIGTERM})


SCARCE = """
import torch
from train.model.objective import Causal

honest = Causal.losses

def losses(self, model, examples):
    if model.training and len(examples) > 1 and RANK == 1:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
    return honest(self, model, examples)

Causal.losses = losses
"""


@pytest.mark.slow
def test_a_process_that_runs_out_of_memory_lowers_the_micro_batch_of_all_and_the_batch_stays(
    tmp_path, monkeypatch
):
    corpus = write_corpus(tmp_path / "corpus", files=20)
    asked = {"tokens": "2k", "batch_size": 4, "lr": 3e-3, "data": str(corpus), "log_every": 1}
    tiny.trained(tmp_path / "one", **asked)
    expected = tiny.json_lines(tmp_path / "one" / "runs" / "tiny-s0" / "trunk" / "metrics.jsonl")
    words = ["train", "family=tiny", *tiny.words(**tiny.SHAPE, **asked), f"out={tmp_path / 'run'}"]
    heard = []
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    rank = "RANK = int(__import__('os').environ['RANK'])"
    monkeypatch.setattr(ranks, "_START", f"{rank}\n{SCARCE}\n{ranks._START}")
    assert run_distributed(words, 2, heard.append) == 0  # what `devices=2` calls
    (said,) = heard
    assert re.findall(r"\d+", said.partition("micro_batch")[2])[:2] == ["4", "1"]
    assert Settings.read(tmp_path / "run" / "run.json").micro_batch == 1
    found = tiny.json_lines(tmp_path / "run" / "trunk" / "metrics.jsonl")
    assert [line["tokens"] for line in found] == [line["tokens"] for line in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)

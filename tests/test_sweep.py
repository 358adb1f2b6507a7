"""Sweeps and ablations: every combination once, under names of its own, the best of each cell marked."""

import json

import pytest

from families.units import BadInput
from scaling.cli.run_options import merge
from scaling.cli.train import rung_table
from scaling.runs.readers import read_runs
from train.config import TrainConfig
from train.jobs.grid import expand
from train.jobs.sweep import entries, side_by_side, train_many, winners
from train.lease import Stop

from .tiny import write_corpus

WORDS = (
    "family=tiny",
    "data=x",
    "tokens=2048",
    "n_layer=1",
    "n_head=2",
    "n_embd=16",
    "n_positions=16",
    "vocab_size=300",
)


def asked(*words):
    """The runs of a command; a word of the test's stands before the usual one of its key."""
    keys = {word.partition("=")[0] for word in words}
    usual = [word for word in WORDS if word.partition("=")[0] not in keys]
    return entries([(point, merge(TrainConfig, point.words)) for point in expand((*usual, *words))])


def test_lists_make_every_combination_once_with_a_name_of_its_own():
    found = asked("lr=1e-3,2e-3", "batch_size=8,16", "seed=0,1")
    assert len(found) == 8
    values = {(entry.config.lr, entry.config.batch_size, entry.config.seed) for entry in found}
    assert values == {(lr, batch, seed) for lr in (1e-3, 2e-3) for batch in (8, 16) for seed in (0, 1)}
    assert len({(entry.config.name, entry.config.seed) for entry in found}) == 8
    assert found[0].config.name == "tiny-lr1e-3-batch_size8"


def test_rungs_are_a_list_of_their_own_and_a_single_run_keeps_its_name():
    (one,) = asked("rungs=512,1024", "lr=1e-3")
    assert one.config.name is None
    assert one.config.rung_tokens() == (512, 1024, 2048)


def test_ablating_the_data_makes_a_run_for_each_fraction_and_ablating_the_steps_rungs():
    found = asked("ablate=data", "fractions=0.1,0.5,1")
    assert [entry.config.data_fraction for entry in found] == [0.1, 0.5, 1.0]
    (one,) = asked("ablate=steps", "fractions=0.1,0.5,1")
    assert one.config.rung_tokens() == (205, 1024, 2048)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("lr=1e-3,1e-3",), "lr is '1e-3,1e-3'; each value of a sweep must be there, and once"),
        (("lr=1e-3,",), "each value"),
        (("lr=1e-3,2e-3", "out=here"), "one folder; 2 runs need --study"),
        (("lr=1e-3,fast",), "lr is 'fast'"),
        (("lr=1e-3,2e-3", "batch_size=4", "devices=2"), "a sweep trains each run on one"),
        (("ablate=data", "fractions=0.5,0.5"), "two of the 2 runs would be called tiny-data0.5-s0"),
        (("ablate=steps", "rungs=3x2"), "rungs and ablate=steps are both given"),
    ],
)
def test_a_sweep_that_cannot_be_is_one_clear_line(words, message):
    with pytest.raises(BadInput) as caught:
        asked(*words)
    assert message in str(caught.value)


class Rung:
    def __init__(self, loss):
        self.observation = self
        self.loss = loss


def test_the_best_of_a_cell_is_the_lowest_loss_in_the_mean_over_seeds():
    found = asked("lr=1e-3,2e-3", "seed=0,1")
    assert [(entry.config.lr, entry.config.seed) for entry in found] == [
        (1e-3, 0),
        (1e-3, 1),
        (2e-3, 0),
        (2e-3, 1),
    ]
    rungs = [[Rung(4.0), Rung(3.0)], [Rung(4.2), Rung(3.4)], [Rung(4.1), Rung(3.1)], [Rung(4.3), Rung(3.1)]]
    assert winners(found, rungs) == {(0, 0), (1, 0), (2, 1), (3, 1)}


def test_models_and_contexts_are_cells_and_what_stands_alone_is_no_best():
    found = asked("n_positions=16,32", "lr=1e-3,2e-3")
    assert winners(found, [[Rung(3.0)], [Rung(2.0)], [Rung(1.0)], [Rung(1.5)]]) == {(1, 0), (2, 0)}
    assert winners(asked("n_positions=16,32"), [[Rung(3.0)], [Rung(2.0)]]) == set()


def test_small_models_share_the_cores_and_large_ones_take_turns():
    import os

    small = [entry.config for entry in asked("lr=1e-3,2e-3")]
    large = [merge(TrainConfig, ["family=gpt2-52m", "data=x", "tokens=1M"])]
    cores = len(os.sched_getaffinity(0))
    assert side_by_side(None, small, "cpu") == cores
    assert side_by_side(None, [*small, *large], "cpu") == 1
    assert side_by_side(3, large, "cpu") == 3
    assert side_by_side(None, small, "cuda") == 1
    assert side_by_side(3, small, "cuda") == 3


def trained(tmp_path, *words):
    corpus = write_corpus(tmp_path / "corpus", files=10, lines=60)
    found = asked(f"data={corpus}", "dtype=fp32", "compile=false", "attention=sdpa", "jobs=1", *words)
    said = {"yes": True, "stop": Stop(), "log": lambda line: None, "report": lambda *what: None}
    return found, train_many(found, tmp_path / "study", **said)


def test_a_sweep_trains_in_one_study_and_its_best_is_marked_in_the_table(tmp_path, one_thread):
    found, rungs = trained(tmp_path, "lr=1e-3,1e-2", "batch_size=4,8")
    runs = read_runs(tmp_path / "study" / "runs.jsonl").runs
    assert {run.run for run in runs} == {
        f"tiny-lr{lr}-batch_size{b}-s0" for lr in ("1e-3", "1e-2") for b in (4, 8)
    }
    flat = [rung for row in rungs for rung in row]
    marks = [(i, 0) in winners(found, rungs) for i in range(4)]
    best = min(flat, key=lambda rung: rung.observation.loss)
    lines = rung_table(flat, marks).splitlines()
    assert [line.split()[0] for line in lines if " *" in line] == [best.observation.run]
    assert all(len(line) <= 100 for line in lines)


def test_the_same_steps_repeat_a_fraction_of_what_the_whole_run_reads(tmp_path, one_thread):
    _, rungs = trained(tmp_path, "batch_size=4", "ablate=data", "fractions=0.25,1")
    part, whole = (row[0].observation for row in rungs)
    assert part.tokens == whole.tokens == whole.unique_tokens == 2048
    assert part.unique_tokens == 512
    assert (part.run, whole.run) == ("tiny-data0.25-s0", "tiny-s0")
    (state,) = (tmp_path / "study" / "runs" / part.run).glob("rung-*/trainer_state.json")
    assert json.loads(state.read_text())["epoch"] == 4


def test_each_run_of_a_sweep_writes_tensorboards_files_where_asked(tmp_path, one_thread):
    _, rungs = trained(tmp_path, "batch_size=4", "lr=1e-3,1e-2", "tensorboard=true")
    runs = {row[0].observation.run for row in rungs}
    files = (tmp_path / "study" / "runs").glob("*/trunk/events.out.tfevents.*")
    assert {path.parts[-3] for path in files} == runs


@pytest.mark.slow
def test_a_sweep_from_the_command_line_trains_packs_and_marks(cli, tmp_path):
    corpus = write_corpus(tmp_path / "corpus", files=10, lines=30)
    words = [word for word in WORDS if not word.startswith("data=")]
    words += [
        f"data={corpus}",
        "lr=1e-3,1e-2",
        "batch_size=4,8",
        "dtype=fp32",
        "compile=false",
        "attention=sdpa",
    ]
    run = cli("train", *words, "--study", "study", "--json", cwd=tmp_path, OMP_NUM_THREADS="1")
    assert run.returncode == 0, run.stderr
    rungs = json.loads(run.stdout)["rungs"]
    assert len(rungs) == 4
    best = min(rungs, key=lambda rung: rung["loss"])
    assert [rung["run"] for rung in rungs if rung["best"]] == [best["run"]]
    runs = read_runs(tmp_path / "study" / "runs.jsonl").runs
    assert {run.run for run in runs} == {
        f"tiny-lr{lr}-batch_size{b}-s0" for lr in ("1e-3", "1e-2") for b in (4, 8)
    }
    again = cli("train", *words, "--study", "study", cwd=tmp_path, OMP_NUM_THREADS="1")
    assert f"{best['run']} *" in again.stdout
    assert all(len(line) <= 100 for line in again.stdout.splitlines())


def test_a_name_that_was_given_stays_and_only_an_ablation_adds_to_it():
    (one,) = asked("name=mine", "data_fraction=0.5")
    assert one.config.name == "mine"
    found = asked("name=mine", "ablate=data", "fractions=0.5,1")
    assert [entry.config.name for entry in found] == ["mine-data0.5", "mine"]

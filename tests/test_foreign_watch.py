"""Trainings that are not ours, watched from their trainer's files."""

import json
import math

import pytest

from families.units import BadInput
from scaling.monitoring import watch_foreign
from scaling.monitoring.foreign import infer_schedule
from scaling.paths import StudyPaths
from scaling.schedule import Schedule

STEPS, WARMUP, BATCH = 1000, 50, 8192


def linear(step):
    return min((step + 1) / WARMUP, (STEPS - step) / (STEPS - WARMUP))


def cosine(step, floor=0.0):
    if step < WARMUP:
        return (step + 1) / WARMUP
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP)))


def decayed(step):
    return min((step + 1) / WARMUP, 1.0, (STEPS - step) / 200)


def logged(rate, until, every=10):
    """Learning rates as the Trainer logs them: at step s the rate of update s − 1."""
    return {float(step): 3e-4 * rate(step - 1) for step in range(every, until + 1, every)}


@pytest.mark.parametrize("known", [STEPS, None])
@pytest.mark.parametrize("rate", [linear, cosine, decayed])
def test_a_schedule_is_recognised_from_the_rates_logged_so_far(rate, known):
    until = 900 if rate is decayed else 400
    found = infer_schedule(logged(rate, until), known)
    assert found.steps == pytest.approx(STEPS, rel=0.01)
    assert found.warmup == pytest.approx(WARMUP, abs=1)
    assert found.peak == pytest.approx(3e-4, rel=0.01)
    ours = Schedule(peak=1.0, warmup=found.warmup, steps=found.steps, kind=found.kind)
    if found.cooldown:
        ours = ours.to(found.steps, found.cooldown)
    for step in range(WARMUP, STEPS - 1, 25):
        assert ours.lr(step) == pytest.approx(rate(step), abs=0.02)


def test_an_end_that_nothing_states_and_other_schedules_are_refused():
    with pytest.raises(BadInput, match="--steps"):
        infer_schedule(logged(lambda step: 1.0, 300), None)
    assert infer_schedule(logged(lambda step: 1.0, 300), 500).cooldown == 0
    with pytest.raises(BadInput, match="neither linearly nor as a cosine"):
        infer_schedule(logged(lambda step: min(1, (step + 1) / 50, (50 / (step + 1)) ** 0.5), 600), STEPS)
    with pytest.raises(BadInput, match="neither"):
        infer_schedule(logged(lambda step: cosine(step, 0.5), 600), STEPS)
    assert infer_schedule(logged(lambda step: cosine(step, 0.1), 600), STEPS).kind == "cosine"
    with pytest.raises(BadInput, match="no learning rate"):
        infer_schedule({}, STEPS)


def loss(step):
    return 3 + 4 * (step + 20) ** -0.4


@pytest.fixture
def folder(tmp_path):
    """A Trainer's folder in the middle of a training: a checkpoint's state with the model's configuration."""
    checkpoint = tmp_path / "run-a" / "checkpoint-400"
    checkpoint.mkdir(parents=True)
    config = {
        "model_type": "gpt2",
        "n_layer": 2,
        "n_head": 2,
        "n_embd": 64,
        "n_positions": 128,
        "vocab_size": 500,
    }
    (checkpoint / "config.json").write_text(json.dumps(config))
    write(checkpoint / "trainer_state.json", 400)
    return tmp_path / "run-a"


def write(path, until):
    rates = logged(linear, until)
    log = [
        {"step": int(step), "loss": loss(step - 5) + 0.1, "grad_norm": 1.0, "learning_rate": rate}
        for step, rate in rates.items()
    ]
    log += [
        {"step": step, "eval_loss": loss(step), "num_input_tokens_seen": step * BATCH}
        for step in range(50, until + 1, 50)
    ]
    path.write_text(json.dumps({"log_history": log, "max_steps": STEPS, "global_step": until}))


def test_a_trainers_folder_is_forecast_on_its_held_out_loss(folder, tmp_path):
    status = watch_foreign(folder, StudyPaths(tmp_path / "none"))
    assert (status.run, status.step, status.steps, status.state) == ("run-a", 400, STEPS, "no plan")
    assert (status.tokens, status.tokens_planned, status.target) == (400 * BATCH, STEPS * BATCH, "held-out")
    assert status.forecast == pytest.approx(loss(STEPS), abs=0.15)
    assert status.interval_80[0] < status.forecast < status.interval_80[1]


def test_a_finished_one_is_finished(folder, tmp_path):
    write(folder / "checkpoint-400" / "trainer_state.json", STEPS)
    status = watch_foreign(folder, StudyPaths(tmp_path / "none"))
    assert status.state == "finished"
    assert f"{loss(STEPS):.4f}" in status.sentence


def test_what_the_files_do_not_say_is_asked_for(folder, tmp_path, cli):
    (folder / "checkpoint-400" / "config.json").unlink()
    state = folder / "checkpoint-400" / "trainer_state.json"
    state.write_text(state.read_text().replace("num_input_tokens_seen", "other"))
    with pytest.raises(BadInput, match="--batch-tokens"):
        watch_foreign(folder, StudyPaths(tmp_path / "none"))
    shown = cli("watch", str(folder), "--once", "--batch-tokens", "8192", "--steps", "2000", cwd=tmp_path)
    assert (
        "linear" in shown.stderr + shown.stdout
    )  # 2,000 steps contradict the learning rates, and that is said
    shown = cli("watch", str(folder), "--once", "--batch-tokens", "8192", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "3.28M of 8.19M tokens" in shown.stdout


def test_a_folder_of_several_runs_is_refused_with_their_names(folder, tmp_path):
    other = tmp_path / "run-b"
    other.mkdir()
    write(other / "trainer_state.json", 300)
    with pytest.raises(BadInput, match=r"2 runs.*run-b"):
        watch_foreign(tmp_path, StudyPaths(tmp_path / "none"))

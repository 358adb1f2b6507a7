"""Downstream scores as a function of loss: predicted with an interval, or refused with the reason."""

import json

import numpy as np
import pytest

from families.units import BadInput
from scaling.fitting.downstream import Scores, fit_scores, parse_chance, read_scores
from scaling.runs import Run

from .surfaces import BESIROGLU
from .test_fit_command import scaling

RUNS = [
    Run(run=f"r{i}", params=N, tokens=20 * N, loss=BESIROGLU.loss(N, 20 * N))
    for i, N in enumerate(np.geomspace(1e7, 1e9, 12))
]
TARGET = BESIROGLU.loss(4e9, 8e10)


def sigmoid(loss, chance=0.25, ceiling=0.9):
    return chance + (ceiling - chance) / (1 + np.exp(4 * (loss - 2.6)))


def scored(task, curve, seed=0, noise=0.01):
    rng = np.random.default_rng(seed)
    return Scores(task=task, by_run={run.run: float(curve(run.loss) + noise * rng.normal()) for run in RUNS})


def test_the_score_of_a_larger_run_lies_in_its_interval_in_most_simulations():
    inside = 0
    for seed in range(6):
        answer = fit_scores(scored("hellaswag", sigmoid, seed), RUNS).predict_loss(
            TARGET, None, 6 * 4e9 * 8e10
        )
        low, high = answer["interval_80"]
        inside += low < sigmoid(TARGET) < high
    assert inside >= 3


def test_the_loss_predicts_the_largest_runs_better_than_compute_where_the_score_is_of_the_loss():
    found = fit_scores(scored("piqa", lambda loss: sigmoid(loss, chance=0.5), noise=0.002), RUNS)
    assert found.form == "loss"
    assert found.errors["loss"] < found.errors["compute"]


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (scored("mmlu", lambda loss: 0.25), "mmlu is at chance .* nothing to predict"),
        (scored("copa", lambda loss: 0.5 + 0.3 * (loss - 3) ** 2), "copa turns"),
        (scored("mine", sigmoid), "mine is not a known task"),
        (Scores(task="piqa", by_run={"r0": 0.6}), "piqa has scores of 1 of these runs"),
    ],
    ids=["at chance", "U-shaped", "unknown task", "one run"],
)
def test_what_cannot_be_predicted_is_said(scores, message):
    with pytest.raises(BadInput, match=message):
        fit_scores(scores, RUNS)


def test_results_of_lm_eval_are_read_from_the_folders_of_their_runs(tmp_path):
    for run in RUNS[:2]:
        folder = tmp_path / run.run
        folder.mkdir()
        results = {"results": {"piqa": {"alias": "piqa", "acc,none": 0.6, "acc_norm,none": 0.61}}}
        (folder / "results_2026-11-30.json").write_text(json.dumps(results))
    (found,) = read_scores(tmp_path)
    assert (found.task, found.by_run) == ("piqa", {"r0": 0.61, "r1": 0.61})
    (tmp_path / "bad.csv").write_text("run,task,score\nr0,piqa,61\n")
    with pytest.raises(BadInput, match="score of piqa is 61; it must be between 0 and 1"):
        read_scores(tmp_path / "bad.csv")
    with pytest.raises(BadInput, match="chance is 'piqa'"):
        parse_chance(["piqa"])


def test_predict_states_scores_beside_the_loss(tmp_path):
    (tmp_path / "runs.csv").write_text(
        "run,params,tokens,loss\n" + "\n".join(f"{r.run},{r.params},{r.tokens},{r.loss}" for r in RUNS)
    )
    tasks = (scored("hellaswag", sigmoid), scored("mmlu", lambda loss: 0.25))
    rows = [f"{run},{each.task},{score}" for each in tasks for run, score in each.by_run.items()]
    (tmp_path / "scores.csv").write_text("run,task,score\n" + "\n".join(rows))
    done = scaling("predict", "chinchilla", "params=4B", "tokens=80B", "--scores", "scores.csv", "--runs", "runs.csv",
                   cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0
    assert "score      hellaswag 0.7" in done.stdout
    assert "mmlu is at chance (0.25) in every run: nothing to predict" in done.stdout

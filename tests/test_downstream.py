"""Downstream scores as a function of loss: predicted with an interval, or refused with the reason."""

import json
from dataclasses import replace

import numpy as np
import pytest

from families.units import BadInput
from scaling.fitting.downstream import fit_scores
from scaling.fitting.downstream_scores import Scores, known_chance, parse_chance, read_scores
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


def test_the_mean_of_the_resampled_curves_errs_less_beyond_the_runs_than_the_curve_of_least_squares():
    errors = []
    for seed in range(4):
        found = fit_scores(
            scored("hellaswag", lambda loss: sigmoid(loss, ceiling=0.8), seed, noise=0.03), RUNS
        )
        bare = replace(found, draws=np.empty((0, 3)))
        for N in (2e9, 4e9, 1e10):
            loss = BESIROGLU.loss(N, 20 * N)
            at = loss if found.form == "loss" else -np.log(120 * N**2)
            errors.append([abs(curve.at(at) - sigmoid(loss, ceiling=0.8)) for curve in (found, bare)])
    mean, least_squares = np.mean(errors, axis=0)
    assert mean < 0.9 * least_squares


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


def test_a_task_that_turns_with_scale_is_fitted_where_the_runs_show_the_whole_turn():
    """Wu & Lo 2024: easy questions rise, fall and rise with compute; scores are negated Brier scores, runs have FLOPs."""
    rng = np.random.default_rng(1)
    x = np.linspace(20.1, 23.9, 60)

    def brier(x):
        return -0.7 + 0.65 / (1 + np.exp(-2.2 * (x - 22.6))) + 0.12 * np.exp(-0.5 * ((x - 20.8) / 0.4) ** 2)

    def upto(end):
        runs = {f"r{i}": (10.0**at, brier(at) + 0.01 * rng.normal()) for i, at in enumerate(x) if at < end}
        compute = {name: flops for name, (flops, _) in runs.items()}
        by_run = {name: 1 + score for name, (_, score) in runs.items()}
        return Scores(task="mine", by_run=by_run, compute=compute, added=1.0)

    found = fit_scores(upto(23.2), (), chance=-0.7)
    answer = found.predict_loss(2.0, None, 10.0**23.8)
    assert (answer["form"], answer["turns"]) == ("compute", True)
    assert answer["score"] == pytest.approx(brier(23.8), abs=0.05)
    with pytest.raises(
        BadInput, match="mine turns with scale: its score falls with scale up to the largest runs"
    ):
        fit_scores(upto(21.7), (), chance=-0.75)


RESULTS = {
    "0.3": {"results": {"piqa": {"acc": 0.6, "acc_stderr": 0.01, "acc_norm": 0.61}},
            "config": {"model_args": "pretrained=org/r0,dtype=float16"}},
    "0.4": {"results": {"piqa": {"alias": "piqa", "acc,none": 0.6, "acc_stderr,none": "N/A", "acc_norm,none": 0.61},
                        "truthfulqa": {" ": " ", "alias": "truthfulqa"}, "wikitext": {"word_perplexity,none": 20.0}},
            "groups": {"piqa": {"acc,none": 0.6}}, "model_name": "org/r0"},
    "strict": {"results": {"piqa": {"exact_match,flexible-extract": 0.7, "exact_match,strict-match": 0.61}},
               "model_name": "/home/me/r0/step_100"},
}  # fmt: skip


@pytest.mark.parametrize("version", RESULTS)
@pytest.mark.parametrize("folder", ["", "org__r0", "r0/__home__me__r0__step_100"])
def test_results_of_each_version_of_lm_eval_belong_to_the_run_they_name(version, folder, tmp_path):
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    (tmp_path / folder / "results_2026-11-30.json").write_text(json.dumps(RESULTS[version]))
    (found,) = read_scores(tmp_path, {"r0", "r1"})
    assert (found.task, found.by_run) == ("piqa", {"r0": 0.61})
    assert found.metric.startswith(("acc_norm", "exact_match,strict-match"))


def test_a_family_of_tasks_has_one_chance_level_and_its_variants_none():
    assert known_chance("mmlu_anatomy") == 0.25
    assert known_chance("blimp_passive_1") == 0.5
    assert known_chance("mmlu_pro") is None


def test_two_scores_of_one_run_and_two_metrics_of_one_task_are_refused(tmp_path):
    (tmp_path / "twice.csv").write_text("run,task,score\nr0,piqa,0.6\nr0,piqa,0.7\n")
    with pytest.raises(BadInput, match="line 3: r0 has a score of piqa already, in 2"):
        read_scores(tmp_path / "twice.csv")
    for run, metric in (("r0", "acc"), ("r1", "acc_norm")):
        (tmp_path / run).mkdir()
        (tmp_path / run / "results.json").write_text(json.dumps({"results": {"piqa": {metric: 0.6}}}))
    with pytest.raises(BadInput, match="piqa has scores by 'acc' and by 'acc_norm': they do not compare"):
        read_scores(tmp_path)

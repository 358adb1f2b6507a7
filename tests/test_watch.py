"""A run in progress, watched: verdicts against what was promised, the files that are read, and the command."""

import json
from dataclasses import replace

import pytest

from families.units import BadInput
from scaling.monitoring import ProgressForecast, Reference, assess, find_run, short_status, study_of, watch
from scaling.monitoring.curves import read_curve, read_run, read_siblings
from scaling.paths import StudyPaths
from scaling.planning.experiment_design import PilotQuery, pilot_plan
from scaling.planning.planfile import write_plan
from scaling.planning.seal import seal
from scaling.scoring import compare_study

from .simulated_runs import changed, seen_until, taught, write


@pytest.fixture(scope="module")
def study():
    return taught()


def promise(loss, half=0.03):
    return Reference(loss=loss, interval_80=(loss - half, loss + half), sealed=True)


# Verdicts


def test_verdicts_follow_the_forecast_and_the_promise(study):
    siblings, healthy = study
    run = seen_until(healthy, 500)
    truth = healthy.finals[1000]
    assert assess(run, siblings, 1000, promise(truth)).state == "on plan"
    above = assess(run, siblings, 1000, promise(truth - 0.3))
    assert above.state == "above plan"
    assert "likely +0." in above.sentence
    assert above.difference == pytest.approx(0.3, abs=0.05)
    assert assess(run, siblings, 1000, promise(truth + 0.3)).state == "below plan"
    assert assess(run, siblings, 1000, None).state == "no plan"
    assert "does not compare" in assess(seen_until(healthy, 350), (), 1000, promise(truth)).sentence


def test_a_verdict_names_the_fault_before_the_plan(study):
    siblings, healthy = study
    ill = changed(seen_until(healthy, 500), 400, lambda step, loss: loss + 1)
    found = assess(ill, siblings, 1000, promise(healthy.finals[1000]))
    assert found.state == "diverging"
    assert found.alarm is not None
    assert short_status(found) == ", DIVERGING"


def test_a_finished_rung_is_held_against_its_promise(study):
    siblings, healthy = study
    final = healthy.finals[1000]
    assert "inside its 80 % interval" in assess(healthy, siblings, 1000, promise(final + 0.02)).sentence
    assert "outside" in assess(healthy, siblings, 1000, promise(final + 0.2)).sentence


# Files


def test_a_torn_last_line_and_lines_without_a_loss_are_passed_over(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 10, "loss": 5.0, "eval_loss": 5.2}\n{"step": 20, "loss": null}\n[1]\n{"step": 30, "lo'
    )
    curve = read_curve(path)
    assert curve.step.tolist() == [10]
    assert curve.eval_loss.tolist() == [5.2]
    assert not len(read_curve(tmp_path / "none.jsonl").step)


def test_what_was_written_is_read_back(tmp_path, study):
    _, healthy = study
    found = read_run(write(healthy, tmp_path / "x"))
    assert found.finals == healthy.finals
    assert found.next_rung is None
    assert found.rung(1000).loss == pytest.approx(healthy.rung(1000).loss)


def test_only_runs_of_the_same_batch_are_siblings(tmp_path, study):
    siblings, healthy = study
    folder = write(healthy, tmp_path / "runs" / "x")
    for one in siblings:
        write(one, tmp_path / "runs" / one.name)
    larger = siblings[0].plan.model_copy(update={"run": "larger", "batch_tokens": 2048})
    write(replace(siblings[0], name="larger", plan=larger), tmp_path / "runs" / "larger")
    found = read_siblings(tmp_path / "runs", read_run(folder))
    assert {one.name for one in found} == {one.name for one in siblings}


def test_a_run_that_grows_while_it_is_read_gets_a_verdict_at_every_length(tmp_path, study):
    siblings, healthy = study
    for one in siblings:
        write(one, tmp_path / "runs" / one.name)
    folder = write(seen_until(healthy, 780), tmp_path / "runs" / "x", finished=False)
    path = folder / "trunk" / "metrics.jsonl"
    whole = path.read_bytes()
    states = []
    for end in range(0, len(whole), len(whole) // 9):
        path.write_bytes(whole[:end])
        states.append(watch(folder, steps=1000).state)
    assert states[0] == "waiting"
    assert set(states[3:]) == {"no plan"}


def test_a_run_is_found_by_folder_or_by_name_and_the_nearest_name_is_offered(tmp_path, study):
    _, healthy = study
    folder = write(healthy, tmp_path / "runs" / "L2d64")
    assert find_run("L2d64", tmp_path) == folder
    assert find_run(str(folder), tmp_path / "elsewhere") == folder
    with pytest.raises(BadInput, match="did you mean L2d64"):
        find_run("L2d46", tmp_path)
    with pytest.raises(BadInput, match="has no runs"):
        find_run("x", tmp_path / "elsewhere")


def test_a_pilots_ladder_is_watched_without_a_seal_and_compare_says_what_seals_one(tmp_path, study):
    siblings, healthy = study
    for one in siblings:
        write(one, tmp_path / "runs" / one.name)
    write(seen_until(healthy, 500), tmp_path / "runs" / "x", finished=False)
    without = watch(tmp_path / "runs" / "x", steps=1000)
    plan, _ = pilot_plan(PilotQuery(target="gpt2-125m", tokens="2.5B"))
    write_plan(plan, tmp_path / "plan.json")
    assert watch(tmp_path / "runs" / "x", steps=1000) == without
    (tmp_path / "runs.jsonl").write_text("")
    with pytest.raises(BadInput, match=r"scaling plan --study .* seals a prediction"):
        compare_study(StudyPaths(tmp_path))


def test_a_broken_seal_is_still_an_error_of_watch(tmp_path, study):
    _, healthy = study
    folder = write(seen_until(healthy, 500), tmp_path / "runs" / "x", finished=False)
    plan, _ = pilot_plan(PilotQuery(target="gpt2-125m", tokens="2.5B"))
    write_plan(seal(plan), tmp_path / "plan.json")
    text = (tmp_path / "plan.json").read_text()
    (tmp_path / "plan.json").write_text(text.replace("gpt2-125m", "gpt2-126m"))
    with pytest.raises(BadInput, match="edited after it was sealed"):
        watch(folder, steps=1000)


def test_a_run_belongs_to_the_study_two_above_or_is_one_of_its_own(tmp_path, study):
    _, healthy = study
    inside, alone = write(healthy, tmp_path / "s" / "runs" / "x"), write(healthy, tmp_path / "alone")
    (inside / "runs.jsonl").touch()  # a run's own observations
    assert study_of(inside).folder == (tmp_path / "s").resolve()
    assert study_of(alone).folder == alone.resolve()


def test_a_progress_line_says_nothing_rather_than_fail(tmp_path):
    outlook = ProgressForecast(tmp_path / "none", 1000, _next=0.0)
    assert outlook.text() == ""


def test_a_progress_line_says_where_the_run_ends(tmp_path, study):
    siblings, healthy = study
    for one in siblings:
        write(one, tmp_path / "runs" / one.name)
    folder = write(seen_until(healthy, 400), tmp_path / "runs" / "x", finished=False)
    words = ProgressForecast(folder, 1000, _next=0.0).text()
    assert words.startswith(", ends at 3.")
    assert ProgressForecast(folder, 1000).text() == ""  # not before some seconds


# The command


def call(*words):
    import subprocess
    import sys

    code = "import sys; from scaling.cli import main; sys.argv[0] = 'scaling'; main()"
    return subprocess.run(
        [sys.executable, "-c", code, "watch", *map(str, words)], capture_output=True, text=True, timeout=60
    )


def test_watch_prints_one_json_object_or_one_line_of_error(tmp_path, study):
    siblings, healthy = study
    for one in siblings:
        write(one, tmp_path / "runs" / one.name)
    write(seen_until(healthy, 500), tmp_path / "runs" / "x", finished=False)
    found = json.loads(call("x", "--study", tmp_path, "--tokens", 1000 * 1024, "--json").stdout)
    assert found["state"] == "no plan"
    assert found["interval_80"][0] < found["forecast"] < found["interval_80"][1]
    assert found["target"] == "held-out"
    page = call("x", "--study", tmp_path, "--once").stdout
    assert "forecast" in page
    assert f"{len(siblings)} finished siblings" in page
    assert all(len(line) <= 100 for line in page.splitlines())
    done = call(siblings[0].name, "--study", tmp_path)
    assert done.returncode == 0
    assert "finished at" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["none"], "neither the folder of a run nor a run of"),
        (["x", "--tokens", "5"], "no rung of"),
        (["x", "--tokens", "much"], "tokens is 'much'"),
    ],
)
def test_bad_input_is_one_line_and_status_2(tmp_path, study, words, said):
    _, healthy = study
    write(healthy, tmp_path / "runs" / "x")
    found = call(*words, "--study", tmp_path)
    assert found.returncode == 2
    assert said in found.stderr
    assert len(found.stderr.splitlines()) == 1

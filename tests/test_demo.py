"""The whole flow, as a person runs it: killed on the way, gone on with, sealed before, compared after."""

import itertools
import json
import shlex
import shutil
import time
from datetime import datetime

import pytest

from scaling.paths import StudyPaths
from scaling.planning.planfile import PlanFile
from scaling.runs.readers import read_runs
from scaling.runs.store import read_ledger
from train.jobs.demo import seal_target

from .test_examples import DEMO

pytestmark = pytest.mark.slow
WORDS = (*shlex.split(DEMO)[1:], "--quick", "--json")  # the first example of its help, made smaller
# What is there in the study once it is in its text, among its ladders, and past the seal.
KILLED_AT = ("data*", "runs/*/trunk/metrics.jsonl", "plan.json")


@pytest.fixture(scope="module")
def study(tmp_path_factory, begin):
    """A quick demo that was killed three times and then let finish: its folder, and what it printed."""
    folder = tmp_path_factory.mktemp("demo")
    for there in KILLED_AT:
        killed = begin(*WORDS, cwd=folder)
        while not list(folder.glob(f"demo/{there}")):
            assert killed.poll() is None, killed.communicate()
            time.sleep(0.02)
        time.sleep(0.5)
        killed.kill()
        assert killed.wait(60) == -9
    done = begin(*WORDS, cwd=folder)
    out, err = done.communicate()
    assert done.returncode == 0, err
    return folder / "demo", json.loads(out)


def test_the_prediction_was_sealed_before_the_target_was_trained(study):
    folder, _ = study
    plan = PlanFile.read(folder / "plan.json")
    target = plan.members[0]
    began = [work.at for work in read_ledger(folder / "ledger.jsonl") if work.run.startswith(target.member)]
    assert datetime.fromisoformat(plan.seal.sealed_at) <= datetime.fromisoformat(min(began))
    assert target.params > max(
        run.params for run in read_runs(folder / "runs.jsonl").runs if run.params != target.params
    )


def test_the_comparison_holds_the_row_that_was_promised(study):
    folder, printed = study
    stored = json.loads((folder / "comparison.json").read_text())
    (row,) = stored["rows"]
    assert printed["rows"] == stored["rows"]
    promised = {"member", "tokens", "predicted_loss", "interval_80", "interval_95", "actual_loss"}
    assert promised | {"predicted_ppl", "actual_ppl", "sealed_at"} <= row.keys()
    assert row["interval_95"][0] < row["interval_80"][0] < row["predicted_loss"] < row["interval_80"][1]
    assert row["grade"] == "chain", "the run carried its seal from its first step"
    assert abs(row["predicted_loss"] / row["actual_loss"] - 1) < 0.1


def test_four_members_gave_four_annealed_observations_each(study):
    folder, _ = study
    runs = read_runs(folder / "runs.jsonl").runs
    members = {run.run for run in runs}
    assert len(members) == 5
    assert len(runs) == 4 * 4 + 1
    assert all(run.annealed and run.loss_se for run in runs)
    assert len({(run.eval_set, run.vocab_size, run.n_positions) for run in runs}) == 1


def test_the_ledger_books_each_step_once_in_spite_of_the_kills(study):
    folder, _ = study
    for member in (
        *PlanFile.read(folder / "ladder.json").members,
        *PlanFile.read(folder / "plan.json").members,
    ):
        work = [entry for entry in read_ledger(folder / "ledger.jsonl") if entry.run == f"{member.member}-s1"]
        for part in {entry.part for entry in work}:
            steps = sorted((entry.from_step, entry.to_step) for entry in work if entry.part == part)
            assert all(earlier[1] == later[0] for earlier, later in itertools.pairwise(steps)), steps


def test_the_time_planned_for_the_target_is_the_probes_where_there_was_one(study, tmp_path):
    folder, _ = study
    target = PlanFile.read(folder / "plan.json").members[0]
    shutil.copytree(
        folder, tmp_path / "demo", ignore=shutil.ignore_patterns("plan.json", "*.pt", "*.safetensors")
    )
    planned = seal_target(StudyPaths(tmp_path / "demo"), target, 1, 72.0).members[0]
    assert planned.hours == pytest.approx(0.02)


def test_report_and_pictures_are_there(study):
    folder, _ = study
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "gpt2-" in page
    assert list((folder / "figures").glob("*.png"))


def test_a_finished_demo_is_not_done_again_and_another_seed_is_refused(study, cli):
    folder, _ = study
    before = read_ledger(folder / "ledger.jsonl")
    again = cli(*WORDS, cwd=folder.parent)
    assert again.returncode == 0, again.stderr
    assert read_ledger(folder / "ledger.jsonl") == before
    other = cli(*WORDS, "--seed", "2", cwd=folder.parent)
    assert other.returncode == 2
    assert "seed 1; this one has 2" in other.stderr


def test_a_tampered_seal_is_refused(study, cli):
    folder, _ = study
    text = (folder / "plan.json").read_text()
    plan = json.loads(text)
    plan["members"][0]["prediction"]["loss"] += 0.01
    (folder / "plan.json").write_text(json.dumps(plan))
    done = cli("compare", "--study", str(folder))
    (folder / "plan.json").write_text(text)
    assert done.returncode == 2
    assert "seal" in done.stderr

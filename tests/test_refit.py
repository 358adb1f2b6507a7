"""What new runs teach: the law before and after, on a study whose truth is known."""

import json
import shutil

import pytest

from families.units import BadInput
from plots.study_data import load_study
from scaling.files import hashes
from scaling.fitting.predictor import load_law
from scaling.paths import StudyPaths
from scaling.planning.seal import open_seal
from scaling.runs.readers import read_runs
from scaling.scoring import Comparison, compare, compare_study, compared
from scaling.scoring.refit import refit

from .synthetic import TRUTH, leave_run, write_study


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("refit") / "study")


@pytest.fixture(scope="module")
def changed(study):
    return compare_study(study).refit


def test_the_new_run_is_counted_once(changed):
    assert (changed.rows_before, changed.rows_after) == (16, 17)


def test_both_laws_answer_the_same_questions(changed):
    assert [one.quantity for one in changed.changes] == ["alpha", "beta", "exponent of N*", "N*", "loss"]
    for one in changed.changes:
        for value, bounds in ((one.before, one.before_80), (one.after, one.after_80)):
            assert bounds[0] < value < bounds[1] or one.quantity in ("alpha", "beta"), one.quantity


def test_the_next_prediction_is_of_one_point_ten_times_ahead(changed):
    assert pytest.approx(changed.flops / 6, rel=1e-6) == changed.N * changed.D
    loss = changed.change("loss")
    truth = TRUTH.loss(changed.N, changed.D)
    assert loss.after == pytest.approx(truth, rel=0.03)
    assert loss.after_80[0] < truth < loss.after_80[1]


def test_before_is_what_the_sealed_law_says(study, changed):
    predictor = load_law(study / "law.json")
    found = predictor.predict(changed.N, changed.D)
    assert changed.change("loss").before == pytest.approx(found.loss, rel=1e-12)
    assert changed.change("loss").before_80 == pytest.approx(found.interval_80, rel=1e-12)


def test_a_law_that_was_fitted_anew_is_taken_back(study, changed, tmp_path):
    folder = shutil.copytree(study, tmp_path / "s")
    law = json.loads((folder / "law.json").read_text())
    law["forms"][0]["alpha"] *= 1.2  # anything but what was sealed
    (folder / "law.json").write_text(json.dumps(law))
    again = compare_study(folder)
    assert again.refit.rows_before == 16
    assert again.refit.change("loss").after == pytest.approx(changed.change("loss").after, rel=1e-9)


def test_runs_of_another_eval_set_teach_nothing(study):
    law = load_law(study / "law.json")
    runs = [
        run.model_copy(update={"eval_set": "other"}) if run.run == "gpt2-d192-s0" else run
        for run in read_runs(study / "runs.jsonl").runs
    ]
    with pytest.raises(BadInput, match="no new run"):
        refit(law, runs, ["gpt2-d192-s0"])


def test_the_command_says_what_changed_and_keeps_it(study, tmp_path, cli):
    folder = shutil.copytree(study, tmp_path / "s")
    done = cli("compare", "--study", folder)
    assert done.returncode == 0, done.stderr
    for text in ("16 rows become 17", "exponent of N*", "FLOPs planned", "recorded", "  z  "):
        assert text in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert Comparison.read(folder / "comparison.json").refit.rows_after == 17


def test_a_refit_that_was_edited_in_comparison_json_is_computed_again_and_named(study, changed, tmp_path):
    folder = StudyPaths(shutil.copytree(study, tmp_path / "s"))
    assert compared(folder, refits=True).disagreements == ()
    value = json.loads(folder.comparison.read_text())
    value["refit"]["changes"][-1]["after"] = 2.0
    folder.comparison.write_text(json.dumps(value))
    shown = load_study(folder.folder)
    assert shown.comparison.refit.change("loss").after == pytest.approx(
        changed.change("loss").after, rel=1e-9
    )
    (named,) = [line for line in shown.warnings if "comparison.json" in line]
    assert "has 2 as loss after the refit; it is" in named
    assert compare_study(folder.folder).disagreements == (named,)


def test_without_a_law_the_scores_stand_alone(study, tmp_path, cli):
    folder = shutil.copytree(study, tmp_path / "s")
    (folder / "law.json").unlink()
    done = cli("compare", "--study", folder, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["refit"] is None
    assert "no refit" in done.stderr


def test_sealed_members_without_a_run_are_waited_for(study, tmp_path, cli):
    folder = shutil.copytree(study, tmp_path / "s")
    text = (folder / "runs.jsonl").read_text().splitlines()
    (folder / "runs.jsonl").write_text("\n".join(text[:-1]) + "\n")
    done = cli("compare", "--study", folder)
    assert done.returncode == 2
    assert "no run of gpt2-d192" in done.stderr


def test_a_diverged_run_is_scored_as_a_miss(study, tmp_path, cli):
    folder = shutil.copytree(study, tmp_path / "s")
    plan, run = open_seal(folder / "plan.json"), read_runs(folder / "runs.jsonl").runs[-1]
    diverged = run.model_copy(update={"loss": 1e4})
    lines = (folder / "runs.jsonl").read_text().splitlines()
    lines[-1] = diverged.model_dump_json(exclude_none=True)
    (folder / "runs.jsonl").write_text("\n".join(lines) + "\n")
    shutil.rmtree(folder / "runs" / run.run)
    leave_run(folder / "runs" / run.run, plan.members[0], diverged, seal=plan.seal.digest)
    done = cli("compare", "--study", folder, "--json")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["rows"]
    assert not row["inside_95"]
    assert row["z"] < -100, "it was predicted too low"
    assert row["error"] < -0.99


def test_a_comparison_that_is_refused_writes_nothing(study, tmp_path):
    folder = shutil.copytree(study, tmp_path / "s")
    (folder / "comparison.json").unlink(missing_ok=True)
    rows = [json.loads(line) for line in (folder / "runs.jsonl").read_text().splitlines()[1:-1]]
    for row in rows:  # each run's own file, which a comparison gathers, without the sealed member's
        shard = folder / "runs" / row["run"] / "runs.jsonl"
        shard.parent.mkdir(parents=True, exist_ok=True)
        with shard.open("a") as file:
            file.write(json.dumps(row) + "\n")
    (folder / "runs.jsonl").unlink()
    with pytest.raises(BadInput, match="no run of gpt2-d192"):
        compare_study(folder)
    assert not (folder / "runs.jsonl").exists()
    assert not (folder / "comparison.json").exists()


def test_a_study_its_files_and_their_values_compare_alike(study, changed):
    plan, runs = study / "plan.json", study / "runs.jsonl"
    written = Comparison.read(study / "comparison.json")
    by_file, by_value = compare(str(plan), runs), compare(open_seal(plan), read_runs(runs), study=study)
    assert by_file.rows == by_value.rows == written.rows
    assert by_file.inputs == written.inputs == hashes([plan, runs])
    assert by_value.inputs == {}
    alone = compare(open_seal(plan), read_runs(runs))
    assert (alone.rows, [row.grade for row in alone.not_predictions]) == ((), ["none"]), (
        "values show no order"
    )
    again = refit(str(study / "law.json"), runs, [row.run for row in written.rows], seed=1)
    assert again.change("loss").after == pytest.approx(changed.change("loss").after, rel=0.01)

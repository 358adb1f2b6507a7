"""Studies that lack something, diverged, or grow while they are read: a clear line, or a report that says what is missing."""

import json
import shutil

import numpy as np
import pytest

from families.units import BadInput
from plots import style
from plots.figures import draw_figure, draw_figures
from plots.report import report
from plots.study_data import load_study
from scaling.laws import Law
from scaling.runs.readers import read_runs

from .synthetic import write_study


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("bad") / "study")


@pytest.fixture
def study(complete, tmp_path):
    return shutil.copytree(complete, tmp_path / "study")


def _rows(folder):
    return [json.loads(line) for line in (folder / "runs.jsonl").read_text().splitlines()]


def _write(folder, rows):
    (folder / "runs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _page(folder):
    data = load_study(folder)
    return report(data, *draw_figures(data))


def _without(folder, *names):
    for name in names:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return folder


RESULTS = ("runs", "runs.jsonl", "law.json", "plan.json", "comparison.json", "ledger.jsonl")


def test_a_planned_study_without_runs_is_reported(study):
    page = _page(_without(study, *RESULTS))
    assert "No run is finished yet" in page
    assert "gpt2-d48" in page, "what was planned is shown"


def test_a_runs_file_with_its_opening_alone_holds_no_run(study):
    _write(study, _rows(study)[:1])
    assert "No run is finished yet" in _page(study)


def test_losses_beyond_guessing_are_named_and_the_pictures_hold(study):
    rows = _rows(study)
    rows[3]["loss"] = 1e4
    _write(study, rows)
    data = load_study(study)
    assert any("above the loss of guessing" in line and rows[3]["run"] in line for line in data.warnings)
    assert rows[3]["run"] not in {run.run for run in data.comparable_runs if run.loss > 100}
    drawn, not_drawn = draw_figures(data)
    assert set(not_drawn) == {"calibration"}
    assert all(len(style.svg(figure.figure, figure.name)) < 400_000 for figure in drawn)


def test_a_curve_that_climbs_leaves_the_picture_and_not_the_others(study):
    path = next((study / "runs").glob("**/trunk/metrics.jsonl"))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines[len(lines) // 2 :]:
        line["loss"] = 1e6
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = load_study(study)
    assert any("which diverged" in line for line in data.warnings)
    axes = draw_figure("learning", data).figure.axes[0]
    assert axes.get_ylim()[1] < 30
    assert len(axes.get_yticks()) < 20


def test_a_healthy_study_has_no_doubts(study):
    assert load_study(study).warnings == ()


@pytest.mark.parametrize("high", [12.0, 1e2, 1e6, 1e200])
def test_an_axis_of_losses_has_few_ticks_whatever_it_spans(high):
    with style.style_context():
        figure, (axes,) = style.new_figure()
        axes.plot([1, 2], [2.0, high])
        style.log_losses(axes)
        figure.canvas.draw()
    assert len(axes.yaxis.get_ticklabels()) < 20


def test_every_file_may_end_in_the_middle_of_a_line(study):
    for path in (study / "runs.jsonl", study / "ledger.jsonl", *(study / "runs").glob("**/metrics.jsonl")):
        with path.open("a") as file:
            file.write('{"run": "x", "loss": 3.')
    page = _page(study)
    assert "it is being written" in page
    assert len(read_runs(study / "runs.jsonl").runs) == 17


def test_a_broken_line_in_the_middle_is_still_refused(study):
    lines = (study / "runs.jsonl").read_text().splitlines()
    lines[4] = lines[4][:30]
    (study / "runs.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(BadInput, match="line 5: it is not JSON"):
        read_runs(study / "runs.jsonl")


def test_an_optimum_beyond_every_number_is_refused_in_words():
    law = Law(E=1.0, A=1e3, B=1e-3, alpha=1e-4, beta=2e-2)
    with pytest.raises(BadInput, match="optimum lies beyond every size"):
        law.allocate(1e20)
    ordinary = Law(E=1.8, A=482.0, B=2085.0, alpha=0.35, beta=0.37)
    assert np.isfinite(ordinary.allocate(1e30).N)


def test_the_command_says_each_reason_once(study, cli):
    _without(study, "law.json", "comparison.json")
    done = cli("report", "--study", study)
    assert done.returncode == 0, done.stderr
    messages = [line for line in done.stderr.splitlines() if "no law.json" in line]
    assert len(messages) == 1
    assert "surface, isoflops, frontier" in messages[0]


def test_a_study_of_two_eval_sets_is_refused_by_a_fit_and_doubted_by_the_report(study, cli):
    rows = _rows(study)
    rows[2]["eval_set"] = "other"
    _write(study, rows)
    done = cli("fit", study / "runs.jsonl")
    assert done.returncode == 2
    assert "2 eval sets" in done.stderr
    assert any("2 eval sets" in line for line in load_study(study).warnings)


def test_runs_that_count_n_differently_are_refused_by_a_fit(study, cli):
    rows = _rows(study)
    del rows[2]["params"]
    del rows[5]["params_non_embedding"]
    _write(study, rows)
    done = cli("fit", study / "runs.jsonl")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert any("count of N" in line for line in load_study(study).warnings)

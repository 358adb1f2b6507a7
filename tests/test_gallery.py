"""The gallery: studies that were really run. Their seals open, their scores follow from their runs, their pictures draw."""

import shutil
from pathlib import Path

import pytest

from plots.figures import draw_figure
from plots.study_data import load_study
from plots.style import svg
from scaling.files import sha256_file
from scaling.fitting.fit import fit
from scaling.fitting.predictor import load_law
from scaling.paths import StudyPaths
from scaling.planning.seal import open_seal
from scaling.runs.readers import read_runs
from scaling.scoring import Comparison, calibrate, compare, comparisons_under

from .gallery import STUDIES, draw

FOLDERS = sorted(path.parent for path in STUDIES.glob("*/study.json"))


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def place(request):
    return StudyPaths(request.param)


def test_there_are_studies_of_two_texts():
    texts = {load_study(folder).study_file.text for folder in FOLDERS}
    assert len(FOLDERS) >= 2
    assert len(texts) >= 2


def test_the_seal_opens_and_names_the_law_beside_it(place):
    plan = open_seal(place.plan)
    assert plan.seal.law_sha256 == sha256_file(place.law)


def test_the_scores_follow_from_the_runs(place):
    stored = Comparison.read(place.comparison)
    again = compare(open_seal(place.plan), read_runs(place.runs).runs, {}, study=place)
    assert again.rows == stored.rows
    assert [row.grade for row in again.rows] == ["clock"], "0.1.0 wrote no chain"


def test_the_prediction_follows_from_the_law(place):
    plan, predictor = open_seal(place.plan), load_law(place.law)
    (member,) = plan.members
    found = predictor.predict(member.params, member.tokens)
    assert found.loss == pytest.approx(member.prediction.loss, rel=1e-9)
    assert found.interval_80 == pytest.approx(member.prediction.interval_80, rel=1e-9)


@pytest.mark.slow
def test_todays_fit_of_the_runs_holds_what_came_within_a_hundredth_and_a_half(place):
    """The studies' laws are of 0.1.0, whose predictor was another: the seal keeps what it said."""
    law, held = load_law(place.law), {row.run for row in Comparison.read(place.comparison).rows}
    runs = [run for run in read_runs(place.runs).runs if run.run not in held]
    found = fit(runs, seed=load_study(place.folder).study_file.seed)
    (row,) = Comparison.read(place.comparison).rows
    member = open_seal(place.plan).members[0]
    predicted = found.predict(member.params, member.tokens)
    assert predicted.loss == pytest.approx(row.actual_loss, rel=0.015)
    assert predicted.interval_95[0] < row.actual_loss < predicted.interval_95[1]
    assert found.rows == law.rows == 16


def test_the_pages_sentence_is_what_the_studies_say():
    said = calibrate(tuple(comparisons_under(STUDIES).values())).sentence
    assert said in (STUDIES / "README.md").read_text(encoding="utf-8")
    for folder in FOLDERS:
        (row,) = Comparison.read(folder / "comparison.json").rows
        text = (folder / "README.md").read_text(encoding="utf-8")
        assert f"{row.predicted_loss:.3f}" in text
        assert f"{row.actual_loss:.3f}" in text


def test_pictures_are_the_same_bytes_for_the_same_files(place, tmp_path):
    name = "predicted"
    first, second = (svg(draw_figure(name, load_study(place.folder)).figure, name) for _ in range(2))
    assert first == second
    assert "<svg" in (place.folder / "figures" / f"{name}.svg").read_text(encoding="utf-8")


def test_a_folder_of_studies_is_drawn_as_one_outcome(tmp_path):
    for folder in FOLDERS:
        shutil.copytree(
            folder, tmp_path / folder.name, ignore=shutil.ignore_patterns("figures", "metrics.jsonl")
        )
    written = draw(tmp_path, ("predicted", "calibration"))
    assert {path.name for path in written} == {"predicted.svg", "calibration.svg"}


def test_no_text_was_kept_and_no_place_on_a_machine():
    for path in STUDIES.rglob("*"):
        if path.is_file():
            assert path.suffix in {".json", ".jsonl", ".svg", ".md"}, path
            assert "/home/" not in (text := path.read_text(encoding="utf-8"))
            assert "/tmp/" not in text
    studies = len(list(STUDIES.glob("*/plan.json")))
    assert sum(p.stat().st_size for p in Path(STUDIES).rglob("*") if p.is_file()) < 750_000 * studies

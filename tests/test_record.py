"""The record of sealed predictions: what is committed is what the studies' files say, hits and misses alike."""

import json
import re
import shutil
from dataclasses import replace

import pytest

from benchmarks import evidence
from families.units import BadInput
from scaling.planning.planfile import PlanFile
from scaling.planning.query import PlanQuery, answer_query
from scaling.scoring.record import sealed_results

from . import record
from .gallery import STUDIES

RESULTS = sealed_results(STUDIES)
RECIPES = sorted(
    path.parent.name for path in STUDIES.glob("*/recipe.json") if (path.parent / "plan.json").exists()
)


def test_what_is_committed_is_what_the_script_makes():
    for path, text in record.written(RESULTS).items():
        assert path.read_text(encoding="utf-8") == text, f"{path}: make calibration"
    assert record.sentence(RESULTS) in (record.ROOT.parent / "README.md").read_text(encoding="utf-8")
    drawn = record.FIGURE.read_text(encoding="utf-8")
    assert all(one.study in drawn for one in RESULTS if one.counts)


def test_every_sealed_plan_is_in_the_record_whatever_came():
    assert {one.study for one in RESULTS} == {path.parent.name for path in STUDIES.glob("*/plan.json")}


def test_reach_is_the_targets_compute_over_the_costliest_run_behind_its_law():
    for one in RESULTS:
        if one.study in RECIPES:
            recipe = evidence.Study.read(one.study)
            assert one.reach == pytest.approx(recipe.reach, rel=0.01)


def test_a_plan_says_where_it_takes_repeated_tokens_for_fresh_ones():
    """What the seal of past-30-docstrings did not say, whose target read its text 1.6 times."""
    asked = PlanQuery(budget="6e13", study=STUDIES / "past-30-docstrings", vocab="512", context="128")
    fresh, repeated = (answer_query(replace(asked, tokens_available=there))[0] for there in (None, "8.14M"))
    (said,) = [note for note in fresh.notes if "passes over" in note]
    assert re.search(r"tokens are 1\.\d+ passes over the 8\.14M of this study's text", said)
    assert not [note for note in repeated.notes if "passes over" in note]
    shorter = answer_query(replace(asked, budget="1e12"))[0]
    assert not [note for note in shorter.notes if "passes over" in note]


def test_a_loss_that_was_edited_after_the_run_does_not_count(tmp_path):
    name = "reach-100-headers"
    shutil.copytree(
        STUDIES / name, tmp_path / name, ignore=shutil.ignore_patterns("figures", "metrics.jsonl")
    )
    (found,) = sealed_results(tmp_path)
    assert found.counts
    for path in (tmp_path / name).rglob("runs.jsonl"):
        path.write_text(path.read_text().replace(f'"loss":{found.row.actual_loss}', '"loss":2.76'))
    (found,) = sealed_results(tmp_path)
    assert not found.counts
    assert "does not count" in record.page((found,))
    with pytest.raises(BadInput, match="no sealed plan"):
        sealed_results(tmp_path / name / "runs")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_still_gives_the_ladders_that_were_trained(name):
    for file, plan in zip(evidence.LADDERS, evidence.ladders(evidence.Study.read(name)), strict=True):
        assert plan.members == PlanFile.read(STUDIES / name / file).members


def test_documents_are_gathered_in_one_order_and_cut_at_one_length(tmp_path, monkeypatch):
    monkeypatch.setitem(evidence.TEXTS, "made", lambda: iter([(str(i), f"text {i}") for i in range(100)]))
    evidence.gather("made", tmp_path / "a.jsonl", 500)
    monkeypatch.setitem(
        evidence.TEXTS, "made", lambda: iter([(str(i), f"text {i}") for i in range(99, -1, -1)])
    )
    evidence.gather("made", tmp_path / "b.jsonl", 500)
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    assert 500 <= (tmp_path / "a.jsonl").stat().st_size < 530
    assert json.loads((tmp_path / "a.jsonl").read_text().splitlines()[0])["text"].startswith("text ")

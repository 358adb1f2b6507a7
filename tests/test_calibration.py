"""Calibration over studies: counts that follow from the rows."""

import json
import shutil
from pathlib import Path

import pytest

from families.units import BadInput
from scaling.planning.seal import SealedPrediction
from scaling.runs import Run
from scaling.scoring import Comparison, calibrate, comparisons_under, score


def _comparison(*pairs):
    def row(loss, actual):
        sealed = SealedPrediction(
            member="m", params=1e6, tokens=1e7, loss=loss, interval_80=(loss - 0.1, loss + 0.1),
            interval_95=(loss - 0.2, loss + 0.2), sealed_at="2026-11-21T12:00:00Z",
        )  # fmt: skip
        return score(sealed, Run(run="r", params=1e6, tokens=1e7, loss=actual))

    return Comparison(rows=tuple(row(*pair) for pair in pairs))


def test_counts_and_errors_are_those_of_all_rows():
    found = calibrate([_comparison((4.0, 4.05), (4.0, 4.15)), _comparison((4.0, 5.0))])
    assert (found.predictions, found.studies, found.inside_80, found.inside_95) == (3, 2, 1, 2)
    assert found.largest_absolute_error == pytest.approx(0.2)
    assert found.mean_bias == pytest.approx((4 / 4.05 + 4 / 4.15 + 0.8) / 3 - 1)
    assert found.sentence.startswith("80 % intervals held 1 of 3, 95 % intervals 2")


def test_every_study_under_a_folder_counts(tmp_path, cli):
    for name, real in (("b", "stdlib"), ("a/deep", "wikitext-2")):
        _copy(real, tmp_path / name)
    assert list(comparisons_under(tmp_path)) == ["a/deep", "b"]
    assert calibrate(str(tmp_path)) == calibrate(tuple(comparisons_under(tmp_path).values()))
    found = cli("compare", "--under", tmp_path, "--json")
    assert json.loads(found.stdout)["predictions"] == 2
    shown = cli("compare", "--under", tmp_path).stdout
    for text in (
        "held 2 of 2",
        "before by this machine's clock alone",
        "attested by nobody but this machine",
    ):
        assert text in shown


def test_no_study_is_one_clear_line(tmp_path):
    with pytest.raises(BadInput, match=r"no comparison\.json, at any depth"):
        comparisons_under(tmp_path)
    with pytest.raises(BadInput, match="0 scored predictions"):
        calibrate([])


def test_what_a_comparison_says_otherwise_than_its_seal_is_named_and_does_not_count(gallery_study, cli):
    found = json.loads((gallery_study / "comparison.json").read_text())
    honest = comparisons_under(gallery_study)["."]
    assert honest.disagreements == ()
    found["rows"][0]["predicted_loss"] = found["rows"][0]["actual_loss"]
    (gallery_study / "comparison.json").write_text(json.dumps(found))
    again = comparisons_under(gallery_study)["."]
    assert again.rows == honest.rows
    assert again.disagreements == (
        "comparison.json has 2.8218 as predicted loss of gpt2-941k-l4-d128; it is 2.8553",
    )
    assert f".: {again.disagreements[0]}" in cli("compare", "--under", gallery_study).stderr


def test_a_tampered_plan_stops_the_count(gallery_study):
    plan = gallery_study / "plan.json"
    plan.write_text(plan.read_text().replace("1876992", "1876993", 1))
    with pytest.raises(BadInput, match="edited after it was sealed"):
        comparisons_under(gallery_study)


def test_predictions_that_a_chain_holds_are_not_mixed_with_those_of_a_clock():
    (row,) = _comparison((4.0, 4.05)).rows
    (miss,) = _comparison((4.0, 5.0)).rows
    rows = [row.model_copy(update={"grade": "chain"}), miss.model_copy(update={"grade": "clock"})]
    found = calibrate([Comparison(rows=tuple(rows))])
    assert (found.predictions, found.inside_80, found.grade) == (1, 1, "chain")
    assert found.apart == ("counted apart, before by this machine's clock alone: 80 % intervals held 0 of 1",)


def _copy(name, folder):
    real = Path(__file__).parents[1] / "docs" / "studies" / name
    return shutil.copytree(real, folder, ignore=shutil.ignore_patterns("figures", "metrics.jsonl"))


@pytest.fixture
def gallery_study(tmp_path):
    return _copy("stdlib", tmp_path / "study")

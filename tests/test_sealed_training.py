"""Runs that are trained from a sealed plan, or beside it: what they carry, and what compare makes of them."""

from dataclasses import replace

import pytest

from families.units import BadInput
from scaling.planning.planfile import PlanFile, PlannedLoss, write_plan
from scaling.planning.seal import open_seal, seal
from scaling.runs.chain import read_chain
from scaling.scoring import compare
from train.config import Settings
from train.jobs.members import prepare_members, train_plan
from train.lease import Stop
from train.settings import TextFacts

from .small_plan import planned, small_study
from .tiny import StopAfter, files_under, trained, write_corpus

PROMISED = PlannedLoss(loss=5.0, interval_80=(4.0, 6.0), interval_95=(3.0, 7.0), ppl=148.4)


@pytest.fixture
def study(tmp_path):
    """A study with text and a sealed plan of one member."""
    _, found = small_study(tmp_path, planned("one", prediction=PROMISED))
    return sealed(found)


def sealed(study, seed=0):
    from train.data import DataManifest

    text = TextFacts.of(DataManifest.read(study.data / "data.json"), "gpt2").data_sha256
    made = PlanFile(members=(planned("one", prediction=PROMISED),))
    write_plan(seal(made, data_sha256=text, seeds=(seed,)), study.plan, replace=True)
    return study


def climb(study, stop=None, said=None, seed=0, **options):
    plan = open_seal(study.plan)
    return train_plan(
        plan.members, study, seed=seed, yes=True, stop=stop or Stop(), log=(said if said is not None else []).append,
        report=lambda *what: None, eval_tokens=2048, device="cpu", sealed=plan, **options,
    )  # fmt: skip


def graded(study):
    found = compare(study.plan, study.runs)
    return [row.grade for row in found.rows], [
        reason for row in found.not_predictions for reason in row.reasons
    ]


@pytest.mark.slow
def test_a_run_from_the_seal_carries_it_from_before_its_first_step_through_a_stop_to_its_loss(study):
    folder = study.run_folder("one-s0")
    digest = open_seal(study.plan).seal.digest
    with pytest.raises(KeyboardInterrupt):
        climb(study, StopAfter(0))
    assert Settings.read(folder / "run.json").seal == digest
    with pytest.raises(KeyboardInterrupt):
        climb(study, StopAfter(5), save_every=0.0)
    with (folder / "ledger.jsonl").open("a") as file:
        file.write('{"run": "one-s0", "part": "tru')  # a crash while an entry was written
    (rung,) = climb(study)
    chain = read_chain(folder / "ledger.jsonl")
    assert (chain.seal, chain.fault, chain.entries[-1].result) == (digest, "", rung.observation.row_hash)
    assert chain.covers(16, chain.entries[-1].part)
    assert rung.inputs == {"ledger.jsonl": chain.heads[-1]}
    assert graded(study) == (["chain"], [])


@pytest.mark.slow
def test_another_seed_is_trained_and_not_scored_where_the_plan_names_one(study):
    said = []
    climb(study, said=said, seed=3)
    assert any("the plan named 0, and only that is scored" in line for line in said)
    assert graded(study) == ([], ["its seed is 3; the plan named 0"])


@pytest.mark.slow
def test_a_run_begun_before_the_seal_is_gone_on_with_and_not_sealed(study):
    plan = open_seal(study.plan)
    with pytest.raises(KeyboardInterrupt):
        train_plan(
            plan.members, study, seed=0, yes=True, stop=StopAfter(3), log=print, report=lambda *what: None,
            eval_tokens=2048, device="cpu",
        )  # fmt: skip
    said = []
    climb(study, said=said)
    assert any("is not the sealed run: it began without this seal" in line for line in said)
    assert graded(study) == ([], ["it began without this seal"])


def test_another_text_is_refused_and_leaves_nothing(study, tmp_path):
    other = write_corpus(tmp_path / "other", files=30)
    place = replace(study, folder=tmp_path / "elsewhere")
    before = files_under(tmp_path)
    with pytest.raises(BadInput, match="was sealed for another text than the study holds"):
        prepare_members(open_seal(study.plan), place, str(other), None)
    assert files_under(tmp_path) == before


@pytest.mark.slow
def test_train_of_a_sealed_size_is_the_sealed_run_or_says_why_not(study, tmp_path):
    member = open_seal(study.plan).members[0]
    recipe = member.recipe
    asked = {
        "family": "one", "data": str(tmp_path / "corpus"), "tokens": member.tokens, "batch_size": recipe.batch_sequences,
        "lr": recipe.lr, "warmup": recipe.warmup_steps, "eval_tokens": 2048, "device": "cpu", "dtype": "fp32",
        "compile": False, "attention": "sdpa", "threads": 1,
    }  # fmt: skip
    said = []
    trained(study.folder, said, **(asked | {"lr": 9e-3, "name": "fast"}))
    assert [line for line in said if "fast-s0 is not the sealed run of one: lr is 0.009, sealed" in line]
    trained(study.folder, said, **asked)
    assert Settings.read(study.run_folder("one-s0") / "run.json").seal == open_seal(study.plan).seal.digest
    assert graded(study)[0] == ["chain"]

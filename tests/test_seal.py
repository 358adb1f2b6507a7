"""A sealed plan cannot be edited or lost in silence."""

import json

import pytest

from families import ModelSpec
from families.units import BadInput
from scaling.budget import parse_budget
from scaling.planning.candidates import candidates
from scaling.planning.law import find_law
from scaling.planning.plan import make_plan
from scaling.planning.planfile import PlanFile, PlannedLoss, PlannedMember, write_plan
from scaling.planning.seal import BENT, FORCED, SHOWN, open_seal, read_verified_plan, seal
from scaling.recipe import recipe

from .small_plan import planned, small_study


@pytest.fixture
def plan():
    return make_plan(parse_budget("8xA100-hours"), find_law("kaplan"), candidates())


def test_a_sealed_plan_opens_as_it_was_written(plan, tmp_path):
    sealed = seal(plan)
    write_plan(sealed, tmp_path / "plan.json")
    assert open_seal(tmp_path / "plan.json") == sealed
    assert sealed.seal.law_sha256 == plan.law.sha256


def test_a_plan_whose_law_bends_is_sealed_by_force_alone_and_says_so(plan):
    bent = plan.model_copy(update={"notes": (f"{BENT}: the residuals still bend by size",)})
    with pytest.raises(BadInput, match=r"not sealed: .*still bend by size.*--force"):
        seal(bent)
    forced = bent.model_copy(update={"notes": (bent.notes[0] + FORCED,)})
    assert seal(forced).notes == forced.notes
    shown = bent.model_copy(update={"notes": (bent.notes[0] + SHOWN,)})
    assert seal(shown).notes == shown.notes


def leaves(value, path=()):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from leaves(inner, (*path, index))
    elif isinstance(value, float | int) and not isinstance(value, bool):
        yield path


def test_every_number_in_a_sealed_plan_is_covered(plan, tmp_path):
    path = tmp_path / "plan.json"
    sealed = json.loads(seal(plan).dump())
    places = [place for place in leaves(sealed) if place != ("version",)]
    assert len(places) > 100
    for place in places[:: len(places) // 40]:
        edited = json.loads(json.dumps(sealed))
        inner = edited
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = inner[place[-1]] * 2 if inner[place[-1]] else 1
        path.write_text(json.dumps(edited))
        with pytest.raises(BadInput):
            open_seal(path)


@pytest.mark.parametrize("field", ["sealed_at", "law_sha256", "digest"])
def test_the_seal_itself_cannot_be_edited(plan, tmp_path, field):
    path = tmp_path / "plan.json"
    value = json.loads(seal(plan).dump())
    value["seal"][field] = "2020-01-01T00:00:00Z"
    path.write_text(json.dumps(value))
    with pytest.raises(BadInput, match="edited after it was sealed"):
        open_seal(path)


def test_layout_is_not_content(plan, tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(json.loads(seal(plan).dump()), indent=7, sort_keys=True))
    assert open_seal(path).seal is not None


def test_an_unsealed_plan_does_not_open_as_sealed(plan, tmp_path):
    write_plan(plan, tmp_path / "plan.json")
    with pytest.raises(BadInput, match="not sealed"):
        open_seal(tmp_path / "plan.json")
    with pytest.raises(BadInput, match="once"):
        seal(seal(plan))


def test_a_sealed_plan_is_not_overwritten_unless_told(plan, tmp_path):
    path = tmp_path / "plan.json"
    write_plan(seal(plan), path)
    before = path.read_bytes()
    with pytest.raises(BadInput, match="--out"):
        write_plan(plan, path)
    assert path.read_bytes() == before
    write_plan(plan, path, replace=True)
    write_plan(seal(plan), path)


def test_a_file_that_is_no_plan_is_not_overwritten_unless_told(plan, tmp_path):
    path = tmp_path / "thesis.json"
    path.write_text("{}")
    with pytest.raises(BadInput, match="not a plan"):
        write_plan(plan, path)


def test_a_ladder_without_predictions_and_one_with_a_sealed_target_read_back(tmp_path):
    spec = ModelSpec(n_layer=2, n_head=4, n_embd=64, n_positions=128, vocab_size=1024)
    advice = recipe(spec, 1_000_000, shortest=200_000)
    ladder = PlannedMember.of("small", spec, tokens=advice.tokens, rungs=(200_000, 500_000), recipe=advice)
    promised = PlannedLoss(loss=4.0, interval_80=(3.9, 4.1), interval_95=(3.8, 4.2), ppl=54.6)
    target = ladder.model_copy(
        update={
            "prediction": promised,
            "rungs": (),
            "member": "target",
        }
    )
    sealed = seal(PlanFile(members=(ladder, target)))
    write_plan(sealed, tmp_path / "plan.json")
    back = open_seal(tmp_path / "plan.json")
    assert back.member("small").spec == spec
    assert back.member("small").prediction is None
    assert back.member("target").prediction.interval_80 == (3.9, 4.1)
    with pytest.raises(BadInput, match="small, target"):
        back.member("big")


@pytest.mark.parametrize(
    "how", [(), ("--launcher", "local"), ("--launcher", "slurm"), ("--launcher", "slurm", "--dry-run")]
)
def test_nothing_is_spent_on_a_sealed_plan_that_was_edited(how, tmp_path, cli):
    path, study = small_study(tmp_path, planned("one"))
    value = json.loads(seal(PlanFile.read(path)).dump())
    value["members"][0]["tokens"] *= 2
    path.write_text(json.dumps(value))
    before = sorted(tmp_path.rglob("*"))
    done = cli("ladder", path, "--study", study.folder, *how)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert "edited after it was sealed" in done.stderr
    assert "restore the sealed file" in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_a_plan_that_is_as_it_was_sealed_or_was_never_sealed_is_trained(plan, tmp_path):
    path = tmp_path / "plan.json"
    for one in (plan, seal(plan)):
        write_plan(one, path)
        assert read_verified_plan(path) == one

"""Attacks on a sealed prediction: each is refused, or marked and counts nowhere. Numbers are those of docs/seal.md."""

import datetime
import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from inspect import signature
from pathlib import Path

import numpy as np
import pytest

from families.units import BadInput
from scaling.files import canonical_json, sha256_bytes
from scaling.planning import planfile
from scaling.planning import seal as seal_module
from scaling.planning.planfile import PlanFile, write_plan
from scaling.planning.seal import digest, open_seal, seal
from scaling.runs.chain import read_chain
from scaling.runs.store import append_run
from scaling.scoring import calibrate, compare, compared, comparisons_under

from .core import in_process
from .sealed import LEARNED, TARGET, TEXT, honest_study, learned_study, made_plan, member, trained
from .synthetic import leave_run


@pytest.fixture
def place(tmp_path):
    return learned_study(tmp_path)


@pytest.fixture
def honest(tmp_path):
    return honest_study(tmp_path)


def outcome(place):
    """(rows that count, reasons of those that do not) of the study's comparison."""
    found = compare(place.plan, place.runs)
    reasons = [f"{row.grade}: {'; '.join(row.reasons)}" for row in found.not_predictions]
    for row in found.not_predictions:
        assert row.grade in ("none", "undecided")
    return found.rows, reasons


def marked(place, *reasons):
    rows, said = outcome(place)
    assert rows == (), "it counts nowhere"
    assert said
    for reason in reasons:
        assert any(reason in line for line in said), said
    with pytest.raises(BadInput, match="0 scored"):
        calibrate([compare(place.plan, place.runs)])


def edit(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))
    return value


def edit_plan(place, change, *, digested=True):
    """Edit plan.json, and compute its digest as a cheat would."""
    value = edit(place.plan, change)
    if digested:
        value["seal"]["digest"] = ""
        value["seal"]["digest"] = digest(value)
        place.plan.write_text(json.dumps(value))


def run_json(place, name=TARGET.run):
    return place.run_folder(name) / "run.json"


def ledger(place, name=TARGET.run):
    return place.run_folder(name) / "ledger.jsonl"


def test_the_honest_run_is_held_by_its_chain(honest):
    (row,), others = outcome(honest)
    assert (row.grade, row.inside_80, row.runs, others) == ("chain", True, ("d128-s0",), [])
    assert row.error == pytest.approx(2.97 / 2.95 - 1)
    assert row.z > 0, "an error and its z have one sign"


# Natural ones: nothing is forged


def test_01_a_run_that_the_law_was_fitted_on_was_not_predicted(place):
    trained(place, made_plan(), seal="")
    write_plan(made_plan(rows=(*LEARNED, TARGET)), place.plan)
    marked(place, "among the runs that the law was fitted on", "began without this seal")


def test_01_nor_is_the_same_run_trained_again_from_the_seal(place):
    plan = made_plan(rows=(*LEARNED, TARGET))
    write_plan(plan, place.plan)
    trained(place, plan)
    marked(place, "among the runs that the law was fitted on")


@pytest.mark.slow
def test_01_by_the_commands_as_people_type_them(tmp_path):
    """Fit with the target in, plan its size, compare: the row that scored as held before."""
    gallery = Path(__file__).parents[1] / "docs" / "studies" / "stdlib"
    folder = shutil.copytree(
        gallery, tmp_path / "s", ignore=shutil.ignore_patterns("figures", "metrics.jsonl")
    )
    for name in ("law.json", "plan.json", "comparison.json"):
        (folder / name).unlink()
    for words in (
        f"fit {folder}/runs.jsonl --study {folder}",
        f"plan --params 940800 --budget 1.1809e13 --study {folder}",
        f"compare --study {folder} --json",
    ):
        done = in_process(words)
        assert done.status == 0, done.err
    found = json.loads(done.out)
    assert found["rows"] == []
    (row,) = found["not_predictions"]
    assert (row["run"], row["grade"]) == ("gpt2-941k-l4-d128-s1", "none")
    assert row["reasons"][0] == "it is among the runs that the law was fitted on"
    assert "it began without this seal" in row["reasons"]


def test_02_a_run_from_before_the_seal_was_not_predicted(place):
    trained(place, made_plan(), seal="")
    write_plan(made_plan(), place.plan)
    marked(place, "none: it began without this seal")


def test_03_planning_again_after_the_result_predicts_nothing(honest):
    write_plan(made_plan(member(loss=2.951)), honest.plan, replace=True)
    marked(honest, "started from another seal")


@pytest.mark.parametrize(
    ("number", "changes", "reason"),
    [
        (4, {"data": "8" * 64}, "another text"),
        (6, {"lr": 9e-3}, "lr is 0.009, sealed"),
        (6, {"batch_size": 16}, "batch_size is 16, sealed 8"),
        (6, {"dropout": 0.1}, "dropout is 0.1, sealed 0.0"),
        (7, {"schedule": "cosine"}, "schedule is cosine, sealed wsd"),
        (8, {"n_head": 4}, "n_head is 4, sealed 8"),
    ],
)
def test_04_06_07_08_another_text_recipe_or_shape_is_another_run(place, number, changes, reason):
    plan = made_plan()
    write_plan(plan, place.plan)
    trained(place, plan, **changes)
    marked(place, reason)


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"eval_set": "easy"}, "eval set is easy, the law's heldout"),
        ({"group": "other"}, "group is other, the law's text"),
        ({"schedule": "wsd 0.5 linear"}, "schedule is wsd 0.5 linear, sealed wsd 0.2 linear"),
    ],
)
def test_05_07_another_eval_set_group_or_cooldown_is_another_run(place, facts, reason):
    plan = made_plan()
    write_plan(plan, place.plan)
    trained(place, plan, TARGET.model_copy(update=facts))
    marked(place, reason)


def seeds(place, plan, losses=(3.2, 2.97, 3.1)):
    for number, loss in enumerate(losses):
        trained(
            place, plan, TARGET.model_copy(update={"run": f"d128-s{number}", "seed": number, "loss": loss})
        )


def test_09_only_the_seed_that_the_plan_named_counts(place):
    plan = made_plan(seeds=(2,))
    write_plan(plan, place.plan)
    seeds(place, plan)
    (row,), others = outcome(place)
    assert (row.run, row.actual_loss) == ("d128-s2", 3.1)
    assert [line for line in others if "the plan named 2" in line] == others
    assert len(others) == 2


def test_41_a_run_of_a_named_seed_that_was_thrown_away_is_missed(place):
    plan = made_plan(seeds=(0, 1, 2))
    write_plan(plan, place.plan)
    seeds(place, plan)
    (row,), others = outcome(place)
    assert (len(row.runs), row.actual_loss, others) == (3, pytest.approx(3.09), [])
    shutil.rmtree(place.run_folder("d128-s0"))
    place.runs.write_text("".join(line for line in place.runs.open() if '"d128-s0"' not in line))
    marked(place, "undecided: the plan names seeds 0, 1 and 2: there is no finished run of 0")
    found = comparisons_under(place.folder)["."]
    assert (found.rows, len(found.not_predictions)) == ((), 2)


def test_10_of_seeds_that_the_plan_did_not_name_the_mean_counts_and_all_are_named(place):
    plan = made_plan()
    write_plan(plan, place.plan)
    seeds(place, plan)
    (row,), others = outcome(place)
    assert (row.runs, others) == (("d128-s0", "d128-s1", "d128-s2"), [])
    assert row.actual_loss == pytest.approx((3.2 + 2.97 + 3.1) / 3)
    assert row.spread == pytest.approx(np.std([3.2, 2.97, 3.1], ddof=1))


def test_11_a_run_that_began_before_the_seal_is_not_sealed_by_going_on_after_it(place):
    plan = made_plan()
    trained(place, plan, seal="")
    write_plan(plan, place.plan)
    edit(run_json(place), lambda value: value.update(created_at="2099-01-01T00:00:00Z"))
    marked(place, "it began without this seal")


def test_12_a_row_that_was_added_by_hand_shows_no_order(place):
    write_plan(made_plan(), place.plan)
    append_run(place.runs, TARGET)
    marked(place, "it has no run.json")


@pytest.mark.parametrize("there", [False, True])
def test_13_of_two_plans_at_once_the_second_is_refused(tmp_path, there):
    for turn in range(4):
        path = tmp_path / str(turn) / "plan.json"
        if there:
            write_plan(PlanFile(members=(member(),)), path)

        def write(number, path=path):
            try:
                write_plan(made_plan(member(loss=3.0 + number)), path)
            except BadInput:
                return False
            return True

        with ThreadPoolExecutor(4) as pool:
            assert sorted(pool.map(write, range(4))) == [False, False, False, True]
        assert [found.name for found in path.parent.iterdir()] == ["plan.json"]
        open_seal(path)


def test_13_a_plan_that_appears_between_the_check_and_the_writing_is_kept(tmp_path, monkeypatch):
    path = tmp_path / "fresh" / "plan.json"
    first, check = made_plan(member(loss=4.0)), planfile.check_replaceable

    def overtaken(there, *, replace):
        check(there, replace=replace)
        there.parent.mkdir()
        there.write_text(first.dump())

    monkeypatch.setattr(planfile, "check_replaceable", overtaken)
    with pytest.raises(BadInput):
        write_plan(made_plan(), path)
    assert path.read_text() == first.dump()


# The plan's file


def test_14_an_edited_plan_is_refused(honest):
    edit_plan(honest, lambda plan: plan["members"][0]["prediction"].update(loss=2.95), digested=False)
    with pytest.raises(BadInput, match="edited after it was sealed"):
        outcome(honest)


def swap(plan):
    first, second = plan["members"]
    first["prediction"], second["prediction"] = second["prediction"], first["prediction"]


@pytest.mark.parametrize(
    ("number", "change"),
    [
        (15, lambda plan: plan["members"][0]["prediction"].update(loss=2.95)),
        (
            15,
            lambda plan: plan["members"][0]["prediction"].update(
                interval_80=[2.0, 4.0], interval_95=[1.0, 5.0]
            ),
        ),
        (16, lambda plan: plan["seal"].update(sealed_at="2020-01-01T00:00:00Z")),
        (20, swap),
        (21, lambda plan: plan["members"][0].update(member="renamed")),
        (23, lambda plan: plan["seal"].update(format=1, data_sha256="")),
    ],
)
def test_15_16_20_21_23_a_new_digest_is_another_seal_than_the_run_carries(place, number, change):
    plan = made_plan(member(), member("d96", 96, 3.1))
    write_plan(plan, place.plan)
    trained(place, plan)
    edit_plan(place, change)
    open_seal(place.plan)
    marked(place, "started from another seal")


def test_17_a_seal_from_the_future_decides_nothing(place, monkeypatch):
    monkeypatch.setattr(seal_module, "now", lambda: "2099-01-01T00:00:00Z")
    plan = made_plan()
    write_plan(plan, place.plan)
    trained(place, plan)
    marked(place, "undecided: its seal is of 2099-01-01T00:00:00Z, which has not come yet")


@pytest.mark.parametrize(
    "time", ["yesterday", "", "2026-11-21", "2026-13-01T00:00:00Z", "2026-11-21T12:00:00"]
)
def test_18_a_seal_whose_time_is_no_time_is_refused(honest, time):
    edit_plan(honest, lambda plan: plan["seal"].update(sealed_at=time))
    with pytest.raises(BadInput, match="sealed_at is"):
        outcome(honest)


def test_19_an_older_seal_put_back_predicts_nothing(place):
    older, newer = made_plan(member(loss=2.951)), made_plan()
    write_plan(newer, place.plan)
    trained(place, newer)
    write_plan(older, place.plan, replace=True)
    marked(place, "started from another seal")


def test_22_a_key_that_stands_there_twice_is_refused(honest):
    text = honest.plan.read_text()
    honest.plan.write_text(text.replace('"loss": 2.97,', '"loss": 2.951,\n "loss": 2.97,', 1))
    with pytest.raises(BadInput, match="'loss' stands there twice"):
        outcome(honest)


def test_23_a_plan_of_0_1_0_is_graded_by_the_clock_alone_and_counted_apart(place):
    """With no run that carries a seal, as 0.1.0 left it: nothing but times tells the order."""
    plan = made_plan()
    write_plan(plan, place.plan)
    trained(place, plan, seal="")
    edit_plan(place, lambda value: [value["seal"].pop(name) for name in ("format", "data_sha256", "seed")])
    run_folder = place.run_folder(TARGET.run)
    entries = [
        {
            name: value
            for name, value in json.loads(line).items()
            if name not in ("previous", "result", "seal", "settings")
        }
        for line in ledger(place).read_text().splitlines()[:-1]
    ]
    (run_folder / "ledger.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    (row,), _ = outcome(place)
    assert row.grade == "clock"
    held = row.model_copy(update={"grade": "chain"})
    both = compare(place.plan, place.runs).model_copy(update={"rows": (row, held)})
    score = calibrate([both])
    assert (score.predictions, score.grade) == (1, "chain")
    assert score.apart == ("counted apart, before by this machine's clock alone: 80 % intervals held 1 of 1",)


def test_24_without_a_seal_nothing_is_compared(honest):
    edit(honest.plan, lambda plan: plan.update(seal=None))
    with pytest.raises(BadInput, match="is not sealed"):
        outcome(honest)
    honest.plan.unlink()
    with pytest.raises(BadInput, match="does not exist"):
        outcome(honest)


def test_25_nobody_can_pass_a_time_to_the_seal():
    assert set(signature(seal).parameters) == {"plan", "data_sha256", "seeds"}
    made = datetime.datetime.fromisoformat(made_plan().seal.sealed_at)
    assert abs(datetime.datetime.now(datetime.UTC) - made) < datetime.timedelta(minutes=1)


# The run's files


def test_26_a_loss_edited_in_runs_jsonl_does_not_count(place):
    plan = made_plan()
    write_plan(plan, place.plan)
    leave_run(place.run_folder(TARGET.run), plan.members[0], TARGET, seal=plan.seal.digest, data=TEXT)
    append_run(place.runs, TARGET.model_copy(update={"loss": 2.97}))
    marked(place, "its loss is not the one that its ledger closed with")


def test_27_nor_does_one_edited_wherever_it_stands_in_words(honest):
    folder = honest.run_folder(TARGET.run)
    for path in (*folder.glob("*/rung.json"), folder / "runs.jsonl"):
        path.write_text(path.read_text().replace("2.95", "2.97"))
    marked(honest, "its loss is not the one that its ledger closed with")


def test_28_a_row_that_stands_there_twenty_times_counts_once(honest):
    path = honest.run_folder(TARGET.run) / "runs.jsonl"
    line = path.read_text().splitlines()[-1]
    path.write_text(path.read_text() + f"{line}\n" * 19)
    (row,), others = outcome(honest)
    assert (row.runs, row.spread, others) == (("d128-s0",), None, [])


def test_29_a_run_folder_without_a_ledger_is_no_run(honest):
    ledger(honest).unlink()
    marked(honest, "it has no ledger")


def test_30_a_ledger_of_another_run_or_of_none_is_not_this_runs(honest):
    plan = open_seal(honest.plan)
    other = TARGET.model_copy(update={"run": "d128-s9"})
    leave_run(honest.run_folder("d128-s9"), plan.members[0], other, seal="", data=TEXT)
    shutil.copy(ledger(honest, "d128-s9"), ledger(honest))
    shutil.rmtree(honest.run_folder("d128-s9"))
    marked(honest, "the ledger carries no seal")


def lines_of(path):
    return path.read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize("change", ["edit", "remove", "repeat", "swap"])
def test_31_a_ledger_that_is_changed_in_the_middle_is_broken(honest, change):
    lines = lines_of(ledger(honest))
    if change == "edit":
        lines[1] = lines[1].replace(b'"wall_s":0.0', b'"wall_s":9.0')
    elif change == "remove":
        del lines[1]
    elif change == "repeat":
        lines.insert(1, lines[1])
    else:
        lines[1], lines[2] = lines[2], lines[1]
    ledger(honest).write_bytes(b"".join(lines))
    marked(honest, "its ledger is broken: line")


def test_32_a_ledger_without_its_end_is_cut(honest):
    ledger(honest).write_bytes(b"".join(lines_of(ledger(honest))[:-1]))
    marked(honest, "its ledger is cut: it holds no result")


def test_32_half_a_line_at_the_end_is_a_crash_and_no_forgery(honest):
    with ledger(honest).open("a") as file:
        file.write('{"run": "d128-s0", "part": "rung-')
    (row,), others = outcome(honest)
    assert (row.grade, others) == ("chain", [])
    assert read_chain(ledger(honest)).fault == ""


def test_32_rung_json_names_the_line_that_closed_it(honest):
    (path,) = honest.run_folder(TARGET.run).glob("*/rung.json")
    edit(path, lambda rung: rung["inputs"].update({"ledger.jsonl": "0" * 64}))
    marked(honest, "its ledger is cut: rung.json names a line that is not there")


def test_33_a_seal_written_into_run_json_afterwards_is_not_in_the_ledger(place):
    plan = made_plan()
    write_plan(plan, place.plan)
    trained(place, plan, seal="")
    edit(run_json(place), lambda value: value.update(seal=plan.seal.digest))
    marked(place, "run.json and ledger disagree: the ledger carries no seal")


def test_33_nor_can_a_recipe_be_corrected_afterwards(place):
    plan = made_plan()
    write_plan(plan, place.plan)
    trained(place, plan, lr=9e-3)
    edit(run_json(place), lambda value: value.update(lr=plan.members[0].recipe.lr))
    marked(place, "run.json and ledger disagree: lr is")


def test_33_a_ledger_rewritten_under_other_settings_is_broken(honest):
    lines = lines_of(ledger(honest))
    opening = json.loads(lines[0])
    opening["settings"]["lr"] = 9e-3
    lines[0] = canonical_json(opening) + b"\n"
    ledger(honest).write_bytes(b"".join(lines))
    marked(honest, "its ledger is broken: line 2")


def test_a_ledger_that_leaves_steps_out_shows_no_training(place):
    plan = made_plan()
    write_plan(plan, place.plan)
    trained(place, plan)
    chain, made = lines_of(ledger(place)), []
    for line in (chain[0], *chain[2:]):  # without the trunk, chained anew
        entry = json.loads(line)
        if made:
            entry["previous"] = sha256_bytes(made[-1].rstrip(b"\n"))
        made.append(json.dumps(entry).encode() + b"\n" if made else line)
    ledger(place).write_bytes(b"".join(made))
    marked(place, "its ledger leaves out steps")


# What is derived


def test_34_an_edited_law_is_named_and_changes_no_score(honest):
    before = outcome(honest)[0]
    honest.law.write_text("{}")
    found = compare(honest.plan, honest.runs)
    assert found.rows == before
    assert any("law.json is not the law that was sealed" in note for note in found.notes)


def test_34_an_edited_observation_behind_the_law_is_named(honest):
    honest.runs.write_text(honest.runs.read_text().replace('"loss":3.68', '"loss":3.6'))
    found = compare(honest.plan, honest.runs)
    assert found.notes == (
        "1 of the 4 observations behind the sealed law are no longer in the runs as they were",
    )


@pytest.mark.parametrize("number", [35, 36])
def test_35_36_what_comparison_json_says_is_computed_again_and_named(honest, number):
    fresh = compare(honest.plan, honest.runs)
    fresh.write(honest.comparison)
    assert compared(honest).disagreements == ()

    def change(value):
        if number == 35:
            value["rows"][0].update(actual_loss=2.97, inside_80=True, error=0.0, z=0.0)
        else:
            value["rows"] *= 20

    edit(honest.comparison, change)
    found = comparisons_under(honest.folder.parent)["study"]
    assert found.rows == fresh.rows
    said = "has 2.9700 as actual loss of d128; it is 2.9500" if number == 35 else "has d128 20 times"
    assert said in found.disagreements[0]
    assert calibrate(honest.folder.parent).predictions == 1


def test_37_a_comparison_alone_counts_nowhere(honest):
    compare(honest.plan, honest.runs).write(honest.comparison)
    for path in honest.folder.iterdir():
        if path != honest.comparison:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (found,) = comparisons_under(honest.folder.parent).values()
    assert (found.rows, found.not_predictions[0].grade) == ((), "none")
    assert "stands alone" in found.not_predictions[0].reasons[0]


def test_38_a_copied_study_counts_once(honest):
    shutil.copytree(honest.folder, honest.folder.with_name("zcopy"))
    found = comparisons_under(honest.folder.parent)
    assert calibrate(tuple(found.values())).predictions == 1
    assert found["zcopy"].not_predictions[0].reasons == ("it is a copy of study, and counted there",)


def test_a_study_counts_whether_or_not_somebody_wrote_its_comparison(honest):
    assert calibrate(honest.folder.parent).predictions == 1, "a miss is not hidden by not comparing it"


def test_40_whoever_rewrites_everything_is_attested_by_nobody_but_this_machine(place):
    """The limit of files, as docs/seal.md says it: only a stamp from outside tells."""
    trained(place, made_plan(), seal="")
    shutil.rmtree(place.run_folder(TARGET.run))
    forged = made_plan(member(loss=2.9501))
    write_plan(forged, place.plan)
    trained(place, forged)
    found = compare(place.plan, place.runs)
    assert [row.grade for row in found.rows] == ["chain"]
    assert found.attested == ("attested by nobody but this machine",)


# Clocks


def test_a_run_that_began_before_its_seal_by_the_clock_alone_is_undecided(honest):
    edit(run_json(honest), lambda value: value.update(created_at="2020-01-01T00:00:00Z"))
    rows, (said,) = outcome(honest)
    assert rows == ()
    assert re.match(r"undecided: by the clock it began at 2020-01-01T00:00:00Z, before the seal of 20", said)


def test_the_page_of_attacks_and_the_tests_have_the_same_numbers():
    page = (Path(__file__).parents[1] / "docs" / "seal.md").read_text(encoding="utf-8")
    listed = {int(number) for number in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)}
    tests = " ".join(name for name in globals() if name.startswith("test_"))
    tested = {int(number) for number in re.findall(r"(?<=_)\d\d(?=_)", tests)}
    assert listed == tested | {39} == set(range(1, 42)), "39, of model cards, is in tests/test_product.py"

"""Studies of thousands of runs: sums that are those of every entry, and figures of a few that say so."""

import itertools
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from families import ModelSpec
from families.units import BadInput
from plots.study_data import load_study
from scaling.files import hashes
from scaling.fitting.predictor import load_law
from scaling.laws import Law
from scaling.monitoring.constants import MOST_SIBLINGS
from scaling.monitoring.curves import PlannedRung, RunPlan, read_run, read_siblings
from scaling.paths import StudyPaths
from scaling.planning.planfile import PlanFile, PlannedLoss, PlannedMember, write_plan
from scaling.planning.seal import seal
from scaling.published_laws import published_law
from scaling.recipe import recipe
from scaling.runs import Run
from scaling.runs.store import WorkEntry, append_entry, append_run, read_ledger, read_totals
from scaling.scoring.comparison import compared
from scaling.stats import MOST_CURVES, MOST_DRAWN, MOST_READ, subsample_evenly


def work(run, part, start, **more):
    given = {"tokens": 64, "flops": 3.0, "wall_s": 0.5, "settings_sha256": "", "at": "2026-11-21T00:00:00Z"}
    return WorkEntry(run=run, part=part, from_step=start, to_step=start + 1, **{**given, **more})


@given(
    entries=st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from(["trunk", "rung-5"]), st.integers(0, 9)), max_size=20
    ),
    split=st.booleans(),
)
@settings(max_examples=40)
def test_totals_are_the_sums_of_every_entry(entries, split, tmp_path_factory):
    study = tmp_path_factory.mktemp("ledger")
    for run, part, start in entries:
        place = study / "runs" / run if split else study
        append_entry(place / "ledger.jsonl", work(run, part, start, tokens=start))
    if not entries:
        return
    every, totals = (read(study / "ledger.jsonl") for read in (read_ledger, read_totals))
    keys = [(total.run, total.part) for total in totals]
    assert sorted(keys) == sorted({(entry.run, entry.part) for entry in every})
    for total in totals:
        own = [entry for entry in every if (entry.run, entry.part) == (total.run, total.part)]
        assert (total.from_step, total.to_step) == (
            min(entry.from_step for entry in own),
            max(entry.to_step for entry in own),
        )
        for field in ("tokens", "flops", "wall_s"):
            assert getattr(total, field) == pytest.approx(sum(getattr(entry, field) for entry in own))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("no json", r"ledger\.jsonl line 3: it is not JSON"),
        ("[]", "line 3: it is not an entry of a ledger"),
        ('{"run": "a"}', "line 3: it is not an entry of a ledger: 'part'"),
        ('{"run": "b", "part": "trunk"}', "line 3: from_step"),
        (
            work("a", "trunk", 1).model_dump_json().replace("64", '"many"'),
            "line 3: it is not an entry of a ledger",
        ),
        (work("a", "trunk", 1).model_dump_json().replace("3.0", "NaN"), "whose entries do not add up"),
    ],
)
def test_a_broken_entry_is_named_as_it_is_where_every_entry_is_read(line, message, tmp_path):
    append_entry(tmp_path / "ledger.jsonl", work("a", "trunk", 0))
    with (tmp_path / "ledger.jsonl").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(BadInput, match=message):
        read_totals(tmp_path / "ledger.jsonl")


def test_an_entry_that_is_being_written_and_a_ledger_that_is_not_there(tmp_path):
    append_entry(tmp_path / "ledger.jsonl", work("a", "trunk", 0))
    with (tmp_path / "ledger.jsonl").open("a") as file:
        file.write('{"run": "a", "par')
    assert [total.tokens for total in read_totals(tmp_path / "ledger.jsonl")] == [64]
    with pytest.raises(BadInput, match="cannot read"):
        read_totals(tmp_path / "none" / "ledger.jsonl")


@given(count=st.integers(0, 300), most=st.integers(1, 120))
def test_a_spread_is_in_order_even_and_has_both_ends(count, most):
    found = subsample_evenly(range(count), most)
    assert len(found) == min(count, most)
    assert list(found) == sorted(set(found))
    if count and most > 1:
        assert (found[0], found[-1]) == (0, count - 1)
        gaps = [after - before for before, after in itertools.pairwise(found)]
        assert not gaps or max(gaps) - min(gaps) <= 1


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """More runs than are read, drawn or told: all in one runs.jsonl, and a curve in a folder for each of the first."""
    study = tmp_path_factory.mktemp("large") / "study"
    append_run(study / "runs.jsonl", Run(run="r0", params=1e6, tokens=1e8, loss=4.0))
    rows = [
        {"run": f"r{k}", "params": 1e6 * (1 + k % 40), "tokens": 1e8 + 1e5 * k, "loss": 3 + 1 / (1 + k)}
        for k in range(1, MOST_DRAWN + 700)
    ]
    with (study / "runs.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    for k in range(MOST_READ + 20):
        folder = study / "runs" / f"r{k}"
        folder.mkdir(parents=True)
        rises = k == 1
        lines = [
            {"step": step, "tokens": 1e6 * step, "loss": 4 + (1 if rises else -1) * step / 40}
            for step in range(1, 21)
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return study


def test_figures_of_a_large_study_draw_a_few_and_the_page_says_how_many(large):
    seen = load_study(large)
    drawn = seen.subsampled
    assert len(seen.runs) == MOST_DRAWN + 700
    assert MOST_DRAWN <= len(drawn.runs) < len(seen.runs)
    assert min(seen.runs, key=lambda run: run.loss) in drawn.runs
    shown = {curve.run for curve in drawn.curves}
    assert len(shown) == MOST_CURVES
    assert shown <= {run.run for run in drawn.runs}
    said = " ".join(seen.warnings)
    assert f"figures draw {len(drawn.runs):,} of {len(seen.runs):,} observations" in said
    assert f"curves of {MOST_CURVES} of {MOST_READ + 20} runs" in said
    assert "the curves of 20 runs were not read" in said
    if "r1" in {curve.run for curve in seen.curves}:
        assert "which diverged: r1" in said


def test_what_was_sealed_is_drawn_whatever_else_is_not(large):
    seen = load_study(large)
    one = next(run for run in seen.runs if run not in seen.subsampled.runs)

    class Told:
        rows = (SimpleNamespace(runs=(one.run,)),)

    assert one in replace(seen, comparison=Told()).subsampled.runs


def test_a_study_of_a_few_runs_is_drawn_whole(tmp_path):
    for k in range(3):
        append_run(tmp_path / "runs.jsonl", Run(run=f"r{k}", params=1e6 * (k + 1), tokens=1e8, loss=3.0))
    seen = load_study(tmp_path)
    assert seen.subsampled.runs == seen.runs
    assert not any("figures draw" in doubt for doubt in seen.warnings)


def underway(folder, size, steps, *, finished=True):
    """A run's plan and, where it is finished, its result."""
    RunPlan(
        run=folder.name, rungs=(PlannedRung(steps=steps, folder="rung"),), batch_tokens=1024, lr=1e-3, warmup=1,
        schedule="wsd", params=size, params_non_embedding=size,
    ).write(folder / "underway.json")  # fmt: skip
    if finished:
        (folder / "rung").mkdir()
        (folder / "rung" / "rung.json").write_text('{"observation": {"loss": 3.0}}')


@pytest.mark.parametrize("count", [6, 3 * MOST_SIBLINGS])
def test_of_many_siblings_each_size_and_the_nearest_lengths_are_read(count, tmp_path):
    sizes = [1_000_000 * 2**k for k in range(5)]
    for k in range(count):
        underway(tmp_path / f"run{k:03}", sizes[k % 5], 100 + k // 5)
    underway(tmp_path / "own", sizes[2], 100, finished=False)
    found = read_siblings(tmp_path, read_run(tmp_path / "own"))
    assert len(found) == min(count, MOST_SIBLINGS)
    assert {one.plan.params for one in found} == set(sizes)
    longest = {size: max(one.plan.steps[0] for one in found if one.plan.params == size) for size in sizes}
    assert max(longest.values()) - min(longest.values()) <= 1  # as many of each, the nearest in length


def test_a_law_is_fitted_to_runs_that_nobody_gathered(cli, tmp_path):
    law = Law(E=1.8, A=480.0, B=2100.0, alpha=0.35, beta=0.37)
    for size, tokens in itertools.product((1e7, 3e7, 1e8, 3e8), (1e9, 1e10)):
        name = f"r{size:.0e}-{tokens:.0e}"
        run = Run(run=name, params=size, tokens=tokens, loss=float(law.loss(size, tokens)))
        append_run(tmp_path / "runs" / name / "runs.jsonl", run)
    done = cli("fit", "--study", tmp_path, "--form", "chinchilla", "--bootstrap", "0")
    assert done.returncode in (0, 1), done.stderr  # 1: eight runs without noise leave a fit doubtful
    assert "wrote" in done.stdout
    assert load_law(tmp_path / "law.json").inputs == hashes([tmp_path / "runs.jsonl"])


def test_a_plan_by_a_published_law_is_nothing_to_score(tmp_path):
    spec = ModelSpec(n_layer=2, n_head=4, n_embd=64, n_positions=128, vocab_size=1024)
    law = published_law("chinchilla")
    promise = PlannedLoss.of(law.predict(1e8, 2e9))
    member = PlannedMember.of("m", spec, tokens=2**20, recipe=recipe(spec, 2**20), prediction=promise)
    study = StudyPaths(tmp_path)
    write_plan(seal(PlanFile(law=law.reference, members=(member,))), study.plan)
    append_run(study.runs, Run(run="m-s0", params=member.params, tokens=2**20, loss=5.0))
    assert compared(study) is None

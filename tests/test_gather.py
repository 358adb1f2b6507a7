"""Several writers, one study: each run writes its own files, and readers put them together."""

import json
import multiprocessing
import re
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from families.units import BadInput
from scaling.runs import Run
from scaling.runs.readers import read_runs
from scaling.runs.store import (
    SHARDS,
    WorkEntry,
    append_entry,
    append_run,
    gather_runs,
    read_ledger,
    record_run,
)


def observation(run, tokens, loss=3.0, **more):
    return Run(run=run, params=1e6, tokens=tokens, loss=loss, **more)


def work(run, to_step):
    return WorkEntry(
        run=run,
        part="trunk",
        from_step=to_step - 1,
        to_step=to_step,
        tokens=1,
        flops=6.0,
        wall_s=1.0,
        settings_sha256="",
        at="2026-11-21T00:00:00Z",
    )


def own(study, run, name="runs.jsonl"):
    return study / "runs" / run / name


def test_a_study_is_read_with_its_runs_whether_or_not_they_were_gathered(tmp_path):
    study = tmp_path / "runs.jsonl"
    append_run(study, observation("by hand", 5))
    record_run(own(tmp_path, "b"), observation("b", 2))
    record_run(own(tmp_path, "b"), observation("b", 1))
    record_run(own(tmp_path, "a"), observation("a", 9))
    before = read_runs(study).runs
    assert [(run.run, run.tokens) for run in before] == [("by hand", 5), ("a", 9), ("b", 1), ("b", 2)]
    gather_runs(study)
    assert read_runs(study).runs == before
    alone = tmp_path / "elsewhere" / "runs.jsonl"
    alone.parent.mkdir()
    alone.write_bytes(study.read_bytes())
    assert read_runs(alone).runs == before


@given(rows=st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 5), st.booleans()), max_size=12))
@settings(max_examples=40)
def test_gathering_in_any_order_and_as_often_as_one_likes_gives_one_file(rows, tmp_path_factory):
    eager, late = tmp_path_factory.mktemp("eager"), tmp_path_factory.mktemp("late")
    for study, order in ((eager, rows), (late, list(reversed(rows)))):
        for run, tokens, gathers in order:
            record_run(own(study, run), observation(run, tokens))
            if gathers and study is eager:
                gather_runs(study / "runs.jsonl")
        gather_runs(study / "runs.jsonl")
    if rows:
        assert read_runs(eager / "runs.jsonl").runs == read_runs(late / "runs.jsonl").runs
        assert len(read_runs(eager / "runs.jsonl").runs) == len({row[:2] for row in rows})
        mark = (eager / "runs.jsonl").stat().st_mtime_ns
        gather_runs(eager / "runs.jsonl")
        assert (eager / "runs.jsonl").stat().st_mtime_ns == mark


def test_what_a_person_wrote_stays_even_where_it_is_wrong_and_is_named(tmp_path):
    study = tmp_path / "runs.jsonl"
    study.write_text('{"run": "mine", "params": 1e6, "tokens": 4, "loss": 2}\n{"run": "slip",\n')
    record_run(own(tmp_path, "a"), observation("a", 1))
    gather_runs(study)
    with pytest.raises(BadInput, match="line 2: it is not JSON"):
        read_runs(study)
    good = read_runs(study, max_bad_share=0.5).runs
    assert [run.run for run in good] == ["mine", "a"]


def test_a_line_that_another_machine_is_just_writing_is_not_there_yet(tmp_path):
    record_run(own(tmp_path, "a"), observation("a", 1))
    append_entry(own(tmp_path, "a", "ledger.jsonl"), work("a", 1))
    for name in ("runs.jsonl", "ledger.jsonl"):
        with own(tmp_path, "a", name).open("a") as file:
            file.write('{"run": "a", "tok')
    assert len(read_runs(tmp_path / "runs.jsonl").runs) == 1
    assert len(read_ledger(tmp_path / "ledger.jsonl")) == 1
    record_run(own(tmp_path, "a"), observation("a", 2))
    assert len(read_runs(tmp_path / "runs.jsonl").runs) == 2


def test_a_broken_line_in_a_runs_own_file_is_named_with_its_file(tmp_path):
    own(tmp_path, "a").parent.mkdir(parents=True)
    own(tmp_path, "a").write_text("no json\n")
    record_run(own(tmp_path, "b"), observation("b", 1))
    found = read_runs(tmp_path / "runs.jsonl")
    assert [run.run for run in found] == ["b"]
    (line,) = found.bad
    assert "runs/a/runs.jsonl line 1: it is not JSON" in line


@pytest.mark.parametrize(
    "row",
    [
        '{"run": "a", "tokens": "many", "loss": 3}',
        '{"run": "a", "tokens": NaN, "loss": 3}',
        '{"run": "a", "loss": 3}',
        '{"tokens": 5, "loss": 3}',
    ],
)
def test_a_shard_row_that_does_not_say_which_observation_it_is_is_named_and_poisons_no_study(row, tmp_path):
    record_run(own(tmp_path, "a"), observation("a", 1))
    with own(tmp_path, "a").open("a") as file:
        file.write(row + "\n")
    record_run(own(tmp_path, "a"), observation("a", 2))
    record_run(own(tmp_path, "b"), observation("b", 1))
    for _ in range(2):
        found = read_runs(tmp_path / "runs.jsonl")
        assert [(run.run, run.tokens) for run in found] == [("a", 1), ("a", 2), ("b", 1)]
        (line,) = found.bad
        assert re.search(r"runs/a/runs\.jsonl line 3: run .*needs a run and a number of tokens", line)
        gather_runs(tmp_path / "runs.jsonl")


@pytest.mark.parametrize("loss", ["NaN", "-1", "null", '"x"'])
def test_a_shard_row_whose_loss_is_none_is_named_and_the_other_runs_are_read(loss, tmp_path):
    record_run(own(tmp_path, "a"), observation("a", 1))
    own(tmp_path, "a").open("a").write(f'{{"run": "a", "params": 1e6, "tokens": 2, "loss": {loss}}}\n')
    record_run(own(tmp_path, "b"), observation("b", 1))
    gather_runs(tmp_path / "runs.jsonl")
    found = read_runs(tmp_path / "runs.jsonl")
    assert [(run.run, run.tokens) for run in found] == [("a", 1), ("b", 1)]
    (line,) = found.bad
    assert line.startswith("runs/a/runs.jsonl: loss")


def test_rows_of_a_deleted_run_go_with_its_folder_and_others_stay(tmp_path):
    append_run(tmp_path / "runs.jsonl", observation("by hand", 5))
    for run in "ab":
        record_run(own(tmp_path, run), observation(run, 1))
    gather_runs(tmp_path / "runs.jsonl")
    shutil.rmtree(tmp_path / "runs" / "a")
    for _ in range(2):
        assert [run.run for run in read_runs(tmp_path / "runs.jsonl")] == ["by hand", "b"]
        gather_runs(tmp_path / "runs.jsonl")
    assert '"a"' not in (tmp_path / "runs.jsonl").read_text()
    shutil.rmtree(tmp_path / "runs")
    assert len(read_runs(tmp_path / "runs.jsonl")) == 2, (
        "the view alone, as it is sent to others, keeps every row"
    )


def test_rows_merge_by_the_size_that_their_tokens_state_and_never_by_tokens_that_state_none(tmp_path):
    record_run(own(tmp_path, "a"), observation("a", 5e6))
    path = tmp_path / "runs.jsonl"
    mine = [
        {"run": "a", "params": 1e6, "tokens": tokens, "loss": 2.0} for tokens in ("5M", "7M", "many", None)
    ]
    mine[0]["eval_set"] = None
    path.write_text("".join(json.dumps(row) + "\n" for row in mine))
    gather_runs(path)
    assert [json.loads(line)["tokens"] for line in path.read_text().splitlines()] == ["7M", "many", None, 5e6]
    assert [run.tokens for run in read_runs(path, max_bad_share=0.5)] == [7e6, 5e6]


def test_a_ledger_of_one_file_and_ledgers_of_runs_are_read_as_one(tmp_path):
    append_entry(tmp_path / "ledger.jsonl", work("old", 1))
    for run in ("b", "a"):
        for step in (1, 2):
            append_entry(own(tmp_path, run, "ledger.jsonl"), work(run, step))
    found = [(entry.run, entry.to_step) for entry in read_ledger(tmp_path / "ledger.jsonl")]
    assert found == [("old", 1), ("a", 1), ("a", 2), ("b", 1), ("b", 2)]


def _write_and_gather(folder, run, count):
    for tokens in range(1, count + 1):
        record_run(own(folder, run), observation(run, tokens))
        gather_runs(folder / "runs.jsonl")


def test_writers_in_several_processes_lose_nothing(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [
        context.Process(target=_write_and_gather, args=(tmp_path, f"run{index}", 15)) for index in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    study = tmp_path / "runs.jsonl"
    assert len(read_runs(study).runs) == 60
    gather_runs(study)
    lines = study.read_text().splitlines()
    assert len(lines) == 61
    assert json.loads(lines[0])["kind"] == "runs"


def test_half_a_last_line_does_not_come_to_stand_among_the_rows(tmp_path):
    path = tmp_path / "runs.jsonl"
    part = tmp_path / SHARDS / "one" / "runs.jsonl"
    part.parent.mkdir(parents=True)
    part.write_text('{"run": "a", "tokens": 5, "loss": 3.0}\n')
    for slip, kept in (('{"run": "x", "lo', False), ('{"run": "x", "lo\n', True)):
        path.write_text('{"kind": "runs", "version": 1}\n' + slip)
        gather_runs(path)
        lines = path.read_text().splitlines()
        assert ('{"run": "x", "lo' in lines) == kept, "a person's slip in a whole line is not thrown away"
        assert lines[-1].startswith('{"run": "a"')

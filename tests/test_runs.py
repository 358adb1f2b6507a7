"""Readers: every format gives the same rows, every bad row is named, and too many are refused."""

import json

import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from families import member
from families.architectures import architecture
from families.units import BadInput
from scaling.auditing import audit
from scaling.runs import Run, by_group, columns
from scaling.runs.readers import parse_columns, read_runs
from scaling.runs.store import append_run
from scaling.runs.trackers import read_scalars

GOOD = [Run(run=f"r{i}", params=1e7 * (i + 1), tokens=2e8 * (i + 1), loss=4 - 0.1 * i) for i in range(5)]


def csv(tmp_path, header, rows, name="runs.csv"):
    path = tmp_path / name
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_csv_and_jsonl_give_the_same_runs(tmp_path):
    table = csv(tmp_path, "run,params,tokens,loss", [f"{r.run},{r.params},{r.tokens},{r.loss}" for r in GOOD])
    ledger = tmp_path / "runs.jsonl"
    for run in GOOD:
        append_run(ledger, run)
    assert read_runs(table).runs == read_runs(ledger).runs == tuple(GOOD)


@pytest.mark.parametrize("name", ["runs.csv", "runs.jsonl"])
def test_a_mark_of_the_byte_order_is_no_part_of_the_first_column(tmp_path, name):
    path = tmp_path / name
    if name == "runs.csv":
        csv(tmp_path, "run,params,tokens,loss", [f"{r.run},{r.params},{r.tokens},{r.loss}" for r in GOOD])
    else:
        path.write_text("".join(run.model_dump_json(exclude_none=True) + "\n" for run in GOOD))
    plain = audit(path).findings
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # as a spreadsheet saves "CSV UTF-8"
    assert read_runs(path).runs == tuple(GOOD)
    assert audit(path).findings == plain


def test_sizes_are_read_as_people_write_them_and_columns_by_their_own_names(tmp_path):
    path = csv(tmp_path, "run,N,D,loss,mood", ["a,52M,4.6B,3.43,fine"])
    found = read_runs(path, column_names=parse_columns("params=N, tokens=D"))
    assert (found.runs[0].params, found.runs[0].tokens) == (52e6, 4.6e9)
    assert found.ignored_columns == ("mood",)


@pytest.mark.parametrize(
    ("text", "message"),
    [("params", "must be like"), ("parms=N", "did you mean params"), ("params=", "must be like")],
)
def test_a_wrong_columns_option_says_what_is_allowed(text, message):
    with pytest.raises(BadInput, match=message):
        parse_columns(text)


def test_bad_rows_are_named_by_line_and_reason_and_refused_past_the_share_allowed(tmp_path):
    rows = ["a,1e7,2e8,4.0", "b,1e7,2e8,-1", "c,1e7,2e8", "d,1e7,many,4.0", "e,1e7,2e8,3.9"]
    path = csv(tmp_path, "run,params,tokens,loss", rows)
    with pytest.raises(BadInput, match=r"line 3: loss is '-1'.*2 more of 5 rows.*at most 0%"):
        read_runs(path)
    found = read_runs(path, max_bad_share=0.6)
    assert [run.run for run in found.runs] == ["a", "e"]
    assert [line.split(":")[0] for line in found.bad] == ["line 3", "line 4", "line 5"]
    with pytest.raises(BadInput, match="at most 50%"):
        read_runs(path, max_bad_share=0.5)


@pytest.mark.parametrize("loss", ["nan", "inf", "0"])
def test_a_loss_that_is_no_loss_is_a_bad_row(tmp_path, loss):
    with pytest.raises(BadInput, match="loss"):
        read_runs(csv(tmp_path, "run,params,tokens,loss", [f"a,1e7,2e8,{loss}"]))


def test_a_row_without_any_size_is_a_bad_row(tmp_path):
    with pytest.raises(BadInput, match="params and params_non_embedding are both missing"):
        read_runs(csv(tmp_path, "run,params,tokens,loss", ["a,,2e8,4.0", "b,1e7,2e8,4.0"]))


def test_an_empty_file_has_no_runs(tmp_path):
    with pytest.raises(BadInput, match="0 runs"):
        read_runs(csv(tmp_path, "run,params,tokens,loss", []))
    with pytest.raises(BadInput, match="does not exist"):
        read_runs(tmp_path / "nowhere.csv")


def test_mixed_conventions_are_refused_and_a_missing_one_is_named():
    mixed = [GOOD[0], Run(run="x", params_non_embedding=1e6, tokens=1e8, loss=4)]
    with pytest.raises(BadInput, match="one convention"):
        columns(mixed)
    with pytest.raises(BadInput, match="has no params_non_embedding"):
        columns(GOOD, "non_embedding")


def test_columns_keep_the_order_and_number_the_runs():
    table = columns([GOOD[1], GOOD[0], GOOD[1]])
    assert table.cluster.tolist() == [0, 1, 0]
    assert table.C.tolist() == [6 * r.params * r.tokens for r in (GOOD[1], GOOD[0], GOOD[1])]
    assert (table.U == table.D).all()


def test_groups_keep_the_order_in_which_they_appear():
    runs = [run.model_copy(update={"group": g}) for run, g in zip(GOOD, "babab", strict=True)]
    assert {name: len(rows) for name, rows in by_group(runs).items()} == {"b": 3, "a": 2}


def config(folder):
    spec = member("gpt2").spec
    folder.mkdir(parents=True, exist_ok=True)
    values = architecture("gpt2").to_hugging_face(spec)
    (folder / "config.json").write_text(json.dumps({**values, "model_type": "gpt2"}))


def state(folder, steps, seen=True, **extra):
    log = [
        {"step": s, "eval_loss": 5 - s / 1000, **({"num_input_tokens_seen": 524288 * s} if seen else {})}
        for s in steps
    ]
    folder.mkdir(parents=True, exist_ok=True)
    value = {
        "global_step": steps[-1],
        "max_steps": 1000,
        "log_history": [{"step": 1, "loss": 9.0}, *log],
        **extra,
    }
    (folder / "trainer_state.json").write_text(json.dumps(value))


def test_a_trainer_state_gives_its_evaluations_and_only_the_last_is_annealed(tmp_path):
    run = tmp_path / "small"
    config(run)
    state(run, [500, 1000])
    found = read_runs(run / "trainer_state.json").runs
    assert [(r.run, r.params, r.tokens, r.loss, r.annealed) for r in found] == [
        ("small", 124439808, 524288 * 500, 4.5, False),
        ("small", 124439808, 524288 * 1000, 4.0, True),
    ]


def test_tokens_are_told_by_total_flos_where_the_log_does_not(tmp_path):
    run = tmp_path / "small"
    config(run)
    body = 124439808 - 50257 * 768 - 1024 * 768
    state(run, [1000], seen=False, total_flos=6 * body * 1000 * 524288)
    assert read_runs(run).runs[0].tokens == pytest.approx(1000 * 524288)


def test_a_folder_of_runs_is_read_once_per_run_not_once_per_checkpoint(tmp_path):
    for name in ("a", "b"):
        config(tmp_path / name)
        state(tmp_path / name / "checkpoint-500", [500])
        state(tmp_path / name / "checkpoint-1000", [500, 1000])
    found = read_runs(tmp_path).runs
    assert [(r.run, r.annealed) for r in found] == [("a", False), ("a", True), ("b", False), ("b", True)]


def test_a_trainer_state_without_sizes_says_so(tmp_path):
    state(tmp_path / "bare", [1000])
    with pytest.raises(BadInput, match=r"no config\.json"):
        read_runs(tmp_path / "bare")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(BadInput, match=r"holds no trainer_state\.json"):
        read_runs(empty)


def test_a_tensorboard_file_gives_losses_at_the_steps_that_have_tokens(tmp_path):
    run = tmp_path / "small"
    config(run)
    writer = EventFileWriter(str(run))
    for step in (10, 20):
        for tag, value in (("tokens", 1e6 * step), ("eval/loss", 5 - step / 10)):
            writer.add_event(
                Event(step=step, summary=Summary(value=[Summary.Value(tag=tag, simple_value=value)]))
            )
    writer.close()
    (path,) = run.glob("events.*")
    with path.open("ab") as file:
        file.write(b"\x50\0\0")  # a half-written record at the end is no error
    assert list(read_scalars(path))[1] == (10, "eval/loss", 4.0)
    assert [(r.tokens, r.loss, r.annealed) for r in read_runs(path).runs] == [
        (1e7, 4.0, False),
        (2e7, 3.0, True),
    ]


def test_a_table_under_other_names_is_told_how_to_say_them(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("model,N,D,val_loss\na,1e6,1e8,3.1\n")
    with pytest.raises(BadInput, match="--columns run=model,params=N,tokens=D,loss=val_loss"):
        read_runs(path)
    named = parse_columns("run=model,params=N,tokens=D,loss=val_loss")
    assert read_runs(path, column_names=named).runs[0].params == 1e6


def test_a_table_that_lacks_columns_names_them_and_those_it_has(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("flops,loss\n1e18,3.1\n")
    with pytest.raises(
        BadInput, match="has no column params or params_non_embedding, tokens; it has flops, loss"
    ):
        read_runs(path)


def test_an_audit_of_a_table_that_is_not_one_of_runs_tries_no_fit(tmp_path):
    path = tmp_path / "models.csv"
    path.write_text("model,params,tokens,loss,ppl\na,1M,100M,3.0,20.09\n")
    assert all(finding.check != "runs" for finding in audit(path).findings)

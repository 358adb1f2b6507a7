"""Readers: every format gives the same rows, every bad row is named, and too many are refused."""

import json
import sys
from dataclasses import FrozenInstanceError
from types import SimpleNamespace

import numpy as np
import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from families import member
from families.architectures import architecture
from families.units import BadInput
from scaling.auditing import audit
from scaling.fitting.fit import fit
from scaling.runs import Run, RunTable
from scaling.runs.events import read_scalars
from scaling.runs.readers import parse_columns, read_runs
from scaling.runs.store import append_run

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
        _ = RunTable.of(mixed).N
    with pytest.raises(BadInput, match="has no params_non_embedding"):
        _ = RunTable.of(GOOD, "non_embedding").N


def test_columns_keep_the_order_and_number_the_runs():
    table = RunTable.of([GOOD[1], GOOD[0], GOOD[1]])
    assert table.cluster.tolist() == [0, 1, 0]
    assert table.C.tolist() == [6 * r.params * r.tokens for r in (GOOD[1], GOOD[0], GOOD[1])]
    assert (table.U == table.D).all()


def test_groups_keep_the_order_in_which_they_appear():
    runs = [run.model_copy(update={"group": g}) for run, g in zip(GOOD, "babab", strict=True)]
    assert {name: len(rows) for name, rows in RunTable.of(runs).by_group().items()} == {"b": 3, "a": 2}


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


NOISY = "a,1e7,2e8,4.0\nb,2e7,2e8,-1\na,1e7,2e8,4.0\nc,3e7,4e8,3.9\n"


@pytest.fixture
def doubtful(tmp_path):
    """A table with a bad row and two copies of one row."""
    return read_runs(
        csv(tmp_path, "run,params,tokens,loss,mood", [f"{row},fine" for row in NOISY.split()]),
        max_bad_share=0.5,
    )


def test_slices_selections_and_groups_of_a_table_keep_what_its_reader_had_to_say(doubtful):
    assert doubtful.warnings
    assert doubtful.bad
    parts = [doubtful[1:], doubtful.select(lambda run: run.run == "a"), doubtful.select(doubtful.L < 4)]
    parts += [*doubtful.by_group().values(), doubtful.counted("total"), RunTable.of(doubtful)]
    for part in parts:
        assert (part.warnings, part.bad, part.ignored_columns) == (doubtful.warnings, doubtful.bad, ("mood",))
    assert [len(part) for part in parts] == [2, 2, 1, 3, 3, 3]
    assert parts[0].cluster.tolist() == [0, 1]


def test_no_warning_of_a_reader_is_lost_on_the_way_into_the_fit_card(tmp_path):
    rows = [
        f"r{i},{n},{d},{2 + 400 / n**0.34 + 400 / d**0.28}"
        for i, (n, d) in enumerate((n, d) for n in (1e6, 3e6, 9e6) for d in (1e8, 3e8, 9e8))
    ]
    table = read_runs(
        csv(tmp_path, "run,params,tokens,loss", [*rows, rows[0], "x,1,2,-1"]), max_bad_share=0.5
    )
    assert table.warnings
    found = fit(table, form="chinchilla", bootstrap=0)
    assert all(line in found.card["warnings"] for line in table.warnings)
    assert "1 bad row (line 12)" in found.card["exclusions"]


def test_a_table_is_a_sequence_of_runs(doubtful):
    table = RunTable(GOOD)
    assert list(table) == [table[row] for row in range(len(table))] == list(table[::-1])[::-1]
    assert GOOD[2] in table
    assert table.index(GOOD[2]) == 2
    assert table == RunTable(GOOD) != RunTable(GOOD[1:])
    assert len({table, RunTable(GOOD)}) == 1
    with pytest.raises(FrozenInstanceError):
        table.runs = ()


@pytest.mark.parametrize("convention", ["total", "non_embedding"])
def test_arrays_and_runs_give_the_same_table_and_the_same_fit(convention):
    N, D = (axis.ravel() for axis in np.meshgrid([1e6, 3e6, 9e6], [1e8, 3e8, 9e8]))
    loss = 1.8 + 480 / N**0.35 + 2085 / D**0.37
    table = RunTable.from_arrays(N=N, D=D, loss=loss, convention=convention)
    assert (table.convention, table.cluster.tolist()) == (convention, list(range(9)))
    for array, given in ((table.N, N), (table.D, D), (table.L, loss), (table.U, D), (table.C, 6 * N * D)):
        assert (array == given).all()
    options = {"form": "chinchilla", "convention": convention, "bootstrap": 0}
    assert fit(N=N, D=D, loss=loss, **options).main_form.law == fit(list(table), **options).main_form.law


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"N": [1e6], "D": [1e8]}, "no runs and no loss"),
        ({"N": [1e6, 1e7], "D": [1e8], "loss": [3.0]}, r"params \(2,\), tokens \(1,\)"),
        ({"N": [1e6], "D": [1e8], "loss": [-3.0]}, "row 1: loss is -3.0"),
        ({"runs": GOOD, "loss": [3.0]}, "runs are given and so are the arrays loss"),
    ],
)
def test_a_fit_of_neither_runs_nor_three_like_arrays_is_refused(arrays, message):
    with pytest.raises(BadInput, match=message):
        fit(**arrays)


def test_an_option_that_fit_does_not_have_is_a_type_error():
    with pytest.raises(TypeError, match="nonsense"):
        fit(GOOD, nonsense=1)


def test_the_arrays_of_a_selection_are_the_selection_of_the_arrays_replaced_ones_too():
    table = RunTable(GOOD).with_arrays(N=np.arange(1.0, 6.0))
    rows = table.select(table.D > 4e8)
    for name in ("N", "D", "U", "C", "L"):
        assert (getattr(rows, name) == getattr(table, name)[2:]).all()
    assert table.counted("total").N.tolist() == [run.params for run in GOOD]


def test_a_run_counts_its_n_by_either_convention_and_says_which_it_lacks():
    both = Run(run="a", params=3e6, params_non_embedding=2e6, tokens=1e8, loss=3)
    assert [both.n_params(), both.n_params("total"), both.n_params("non_embedding")] == [3e6, 3e6, 2e6]
    assert RunTable([both]).counted("non_embedding").N.tolist() == [2e6]
    with pytest.raises(BadInput, match="'r0' has no params_non_embedding"):
        GOOD[0].n_params("non_embedding")


def test_a_table_shows_its_ranges_and_its_warnings(doubtful):
    text = repr(doubtful)
    assert text.startswith("RunTable: 3 rows of 2 runs, N 10M to 30M, D 200M to 400M, loss 3.9000 to 4.0000")
    assert all(line in text for line in (*doubtful.warnings, *doubtful.bad))
    assert repr(RunTable()) == "RunTable: 0 rows of 0 runs"


def test_a_data_frame_has_a_column_for_each_field_that_is_stated(monkeypatch):
    frames = []
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=frames.append))
    RunTable([GOOD[0], GOOD[1].model_copy(update={"lr": 1e-3})]).to_pandas()
    assert {name: list(values) for name, values in frames[0].items()} == {
        "run": ["r0", "r1"],
        "params": [1e7, 2e7],
        "tokens": [2e8, 4e8],
        "loss": [4.0, 3.9],
        "annealed": [True, True],
        "lr": [None, 1e-3],
    }
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(BadInput, match="pip install pandas"):
        RunTable(GOOD).to_pandas()

"""Tables as programs and spreadsheets write them: each dialect and format gives the runs of the plain table, in fit and audit."""

import json
import sys
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from families.units import BadInput
from scaling.auditing import audit
from scaling.runs.columns import is_known, loss_name
from scaling.runs.dialect import read_delimited
from scaling.runs.mapping import parse_columns
from scaling.runs.readers import read_runs
from scaling.runs.sheet import read_sheet

ROWS = [
    ("a", 15_250_000, 1_234_567_000, 4.5374),
    ("b", 124_439_808, 2_500_000_000, 3.125),
    ("c", 350_000_000, 7_000_000_000, 2.9083),
]
HEADER = ("run", "params", "tokens", "loss")


def numbers(table):
    return [(run.run, run.params, run.tokens, run.loss) for run in table]


def plain(text, mark=".", group=""):
    """A number as a spreadsheet of some country prints it."""
    return text.replace(",", "\0").replace(".", mark).replace("\0", group)


def lines(delimiter, mark=".", group="", quote=""):
    rows = [
        [name, plain(f"{N:,}", mark, group), plain(f"{D:,}", mark, group), plain(f"{L:.4f}", mark, group)]
        for name, N, D, L in ROWS
    ]
    return "".join(delimiter.join(f"{quote}{cell}{quote}" for cell in row) + "\n" for row in [HEADER, *rows])


DIALECTS = {
    "semicolons and decimal commas": (lines(";", ","), "utf-8"),
    "points between thousands": (lines(";", ",", "."), "utf-8"),
    "tabs and decimal commas": (lines("\t", ","), "utf-8"),
    "bars": (lines("|"), "utf-8"),
    "quoted decimal commas between commas": (lines(",", ",", "", '"'), "utf-8"),
    "quoted commas between thousands": (lines(",", ".", ",", '"'), "utf-8"),
    "thin spaces between thousands": (lines(",", ".", "\u202f"), "utf-8"),
    "no-break spaces of a French spreadsheet": (lines(";", ",", "\u00a0"), "cp1252"),
    "apostrophes between thousands": (lines(";", ".", "\u2019"), "utf-8"),
    "UTF-16 as Excel's Unicode text": (lines("\t", ","), "utf-16"),
    "UTF-16 without a mark": (lines(","), "utf-16-le"),
    "UTF-8 with a mark": (lines(","), "utf-8-sig"),
    "a title and an empty row": ("Our runs,,,\n,,,\n" + lines(","), "utf-8"),
    "remarks before and among the rows": ("# exported by me\n" + lines(",") + "# end\n", "utf-8"),
    "a header after a sign, as numpy writes it": ("# " + lines(";"), "utf-8"),
    "a spreadsheet's line on its delimiter": ("sep=;\r\n" + lines(";", ",").replace("\n", "\r\n"), "utf-8"),
    "a remark below the rows": (lines(",") + "Source: our paper\n", "utf-8"),
    "spaces between cells": (lines(" ").replace(" ", "   "), "utf-8"),
    "empty cells beyond the last column": (lines(",").replace("\n", ",,\n"), "utf-8"),
}


@pytest.mark.parametrize("name", DIALECTS)
def test_every_dialect_gives_the_plain_tables_runs_to_fit_and_to_audit(name, tmp_path):
    text, encoding = DIALECTS[name]
    path, base = tmp_path / "table.csv", tmp_path / "base.csv"
    path.write_bytes(text.encode(encoding))
    base.write_text(lines(","))
    assert numbers(read_runs(path)) == ROWS
    assert [(found.check, found.verdict) for found in audit(path).findings] == [
        (found.check, found.verdict) for found in audit(base).findings
    ]


def test_what_was_decided_about_numbers_and_lines_is_said(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("Our runs;;;\n" + lines(";", ",", "."))
    for notes in (read_runs(path).warnings, audit(path).notes):
        assert any(note.endswith("not read: 'Our runs'") for note in notes)
        assert any("decimal comma: 15.250.000 is read as 15250000" in note for note in notes)


def test_a_row_of_units_below_the_header_scales_its_columns(tmp_path):
    path = tmp_path / "table.csv"
    rows = [(name, N / 1e6, D / 1e9, L) for name, N, D, L in ROWS]
    path.write_text(
        "\n".join(",".join(map(str, row)) for row in [HEADER, ("", "millions", "billions", "nats"), *rows])
    )
    found = read_runs(path)
    assert [(run.params, run.tokens) for run in found] == [
        (pytest.approx(N), pytest.approx(D)) for _, N, D, _ in ROWS
    ]
    assert sum("in units of" in line for line in found.warnings) == 2


def test_what_stands_below_a_table_is_said_and_a_row_cut_off_is_none_of_it(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(lines(",") + "Source: our paper\n")
    assert read_runs(path).warnings == ("1 line below the table not read: 'Source: our paper'",)
    path.write_text(lines(",") + "d,1e6\n")
    with pytest.raises(BadInput, match="line 5: it has 2 cells where the header has 4"):
        read_runs(path)


@pytest.mark.parametrize(
    "header",
    [
        "Step,a - val/loss,a - val/loss__MIN,a - val/loss__MAX",
        "train/global_step,a - eval/loss,b - eval/loss",
    ],
)
def test_the_export_of_a_panel_is_refused_with_what_to_export_instead(header, tmp_path):
    path = tmp_path / "panel.csv"
    path.write_text(
        f"{header}\n" + "".join(f"{','.join('1' for _ in header.split(','))}\n" for _ in range(3))
    )
    with pytest.raises(BadInput, match=r"one W&B panel.*export the table of runs instead"):
        read_runs(path)


def test_the_history_of_one_run_is_read_with_a_size_in_place_of_a_column(tmp_path):
    path = tmp_path / "gpt-s.csv"
    rows = [f"{step},{step * 2.5},{5 - step / 1000},{step * 524288}" for step in range(100, 600, 100)]
    path.write_text("\n".join(["_step,_runtime,eval/loss,train/num_input_tokens_seen", *rows]) + "\n")
    with pytest.raises(BadInput, match="--columns params=124M gives that of every row"):
        read_runs(path)
    found = read_runs(path, column_names=parse_columns("params=124M"))
    assert {(run.run, run.params) for run in found} == {("gpt-s", 124e6)}
    assert [run.annealed for run in found] == [False] * 4 + [True], "checkpoints of one run"


@pytest.mark.parametrize(
    ("cells", "loss"),
    [
        (["5,718", "1,5"], 5.718),  # the column's other cell proves a decimal comma
        (["5,718", "1,234,567"], 5718.0),  # and here groups of thousands
        (["5.718", "1,234.5"], 5.718),
    ],
)
def test_a_number_that_could_be_two_is_read_by_what_its_column_proves(cells, loss):
    text = "run,loss\n" + "".join(f'r,"{cell}"\n' for cell in cells)
    assert float(read_delimited(text, is_known).rows[0][1][1]) == loss


def test_a_loss_that_could_be_two_numbers_is_refused_not_chosen(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text('run,params,tokens,loss\na,1e6,2e7,"5,718"\n')
    with pytest.raises(BadInput, match="line 2: loss is '5,718'"):
        read_runs(path)


@given(st.floats(1e-4, 1e12), st.sampled_from([";", "\t"]))
def test_a_column_of_decimal_commas_holds_what_was_printed(value, delimiter):
    text = f"run{delimiter}loss\na{delimiter}{value:.4f}\nb{delimiter}0,5000\n".replace(".", ",")
    assert float(read_delimited(text, is_known).rows[0][1][1]) == float(f"{value:.4f}")


RECORDS = [dict(zip(HEADER, row, strict=True)) for row in ROWS]
DOCUMENTS = {
    "records": RECORDS,
    "by column": {name: {str(i): row[name] for i, row in enumerate(RECORDS)} for name in HEADER},
    "by row": {row["run"]: {name: row[name] for name in HEADER[1:]} for row in RECORDS},
    "split": {"columns": list(HEADER), "index": [0, 1, 2], "data": [list(row) for row in ROWS]},
    "table": {"schema": {"fields": []}, "data": RECORDS},
    "lists": {name: [row[name] for row in RECORDS] for name in HEADER},
    "under a name": {"runs": RECORDS, "made": "today"},
    "rows under a header": [list(HEADER), *map(list, ROWS)],
}


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.parametrize("suffix", [".json", ".txt"])
def test_json_in_every_shape_that_pandas_writes_gives_the_same_runs(name, suffix, tmp_path):
    path = tmp_path / f"table{suffix}"
    path.write_text(json.dumps(DOCUMENTS[name], indent=1))
    assert numbers(read_runs(path)) == ROWS
    assert audit(path).rows == len(ROWS)


def test_a_markdown_table_gives_the_same_runs(tmp_path):
    path = tmp_path / "card.md"
    rows = [HEADER, ("---",) * 4, *ROWS]
    path.write_text("# A card\n\n" + "".join("| " + " | ".join(map(str, row)) + " |\n" for row in rows))
    assert numbers(read_runs(path)) == ROWS


def test_objects_in_cells_become_columns_as_json_or_as_python_prints_them(tmp_path):
    path = tmp_path / "project.csv"  # what the documented export of W&B writes
    config = {"lr": 6e-4, "model": {"n_params": 1_000_000}, "seed": {"value": 3, "desc": None}}
    for show in (repr, json.dumps):
        cell = show(config).replace('"', '""')
        path.write_text(
            f'summary,config,name\n"{show({"val": {"loss": 3.5}, "tokens": 2e7}).replace(chr(34), chr(34) * 2)}","{cell}",a\n'
        )
        sheet = read_sheet(path)
        assert {"summary.val.loss", "config.model.n_params", "config.seed", "name"} <= set(sheet.header)
        (run,) = read_runs(path)
        assert (run.run, run.params, run.tokens, run.loss, run.seed) == ("a", 1e6, 2e7, 3.5, 3)


def test_a_column_that_stands_twice_keeps_both_and_the_first_counts(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("run,params,tokens,loss,loss\na,1e6,2e7,3.0,9.0\n")
    found = read_runs(path)
    assert found[0].loss == 3.0
    assert found.ignored_columns == ("loss.1",)
    assert read_runs(path, column_names={"loss": "loss.1"})[0].loss == 9.0


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x1f\x8b\x08\0junk", "is compressed"),
        (b"\xd0\xcf\x11\xe0junk", "Excel's old format"),
        (b"PK\x03\x04junk", "broken zip file"),
        (b"\0\1\2\3\xff\xfe", "is not UTF-8 text"),
        (b"[1, 2]", "not a JSON object but int"),
        (b'{"a": 1}', "is JSON, but no table"),
    ],
)
def test_bytes_that_are_no_table_are_named_in_one_line(data, said, tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes(data)
    for read in (read_runs, audit):
        with pytest.raises(BadInput, match=said):
            read(path)


def test_a_log_for_people_is_said_to_be_one(tmp_path):
    path = tmp_path / "train.log"
    path.write_text("[INFO] epoch 0, loss 10.9 after 40 s\n[INFO] epoch 1, loss 10.8 after 80 s\n" * 5)
    with pytest.raises(BadInput, match=r"is no log that is known here .* and no table"):
        read_runs(path)


# Excel and Parquet


def test_excel_and_parquet_need_an_extra_that_one_line_names(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    book, parquet = tmp_path / "runs.xlsx", tmp_path / "runs.parquet"
    with zipfile.ZipFile(book, "w") as parts:
        parts.writestr("xl/workbook.xml", "")
    parquet.write_bytes(b"PAR1")
    for path in (book, parquet):
        with pytest.raises(BadInput, match=r"needs pandas .*: pip install 'scaling-planner\[tables\]'$"):
            read_runs(path)


def test_excel_and_parquet_give_the_same_runs(tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("openpyxl")
    frame = pandas.DataFrame(RECORDS)
    book, parquet = tmp_path / "runs.xlsx", tmp_path / "runs.parquet"
    with pandas.ExcelWriter(book) as writer:
        pandas.DataFrame({"read me": ["numbers of the spring"]}).to_excel(
            writer, sheet_name="About", index=False
        )
        frame.to_excel(writer, sheet_name="Runs", index=False, startrow=2)
    frame.to_parquet(parquet)
    assert numbers(read_runs(book)) == numbers(read_runs(parquet)) == ROWS
    assert audit(book).rows == audit(parquet).rows == len(ROWS)
    assert "sheet 'Runs' of 2 is read" in read_runs(book).warnings


# Names of columns


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("loss=word_perplexity,none", {"loss": "word_perplexity,none"}),
        ("loss=word_perplexity,none,params=N", {"loss": "word_perplexity,none", "params": "N"}),
        ('loss="a,b=c", tokens=D', {"loss": "a,b=c", "tokens": "D"}),
        ("loss=lm-loss-validation/lm loss validation", {"loss": "lm-loss-validation/lm loss validation"}),
    ],
)
def test_columns_can_name_any_column(text, names):
    assert parse_columns(text) == names


@pytest.mark.parametrize(
    ("header", "unit", "per", "held_out", "eval_set"),
    [
        ("val_loss", "nats", "", True, ""),
        ("eval/c4/CrossEntropyLoss", "nats", "", True, "c4"),
        ("eval_pile-cc_loss", "nats", "", True, "pile cc"),
        ("lm-loss-validation/lm loss validation", "nats", "", True, ""),
        ("metrics.valLoss", "nats", "", True, ""),
        ("train_loss", "nats", "", False, ""),
        ("word_perplexity,none", "ppl", "word", False, ""),
        ("bits_per_byte", "bits", "byte", False, ""),
        ("val_bpb", "bits", "byte", True, ""),
        ("nats per char", "nats", "character", False, ""),
        ("Loss (bits)", "bits", "", False, ""),
    ],
)
def test_the_name_of_a_loss_says_its_unit_and_what_it_is_of(header, unit, per, held_out, eval_set):
    found = loss_name(header)
    assert (found.unit, found.per, found.held_out, found.eval_set) == (unit, per, held_out, eval_set)


@pytest.mark.parametrize(
    "header", ["loss_se", "loss_scale", "aux_loss", "predicted_loss", "val_acc", "gpt - val/loss__MIN"]
)
def test_what_is_no_loss_of_a_model_is_not_taken_for_one(header):
    assert loss_name(header) is None


def test_a_table_of_name_state_and_config_columns_is_an_export_whatever_else_it_has():
    from scaling.runs.mapping import is_export

    assert is_export(("Name", "State", "config.n_params", "tokens", "eval/loss"))
    assert is_export(("run", "config.n_params", "loss"))
    assert not is_export(("name", "state", "params", "tokens", "loss"))

"""Tables as others publish them: without a column run, under other names, in other units, with slips."""

import json
import math

import numpy as np
import pytest

from families.units import BadInput
from scaling.auditing import audit
from scaling.cli.app import build
from scaling.laws import Law
from scaling.runs.readers import check_loss_unit, parse_columns, read_runs

LAW = Law(E=1.8, A=480.0, B=2000.0, alpha=0.35, beta=0.37)


def written(folder, header, *rows):
    path = folder / "mine.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_without_a_column_run_each_row_is_a_run_of_its_own_and_that_is_said(tmp_path):
    path = written(tmp_path, "params,tokens,loss", "1e6,1e8,3.1", "2e6,1e8,3.0", "2e6,2e8,2.9")
    found = read_runs(path)
    assert len(set(found.cluster)) == 3
    assert found.warnings[0].startswith(
        "no column run: each row counts as a run of its own; --columns run=NAME"
    )


def test_with_a_column_run_its_rows_stay_together(tmp_path):
    path = written(tmp_path, "run,params,tokens,loss", "a,1e6,1e8,3.1", "a,1e6,2e8,3.0", "b,2e6,2e8,2.9")
    found = read_runs(path)
    assert len(set(found.cluster)) == 2
    (line,) = found.warnings
    assert line.startswith("no column annealed, and 2 rows of 1 run at several tokens: only the last")
    assert [run.annealed for run in found] == [False, True, True]


def test_the_column_that_may_name_runs_is_proposed_unless_it_holds_one_value(tmp_path):
    several = written(tmp_path, "model,params,tokens,loss", "a,1e6,1e8,3.1", "b,2e6,1e8,3.0")
    assert "--columns run=model" in read_runs(several).warnings[0]
    one = written(tmp_path, "model,params,tokens,loss", "gpt2,1e6,1e8,3.1", "gpt2,2e6,1e8,3.0")
    assert "--columns run=NAME" in read_runs(one).warnings[0]
    other = written(tmp_path, "model,N,D,loss", "gpt2,1e6,1e8,3.1", "gpt2,2e6,1e8,3.0")
    with pytest.raises(BadInput, match=r": --columns params=N,tokens=D$"):
        read_runs(other)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("params=model_sise", r"params=model_sise; .*no column 'model_sise': did you mean model_size\?"),
        ("params=model_size,loss=val_los", r"loss=val_los; .*no column 'val_los': did you mean val_loss\?"),
    ],
)
def test_a_typo_in_columns_is_named_with_the_nearest_column(asked, said, tmp_path):
    path = written(tmp_path, "model_size,tokens,val_loss", "1e6,1e8,3.1")
    for read in (read_runs, audit):
        with pytest.raises(BadInput, match=said):
            read(path, column_names=parse_columns(asked))


def test_a_column_that_is_named_counts_before_one_that_is_called_so(tmp_path):
    path = written(tmp_path, "N,params,tokens,loss", "1e6,1,1e8,3.1")
    assert read_runs(path, column_names={"params": "N"}).runs[0].params == 1e6
    with pytest.raises(BadInput, match="columns names params twice"):
        parse_columns("params=N,params=M")


@pytest.mark.parametrize(
    ("unit", "shown", "shown_se"),
    [
        ("nats", 3.0, 0.01),
        ("bits", 3.0 / math.log(2), 0.01 / math.log(2)),
        ("ppl", math.exp(3), 0.01 * math.exp(3)),
    ],
)
def test_losses_in_another_unit_are_read_as_nats_with_their_errors(unit, shown, shown_se, tmp_path):
    path = written(tmp_path, "run,params,tokens,loss,loss_se", f"a,1e6,1e8,{shown!r},{shown_se!r}")
    (run,) = read_runs(path, loss_unit=unit).runs
    assert (run.loss, run.loss_se) == (pytest.approx(3.0), pytest.approx(0.01))


def test_a_perplexity_of_one_is_a_bad_row(tmp_path):
    with pytest.raises(BadInput, match=r"line 2: loss is 0\.9; a perplexity is above 1"):
        read_runs(written(tmp_path, "run,params,tokens,loss", "a,1e6,1e8,0.9"), loss_unit="ppl")


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("loss_bits", "--columns loss=loss_bits --loss-unit bits$"),
        ("perplexity", "--columns loss=perplexity --loss-unit ppl$"),
        ("bpb", "bpb looks like bits per byte.* × bytes per token$"),
    ],
)
def test_a_table_whose_loss_is_of_another_unit_is_told_what_to_do(header, said, tmp_path):
    with pytest.raises(BadInput, match=f"no column loss; .*{said}"):
        read_runs(written(tmp_path, f"run,params,tokens,{header}", "a,1e6,1e8,3.1"))


def test_the_hint_of_a_table_of_perplexities_is_one_to_paste(tmp_path):
    with pytest.raises(BadInput, match=r": --columns params=N,tokens=D,loss=ppl --loss-unit ppl$"):
        read_runs(written(tmp_path, "N,D,ppl", "1e6,1e8,20", "2e6,1e8,19"))


def test_a_loss_read_from_a_column_of_another_unit_is_doubted(tmp_path):
    path = written(tmp_path, "run,params,tokens,ppl", "a,1e6,1e8,20")
    assert (
        "ppl is read as nats, and its name suggests ppl: --loss-unit ppl"
        in read_runs(path, column_names={"loss": "ppl"}).warnings[0]
    )
    assert read_runs(path, column_names={"loss": "ppl"}, loss_unit="ppl").warnings == ()


def test_bits_per_byte_are_no_unit_of_a_token():
    with pytest.raises(BadInput, match="bytes per token"):
        check_loss_unit("bpb")
    with pytest.raises(BadInput, match="did you mean bits"):
        check_loss_unit("bit")


@pytest.mark.parametrize(
    ("header", "rows", "said"),
    [
        ("run,params,tokens,loss", ["a,124,300e9,3.1", "b,1558,300e9,2.6"], "the largest N is 1558"),
        ("run,params,tokens,loss,compute", ["a,1e6,1e8,3.1,6e17", "b,2e6,1e8,3.0,12e17"], "1k times 6·N·D"),
        (
            "run,params,tokens,loss",
            ["a,1e6,1e8,3.1", "a,1e6,1e8,3.1", "b,2e6,1e8,3"],
            "1 row is an exact copy",
        ),
    ],
)
def test_what_looks_wrong_is_said_and_read_all_the_same(header, rows, said, tmp_path):
    found = read_runs(written(tmp_path, header, *rows))
    assert len(found.runs) == len(rows)
    assert len(found.warnings) == 1
    assert said in found.warnings[0]


def test_a_fit_of_perplexities_is_that_of_their_logarithms_and_its_card_says_what_was_doubted(
    tmp_path, capsys
):
    rng = np.random.default_rng(0)
    cells = [(N, r * N) for N in np.geomspace(1e7, 1e9, 5) for r in (5, 20, 80)]
    losses = [LAW.loss(N, D) * np.exp(0.002 * rng.normal()) for N, D in cells]
    cards = []
    for name, values, unit in (("loss", losses, "nats"), ("ppl", np.exp(losses), "ppl")):
        rows = [
            f"{N!r},{D!r},{value!r}"
            for (N, D), value in zip(np.array(cells).tolist(), map(float, values), strict=True)
        ]
        path = written(tmp_path, f"params,tokens,{name}", *rows)
        named = () if name == "loss" else ("--columns", f"loss={name}")
        words = ["fit", str(path), "--json", "--loss-unit", unit, "--bootstrap", "0", *named]
        build()(words, standalone_mode=False)
        shown = capsys.readouterr()
        assert "note: no column run" in shown.err
        cards.append(json.loads(shown.out)["card"])
    assert cards[0]["exponents"] == cards[1]["exponents"]
    assert "no column run" in cards[0]["warnings"]

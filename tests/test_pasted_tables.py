"""Tables as people paste them: losses with their error, two rows of headers, HTML, LaTeX."""

import pytest

from families.units import BadInput
from scaling.runs.errors import with_error
from scaling.runs.readers import read_runs

HTML = """<p>Results</p><table class="dataframe"><thead>
<tr><th rowspan="2"></th><th rowspan="2">run</th><th colspan="2">Model</th><th>Data</th><th colspan="2">eval</th></tr>
<tr><th>params</th><th>layers</th><th>tokens</th><th>loss</th><th>loss_se</th></tr></thead><tbody>
<tr><th>0</th><td>a</td><td>10M</td><td>4</td><td>200M</td><td><b>4.3</b></td><td>0.01</td></tr>
<tr><th>1</th><td>b</td><td>20M</td><td>4</td><td>400M</td><td>4.1</td><td>0.02</td></tr></tbody></table>"""
LATEX = r"""\begin{table}[t]\caption{All runs}
\begin{tabular}{l@{}|rrr} % of last week
\toprule
Model & Params (M) & Tokens (B) & Val.\ loss \\ \midrule
a & 10 & 0.2 & $4.3 \pm 0.01$ \\
\multicolumn{1}{c}{b} & 20 & 0.4 & \textbf{4.1} {\small $\pm$ 0.02} \\ \bottomrule
\end{tabular}\end{table}"""
PANDAS = """,loss,loss,params,tokens
,mean,sem,mean,mean
run,,,,
a,4.3,0.01,10000000,200000000
b,4.1,0.02,20000000,400000000
"""
MERGED = """Model,,Data,Loss,,
run,params,tokens,train,val,loss_se
a,10M,200M,4.2,4.3,0.01
b,20M,400M,4.0,4.1,0.02
"""
COMMAS = "run;params;tokens;loss\na;10M;200M;4,300 ± 0,010\nb;20M;400M;4,100 ± 0,020\n"
ROWS = [("a", 1e7, 2e8, 4.3, 0.01), ("b", 2e7, 4e8, 4.1, 0.02)]


def read(tmp_path, text, name="a.csv"):
    (tmp_path / name).write_text(text)
    return read_runs(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.html", HTML), ("a.txt", HTML), ("a.tex", LATEX), ("a.csv", PANDAS), ("b.csv", MERGED), ("c.csv", COMMAS)],
)  # fmt: skip
def test_a_pasted_table_gives_its_rows(name, text, tmp_path):
    found = read(tmp_path, text, name)
    got = [(run.run, run.params, run.tokens, run.loss, run.loss_se) for run in found]
    assert [row[1:] for row in got] == [row[1:] for row in ROWS]
    if name != "a.tex":  # its column is called Model
        assert [row[0] for row in got] == ["a", "b"]


@pytest.mark.parametrize(
    ("cell", "loss", "error"),
    [
        ("2.345 ± 0.012", 2.345, 0.012), ("2.345±0.012", 2.345, 0.012), ("2.345 +/- 0.012", 2.345, 0.012),
        ("2.345(12)", 2.345, 0.012), ("2.34500(7)", 2.345, 7e-5), ("2.345 (0.012)", 2.345, 0.012), ("2.345+-1e-3", 2.345, 1e-3),
    ],
)  # fmt: skip
def test_a_loss_with_its_error_is_two_numbers(cell, loss, error):
    found = with_error(cell)
    assert found is not None
    assert [float(part) for part in found] == pytest.approx([loss, error])


@pytest.mark.parametrize(
    "cell", ["2.345 (12)", "2.345 (2.31)", "2.3(123)", "2.34 [2.30, 2.38]", "2.345 ± 5%", "2.3-2.4", "2.3 ± 1.9", "2.31 / 2.29"]
)  # fmt: skip
def test_a_loss_of_two_parts_that_may_be_several_things_is_refused(cell):
    with pytest.raises(BadInput, match="in a column loss_se"):
        with_error(cell)


@pytest.mark.parametrize(
    "cell", ["2.345", "1e-3", "1.2e+0", "2,345", "2.345 nats", "-0.3", "nan", "", "1.234,5"]
)
def test_a_loss_alone_stays_as_it_is(cell):
    assert with_error(cell) is None


def test_what_was_joined_is_said(tmp_path):
    assert any("loss_se is read from 'loss'" in note for note in read(tmp_path, COMMAS).warnings)
    assert any("two rows of headers" in note for note in read(tmp_path, PANDAS).warnings)


def test_losses_of_two_texts_under_groups_are_named_and_none_is_chosen(tmp_path):
    text = "params,tokens,C4,,Pile,\n,,loss,ppl,loss,ppl\n10000000,200000000,4.3,70,4.1,60\n"
    with pytest.raises(BadInput, match="C4 loss, C4 ppl, Pile loss, Pile ppl"):
        read(tmp_path, text)


def test_a_page_without_a_table_is_refused(tmp_path):
    with pytest.raises(BadInput, match="holds no table"):
        read(tmp_path, "<html><body>params tokens loss</body></html>", "a.html")

"""The report: one file that needs nothing else, true to the files, whatever there is of them."""

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from families.units import BadInput, format_size
from plots import card, tables
from plots import text as page_text
from plots.figures import draw_figures
from plots.output import write_report
from plots.report import report
from plots.study_data import load_study
from scaling.rendering import escape_latex
from scaling.runs.store import append_run
from scaling.scoring import Comparison

from .synthetic import HOSTILE, write_study
from .tiny import write_corpus


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("report") / "study")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile") / "study"
    return write_study(folder, title=HOSTILE, rename=lambda name: name + HOSTILE)


def _page(folder):
    data = load_study(folder)
    return report(data, *draw_figures(data))


@pytest.fixture(scope="module")
def page(study):
    return _page(study)


class _Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)


def _tags(page):
    parser = _Tags()
    parser.feed(page)
    return parser


def test_the_page_asks_for_nothing_outside_itself(page):
    for _, attributes in _tags(page).tags:
        for key in ("src", "href", "xlink:href", "data"):
            assert (attributes.get(key) or "#").startswith(("#", "data:"))
    assert "@import" not in page
    assert "default-src 'none'" in page


def test_every_picture_has_a_text(page):
    pictures_ = [attributes for tag, attributes in _tags(page).tags if tag == "svg"]
    assert len(pictures_) == 9
    assert all(a.get("role") == "img" and a.get("aria-label") for a in pictures_)


def test_ids_are_used_once(page):
    ids = [a["id"] for _, a in _tags(page).tags if a.get("id")]
    assert len(ids) == len(set(ids))


def test_the_page_states_the_seal_and_the_numbers_of_the_comparison(study, page):
    row = Comparison.read(study / "comparison.json").rows[0]
    for text in (
        f"{row.predicted_loss:.4f}",
        f"{row.actual_loss:.4f}",
        f"{row.actual_ppl:.2f}",
        row.sealed_at,
        "intact: the plan is unchanged",
    ):
        assert text in page


def test_the_page_is_the_same_for_the_same_files(study, page):
    assert _page(study) == page


def test_the_text_is_told_by_its_files_and_tokens(study, tmp_path):
    from train.data.prepare import prepare

    folder = shutil.copytree(study, tmp_path / "study")
    manifest = prepare(str(write_corpus(tmp_path / "corpus")), folder / "data", vocab_size=300)
    facts = dict(page_text.question_facts(load_study(folder)))
    assert facts["text"].startswith("40 files, ")
    assert facts["training tokens"] == format_size(manifest.train_tokens)
    assert facts["held-out tokens"] == format_size(manifest.heldout.tokens)
    assert facts["vocabulary"] == str(manifest.vocab_size)


def test_an_edit_after_sealing_shows(study, tmp_path):
    folder = shutil.copytree(study, tmp_path / "edited")
    text = (folder / "plan.json").read_text()
    (folder / "plan.json").write_text(
        text.replace('"notes": []', '"notes": ["better"]', 1)
        if '"notes": []' in text
        else text.replace('"member": "gpt2-d192"', '"member": "gpt2-d193"')
    )
    page = _page(folder)
    assert "BROKEN" in page
    assert "the seal is broken" in page
    assert page_text.seal_warning(load_study(folder)) in page.partition("<nav")[0], "above all else"


def test_hostile_names_stay_text(hostile):
    page = _page(hostile)
    parsed = _tags(page)
    assert [tag for tag, _ in parsed.tags].count("script") == 1, "ours"
    assert not [tag for tag, _ in parsed.tags if tag == "img"]
    assert not [a for _, a in parsed.tags if any(key.startswith("on") for key in a)]
    assert HOSTILE in parsed.text


def test_a_card_holds_no_markup_of_a_hostile_name(hostile):
    data = load_study(hostile)
    text = card.markdown(data)
    assert "<script" not in text
    assert "<img" not in text
    for tex in (card.latex(data), card.latex(replace(data, comparison=None))):  # the second names the runs
        assert not set(tex) & set("−–±×…")
        assert re.search(r"(?<!\\)[#%&_]", tex.replace(" & ", " ").replace("% ", "")) is None
    assert r"\&\$x\_1\textasciicircum{}2\$" in tex


def test_in_a_papers_table_no_name_opens_a_group_or_a_formula():
    name = r"50% {of} a$b \input{x} _y_ #1 & ~z^2"
    assert escape_latex(name) == (
        r"50\% \{of\} a\$b \textbackslash{}input\{x\} \_y\_ \#1 \& \textasciitilde{}z\textasciicircum{}2"
    )


@pytest.mark.parametrize(
    ("kept", "expected"),
    [
        (("runs.jsonl",), "No law is fitted yet"),
        (("runs.jsonl", "law.json"), "Nothing is planned yet"),
        (("law.json",), "No run is finished yet"),
        (("plan.json",), "No run is finished yet"),
        (("runs.jsonl", "law.json", "plan.json"), "No sealed prediction has been scored yet"),
    ],
)
def test_a_study_in_the_making_is_reported_with_what_is_missing(study, tmp_path, kept, expected):
    for name in kept:
        shutil.copy(study / name, tmp_path / name)
    page = _page(tmp_path)
    assert expected in page
    assert "Traceback" not in page
    assert card.markdown(load_study(tmp_path))
    assert card.latex(load_study(tmp_path))


def test_an_empty_folder_is_one_clear_line(tmp_path):
    with pytest.raises(BadInput, match="nothing to report"):
        load_study(tmp_path)


def test_one_run_and_all_one_size_are_reported(study, tmp_path):
    lines = (study / "runs.jsonl").read_text().splitlines()
    (tmp_path / "runs.jsonl").write_text("\n".join(lines[:2]) + "\n")
    assert "1 observation" in _page(tmp_path)
    (tmp_path / "runs.jsonl").write_text("\n".join(lines[:4]) + "\n")
    assert "all runs are of one size" in _page(tmp_path)


def test_a_run_with_a_folder_of_its_own_has_its_curves(study, tmp_path):
    original = load_study(study)
    name = original.curves[0].run
    alone = shutil.copytree(study / "runs" / name, tmp_path / "alone")
    (alone / "run.json").write_text(json.dumps({"kind": "run", "version": 1, "run": name}))
    for run in original.runs:
        if run.run == name:
            append_run(alone / "runs.jsonl", run)
    theirs = [(curve.part, curve.loss.tolist()) for curve in original.curves if curve.run == name]
    assert len(theirs) > 1
    assert [(curve.part, curve.loss.tolist()) for curve in load_study(alone).curves] == theirs
    assert {curve.run for curve in load_study(alone).curves} == {name}


def test_a_line_that_is_being_written_is_left_out_and_said(study, tmp_path):
    shutil.copytree(study, tmp_path / "s")
    with (tmp_path / "s" / "runs.jsonl").open("a") as file:
        file.write('{"run": "torn", "par')
    assert "not JSON" in _page(tmp_path / "s")


def test_runs_on_another_eval_set_stay_out_of_the_laws_figures(study, tmp_path):
    folder = shutil.copytree(study, tmp_path / "s")
    row = json.loads((folder / "runs.jsonl").read_text().splitlines()[1])
    with (folder / "runs.jsonl").open("a") as file:
        file.write(json.dumps({**row, "run": "stranger", "eval_set": "other"}) + "\n")
    data = load_study(folder)
    assert "stranger" not in {run.run for run in data.comparable_runs}
    assert any("2 eval sets" in line for line in data.warnings)


def test_advice_follows_from_the_numbers(study):
    expected = " ".join(page_text.recommendations(load_study(study)))
    assert "refit with them" in expected
    data = load_study(study)
    assert page_text.headline(data).startswith("Predicted ")


def test_the_page_says_what_refitting_changes_and_what_each_prediction_cost(study, page):
    text = " ".join(_tags(page).text)
    for expected in (
        "Refitted with the new runs: 16 rows become 17",
        "exponent of N*",
        "Cost, planned",
    ):
        assert expected in text
    refit = Comparison.read(study / "comparison.json").refit
    assert f"{refit.change('loss').after:.4f}" in text


def test_the_page_names_the_ladder_that_tells_most(study):
    shaped = load_study(study)
    runs = tuple(r.model_copy(update={"n_layer": 2, "n_head": 4, "vocab_size": 1024}) for r in shaped.runs)
    ladders = tables.informative_ladders_table(replace(shaped, runs=runs))
    widths = [row[-1].value for row in ladders.rows]
    assert 0 < min(widths) <= max(widths) < 0.1
    assert "now predicted to" in ladders.title
    assert tables.informative_ladders_table(shaped) is None, "runs that do not say their shape"


def test_a_plan_of_choices_shows_its_band(study, tmp_path, cli):
    shutil.copy(study / "law.json", tmp_path / "law.json")
    planned = cli("plan", "--budget", "5e12", "--study", tmp_path, "--vocab", "1024", "--context", "128")
    assert planned.returncode == 0, planned.stderr
    page = _page(tmp_path)
    assert 'id="figure-planned"' in page
    assert "About as good as the best" in page


def test_write_report_leaves_page_and_figures(study, tmp_path):
    folder = shutil.copytree(study, tmp_path / "s")
    path, _ = write_report(folder)
    assert path == folder / "report.html"
    names = {p.name for p in (folder / "figures").iterdir()}
    for name in ("predicted", "learning", "surface", "residuals", "frontier"):
        assert {f"{name}.png", f"{name}.svg", f"{name}.csv"} <= names
    assert write_report(folder)[0] == path, "a study's own page is written anew"
    path.write_text("<!doctype html>\n<html><body>somebody's page</body></html>\n")
    with pytest.raises(BadInput, match="not such a report"):
        write_report(folder)


def test_the_commands_answer_in_json_and_refuse_what_they_do_not_know(study, tmp_path, cli):
    folder = shutil.copytree(study, tmp_path / "s")
    done = cli("report", "--study", folder, "--json")
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert value["comparison"][0]["member"] == "gpt2-d192"
    assert set(value["not_drawn"]) == {"calibration"}
    drawn = cli("plot", "residuals", "--study", folder, "--out", tmp_path / "r.svg", "--json")
    assert json.loads(drawn.stdout)["name"] == "residuals"
    assert (tmp_path / "r.svg").read_text().startswith("<svg")
    for arguments, word in (
        (("report", "--study", folder, "--format", "pdf"), "html, md, json or latex"),
        (("plot", "surfcae", "--study", folder), "did you mean surface"),
        (("plot", "surface", "--study", folder, "--out", "x.gif"), ".png, .svg or .csv"),
        (("report", "--study", tmp_path / "none"), "nothing to report"),
    ):
        refused = cli(*arguments)
        assert refused.returncode == 2
        assert word in refused.stderr
        assert len(refused.stderr.splitlines()) == 1


def test_a_folder_of_studies_is_reported_as_one_outcome(tmp_path):
    gallery = Path(__file__).parents[1] / "docs" / "studies"
    for name, real in (("one", "stdlib"), ("two", "wikitext-2"), ("three", "tinyshakespeare")):
        shutil.copytree(
            gallery / real, tmp_path / name, ignore=shutil.ignore_patterns("figures", "metrics.jsonl")
        )
    page = _page(tmp_path)
    assert "Sealed predictions of 3 studies" in page
    assert "80 % intervals held 3 of 3" in page
    assert ">two<" in page  # a study of one prediction goes by its own name
    assert "Next runs" not in page


def test_the_command_says_first_that_a_seal_is_broken(study, tmp_path, cli):
    folder = shutil.copytree(study, tmp_path / "edited")
    plan = json.loads((folder / "plan.json").read_text())
    plan["members"][0]["tokens"] += 1
    (folder / "plan.json").write_text(json.dumps(plan))
    for form in ("md", "latex"):
        done = cli("report", "--study", folder, "--format", form)
        assert done.stdout.startswith("The seal is broken: plan.json was edited"), form
        assert done.stderr.startswith("the seal is broken"), form
    assert "The seal is broken" in (folder / "report.md").read_text().splitlines()[2]
    assert r"\caption{The seal is broken" in (folder / "report.tex").read_text()
    assert "The seal is broken" in _page(folder)


# Figures and tables for a paper


def test_a_figure_for_a_paper_is_one_file_in_the_asked_format(study, tmp_path, cli):
    heads = {"png": b"\x89PNG", "svg": b"<svg", "pdf": b"%PDF"}
    out = tmp_path / "out"
    for form in heads:
        done = cli(
            "plot",
            "surface",
            "--study",
            study,
            "--format",
            form,
            "--no-title",
            "--style",
            "paper",
            "--out",
            out / "a",
        )
        assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in out.iterdir()) == ["a.pdf", "a.png", "a.svg"]
    assert all((out / f"a.{form}").read_bytes().startswith(head) for form, head in heads.items())
    drawn = (out / "a.svg").read_text()
    assert "STIX" in drawn
    assert "At " not in drawn.split("</title>", 1)[1]  # the conclusion is for screen readers alone
    for options, named in (
        (("--format", "pdf", "--out", tmp_path / "b.png"), "ending"),
        (("--format", "gif"), "gif"),
        (("--style", "papr"), "paper"),
    ):
        refused = cli("plot", "surface", "--study", study, *options, cwd=tmp_path)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
        assert named in refused.stderr


def test_a_papers_tables_state_constants_optimum_and_card(study):
    data = load_study(study)
    tex = card.latex(data)
    assert tex.count(r"\begin{table}") == 4
    low, high = data.law.interval("alpha")
    assert f"alpha & {data.law.main_form.law.alpha:.4g} & {low:.4g}--{high:.4g} &" in tex
    best = data.law.allocate(10 * data.law.domain.C[1])
    assert f"{format_size(best.N)} & {format_size(best.N_interval_80[0])}--" in tex
    assert all(escape_latex(value) in tex for value in data.law.card.values())

"""The public interface: every line that a notebook types, its types as mypy sees them, and its documentation."""

import ast
import doctest
import inspect
import re
import runpy
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import scaling as sc
from scaling.budget import parse_budget

from .surfaces import BESIROGLU, grid

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
STUDY = ROOT / "docs" / "studies" / "stdlib"
DOCUMENTED = (  # modules whose docstrings hold examples
    "families.design",
    "families.members",
    "scaling.budget",
    "scaling.fitting.fit",
    "scaling.fitting.predictor",
    "scaling.laws",
    "scaling.published_laws",
    "scaling.planning.api",
    "scaling.runs.readers",
    "scaling.runs.run",
    "scaling.study",
)


@pytest.fixture(scope="module")
def runs():
    return sc.RunTable(grid(BESIROGLU, noise=0.003))


@pytest.fixture(scope="module")
def fit(runs):
    return sc.fit(runs)


def test_importing_scaling_loads_no_library():
    code = (
        "import sys, scaling; scaling.__version__; dir(scaling); "
        "print([name for name in ('numpy', 'scipy', 'pydantic', 'torch', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_every_public_name_resolves_and_an_unknown_one_is_refused():
    assert [name for name in sc.__all__ if getattr(sc, name, None) is None] == []
    assert sorted(sc.__all__, key=str) == sorted(set(sc.__all__), key=str)
    with pytest.raises(AttributeError, match="nonsense"):
        sc.nonsense  # noqa: B018


def test_lazy_names_are_those_that_type_checkers_see():
    tree = ast.parse(Path(sc.__file__).read_text(encoding="utf-8"))
    (branch,) = (node for node in tree.body if isinstance(node, ast.If))
    typed = {
        name.name: node.module if node.level == 0 else f"scaling.{node.module}"
        for node in branch.body
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    assert typed == sc._HOMES
    assert {*typed, "__version__"} == set(sc.__all__)


SNIPPET = """
from pathlib import Path
import numpy as np
import scaling as sc

runs = sc.read_runs("runs.csv")
reveal_type(runs)  # RunTable
sc.read_runs(Path("runs.csv"))
reveal_type(runs.warnings)  # tuple[str, ...]
fit = sc.fit(runs)
reveal_type(fit)  # Fit
sc.fit(N=[1e7, 2e7], D=[1e9, 2e9], loss=[3.1, 3.0])
sc.fit(runs, nonsense=1)  # error
reveal_type(fit.predict(83e6, 5.5e9))  # Prediction
fit.predict(np.array([1e6, 2e6]), 5.5e9)
fit.predict(family="gpt2-83m", tokens=5.5e9)
fit.predict(83e6, 5.5e9, nonsense=1)  # error
fit.predict(83e6, 5.5e9, lr=1e-3, batch_tokens=5e5)
reveal_type(fit.best("lr", 83e6, 5.5e9).value)  # float
reveal_type(fit.allocate(1e21))  # Allocation
reveal_type(fit.allocate(1e21).N_interval_80)  # tuple[float, float] | None
reveal_type(fit.interval("alpha", level=0.95))  # tuple[float, float] | None
reveal_type(fit.plot("surface"))  # Figure
fit.save("law.json")
fit.save(Path("law.json"))
reveal_type(sc.load_law(Path("law.json")))  # Fit
reveal_type(sc.published_law("chinchilla"))  # PublishedLaw
plan = sc.plan("8xA100-hours", law=fit)
sc.plan(1e21, law="chinchilla", on="8xA100")
sc.plan("8xA100-hours", law=Path("law.json"), study=sc.Study("demo"))
sc.plan("8xA100-hours", law=sc.published_law("kaplan"))
sc.plan("8xA100-hours", laws=fit)  # error
reveal_type(plan.recommended)  # Choice
reveal_type(plan.plot())  # Figure
reveal_type(plan.seal().save("plan.json"))  # Path
study = sc.Study("demo")
sc.Study(Path("demo"))
reveal_type(study.runs())  # RunTable
reveal_type(study.law())  # Fit
reveal_type(study.plan())  # Plan
reveal_type(study.compare())  # Comparison
reveal_type(study.report())  # Path
reveal_type(sc.design(params=85e6, ratio=64).n_params)  # int
reveal_type(sc.design(params=85e6, ratio=64).to_hf_config())  # dict[str, Any]
model: sc.LossModel = fit
model = sc.published_law("chinchilla")
sc.nonsense  # error
"""


def test_mypy_sees_the_types_of_every_line_that_a_notebook_types(tmp_path):
    script = tmp_path / "notebook.py"
    script.write_text(SNIPPET, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--config-file",
        ROOT / "pyproject.toml",
        "--no-error-summary",
        script,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    reported: dict[int, list[tuple[str, str]]] = {}
    for line in done.stdout.splitlines():
        if match := re.match(r".*notebook\.py:(\d+): (error|note): (.*)", line):
            reported.setdefault(int(match[1]), []).append((match[2], match[3]))
    for number, line in enumerate(SNIPPET.splitlines(), 1):
        expected = line.partition("  # ")[2]
        found = reported.get(number, [])
        if expected == "error":
            assert "error" in [severity for severity, _ in found], line
        elif expected:
            ((severity, message),) = found
            assert (severity, re.sub(r"[\w.]+\.(?=\w)", "", message.split('"')[1])) == ("note", expected), (
                line
            )
        else:
            assert found == [], line


def test_arrays_broadcast_and_keep_their_shape(fit):
    found = fit.predict(np.geomspace(1e7, 1e9, 5)[:, None], np.geomspace(1e9, 1e10, 3))
    assert found.loss.shape == (5, 3)
    assert [edge.shape for edge in found.interval_80] == [(5, 3), (5, 3)]
    assert fit.predict(1e8, 1e9).loss == pytest.approx(float(fit.predict([1e8], 1e9).loss[0]), rel=1e-12)


@pytest.mark.parametrize("name", ["E", "A", "B", "alpha", "beta", "gamma", "a", "b"])
def test_intervals_grow_with_their_level(fit, name):
    inner, outer = fit.interval(name), fit.interval(name, level=0.95)
    assert outer[0] < inner[0] < inner[1] < outer[1]
    assert inner == fit.interval(name, level=0.8)


def test_the_constants_of_the_main_form_lie_inside_their_own_intervals(fit):
    for name in ("E", "alpha", "beta"):
        low, high = fit.interval(name)
        assert low <= getattr(fit.main_form.law, name) <= high


def test_the_exponents_of_the_optimum_add_up_to_one(fit):
    (low, high), (least, most) = fit.interval("a"), fit.interval("b")
    assert (low + most, high + least) == pytest.approx((1, 1), abs=1e-12)
    law = sc.fit(grid(BESIROGLU, noise=0.003), form="chinchilla")
    low, high = law.interval("a", level=0.99)
    assert low <= BESIROGLU.beta / (BESIROGLU.alpha + BESIROGLU.beta) <= high


@pytest.mark.parametrize(("name", "level"), [("alhpa", 0.8), ("alpha", 0.0), ("alpha", 1.0), ("alpha", 80)])
def test_an_interval_of_another_name_or_level_is_refused(fit, name, level):
    with pytest.raises(sc.BadInput):
        fit.interval(name, level=level)


def test_residuals_are_the_losses_relative_to_what_the_fit_predicts(fit, runs):
    assert fit.residuals.shape == (len(runs),)
    predicted = fit.predict(runs.N, runs.D, force=True).loss
    np.testing.assert_allclose(fit.residuals, runs.L / predicted - 1, rtol=1e-12)


@pytest.mark.parametrize("kind", ["surface", "isoflops", "frontier", "residuals", "profile", "backtest"])
def test_a_fit_draws_each_of_its_figures(fit, kind):
    figure = fit.plot(kind)
    assert figure.axes


def test_a_figure_of_another_name_is_refused_with_the_nearest(fit):
    with pytest.raises(sc.BadInput, match="surface"):
        fit.plot("surfaces")


def test_a_law_from_a_file_predicts_as_the_fit_and_says_what_it_lacks(fit, tmp_path):
    for path in (str(tmp_path / "a.json"), tmp_path / "b.json"):
        fit.save(path)
        law = sc.load_law(path)
        assert law.predict(3e8, 1e10).loss == fit.predict(3e8, 1e10).loss
        with pytest.raises(sc.BadInput, match="runs"):
            law.residuals  # noqa: B018
        with pytest.raises(sc.BadInput, match="runs"):
            law.plot("surface")


def test_no_warning_of_the_reader_is_lost_on_the_way_to_the_card(tmp_path):
    path = tmp_path / "runs.csv"
    rows = [(run.params / 1e6, run.tokens / 1e6, run.loss) for run in grid(BESIROGLU)]
    path.write_text(
        "params,tokens,loss\n" + "\n".join(f"{n:.17g},{d:.17g},{loss:.17g}" for n, d, loss in rows)
    )
    for source in (path, str(path)):
        runs = sc.read_runs(source)
        assert runs.warnings
        card = sc.fit(runs, bootstrap=0).card["warnings"]
        assert [line for line in runs.warnings if line not in card] == []


@pytest.mark.parametrize("budget", ["1e20", 1e20, parse_budget("1e20")])
def test_a_budget_is_a_text_a_number_or_a_budget(budget):
    assert sc.plan(budget, law="chinchilla").recommended == sc.plan("1e20", law="chinchilla").recommended


def test_a_budget_value_keeps_its_mfu_and_its_source():
    measured = parse_budget("8xA100-hours", mfu=0.2, mfu_source="measured")
    assert sc.plan(measured, law="chinchilla").budget == measured
    with pytest.raises(sc.BadInput, match="mfu"):
        sc.plan(measured, law="chinchilla", mfu=0.5)


def test_a_law_is_a_fit_a_file_a_name_or_a_published_law(fit, tmp_path):
    fit.save(tmp_path / "law.json")
    made = [sc.plan(1e19, law=law) for law in (fit, tmp_path / "law.json", str(tmp_path / "law.json"))]
    assert len({plan.recommended.model_dump_json() for plan in made}) == 1
    assert (
        sc.plan(1e19, law="kaplan").recommended == sc.plan(1e19, law=sc.published_law("kaplan")).recommended
    )


def test_a_plan_is_sealed_once_and_saved(tmp_path):
    plan = sc.plan("8xA100-hours", law="chinchilla")
    sealed = plan.seal()
    assert (plan.sealed_at, sealed.recommended) == (None, plan.recommended)
    for path in (str(tmp_path / "a.json"), tmp_path / "b.json"):
        assert sealed.save(path) == Path(path)
        assert sc.load_plan(path).document == sealed.document
        with pytest.raises(sc.BadInput, match="sealed"):
            plan.save(path)
    with pytest.raises(sc.BadInput, match="once"):
        sealed.seal()


def test_a_sealed_plan_that_was_edited_is_refused(tmp_path):
    path = sc.plan("1e20", law="chinchilla").seal().save(tmp_path / "plan.json")
    path.write_text(path.read_text().replace('"loss": 2', '"loss": 1', 1))
    with pytest.raises(sc.BadInput, match="edited"):
        sc.load_plan(path)


def test_a_plan_draws_its_figure_with_its_curves_and_from_a_file_without(tmp_path):
    plan = sc.plan("1e20", law="chinchilla")
    plan.save(tmp_path / "plan.json")
    drawn, read = plan.plot(), sc.load_plan(tmp_path / "plan.json").plot()
    assert len(drawn.axes[0].lines) > len(read.axes[0].lines)


def test_a_plan_shows_the_recommendation_and_its_notes():
    text = repr(sc.plan("8xA100-hours", law="chinchilla"))
    for part in ("8xA100-hours", "chinchilla", "MFU 0.4 is assumed", "not sealed"):
        assert part in text


def test_a_study_gives_what_its_files_hold():
    study = sc.Study(STUDY)
    assert len(study.runs()) == len((STUDY / "runs.jsonl").read_text().splitlines()) - 1
    assert study.law().predict(1e6, 2e6).loss == sc.load_law(STUDY / "law.json").predict(1e6, 2e6).loss
    assert study.plan().sealed_at
    before = (STUDY / "comparison.json").read_text()
    found = study.compare(write=False)
    assert [row.inside_80 for row in found.rows] == [True]
    assert (STUDY / "comparison.json").read_text() == before
    assert study.plot("predicted").axes
    assert study.law().plot("surface").axes, "a study's law knows the study's runs"


@pytest.mark.slow
def test_a_study_writes_its_comparison_and_its_report(tmp_path):
    folder = tmp_path / "study"
    folder.mkdir()
    for name in ("runs.jsonl", "law.json", "plan.json"):
        (folder / name).write_bytes((STUDY / name).read_bytes())
    study = sc.Study(str(folder))
    study.compare()
    assert (folder / "comparison.json").exists()
    assert study.report() == folder / "report.html"
    assert study.report(tmp_path / "other" / "page.html") == tmp_path / "other" / "page.html"
    assert "comparison.json" in repr(study)


def test_plans_and_commands_on_a_study_agree(tmp_path, cli):
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "law.json").write_bytes((STUDY / "law.json").read_bytes())
    plan = sc.plan(1e15, study=sc.Study(folder))
    done = cli("plan", "--budget", "1e15", "--study", folder, "--json")
    assert f'"loss": {plan.recommended.loss}' in done.stdout


def test_an_empty_folder_is_a_study_whose_files_are_missing(tmp_path):
    study = sc.Study(tmp_path)
    for method in (study.runs, study.law, study.plan, study.compare, study.report):
        with pytest.raises(sc.BadInput):
            method()


def test_a_designed_model_counts_its_parameters_and_writes_its_config(tmp_path):
    member = sc.design(params=85e6, ratio=64)
    config = member.to_hf_config(tmp_path / "model")
    transformers = pytest.importorskip("transformers")
    written = transformers.AutoConfig.from_pretrained(tmp_path / "model")
    assert {key: config[key] for key in ("n_layer", "n_embd", "n_head")} == {
        "n_layer": written.n_layer, "n_embd": written.n_embd, "n_head": written.n_head
    }  # fmt: skip
    other = sc.design(params=20e6)
    with pytest.raises(sc.BadInput, match=r"config\.json"):
        other.to_hf_config(tmp_path / "model")
    other.to_hf_config(str(tmp_path / "model"), replace=True)
    assert transformers.AutoConfig.from_pretrained(tmp_path / "model").n_layer == other.spec.n_layer


@pytest.mark.parametrize("name", DOCUMENTED)
def test_examples_in_docstrings_hold(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert doctest.testmod(import_module(name)).failed == 0


def test_the_api_page_has_every_public_name_once():
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    named = re.findall(r"^::: scaling\.(\w+)$", page, re.M)
    assert sorted(named) == sorted(set(sc.__all__) - {"__version__"})


def parameters(value):
    """Names of a callable's own parameters."""
    names = list(inspect.signature(value).parameters)
    return [name for name in names if name not in ("self", "cls", "args", "kwargs", "data")]


@pytest.mark.parametrize(
    "name", sorted({"design", "fit", "load_law", "load_plan", "plan", "published_law", "read_runs"})
)
def test_a_public_function_documents_each_argument_its_value_and_its_errors(name):
    text = inspect.getdoc(getattr(sc, name))
    assert [
        argument
        for argument in parameters(getattr(sc, name))
        if not re.search(rf"^    {argument}: ", text, re.M)
    ] == []
    for section in ("Args:", "Returns:", "Raises:"):
        assert f"\n{section}\n" in text


@pytest.mark.parametrize("name", ["own_csv_to_plan", "read_a_study"])
def test_an_example_runs(name, tmp_path, capsys):
    runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"](tmp_path)
    assert capsys.readouterr().out
    assert list(tmp_path.glob("*.png"))

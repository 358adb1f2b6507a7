"""Laws of one variable: recovery, what competes with them, their file, and what is refused."""

import json
from html import unescape

import numpy as np
import pytest

from families.units import BadInput
from plots import card
from plots.figures import draw_figures
from plots.report import report
from plots.study_data import load_study
from scaling import fit, load_law
from scaling.fitting.curve import FORMULAS, Curve, curve_loss, sharp_posterior
from scaling.fitting.fit import FORMS
from scaling.fitting.forms import LastValue, Status
from scaling.fitting.one_variable import variable_of
from scaling.runs import Run
from scaling.runs.store import append_run

from .core import in_process
from .simulated_runs import taught, write

X = np.geomspace(1e8, 2e10, 14)

SHAPES = {  # constants in the order of curve.SLOTS
    "power": (1.8, 0.5, 1e10, 0.35, 1.0, 1.0),
    "offset": (1.6, 3.0, 2e9, 0.8, 1.0, 1.0),
    "saturating": (1.7, 2.0, 1e9, 0.7, 1.0, 1.0),
    "broken": (1.7, 0.6, 2e9, 0.15, 0.7, 0.3),
    "logarithmic": (2.4, 0.12, 2e10, 1.0, 1.0, 1.0),
}


def rows(variable, x, loss):
    """Arrays of a fit whose one variable is x."""
    N, D = {
        "D": (np.full(len(x), 1e9), x),
        "N": (x, np.full(len(x), 1e11)),
        "C": (np.sqrt(x / 120), 20 * np.sqrt(x / 120)),
    }[variable]
    return {"N": N, "D": D, "loss": loss}


@pytest.fixture(scope="module")
def noisy():
    rng = np.random.default_rng(0)
    loss = curve_loss("power", np.array(SHAPES["power"]), X) * np.exp(0.004 * rng.standard_normal(len(X)))
    return fit(**rows("D", X, loss))


@pytest.mark.parametrize("shape", FORMULAS)
def test_a_curve_of_each_shape_is_predicted_at_three_times_its_data(shape):
    """Closed form: noise-free rows of the shape itself."""
    constants = np.array(SHAPES[shape])
    found = fit(**rows("D", X, curve_loss(shape, constants, X)), bootstrap=0)
    actual = float(curve_loss(shape, constants, np.array([3 * X[-1]]))[0])
    assert found.status is Status.OK
    assert found.variable == "D"
    near = 0.02 if shape == "broken" else 0.005  # six constants: other shapes fit fourteen rows as well
    assert found.predict(1e9, 3 * X[-1]).loss == pytest.approx(actual, rel=near)


@pytest.mark.parametrize("variable", ["N", "D", "C"])
def test_the_one_variable_is_told_from_the_rows(variable):
    loss = curve_loss("power", np.array(SHAPES["power"]), X)
    arrays = rows(variable, X, loss)
    assert variable_of(arrays["N"], arrays["D"]) == variable
    assert variable_of(X, X**0.5) == ""
    assert variable_of(np.full(5, 1e9), np.full(5, 1e9)) == ""


def test_the_posterior_of_a_clean_power_law_agrees_with_least_squares():
    """scipy's curve_fit is the authority where the prior is weak against the rows."""
    from scipy.optimize import curve_fit

    rng = np.random.default_rng(3)
    x = np.geomspace(1e8, 1e11, 60)
    y = (2.0 + 0.9 * (x / 1e9) ** -0.3) * np.exp(1e-4 * rng.standard_normal(60))

    def law(x, E, A, alpha):
        return E + A * (x / 1e9) ** -alpha

    best, _ = curve_fit(law, x, y, p0=(1.9, 1.0, 0.35), sigma=y)
    found = sharp_posterior("power", Curve.of(x, y)).log_loss(np.array([1e12]))
    assert np.exp(found[0]) == pytest.approx(law(1e12, *best), rel=1e-3)


def test_a_change_far_larger_than_rollouts_were_wrong_counts_whole_and_a_small_one_hardly():
    last = LastValue(log_loss=1.0, variance=1e-4)
    assert last.draw(np.array([0.5]))[0] == pytest.approx(0.5, abs=3e-4)
    assert abs(last.draw(np.array([0.999]))[0] - 1.0) < 2e-5
    steps = last.draw(np.linspace(0.5, 1.5, 101))
    assert (np.diff(steps) > 0).all()  # monotone: a law that falls still falls


def test_a_noisy_flat_curve_is_expected_to_stay_and_a_clean_steep_one_to_fall():
    rng = np.random.default_rng(1)
    flat = 2.0 + 0.02 * (X / X[0]) ** -0.5 + 0.02 * rng.standard_normal(len(X))
    flat[0] += 0.1
    steep = curve_loss("power", np.array(SHAPES["power"]), X)
    for loss, fall in ((flat, 0.01), (steep, None)):
        found = fit(**rows("D", X, loss), bootstrap=0)
        change = 1 - found.predict(1e9, 2 * X[-1]).loss / loss[-1]
        if fall is not None:
            assert abs(change) < fall
        else:
            assert change == pytest.approx(
                1 - curve_loss("power", np.array(SHAPES["power"]), 2 * X[-1:])[0] / loss[-1], rel=0.05
            )


def test_intervals_widen_with_distance_and_hold_the_prediction(noisy):
    D = np.array([2.0, 5.0, 20.0]) * X[-1]
    found = noisy.predict(np.full(3, 1e9), D)
    low, high = found.interval_80
    assert (low < found.loss).all()
    assert (found.loss < high).all()
    assert (np.diff((high - low) / found.loss) > 0).all()
    parts = noisy.explain(1e9, 5 * X[-1])
    assert parts["all"] == pytest.approx(np.sqrt(sum(v**2 for k, v in parts.items() if k != "all")))


def test_a_law_of_one_variable_comes_back_from_its_file_as_it_was(noisy, tmp_path):
    noisy.save(tmp_path / "law.json")
    back = load_law(tmp_path / "law.json")
    assert back.variable == "D"
    at = (np.full(4, 1e9), np.geomspace(1e9, 1e12, 4))
    assert back.predict(*at).loss == pytest.approx(noisy.predict(*at).loss, rel=1e-12)
    assert back.predict(*at).interval_80[1] == pytest.approx(noisy.predict(*at).interval_80[1], rel=1e-12)
    text = json.loads((tmp_path / "law.json").read_text())
    assert {form["variable"] for form in text["forms"]} == {"D"}
    with pytest.raises(BadInput, match="one variable"):
        back.allocate(1e20)


def test_the_report_of_a_law_of_one_variable_speaks_of_that_variable_alone(noisy, tmp_path):
    study = tmp_path / "study"
    study.mkdir()
    noisy.save(study / "law.json")
    loss = noisy.predict(np.full(len(X), 1e9), X).loss
    for i, (D, at) in enumerate(zip(X, loss, strict=True)):
        append_run(study / "runs.jsonl", Run(run=f"{i}", params=1e9, tokens=D, loss=at))
    loaded = load_study(study)
    page = unescape(report(loaded, *draw_figures(loaded)))
    assert "is expected at ten times the tokens of the data" in page
    assert "power: E + A·(x/B)^-alpha" in page
    assert "Line: the law and its 80 % interval" in page
    for words in ("B/D^beta", "Contours", "isoFLOP", "fixed compute", "scaling plan turns", "No figure"):
        assert words not in page, words
    assert "gamma" not in card.latex(loaded).split("Constants of power")[1].split("tabular")[1]


def test_the_figure_of_a_curve_is_drawn_and_a_surface_law_has_none(noisy):
    from matplotlib import pyplot

    assert "A law of tokens alone" in noisy.plot("curve").texts[0].get_text()
    pyplot.close("all")


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (np.linspace(2.0, 3.0, 14), "does not fall with tokens: 2.0000 at 100M, 3.0000 at 20B"),
        (-np.ones(14), "loss is -1"),
    ],
)
def test_what_no_law_of_one_variable_describes_is_refused_in_one_line(loss, said):
    with pytest.raises(BadInput) as refused:
        fit(**rows("D", X, loss))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_five_points_are_too_few_for_a_curve_and_a_law_of_both_takes_them_where_both_are_stated():
    loss = curve_loss("power", np.array(SHAPES["power"]), X)
    with pytest.raises(BadInput, match=r"5 distinct tokens.*at least 6"):
        fit(N=np.ones(5), D=X[:5], loss=loss[:5])
    few = fit(**rows("D", X[:5], loss[:5]))
    assert few.variable == ""
    assert "do not tell the exponents of N and D apart" in few.card["warnings"]


@pytest.mark.parametrize(
    ("header", "asked"), [("tokens", "tokens=100B"), ("compute", "compute=100B"), ("params", "params=100B")]
)
def test_a_table_of_one_column_is_fitted_predicted_and_backtested(header, asked, tmp_path):
    loss = curve_loss("power", np.array(SHAPES["power"]), X)
    table, law = tmp_path / "curve.csv", tmp_path / "law.json"
    table.write_text(f"{header},loss\n" + "".join(f"{x:.6g},{y:.6f}\n" for x, y in zip(X, loss, strict=True)))
    assert in_process(f"fit {table} --out {law}").status == 0
    told = in_process(f"predict {law} {asked} --json")
    assert json.loads(told.out)["loss"] == pytest.approx(
        float(curve_loss("power", np.array(SHAPES["power"]), np.array([1e11]))[0]), rel=5e-3
    )
    scored = in_process(f"backtest {table} --holdout top-20% --json")
    group = json.loads(scored.out)["groups"][0]
    assert set(group["forms"]) == {
        "last value",
        {"tokens": "L(D)", "compute": "L(C)", "params": "L(N)"}[header],
    }
    assert group["default"]["mean_error"] < group["forms"]["last value"]["mean_error"]


def test_the_curve_of_a_single_run_is_fitted_though_its_rows_are_in_mid_schedule(tmp_path):
    loss = curve_loss("power", np.array(SHAPES["power"]), X)
    table = tmp_path / "run.csv"
    table.write_text(
        "run,params,tokens,loss\n"
        + "".join(f"a,124e6,{x:.6g},{y:.6f}\n" for x, y in zip(X, loss, strict=True))
    )
    told = in_process(f"fit {table} --json")
    assert told.status == 0
    card = json.loads(told.out)["card"]
    assert "curve of one run" in card["warnings"]
    assert card["data"].startswith("14 rows of 1 run")


def test_a_runs_own_folder_is_backtested_on_its_logged_curve(tmp_path):
    _, run = taught()
    folder = tmp_path / run.name
    write(run, folder)
    told = in_process(f"backtest {folder} --holdout top-20% --json")
    assert told.status == 0, told.err
    assert "the curve of one run" in told.err
    assert set(json.loads(told.out)["groups"][0]["forms"]) == {"last value", "L(D)"}


def test_a_plain_form_may_still_be_asked_for():
    loss = curve_loss("power", np.array(SHAPES["power"]), X)
    assert "L(D)" in FORMS
    assert fit(**rows("D", X, loss), form="L(D)", bootstrap=0).variable == ""

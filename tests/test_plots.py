"""Figures: functions of values, the same bytes every time, conclusions that follow from the numbers."""

import csv
import io
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from matplotlib.figure import Figure

from families.units import BadInput, format_size
from plots import frontier, law, predictions, study_data, style, tables, training
from plots.figures import FIGURES, draw_figure, draw_figures
from plots.law import without_local_correction
from plots.study_data import LossCurve, load_study
from scaling.files import csv_text
from scaling.fitting.sensitivity import LikelihoodProfile
from scaling.planning.seal import SealedPrediction
from scaling.runs import Run
from scaling.scoring import score

from .synthetic import TRUTH, write_study

# A plan of choices has a figure of its own, and so have runs that say where they are going; this study has neither.
DRAWN = set(FIGURES) - {"calibration", "planned", "forecast"}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return load_study(write_study(tmp_path_factory.mktemp("plots") / "study"))


def _row(loss, actual, half=0.05):
    prediction = SealedPrediction(
        member="m",
        params=1e6,
        tokens=1e7,
        loss=loss,
        interval_80=(loss - half, loss + half),
        interval_95=(loss - 2 * half, loss + 2 * half),
        sealed_at="2026-11-21T12:00:00Z",
    )
    return score(prediction, Run(run="r", params=1e6, tokens=1e7, loss=actual))


def test_the_conclusion_states_the_miss_and_the_interval_that_held():
    assert (
        predictions.score_text(_row(4.12, 4.15))
        == "Predicted 4.1200, actual 4.1500 nats per token: 0.72 % too low, inside the 80 % interval"
    )
    assert predictions.score_text(_row(4.12, 4.20)).endswith("inside the 95 % interval, outside the 80 % one")
    assert "0.73 % too high" in predictions.score_text(_row(4.12, 4.09))
    assert predictions.score_text(_row(4.12, 4.50)).endswith("outside the 95 % interval")


def test_many_predictions_are_counted():
    rows = [_row(4.0, 4.01), _row(4.0, 3.99), _row(4.0, 4.3)]
    assert "80 % intervals held 2 of 3" in predictions.predicted_against_actual(rows).title
    assert "80 % intervals held 2 of 3" in predictions.calibration(rows).title


def test_predictions_of_a_weaker_grade_are_counted_apart_in_words_and_marks():
    rows = [_row(4.0, 4.01).model_copy(update={"grade": "chain"})] * 3 + [
        _row(4.0, 4.3).model_copy(update={"grade": "clock"})
    ] * 2
    held = "held 3 of 3 (held before by hash chain on this machine), and 0 of 2 (before by this machine's clock alone)"
    assert predictions.scores_text(rows).endswith(f"80 % intervals {held}")
    drawn = predictions.calibration(rows)
    assert held in drawn.title
    marks = [points.get_paths()[0].vertices.tobytes() for points in drawn.figure.axes[0].collections[1:3]]
    assert len(set(marks)) == 2


def test_grey_tells_curves_of_sizes_and_parts_of_a_bar_apart(study):
    axes = draw_figure("learning", study).figure.axes[0]
    trunks = [line for line in axes.get_lines() if line.get_linewidth() == 1.5]
    assert len({line.get_marker() for line in trunks}) == len(trunks) > 3
    bars = draw_figure("cost", study).figure.axes[0].patches
    assert {bar.get_hatch() for bar in bars} == {None, "////"}


def test_every_figure_but_calibration_is_drawn_for_a_whole_study(study):
    drawn, not_drawn = draw_figures(study)
    assert {p.name for p in drawn} == DRAWN
    assert not_drawn == {"calibration": "there is 1 scored prediction; calibration needs at least 3"}
    assert all(p.title and p.about and p.rows for p in drawn)


@pytest.mark.parametrize("name", sorted(DRAWN))
def test_svg_is_well_formed_the_same_twice_and_says_what_it_shows(study, name):
    first = draw_figure(name, study)
    texts = [style.svg(drawn.figure, name) for drawn in (first, first, draw_figure(name, study))]
    assert texts[0] == texts[1] == texts[2]
    root = ET.fromstring(texts[0])
    assert root.get("role") == "img"
    assert root.get("aria-label") == first.title == root[0].text
    assert "<text" in texts[0], "text stays text"
    assert re.search(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d", texts[0]) is None, "no date of drawing"


def test_inline_svg_takes_the_pages_colours(study):
    text = style.svg(draw_figure("frontier", study).figure, "frontier", inline=True)
    assert not [colour for colour in style.DARK if colour in text]
    assert f"var(--{style.css_variable(style.BLUE)})" in text


def test_png_is_the_same_twice(study):
    figure = draw_figure("residuals", study).figure
    assert style.png(figure) == style.png(figure)
    assert style.png(figure)[:8] == b"\x89PNG\r\n\x1a\n"


def test_each_run_of_the_law_has_a_point_with_its_name(study):
    text = style.svg(draw_figure("frontier", study).figure, "frontier")
    assert text.count('class="pt"') == 2 * len(study.comparable_runs), (
        "above against loss, below against size"
    )
    assert "gpt2-d192-s0" in text


def test_a_spreadsheet_computes_nothing_of_a_name():
    rows = list(
        csv.reader(io.StringIO(csv_text(("run", "loss"), [("=1+1", -0.5), ("@x", 2.0), ("gpt2-52m", 3.0)])))
    )
    assert rows == [["run", "loss"], ["'=1+1", "-0.5"], ["'@x", "2.0"], ["gpt2-52m", "3.0"]]


def test_csv_holds_the_runs_and_the_percent_off_the_law(study):
    rows = list(csv.DictReader(io.StringIO(draw_figure("residuals", study).csv())))
    assert len(rows) == len(study.comparable_runs)
    for row in rows:
        assert float(row["percent"]) == pytest.approx(100 * (float(row["loss"]) / float(row["law"]) - 1))


def test_residuals_of_runs_drawn_with_0_3_percent_noise_are_of_that_size(study):
    error = law.residual_percent(
        study.law, [r for r in study.comparable_runs if r.run not in study.sealed_runs]
    )
    assert 0.1 < float(np.sqrt(np.mean(error**2))) < 0.6


def test_a_trend_in_the_residuals_is_said(study):
    bent = [
        r.model_copy(update={"loss": r.loss * (1 + 0.02 * np.log10(r.tokens / 4e5))})
        for r in study.comparable_runs
    ]
    assert "a trend in D" in law.residuals(study.law, bent).title
    assert "no trend" in law.residuals(study.law, study.comparable_runs, study.sealed_runs).title


def test_smoothing_keeps_a_constant_and_the_mean_level():
    assert study_data.smooth(np.full(50, 3.0)) == pytest.approx(np.full(50, 3.0))
    rng = np.random.default_rng(0)
    noisy = TRUTH.loss(1e6, np.geomspace(1e5, 1e7, 400)) + rng.normal(0, 0.1, 400)
    assert abs(study_data.smooth(noisy) - noisy).mean() < 0.1
    assert np.std(np.diff(study_data.smooth(noisy))) < 0.2 * np.std(np.diff(noisy))


def test_a_cooldown_starts_on_its_trunk(study):
    branch = next(c for c in study.curves if c.part.startswith("rung"))
    tokens, loss = study_data.smooth_with_trunk(branch, study.curves)
    assert tokens[0] < branch.tokens[0]
    assert len(tokens) == len(loss) == len(branch.tokens) + 1


def test_labels_at_line_ends_do_not_overlap():
    with style.style_context():
        _, (axes,) = style.new_figure()
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        style.label_ends(axes, [(1, 0.97 + i / 1000, f"n{i}", style.INK) for i in range(6)])
    heights = sorted(text.xy[1] for text in axes.texts)
    assert heights[-1] <= 1 + 1e-9
    assert min(np.diff(heights)) > 0.054


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: predictions.predicted_against_actual([]), "0 sealed predictions"),
        (lambda: predictions.calibration([_row(4.0, 4.1)]), "needs at least 3"),
        (lambda: predictions.backtest([]), "no form"),
        (lambda: training.learning_curves([], []), "0 learning curves"),
        (lambda: training.cost([]), "0 entries"),
        (lambda: training.throughput([], []), "no run was timed"),
    ],
)
def test_a_figure_without_data_is_one_clear_line(draw, message):
    with pytest.raises(BadInput, match=message):
        draw()


def test_an_unknown_figure_names_the_nearest(study):
    with pytest.raises(BadInput, match="did you mean surface"):
        draw_figure("surfcae", study)


def test_no_setting_of_the_callers_matplotlib_changes(study):
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    style.png(draw_figure("surface", study).figure)
    assert dict(mpl.rcParams) == before


def test_the_bands_edges_cost_what_the_band_allows(study):
    predictor = without_local_correction(study.law)
    best = frontier.compute_frontier(predictor, np.geomspace(1e11, 1e13, 7))
    for edge in best.band:
        loss = predictor.predict(edge, best.C / (6 * edge)).loss
        assert loss - best.loss == pytest.approx(np.full(7, best.nats), rel=0.02)
    assert (best.band[0] < best.N).all()
    assert (best.band[1] > best.N).all()


def test_a_wider_band_holds_the_narrower_one(study):
    compute = np.array([1e12])
    narrow, wide = (frontier.compute_frontier(study.law, compute, nats=nats) for nats in (0.005, 0.02))
    assert wide.band[0] < narrow.band[0] < narrow.band[1] < wide.band[1]


def _timed(run):
    size = np.array([5e5])
    return [LossCurve(run=run, part="trunk", tokens=size, loss=np.array([3.0]), tokens_per_s=size)]


def _run(**changes):
    flops = 8e8 * 1e9
    fields = {"params": 1e8, "tokens": 1e9, "loss": 3.0, "compute": flops, "compute_kind": "exact", **changes}
    return Run(run="r", **fields)


def test_mfu_is_of_a_named_dense_peak():
    (speed,) = training.measure_throughput(_timed("r"), [_run(accelerator="NVIDIA H200")])
    assert speed.mfu == pytest.approx(5e5 * 8e8 / 989e12)
    assert speed.peak == "H200's 989 TFLOP/s bf16 dense"
    drawn = training.throughput(_timed("r"), [_run(accelerator="NVIDIA H200")])
    assert "40 % of H200's 989 TFLOP/s bf16 dense" in drawn.title
    (eight,) = training.measure_throughput(_timed("r"), [_run(accelerator="8xA100")])
    assert eight.mfu == pytest.approx(5e5 * 8e8 / (8 * 312e12))


def test_without_a_known_peak_the_models_own_flops_are_said():
    (speed,) = training.measure_throughput(_timed("r"), [_run(accelerator="cpu")])
    assert (speed.mfu, speed.utilisation) == (None, "400 TFLOP/s")
    (unknown,) = training.measure_throughput(_timed("r"), [_run(compute_kind="6ND")])
    assert unknown.utilisation == "", "6ND is no exact count"


def test_a_ladders_trunk_is_planned_once(study):
    ladder = study.ladder.members[0]
    flops = study.planned_flops[f"{ladder.member}-s0"]
    each = ladder.flops / ladder.tokens
    assert flops == pytest.approx(each * (0.8 * max(ladder.rungs) + 0.2 * sum(ladder.rungs)))
    assert flops < each * sum(ladder.rungs)


def test_a_loss_that_ran_away_gets_a_handful_of_ticks():
    axes = Figure().add_subplot()
    axes.set_ylim(3.0, 1e6)
    style.log_losses(axes)
    assert 2 <= len(axes.yaxis.get_major_locator()()) <= 12


def test_the_profile_names_where_the_misfit_passes_its_limits_and_what_stays_open():
    values = np.linspace(0.2, 0.4, 21)
    rises = 12 * ((values - 0.3) / 0.1) ** 2
    shared = {"objectives": tuple(rises), "rises": tuple(rises), "interval_80": (0.263, 0.337)}
    alpha = LikelihoodProfile(
        name="alpha", best=0.3, values=tuple(values), interval_95=(0.243, 0.357), **shared
    )
    gamma = LikelihoodProfile(
        name="gamma", best=0.3, values=tuple(values), interval_95=(0.243, None), **shared
    )
    drawn = law.profile([alpha, gamma])
    figure = drawn.figure
    assert drawn.title == "At 95 %, α 0.243 to 0.357, γ 0.243 to open"
    assert len(figure.axes) == 2
    line = figure.axes[0].lines[-2]
    np.testing.assert_allclose(line.get_ydata(), rises)
    with pytest.raises(BadInput, match="0 exponents"):
        law.profile([])


def test_sizes_of_errors_and_perplexities_of_diverged_runs_stay_short():
    assert [predictions.percent_off(error) for error in (0.0046, -0.0118, -0.9996)] == [
        "0.46 %",
        "1.2 %",
        "100 %",
    ]
    assert (tables.short_number(16.806, 2), tables.short_number(1.0142320547350045e304, 2)) == (
        "16.81",
        "1.01e+304",
    )


def test_many_sizes_are_named_at_their_lines_from_the_lowest_loss_to_the_highest():
    runs = [
        Run(
            run=f"r{i}", params=1e6 * 1.3**i, params_non_embedding=8e5 * 1.3**i, tokens=1e8, loss=4 - 0.05 * i
        )
        for i in range(30)
    ]
    drawn = training.learning_curves((), runs).figure
    named = [text.get_text() for text in drawn.axes[0].texts]
    assert len(named) == 14
    assert {"1M", format_size(runs[-1].params)} <= set(named)
    assert all(0 <= text.xy[1] <= 1 for text in drawn.axes[0].texts)

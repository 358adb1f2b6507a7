"""Prediction intervals of published laws: where their data allow them, and a range of opinions where not."""

import math

import numpy as np
import pytest

import scaling as sc
from families.units import BadInput
from scaling.planning.seal import seal, sealed_predictions
from scaling.published_laws import PUBLISHED
from scaling.stats import Z_80, Z_95

LAW = PUBLISHED["chinchilla"]
# Besiroglu et al. 2024, table 1: standard errors of the bootstrap of their fit, and the constants they belong to.
STANDARD_ERRORS = {"E": 0.03, "alpha": 0.02, "beta": 0.02}


def test_the_constants_spread_as_besiroglu_and_others_published_it():
    own = dict(
        zip(("E", "a", "b", "alpha", "beta"), np.sqrt(np.diag(LAW.uncertainty.covariance)), strict=True)
    )
    own["E"] *= LAW.law.E
    for name, published in STANDARD_ERRORS.items():
        assert published / 1.5 < own[name] <= published, name
    # A and B are those at one parameter and one token: their spread is that of the exponents, magnified.
    size, data = LAW.uncertainty.log_N, LAW.uncertainty.log_D
    covariance = np.array(LAW.uncertainty.covariance)
    for index, at, error, constant in ((1, size, 124.58, 482.01), (2, data, 1293.23, 2085.43)):
        exponent = index + 2
        log_spread = math.sqrt(
            covariance[index, index]
            + at**2 * covariance[exponent, exponent]
            + 2 * at * covariance[index, exponent]
        )
        assert 0.5 < log_spread / (error / constant) < 1.1


def test_the_covariance_is_one():
    covariance = np.array(LAW.uncertainty.covariance)
    assert covariance == pytest.approx(covariance.T)
    assert (np.linalg.eigvalsh(covariance) > 0).all()


@pytest.mark.parametrize(("n", "d"), [(1e8, 2e9), (1e9, 2e10), (1e10, 2e11)])
def test_an_interval_is_that_of_sampled_constants_to_an_eighth_of_its_width(n, d):
    rng = np.random.default_rng(0)
    law, known = LAW.law, LAW.uncertainty
    center = np.array(
        [math.log(law.E), math.log(law.A) - law.alpha * known.log_N, math.log(law.B) - law.beta * known.log_D,
         law.alpha, law.beta]
    )  # fmt: skip
    draws = rng.multivariate_normal(center, known.covariance, 40_000)
    loss = (
        np.exp(draws[:, 0])
        + np.exp(draws[:, 1] - draws[:, 3] * (math.log(n) - known.log_N))
        + np.exp(draws[:, 2] - draws[:, 4] * (math.log(d) - known.log_D))
    )
    loss *= np.exp(known.noise * rng.standard_normal(len(loss)))
    found = LAW.predict(n, d)
    for interval, levels in ((found.interval_80, (10, 90)), (found.interval_95, (2.5, 97.5))):
        close = math.log(interval[1] / interval[0]) / 16  # the slopes are of first order
        assert np.log(np.percentile(loss, levels) / np.array(interval)) == pytest.approx(0, abs=close)


def test_an_interval_widens_with_the_distance_and_holds_the_prediction():
    widths = []
    for n in (1e9, 1e10, 1e11, 1e12):
        found = LAW.predict(n, 20 * n, force=True)
        low, high = found.interval_80
        assert found.interval_95[0] < low < found.loss < high < found.interval_95[1]
        widths.append(math.log(high / low))
    assert widths == sorted(widths)
    assert widths[0] > 2 * Z_80 * LAW.uncertainty.noise
    assert Z_95 > Z_80


def test_arrays_and_points_have_one_interval():
    sizes = np.array([1e8, 1e9, 1e10])
    many = LAW.predict(sizes, 20 * sizes)
    for index, size in enumerate(sizes):
        assert LAW.predict(size, 20 * size).interval_80 == pytest.approx(
            [edge[index] for edge in many.interval_80]
        )


def test_a_plan_shows_intervals_or_the_range_over_published_laws_and_never_calls_that_an_interval():
    with_interval = sc.plan("1e21", law="chinchilla")
    assert with_interval.recommended.interval_80[0] < with_interval.recommended.loss
    assert any("intervals are of one run on MassiveText" in note for note in with_interval.notes)
    without = sc.plan("1e21", law="kaplan")
    assert without.recommended.interval_80 is None
    (note,) = (note for note in without.notes if note.startswith("over published laws (kaplan, chinchilla)"))
    assert "not an interval" in note


def test_a_published_laws_interval_is_no_sealed_prediction_of_a_run_on_other_text():
    sealed = seal(sc.plan("1e20", law="chinchilla").document)
    with pytest.raises(BadInput, match="needs a law fitted to own runs"):
        sealed_predictions(sealed)

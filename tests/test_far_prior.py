"""What rests on the prior far beyond the data: a floor by bytes, wide intervals where rows say little, failed runs."""

import numpy as np
import pytest

from scaling.fitting.ensemble import (
    POSTERIOR_PRIOR,
    SMALL_DRIFT,
    USUAL_BYTES,
    bytes_per_token,
    drift_of_small,
)
from scaling.fitting.fit import fit
from scaling.fitting.forms import ResidualGP
from scaling.fitting.misfit import PREDICTED
from scaling.fitting.predictor import BEYOND_SIZES, UNTIED, load_law
from scaling.fitting.uncertainty import SPENT
from scaling.laws import Law
from scaling.runs import Run

LAW = Law(E=0.9, A=60.0, B=250.0, alpha=0.3, beta=0.32)
NEAR, FAR = (6.5e4, 1e6), (4e5, 6e7)


def toy(vocab_size, most=6.5e4, noise=0.002):
    """A toy ladder: three decades below its far target, in a third of a decade of sizes and tokens each."""
    rng = np.random.default_rng(3)
    return [
        Run(
            run=f"{N:.0f}-{D:.0f}", params=N, tokens=D, vocab_size=vocab_size,
            loss=LAW.loss(N, D) * np.exp(noise * rng.normal()),
        )
        for N in np.geomspace(1.7e4, most, 4)
        for D in (2e5, 4e5, 8e5)
    ]  # fmt: skip


def half_width(found, point):
    low, high = found.predict(*point, force=True).interval_80
    return np.log(high / low) / 2


@pytest.fixture(scope="module")
def short_tokens():
    return fit(toy(512))


def test_tokens_of_a_published_vocabulary_have_the_usual_bytes_and_shorter_ones_fewer():
    assert bytes_per_token(50_257) == pytest.approx(USUAL_BYTES)
    assert bytes_per_token(512) < bytes_per_token(8192) < bytes_per_token(32_000) < USUAL_BYTES
    assert 1 <= bytes_per_token(2) <= bytes_per_token(10**9) <= 8


def test_the_prior_of_published_tables_is_the_same_with_and_without_their_vocabulary():
    for smallest in (0.7, 1.2):
        without = POSTERIOR_PRIOR.of_rows(smallest, None)
        np.testing.assert_allclose(
            POSTERIOR_PRIOR.of_rows(smallest, 50_257).centre(smallest), without.centre(smallest)
        )
        assert without.floor_width == POSTERIOR_PRIOR.floor_width


def test_far_predictions_of_runs_smaller_than_any_published_laws_are_wide_and_those_beside_them_are_not(
    monkeypatch,
):
    assert drift_of_small(1e13) == SMALL_DRIFT
    assert 0 < drift_of_small(1e15) < SMALL_DRIFT
    assert drift_of_small(1e16) == drift_of_small(1e20) == 0
    with_it = fit(toy(512))
    monkeypatch.setattr("scaling.fitting.ensemble.SMALL_DRIFT", 0.0)
    without = fit(toy(512))
    assert with_it.drift**2 - without.drift**2 == pytest.approx(SMALL_DRIFT**2)
    assert half_width(with_it, FAR) > 1.3 * half_width(without, FAR)
    assert half_width(with_it, NEAR) < 1.05 * half_width(without, NEAR)


def test_short_tokens_may_fall_lower_than_the_floor_of_published_ones(short_tokens):
    long_tokens = fit(toy(50_257))
    assert short_tokens.predict(*FAR, force=True).loss < 0.97 * long_tokens.predict(*FAR, force=True).loss
    assert short_tokens.predict(*NEAR).loss == pytest.approx(long_tokens.predict(*NEAR).loss, rel=0.01)


def test_where_rows_say_little_a_far_prediction_has_the_variance_of_all_constants(short_tokens):
    found = short_tokens
    assert found.prior_share > 0.5
    n, d = (np.array([value]) for value in FAR)
    draws = sum(form.weight * form.log_losses(n, d) for form in found.forms)
    share = float(found.uncertainty(n, d, np.array([UNTIED]))["constants"][0] / np.var(draws, axis=0)[0])
    beyond = BEYOND_SIZES * (1 - SPENT / found.runs) * found.domain.sizes_beyond(n)[0]
    assert share == pytest.approx(
        found.predicted + (1 - found.predicted) * found.prior_share**4 + beyond, rel=1e-6
    )
    assert float(found.uncertainty(n, d, np.array([0.0]))["constants"][0]) < np.var(draws, axis=0)[0] * share


def test_rows_over_decades_leave_the_prior_little_and_intervals_narrow(short_tokens):
    rng = np.random.default_rng(0)
    wide = fit(
        [
            Run(run=f"{N:.0f}-{D:.0f}", params=N, tokens=D, vocab_size=512, loss=LAW.loss(N, D) * np.exp(0.002 * rng.normal()))
            for N in np.geomspace(1e4, 1e8, 7)
            for D in np.geomspace(1e5, 1e10, 7)
        ]
    )  # fmt: skip
    assert wide.prior_share < 0.5 * short_tokens.prior_share
    beyond = tuple(30 * most for most in (wide.domain.N[1], wide.domain.D[1]))
    assert half_width(wide, beyond) < 0.5 * half_width(short_tokens, FAR)


def test_a_law_that_is_read_back_is_as_unsure_as_the_one_that_was_saved(short_tokens, tmp_path):
    short_tokens.save(tmp_path / "law.json")
    again = load_law(tmp_path / "law.json")
    assert again.prior_share == short_tokens.prior_share
    assert half_width(again, FAR) == pytest.approx(half_width(short_tokens, FAR))


def test_few_runs_widen_a_prediction_with_its_distance():
    few = fit(toy(512)[:6], seed=1)
    n, d = (np.array([most]) for most in (few.domain.N[1], few.domain.D[1]))
    assert few.predicted > 1.5 * PREDICTED
    shares = few._share(np.tile(n, 3), np.array([0.0, 0.5, 1.0])) - few.prior_share**4 * np.array(
        [0, 0.25, 0.5]
    )
    assert shares[0] == pytest.approx(PREDICTED)
    assert shares[0] < shares[1] < shares[2]
    assert few.uncertainty(n, d, np.zeros(1))["constants"] < few.uncertainty(n, d, np.ones(1))["constants"]


def test_a_size_beyond_runs_of_narrow_sizes_is_less_certain_and_said_to_be():
    rng = np.random.default_rng(2)
    law = Law(E=1.8, A=480, B=480, alpha=0.35, beta=0.35)
    half, said = [], []
    for smallest in (3e7, 1e6):
        N, D = (v.ravel() for v in np.meshgrid(np.geomspace(smallest, 1e8, 5), np.geomspace(2e8, 5e9, 5)))
        found = fit(N=N, D=D, loss=law.loss(N, D) * np.exp(0.004 * rng.normal(size=25)))
        shares = found._share(np.array([8e8, 1e8]), np.ones(2))
        half.append(shares[0] - shares[1])
        said.append(found.narrow_sizes(8e8))
    assert half[0] > 3 * half[1] > 0
    assert "8 times the largest of the runs, whose sizes span a factor of 3.3" in said[0]
    assert said[1] == ""
    assert found.narrow_sizes(1e8) == ""


@pytest.mark.parametrize("lengths", [40, 80])
def test_runs_that_diverged_do_not_lift_the_correction_of_the_others(lengths):
    rng = np.random.default_rng(1)
    N = np.repeat(np.geomspace(1e7, 1e9, 4), lengths)
    D = np.tile(np.geomspace(1e9, 1e11, lengths), 4)
    residuals = rng.normal(0, 0.004, len(N))
    failed = rng.random(len(N)) < 0.45
    residuals[failed] += 0.5
    correction = ResidualGP.of(N, D, residuals).correction(N[~failed], D[~failed])
    assert np.abs(correction).max() < 0.03


# Laws whose losses lie within 3 % of their floor, and far above one near 0; Chinchilla's, Kaplan's, and two asymmetric ones.
EXACT = {
    "near its floor": Law(E=1.9, A=30, B=90, alpha=0.34, beta=0.34),
    "floor near 0": Law(E=0.05, A=19, B=25, alpha=0.13, beta=0.13),
    "Chinchilla": Law(E=1.82, A=482, B=2085, alpha=0.3478, beta=0.3658),
    "Kaplan": Law(E=0, A=8.8e13, B=5.4e13, alpha=0.076 / 0.095, beta=1, gamma=0.095),
    "asymmetric": Law(E=1.7, A=180, B=9000, alpha=0.28, beta=0.45),
    "general": Law(E=1.6, A=1.5e5, B=6e5, alpha=0.6, beta=0.58, gamma=0.45),
}


def grid(sizes=4):
    """Twelve rows within a decade of N and of D."""
    return (v.ravel() for v in np.meshgrid(np.geomspace(1e8, 1e9, sizes), np.geomspace(2e9, 2e10, 3)))


@pytest.mark.parametrize("name", EXACT)
def test_twelve_rows_without_noise_are_followed_a_hundredfold_wherever_their_floor_lies(name):
    law = EXACT[name]
    N, D = grid()
    found = fit(N=N, D=D, loss=law.loss(N, D), bootstrap=50)
    for times in (1, 10, 100):
        at = 1e9 * times**0.5, 2e10 * times**0.5
        answer = found.predict(*at)
        assert answer.loss == pytest.approx(law.loss(*at), rel=5e-4)
        assert answer.interval_80[0] < law.loss(*at) < answer.interval_80[1]
        assert half_width(found, at) < 3e-3


def test_losses_written_with_four_decimals_are_rows_without_noise_too():
    law = EXACT["near its floor"]
    N, D = (v.ravel() for v in np.meshgrid(np.geomspace(1e7, 1e9, 6), np.geomspace(1e9, 4e10, 3)))
    found = fit(N=N, D=D, loss=np.round(law.loss(N, D), 4), bootstrap=50)
    answer = found.predict(3e9, 1.3e11)
    assert answer.loss == pytest.approx(law.loss(3e9, 1.3e11), rel=3e-3)
    assert answer.interval_80[0] < law.loss(3e9, 1.3e11) < answer.interval_80[1]


def test_the_noise_of_a_training_run_is_never_taken_for_none():
    law = EXACT["Chinchilla"]
    for seed in range(4):
        N, D = grid()
        noisy = law.loss(N, D) * np.exp(np.random.default_rng(seed).normal(0, 5e-4, len(N)))
        assert half_width(fit(N=N, D=D, loss=noisy, bootstrap=50), (3e9, 6e10)) > 3e-3


def test_eight_distinct_points_are_too_few_to_tell_that_there_is_no_noise():
    law = EXACT["Chinchilla"]
    N, D = (np.repeat(v.ravel(), 2) for v in np.meshgrid(np.geomspace(1e8, 1e9, 4), [4e9, 1e10]))
    assert half_width(fit(N=N, D=D, loss=law.loss(N, D), bootstrap=50), (3e9, 6e10)) > 3e-3

"""The default predictor: the general form's posterior under a prior from published fits, and a local correction.

A table of thirty rows does not tell six constants apart, and the ones it leaves open decide the next decade; a table of a
thousand tells them apart by what the law leaves out. `misfit` weighs both (docs/math.md). Rollouts inside the data say how
far a plain fit would have drifted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from families.units import BadInput

from ..laws import CONSTANTS, Law
from ..runs import RunTable
from ..stats import Array
from .certify import Certificate, certify
from .forms import FittedForm, LastValue, ResidualGP, Status
from .misfit import PREDICTED, NormalParts, posterior
from .noiseless import law_through, share_on_rows, still_posterior
from .optimise import ALPHA_, BETA_, G_, SHAPES, FormShape, Problem, log_loss, minimise, starts
from .uncertainty import SPENT, cluster_draws

DELTA = 3e-3  # of the candidates' log-Huber loss: near the noise of a run, so that clean tables are fitted by squares

FEWEST_TRAINING_ROWS = 8

FEWEST_HELD_ROWS = 2

CUTS = (0.3, 0.5, 0.75, 1.0)  # decades of compute below the largest at which rollouts cut

MOST_ROLLOUT_ROWS = 600  # larger tables are thinned evenly in compute

USUAL_NOISE = 3e-3  # of log loss between like runs; counts as one row where rows are few

SMALLEST_ERROR = 1e-3  # rollout errors below this, the noise of a run, carry no information

UNTESTED_DRIFT = 0.02  # per decade where no rollout can be made: single forms' mean error over public tables

USUAL_DRIFT = 0.005  # of single forms, over public tables and simulated ones

# Per decade, of runs too small for the prior's published laws. Eight sealed predictions 10 to 300 times beyond ladders of 1e11 to
# 4e12 FLOPs then have a root mean square z of 1.24 (1.77 without), three sealed later 1.06 (3.44): log e279. It fades over two
# decades, of which there is no record.
SMALL_DRIFT, SMALL_COMPUTE, USUAL_COMPUTE = 0.05, 1e14, 1e16

LEAST_DRIFT_SHARE = 0.1  # of a squared rollout error, however much of it the noise of the held rows explains

USUAL_DRIFT_COUNT = 8  # how many rollouts that counts for: a table's own are few, and all from its cheap end


@dataclass(frozen=True, slots=True, kw_only=True)
class FormPrior:
    """Normal prior of the constants from public fits, in the coordinates of `optimise`.

    slope is of either term in log N or log D: Kaplan 0.08 to Porian 0.5, most 0.25 to 0.45. gamma is 0.35 to 1 over public
    tables. The floor E and each term in mid-data are shares of the smallest loss. Widths are of logarithms, but the slope's.
    """

    slope: float = 0.35
    slope_width: float = 0.1
    slope_with_gamma: float = 0.0  # of a slope's logarithm, how far it goes with log gamma
    gamma: float = 0.7
    gamma_width: float = 0.4
    floor: float = 0.6
    highest: float = np.inf  # smallest loss of which the floor is such a share: small models lie far above it
    floor_width: float = 0.3
    floor_doubt: float = 0.0  # of the floor, by how much shorter tokens are than published ones, for each e-fold above `highest`
    floor_tail: float = (
        0.0  # weight of a second normal part of the floor: losses may lie near theirs, or far above
    )
    floor_tail_width: float = 0.5
    term: float = 0.3
    term_width: float = 1.0

    def centre(self, log_smallest: float) -> Array:
        """θ at the middle of the prior, for rows whose smallest log loss is given."""
        floor = min(log_smallest, np.log(self.highest)) + np.log(self.floor)
        term = log_smallest + np.log(self.term)
        return np.array([floor, term, term, self.slope, self.slope, np.log(self.gamma)])

    @property
    def widths(self) -> Array:
        """Standard deviation of each coordinate of θ."""
        term, slope = self.term_width, self.slope_width
        return np.array([self.floor_width, term, term, slope, slope, self.gamma_width])

    def parts(self, log_smallest: float) -> NormalParts:
        """The prior with the tail of its floor, for rows whose smallest log loss is given."""
        centre = self.centre(log_smallest)
        roots = []
        for width in (self.floor_width, max(self.floor_width, self.floor_tail_width)):
            root = np.diag(replace(self, floor_width=width).widths)
            root[[ALPHA_, BETA_], G_] = self.slope_with_gamma * self.slope * self.gamma_width
            roots.append(root)
        kept = slice(2 if self.floor_tail else 1)
        weights = np.log([1 - self.floor_tail, max(self.floor_tail, 1e-300)])
        return NormalParts(
            log_weights=weights[kept], centres=np.tile(centre, (2, 1))[kept], roots=np.stack(roots)[kept]
        )

    def of_rows(self, log_smallest: float, vocab_size: int | None) -> "FormPrior":
        """The prior for rows: fewer bytes a token are fewer nats, and no published law has tokens so short.

        Args:
            log_smallest: smallest log loss of the rows.
            vocab_size: of their tokenizer; None where it is not known, or not one.
        """
        share = 1.0 if vocab_size is None else min(1.0, bytes_per_token(vocab_size) / USUAL_BYTES)
        above = max(0.0, log_smallest - np.log(share * self.highest))
        return replace(
            self,
            highest=share * self.highest,
            floor_width=self.floor_width + self.floor_doubt * (1 - share) * above,
        )


USUAL_BYTES = 4.4  # of a token of the published laws' tokenizers, GPT-2's on English among them

TOY_BYTES, TOY_VOCABULARY = 1.97, 512  # mean of five texts, 1.71 to 2.15 (docs/log.md, e166)


def bytes_per_token(vocab_size: int) -> float:
    """Bytes of text that a token of a byte-pair vocabulary stands for, roughly: linear in the vocabulary's logarithm.

    Through the two measured points above, GPT-2's at 50,257 entries; between 1 and 8.
    """
    share = np.log(vocab_size / TOY_VOCABULARY) / np.log(50_257 / TOY_VOCABULARY)
    return float(np.clip(TOY_BYTES + (USUAL_BYTES - TOY_BYTES) * share, 1.0, 8.0))


PRIOR = FormPrior()  # of plain fits: candidates of rollouts, and where the posterior starts

# Of the posterior, whose rows weigh less (log e136, e181). Published slopes, 0.2 to 0.5, lie within three widths.
POSTERIOR_PRIOR = FormPrior(
    slope=0.32,
    slope_width=0.06,
    slope_with_gamma=0.05,
    gamma=0.73,
    gamma_width=0.4,
    highest=3.0,
    floor_width=0.15,
    floor_doubt=0.5,
    floor_tail=0.05,
    term_width=0.5,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A form of the default predictor: `strength` multiplies the prior, `share` is its weight before any rollout."""

    name: str
    shape: FormShape
    strength: float
    share: float = 1.0


CANDIDATES = (
    Candidate(name="general (weak prior)", shape=SHAPES["general"], strength=0.1),
    Candidate(name="general", shape=SHAPES["general"], strength=1.0),
    Candidate(name="general (strong prior)", shape=SHAPES["general"], strength=4.0),
    Candidate(name="chinchilla", shape=SHAPES["chinchilla"], strength=1.0, share=0.5),
)


GENERAL = CANDIDATES[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows to fit; `noise` is the variance of log loss about a law, the unit of the prior's weight."""

    N: Array
    D: Array
    L: Array
    noise: float
    prior: FormPrior = PRIOR

    @classmethod
    def of(cls, N: Array, D: Array, L: Array, prior: FormPrior = PRIOR) -> "Table":
        """Rows whose noise is estimated by a first fit of the general form with a very weak prior.

        Args:
            N: parameters, shape (n,).
            D: tokens, shape (n,).
            L: losses in nats per token, shape (n,).
            prior: of the constants of every candidate form.
        """
        rough = cls(N=N, D=D, L=L, noise=1e-5, prior=prior)
        few = rough.thinned()
        problem = few.problem(CANDIDATES[0])
        theta = solve(problem, CANDIDATES[0].shape)
        r = np.abs(log_loss(theta[None], problem.x, problem.z)[0] - problem.y)
        cost = float(np.where(r < DELTA, 0.5 * r * r, DELTA * (r - 0.5 * DELTA)).sum())
        freedom = max(len(r) - len(CANDIDATES[0].shape.free), 0)
        return replace(rough, noise=(2 * cost + USUAL_NOISE**2) / (freedom + 1))

    def thinned(self) -> "Table":
        """At most MOST_ROLLOUT_ROWS rows, evenly in compute."""
        if len(self.N) <= MOST_ROLLOUT_ROWS:
            return self
        order = np.argsort(self.N * self.D, kind="stable")
        keep = order[np.linspace(0, len(order) - 1, MOST_ROLLOUT_ROWS).round().astype(int)]
        return self.rows(keep)

    def rows(self, keep: NDArray[np.bool_] | NDArray[np.intp]) -> "Table":
        """Some of the rows."""
        return replace(self, N=self.N[keep], D=self.D[keep], L=self.L[keep])

    def plain_noise(self, problem: Problem, theta: Array) -> float:
        """Standard deviation of log loss about a plain fit, robustly; the usual noise counts where rows are few."""
        r = np.abs(log_loss(theta[None], problem.x, problem.z)[0] - problem.y)
        freedom = len(r) - 6
        if freedom < FEWEST_FREE:
            return float(np.sqrt(self.noise))
        cost = float(np.where(r < DELTA, 0.5 * r * r, DELTA * (r - 0.5 * DELTA)).sum())
        return max(float(np.sqrt(2 * cost / freedom)), LEAST_NOISE)

    def problem(self, candidate: Candidate) -> Problem:
        """The rows with the candidate's prior."""
        problem = Problem.of(self.N, self.D, self.L, delta=DELTA)
        return replace(
            problem,
            centre=self.prior.centre(float(problem.y.min())),
            precision=candidate.strength * self.noise / self.prior.widths**2,
        )


def solve(problem: Problem, shape: FormShape) -> Array:
    """The best θ (6,) of one problem, from four starts."""
    solution = minimise(problem, shape, starts(problem, shape, 4))
    return np.asarray(solution.theta[int(np.nanargmin(solution.objective))])


def predict_log(problem: Problem, theta: Array, N: Array, D: Array) -> Array:
    """Log L of one θ at other points, shape (n,).

    Args:
        problem: the one whose coordinates θ is in.
        theta: shape (6,).
        N: parameters, shape (n,).
        D: tokens, shape (n,).
    """
    return np.asarray(log_loss(theta[None], np.log(N) - problem.x_mean, np.log(D) - problem.z_mean)[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One rollout: fitted below a cut in compute, scored above it.

    Args:
        train: rows below the cut.
        test: rows above it.
        fitted: log loss of each candidate at `train`, shape (candidates, rows).
        predicted: log loss of each candidate at `test`, likewise.
    """

    train: Table
    test: Table
    fitted: Array
    predicted: Array

    @property
    def errors(self) -> Array:
        """Log predicted − log actual, shape (candidates, rows)."""
        return np.asarray(self.predicted - np.log(self.test.L))

    @property
    def decades(self) -> Array:
        """Decades of compute of each test row beyond the largest training row."""
        return np.asarray(np.log10(self.test.N * self.test.D / (self.train.N * self.train.D).max()))


def rollouts(table: Table, candidates: Sequence[Candidate] = CANDIDATES) -> list[Rollout]:
    """Fit below each cut and predict the rows above it; empty where the rows are too few.

    Budgets far apart put two cuts between the same rows: one split, which is evidence once.
    """
    few = table.thinned()
    C = few.N * few.D
    results: list[Rollout] = []
    for gap in CUTS:
        cheap = C * 10**gap <= C.max() * (1 + 1e-9)
        if cheap.sum() < FEWEST_TRAINING_ROWS or (~cheap).sum() < FEWEST_HELD_ROWS:
            continue
        if results and cheap.sum() == len(
            results[-1].train.N
        ):  # cuts are nested: as many rows are the same rows
            continue
        low, high = few.rows(cheap), few.rows(~cheap)
        fitted, predicted = [], []
        for candidate in candidates:
            problem = low.problem(candidate)
            theta = solve(problem, candidate.shape)
            fitted.append(predict_log(problem, theta, low.N, low.D))
            predicted.append(predict_log(problem, theta, high.N, high.D))
        results.append(Rollout(train=low, test=high, fitted=np.array(fitted), predicted=np.array(predicted)))
    return results


def ensemble_weights(
    cuts: Sequence[Rollout], candidates: Sequence[Candidate] = CANDIDATES
) -> tuple[Array, Array | None]:
    """Weights by share over squared rollout error, and each candidate's rms error; None without rollouts."""
    shares = np.array([candidate.share for candidate in candidates])
    if not cuts:
        return shares / shares.sum(), None
    error = np.sqrt(np.mean([(cut.errors**2).mean(axis=1) for cut in cuts], axis=0))
    weights = shares / np.maximum(error, SMALLEST_ERROR) ** 2
    return weights / weights.sum(), error


def drift_of(
    cuts: Sequence[Rollout], weights: Array, *, local: bool = True, usual: float = USUAL_DRIFT
) -> float:
    """Standard deviation of log loss that a decade of compute beyond the data adds.

    The geometric mean of the rollouts' errors per decade, drawn to what is usual: one bad rollout at the cheap end, where
    untuned runs bend a law, says little about the other end.

    Args:
        cuts: the rollouts.
        weights: of the candidates.
        local: true where the local correction is added to the candidates' predictions.
        usual: the drift towards which the rollouts' is drawn.
    """
    if not cuts:
        return UNTESTED_DRIFT
    logs = [USUAL_DRIFT_COUNT * np.log(usual)]
    for cut in cuts:
        error = weights @ cut.errors
        if local:
            nearby = ResidualGP.of(cut.train.N, cut.train.D, np.log(cut.train.L) - weights @ cut.fitted)
            error = error + nearby.correction(cut.test.N, cut.test.D)
        square = float((error**2).mean())
        beyond = max(square - cut.train.noise, LEAST_DRIFT_SHARE * square, 1e-14)
        logs.append(0.5 * np.log(beyond / float((cut.decades**2).mean())))
    return float(np.exp(np.sum(logs) / (len(cuts) + USUAL_DRIFT_COUNT)))


def drift_of_small(C: float) -> float:
    """Standard deviation of log loss that a decade beyond runs of at most C FLOPs adds: no published law is of runs so small."""
    fade = np.log(USUAL_COMPUTE / C) / np.log(USUAL_COMPUTE / SMALL_COMPUTE)
    return SMALL_DRIFT * float(np.clip(fade, 0.0, 1.0))


FEWEST_ROWS = 4

FEWEST_FREE = 3  # degrees of freedom from which rows tell their own noise

LEAST_NOISE = 1e-6  # of log loss, of noise-free surfaces

MOST_WIDENED = (
    2.5  # of runs/(runs − 3): beyond that of five runs a prediction is not widened further (log e209)
)

DIGITS = 10  # of a resampled constant in law.json


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleFit:
    """Forms with their evidence, a local correction, the drift beyond the data, and the offset that one size shares."""

    forms: tuple[FittedForm, ...]
    certificates: tuple[Certificate, ...]
    local: ResidualGP
    drift: float
    residuals: Array  # of log loss about the plain fit, which follows the rows most closely
    offset: float = 0.0
    predicted: float = 1.0  # share of the draws' variance that predictions have
    prior_share: float = 0.0  # of the slopes' prior variance, what the rows leave
    nearby: float | None = None  # `predicted` beside the data
    last: LastValue | None = None  # of a curve of one variable

    @property
    def main(self) -> int:
        """Index of the form with the greatest weight."""
        return int(np.argmax([form.weight for form in self.forms]))


def _member(
    name: str, certificate: Certificate, shape: FormShape, weight: float, draws: Array, error: float | None
) -> FittedForm:
    return FittedForm(
        name=name,
        law=certificate.law,
        status=certificate.status,
        objective=certificate.objective,
        weight=weight,
        draws=_rounded(draws),
        variable="C" if shape.variable == "C" else "ND",
        rollout_error=error,
    )


def _rounded(draws: Array) -> Array:
    """Draws to the digits that law.json holds, so that a fit and its file give the same intervals."""
    digits = [[float(f"{value:.{DIGITS}g}") for value in row] for row in draws.tolist()]
    return np.array(digits, dtype=np.float64).reshape(draws.shape)


def fit_single_form(
    table: RunTable, form: str, *, seed: int, bootstrap: int, delta: float, given: Sequence[Law] | None
) -> EnsembleFit:
    """Fit of a single form without a prior and with equal weights.

    Args:
        table: the runs.
        form: name of the form, a key of `SHAPES`.
        seed: of the starts and the resampling.
        bootstrap: resamples of whole runs; 0 for none.
        delta: residual in log loss beyond which the Huber loss is linear.
        given: laws to start from, in place of variable projection.
    """
    shape = SHAPES[form]
    if len(table) < len(shape.free):
        raise BadInput(f"there are {len(table)} rows; the form {form!r} has {len(shape.free)} constants")
    N = 6 * table.N * table.D if shape.variable == "C" else table.N
    problem = Problem.of(N, table.D, table.L, delta=delta)
    first = None if given is None else np.stack([problem.theta(law) for law in given])
    certificate = certify(problem, shape, first, seed)
    draws = cluster_draws(problem, shape, certificate.theta, table.cluster, bootstrap, seed)
    plain = [Candidate(name=form, shape=shape, strength=0.0)]
    cuts = rollouts(Table(N=N, D=table.D, L=table.L, noise=0.0), plain)
    weights, errors = ensemble_weights(cuts, plain)
    member = _member(form, certificate, shape, 1.0, draws, None if errors is None else float(errors[0]))
    return EnsembleFit(
        forms=(member,),
        certificates=(certificate,),
        residuals=np.log(table.L) - member.log_loss(table.N, table.D),
        local=ResidualGP.nothing(),
        drift=drift_of(cuts, weights, local=False),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainFit:
    """The general form by log-Huber under a weak prior, certified: where the posterior starts, and its rollouts."""

    rows: Table
    problem: Problem
    certificate: Certificate
    cuts: list[Rollout]


def fit_ensemble(table: RunTable, *, seed: int, bootstrap: int) -> EnsembleFit:
    """The general form's posterior and a local correction; `bootstrap` is the number of its draws."""
    return posterior_fit(table, plain_fit(table, seed), seed=seed, bootstrap=bootstrap)


def plain_fit(table: RunTable, seed: int) -> PlainFit:
    """The certified plain fit; `seed` is of its starts.

    Raises:
        BadInput: less than FEWEST_ROWS rows.
    """
    if len(table) < FEWEST_ROWS:
        raise BadInput(f"there are {len(table)} rows; at least {FEWEST_ROWS} are needed")
    rows = Table.of(table.N, table.D, table.L)
    problem = rows.problem(GENERAL)
    return PlainFit(
        rows=rows,
        problem=problem,
        certificate=certify(problem, GENERAL.shape, None, seed),
        cuts=rollouts(rows, (GENERAL,)),
    )


def _law(problem: Problem, theta: Array) -> Law:
    return Law(**dict(zip(CONSTANTS, problem.constants(theta).tolist(), strict=True)))


def posterior_fit(table: RunTable, plain: PlainFit, *, seed: int, bootstrap: int) -> EnsembleFit:
    """The posterior about a plain fit of the same rows, and a local correction.

    Args:
        table: the runs.
        plain: their plain fit.
        seed: of the draws.
        bootstrap: how many draws.
    """
    problem, certificate = plain.problem, plain.certificate
    smallest = float(problem.y.min())
    vocabularies = {run.vocab_size for run in table}
    prior = POSTERIOR_PRIOR.of_rows(smallest, vocabularies.pop() if len(vocabularies) == 1 else None)
    through = law_through(problem, GENERAL.shape, certificate.theta)
    if through is None:
        noise = plain.rows.plain_noise(problem, certificate.theta)
        found = posterior(problem, GENERAL.shape, certificate.theta, prior.parts(smallest), noise)
    else:
        found = still_posterior(problem, GENERAL.shape, through, prior.widths)
        certificate = replace(certificate, theta=through, law=_law(problem, through))
    smooth = _member(GENERAL.name, certificate, GENERAL.shape, 1.0, np.empty((0, 6)), None)
    certificate = replace(certificate, theta=found.theta, law=_law(problem, found.theta))
    if not found.converged and certificate.status is Status.OK:
        certificate = replace(
            certificate, status=Status.NOT_CONVERGED, detail="the posterior's mode was not found"
        )
    runs = int(table.cluster.max()) + 1
    few = runs / max(runs - SPENT, 1)  # few runs bend a law towards themselves, and do not hold the ridge
    found = found.widened(few)
    draws = problem.constants(found.draws(GENERAL.shape, bootstrap, seed)) if bootstrap else np.empty((0, 6))
    weights, errors = ensemble_weights(plain.cuts, (GENERAL,))
    member = _member(
        GENERAL.name, certificate, GENERAL.shape, 1.0, draws, None if errors is None else float(errors[0])
    )
    predicted = PREDICTED * min(few, MOST_WIDENED) ** 1.2
    if through is not None and len(draws):
        predicted = min(predicted, share_on_rows(member.log_losses(table.N, table.D)))
    return EnsembleFit(
        forms=(member,),
        certificates=(certificate,),
        local=ResidualGP.of(table.N, table.D, np.log(table.L) - member.log_loss(table.N, table.D)),
        # Rollouts of plain fits are bent by their prior, and say nothing of a law that passes through every row.
        drift=float(
            np.hypot(drift_of(plain.cuts, weights, usual=found.drift), drift_of_small(float(table.C.max())))
        )
        if through is None
        else found.drift,
        residuals=np.log(table.L) - smooth.log_loss(table.N, table.D),
        offset=found.offset,
        predicted=predicted,
        prior_share=found.prior_share
        / few**0.25,  # to the fourth power it multiplies draws that have been widened
        nearby=PREDICTED if through is None else None,
    )

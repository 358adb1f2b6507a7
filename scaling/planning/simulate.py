"""Simulation of a planned sweep on a known loss surface: bias, error and coverage of the prediction."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from families.units import BadInput

from ..fitting.fit import fit
from ..laws import PARAMS_FIELD, Convention, Law, n_params
from ..runs import Run
from ..stats import Z_80, Interval
from .experiment_design import ROW_NOISE, RUN_NOISE
from .planfile import PlanFile


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedSweep:
    """Members as (name, N, rungs), N in the convention of the surface."""

    members: tuple[tuple[str, float, tuple[int, ...]], ...]

    @classmethod
    def of(cls, plan: PlanFile, convention: Convention) -> "SimulatedSweep":
        """Return the sweep of a plan's members; one without rungs is observed at its end.

        Raises:
            BadInput: the plan has fewer than four members, too few for an interval.
        """
        if len(plan.members) < 4:
            raise BadInput(f"the plan has {len(plan.members)} members; an interval needs at least 4")
        return cls(
            members=tuple(
                (
                    planned.member,
                    n_params(planned, convention),
                    planned.ends,
                )
                for planned in plan.members
            )
        )

    def observe(
        self,
        surface: Law,
        rng: np.random.Generator,
        *,
        run_noise: float = RUN_NOISE,
        row_noise: float = ROW_NOISE,
        convention: Convention = "total",
    ) -> list[Run]:
        """Simulate the runs of one sweep.

        Args:
            surface: true law.
            rng: source of the noise.
            run_noise: standard deviation of log loss shared by the rungs of a run.
            row_noise: standard deviation of log loss of each rung.
            convention: parameters that N counts.
        """
        field = PARAMS_FIELD[convention]
        runs = []
        for number, (name, N, rungs) in enumerate(self.members):
            shared = run_noise * rng.standard_normal()
            for tokens in rungs:
                loss = float(surface.loss(N, tokens)) * math.exp(shared + row_noise * rng.standard_normal())
                runs.append(Run(run=f"{name}-{number}", tokens=tokens, loss=loss, **{field: N}))
        return runs


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationResult:
    """Accuracy of the predictions of simulated sweeps, in shares of the target's loss; coverage in shares of sweeps."""

    truth: float
    replicates: int
    bias: float
    rms_error: float
    half_width_80: float
    coverage_80: float
    coverage_95: float

    @property
    def coverage_range(self) -> Interval:
        """Range of coverage_80, 80 % of it, where the true coverage is 80 %, by the binomial's normal approximation."""
        spread = Z_80 * math.sqrt(0.8 * 0.2 / self.replicates)
        return max(0.0, 0.8 - spread), min(1.0, 0.8 + spread)


def simulate(
    sweep: SimulatedSweep,
    surface: Law,
    *,
    target: tuple[float, float],
    replicates: int = 20,
    seed: int = 0,
    run_noise: float = RUN_NOISE,
    row_noise: float = ROW_NOISE,
    convention: Convention = "total",
    progress: Callable[[int], None] = lambda done: None,
) -> SimulationResult:
    """Simulate, fit and predict `replicates` times, each with a simulated run at the target.

    Args:
        sweep: members and rungs.
        surface: true law.
        target: N and D of the target.
        replicates: number of simulated sweeps.
        seed: random seed.
        run_noise: standard deviation of log loss shared by the rungs of a run.
        row_noise: standard deviation of log loss of each rung.
        convention: parameters that N counts.
        progress: called with the number of finished sweeps.

    Raises:
        BadInput: there are no replicates, noise is negative, or no law can be fitted to the sweep.
    """
    if replicates < 1:
        raise BadInput(f"replicates is {replicates}; at least 1 is needed")
    if min(run_noise, row_noise) < 0:
        raise BadInput(f"noise is {min(run_noise, row_noise):g}; it must not be negative")
    N, D = target
    truth = float(surface.loss(N, D))
    errors, widths, in_80, in_95 = [], [], [], []
    progress(0)
    for replicate in range(replicates):
        rng = np.random.default_rng([seed, replicate])
        runs = sweep.observe(surface, rng, run_noise=run_noise, row_noise=row_noise, convention=convention)
        predicted = fit(runs, seed=seed).predict(N, D)
        actual = truth * math.exp(math.hypot(run_noise, row_noise) * rng.standard_normal())
        if predicted.interval_80 is None or predicted.interval_95 is None:
            raise BadInput("the sweep gives no interval; it needs at least 4 members")
        errors.append(math.log(predicted.loss / truth))
        widths.append(math.log(predicted.interval_80[1] / predicted.interval_80[0]) / 2)
        in_80.append(_inside(predicted.interval_80, actual))
        in_95.append(_inside(predicted.interval_95, actual))
        progress(replicate + 1)
    return SimulationResult(
        truth=truth,
        replicates=replicates,
        bias=float(np.mean(errors)),
        rms_error=float(np.sqrt(np.mean(np.square(errors)))),
        half_width_80=float(np.mean(widths)),
        coverage_80=float(np.mean(in_80)),
        coverage_95=float(np.mean(in_95)),
    )


def _inside(interval: Sequence[float], value: float) -> bool:
    return interval[0] <= value <= interval[1]

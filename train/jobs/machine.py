"""Whether a run fits this machine, and the engine that it takes there."""

from collections.abc import Callable
from dataclasses import replace

from families import params
from families.units import BadInput, format_bytes, format_duration, format_size

from ..backend import BackendRequest, Estimate, estimate, select_backend
from ..config import Settings
from ..distributed import ALONE, World
from ..metrics import PeakFlops, peak_of
from ..settings import (
    planned_steps,
)
from ..speed import speed_of

PATIENCE = 24 * 3600.0  # seconds beyond which a run asks for --yes


def check_machine(
    settings: Settings,
    rungs: tuple[int, ...],
    device: str,
    *,
    yes: bool,
    log: Callable[[str], None],
    world: World = ALONE,
    flops_per_s: float | None = None,
) -> Estimate:
    """Log the estimated memory and time of a run, and refuse one too large for this machine.

    Args:
        settings: settings of the run.
        rungs: lengths of the rungs in tokens.
        device: "cpu" or "cuda".
        yes: True to accept a run too large for this machine.
        log: called with the estimate as one line.
        world: the processes that share the run.
        flops_per_s: speed that was measured for this run; None estimates one.

    Raises:
        BadInput: more memory than there is, or more than a day, without `yes`.
    """
    steps = planned_steps(settings, rungs)
    need = estimate(settings, steps, device, world)
    if flops_per_s is not None:
        need = replace(
            need,
            seconds=need.seconds * need.flops_per_s / flops_per_s,
            flops_per_s=flops_per_s,
            source="measured now",
        )
    said = (
        f"{settings.run}: {steps:,} steps of {format_size(settings.batch_tokens)} tokens; about "
        f"{format_bytes(need.memory)} of memory of {format_bytes(need.available)} and "
        f"{format_duration(need.seconds)} on {need.machine} "
        f"({need.source}: {need.flops_per_s / 1e9:.0f} GFLOP/s)"
    )
    too_big = need.memory > need.available
    if (too_big or need.seconds > PATIENCE) and not yes:
        total = settings.batch_tokens * steps
        if too_big:
            fits = params(settings.spec()) * need.available / need.memory
            reason, way = (
                "more memory than this machine has free",
                f"a member of about {format_size(fits, 2)} parameters fits",
            )
        else:
            fits = total * PATIENCE / need.seconds
            reason, way = "more than a day", f"tokens={format_size(fits, 2)} take a day"
        raise BadInput(
            f"{said}; that is {reason}: {way}: choose a smaller member or fewer tokens=, or go ahead with --yes"
        )
    log(said)
    return need


def with_engine(
    settings: Settings,
    rungs: tuple[int, ...],
    wanted: BackendRequest,
    need: Estimate,
    device: str,
    log: Callable[[str], None],
) -> Settings:
    """Return the settings with the fastest engine for a run of this length.

    Args:
        settings: settings of the run.
        rungs: lengths of the rungs in tokens.
        wanted: requested step backend, measured where "auto".
        need: the estimate of the run's time on the plain engine.
        device: "cpu" or "cuda".
        log: called with each message of a measurement.
    """
    steps = planned_steps(settings, rungs)
    engine = select_backend(
        wanted, settings, steps=steps, expected=need.plain_seconds, device=device, log=log
    )
    return settings.model_copy(update=engine.model_dump())


def with_residual(settings: Settings, zero: int) -> Settings:
    """Return the settings with activations between blocks in bf16 where weights are sharded and gathered in bf16."""
    half = settings.dtype == "bf16" and zero >= 2
    return settings.model_copy(update={"residual": "bf16" if half else "fp32"})


def peak_said(settings: Settings, device: str, devices: int, log: Callable[[str], None]) -> PeakFlops:
    """Return the peak rate to which the run's MFU refers, and log it once.

    Args:
        settings: settings of the run, for its number format.
        device: "cpu" or "cuda".
        devices: devices that share the run.
        log: called with the sentence that names the peak.
    """
    found = peak_of(device, speed_of(device, settings.dtype), settings.dtype, devices)
    log(found.sentence)
    return found

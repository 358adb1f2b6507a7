"""Training runs from a known law: curves with the noise of batches that siblings share, looks at held-out text, and faults."""

import json
from dataclasses import replace

import numpy as np

from scaling.monitoring.curves import EMPTY, Curve, PlannedRung, RunCurves, RunPlan
from scaling.monitoring.trajectory import LrProfile

BATCH_TOKENS, LOG_EVERY, LOOK_EVERY = 1024, 10, 50


def going(
    name="a", params=100_000, steps=(400, 1000), schedule="wsd", cooldown=0.2, batches="same", warmup=20
):
    """Where a run is going."""
    flat = schedule == "cosine"
    rungs = tuple(
        PlannedRung(steps=one, folder=f"rung-{one * BATCH_TOKENS}", cooldown=0.0 if flat else cooldown)
        for one in steps
    )
    return RunPlan(
        run=name, rungs=rungs, batch_tokens=BATCH_TOKENS, lr=0.01, warmup=warmup, schedule=schedule, params=params,
        params_non_embedding=params // 2, group="text", batches=batches,
    )  # fmt: skip


def law(profile, step, *, reference, level, slope=0.3, gain=0.25, alpha=0.45, memory=15.0):
    """The trajectory law written out once more, to hold the code against."""
    ratio = profile.area_at(step) / reference
    annealed = profile.annealed(step, np.array([memory]))[0]
    return level - slope * (1 - ratio**-alpha) / alpha - gain * annealed


def simulated(
    underway, rng, *, batches=None, noise=0.1, wander=0.01, shift=0.15, offset=-0.1, until=None, **constants
):
    """A whole run: trunk, branches and final losses. `batches` is the noise of single lines, by step, that siblings share."""
    longest = underway.steps[-1]
    reference = LrProfile.of(underway.schedule_to(longest)).area[-1]
    hard = batches if batches is not None else batch_noise(noise, np.random.default_rng([1, longest]))
    branches, finals, trunk = {}, {}, EMPTY
    for steps in underway.steps:
        schedule = underway.schedule_to(steps)
        whole = _curve(LrProfile.of(schedule), steps, reference, rng, hard, wander, shift, constants)
        starts = 0 if underway.schedule == "cosine" else schedule.decay_starts
        branches[steps] = _after(whole, starts)
        if underway.schedule == "wsd":
            trunk = whole.until(starts)
        finals[steps] = float(
            law(LrProfile.of(schedule), np.array([float(steps)]), reference=reference, **constants)[0]
            + offset
        )
    run = RunCurves(name=underway.run, plan=underway, trunk=trunk, branches=branches, finals=finals)
    return run if until is None else seen_until(run, until)


def batch_noise(size, rng):
    """How hard each line's batches are."""
    return {step: rng.normal(0, size) for step in range(LOG_EVERY, 20_000, LOG_EVERY)}


def _curve(profile, steps, reference, rng, hard, wander, shift, constants):
    step = np.arange(LOG_EVERY, steps + 1, LOG_EVERY, dtype=float)
    looks = np.arange(LOOK_EVERY, steps + 1, LOOK_EVERY, dtype=float)
    middle = np.concatenate([[step[0] / 2], (step[1:] + step[:-1]) / 2])
    loss = law(profile, middle, reference=reference, **constants) + shift
    loss = np.minimum(loss, 7.0) + np.array([hard[int(one)] for one in step]) + rng.normal(0, 0.01, len(step))
    held = np.minimum(law(profile, looks, reference=reference, **constants), 7.0) + rng.normal(
        0, wander, len(looks)
    )
    return Curve(step=step, loss=loss, norm=np.full(len(step), 0.7), eval_step=looks, eval_loss=held)


def _after(curve, step):
    lines, looks = curve.step > step, curve.eval_step > step
    return Curve(step=curve.step[lines], loss=curve.loss[lines], norm=curve.norm[lines],
                 eval_step=curve.eval_step[looks], eval_loss=curve.eval_loss[looks])  # fmt: skip


def seen_until(run, step):
    """The run as it was at a step: nothing later is known, no rung finished that is longer."""
    return replace(
        run,
        trunk=run.trunk.until(step),
        branches={steps: branch.until(step) for steps, branch in run.branches.items()},
        finals={steps: final for steps, final in run.finals.items() if steps <= step},
    )


def changed(run, onset, how):
    """The run with the training loss of its trunk changed after a step: how(step, loss) -> loss."""
    trunk = run.trunk
    loss = np.where(trunk.step > onset, how(trunk.step, trunk.loss), trunk.loss)
    return replace(run, trunk=replace(trunk, loss=loss), branches={}, finals={})


def family(rng, sizes=(50_000, 90_000, 160_000), **extra):
    """Finished siblings of several sizes under one law, and the noise of the batches that they all read."""
    batches = batch_noise(0.1, rng)
    runs = [
        simulated(going(f"s{size}", size), rng, batches=batches, level=level_of(size), **extra)
        for size in sizes
    ]
    return runs, batches


def taught():
    """Finished siblings of three sizes, and a healthy run of a larger one."""
    rng = np.random.default_rng(10)
    siblings, batches = family(rng)
    return siblings, simulated(going("x", 220_000), rng, batches=batches, level=level_of(220_000))


def standing(run, ahead):
    """The run with all its losses lower by a share of them."""
    trunk, share = run.trunk, np.exp(-ahead)
    return replace(run, trunk=replace(trunk, loss=trunk.loss * share, eval_loss=trunk.eval_loss * share))


def level_of(params):
    """Loss of the trunk at its end, by size."""
    return 3.7 - 0.12 * np.log(params / 100_000)


def write(run, folder, *, finished=True):
    """The run's files, as the engine writes them."""
    folder.mkdir(parents=True)
    run.plan.write(folder / "underway.json")
    parts = {
        "trunk": run.trunk,
        **{run.plan.rung(steps).folder: branch for steps, branch in run.branches.items()},
    }
    for part, curve in parts.items():
        if not len(curve.step):
            continue
        looks = dict(zip(curve.eval_step.tolist(), curve.eval_loss.tolist(), strict=True))
        rows = [
            {
                "step": int(step),
                "loss": loss,
                "grad_norm": norm,
                **({"eval_loss": looks[step]} if step in looks else {}),
            }
            for step, loss, norm in zip(
                curve.step.tolist(), curve.loss.tolist(), curve.norm.tolist(), strict=True
            )
        ]
        (folder / part).mkdir()
        (folder / part / "metrics.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
        )
    for steps, final in run.finals.items() if finished else ():
        rung = folder / run.plan.rung(steps).folder / "rung.json"
        rung.write_text(json.dumps({"observation": {"loss": final}}), encoding="utf-8")
    return folder

"""A study whose truth is known: runs drawn from a law, with curves, a ledger, a sealed plan and its comparison."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from families import ModelSpec, params, params_non_embedding, train_flops
from scaling.files import hashes, now
from scaling.fitting.fit import fit
from scaling.laws import Law
from scaling.paths import StudyFile, StudyPaths
from scaling.planning.pilot import sealed_plan
from scaling.planning.planfile import PlanFile, PlannedMember, write_plan
from scaling.planning.seal import seal
from scaling.recipe import recipe
from scaling.runs import Run
from scaling.runs.store import WorkEntry, append_entry, append_run
from scaling.scoring import compare
from scaling.scoring.refit import refit_study
from train.config import SHAPE_FIELDS, Settings
from train.rung import RungFile

TRUTH = Law(E=1.9, A=60.0, B=400.0, alpha=0.34, beta=0.38)
WIDTHS = (48, 64, 96, 128, 192)
RUNGS = (400_000, 800_000, 1_600_000, 3_200_000)
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&$x_1^2$ " + "Donaudampfschiff" * 8


def _spec(width):
    return ModelSpec(
        architecture="gpt2",
        n_layer=max(2, width // 32),
        n_head=width // 16,
        n_embd=width,
        n_inner=4 * width,
        n_positions=128,
        vocab_size=1024,
    )


@cache
def _runs():
    """Runs by (width, tokens), 0.3 % of noise in the loss, the last width only at its largest rung."""
    rng = np.random.default_rng(5)
    found = {}
    for width in WIDTHS:
        spec = _spec(width)
        for tokens in RUNGS if width != WIDTHS[-1] else RUNGS[-1:]:
            loss = float(TRUTH.loss(params(spec), tokens) * np.exp(0.003 * rng.standard_normal()))
            found[width, tokens] = Run(
                run=f"gpt2-d{width}-s0",
                group="text",
                params=params(spec),
                params_non_embedding=params_non_embedding(spec),
                tokens=tokens,
                loss=loss,
                loss_se=0.01,
                compute=train_flops(spec, tokens),
                compute_kind="exact",
                eval_set="heldout",
                lr=0.004,
                wall_s=tokens / 40_000,
                n_embd=width,
            )
    return found


@cache
def _law():
    learned = [run for (width, _), run in _runs().items() if width != WIDTHS[-1]]
    return replace(fit(learned, bootstrap=40), inputs={"runs.jsonl": "0" * 64})


def _planned(width, rungs):
    spec = _spec(width)
    return PlannedMember.of(
        f"gpt2-d{width}",
        spec,
        tokens=rungs[-1],
        rungs=rungs,
        recipe=recipe(spec, rungs[-1]),
        hours=rungs[-1] / 40_000 / 3600,
    )


def _curve(folder, width, tokens, start, end, size):
    rng = np.random.default_rng([width, end])
    lines = []
    for step, at in enumerate(tokens, start=1):
        cooled = 0.93 if start and at > start else 1.05
        loss = float(TRUTH.loss(size, at) * cooled * np.exp(0.02 * rng.standard_normal()))
        lines.append(
            json.dumps({"step": 10 * step, "tokens": int(at), "loss": loss, "lr": 0.004, "grad_norm": 0.7})
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    timing = [
        {"step": 10 * s, "wall_s": float(s), "tokens_per_s": 5e6 / width + s}
        for s in range(1, len(lines) + 1)
    ]
    (folder / "timing.jsonl").write_text("\n".join(json.dumps(row) for row in timing) + "\n")


def leave_run(folder: Path, member, run: Run, *, seal="", data="", **changes):
    """What a run that was really trained leaves for `compare`: run.json, its ledger and rung.json.

    `changes` are settings other than the planned member's.
    """
    recipe = member.recipe
    shape = {name: getattr(member, name) for name in (*SHAPE_FIELDS, "n_kv_head")}
    settings = Settings.model_validate(
        {
            **shape, "run": run.run, "member": member.member, "group": run.group, "eos_token_id": 0, "seed": 0,
            "batch_size": recipe.batch_sequences, "micro_batch": recipe.batch_sequences, "lr": recipe.lr,
            "warmup": recipe.warmup_steps, "schedule": recipe.schedule, "cooldown": recipe.cooldown_fraction,
            "weight_decay": recipe.weight_decay, "beta1": recipe.beta1, "beta2": recipe.beta2,
            "grad_clip": recipe.grad_clip, "dropout": 0.0, "init_std": recipe.init_std, "dtype": "fp32",
            "data_sha256": data, "seal": seal, **changes,
        }
    )  # fmt: skip
    settings.write(folder / "run.json")
    steps = round(run.tokens / settings.batch_tokens)
    part, half = f"rung-{int(run.tokens)}", steps // 2
    line = ""
    for name, start, end, result in (
        ("trunk", 0, half, ""),
        (part, half, steps, ""),
        (part, steps, steps, run.row_hash),
    ):
        entry = WorkEntry(
            run=run.run, part=name, from_step=start, to_step=end, tokens=(end - start) * settings.batch_tokens,
            flops=1.0, wall_s=0.0, settings_sha256=settings.identity(), at=now(), result=result,
        )  # fmt: skip
        line = append_entry(folder / "ledger.jsonl", entry, opening=settings.ledger_opening())
    rung = RungFile(
        observation=run, perplexity=1.0, bits_per_byte=None, loss_per_word=None, eval_tokens=1,
        inputs={"ledger.jsonl": line},
    )  # fmt: skip
    rung.write(folder / part / "rung.json")


def write_study(folder: Path, *, title="A study whose truth is known", rename=None) -> Path:
    """Write the whole study; `rename` gives runs other names."""
    rename = rename or (lambda name: name)
    place = StudyPaths(folder)
    folder.mkdir(parents=True, exist_ok=True)
    StudyFile(title=title, seconds=120.0, machine="x86_64, Linux", python="3.11").write(place.file)
    runs = [run.model_copy(update={"run": rename(run.run)}) for run in _runs().values()]
    for run in runs:
        append_run(place.runs, run)
    law = _law()
    law.save(place.law)
    PlanFile(members=tuple(_planned(width, RUNGS) for width in WIDTHS[:-1])).write(place.ladder)
    plan = seal(sealed_plan(_planned(WIDTHS[-1], RUNGS[-1:]), law))
    write_plan(plan, place.plan)
    leave_run(place.run_folder(f"gpt2-d{WIDTHS[-1]}-s0"), plan.members[0], runs[-1], seal=plan.seal.digest)
    found = compare(plan, runs, hashes((place.plan, place.runs)), study=place)
    changed = refit_study(place, plan, runs, [row.run for row in found.rows])
    found.model_copy(update={"refit": changed}).write(place.comparison)
    for width in WIDTHS:
        spec, name = _spec(width), rename(f"gpt2-d{width}-s0")
        safe = folder / "runs" / f"gpt2-d{width}-s0"
        _curve(safe / "trunk", width, np.linspace(40_000, 2_600_000, 90), 0, 0, params(spec))
        for tokens in RUNGS if width != WIDTHS[-1] else RUNGS[-1:]:
            _curve(
                safe / f"rung-{tokens}",
                width,
                np.linspace(0.82, 1, 8) * tokens,
                0.8 * tokens,
                tokens,
                params(spec),
            )
            append_entry(
                place.ledger,
                WorkEntry(
                    run=name,
                    part=f"rung-{tokens}",
                    from_step=0,
                    to_step=9,
                    tokens=tokens // 5,
                    flops=train_flops(spec, tokens // 5),
                    wall_s=3.0,
                    settings_sha256="2" * 64,
                    at="2026-11-21T12:00:00Z",
                ),
            )
        append_entry(
            place.ledger,
            WorkEntry(
                run=name,
                part="trunk",
                from_step=0,
                to_step=90,
                tokens=2_600_000,
                flops=train_flops(spec, 2_600_000),
                wall_s=20.0,
                settings_sha256="2" * 64,
                at="2026-11-21T12:00:00Z",
            ),
        )
    return folder

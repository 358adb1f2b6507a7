"""A sealed plan and the files of its run, without training: what tests of the seal share."""

from families import ModelSpec, params, params_non_embedding
from scaling.laws import LawReference
from scaling.paths import StudyPaths
from scaling.planning.planfile import PlanFile, PlannedLoss, PlannedMember, write_plan
from scaling.planning.seal import seal
from scaling.recipe import recipe
from scaling.runs import Run
from scaling.runs.store import append_run

from .synthetic import leave_run

TEXT = "7" * 64


def spec(width):
    return ModelSpec(n_layer=2, n_head=width // 16, n_embd=width, n_positions=128, vocab_size=1024)


def observation(width, tokens, loss, name="", **more):
    shape = spec(width)
    facts = {
        "run": name or f"d{width}-s0", "group": "text", "params": params(shape),
        "params_non_embedding": params_non_embedding(shape), "tokens": tokens, "loss": loss, "eval_set": "heldout",
        "schedule": "wsd 0.2 linear", "seed": 0,
    }  # fmt: skip
    return Run(**(facts | more))


LEARNED = tuple(observation(width, 1_024_000, 4.0 - width / 100) for width in (32, 48, 64, 80))
TARGET = observation(128, 1_024_000, 2.95)


def member(name="d128", width=128, loss=2.97):
    shape = spec(width)
    promised = PlannedLoss(
        loss=loss, interval_80=(loss - 0.06, loss + 0.06), interval_95=(loss - 0.1, loss + 0.1), ppl=19.5
    )
    return PlannedMember.of(
        name, shape, tokens=1_024_000, recipe=recipe(shape, 1_024_000, batch_tokens=1024), prediction=promised
    )


def made_plan(*members, rows=LEARNED, seeds=()):
    law = LawReference(
        name="law.json", sha256="1" * 64, convention="total", group="text", eval_set="heldout",
        row_hashes=tuple(run.row_hash for run in rows),
    )  # fmt: skip
    return seal(PlanFile(law=law, members=members or (member(),)), data_sha256=TEXT, seeds=seeds)


def trained(place, plan, run=TARGET, **changes):
    """The run as honest training leaves it; `changes` are settings other than the plan's."""
    one = next(one for one in plan.members if one.params == run.params)
    given = {"seal": plan.seal.digest, "data": TEXT, "seed": run.seed or 0} | changes
    leave_run(place.run_folder(run.run), one, run, **given)
    append_run(place.run_folder(run.run) / "runs.jsonl", run)


def learned_study(folder):
    """A study with the runs that the law was fitted on, and no plan."""
    found = StudyPaths(folder / "study")
    for run in LEARNED:
        append_run(found.runs, run)
    return found


def honest_study(folder):
    """The same with a sealed plan, and the run that was started from it."""
    found, plan = learned_study(folder), made_plan()
    write_plan(plan, found.plan)
    trained(found, plan)
    return found

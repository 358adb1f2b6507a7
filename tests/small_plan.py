"""A study with text and a plan of tiny members, which train in a second or two."""

from families import ModelSpec
from scaling.paths import StudyPaths
from scaling.planning.planfile import PlanFile, PlannedMember
from scaling.recipe import recipe
from train.data.prepare import prepare

from .tiny import write_corpus

BATCH = 128  # tokens of a step


def planned(name, width=32, steps=16, **more):
    """A member of two layers."""
    spec = ModelSpec(n_layer=2, n_head=2, n_embd=width, n_positions=32, vocab_size=300)
    tokens = steps * BATCH
    exact = {"batch_sequences": BATCH // 32, "batch_tokens": BATCH, "steps": steps}
    advice = recipe(spec, tokens, batch_tokens=BATCH, shortest=tokens).model_copy(update=exact)
    return PlannedMember.of(name, spec, tokens=tokens, recipe=advice, **more)


def small_study(folder, *members, name="study"):
    """(plan.json, study) of these members, with text in the study."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "corpus").exists():
        write_corpus(folder / "corpus")
    study = StudyPaths(folder / name)
    prepare(str(folder / "corpus"), study.data, vocab_size=300)
    plan = folder / f"{name}-plan.json"
    PlanFile(members=members).write(plan)
    return plan, study

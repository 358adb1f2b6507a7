"""Steps of one process and of two, for test_parallel_engine.py: every engine in one pair, forks of the one."""

import itertools
import json
import multiprocessing
import os
from functools import partial
from pathlib import Path

from scaling.collector import spare_imports

from . import tiny

STEPS, HALF = 4, 2

SHAPE = {"n_layer": 2, "n_positions": 16, "n_embd": 16, "batch_size": 4, "threads": 1}


def engines():
    """The number format, compiling and checkpointing of every case."""
    for compiled, recomputed in itertools.product((False, True), repeat=2):
        yield {"dtype": "fp32", "compile": compiled, "checkpointing": recomputed}
    yield {"dtype": "bf16", "compile": True}
    yield {"dtype": "bf16", "compile": True, "residual": "bf16"}
    yield {"dtype": "bf16", "compile": True, "residual": "bf16", "checkpointing": True}
    yield {"dtype": "fp16"}


def reference(engine):
    """The engine of one process that computes the same: in fp32 any, else with the same rounding."""
    if engine["dtype"] == "fp32":
        return {"dtype": "fp32"}
    return {key: value for key, value in engine.items() if key != "checkpointing"}


def references():
    """The engines of one process, each once."""
    return list({json.dumps(reference(engine)): reference(engine) for engine in engines()}.values())


def cases():
    """Every engine at every ZeRO stage of torch's, by a name."""
    for zero, engine in itertools.product((0, 2, 3), engines()):
        yield f"zero {zero} {json.dumps(engine)}", zero, engine


def settings_of_case(engine, *, micro_batch=2):
    """A run of the tiny shape, in pieces that both one process and two compute."""
    from train.settings import TextFacts

    facts = TextFacts(vocab_size=300, eos_token_id=299)
    return tiny.settings(facts=facts, **SHAPE, micro_batch=micro_batch, attention="eager", **engine)


def steps(settings, world, session=None, count=STEPS):
    """Loss of the whole batch and gradient norm of a few steps, and the session."""
    from train.backend import random_examples
    from train.loop import start, train_step

    session = session or start(settings, "cpu", world, by_block=True)
    found = []
    for number in range(session.step, session.step + count):
        examples = random_examples(settings, settings.batch_size).roll(number, dims=1)
        loss, norm = train_step(session, world.part(examples), 1e-2)
        found.append([float(world.gather(loss).mean()), float(norm)])
    return found, session


def looked_at(session, settings, world):
    """Loss of the run on other examples, as an evaluation takes it."""
    import torch

    from train.backend import random_examples

    with torch.no_grad():
        examples = world.part(random_examples(settings, settings.batch_size).roll(7, dims=1))
        return float(world.gather(session.each(examples).mean()).mean())


def _process(rank, folder):
    from train.checkpoint import load, save, step_folder
    from train.distributed import join

    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    found, known = {}, list(engines())
    for zero, group in itertools.groupby(enumerate(cases()), key=lambda numbered: numbered[1][1]):
        os.environ["SCALING_RENDEZVOUS"] = (folder / f"meeting-{zero}").as_uri()
        with join(zero, "cpu") as world:
            for number, (case, _, engine) in group:
                settings = settings_of_case(engine)
                ours = load(settings, step_folder(folder / f"one-{known.index(engine)}", HALF), "cpu", world)
                found[f"resumed {case}"], _ = steps(settings, world, ours, STEPS - HALF)
                taken, session = steps(settings, world, count=HALF)
                found[case] = [*taken, [looked_at(session, settings, world), 0.0]]
                save(session, step_folder(folder / f"two-{number}", HALF), folder / "tokenizer.json")
    if rank == 0:
        (folder / "pair.json").write_text(json.dumps(found))


def _alone(folder):
    """Steps of one process by engine, with a look after HALF, and the checkpoint of every engine for two to go on from."""
    from train.checkpoint import save, step_folder
    from train.distributed import ALONE

    found = {}
    for engine in references():
        settings = settings_of_case(engine)
        taken, session = steps(settings, ALONE, count=HALF)
        look = [looked_at(session, settings, ALONE), 0.0]
        found[json.dumps(engine)] = [*taken, look, *steps(settings, ALONE, session, STEPS - HALF)[0]]
    for number, engine in enumerate(engines()):
        _, session = steps(settings_of_case(engine), ALONE, count=HALF)
        save(session, step_folder(folder / f"one-{number}", HALF), folder / "tokenizer.json")
    (folder / "alone.json").write_text(json.dumps(found))


def _resume_alone(folder):
    """Steps of one process from what two left, by case; compiled by block as theirs, since a whole step rounds otherwise."""
    from train import checkpoint, loop
    from train.checkpoint import load, step_folder
    from train.distributed import ALONE

    checkpoint.start = partial(loop.start, by_block=True)
    found = {}
    for number, (case, _, engine) in enumerate(cases()):
        settings = settings_of_case(engine)
        ours = load(settings, step_folder(folder / f"two-{number}", HALF), "cpu")
        found[case], _ = steps(settings, ALONE, ours, STEPS - HALF)
    (folder / "back.json").write_text(json.dumps(found))


def _compile_all():
    """Compile what each of two processes runs: forks inherit it, where a process of its own takes half a minute."""
    from train.distributed import ALONE

    for engine in engines():
        if engine.get("compile"):
            settings = settings_of_case(engine).model_copy(update={"batch_size": SHAPE["batch_size"] // 2})
            _, session = steps(settings, ALONE, count=1)
            looked_at(session, settings, ALONE)


def _all(folder):
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # forks inherit no threads, the compiler's among them
    spare_imports()
    import torch

    torch.set_num_threads(1)
    _alone(folder)
    _compile_all()
    context = multiprocessing.get_context("fork")
    pair = [context.Process(target=_process, args=(rank, folder)) for rank in range(2)]
    for process in pair:
        process.start()
    for process in pair:
        process.join(420)
        process.kill()
    _resume_alone(folder)


def run_all(folder: Path):
    """Steps of one process by engine, of two by case, and of one from what two left by case; None where a process failed."""
    process = multiprocessing.get_context("spawn").Process(target=_all, args=(folder,))
    process.start()
    process.join()
    places = (folder / f"{name}.json" for name in ("alone", "pair", "back"))
    return tuple(json.loads(place.read_text()) if place.exists() else None for place in places)

"""The runs behind benchmarks/forecast.py: real ladders of tiny models, healthy and with faults, made by the engine.

Twenty-eight studies on text that every Python has; their curves, thinned to what is logged, lie in benchmarks/curves.
Run: python -P benchmarks/forecast_runs.py DIR [STUDY…] (-P: a file beside it has the name of the package that trains).
"""

import ast
import json
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from families import ModelSpec
from scaling.monitoring.curves import RunPlan
from scaling.recipe import recipe
from train.checkpoint import load_newest
from train.config import Settings, TrainConfig
from train.data import DataManifest, TokenizedText, Tokens
from train.data.prepare import prepare
from train.evaluate import eval_set, evaluate, quick_eval
from train.ladder import RunOptions, RunPaths, train_ladder
from train.lease import Stop
from train.loop import Diverged, Session, advance, start
from train.settings import TextFacts, settings_of

RUNGS = (0.35, 0.6, 1.0)  # of the longest
VOCABULARY, EVAL_TOKENS, LOG_EVERY = 1024, 2**16, 10
FAULTY_SHARE = 0.15  # of a run's budget that it is trained for with a fault
STALE_SHARE = 0.01  # of a run's budget: the shard that is read again and again
FAULTS = ("lr", "labels", "stale")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """One study: shapes (layers, width), a batch, a length in steps, and the learning rate in units of the recipe's."""

    name: str
    text: str
    shapes: tuple[tuple[int, int], ...]
    steps: int
    batch_size: int
    n_positions: int
    seed: int
    lr: float = 1.0
    cooldown: float = 0.2
    faulty: tuple[int, ...] = ()  # which of the shapes are also trained with faults
    held_back: bool = False


LADDER = (
    (2, 32),
    (2, 48),
    (2, 64),
    (3, 96),
    (4, 128),
)  # the shapes of `scaling demo`; those of code-a to code-t are by hand
SETUPS = (
    Setup(name="code-a", text="stdlib", shapes=((2, 32), (2, 48), (2, 64), (3, 96)), steps=900, batch_size=8,
          n_positions=128, seed=0, faulty=(1, 2)),
    Setup(name="docs-b", text="docstrings", shapes=((2, 36), (2, 52), (3, 72), (3, 104)), steps=640, batch_size=8,
          n_positions=128, seed=3, faulty=(0, 2)),
    Setup(name="code-c", text="stdlib", shapes=((1, 40), (2, 56), (3, 80)), steps=700, batch_size=16, n_positions=64,
          seed=1, lr=0.6, cooldown=0.15, faulty=(1,)),
    Setup(name="code-d", text="stdlib", shapes=((2, 32), (3, 48), (2, 80)), steps=1000, batch_size=12,
          n_positions=96, seed=2, lr=1.5, cooldown=0.25, faulty=(1, 2)),
    Setup(name="code-e", text="stdlib", shapes=((2, 32), (2, 48), (2, 64), (3, 96)), steps=600, batch_size=8,
          n_positions=128, seed=5, faulty=(1, 3)),
    Setup(name="docs-f", text="docstrings", shapes=((2, 32), (2, 48), (2, 64), (3, 96)), steps=600, batch_size=8,
          n_positions=128, seed=6, faulty=(1, 3)),
    Setup(name="code-g", text="stdlib", shapes=((1, 32), (2, 40), (2, 56), (3, 72)), steps=800, batch_size=8,
          n_positions=128, seed=7, lr=0.8, faulty=(2,)),
    Setup(name="docs-h", text="docstrings", shapes=((2, 40), (2, 56), (3, 64)), steps=700, batch_size=12,
          n_positions=96, seed=8, cooldown=0.25, faulty=(2,)),
    Setup(name="code-i", text="stdlib", shapes=((2, 36), (2, 48), (2, 64), (3, 88)), steps=750, batch_size=10,
          n_positions=112, seed=11, lr=1.2, faulty=(2,), held_back=True),
    Setup(name="docs-j", text="docstrings", shapes=((1, 40), (2, 48), (2, 64), (3, 80)), steps=800, batch_size=8,
          n_positions=128, seed=12, faulty=(1,), held_back=True),
    Setup(name="code-k", text="stdlib", shapes=((2, 32), (2, 56), (3, 64), (3, 96)), steps=650, batch_size=12,
          n_positions=96, seed=13, cooldown=0.15, faulty=(3,), held_back=True),
    Setup(name="code-l", text="stdlib", shapes=((2, 36), (2, 52), (3, 64), (4, 72)), steps=700, batch_size=8,
          n_positions=128, seed=21, faulty=(2,), held_back=True),
    Setup(name="docs-m", text="docstrings", shapes=((2, 32), (3, 48), (3, 64), (4, 72)), steps=750, batch_size=10,
          n_positions=112, seed=22, lr=0.9, cooldown=0.25, faulty=(1,), held_back=True),
    Setup(name="code-n", text="stdlib", shapes=((1, 40), (2, 48), (3, 56), (3, 88)), steps=620, batch_size=12,
          n_positions=96, seed=23, lr=1.1, faulty=(3,), held_back=True),
    Setup(name="code-o", text="stdlib", shapes=((2, 40), (2, 56), (3, 72), (3, 96)), steps=700, batch_size=8,
          n_positions=128, seed=31, faulty=(2,), held_back=True),
    Setup(name="docs-p", text="docstrings", shapes=((1, 36), (2, 44), (3, 60), (4, 80)), steps=680, batch_size=10,
          n_positions=112, seed=32, cooldown=0.25, faulty=(3,), held_back=True),
    Setup(name="code-q", text="stdlib", shapes=((2, 32), (3, 44), (3, 68), (4, 88)), steps=720, batch_size=8,
          n_positions=128, seed=33, lr=0.9, faulty=(1,), held_back=True),
    Setup(name="code-r", text="stdlib", shapes=((1, 40), (2, 48), (3, 64), (3, 80)), steps=680, batch_size=8,
          n_positions=128, seed=41, faulty=(1,), held_back=True),
    Setup(name="docs-s", text="docstrings", shapes=((2, 36), (2, 52), (3, 68), (4, 80)), steps=720, batch_size=8,
          n_positions=128, seed=42, faulty=(2,), held_back=True),
    Setup(name="code-t", text="stdlib", shapes=((2, 32), (3, 48), (3, 72), (4, 88)), steps=640, batch_size=10,
          n_positions=112, seed=43, lr=1.1, cooldown=0.25, faulty=(3,), held_back=True),
    Setup(name="code-u", text="stdlib", shapes=LADDER, steps=700, batch_size=8, n_positions=128, seed=51, faulty=(2,),
          held_back=True),
    Setup(name="docs-v", text="docstrings", shapes=LADDER, steps=720, batch_size=8, n_positions=128, seed=52, faulty=(3,),
          held_back=True),
    Setup(name="code-w", text="stdlib", shapes=LADDER, steps=660, batch_size=10, n_positions=112, seed=53, cooldown=0.25,
          faulty=(1,), held_back=True),
    Setup(name="docs-x", text="docstrings", shapes=LADDER, steps=640, batch_size=12, n_positions=96, seed=54, faulty=(2,),
          held_back=True),
    Setup(name="code-y", text="stdlib", shapes=LADDER, steps=680, batch_size=8, n_positions=128, seed=61, faulty=(2,),
          held_back=True),
    Setup(name="docs-z", text="docstrings", shapes=LADDER, steps=700, batch_size=10, n_positions=112, seed=62, cooldown=0.25,
          faulty=(1,), held_back=True),
    Setup(name="code-aa", text="stdlib", shapes=LADDER, steps=740, batch_size=8, n_positions=128, seed=63, faulty=(3,),
          held_back=True),
    Setup(name="docs-ab", text="docstrings", shapes=LADDER, steps=660, batch_size=12, n_positions=96, seed=64, faulty=(2,),
          held_back=True),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Shuffled(Tokens):
    """Windows whose tokens stand in a random order: what is to be predicted has nothing to do with what came before."""

    def windows(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """As Tokens'."""
        return np.random.default_rng(indices).permuted(Tokens.windows(self, indices), axis=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stale(Tokens):
    """A loader that hangs: the same few windows again and again."""

    kept: int

    def windows(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """As Tokens'."""
        return Tokens.windows(self, indices % self.kept)


def docstrings(folder: Path) -> Path:
    """The docstrings of Python's standard library, a text file for each module that has some."""
    root = Path(sysconfig.get_path("stdlib"))
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(root.rglob("*.py")):
        if "site-packages" in path.parts:
            continue
        try:
            nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        except (SyntaxError, ValueError):
            continue
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        found = [ast.get_docstring(node) for node in nodes if isinstance(node, kinds)]
        text = "\n\n".join(one for one in found if one)
        if text:
            (folder / (path.relative_to(root).as_posix().replace("/", "-") + ".txt")).write_text(text + "\n")
    return folder


def regenerate(folder: Path, only: tuple[str, ...] = ()) -> None:
    """Train every run of every study that is not there yet, on one thread, and write folder/runs.jsonl."""
    import torch

    torch.set_num_threads(1)
    for setup in SETUPS:
        if not only or setup.name in only:
            _study(setup, folder / setup.name)
    lines = [json.dumps(line, separators=(",", ":")) for line in collect(folder)]
    (folder / "runs.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _study(setup: Setup, place: Path) -> None:
    source = str(docstrings(place / "text")) if setup.text == "docstrings" else setup.text
    manifest = prepare(source, place / "data", vocab_size=VOCABULARY)
    text = TokenizedText.open(place / "data", manifest, setup.n_positions)
    for number, (layers, width) in enumerate(setup.shapes):
        for schedule in ("wsd", "cosine"):
            settings = _settings(setup, layers, width, schedule, manifest)
            folder = place / "runs" / settings.run
            places = RunPaths(folder=folder, runs=place / "runs.jsonl", ledger=place / "ledger.jsonl")
            rungs = RUNGS if schedule == "wsd" else RUNGS[-1:]
            lengths = tuple(round(share * setup.steps) * settings.batch_tokens for share in rungs)
            habits = RunOptions(log_every=LOG_EVERY, eval_tokens=EVAL_TOKENS, save_every=1e9)
            train_ladder(settings, lengths, text, places, habits, Stop())
            if schedule == "wsd":
                _constant(settings, folder, text)
                for fault in FAULTS if number in setup.faulty else ():
                    for late in (False, True):
                        _faulty(setup, settings, folder, text, fault, late)


def _settings(
    setup: Setup, layers: int, width: int, schedule: str, manifest: DataManifest, lr: float = 1.0
) -> Settings:
    shape = {"n_layer": layers, "n_head": width // 16 or 1, "n_embd": width, "n_positions": setup.n_positions}
    if width % shape["n_head"]:
        shape["n_head"] = width // 4 if width % 16 else width // 16
        shape["n_head"] = next(h for h in (4, 3, 2, 1) if width % h == 0)
    spec = ModelSpec(**shape, vocab_size=VOCABULARY)
    tokens = setup.steps * setup.batch_size * setup.n_positions
    advice = recipe(
        spec, tokens, shortest=RUNGS[0] * tokens, batch_tokens=float(setup.batch_size * setup.n_positions)
    )
    config = {
        "family": f"L{layers}d{width}-{schedule}", "data": "text", "tokens": tokens, "vocab_size": VOCABULARY, **shape,
        "batch_size": setup.batch_size, "lr": lr * setup.lr * advice.lr, "warmup": advice.warmup_steps,
        "schedule": schedule, "cooldown": setup.cooldown, "seed": setup.seed,
    }  # fmt: skip
    return settings_of(TrainConfig.model_validate(config), TextFacts.of(manifest, "gpt2"), "cpu")


def _constant(settings: Settings, folder: Path, text: TokenizedText) -> None:
    """The trunk's own end, scored on the held-out text: a run at constant learning rate."""
    path = folder / "constant.json"
    if path.exists():
        return
    session = load_newest(settings, folder / "trunk", "cpu", at_most=10**9, log=print)
    assert session is not None
    found = evaluate(session.model, settings, eval_set(text.heldout, text.manifest, EVAL_TOKENS), "cpu")
    path.write_text(json.dumps({"steps": session.step, "loss": found.loss}), encoding="utf-8")


def _faulty(
    setup: Setup, settings: Settings, folder: Path, text: TokenizedText, fault: str, late: bool
) -> None:
    """Train with a fault for 15 % of the budget: from the first step, or from the trunk's first branching."""
    metrics = folder / f"fault-{fault}-{'late' if late else 'early'}" / "metrics.jsonl"
    if metrics.exists():
        return
    session: Session | None = None
    if late:
        branching = RunPlan.read(folder / "underway.json").steps[0]
        session = load_newest(settings, folder / "trunk", "cpu", at_most=branching, log=print)
    if session is None:
        session = start(settings, "cpu")
    schedule = RunPlan.read(folder / "underway.json").schedule_to(setup.steps)
    tokens: Tokens = text.train
    if fault == "lr":
        schedule = replace(schedule, peak=10 * schedule.peak)
    elif fault == "labels":
        tokens = Shuffled(tokens.maps, tokens.n_positions)
    else:
        kept = round(STALE_SHARE * setup.steps * setup.batch_size)
        tokens = Stale(tokens.maps, tokens.n_positions, kept=kept)
    partial_eval = quick_eval(text.heldout, text.manifest, settings, LOG_EVERY)
    until = session.step + round(FAULTY_SHARE * setup.steps)
    try:
        advance(session, schedule, until, tokens, folder=metrics.parent, log_every=LOG_EVERY, stop=Stop(),
                save=lambda: None, save_every=1e9, quick_eval=partial_eval)  # fmt: skip
    except Diverged as error:
        metrics.with_name("diverged.txt").write_text(str(error))


def collect(folder: Path) -> Iterator[dict[str, Any]]:
    """One object for each part of each run: what it logged, how it was made, and the loss that it came to."""
    for setup in SETUPS:
        for path in sorted((folder / setup.name / "runs").glob("*/*/metrics.jsonl")):
            run, part = path.parents[1], path.parent.name
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            looks = [row for row in rows if "eval_loss" in row]
            line: dict[str, Any] = {"study": setup.name, "run": run.name, "part": part}
            if part == "trunk" or "cosine" in run.name:
                skip = {"kind", "version", "tool", "created_at", "inputs"}
                line["underway"] = RunPlan.read(run / "underway.json").model_dump(mode="json", exclude=skip)
                line["made"] = {
                    "text": setup.text,
                    "seed": setup.seed,
                    "lr_factor": setup.lr,
                    "held_back": setup.held_back,
                }
            if (run / "constant.json").exists() and part == "trunk":
                line["constant"] = json.loads((run / "constant.json").read_text(encoding="utf-8"))
            rung = path.parent / "rung.json"
            if rung.exists():
                line["final"] = round(json.loads(rung.read_text(encoding="utf-8"))["observation"]["loss"], 5)
            yield {
                **line,
                "step": [row["step"] for row in rows],
                "loss": [round(row["loss"], 4) for row in rows],
                "norm": [round(row["grad_norm"], 3) for row in rows],
                "eval_step": [row["step"] for row in looks],
                "eval_loss": [round(row["eval_loss"], 4) for row in looks],
            }


if __name__ == "__main__":
    import sys

    regenerate(Path(sys.argv[1]), tuple(sys.argv[2:]))

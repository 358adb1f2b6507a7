"""Sealed studies, from text to report: each is repeated from its recipe.json under docs/studies.

A study's steps are the program's own commands: `ladder`, `fit`, `plan` (which seals), `ladder` again for the target, `compare`
and `report`. What this script adds is the text, gathered in one order on every machine, and the shapes of the small members.

Run: python -m benchmarks.evidence STUDY [--until text|ladder|seal|target] [--work DIR] [--seed N]
"""

import argparse
import ast
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from families import train_flops_per_token
from families.design import name_of
from families.spec import ModelSpec
from scaling.cli.train import EVAL_TOKENS, train_members
from scaling.files import atomic_write, sha256_bytes, sha256_file
from scaling.paths import StudyPaths, seeded_name
from scaling.planning.planfile import PlanFile, PlannedMember
from scaling.planning.seal import open_seal
from scaling.recipe import recipe
from scaling.runs.readers import read_runs
from scaling.runs.store import read_ledger
from scaling.schedule import whole_steps
from train.backend import BackendRequest
from train.config import SHAPE_KEYS
from train.data.prepare import prepare
from train.runtime import machine_id

ROOT = Path(__file__).resolve().parents[1]
STUDIES = ROOT / "docs" / "studies"
LARGEST_TEXT = 16_000_000  # bytes gathered where a recipe does not say
SHORTEST_DOCSTRING = 200  # characters; shorter ones say little but the name of their function
BEND = 180_000  # tokens before which a learning curve obeys no law (docs/log.md#e15)
LADDERS = ("ladder.json", "again.json")
PUBLISHED = (
    *LADDERS,
    "law.json",
    "plan.json",
    "comparison.json",
    "runs.jsonl",
    "run.json",
    "ledger.jsonl",
    "underway.json",
    "rung.json",
    "metrics.jsonl",
)
UNPUBLISHED = ("data", "model", "step-", "figures")
STEPS = ("text", "ladder", "seal", "target")


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A recipe: recipe.json of a study under docs/studies.

    Args:
        name: its folder.
        text: a key of TEXTS.
        reach: the target's compute, in units of the largest ladder run's.
        ladder_flops: exact training FLOPs of that run.
        widths: n_embd of the small members, of two layers each.
        small_seeds: seeds of the small members.
        again: widths of those that are trained again with seed 1, at `again_share` of the FLOPs.
        again_share: of ladder_flops.
        shares: rungs of a ladder, in units of its tokens; those before the bend are left out.
        seed: seed of the run that is scored; None where the mean of several is.
        seeds: seeds of the target.
        grid: in place of widths and again, the members of each of the two plans, as (n_embd, tokens).
        largest_text: bytes gathered; more is not read.
    """

    name: str
    text: str
    reach: float
    ladder_flops: float
    shares: tuple[float, ...]
    seed: int | None
    seeds: tuple[int, ...]
    widths: tuple[int, ...] = ()
    again: tuple[int, ...] = ()
    small_seeds: tuple[int, ...] = (0,)
    grid: tuple[tuple[tuple[int, float], ...], ...] = ()
    largest_text: int = LARGEST_TEXT
    again_share: float = 0.5
    vocab_size: int = 512
    n_positions: int = 128
    held_out: float = 0.02
    head_size: int = 16
    ratio: float = 32.0

    @classmethod
    def read(cls, name: str) -> "Study":
        """The recipe of a study."""
        contents = json.loads((STUDIES / name / "recipe.json").read_text(encoding="utf-8"))
        known = {key: tuple(value) if isinstance(value, list) else value for key, value in contents.items()}
        return cls(name=name, **{key: known[key] for key in cls.__dataclass_fields__ if key in known})

    @property
    def budget(self) -> float:
        """Exact training FLOPs of the target."""
        return self.reach * self.ladder_flops


def package(name: str) -> Path:
    """Folder of an installed package."""
    found = find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise SystemExit(f"the text needs {name}, which is not installed: pip install '.[train]'")
    return Path(next(iter(found.submodule_search_locations)))


def files(root: Path, suffixes: Sequence[str], without: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """Yield name and text of the files below a folder, those in a folder of a name in `without` left out."""
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        if path.suffix in suffixes and path.is_file() and not set(without) & set(name.parts[:-1]):
            yield name.as_posix(), path.read_text(encoding="utf-8", errors="replace")


def headers() -> Iterator[tuple[str, str]]:
    """Yield the C++ headers of torch; ATen/ops, one generated file for each operator, is left out."""
    yield from files(package("torch") / "include", (".h", ".hpp", ".cuh"), ("ops",))


def sources() -> Iterator[tuple[str, str]]:
    """Yield the Python sources of torch without its tests."""
    yield from files(package("torch"), (".py",), ("testing", "test", "tests"))


def docstrings(packages: Sequence[str] = ("torch", "numpy", "scipy", "sympy")) -> Iterator[tuple[str, str]]:
    """Yield the docstrings of packages, each once."""
    seen = set()
    for name in packages:
        for path, text in files(package(name), (".py",), ("tests",)):
            try:
                tree = ast.parse(text)
            except SyntaxError:
                continue
            for node in ast.walk(tree):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                    said = ast.get_docstring(node)
                    if said and len(said) >= SHORTEST_DOCSTRING and said not in seen:
                        seen.add(said)
                        yield f"{name}/{path}:{getattr(node, 'name', '')}:{getattr(node, 'lineno', 0)}", said


def more_docstrings() -> Iterator[tuple[str, str]]:
    """Yield the docstrings of seven packages."""
    yield from docstrings(("torch", "numpy", "scipy", "sympy", "matplotlib", "networkx", "transformers"))


def library_sources() -> Iterator[tuple[str, str]]:
    """Yield the Python sources of seven packages without tests and the models of transformers, copies of each other."""
    for name in ("torch", "numpy", "scipy", "sympy", "matplotlib", "networkx", "transformers"):
        without = ("testing", "test", "tests", "models")
        for path, text in files(package(name), (".py",), without):
            yield f"{name}/{path}", text


TEXTS = {
    "headers": headers,
    "sources": sources,
    "library-sources": library_sources,
    "docstrings": docstrings,
    "more-docstrings": more_docstrings,
}


def gather(text: str, path: Path, largest: int = LARGEST_TEXT) -> None:
    """Write a text's documents as JSON Lines, in the order of the hashes of their names, so that its end is a fair sample."""
    documents = sorted(TEXTS[text](), key=lambda pair: sha256_bytes(pair[0].encode()))
    lines, size = [], 0
    for _, document in documents:
        lines.append(json.dumps({"text": document}, ensure_ascii=False) + "\n")
        size += len(lines[-1].encode("utf-8", errors="replace"))
        if size >= largest:
            break
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, "".join(lines).encode("utf-8", errors="replace"))


def prepare_text(study: Study, work: Path) -> None:
    """Tokenise the study's text."""
    options: dict[str, Any] = {"vocab_size": study.vocab_size, "log": print}
    folder = work / study.name / "data"
    os.chdir(work)  # the manifest holds relative names
    if study.text == "wikitext-2":
        if not (work / "text" / "wikitext-2" / "test.txt").exists():
            raise SystemExit(
                f"evidence: {work}/text/wikitext-2 is to hold test.txt and valid.txt of wikitext-2-raw-v1, "
                "which are not part of this repository"
            )
        prepare("text/wikitext-2/test.txt", folder, validation="text/wikitext-2/valid.txt", **options)
        return
    data = text_of(study)
    if study.text in TEXTS and not Path(data).exists():
        gather(study.text, work / data, study.largest_text)
    prepare(data, folder, held_out=study.held_out, **options)


def text_of(study: Study) -> str:
    """The study's text, as data= names it."""
    if study.text not in TEXTS:
        return study.text
    size = "" if study.largest_text == LARGEST_TEXT else f"-{study.largest_text // 1_000_000}"
    return f"text/{study.text}{size}.jsonl"


def shape(study: Study, width: int) -> ModelSpec:
    """Shape of a small member."""
    heads = max(1, width // study.head_size)
    return ModelSpec(
        n_layer=2, n_head=heads, n_embd=width, n_positions=study.n_positions, vocab_size=study.vocab_size
    )


def small(study: Study, width: int, tokens: float) -> PlannedMember:
    """A small member, with the rungs of its ladder and the default recipe for its own tokens."""
    spec = shape(study, width)
    wanted = [share * tokens for share in study.shares if share * tokens >= BEND] or [tokens]
    batch = recipe(spec, tokens).batch_tokens
    rungs = tuple(whole_steps(rung, batch) * batch for rung in wanted)
    advice = recipe(spec, rungs[-1], batch_tokens=batch, shortest=rungs[0])
    return PlannedMember.of(name_of(spec), spec, tokens=rungs[-1], recipe=advice, rungs=rungs)


def alike(study: Study) -> Iterator[list[tuple[int, float]]]:
    """Yield n_embd and tokens of the small members that are trained for equal FLOPs: of one plan, then of the other."""
    for widths, flops in (
        (study.widths, study.ladder_flops),
        (study.again, study.again_share * study.ladder_flops),
    ):
        yield [(width, flops / train_flops_per_token(shape(study, width))) for width in widths]


def ladders(study: Study) -> tuple[PlanFile, PlanFile]:
    """Plans of the small members: those at all of their tokens, and those of seed 1 at fewer."""
    first, again = (
        tuple(small(study, width, tokens) for width, tokens in members)
        for members in study.grid or alike(study)
    )
    note = "ladders on which the law is fitted"
    return PlanFile(members=first, notes=(note,)), PlanFile(members=again, notes=(f"{note}, seed 1",))


def scaling(*words: str) -> None:
    """Run a command of the program."""
    print("$ scaling", " ".join(words), flush=True)
    program = [sys.executable, "-c", "from scaling.cli import main; main()", *words]
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(program, check=True, env=environment)


def train(study: Study, plan: Path, seed: int) -> None:
    """Train a plan's members, as `scaling ladder` does, with the engine that is recorded in docs/studies where there is one."""
    print(f"$ scaling ladder {plan} --study {study.name} seed={seed} --yes", flush=True)
    contents = open_seal(plan) if plan.name == "plan.json" else PlanFile.read(plan)
    run = STUDIES / study.name / "runs" / seeded_name(contents.members[0].member, seed) / "run.json"
    made = json.loads(run.read_text(encoding="utf-8")) if run.exists() else {}
    engine = {key: made[key] for key in ("dtype", "compile", "attention") if key in made}
    options = {"eval_tokens": EVAL_TOKENS, "wanted": BackendRequest(**engine, threads=1)}
    train_members(contents, StudyPaths(Path(study.name)), seed=seed, yes=True, **options)


def train_small(study: Study) -> None:
    """Train the small members."""
    for name, plan, seeds in zip(LADDERS, ladders(study), (study.small_seeds, (1,)), strict=True):
        path = Path(study.name) / name
        if not path.exists():
            plan.write(path)
        for seed in seeds:
            train(study, path, seed)


def seal(study: Study) -> None:
    """Fit the law and seal the target's prediction."""
    scaling("fit", "--study", study.name)
    shape = ["--vocab", str(study.vocab_size), "--context", str(study.n_positions)]
    shape += ["--head-size", str(study.head_size), "--ratio", f"{study.ratio:g}"]
    seeds = study.seeds if study.seed is None else (study.seed,)
    chosen = [word for seed in seeds for word in ("--seed", str(seed))]
    if (
        STUDIES / study.name / "plan.json"
    ).exists():  # what was sealed once is sealed again, whatever is refused today
        chosen.append("--force")
    scaling("plan", "--study", study.name, "--budget", f"{study.budget:g}", *shape, *chosen)


def target(study: Study, seeds: Sequence[int]) -> None:
    """Train the target from its seal, compare and report."""
    plan = Path(study.name) / "plan.json"
    member = open_seal(plan).members[0]
    taken = {small.member for ladder in ladders(study) for small in ladder.members}
    for seed in seeds:
        if member.member in taken:  # the law chose the shape of a small member, whose runs have its name
            shape = [f"{key}={getattr(member, key)}" for key in SHAPE_KEYS if key != "n_inner"]
            text = [f"data={text_of(study)}", f"held_out={study.held_out}", f"eval_tokens={EVAL_TOKENS}"]
            words = [*shape, *text, "family=gpt2", f"tokens={member.tokens}", "name=target", f"seed={seed}"]
            scaling("train", *words, "--study", study.name, "--yes")
        else:
            train(study, plan, seed)
    scaling("compare", "--study", study.name)


def facts_of(study: Study, folder: Path) -> dict[str, Any]:
    """What a study's files say of the seal's inputs: text, the small members as planned, their losses, the prediction."""
    paths = StudyPaths(folder)
    plan = open_seal(paths.plan)
    assert plan.seal is not None
    planned = {
        name: [member.model_dump(mode="json") for member in PlanFile.read(folder / name).members]
        for name in LADDERS
    }
    runs = {f"{run.run} at {run.tokens:g} tokens": run.loss for run in read_runs(paths.runs)}
    target = plan.members[0].model_dump(mode="json", exclude={"hours"})
    return {"text": plan.seal.data_sha256, **planned, "losses": runs, "target": target}


def verify(study: Study, work: Path) -> Iterator[str]:
    """Yield a line on each input of the seal, and on the losses, here against those published."""
    here, there = facts_of(study, work / study.name), facts_of(study, STUDIES / study.name)
    if here["text"] != there["text"]:
        yield (
            "text: DIFFERS on this machine (other versions of the interpreter or the packages): other losses are to be expected"
        )
    else:
        yield "text: equal, every file and token"
    for name in LADDERS:
        yield f"{name}: {'equal' if here[name] == there[name] else 'DIFFERS'}"
    shared = [name for name in there["losses"] if name in here["losses"]]
    apart = [abs(here["losses"][name] / there["losses"][name] - 1) for name in shared]
    same = "the same" if recorded(study) == processor() else f"another, {recorded(study)} there"
    exact = sum(one == 0 for one in apart)
    yield (
        f"losses: {exact} of {len(apart)} equal to the last bit, the farthest {max(apart):.1e} off (processor and torch: {same})"
    )
    promised = (here["target"].pop("prediction"), there["target"].pop("prediction"))
    off = abs(promised[0]["loss"] / promised[1]["loss"] - 1)
    planned = "equal" if here["target"] == there["target"] else "DIFFERS"
    yield f"target as planned: {planned}; its prediction {'equal' if off == 0 else f'{off:.1e} off'}"


def processor() -> str:
    """Kind of processor, and torch's version: what decides how sums are rounded."""
    kind, _, torch = machine_id("cpu").split(", ")
    return f"{kind}, {torch}"


def duration(study: Study) -> Iterator[str]:
    """Yield how long the training took where the study was made, by its published ledgers."""
    ledgers = sorted((STUDIES / study.name).glob("runs/*/ledger.jsonl"))
    seconds = sum(entry.wall_s for path in ledgers for entry in read_ledger(path))
    if ledgers:
        yield f"training took {seconds / 60:.1f} min on one core of {recorded(study)}, beside other work"


def recorded(study: Study) -> str:
    """The machine that the study was made on."""
    return str(
        json.loads((STUDIES / study.name / "recipe.json").read_text(encoding="utf-8")).get("machine", "")
    )


def publish(study: Study, work: Path) -> None:
    """Copy a study's plans, seals, ledgers, losses and curves to docs/studies; no text, weights, or times of steps."""
    source, place = work / study.name, STUDIES / study.name
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source)
        if path.name in PUBLISHED and not any(part.startswith(UNPUBLISHED) for part in name.parts):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            atomic_write(place / name, path.read_bytes())
    path = place / "recipe.json"
    recorded_recipe = json.loads(path.read_text(encoding="utf-8"))
    if "machine" not in recorded_recipe:
        texts = (
            {"text_sha256": sha256_file(text)}
            if study.text in TEXTS and (text := work / text_of(study)).exists()
            else {}
        )
        contents = {**recorded_recipe, **texts, "machine": processor()}
        atomic_write(path, json.dumps(contents, indent=2) + "\n")


def main() -> None:
    """Carry out a study's steps up to one of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study")
    parser.add_argument("--until", choices=STEPS, default=STEPS[-1])
    parser.add_argument("--work", type=Path, default=Path("evidence"))
    parser.add_argument("--seed", type=int, action="append")
    parser.add_argument("--publish", action="store_true", help="copy the results to docs/studies")
    parser.add_argument(
        "--verify", action="store_true", help="compare the seal's inputs with those published"
    )
    asked = parser.parse_args()
    study = Study.read(asked.study)
    work = asked.work.resolve()
    (work / study.name).mkdir(parents=True, exist_ok=True)
    for line in duration(study):
        print(line, flush=True)
    began = time.time()
    prepare_text(study, work)
    last = STEPS.index(asked.until)
    if last >= STEPS.index("ladder"):
        train_small(study)
    if last >= STEPS.index("seal") and not (work / study.name / "plan.json").exists():
        seal(study)
    if asked.verify and last >= STEPS.index("seal"):
        print(*verify(study, work), sep="\n", flush=True)
    if last >= STEPS.index("target"):
        target(study, asked.seed or study.seeds)
        if asked.verify:
            print(*verify(study, work), sep="\n", flush=True)
    if asked.publish:
        publish(study, work)
    print(f"{study.name}: {asked.until} after {(time.time() - began) / 60:.1f} min", flush=True)


if __name__ == "__main__":
    main()

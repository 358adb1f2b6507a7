"""Exit status 2 means that nothing at all was written: every verb's refusals leave the tree byte-identical."""

import json
import shutil
from pathlib import Path

import pytest

from scaling.cli.app import VERBS
from scaling.planning.planfile import PlanFile

from .nasty import ended
from .small_plan import planned, small_study
from .tiny import write_corpus

STUDIES = Path(__file__).resolve().parents[1] / "docs" / "studies"
SHAPE = "family=tiny n_layer=2 n_head=2 n_embd=32 n_positions=32"
TINY = f"{SHAPE} vocab_size=300 batch_size=4"
AIM = "--target 1M --tokens 20M"

# Command lines that are refused, by verb; in a folder that holds what `tree` writes.
REFUSALS = {
    "guide": ("guide plan", "guide --json"),
    "schema": ("schema plann", "schema families shw"),
    "mcp": ("mcp serve", "mcp --writes"),
    "generate": (
        "generate nowhere --prompt a",
        "generate study --prompt a --temperature -1",
        "generate study/runs/gpt2-941k-l4-d128-s1 --prompt a",
    ),
    "push": ("push nowhere user/name --dry-run", "push study user/name --dry-run"),
    "stamp": (
        "stamp nowhere.json",
        "stamp study/plan.json --ca ca.pem",
        "stamp study/plan.json --url http://localhost:9/ --git",
        "stamp study/law.json",
    ),
    "versus": (
        "versus a b --runs nowhere.csv",
        "versus a b --study study --by nothing",
        "versus a b --study study --seal new.json",
    ),
    "ingest": ("ingest nowhere --contract contract.json", "ingest study --contract study/law.json"),
    "design": (
        "design --params 85X --out new",
        "design --depth 2 --width 64,128 --head-size 64 --vocab 512 --out taken",  # the second member's place is taken
        "design --params 10M,85M --law none --compute 1e19 --out new",
        "design --params 10M --out note.txt",
    ),
    "families": (
        "families show gpt5",
        "families emit gpt5 --out new",
        "families emit gpt2 --out note.txt",
        "families emit gpt2 --out note.txt/below",
    ),
    "hardware": ("hardware H1000", "hardware --times 1=never --at 8", "hardware --times 1=1h --at 0"),
    "pilot": (
        "pilot --target nobody --out new.json",
        "pilot --target 125M --budget 100% --out new.json",
        "pilot --target 125M --out note.txt",
        "pilot --target 125M --out note.txt/new.json",
    ),
    "next": (
        "next --study nowhere --target 1M --tokens 20M",
        "next --study study --target 1M --tokens many",
        "next --study newer --target 1M --tokens 20M",
        "next 1M --study study --target 1M --tokens 20M",  # a word that is no second arm
    ),
    "simulate": (
        f"simulate nowhere.json {AIM}",
        f"simulate note.txt {AIM}",
        f"simulate study/ladder.json {AIM} --law nowhere.json",
    ),
    "plan": (
        "plan --budget 8xZ9000-hours --out new.json",
        "plan --budget 1e18 --out note.txt",
        "plan --budget 1e18 --out new.json --plot new.gif",
        "plan --budget 1e18 --out new.json --plot note.txt/new.png",
        "plan --budget 1e18 --out note.txt/new.json --plot new.png",
        "plan --budget 1e14 --study study --plot note.txt/new.png",
        "plan --budget 1e18 --study newer",
    ),
    "fit": (
        "fit bad.csv --out new.json",
        "fit study/runs.jsonl --out note.txt",
        "fit study/runs.jsonl --out new.json --plot note.txt",
        "fit study/runs.jsonl --bootstrap 0 --out note.txt/new.json --plot pictures",
        "fit study/runs.jsonl --form cubic --out new.json",
        "fit --study newer",
        "fit --study behind --group nobody",
    ),
    "predict": (
        "predict nowhere.json params=1M tokens=20M",
        "predict study/law.json params=1M tokes=20M",
        "predict study/law.json params=1T tokens=20T",
    ),
    "backtest": (
        "backtest bad.csv",
        "backtest study/runs.jsonl --holdout bottom",
        "backtest --study behind --holdout params>1e30",
    ),
    "audit": (
        "audit note.txt --out new.json",
        "audit bad.csv --out note.txt",
        "audit bad.csv --out note.txt/new.json",
        "audit study/runs.jsonl --out note.txt/new.json",
        "audit nowhere.md",
    ),
    "train": (
        f"train {TINY} data=nowhere tokens=4k",
        f"train {TINY} data=corpus tokens=4k lr=-1",
        f"train {TINY} data=corpus tokens=4k tokenizer=nowhere",
        f"train {TINY} data=corpus tokens=4k init=nowhere",
        f"train {TINY} data=corpus tokens=4k init=model",
        f"train {TINY} data=corpus tokens=4k rungs=8k",
        f"train {TINY} data=corpus tokens=4k out=note.txt",
        f"train {TINY} data=corpus tokens=4k out=note.txt/below",
        f"train {TINY} data=corpus tokens=4k devices=2 zero=9",
        f"train {TINY} data=corpus tokens=4k device=cuad",
        f"train {TINY} data=little tokens=4k",
        "train family=tiny n_layer=2 n_head=4 n_embd=33 n_positions=32 vocab_size=300 data=corpus tokens=4k",
        f"train {SHAPE} vocab_size=300 batch_size=5000 data=corpus tokens=400k --study new",  # too few windows
        f"train {SHAPE} vocab_size=100 batch_size=4 data=corpus tokens=4k --study new",  # fewer than bytes
        f"train {SHAPE} vocab_size=260 batch_size=4 data=corpus tokenizer=small/data tokens=4k --study new",
        f"train {TINY} data=corpus tokens=4k out=taken",
        f"train {TINY} data=corpus tokens=4k held_out=1 --study new",
        f"train {TINY} data=corpus tokens=4k data_fraction=0.001 --study new",  # known once the text is read
        f"train {TINY} tokens=4k --study new",
        f"train {TINY} data=corpus tokens=4k init=nowhere lr=1e-3,2e-3 --study new",
        f"train {TINY} data=corpus tokens=4k ablate=nothing --study new",
        f"train {TINY} data=corpus tokens=4k lr=1e-3,-2e-3",
        f"train {TINY} data=corpus tokens=4k --study newer",
        f"train {TINY} data=corpus tokens=4k --study note.txt",
        f"train {TINY} data=little tokens=4k --study small",  # holds other text
        f"train {TINY} data=corpus tokens=4k heldout_size=1",
        f"train {TINY} data=corpus tokens=10 --study new",
        f"train {TINY} data=corpus tokens=4k dtype=fp7 --study new",
        f"train {TINY} data=broken.jsonl tokens=4k --study new",
    ),
    "emit": (
        "emit family=gpt5 tokens=1B --out new",
        "emit family=gpt2 tokens=1B batch_size=8 --out note.txt",
        "emit --deepspeed family=gpt2 tokens=1B batch_size=8 devices=3 zero=2 --out new",
        "emit --deepspeed family=gpt2 tokens=1B batch_size=8 --out taken",
    ),
    "tune": (
        "tune family=gpt5",
        "tune family=gpt2 batch_size=0",
        "tune family=gpt2 --devices 1,x",
        "tune family=gpt2 --memory 1Q",
    ),
    "ladder": (
        "ladder nowhere.json",
        "ladder note.txt data=corpus --study new",
        "ladder small-plan.json --study new",
        "ladder small-plan.json data=nowhere --study new",
        "ladder small-plan.json data=corpus member=nobody --study new",
        "ladder edited.json data=corpus --study new",
        "ladder small-plan.json data=corpus launcher=slurm profile=bad.yaml --study new",
        "ladder small-plan.json data=corpus launcher=slurm --study new",
        "ladder small-plan.json data=corpus tokenizer=nowhere --study new",
        "ladder small-plan.json data=corpus export=ftp://nowhere --study new",
        "ladder small-plan.json data=little --study new",
        "ladder big-plan.json data=corpus --study new",  # its batch is larger than the text
        "ladder big-plan.json data=corpus jobs=2 --study new",
        "ladder small-plan.json --study newer",
    ),
    "validate": (
        "validate nowhere",
        "validate study",
        "validate model --device cuad",
        "validate model --data nowhere",
    ),
    "watch": (
        "watch nowhere --study study",
        "watch study/runs/gpt2-941k-l4-d128-s0 --once --tokens many",
        "watch gpt2-112k-l2-d48-s1 --study whole --once --tokens many",
        "watch gpt2-112k-l2-d48-s1 --study whole --once --tokens 3",
        "watch newer/runs/a --study newer",
    ),
    "table": (
        "table nowhere",
        "table whole --out note.txt",
        "table whole --out note.txt/new.csv --format csv",
    ),
    "compare": (
        "compare --study nowhere",
        "compare --study newer",
        "compare --study behind",  # its plan is not sealed, and its runs.jsonl is behind its runs
        "compare --study waiting",  # sealed, its runs.jsonl behind, and the sealed run not there
        "compare --study edited",
        "compare --under nowhere",
        "compare --under whole --published composer-gpt2",
        "compare --published nobody",
    ),
    "report": (
        "report --study nowhere",
        "report --study study --out note.txt",
        "report --study study --out note.txt/new.html",
        "report --study study --format pdf",
        "report --study study --out blocked/report.html",  # a file is where its figures go
        "report --study newer",
    ),
    "plot": (
        "plot nothing --study study --out new.png",
        "plot surface --study study --out new.gif",
        "plot surface --study study --out note.txt/new.png",
        "plot surface --study newer --out new.png",
    ),
    "doctor": ("doctor --fast", "doctor please"),
    "demo": (
        "demo --study newer",
        "demo --study new --seconds 0.1",
        "demo --study new --data nowhere --quick",
        "demo --study note.txt --quick",
        "demo --study new --data little --quick",
    ),
}


def newer_study(folder):
    """One that a newer program wrote."""
    folder.mkdir()
    (folder / "study.json").write_text(json.dumps({"kind": "study", "version": 99, "title": "x"}))


def behind_study(folder, *, sealed):
    """A study whose runs.jsonl is behind the observations of its runs; of a sealed one the target is not trained."""
    folder.mkdir()
    shutil.copy(STUDIES / "stdlib-short" / "law.json", folder)
    lines = (STUDIES / "stdlib-short" / "runs.jsonl").read_text().splitlines(keepends=True)
    if sealed:
        lines = [line for line in lines if "gpt2-941k" not in line]
    (folder / "runs.jsonl").write_text("".join(lines[:9]))
    for line in lines[9:]:
        run = folder / "runs" / json.loads(line)["run"]
        run.mkdir(parents=True, exist_ok=True)
        with (run / "runs.jsonl").open("a") as file:
            file.write(lines[0] if not file.tell() else "")
            file.write(line)
    plan = json.loads((STUDIES / "stdlib-short" / "plan.json").read_text())
    (folder / "plan.json").write_text(json.dumps(plan if sealed else plan | {"seal": None}))


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A folder of what the command lines name."""
    here = tmp_path_factory.mktemp("refusals") / "here"
    here.mkdir()
    (here / "note.txt").write_text("mine\n")
    (here / "bad.csv").write_text("run,params,tokens,loss\na,many,few,low\n")
    (here / "bad.yaml").write_text("partitions: gpu\n")
    (here / "broken.jsonl").write_text('{"text": "a line"}\n{"text": \n')
    write_corpus(here / "corpus")
    (here / "little").mkdir()
    (here / "little" / "a.txt").write_text("one\n")
    shutil.copytree(STUDIES / "stdlib-short", here / "study")
    shutil.copytree(STUDIES / "stdlib-short", here / "edited")
    shutil.copytree(STUDIES / "stdlib", here / "whole")
    plan = json.loads((here / "edited" / "plan.json").read_text())
    plan["members"][0]["prediction"]["loss"] += 0.1
    for path in (here / "edited" / "plan.json", here / "edited.json"):
        path.write_text(json.dumps(plan))
    newer_study(here / "newer")
    behind_study(here / "behind", sealed=False)
    behind_study(here / "waiting", sealed=True)
    small_study(here, planned("d32"), name="small")
    big = planned("d32", steps=5)
    recipe = big.recipe.model_copy(update={"batch_sequences": 5000, "batch_tokens": 160_000})
    big = big.model_copy(update={"recipe": recipe, "tokens": 800_000})
    PlanFile(members=(big, big.model_copy(update={"member": "d33"}))).write(here / "big-plan.json")
    (here / "blocked").mkdir()
    (here / "blocked" / "figures").write_text("mine\n")
    (here / "model").mkdir()
    (here / "model" / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_embd": 33}))
    for member in ("gpt2-593k-l2-d128", "."):
        (here / "taken" / member).mkdir(parents=True, exist_ok=True)
        (here / "taken" / member / "config.json").write_text("mine\n")
    for name in ("ds_config.json", "run.json"):
        (here / "taken" / name).write_text("mine\n")
    return here


def state(folder):
    """Everything below a folder: links, modes and bytes; without it, nothing."""
    return {
        path.relative_to(folder).as_posix(): (
            path.lstat().st_mode,
            path.read_bytes() if path.is_file() else str(path.readlink()) if path.is_symlink() else None,
        )
        for path in sorted(folder.rglob("*"))
    }


def test_every_verb_has_refusals_here():
    assert {verb: len(lines) for verb, lines in REFUSALS.items() if len(lines) < 2} == {}
    assert set(REFUSALS) == {verb.name for verb in VERBS}
    assert all(line.split()[0] == verb for verb, lines in REFUSALS.items() for line in lines)


@pytest.mark.parametrize("line", [line for lines in REFUSALS.values() for line in lines])
def test_a_refusal_leaves_the_tree_as_it_was(line, tree, monkeypatch):
    monkeypatch.chdir(tree)
    monkeypatch.setenv("SCALING_CACHE", str(tree / "cache"))
    before = state(tree)
    status, out, said = ended(*line.split())
    after = state(tree)
    for name in after.keys() - before.keys():  # so that one violation does not hide behind another
        shutil.rmtree(tree / name, ignore_errors=True)
        (tree / name).unlink(missing_ok=True) if (tree / name).exists() and not (
            tree / name
        ).is_dir() else None
    for name, (_, data) in before.items():
        if after.get(name) != before[name] and isinstance(data, bytes):
            (tree / name).write_bytes(data)
    assert status == 2, (status, out[-300:], said[-300:])
    assert out == ""
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    assert not changed, said
    assert said.splitlines()[-1].startswith("scaling: ")

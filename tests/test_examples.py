"""Every example that `--help` shows does what it shows, in a folder where what it names is there."""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from scaling.cli.app import VERBS, load
from scaling.published_laws import published_law

from . import small_plan, tiny

STUDIES = Path(__file__).parents[1] / "docs" / "studies"
CARD = "| Model | Parameters | Loss | Perplexity |\n|---|---|---|---|\n| gpt2-83m | 85.8M | 3.28 | 26.58 |\n"
# What makes an example small enough to run; the rest of it stays as it is shown. A key=value takes the place of its like.
TINY = (*tiny.words(n_layer=1, n_head=2, n_embd=16, vocab_size=300), "n_positions=32")
SMALLER = {
    "train": (*TINY, "tokens=4K", "batch_size=4", "warmup=4", "--study", "fresh", "--yes"),
    "tune": (*TINY, "batch_size=4", "compile=false"),
    "ladder": ("dry_run=true",),
    "demo": ("--seconds", "3"),
    "simulate": ("--replicates", "2"),
}
SLOW = ("demo", "validate", "generate")  # they measure, train, or load what was trained


def commands():
    """Every command that does something, as typed: ("families show", its click command)."""
    for verb in VERBS:
        command = load(verb)
        inner = getattr(command, "commands", None)
        if inner is None:
            yield verb.name, command
        else:
            yield from ((f"{verb.name} {name}", one) for name, one in inner.items())


def examples(command):
    """The command lines of a command's help."""
    text = (command.epilog or "").removeprefix("Example: ")
    return [line.strip() for line in re.split(r", (?:or )?(?=scaling )|\n", text) if line.strip()]


COMMANDS = dict(commands())
SHOWN = [(name, line) for name, command in COMMANDS.items() for line in examples(command)]
# Each takes half a minute, and is run by the file that says what comes of it: test_demo.py, which kills it on the way, and
# test_tune.py.
DEMO, TUNE = (examples(COMMANDS[name])[0] for name in ("demo", "tune"))


def smaller(name, line):
    """The words of an example after `scaling`, with SMALLER's."""
    words = shlex.split(line)[1:]
    for word in SMALLER.get(name, ()):
        key, is_pair, _ = word.partition("=")
        same = [i for i, one in enumerate(words) if is_pair and one.startswith(f"{key}=")]
        if same:
            words[same[0]] = word
        else:
            words.append(word)
    return words


@pytest.fixture(scope="session")
def things(tmp_path_factory):
    """A folder with all that the examples name."""
    folder = tmp_path_factory.mktemp("things")
    plan, _ = small_plan.small_study(folder / "made", small_plan.planned("gpt2-a"))
    plan.rename(folder / "plan.json")
    (folder / "made" / "corpus").rename(folder / "text")
    (folder / "cluster.yaml").write_text("partition: gpu\n")
    (folder / "model-card.md").write_text(CARD)
    shutil.copytree(STUDIES, folder / "studies")
    for name in ("demo", "study"):
        shutil.copytree(STUDIES / "stdlib", folder / name)
    rng = np.random.default_rng(0)
    rows = ["run,N,D,loss"]
    law = published_law("chinchilla").law
    for N in np.geomspace(1e7, 1e9, 6):
        for ratio in (10, 20, 40):
            loss = law.loss(N, ratio * N) * np.exp(rng.normal(0, 0.002))
            rows.append(f"{N:.0f}x{ratio},{N:.0f},{ratio * N:.0f},{loss:.5f}")
    (folder / "runs.csv").write_text("\n".join(rows) + "\n")
    arms = ["run,params,tokens,loss,optimizer"]
    for arm, gain in (("adamw", 1.0), ("muon", 1.2)):
        for N in np.geomspace(1e7, 1e9, 5):
            loss = law.loss(N, 20 * N * gain) * np.exp(rng.normal(0, 0.002))
            arms.append(f"{arm}-{N:.0f},{N:.0f},{20 * N:.0f},{loss:.5f},{arm}")
    (folder / "arms.csv").write_text("\n".join(arms) + "\n")
    return folder


@pytest.fixture(scope="session")
def made(things, cli):
    """The same, with what examples make for other examples: a law, ladders, and trained models in their runs' folders."""
    for name in ("fit", "pilot"):
        done = cli(*smaller(name, examples(COMMANDS[name])[0]), cwd=things)
        assert done.returncode == 0, done.stderr
    done = cli("emit", "family=gpt2-83m", "tokens=1B", "--to", "megatron", "--out", "megatron", cwd=things)
    assert done.returncode == 0, done.stderr
    (things / "chart.csv").write_text("Step,lm loss\n1,10.9\n2,10.7\n")
    tiny.trained(things / "trained", data=str(things / "text"), tokens=2048, batch_size=4, lr=3e-3, warmup=4)
    (run,) = (things / "trained" / "runs").iterdir()
    named = {word for _, line in SHOWN for word in re.findall(r"study/runs/(\S+)", line)}
    for name in named:
        shutil.copytree(run, things / "study" / "runs" / name)
    shutil.copytree(things / "trained" / "data", things / "study" / "data")
    return things


@pytest.mark.parametrize("name", COMMANDS)
def test_every_verb_has_an_example_of_itself(name):
    found = examples(COMMANDS[name])
    assert found
    assert all(line.startswith(f"scaling {name}") for line in found)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        pytest.param(name, line, id=line, marks=[pytest.mark.slow] if name in SLOW else [])
        for name, line in SHOWN
        if line not in (DEMO, TUNE)
    ],
)
def test_an_example_runs(name, line, made, cli, tmp_path):
    place = tmp_path / "here"
    shutil.copytree(made, place)
    words = smaller(name, line)
    if name == "demo":  # begins a study of its own, on more text than the rest need
        for taken in ("demo", "text"):
            shutil.rmtree(place / taken)
        tiny.write_corpus(place / "text", files=160, lines=300)
    if "--out" in words:  # what another example needed of it is made anew
        out = place / words[words.index("--out") + 1]
        out.unlink(missing_ok=True)
    done = cli(*words, cwd=place)
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout[-400:]}\n{done.stderr[-800:]}"
    assert done.stdout.strip() or "--out" in words
    if "--json" in words:
        json.loads(done.stdout)

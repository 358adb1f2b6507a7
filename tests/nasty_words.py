"""Nasty words: the command line of every verb with one word of it spoilt, and every file of a study in another state."""

import contextlib
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from .nasty import Door, Untidy, command
from .nasty_inputs import CELLS

# Of each verb a command line that would be carried out; @ stands before a path of the bench. What trains, sends or measures
# stands with a word that refuses it, so that no word makes it begin.
LINES = (
    "design --params 85M --ratio 64 --vocab 50257 --context 1024 --head-size 64 --json",
    "design --architecture llama3 --depth 12 --width 768 --kv-heads 4 --multiple 64",
    "families list",
    "families show gpt2-83m --context 512 --micro-batch 2 --tensor 2 --pipeline 1 --shards 8 --precision bf16",
    "families show @trainer/config.json --optimizer adamw --lora-rank 8 --json",
    "families emit gpt2-83m --out @trainer/config.json",
    "hardware H100",
    "hardware --times 1=66m40s,2=40m19s,4=32m44s --at 8",
    "pilot --target 125M --tokens 2B --budget 10% --ratio 64 --law chinchilla",
    "next --study @study --target 1M --tokens 20M",
    "simulate @ladder.json --target 1M --tokens 20M --replicates 2 --seed 1",
    "plan --budget 8xA100-hours --mfu 0.4 --family gpt2 --law chinchilla --json",
    "plan --budget $5000 --on 8xH100 --price 2.5 --within 0.01 --rule capped --ratio 64",
    "plan --target-loss 2.5 --family llama3 --on 64xH100 --tokens-available 1T --inference-tokens 1T",
    "plan --params 1B,3B --budget 1e21 --times 1=60m,2=35m --vocab 50257 --context 1024 --seed 0",
    "fit @runs.csv --bootstrap 0 --form general --columns params=params,loss=loss --group text --loss-unit nats",
    "fit @table.jsonl --bootstrap 0 --bad-rows 0.1 --convention all --annealed only --coordinates none --seed 1",
    "predict chinchilla params=1B tokens=20B --json",
    "predict @law.json params=300k tokens=3M lr=1e-3 --explain",
    "predict @law.json params=300k tokens=3M --scores @scores.csv --runs @runs.csv --chance task=0.25",
    "backtest @runs.csv --holdout params>5e6 --columns params=params --loss-unit nats --bad-rows 0",
    "audit @runs.csv --columns params=params --json",
    "train family=gpt2-83m data=@nowhere.txt tokens=1M lr=1e-3 batch_size=8 seed=1 schedule=wsd dtype=fp32 --yes",
    "train init=@trainer data=@nowhere.txt epochs=2 tokenizer=@tokenizer.json held_out=0.1 --study @study --yes",
    "emit family=gpt2-83m tokens=1B --to config,torchrun --nodes 2 --out @runs.csv",
    "emit @plan.json --to slurm --profile @profile.yaml --out @runs.csv",
    "ingest @megatron.log --contract @contract.json --study @study --json",
    "tune family=@nowhere/x.json devices=1 memory=8GB",
    "ladder @nowhere.json --data stdlib --jobs 2 --devices 1 --member gpt2 --launcher local --seed 1 --dry-run",
    "validate @nowhere --data stdlib --context 128 --tolerance 1e-3 --eval-tokens 1k --device cpu",
    "generate @nowhere --prompt hello --max-tokens 8 --temperature 0.5 --top-p 0.9 --seed 1 --device cpu",
    "push @nowhere user/name --dry-run",
    "watch @whole/runs/gpt2-112k-l2-d48-s1 --once --json",
    "table @whole --format md --all",
    "stamp @nowhere.json --url http://127.0.0.1:9 --json",
    "compare --study @study --json",
    "compare --under @study",
    "compare --published composer-gpt2 --versus 0 --runs @runs.csv",
    "versus @study @whole --by params --seed 1",
    "report --study @nowhere --format json --out @runs.csv",
    "plot surface --study @nowhere --out @runs.csv",
    "schema fit",
    "demo --quick --study @runs.csv --data @nowhere.txt --seconds 1",
)

WORDS = (
    *CELLS, "=", "x=", "=x", "--", "-", "---", "--x", "-x", "--json", "--yes", "--help=1", "\n", "a\nb", "\\", "*",
    "@study", "@runs.csv", "@plan.json", "@pipe", "@" + "x" * 300,
    "--study", "params=", "params=1", "params=-1", "params=nan", "params=1e400", "tokens=" + "9" * 400, "lr=inf", "seed=1e9",
    "8xA100", "A100 x 8", "-8xA100", "0xA100", "1e999xA100", "8xA100-hours", "1 year on 9e9 H100", "$1e400 on H100", "€5", "10%",
    "-10%", "1e-400", "0.0", "1/0", "1e21,1e22", ",", ",,,", "1B,", "a=b=c", '"', "params=N,tokens", "loss=word_perplexity,none",
    "{}", "[]", "params>", "params>x", ">1", "params>1e6 and", "__class__", "run", "\ud83d\ude00", "ﬀ", "１２", "İ",
    "1" * 5000, "1M" * 2000, "(" * 5000, "a," * 5000, "9" * 20 + "M", "2**31", "4294967296", "-2147483649", "1e18", "1 " * 2000,
)  # fmt: skip


def spoilt_words(line: str, folder: Path, rng: random.Random) -> list[str]:
    """A command line with up to three of its words replaced, spoilt in part, removed, repeated or added."""
    words = line.split()
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at = rng.randrange(1, len(words)) if len(words) > 1 else 0
        bad, how = rng.choice(WORDS), rng.random()
        key, equals, _value = words[at].partition("=")
        if how < 0.55 and at:
            words[at] = f"{key}={bad}" if equals and rng.random() < 0.8 else bad
        elif how < 0.65 and at:
            del words[at]
        elif how < 0.75 and at:
            words.insert(at, words[at])
        elif how < 0.85 and at:
            cut = rng.randrange(len(words[at]) + 1)
            words[at] = words[at][:cut] + bad[:50] + words[at][cut:]
        else:
            words.insert(at + 1, bad)
    # A word of a command line has no NUL and is what the system's encoding can write.
    words = [
        word.replace("\0", "").encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")
        for word in words
    ]
    return [str(folder / word[1:]) if word.startswith("@") else word for word in words]


def tree(folder: Path) -> dict[str, tuple[int, int, int]]:
    """What tells a changed file: (inode, bytes, time of its last change) by path; folders without their times."""
    found, stack = {}, [str(folder)]
    while stack:
        with os.scandir(stack.pop()) as entries:
            for entry in entries:
                seen = entry.stat(follow_symlinks=False)
                is_folder = entry.is_dir(follow_symlinks=False)
                found[entry.path] = (
                    seen.st_ino,
                    0 if is_folder else seen.st_size,
                    0 if is_folder else seen.st_mtime_ns,
                )
                if is_folder:
                    stack.append(entry.path)
    return found


def unchanged(folder: Path, *words: object) -> None:
    """Run a command; one that refuses must leave the folder as it was."""
    from families.units import BadInput

    before = tree(folder)
    try:
        with contextlib.chdir(folder / "here"):
            command(*words)
    except BadInput:
        if (after := tree(folder)) != before:
            changed = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
            raise Untidy(f"exit status 2 changed {changed[:4]}") from None
        raise


STUDY_FILES = (
    "study.json",
    "runs.jsonl",
    "law.json",
    "plan.json",
    "ladder.json",
    "comparison.json",
    "ledger.jsonl",
)

STUDY_VERBS = (  # that read a study, each with every file of it spoilt
    "compare --study @study", "report --study @study --format json --out @report.json --yes", "table @study",
    "next --study @study --target 1M --tokens 20M", "plan --study @study --budget 1e14", "fit --study @study --bootstrap 0",
    "compare --under @study", "plot surface --study @study --out @plot.csv --yes", "versus @study @whole",
    "backtest --study @study --holdout params>3e5",
)  # fmt: skip


def word_doors(folder: Path) -> Iterator[Door]:
    """A door for each command line, and one for each file of a study and each verb that reads it."""
    os.mkfifo(folder / "pipe")
    (folder / "scores.csv").write_text(
        "run,task,score\n" + "".join(f"r{n},task,{0.3 + n / 20}\n" for n in range(6))
    )

    def asking(line: str) -> Callable[[Path, random.Random], tuple[str, list[str]]]:
        def spoil(folder: Path, rng: random.Random) -> tuple[str, list[str]]:
            words = spoilt_words(line, folder, rng)
            return " ".join(words)[:160], words

        return spoil

    for line in LINES:
        quick = line.split()[0] in ("design", "hardware", "predict", "schema", "families", "audit")
        yield Door(
            name=f"words {line[:48]}", file="runs.csv", kind="words", ask=unasked, words=asking(line),
            share=0.3 if quick else 0.1,
        )  # fmt: skip
    for line in STUDY_VERBS:
        words = [str(folder / word[1:]) if word.startswith("@") else word for word in line.split()]
        for file in STUDY_FILES:
            yield Door(
                name=f"{line.split()[0]} study {file}", file=f"study/{file}", kind=file.rpartition(".")[2],
                ask=lambda folder, words=words: unchanged(folder, *words), share=0.02,
            )  # fmt: skip


def unasked(folder: Path) -> None:
    """Nothing: a door of words has no file of its own."""

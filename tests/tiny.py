"""A tiny model on a little text: what the tests of training share. Nothing here imports torch before it is needed."""

import json

import numpy as np

SHAPE = {"n_layer": 2, "n_head": 2, "n_embd": 32, "n_positions": 32, "vocab_size": 300}
SMALLER = {**SHAPE, "n_layer": 1, "n_embd": 16}


def words(**keys):
    """Keys as the command line takes them."""
    return [f"{key}={value}" for key, value in keys.items()]


def write_corpus(folder, files=40, lines=60):
    """Files of random words, the same every time."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    vocabulary = ["loss", "token", "model", "scale", "law", "budget", "train", "plan", "data", "été"]
    for index in range(files):
        text = "\n".join(" ".join(rng.choice(vocabulary, 8)) for _ in range(lines))
        (folder / f"part{index:02}.txt").write_text(text + "\n", encoding="utf-8")
    return folder


def text_in(folder, *, vocab_size=300, **how):
    """A corpus in a folder, as the tokens that a run reads."""
    from train.data import TokenizedText
    from train.data.prepare import prepare

    corpus = write_corpus(folder / "corpus")
    data = folder / "data"
    manifest = prepare(str(corpus), data, vocab_size=vocab_size, **how)
    return TokenizedText.open(data, manifest, SHAPE["n_positions"])


def settings(text=None, facts=None, **changes):
    """A run of the tiny shape on a text, or on what `facts` say of one."""
    from train.config import TrainConfig
    from train.settings import TextFacts, settings_of

    usual = {"family": "tiny", "data": "x", "tokens": 4096, "batch_size": 4, "lr": 3e-3, "warmup": 4, **SHAPE}
    asked = TrainConfig.model_validate({**usual, **changes})
    if text is not None:
        facts = TextFacts.of(text.manifest, asked.spec().architecture)
    return settings_of(asked, facts or TextFacts(), "cpu")


def places(folder):
    """Where a run that is no study's writes."""
    from train.ladder import RunPaths

    return RunPaths(folder=folder / "run", runs=folder / "runs.jsonl", ledger=folder / "ledger.jsonl")


def trained(study, said=None, **asked):
    """The rungs of `scaling train key=value …`; lines go to the list `said`."""
    from train.config import TrainConfig
    from train.jobs.launch import train
    from train.lease import Stop

    lines = [] if said is None else said
    config = TrainConfig.model_validate({"family": "tiny", **SHAPE, **asked})
    return train(config, study, yes=True, stop=Stop(), log=lines.append, report=lambda *what: None)


def weights(branch):
    """What a rung's model holds."""
    from safetensors.torch import load_file

    return load_file(branch / "model" / "model.safetensors")


def files_under(folder):
    """Paths of all that lies in a folder, relative to it."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def json_lines(path):
    """The rows of a file of JSON lines; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def booked(folder):
    """Tokens in the ledger of a run."""
    from scaling.runs.store import read_ledger

    return sum(work.tokens for work in read_ledger(folder / "ledger.jsonl"))


class StopAfter:
    """Asks the loop to stop after some steps, as a signal would."""

    def __init__(self, steps):
        self.left = steps

    @property
    def requested(self):
        self.left -= 1
        return self.left < 0

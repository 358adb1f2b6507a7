"""The good files that tests.nasty spoils, and every reader and verb that takes one of them."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from families.spec import ModelSpec

from .nasty import Door, command
from .nasty_foreign import foreign_doors, text_doors
from .nasty_words import word_doors

STUDIES = Path(__file__).resolve().parents[1] / "docs" / "studies"
SHAPE = {"n_layer": 2, "n_head": 2, "n_embd": 32, "n_positions": 32, "vocab_size": 300}
SIZES = ((1e6, 2e7), (2e6, 4e7), (4e6, 8e7), (8e6, 1.6e8), (1.6e7, 3.2e8), (3.2e7, 6.4e8))
PROFILE = """# a cluster
partition: gpu
account: lab
time: 12:00:00
nodes: 2
devices: 4
cpus: 8
memory: 64G
gres: gpu:4
save_before: 300
container: {image: /images/x.sif, tool: apptainer, mounts: [/data]}
environment:
  OMP_NUM_THREADS: 8
prologue:
  - module load cuda
members:
  gpt2-xl*: {time: 1-00, nodes: 4}
"""
CARD = """# Tiny-GPT

## Sizes

- **tiny-117M**: 12 layers, 768 hidden size, 12 heads, 117 million parameters
- small (`345M`): NHIDDEN=1024; NLAYERS=24
- [xl](https://x.example/xl) - 48 layers, 1600 wide, 1.5 billion parameters

| Model | Layers | d_model | Heads | Parameters | Tokens | Loss | Perplexity | GPU | Hours |
|---|---:|---|---|---|---|---|---|---|---|
| GPT-2 124M | 12 | 768 | 12 | 124M | 2.5B | 3.21 | 24.8 | 8xA100 | 02:44 |
| GPT-2 355M | 24 | 1024 | 16 | 355M | 7.1B | 2.98 | 19.7 | 8xA100 | 12:30 |
| GPT-2 774M | 36 | 1280 | 20 | 774M | 15.5B | 2.81 | 16.6 | 8xA100 | 1,234 |

Model size: 1,557,611,200 parameters.
"""


def _loss(params: float, tokens: float) -> float:
    return 1.8 + 482 / params**0.35 + 2085 / tokens**0.37


def _runs_csv() -> str:
    rows = [
        f"r{number},text,{params:.0f},{tokens:.0f},{_loss(params, tokens):.4f},true,{6 * params * tokens:.4g},A100"
        for number, (params, tokens) in enumerate(SIZES)
    ]
    return "\n".join(["run,group,params,tokens,loss,annealed,compute,accelerator", *rows]) + "\n"


def _wandb_csv() -> str:
    """As W&B exports its table of runs."""
    rows = [
        f'"small-{number}","finished","{number}","{params:.0f}","{tokens:.0f}","{_loss(params, tokens):.4f}","0.001"'
        for number, (params, tokens) in enumerate(SIZES)
    ]
    return "\n".join(['"Name","State","seed","params","tokens","eval/loss","lr"', *rows]) + "\n"


def _config() -> dict[str, Any]:
    from families.architectures import config_json

    return dict(config_json(ModelSpec(architecture="gpt2", **SHAPE), None))


def _trainer(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(_config(), indent=1))
    log = [
        {
            "step": step,
            "eval_loss": 5 - step / 1000,
            "num_input_tokens_seen": 1000 * step,
            "loss": 5.1,
            "epoch": step / 100,
        }
        for step in (100, 200, 300)
    ]
    state = {
        "log_history": log, "max_steps": 300, "global_step": 300, "total_flos": 1e12, "trial_name": None, "epoch": 3.0,
        "best_metric": 4.7,
    }  # fmt: skip
    (folder / "trainer_state.json").write_text(json.dumps(state, indent=1))


def _events(folder: Path) -> None:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(_config()))
    writer = EventFileWriter(str(folder))
    for step in range(10, 60, 10):
        for tag, value in (("tokens", 1e6 * step), ("eval/loss", 5 - step / 100), ("lr", 1e-3)):
            writer.add_event(
                Event(step=step, summary=Summary(value=[Summary.Value(tag=tag, simple_value=value)]))
            )
    writer.close()
    (path,) = folder.glob("events.*")
    path.rename(folder / "events.out.tfevents.1")


def _data(folder: Path) -> None:
    """A prepared text of 300 tokens."""
    from train.data import DataManifest, Shard, SourceFile

    folder.mkdir(parents=True)
    np.arange(2000, dtype=np.uint16).__mod__(300).tofile(folder / "train-00000.bin")
    np.arange(200, dtype=np.uint16).__mod__(300).tofile(folder / "heldout.bin")
    DataManifest(
        source="x", tokenizer="bpe", vocab_size=300, eos_token_id=0, dtype="uint16", held_out=0.1,
        train=(Shard(name="train-00000.bin", tokens=2000),), heldout=Shard(name="heldout.bin", tokens=200),
        heldout_bytes=800, heldout_words=150, heldout_sha256="0" * 64,
        files=(SourceFile(name="a.txt", bytes=9000, sha256="1" * 64, split="both"),),
    ).write(folder / "data.json")  # fmt: skip


def build(folder: Path, *, training: bool = True) -> tuple[Door, ...]:
    """Write the good files; the doors to them."""
    folder.mkdir(parents=True)
    (folder / "runs.csv").write_text(_runs_csv())
    (folder / "wandb.csv").write_text(_wandb_csv())
    table = _runs_csv()
    (folder / "semi.csv").write_text("Our runs\n" + table.replace(",", ";").replace(".", ","))
    (folder / "utf16.csv").write_text(table, encoding="utf-16")
    header, *rows = (line.split(",") for line in table.splitlines())
    (folder / "runs.json").write_text(json.dumps([dict(zip(header, row, strict=True)) for row in rows]))
    (folder / "api.csv").write_text(
        "name,summary,config\n"
        + "".join(
            f"r{n},\"{{'eval/loss': {3 - n / 100}, 'tokens': {n}e8}}\",\"{{'n_params': {n}e6, 'lr': nan}}\"\n"
            for n in range(1, 9)
        )
    )
    (folder / "card.md").write_text(CARD)
    (folder / "profile.yaml").write_text(PROFILE)
    shutil.copytree(STUDIES / "stdlib-short", folder / "study")
    shutil.copytree(STUDIES / "stdlib", folder / "whole")
    shutil.copy(folder / "study" / "law.json", folder / "law.json")
    shutil.copy(folder / "study" / "plan.json", folder / "plan.json")
    shutil.copy(folder / "study" / "ladder.json", folder / "ladder.json")
    shutil.copy(folder / "study" / "runs.jsonl", folder / "table.jsonl")
    _trainer(folder / "trainer")
    _hardware(folder / "hardware.json")
    (folder / "machine.json").write_text(json.dumps({"kind": "machine", "version": 1, "measured": []}))
    doors = [*_readers(), *_verbs(), *foreign_doors(folder), *word_doors(folder)]
    if find_spec("tensorboard"):
        _events(folder / "events")
        doors += _event_doors()
    if training and find_spec("torch"):
        _data(folder / "study" / "data")
        _text(folder)
        doors += [*_training(), *text_doors(folder)]
    (folder / "here").mkdir()
    return tuple(doors)


def _text(folder: Path) -> None:
    (folder / "text.txt").write_text("".join(f"a line of words, number {n}\n" for n in range(60)))
    (folder / "text.jsonl").write_text(
        "".join(json.dumps({"text": f"document {n}"}) + "\n" for n in range(60))
    )
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text(json.dumps(_config()))
    from train.data.tokenizer import train_tokenizer

    train_tokenizer(["a line of words\n" * 20], 300).save(str(folder / "tokenizer.json"))


def _hardware(path: Path) -> None:
    from scaling.hardware import HardwareFile, OwnAccelerator

    HardwareFile(
        accelerators=(
            OwnAccelerator(
                name="Mine",
                teraflops={"bf16": 300.0, "fp32": 40.0},
                memory_gb=80,
                bandwidth_gb_s=2000,
                price=1.5,
            ),
        )
    ).write(path)


def _law(folder: Path) -> None:
    from scaling.fitting.predictor import load_law

    answers = load_law(folder / "law.json")
    answers.predict(3e6, 6e7)
    answers.allocate(1e14)


def _own_hardware(folder: Path) -> None:
    from scaling import devices, hardware

    os.environ[hardware.USER_FILE] = str(folder / "hardware.json")
    hardware._own.cache_clear()
    try:
        hardware.accelerator("Mine")
        devices.recognise("8xMine")
    finally:
        del os.environ[hardware.USER_FILE]
        hardware._own.cache_clear()


def _profile(folder: Path) -> None:
    from train.slurm import read_profile

    profile = read_profile(folder / "profile.yaml")
    for member in ("gpt2-52m", "gpt2-xl"):
        profile.of(member)


def _plan(folder: Path) -> None:
    from scaling.planning.seal import open_seal, sealed_predictions

    sealed_predictions(open_seal(folder / "plan.json"))


def _machine(folder: Path) -> None:
    from scaling.machine import CACHE, MachineFile

    os.environ[CACHE], before = str(folder), os.environ.get(CACHE)
    try:
        MachineFile.open()
    finally:
        os.environ.pop(CACHE)
        if before is not None:
            os.environ[CACHE] = before


def _readers() -> Iterator[Door]:
    from scaling.auditing import audit
    from scaling.monitoring import watch
    from scaling.monitoring.curves import read_curve, read_run
    from scaling.paths import StudyPaths, open_study
    from scaling.planning.planfile import PlanFile
    from scaling.runs.readers import read_runs
    from scaling.runs.store import read_ledger, read_totals
    from scaling.scoring import Comparison, compare_study, comparisons_under

    run = "whole/runs/gpt2-112k-l2-d48-s1"
    rung = f"{run}/rung-1332224"
    names = {"run": "Name", "loss": "eval/loss"}
    yield Door(name="read_runs csv", file="runs.csv", kind="csv", ask=lambda f: read_runs(f / "runs.csv"))
    yield Door(
        name="read_runs tolerant",
        file="runs.csv",
        kind="csv",
        ask=lambda f: read_runs(f / "runs.csv", max_bad_share=1),
    )
    yield Door(
        name="read_runs wandb", file="wandb.csv", kind="csv",
        ask=lambda f: read_runs(f / "wandb.csv", column_names=names, loss_unit="bits"),
    )  # fmt: skip
    for file, kind in (
        ("semi.csv", "csv"),
        ("runs.json", "json"),
        ("utf16.csv", "binary"),
        ("api.csv", "csv"),
    ):
        yield Door(
            name=f"read_runs {file}", file=file, kind=kind, ask=lambda f, file=file: read_runs(f / file)
        )
    yield Door(
        name="read_runs jsonl", file="table.jsonl", kind="jsonl", ask=lambda f: read_runs(f / "table.jsonl")
    )
    yield Door(
        name="read_runs study",
        file="study/runs.jsonl",
        kind="jsonl",
        ask=lambda f: read_runs(f / "study" / "runs.jsonl"),
    )
    yield Door(
        name="read_runs trainer",
        file="trainer/trainer_state.json",
        kind="json",
        ask=lambda f: read_runs(f / "trainer"),
    )
    yield Door(
        name="read_runs config",
        file="trainer/config.json",
        kind="json",
        ask=lambda f: read_runs(f / "trainer"),
    )
    yield Door(name="law.json", file="law.json", kind="json", ask=_law)
    yield Door(name="plan.json", file="plan.json", kind="json", ask=_plan)
    yield Door(
        name="ladder.json", file="ladder.json", kind="json", ask=lambda f: PlanFile.read(f / "ladder.json")
    )
    yield Door(
        name="comparison.json", file="study/comparison.json", kind="json",
        ask=lambda f: (Comparison.read(f / "study" / "comparison.json"), comparisons_under(f / "study")),
    )  # fmt: skip
    yield Door(name="study.json", file="study/study.json", kind="json", ask=lambda f: open_study(f / "study"))
    yield Door(name="machine.json", file="machine.json", kind="json", ask=_machine)
    yield Door(name="hardware.json", file="hardware.json", kind="json", ask=_own_hardware)
    yield Door(
        name="ledger",
        file="study/ledger.jsonl",
        kind="jsonl",
        ask=lambda f: read_ledger(f / "study/ledger.jsonl"),
    )
    yield Door(
        name="ledger totals",
        file="study/ledger.jsonl",
        kind="jsonl",
        ask=lambda f: read_totals(f / "study/ledger.jsonl"),
    )
    yield Door(
        name="run's ledger",
        file=f"{run}/ledger.jsonl",
        kind="jsonl",
        ask=lambda f: read_totals(f / "whole/ledger.jsonl"),
    )
    yield Door(
        name="underway.json", file=f"{run}/underway.json", kind="json", ask=lambda f: read_run(f / run)
    )
    yield Door(
        name="metrics.jsonl", file=f"{run}/trunk/metrics.jsonl", kind="jsonl",
        ask=lambda f: read_curve(f / run / "trunk" / "metrics.jsonl"),
    )  # fmt: skip
    yield Door(
        name="rung.json of a run", file=f"{rung}/rung.json", kind="json", ask=lambda f: read_run(f / run)
    )
    for name, file, kind in (
        ("metrics", f"{run}/trunk/metrics.jsonl", "jsonl"), ("plan", f"{run}/underway.json", "json"),
        ("seal", "whole/plan.json", "json"),
        ("rung", f"{rung}/rung.json", "json"), ("branch", f"{rung}/metrics.jsonl", "jsonl"),
    ):  # fmt: skip
        yield Door(name=f"watch {name}", file=file, kind=kind, ask=lambda f: watch(f / run), share=0.1)
    for name in ("csv", "md", "jsonl"):
        file = {"csv": "runs.csv", "md": "card.md", "jsonl": "table.jsonl"}[name]
        yield Door(
            name=f"audit {name}",
            file=file,
            kind=name,
            ask=lambda f, file=file: audit(f / file),
            share=0.003 if name == "jsonl" else 1.0,
        )
    for file, kind in (
        ("plan.json", "json"),
        ("runs.jsonl", "jsonl"),
        ("law.json", "json"),
        ("ledger.jsonl", "jsonl"),
    ):
        yield Door(
            name=f"compare_study {file}", file=f"study/{file}", kind=kind,
            ask=lambda f: compare_study(StudyPaths(f / "study")), share=0.01,
        )  # fmt: skip
    if find_spec("matplotlib"):
        from plots.study_data import load_study

        for file, kind in (
            ("study.json", "json"), ("runs.jsonl", "jsonl"), ("law.json", "json"), ("plan.json", "json"), ("ladder.json", "json"),
            ("comparison.json", "json"), ("ledger.jsonl", "jsonl"),
        ):  # fmt: skip
            yield Door(
                name=f"load_study {file}",
                file=f"study/{file}",
                kind=kind,
                ask=lambda f: load_study(f / "study"),
                share=0.1,
            )
        yield Door(
            name="load_study metrics", file=f"{run}/trunk/metrics.jsonl", kind="jsonl", ask=lambda f: load_study(f / "whole"),
            share=0.1,
        )  # fmt: skip


RUN = "whole/runs/gpt2-112k-l2-d48-s1"
NEXT = "--study @study --target 1M --tokens 20M"
PLOT = "--study @study --out @plot.csv --yes"
VERBS = (  # share, file, how it is spoilt, a command line in which @ stands before a path of the bench
    (0.1, "law.json", "json", "predict @law.json params=300k tokens=3M --json"),
    (0.1, "law.json", "json", "plan --budget 1e14 --law @law.json"),
    (0.1, "law.json", "json", "design --compute 1e14 --law @law.json"),
    (0.1, "law.json", "json", "pilot --target 30M --tokens 200M --budget 30% --law @law.json"),
    (0.003, "ladder.json", "json", "simulate @ladder.json --target 1M --tokens 20M --replicates 2"),
    (0.1, "study/runs.jsonl", "jsonl", f"next {NEXT}"),
    (0.1, "study/law.json", "json", f"next {NEXT}"),
    (0.01, "runs.csv", "csv", "fit @runs.csv --bootstrap 0 --json"),
    (0.01, "wandb.csv", "csv", "fit @wandb.csv --bootstrap 0 --columns run=Name,loss=eval/loss"),
    (0.01, "table.jsonl", "jsonl", "backtest @table.jsonl --holdout params>5e5 --json"),
    (0.1, "card.md", "md", "audit @card.md"),
    (0.1, "runs.csv", "csv", "audit @runs.csv --json"),
    (0.1, f"{RUN}/trunk/metrics.jsonl", "jsonl", f"watch @{RUN} --once"),
    (0.1, f"{RUN}/underway.json", "json", f"watch @{RUN} --json"),
    (0.1, f"{RUN}/rung-1332224/rung.json", "json", "table @whole --all"),
    (0.1, f"{RUN}/run.json", "json", "table @whole --all"),
    (0.1, "study/comparison.json", "json", "compare --under @study"),
    (0.1, "study/study.json", "json", "compare --under @study"),
    (0.003, "study/runs.jsonl", "jsonl", f"plot learning {PLOT}"),
    (0.003, "study/law.json", "json", f"plot surface {PLOT}"),
    (0.003, "study/comparison.json", "json", "report --study @study --out @report.json --format json --yes"),
    (0.003, "study/study.json", "json", "report --study @study --out @report.tex --format latex --yes"),
)


def _verbs() -> Iterator[Door]:
    def asking(line: str) -> Callable[[Path], None]:
        def ask(folder: Path) -> None:
            command(*(str(folder / word[1:]) if word.startswith("@") else word for word in line.split()))

        return ask

    for share, file, kind, line in VERBS:
        yield Door(name=f"{line.split()[0]} {file}", file=file, kind=kind, ask=asking(line), share=share)


def _event_doors() -> Iterator[Door]:
    from scaling.runs.readers import read_runs

    yield Door(
        name="read_runs events",
        file="events/events.out.tfevents.1",
        kind="binary",
        ask=lambda f: read_runs(f / "events"),
    )


def _training() -> Iterator[Door]:
    from train.artifacts import history
    from train.config import Settings
    from train.data import DataManifest, TokenizedText
    from train.data.readers import SourceText
    from train.data.split import find_cut
    from train.data.tokenizer import load_tokenizer
    from train.evaluate import mean_train_loss
    from train.metrics import truncate_after
    from train.model.pretrained import checkpoint_spec
    from train.model_card import rows
    from train.rung import RungFile

    run = "whole/runs/gpt2-112k-l2-d48-s1"
    trunk, branch = f"{run}/trunk", f"{run}/rung-1332224"

    def text(folder: Path) -> None:
        data = folder / "study" / "data"
        found = TokenizedText.open(data, DataManifest.read(data / "data.json"), 32)
        found.train.windows(np.arange(min(2, len(found.train))))

    yield Door(name="profile.yaml", file="profile.yaml", kind="yaml", ask=_profile)
    yield Door(name="data.json", file="study/data/data.json", kind="json", ask=text)
    yield Door(name="shard", file="study/data/train-00000.bin", kind="binary", ask=text)
    yield Door(
        name="run.json",
        file=f"{run}/run.json",
        kind="json",
        ask=lambda f: Settings.read(f / run / "run.json"),
    )
    yield Door(
        name="rung.json",
        file=f"{branch}/rung.json",
        kind="json",
        ask=lambda f: (RungFile.read(f / branch / "rung.json"), rows([f / "whole"])),
    )
    yield Door(
        name="config.json", file="model/config.json", kind="json", ask=lambda f: checkpoint_spec(f / "model")
    )
    yield Door(
        name="tokenizer.json",
        file="tokenizer.json",
        kind="json",
        ask=lambda f: load_tokenizer(str(f / "tokenizer.json")),
    )
    yield Door(
        name="text.txt",
        file="text.txt",
        kind="text",
        ask=lambda f: find_cut(SourceText("text.txt", f / "text.txt"), 0.1),
    )
    yield Door(
        name="text.jsonl",
        file="text.jsonl",
        kind="jsonl",
        ask=lambda f: find_cut(SourceText("text.jsonl", f / "text.jsonl"), 0.1),
    )
    yield Door(
        name="history",
        file=f"{trunk}/metrics.jsonl",
        kind="jsonl",
        ask=lambda f: history(f / branch, f / trunk),
    )
    yield Door(
        name="mean_train_loss", file=f"{trunk}/metrics.jsonl", kind="jsonl",
        ask=lambda f: mean_train_loss([(f / trunk, 500), (f / branch, 900)], 10, 600),
    )  # fmt: skip
    yield Door(
        name="truncate_after",
        file=f"{branch}/metrics.jsonl",
        kind="jsonl",
        ask=lambda f: truncate_after(f / branch / "metrics.jsonl", 5),
    )

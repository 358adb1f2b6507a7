"""What a checkpoint costs a run: the pause when it is written beside the training, against at once, and its share of an interval.

Real steps of a real model, saves of both kinds in turn with as many steps between; medians, as a rival process disturbs both.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before this folder, where a train.py lies

import numpy as np
import torch

from scaling.runs.store import WorkEntry
from train.checkpoint import step_folder
from train.config import Settings, TrainConfig
from train.data.prepare import prepare
from train.loop import Session, start, train_step
from train.saver import Saver

SHAPE = {
    "architecture": "gpt2", "n_layer": 4, "n_head": 4, "n_embd": 256, "n_inner": 1024, "n_positions": 256, "vocab_size": 8192,
}  # fmt: skip
BATCH = 8
STEPS = 3  # between saves
LEAST = 3  # saves of each kind, however slow the machine
INTERVAL = float(TrainConfig.model_fields["save_every"].default)  # seconds


def session_of(dtype: str) -> Session:
    """The model of the speed benchmark, 5M parameters."""
    settings = Settings(
        run="checkpoint", member="checkpoint", group="", **SHAPE, eos_token_id=0, seed=0, batch_size=BATCH, micro_batch=BATCH,
        lr=1e-3, warmup=0, schedule="wsd", cooldown=0.2, weight_decay=0.1, beta1=0.9, beta2=0.99, grad_clip=1.0, dropout=0.0,
        init_std=0.02, dtype=dtype, data_sha256="",
    )  # fmt: skip
    return start(settings, "cuda" if torch.cuda.is_available() else "cpu")


def measure(folder: Path, saves: int, dtype: str, seconds: float) -> dict[str, list[float]]:
    """Seconds: of a step, of the pause of each kind of save, and what one beside the training adds to the steps after it."""
    session = session_of(dtype)
    text = folder / "text.txt"
    text.write_text("".join(f"line {number} of a text that becomes a tokenizer\n" for number in range(2000)))
    prepare(str(text), folder / "data", vocab_size=300)
    windows = np.random.default_rng(0).integers(0, 8192, (BATCH, 257))
    examples = torch.from_numpy(windows).to(session.device)
    savers = {
        name: Saver(
            tokenizer=folder / "data" / "tokenizer.json", ledger=folder / "ledger.jsonl", background=aside
        )
        for name, aside in (("at once", False), ("beside", True))
    }

    def steps() -> float:
        began = time.perf_counter()
        for _ in range(STEPS):
            loss, _ = train_step(session, examples, 1e-3)
        float(loss)
        return time.perf_counter() - began

    found: dict[str, list[float]] = {name: [] for name in ("step", "at once", "beside", "after beside")}
    began = time.monotonic()
    steps()
    for number in range(saves):
        if number >= LEAST and time.monotonic() - began > seconds:
            break
        for name, saver in savers.items():
            quiet = steps()
            work = WorkEntry(
                run="checkpoint", part="trunk", from_step=0, to_step=session.step, tokens=0, flops=0.0, wall_s=0.0,
                settings_sha256="", at="",
            )  # fmt: skip
            asked = time.perf_counter()
            saver.save(
                session, step_folder(folder / name.replace(" ", "-"), session.step), work, starts_branch=False
            )
            found[name].append(time.perf_counter() - asked)
            disturbed = steps()
            if name == "beside":
                waited = time.perf_counter()
                saver.wait()  # what is still to be written then would have slowed later steps at most by its own length
                found["after beside"].append(disturbed - quiet + time.perf_counter() - waited)
            found["step"].append(quiet / STEPS)
    return found


def main() -> int:
    """Print the bars; exit status 1 under --check where one fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="taken for the benchmarks' common form; nothing is read")
    parser.add_argument("--saves", type=int, default=8, help="of each kind")
    parser.add_argument(
        "--seconds", type=float, default=90, help=f"no new save after these, once there are {LEAST}"
    )
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument(
        "--folder", type=Path, help="where checkpoints are written (default: the system's temporary folder)"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        found = measure(Path(folder), options.saves, options.dtype, options.seconds)
    median = {name: statistics.median(values) for name, values in found.items()}
    cost = median["beside"] + max(0.0, median["after beside"])
    bars = [
        {"name": "pause of a save beside the training / at once", "value": median["beside"] / median["at once"], "at_most": 0.5},
        {"name": f"share of the default interval, {INTERVAL:g} s, that a save costs", "value": cost / INTERVAL, "at_most": 0.02},
    ]  # fmt: skip
    for bar in bars:
        bar["holds"] = bar["value"] <= bar["at_most"]
    facts = {f"{name}, ms": 1e3 * value for name, value in median.items()}
    facts["saves of each kind"] = float(len(found["beside"]))
    if options.json:
        print(json.dumps({"bars": bars, "facts": facts}, indent=2))
    else:
        for bar in bars:
            print(
                f"{bar['name']:62} {bar['value']:8.4f}  at most {bar['at_most']:g}  {'holds' if bar['holds'] else 'FAILS'}"
            )
        print(", ".join(f"{name} {value:.1f}" for name, value in facts.items()))
    return 1 if options.check and not all(bar["holds"] for bar in bars) else 0


if __name__ == "__main__":
    sys.exit(main())

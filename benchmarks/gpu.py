"""One GPU in eight minutes: gpt2-124M and 355M at context 1024 in bf16, beside nanoGPT's loop and the Trainer.

    python benchmarks/gpu.py [--out docs/gpu.md] [--minutes 8] [--check]
    python benchmarks/gpu.py --device cpu --smoke         the same code at toy size, to see that it runs

Each loop is a process of its own (benchmarks/racers.py) at the same micro-batch and context, one after another: a GPU's
memory holds one. MFU = exact training FLOPs per second / the dense bf16 peak that is named. What would not end in time is
left out, and said so.
"""

import argparse
import json
import os
import select
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ["PYTHONPATH"] = sys.path[0]

from families import ModelSpec, accounting, train_flops_per_token
from scaling.hardware import recognise

MEMBERS = {
    "gpt2-124M": {
        "n_layer": 12,
        "n_embd": 768,
        "n_head": 12,
        "n_positions": 1024,
        "vocab": 50257,
        "batch": 32,
    },
    "gpt2-355M": {
        "n_layer": 24,
        "n_embd": 1024,
        "n_head": 16,
        "n_positions": 1024,
        "vocab": 50257,
        "batch": 16,
    },
}
TOY = {"n_layer": 1, "n_embd": 32, "n_head": 2, "n_positions": 16, "vocab": 300, "batch": 2}
OURS = {
    "ours, flash": {"dtype": "bf16", "compile": True, "attention": "flash"},
    "ours, cuDNN": {"dtype": "bf16", "compile": True, "attention": "cudnn"},
}
PEERS = {
    "nanoGPT, compiled bf16": {"kind": "nanogpt", "compile": True, "dtype": "bf16"},
    "Trainer, bf16": {"kind": "trainer", "best": True},
}
GOALS = {
    "gpt2-124M": (0.45, 1.25, 1.8),
    "gpt2-355M": (0.50, None, None),
}  # MFU, over nanoGPT, over the Trainer


class Late(Exception):
    """No answer in time."""


def seconds_per_step(race, steps, rounds, deadline):
    """Median over rounds, after the loop has compiled and warmed up; and what the loop says of itself."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("racers.py")), json.dumps(race)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip

    def ask(count):
        process.stdin.write(f"{count}\n")
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], max(0.1, deadline - time.monotonic()))
        if not ready:
            raise Late
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(process.stderr.read().strip().splitlines()[-1:] or ["ended without a word"])
        return json.loads(line)

    try:
        ask(3)
        answers = [ask(steps) for _ in range(rounds)]
    finally:
        process.kill()
        process.communicate()
    return statistics.median(answer["seconds"] / steps for answer in answers), answers[-1]


def peak_of(device):
    """The GPU's name and dense bf16 peak; of a CPU nothing is claimed."""
    if device == "cpu":
        return "CPU", None
    import torch

    name = torch.cuda.get_device_name()
    found = recognise(name)[1]
    return name, None if found is None else found.training_peak


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--smoke", action="store_true", help="toy sizes: that it runs, not how fast")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--out", type=Path, help="write the table here too")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    deadline = time.monotonic() + 60 * options.minutes - 15
    name, peak = peak_of(options.device)
    rows, bars, left_out = [], [], []
    members = dict.fromkeys(list(MEMBERS)[:1], TOY) if options.smoke else MEMBERS
    for member, shape in members.items():
        loops = {key: {"kind": "ours", "engine": engine} for key, engine in OURS.items()}
        if member == "gpt2-124M":
            loops = {**loops, **PEERS}
        if options.smoke and options.device == "cpu":  # a CPU has neither backend
            plain = {"dtype": "bf16", "compile": True, "attention": "eager"}
            loops = {"ours": {"kind": "ours", "engine": plain}, **PEERS}
        spec = ModelSpec(
            **{key: shape[key] for key in ("n_layer", "n_embd", "n_head", "n_positions")},
            vocab_size=shape["vocab"],
        )
        tokens = shape["batch"] * shape["n_positions"]
        rates = {}
        for loop, race in loops.items():
            race = {**shape, **race, "device": options.device}
            try:
                steps, rounds = (1, 1) if options.smoke else (10, 3)
                step, facts = seconds_per_step(race, steps, rounds, deadline)
            except Late:
                left_out.append(f"{member}, {loop}: no time left")
                continue
            except RuntimeError as error:
                left_out.append(f"{member}, {loop}: {error}")
                continue
            rates[loop] = tokens / step
            flops = train_flops_per_token(spec) * tokens / step
            rows.append(
                {
                    "member": member,
                    "loop": loop,
                    "ms": 1e3 * step,
                    "tokens_per_s": tokens / step,
                    "mfu": None if peak is None else flops / peak,
                    "memory_gb": facts.get("memory", 0) / 1e9,
                    "engine": facts.get("engine", ""),
                }
            )
        own = max((rate for loop, rate in rates.items() if loop.startswith("ours")), default=None)
        if own is None or member not in GOALS or options.smoke:
            continue
        mfu, nano, trainer = GOALS[member]
        if peak is not None:
            bars.append({"name": f"{member}: MFU of {peak / 1e12:.0f} TFLOP/s", "at_least": mfu,
                         "value": own * train_flops_per_token(spec) / peak})  # fmt: skip
        for peer, least in (("nanoGPT, compiled bf16", nano), ("Trainer, bf16", trainer)):
            if least is not None and peer in rates:
                bars.append(
                    {"name": f"{member}: ours / {peer}", "at_least": least, "value": own / rates[peer]}
                )
    for bar in bars:
        bar["holds"] = bar["value"] >= bar["at_least"]
    text = as_markdown(name, peak, rows, bars, left_out, members)
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    print(json.dumps({"device": name, "peak": peak, "rows": rows, "bars": bars, "left_out": left_out}, indent=2)
          if options.json else text)  # fmt: skip
    if options.smoke:
        return 1 if left_out else 0
    return 1 if options.check and (left_out or not bars or not all(bar["holds"] for bar in bars)) else 0


def as_markdown(name, peak, rows, bars, left_out, members):
    """The table that docs/ keeps."""
    of = (
        ""
        if peak is None
        else f"; MFU of its dense bf16 peak, {peak / 1e12:.0f} TFLOP/s, exact training FLOPs"
    )
    lines = [f"Measured on one {name}{of}.", ""]
    for member, shape in members.items():
        spec = ModelSpec(
            **{key: shape[key] for key in ("n_layer", "n_embd", "n_head", "n_positions")},
            vocab_size=shape["vocab"],
        )
        lines += [
            f"**{member}**: {accounting.params(spec):,} parameters, context {shape['n_positions']}, "
            f"{shape['batch']} sequences a step",
            "",
            "| loop | engine | ms a step | tokens/s | MFU | GB |",
            "|---|---|---|---|---|---|",
        ]
        for row in rows:
            if row["member"] == member:
                mfu = "" if row["mfu"] is None else f"{row['mfu']:.1%}"
                lines.append(f"| {row['loop']} | {row['engine']} | {row['ms']:.1f} | {row['tokens_per_s']:,.0f} | {mfu} | "
                             f"{row['memory_gb']:.1f} |")  # fmt: skip
        lines.append("")
    lines += [f"- {bar['name']}: {bar['value']:.3f}, at least {bar['at_least']:g}: {'holds' if bar['holds'] else 'FAILS'}"
              for bar in bars]  # fmt: skip
    lines += [f"- left out: {one}" for one in left_out]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())

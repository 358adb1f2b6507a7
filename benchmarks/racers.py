"""One training loop in a process of its own, stepped on command: ours, or a peer written from its public description.

    python benchmarks/racers.py RACE     RACE is a JSON object: name, vocab, n_layer, n_embd, n_head, n_positions, batch, …

It says "ready", then answers each number of steps on its input with the seconds they took.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

# As the command line sets them, for every racer: one that waits must not burn the cores of the one that runs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "3000")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

LONG = 20_000  # steps of the run that the engine is chosen for


def tokens_of(race):
    """Random token ids on disk, 16 bits: enough for 64 batches."""
    import numpy as np

    folder = Path(tempfile.mkdtemp(prefix="race-"))
    path = folder / "train-00000.bin"
    count = 64 * race["batch"] * race["n_positions"] + 1
    np.random.default_rng(0).integers(0, race["vocab"], count).astype("<u2").tofile(path)
    return folder, path, count


def nanogpt(race):
    """karpathy/nanoGPT's model and loop: pre-norm blocks without biases, exact GELU, fused attention, tied head,
    AdamW in two groups, clipping at 1.0, a random batch from a memory map. Eager fp32, or compiled under bf16 autocast.
    """
    import numpy as np
    import torch
    from torch import nn
    from torch.nn import functional

    d, heads, vocab, T = race["n_embd"], race["n_head"], race["vocab"], race["n_positions"]

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.ln_1, self.ln_2 = nn.LayerNorm(d, bias=False), nn.LayerNorm(d, bias=False)
            self.c_attn, self.c_proj = nn.Linear(d, 3 * d, bias=False), nn.Linear(d, d, bias=False)
            self.c_fc, self.mlp_proj = nn.Linear(d, 4 * d, bias=False), nn.Linear(4 * d, d, bias=False)

        def forward(self, x):
            b, t, _ = x.shape
            q, k, v = (
                y.view(b, t, heads, d // heads).transpose(1, 2)
                for y in self.c_attn(self.ln_1(x)).split(d, dim=2)
            )
            y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.c_proj(y.transpose(1, 2).contiguous().view(b, t, d))
            return x + self.mlp_proj(functional.gelu(self.c_fc(self.ln_2(x))))

    class GPT(nn.Module):
        def __init__(self):
            super().__init__()
            self.wte, self.wpe = nn.Embedding(vocab, d), nn.Embedding(T, d)
            self.h = nn.ModuleList(Block() for _ in range(race["n_layer"]))
            self.ln_f, self.lm_head = nn.LayerNorm(d, bias=False), nn.Linear(d, vocab, bias=False)
            self.wte.weight = self.lm_head.weight
            for weight in self.parameters():
                if weight.ndim == 2:
                    nn.init.normal_(weight, std=0.02)

        def forward(self, ids, targets):
            x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1], device=ids.device))
            for block in self.h:
                x = block(x)
            logits = self.lm_head(self.ln_f(x))
            return functional.cross_entropy(logits.view(-1, vocab), targets.view(-1), ignore_index=-1)

    device = race.get("device", "cpu")
    torch.manual_seed(0)
    _, path, _ = tokens_of(race)
    model = GPT().to(device)
    groups = [
        {"params": [w for w in model.parameters() if w.ndim >= 2], "weight_decay": 0.1},
        {"params": [w for w in model.parameters() if w.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95), fused=device == "cuda")
    forward = torch.compile(model) if race.get("compile") else model
    autocast = torch.autocast(device, dtype=torch.bfloat16, enabled=race.get("dtype") == "bf16")
    rng = np.random.default_rng(0)

    def batch():
        data = np.memmap(path, dtype=np.uint16, mode="r")
        starts = rng.integers(0, len(data) - T - 1, race["batch"])
        x = torch.stack([torch.from_numpy(data[i : i + T].astype(np.int64)) for i in starts])
        y = torch.stack([torch.from_numpy(data[i + 1 : i + 1 + T].astype(np.int64)) for i in starts])
        if device == "cuda":
            return x.pin_memory().to(device, non_blocking=True), y.pin_memory().to(device, non_blocking=True)
        return x, y

    def step():
        x, y = batch()
        with autocast:
            loss = forward(x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step, {}


def ours(race):
    """The engine itself, at what auto means here for a long run, or at the engine that the race names."""
    import torch

    from families import ModelSpec
    from train.backend import BackendRequest, select_backend
    from train.config import SHAPE_FIELDS, Settings
    from train.data import Shard, Tokens
    from train.loop import start, to_device, train_step
    from train.model.objective import batch_of
    from train.runtime import frozen_collector

    device = race.get("device", "cpu")
    spec = ModelSpec(
        n_layer=race["n_layer"], n_head=race["n_head"], n_embd=race["n_embd"], n_positions=race["n_positions"],
        vocab_size=race["vocab"],
    )  # fmt: skip
    settings = Settings(
        run="race", member="race", group="race", **{name: getattr(spec, name) for name in SHAPE_FIELDS}, eos_token_id=0,
        seed=0, batch_size=race["batch"], micro_batch=race["batch"], lr=1e-4, warmup=0, schedule="wsd", cooldown=0.2,
        weight_decay=0.1, beta1=0.9, beta2=0.95, grad_clip=1.0, dropout=0.0, init_std=0.02, dtype="fp32", data_sha256="",
    )  # fmt: skip
    wanted = BackendRequest(**race.get("engine", {}))
    engine = select_backend(
        wanted,
        settings,
        steps=LONG,
        expected=3600.0,
        device=device,
        log=lambda line: print(line, file=sys.stderr),
    )
    settings = settings.model_copy(update=engine.model_dump())
    folder, path, count = tokens_of(race)
    shard = Shard(name=path.name, tokens=count)
    tokens = Tokens.open(folder, (shard,), "<u2", race["n_positions"])
    session = start(settings, device)
    frozen_collector().__enter__()
    loading = [0.0]

    def step():
        began = time.perf_counter()
        examples = to_device(batch_of(settings, tokens, session.step), device)
        loading[0] += time.perf_counter() - began
        train_step(session, examples, 1e-4)

    return step, {"engine": engine.name, "threads": torch.get_num_threads(), "loading": loading}


def trainer(race):
    """transformers' Trainer on the same tokens: at run_clm's defaults, or at the best setting known for a CPU."""
    import numpy as np
    import torch
    import transformers
    from torch.utils.data import Dataset

    _, path, _ = tokens_of(race)
    T = race["n_positions"]

    class Blocks(Dataset):
        def __init__(self):
            self.data = np.memmap(path, dtype=np.uint16, mode="r")

        def __len__(self):
            return 10**7

        def __getitem__(self, index):
            at = (index * T) % (len(self.data) - T)
            ids = torch.from_numpy(self.data[at : at + T].astype(np.int64))
            return {"input_ids": ids, "labels": ids}

    best = race.get("best", False)
    config = transformers.GPT2Config(
        n_layer=race["n_layer"], n_embd=race["n_embd"], n_head=race["n_head"], n_positions=T, vocab_size=race["vocab"],
        **({"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0} if best else {}),
    )  # fmt: skip
    device = race.get("device", "cpu")
    arguments = transformers.TrainingArguments(
        output_dir=tempfile.mkdtemp(prefix="race-"), per_device_train_batch_size=race["batch"], max_steps=10**6,
        report_to=[], save_strategy="no", disable_tqdm=True, logging_steps=500, use_cpu=device == "cpu",
        **({"bf16": True, "torch_compile": race.get("compile", True), "dataloader_pin_memory": device == "cuda"} if best else {}),
    )  # fmt: skip

    class OnCommand(transformers.TrainerCallback):
        """Waits for a number of steps, and answers with the time they took, loading included."""

        left, began = 0, 0.0

        def on_step_begin(self, *_, **__):
            if not self.left:
                self.left = next_count()
                self.began = time.perf_counter()

        def on_step_end(self, *_, **__):
            self.left -= 1
            if not self.left:
                if device == "cuda":
                    torch.cuda.synchronize()
                answer(time.perf_counter() - self.began, {})

    model = transformers.GPT2LMHeadModel(config)
    made = transformers.Trainer(model=model, args=arguments, train_dataset=Blocks(), callbacks=[OnCommand()])
    made.remove_callback(transformers.PrinterCallback)
    return made.train, None


def next_count():
    """How many steps are wanted; the end of the input ends the process."""
    line = sys.stdin.readline()
    if not line.strip():
        os._exit(0)
    return int(line)


def answer(seconds, facts):
    """One line."""
    sys.__stdout__.write(json.dumps({"seconds": seconds, **facts}) + "\n")
    sys.__stdout__.flush()


def main():
    """Step on command."""
    race = json.loads(sys.argv[1])
    sys.stdout = sys.stderr
    import torch

    torch.set_num_threads(race.get("threads") or len(os.sched_getaffinity(0)))
    step, facts = {"nanogpt": nanogpt, "ours": ours, "trainer": trainer}[race["kind"]](race)
    if facts is None:
        step()
        return
    while True:
        count = next_count()
        began = time.perf_counter()
        for _ in range(count):
            step()
        if race.get("device") == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        known = {key: value for key, value in facts.items() if key != "loading"}
        if "loading" in facts:
            known["loading"], facts["loading"][0] = facts["loading"][0], 0.0
        if race.get("device") == "cuda":
            known["memory"] = torch.cuda.max_memory_allocated()
        answer(seconds, known)


if __name__ == "__main__":
    main()

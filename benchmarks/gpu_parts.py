"""The parts of benchmarks/gpu.py: each measures one thing on one GPU and says each finding as a line of JSON.

On a CPU with smoke sizes every part runs too, to see that it does.
"""

import gc
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from families import train_flops_per_token
from families.accounting import training_memory
from scaling.devices import recognise
from train.backend import BackendRequest, random_examples
from train.config import GRAPHS, Settings
from train.loop import Session, gradients, start, train_step
from train.model.flash3 import no_flash3
from train.speed import GpuRates, copy_speed, gpu_step_seconds, matmul_speed

SHAPES = {"124M": (12, 768, 12), "355M": (24, 1024, 16), "774M": (36, 1280, 20), "1558M": (48, 1600, 25)}

FUSED = {"dtype": "bf16", "compile": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Where and how large a part runs. device: "cuda" or "cpu"; smoke: toy sizes."""

    device: str
    smoke: bool

    @property
    def kinds(self) -> tuple[str, ...]:
        """Attention backends to compare, best first."""
        if self.device == "cpu":
            return ("sdpa",)
        return ("cudnn", "flash", *(() if no_flash3(self.device, "bf16") else ("flash3",)))

    @property
    def fused(self) -> dict[str, Any]:
        """The engine of most parts: compiled bf16; in a smoke test of a CPU, where compiling takes seconds, not compiled."""
        return {**FUSED, "compile": not self.smoke}

    def size(self, real: int, toy: int) -> int:
        """One of two sizes."""
        return toy if self.smoke else real

    def wait(self) -> None:
        """Wait for the device."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], Any], rounds: int = 10, warm: int = 3) -> float:
        """Median seconds of a call."""
        times = []
        for _ in range(min(warm, self.size(warm, 1))):
            work()
        for _ in range(self.size(rounds, 2)):
            self.wait()
            began = time.perf_counter()
            work()
            self.wait()
            times.append(time.perf_counter() - began)
        return sorted(times)[len(times) // 2]

    def normal(self, *shape: int, dtype: torch.dtype = torch.bfloat16, grad: bool = False) -> torch.Tensor:
        """A random tensor on the device."""
        return torch.randn(*shape, device=self.device, dtype=dtype, requires_grad=grad)

    def peak(self) -> float | None:
        """The catalogue's dense bf16 FLOP/s of this GPU; None where it is not known."""
        if self.device == "cpu":
            return None
        found = recognise(torch.cuda.get_device_name())[1]
        return None if found is None else found.training_peak

    def settings(self, size: str, micro: int, batch: int, **engine: Any) -> Settings:
        """A GPT-2 of a size, at context 1024, or a toy."""
        layers, width, heads = (1, 32, 2) if self.smoke else SHAPES[size]
        return Settings(
            run="suite", member=size, group="suite", architecture="gpt2", n_layer=layers, n_head=heads, n_embd=width,
            n_inner=4 * width, n_positions=self.size(1024, 32), vocab_size=self.size(50257, 300), eos_token_id=0, seed=0,
            batch_size=batch, micro_batch=micro, lr=1e-4, warmup=0, schedule="wsd", cooldown=0.2, weight_decay=0.1,
            beta1=0.9, beta2=0.95, grad_clip=1.0, dropout=0.0, init_std=0.02, data_sha256="", **engine,
        )  # fmt: skip


Finding = dict[str, Any]


def machine(bench: Bench) -> Iterator[Finding]:
    """Versions, memory bandwidth, and large products in the formats that training uses."""
    import transformers

    cuda = bench.device == "cuda"
    name = torch.cuda.get_device_name() if cuda else "cpu"
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    yield {"name": name, **versions, "python": sys.version.split()[0]}
    if cuda:
        free, total = torch.cuda.mem_get_info()
        yield {"free_gb": free / 1e9, "total_gb": total / 1e9}
        yield {"copy_tb_s": copy_speed("cuda") / 1e12}
    for dtype in (torch.bfloat16, torch.float32):
        yield {"matmul": str(dtype), "tflops": matmul_speed(bench.device, dtype) / 1e12}
    for n in (1024, 4096) if cuda else (bench.size(1024, 128),):
        product = partial(torch.matmul, bench.normal(n, n), bench.normal(n, n))
        yield {"matmul": str(torch.bfloat16), "n": n, "tflops": 2 * n**3 / bench.seconds(product) / 1e12}


def gemm(bench: Bench) -> Iterator[Finding]:
    """Products of a step: forward, by the input (dX) and by the weights (dW)."""
    for size in ("124M", "355M", "1558M"):
        d = bench.size(SHAPES[size][1], 32)
        head = bench.size(50304, 320)
        for name, k, n in (
            ("qkv", d, 3 * d),
            ("proj", d, d),
            ("fc", d, 4 * d),
            ("out", 4 * d, d),
            ("head", d, head),
        ):
            m = bench.size(32768 if name == "head" else 65536, 64)
            x, w, g = bench.normal(m, k), bench.normal(k, n), bench.normal(m, n)
            works = {
                "forward": partial(torch.matmul, x, w),
                "dX": partial(torch.matmul, g, w.t()),
                "dW": partial(torch.matmul, x.t(), g),
            }
            yield {
                "size": size,
                "name": name,
                **{what: 2 * m * k * n / bench.seconds(work) / 1e12 for what, work in works.items()},
            }


def attention(bench: Bench) -> Iterator[Finding]:
    """Causal attention forward and backward by each backend, or why it cannot."""
    count, length = bench.size(64, 2), bench.size(1024, 32)
    for heads, width in ((12, 64), (25, 64), (16, 128)):
        q, k, v = (bench.normal(count, heads, length, width, grad=True) for _ in range(3))
        flops = 2 * count * heads * length * length * width  # two products, the causal half
        for backend in ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION"):
            facts = {"backend": backend, "heads": heads, "width": width}
            try:
                with sdpa_kernel(getattr(SDPBackend, backend)):
                    run = partial(functional.scaled_dot_product_attention, q, k, v, is_causal=True)
                    forward, out = bench.seconds(run), run()
                grad = torch.randn_like(out)
                back = bench.seconds(partial(torch.autograd.grad, out, (q, k, v), grad, retain_graph=True))
                yield {**facts, "forward": flops / forward / 1e12, "backward": 2.5 * flops / back / 1e12}
            except RuntimeError as error:
                yield {**facts, "error": str(error)[:150]}


def correct(bench: Bench) -> Iterator[Finding]:
    """Loss and gradients of every engine against fp32 on two layers."""
    engines: dict[str, dict[str, Any]] = {
        "fp32": {"dtype": "fp32"},
        "bf16": {"dtype": "bf16"},
        "bf16 residual": {**bench.fused, "residual": "bf16"},
        **{f"bf16 compiled {kind}": {**FUSED, "attention": kind} for kind in bench.kinds},
    }
    base: tuple[float, dict[str, torch.Tensor]] | None = None
    for name, engine in engines.items():
        settings = bench.settings("124M", 2, 4, **engine)
        settings = settings.model_copy(update={"n_layer": min(2, settings.n_layer)})
        session = start(settings, bench.device)
        loss = float(gradients(session, random_examples(settings, 4).to(bench.device), 2))
        grads = {key: weight.grad.double().cpu() for key, weight in session.model.named_parameters()}
        base = base or (loss, grads)
        off = max(float((grads[key] - g).norm() / g.norm().clamp_min(1e-12)) for key, g in base[1].items())
        yield {"engine": name, "loss": loss, "loss_off": loss - base[0], "worst_gradient_off": off}


def race(
    bench: Bench, size: str, micro: int, batch: int, steps: int, *, by_block: bool = False, **engine: Any
) -> tuple[Finding, tuple[Session, torch.Tensor] | None]:
    """One engine at one micro-batch: rate, MFU, memory, and what the models of time and memory say of them.

    Args:
        bench: where it runs.
        size: a model of SHAPES.
        micro: sequences of a micro-batch.
        batch: sequences of a step.
        steps: steps to time.
        by_block: compile one block for all layers, as several processes do: of 24 layers and more the whole step takes
            the compiler longer than a part may.
        **engine: keys of the engine.
    """
    facts: Finding = {"size": size, "micro": micro, "batch": batch, **engine}
    if by_block:
        facts["by_block"] = True
    if bench.device == "cuda":  # or what the race before held counts as this one's reserved memory
        gc.collect()
        torch.cuda.empty_cache()
    settings = bench.settings(size, micro, batch, **engine)
    spec = settings.spec()
    try:
        session = start(settings, bench.device, by_block=by_block)
        examples = random_examples(settings, batch).to(bench.device)
        began = time.perf_counter()
        train_step(session, examples, 1e-4)
        bench.wait()
        facts["first_s"] = time.perf_counter() - began
        if bench.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        step = bench.seconds(lambda: train_step(session, examples, 1e-4), rounds=steps, warm=1)
    except Exception as error:  # out of memory, or a kernel that is missing: a finding
        return {**facts, "error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}, None
    rate = batch * settings.n_positions / step
    need = training_memory(spec, micro, bf16=settings.dtype == "bf16")
    facts |= {"ms": 1e3 * step, "tokens_per_s": rate, "model_gb": sum(need.values()) / 1e9}
    if bench.device == "cuda":
        facts["allocated_gb"] = torch.cuda.max_memory_allocated() / 1e9
        facts["reserved_gb"] = torch.cuda.max_memory_reserved() / 1e9
        rates = GpuRates(flops=matmul_speed("cuda", torch.bfloat16), bandwidth=copy_speed("cuda"))
        facts["model_ms"] = 1e3 * gpu_step_seconds(spec, batch, micro, rates, compiled=settings.compile)
    if peak := bench.peak():
        facts["mfu"] = rate * train_flops_per_token(spec) / peak
    return facts, (session, examples)


def grid(bench: Bench) -> Iterator[Finding]:
    """124M at 512 sequences a step: engines and micro-batches, by worth, since each compiles for up to a minute."""
    batch, best = bench.size(512, 4), bench.kinds[0]
    middle = bench.size(64, 2)
    for kind in bench.kinds:
        yield race(bench, "124M", middle, batch, 3, **FUSED, attention=kind)[0]
    yield race(bench, "124M", middle, batch, 3, **bench.fused, attention=best, residual="bf16")[0]
    yield race(bench, "124M", bench.size(32, 2), batch, 2, dtype="bf16")[0]
    yield race(bench, "124M", bench.size(8, 2), bench.size(32, 2), 2, dtype="fp32")[0]
    for micro in () if bench.smoke else (32, 128):
        yield race(bench, "124M", micro, batch, 3, **FUSED, attention=best)[0]
    yield race(bench, "124M", middle, batch, 3, **bench.fused, attention=best, deterministic=True)[0]
    torch.use_deterministic_algorithms(False)
    for kind in () if bench.smoke else bench.kinds[1:]:
        for micro in (32, 128, 16):
            yield race(bench, "124M", micro, batch, 3, **FUSED, attention=kind)[0]
    if not bench.smoke:
        yield race(bench, "124M", 16, batch, 3, **FUSED, attention=best)[0]


_KERNELS = {
    "attention": ("flash", "fmha", "cudnn", "sdpa"),
    "gemm": ("gemm", "cutlass", "nvjet", "cublas", "xmma"),
    "optimiser": ("adam", "multi_tensor", "norm_kernel"),
    "copy": ("mem",),
    "fused": ("triton",),
}


def profile(bench: Bench) -> Iterator[Finding]:
    """Time of a step by kind of kernel, and the gaps between kernels."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as trace

    found, ready = race(
        bench, "124M", bench.size(64, 2), bench.size(128, 4), 2, **bench.fused, attention=bench.kinds[0]
    )
    yield found
    if ready is None:
        return
    gpu = [ProfilerActivity.CUDA] if bench.device == "cuda" else []
    with trace(activities=[ProfilerActivity.CPU, *gpu]) as seen:
        began = time.perf_counter()
        train_step(*ready, 1e-4)
        bench.wait()
        wall = time.perf_counter() - began
    kinds: dict[str, float] = {}
    kernels: list[tuple[float, int, str]] = []
    for event in seen.key_averages():
        if event.device_type == DeviceType.CPU or getattr(event, "is_user_annotation", False):
            continue  # an operator or a range, which counts the kernels inside it once more
        spent = 1e-3 * getattr(event, "self_device_time_total", 0)
        name = event.key.lower()
        kind = next(
            (kind for kind, words in _KERNELS.items() if any(word in name for word in words)), "other"
        )
        kinds[kind] = kinds.get(kind, 0.0) + spent
        kernels.append((spent, event.count, event.key[:100]))
    yield {"wall_ms": 1e3 * wall, "ms": kinds, "gaps_ms": 1e3 * wall - sum(kinds.values())}
    # Milliseconds, launches and name of each.
    yield {"longest": [kernel for kernel in sorted(kernels, reverse=True)[:30] if kernel[0]]}


def large(bench: Bench) -> Iterator[Finding]:
    """355M to 1558M, compiled block by block."""
    for size, micro in (("355M", 32), ("1558M", 12), ("774M", 16)):
        micro = bench.size(micro, 2)
        engine = {**bench.fused, "attention": bench.kinds[0]}
        yield race(bench, size, micro, 8 * micro, 2, by_block=True, **engine)[0]


def peers(bench: Bench) -> Iterator[Finding]:
    """The Trainer's and nanoGPT's loops at the same micro-batch (benchmarks/racers.py), each a process of its own."""
    shape = {"n_layer": 12, "n_embd": 768, "n_head": 12, "n_positions": 1024, "vocab": 50257, "batch": 32}
    if bench.smoke:
        shape = {"n_layer": 1, "n_embd": 32, "n_head": 2, "n_positions": 16, "vocab": 300, "batch": 2}
    own = {**bench.fused, "attention": bench.kinds[0]}
    loops = {
        "ours": {"kind": "ours", "engine": own},
        "nanoGPT, compiled bf16": {"kind": "nanogpt", **bench.fused},
        "Trainer, bf16": {"kind": "trainer", "best": True, "compile": bench.fused["compile"]},
    }
    steps = bench.size(10, 1)
    for name, loop in loops.items():
        words = [sys.executable, str(Path(__file__).with_name("racers.py"))]
        order = json.dumps({**shape, **loop, "device": bench.device})
        done = subprocess.run(
            [*words, order], input=f"3\n{steps}\n", capture_output=True, text=True, check=False
        )
        answers = [json.loads(line) for line in done.stdout.splitlines()]
        if len(answers) < 2:
            yield {"loop": name, "error": done.stderr.strip()[-200:]}
        else:
            rate = steps * shape["batch"] * shape["n_positions"] / answers[1]["seconds"]
            yield {"loop": name, "tokens_per_s": rate}


_TRAIN = "from scaling.cli import main; main()"


def resume(bench: Bench) -> Iterator[Finding]:
    """Kill a run and go on: the same steps, and by how much its losses differ from an undisturbed run's."""
    home = Path(tempfile.mkdtemp())
    letters = random.Random(0)
    letters_in_all = bench.size(2_000_000, 60_000)
    (home / "text.txt").write_text("".join(letters.choices("abcdefgh \n", k=letters_in_all)))
    words = [
        sys.executable, "-P", "-c", _TRAIN, "train", "family=gpt2", "n_head=2", f"n_layer={bench.size(2, 1)}",
        f"n_embd={bench.size(128, 32)}", "n_positions=128", "vocab_size=300", f"data={home / 'text.txt'}",
        f"tokens={bench.size(4_000_000, 40_000)}", "batch_size=32", f"compile={str(not bench.smoke).lower()}", "dtype=bf16",
        "save_every=1", f"device={bench.device}", "--yes", "--study",
    ]  # fmt: skip

    def run(study: str, *, kill: bool = False) -> str:
        process = subprocess.Popen(
            [*words, str(home / study)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        while kill and process.poll() is None:
            if list((home / study).glob("runs/*/trunk/step-*/checkpoint.json")):
                process.kill()
                break
            time.sleep(0.05)
        complaint = process.communicate()[1][-200:]
        return "killed" if process.returncode == -signal.SIGKILL else complaint

    said = [run("whole"), run("cut", kill=True), run("cut")]
    whole, cut = (
        [
            json.loads(line)["loss"]
            for file in sorted((home / study).glob("runs/*/*/metrics.jsonl"))
            for line in file.read_text().splitlines()
        ]
        for study in ("whole", "cut")
    )
    off = max((abs(a - b) for a, b in zip(whole, cut, strict=False)), default=None)
    yield {
        "lines": [len(whole), len(cut)],
        "most_off": off,
        "bit_equal": whole == cut,
        "killed": said[1] == "killed",
        "said": said[-1],
    }


def tune(bench: Bench) -> Iterator[Finding]:
    """The tuner against the grid: probes, pick, and the errors of its models of time and memory."""
    from train.tune.tuner import tune as search

    settings = bench.settings("124M", bench.size(32, 2), bench.size(512, 4), dtype="fp32")
    asked = BackendRequest(dtype="fp32", compile=False, attention="sdpa", threads=1)
    found = search(
        settings,
        asked if bench.smoke else BackendRequest(),
        device=bench.device,
        room=None,
        log=lambda line: None,
    )
    if found.picked is None or found.verified is None:
        yield {"error": "nothing was picked", "probes": found.probes}
        return
    yield {
        "probes": found.probes,
        "seconds": found.seconds,
        "pick": found.picked.name,
        "step": [found.picked.step, found.verified.step],
        "memory": [found.picked.memory, found.verified.probed.memory],
    }


def small(bench: Bench) -> Iterator[Finding]:
    """Members of 1M to 20M: bound by launches."""
    for width, layers in ((64, 2), (256, 4), (384, 6))[: bench.size(3, 1)]:
        modes = [(False, "default"), (True, "default"), (True, GRAPHS)]
        for compiled, mode in modes[: bench.size(3, 1)]:
            batch = bench.size(32, 4)
            settings = bench.settings("124M", batch, batch, dtype="bf16", compile=compiled, compile_mode=mode)
            shape = {"n_layer": layers, "n_embd": width, "n_head": width // 64, "n_inner": 4 * width}
            settings = settings.model_copy(update={**shape, "vocab_size": bench.size(8192, 300)})
            session = start(settings, bench.device)
            examples = random_examples(settings, batch).to(bench.device)
            step = bench.seconds(partial(train_step, session, examples, 1e-4), rounds=20, warm=5)
            yield {"width": width, "layers": layers, "compiled": compiled, "mode": mode, "ms": 1e3 * step}

"""Megatron-LM's arguments for a run: pretrain_gpt.py, as of megatron-core 0.19.

That package (for Python 3.12) holds its parser and its training loop: tests/test_megatron.py asks the one, and trains by the
other on a CPU.
"""

import math
import shlex
from collections.abc import Mapping
from pathlib import Path

from families import ModelSpec
from families.accounting import params
from families.members import CONFIG, config_text
from families.memory import stages
from families.units import BadInput

from ..data import DataManifest
from ..emitting import EmitJob, EmitRun, Emitted
from .contract import Gap, check_run, common_gaps, contract_of, manifest_of, node_count, schedule_of
from .shards import ShardFile, megatron_shards

VERSION = "megatron-core 0.19"

PADS_TO = 128  # Megatron's --make-vocab-size-divisible-by

SCRIPT, CONTRACT = "megatron.sh", "contract.json"

Words = dict[str, str | int | float | None]  # option to value; None for a switch


def emit(job: EmitJob) -> Emitted:
    """Write each run's arguments, config.json, token shards and contract.

    Raises:
        BadInput: an architecture that Megatron's GPT does not have, or devices that do not fill nodes.
    """
    files: dict[str, str] = {}
    shards: dict[str, ShardFile] = {}
    notes: list[str] = []
    manifest = manifest_of(job.study)
    tokens = {} if manifest is None else megatron_shards(job.study, manifest)
    if manifest is None:
        notes.append(f"{job.study} has no text yet: no token shards; prepare it and emit again")
    for run in job.runs:
        check_run(run, "megatron")
        gaps = tuple(_gaps(run))
        words = arguments(job, run, manifest)
        contract = contract_of(
            job,
            run,
            "megatron",
            VERSION,
            gaps,
            tokens,
            manifest,
            padded_params=_padded(run.spec, run.member.tensor),
        )
        files[job.place(run, SCRIPT)] = script(words, job)
        files[job.place(run, CONFIG)] = config_text(run.spec)
        files[job.place(run, CONTRACT)] = contract.dump()
        shards |= {job.place(run, path): shard for path, shard in tokens.items()}
        notes += [f"{run.name}: megatron does not express {gap.field}: {gap.effect}" for gap in gaps]
    return Emitted(files=files, notes=tuple(notes), shards=shards)


def _padded(spec: ModelSpec, tensor: int) -> int:
    """Count parameters with the vocabulary padded to Megatron's multiple for a degree of tensor parallelism."""
    heads = 1 if spec.architecture == "gpt2" else 2
    return params(spec) + (-spec.vocab_size % (PADS_TO * tensor)) * spec.n_embd * heads


def _gaps(run: EmitRun) -> list[Gap]:
    found = common_gaps(run)
    if padding := -run.spec.vocab_size % (PADS_TO * run.member.tensor):
        found.append(
            Gap(
                field="vocab_size",
                effect=f"{padding} ids of padding take part in the softmax: a training loss is higher by up to "
                f"{math.log1p(padding / run.spec.vocab_size):.4f} until they are unlearnt",
            )
        )
    if run.spec.architecture == "llama":
        found.append(
            Gap(field="init", effect="output projections start smaller by sqrt(2·n_layer) than transformers'")
        )
    if run.member.recipe.schedule == "cosine" and not run.member.recipe.warmup_steps:
        found.append(Gap(field="schedule", effect="a cosine without warm-up is one step late"))
    return found


def schedule_words(run: EmitRun) -> Words:
    """Return the options of a schedule: exactly this program's learning rate at every step.

    Megatron's rate of step s (from 0) is that of its s-th update, ours of s + 1 of the warm-up: so the warm-up is a step
    shorter and starts at its first rate, the cooldown starts a step earlier, and the decay ends a step after the run.
    """
    schedule = schedule_of(run)
    warm = max(0, schedule.warmup - 1)
    first = schedule.peak / schedule.warmup if warm else 0.0
    words: Words = {
        "--lr": schedule.peak,
        "--min-lr": 0.0,
        "--lr-warmup-iters": warm,
        "--lr-warmup-init": first,
    }
    if schedule.kind == "cosine":
        return {**words, "--lr-decay-style": "cosine", "--lr-decay-iters": max(1, schedule.steps)}
    return {
        **words,
        "--lr-decay-style": "WSD",
        "--lr-decay-iters": schedule.steps,
        "--lr-wsd-decay-iters": schedule.cooldown_steps + 1,
        "--lr-wsd-decay-style": "linear" if schedule.shape == "linear" else "minus_sqrt",
    }


def pipeline_layout(n_layer: int, pipeline: int) -> str:
    """Return Megatron's word for stages that are not even, such as "Et*3|t*3|t*2L": embedding, blocks, loss."""
    blocks = "|".join(f"t*{count}" for count in stages(n_layer, pipeline))
    return f"E{blocks}L"


def arguments(job: EmitJob, run: EmitRun, manifest: DataManifest | None = None) -> Words:
    """Return the options of pretrain_gpt.py for a run.

    Args:
        job: the job, for devices and number format.
        run: the run.
        manifest: manifest of the study's text; None without one.

    Raises:
        BadInput: an architecture that Megatron's GPT does not have.
    """
    spec, member = run.spec, run.member
    recipe = member.recipe
    if spec.architecture not in ("gpt2", "llama"):
        raise BadInput(
            f"{run.name} is of architecture {spec.architecture}; --to megatron takes gpt2 and llama"
        )
    llama = spec.architecture == "llama"
    micro = member.micro_batch or 1
    dropout = 0.0 if run.config is None else run.config.dropout or 0.0
    words: Words = {
        "--num-layers": spec.n_layer,
        "--hidden-size": spec.n_embd,
        "--ffn-hidden-size": spec.n_inner,
        "--num-attention-heads": spec.n_head,
        "--seq-length": spec.n_positions,
        "--max-position-embeddings": spec.n_positions,
        "--position-embedding-type": "rope" if llama else "learned_absolute",
        "--normalization": "RMSNorm" if llama else "LayerNorm",
        "--attention-dropout": dropout,
        "--hidden-dropout": dropout,
        "--init-method-std": recipe.init_std,
        "--tokenizer-type": "NullTokenizer",
        "--vocab-size": spec.vocab_size - 1,  # it adds one for the end of a document
        "--make-vocab-size-divisible-by": PADS_TO,
        "--micro-batch-size": micro,
        "--global-batch-size": recipe.batch_sequences,
        "--train-iters": recipe.steps,
        "--optimizer": "adam",
        "--adam-beta1": recipe.beta1,
        "--adam-beta2": recipe.beta2,
        "--adam-eps": 1e-8,
        "--weight-decay": recipe.weight_decay,
        "--clip-grad": recipe.grad_clip,
        **schedule_words(run),
        "--seed": job.seed + 1,  # which must be above 0
        "--tensor-model-parallel-size": member.tensor,
        "--pipeline-model-parallel-size": member.pipeline,
        "--no-create-attention-mask-in-dataloader": None,
        "--eval-interval": max(1, recipe.steps // 10),
        "--eval-iters": 10,
        "--save": "checkpoints",
        "--save-interval": max(1, recipe.steps // 10),
        "--load": "checkpoints",
        "--tensorboard-dir": "tensorboard",
        "--log-interval": 1,
        "--log-throughput": None,
        "--exit-signal-handler": None,
    }
    if llama:
        words |= {
            "--swiglu": None,
            "--disable-bias-linear": None,
            "--untie-embeddings-and-output-weights": None,
        }
        if spec.n_kv_head not in (0, spec.n_head):
            words |= {"--group-query-attention": None, "--num-query-groups": spec.n_kv_head}
    if job.dtype != "fp32":
        words[f"--{job.dtype}"] = None
    if spec.n_layer % member.pipeline:
        words["--pipeline-model-parallel-layout"] = pipeline_layout(spec.n_layer, member.pipeline)
    if member.context_parallel > 1:
        words["--context-parallel-size"] = member.context_parallel
    if member.tensor > 1:
        words["--sequence-parallel"] = None  # the memory estimate takes activations to be shared too
    if member.shards > 1:
        words |= {
            "--use-distributed-optimizer": None,
            "--overlap-grad-reduce": None,
            "--overlap-param-gather": None,
        }
        if (
            member.pipeline == 1
        ):  # all states are shared; the options that Megatron-FSDP's documentation requires
            words |= {
                "--use-megatron-fsdp": None,
                "--data-parallel-sharding-strategy": "optim_grads_params",
                "--no-gradient-accumulation-fusion": None,
                "--ckpt-format": "fsdp_dtensor",
            }
    if member.checkpointing:
        words |= {
            "--recompute-granularity": "full",
            "--recompute-method": "uniform",
            "--recompute-num-layers": 1,
        }
    if manifest is not None:
        words["--train-data-path"] = " ".join(f"data/{Path(shard.name).stem}" for shard in manifest.train)
        words["--valid-data-path"] = f"data/{Path(manifest.heldout.name).stem}"
    return words


def script(words: Mapping[str, str | int | float | None], job: EmitJob) -> str:
    """Return the shell script that runs pretrain_gpt.py of MEGATRON on every node."""
    nodes = node_count(job)
    lines = [
        "#!/bin/bash",
        "# The same on each node, from this folder. MEGATRON is a checkout of Megatron-LM; NODE_RANK and MASTER_ADDR",
        "# are set by the cluster where there are several nodes.",
        "set -euo pipefail",
        'cd "$(dirname "$0")"',
        *_connections(words),
        f"exec torchrun --nnodes {nodes} --nproc-per-node {job.devices // nodes} \\",
        '  --node-rank "${NODE_RANK:-0}" --master-addr "${MASTER_ADDR:-127.0.0.1}" --master-port "${MASTER_PORT:-29500}" \\',
        '  "${MEGATRON:?a checkout of Megatron-LM}/pretrain_gpt.py" \\',
    ]
    options = [_option(name, value) for name, value in words.items()]
    return "\n".join([*lines, *(f"  {option} \\" for option in options[:-1]), f"  {options[-1]}"]) + "\n"


def _connections(words: Mapping[str, str | int | float | None]) -> list[str]:
    """Return what tensor and context parallelism ask of the environment before Blackwell, and Megatron-FSDP forbids."""
    degrees = (words.get("--tensor-model-parallel-size", 1), words.get("--context-parallel-size", 1))
    if degrees == (1, 1) or "--use-megatron-fsdp" in words:
        return []
    return ["export CUDA_DEVICE_MAX_CONNECTIONS=1"]


def _option(name: str, value: str | float | int | None) -> str:
    if value is None:
        return name
    if name.endswith("data-path"):
        return " ".join([name, *(shlex.quote(word) for word in str(value).split())])
    return f"{name} {shlex.quote(str(value))}"

"""NeMo AutoModel's YAML for a run, around transformers' own configuration: as of nemo-automodel 0.7."""

import json
from typing import Any

import yaml

from families.members import CONFIG, config_text
from families.units import BadInput

from ..emitting import EmitJob, EmitRun, Emitted
from .contract import Gap, check_run, common_gaps, contract_of, manifest_of, node_count
from .megatron import CONTRACT, schedule_words
from .shards import ShardFile, nanogpt_shards

VERSION = "nemo-automodel 0.7"

YAML = "automodel.yaml"

_DATA = "nemo_automodel.components.datasets"


def emit(job: EmitJob) -> Emitted:
    """Write each run's YAML, config.json, token shards and contract.

    Raises:
        BadInput: an encoder, fp16, or devices that do not fill nodes.
    """
    files: dict[str, str] = {}
    shards: dict[str, ShardFile] = {}
    notes: list[str] = []
    manifest = manifest_of(job.study)
    tokens = {} if manifest is None else nanogpt_shards(job.study, manifest)
    if manifest is None:
        notes.append(f"{job.study} has no text yet: no token shards; prepare it and emit again")
    for run in job.runs:
        check_run(run, "automodel")
        if run.config is not None and run.config.dropout:
            raise BadInput(f"dropout is {run.config.dropout:g}; --to automodel cannot express it")
        gaps = (*common_gaps(run), *_gaps(run))
        contract = contract_of(job, run, "automodel", VERSION, gaps, tokens, manifest)
        text = yaml.safe_dump(recipe(job, run), sort_keys=False, width=120)
        command = f"torchrun --nnodes {node_count(job)} --nproc-per-node {job.devices // node_count(job)}"
        files[job.place(run, YAML)] = (
            f"# {command} -m nemo_automodel.cli.app {YAML}, from this folder\n{text}"
        )
        config = {**json.loads(config_text(run.spec)), "initializer_range": run.member.recipe.init_std}
        files[job.place(run, CONFIG)] = json.dumps(config, indent=2) + "\n"
        files[job.place(run, CONTRACT)] = contract.dump()
        shards |= {job.place(run, path): shard for path, shard in tokens.items()}
        notes += [f"{run.name}: automodel does not express {gap.field}: {gap.effect}" for gap in gaps]
    return Emitted(files=files, notes=tuple(notes), shards=shards)


def _gaps(run: EmitRun) -> list[Gap]:
    found = [Gap(field="batches", effect="windows are read in the order of the text, not in a random one")]
    if run.member.recipe.weight_decay:
        found.append(
            Gap(
                field="weight_decay",
                effect="norms and biases decay too: torch's AdamW takes one value for all",
            )
        )
    return found


def recipe(job: EmitJob, run: EmitRun) -> dict[str, Any]:
    """Return the YAML's value for a run.

    Raises:
        BadInput: an encoder, or fp16.
    """
    from families.architectures import architecture

    spec, member = run.spec, run.member
    if not architecture(spec.architecture).causal:
        raise BadInput(f"{run.name} is of architecture {spec.architecture}; --to automodel takes decoders")
    if job.dtype == "fp16":
        raise BadInput("dtype is fp16; --to automodel takes bf16 and fp32, since it has no loss scale")
    given, words = member.recipe, schedule_words(run)
    cpu = run.config is not None and run.config.device == "cpu"
    rates: dict[str, Any] = {
        "lr_decay_style": words["--lr-decay-style"],
        "lr_warmup_steps": words["--lr-warmup-iters"],
        "init_lr": words["--lr-warmup-init"] or given.lr,
        "max_lr": given.lr,
        "min_lr": 0.0,
        "lr_decay_steps": words["--lr-decay-iters"],
    }
    if given.schedule == "wsd":
        rates |= {
            "wsd_decay_steps": words["--lr-wsd-decay-iters"],
            "lr_wsd_decay_style": words["--lr-wsd-decay-style"],
        }
    policy: dict[str, Any] = {
        "_target_": "torch.distributed.fsdp.MixedPrecisionPolicy",
        "param_dtype": "bfloat16" if job.dtype == "bf16" else "float32",
        "reduce_dtype": "float32",
        "cast_forward_inputs": False,
    }

    def data(pattern: str) -> dict[str, Any]:
        return {
            "_target_": f"{_DATA}.llm.nanogpt_dataset.NanogptDataset",
            "file_pattern": pattern,
            "seq_len": spec.n_positions,
            "shuffle_files": False,
        }

    micro = local = member.micro_batch or 1
    group = member.tensor * member.pipeline * member.context_parallel
    replicas = 1 if member.shards > 1 else job.devices // group
    layout: dict[str, Any] = {
        "strategy": "fsdp2",
        "dp_replicate_size": replicas,
        "tp_size": member.tensor,
        "cp_size": member.context_parallel,
        "activation_checkpointing": member.checkpointing,
        "mp_policy": policy,
    }
    if member.tensor > 1:
        layout["sequence_parallel"] = True
    if member.pipeline > 1:
        # Its local batch is what a replica reads in a step, which the stages pass on in micro-batches.
        local = given.batch_sequences * group // job.devices
        layout |= {
            "pp_size": member.pipeline,
            "pipeline": {"pp_schedule": "1f1b", "pp_microbatch_size": micro},
        }
    if member.expert > 1:
        layout |= {"ep_size": member.expert, "moe": {}}
    loader = {
        "_target_": "torchdata.stateful_dataloader.StatefulDataLoader",
        "collate_fn": f"{_DATA}.utils.default_collater",
    }
    return {
        "recipe": "TrainFinetuneRecipeForNextTokenPrediction",
        "seed": job.seed,
        "step_scheduler": {
            "global_batch_size": given.batch_sequences,
            "local_batch_size": local,
            "max_steps": given.steps,
            "num_epochs": given.steps,
            "ckpt_every_steps": max(1, given.steps // 10),
            "log_remote_every_steps": 1,
        },
        "dist_env": {"backend": "gloo" if cpu else "nccl", "timeout_minutes": 10},
        "model": {
            "_target_": "nemo_automodel.NeMoAutoModelForCausalLM.from_config",
            "config": {
                "_target_": "transformers.AutoConfig.from_pretrained",
                "pretrained_model_name_or_path": ".",
            },
            "torch_dtype": "float32",
            "trust_remote_code": False,
        },
        "checkpoint": {
            "enabled": True,
            "checkpoint_dir": "checkpoints",
            "model_save_format": "safetensors",
            "save_consolidated": True,
        },
        "distributed": layout,
        "loss_fn": {"_target_": "nemo_automodel.components.loss.masked_ce.MaskedCrossEntropy"},
        "dataset": data("data/train-*.bin"),
        "dataloader": loader,
        "optimizer": {
            "_target_": "torch.optim.AdamW",
            "lr": given.lr,
            "betas": [given.beta1, given.beta2],
            "eps": 1e-8,
            "weight_decay": given.weight_decay,
        },
        "lr_scheduler": rates,
        "clip_grad_norm": {"max_norm": given.grad_clip},
    }

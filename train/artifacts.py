"""Files that a ladder writes beside checkpoints: settings, plan, and the artifacts of a finished rung.

Among these is trainer_state.json, the log in the format of Hugging Face's Trainer, which existing tools plot.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from families import params, params_active, params_non_embedding, train_flops_per_token
from families.accounting import experts
from families.rules import maker_of
from families.units import BadInput
from scaling.files import atomic_write, now
from scaling.monitoring.curves import PlannedRung, RunPlan
from scaling.paths import StudyPaths
from scaling.planning.stamp import attestations
from scaling.runs import Run
from scaling.runs.store import LEDGER, WorkEntry, append_entry, record_run
from scaling.schedule import Schedule

from .checkpoint import step_folder
from .config import NOT_IDENTITY, Settings
from .data import DataManifest, TokenizedText, count_windows
from .evaluate import Evaluation, best_model, epoch_ends, epochs_until, mean_train_loss
from .loop import Session
from .metrics import Scalars, device_name, metric_rows
from .model_card import Facts, outcome, write_card
from .rung import MODEL, RUN, RUNG, TRUNK, RungFile
from .settings import branch_name, rung_steps, trunk_end

STATE = "trainer_state.json"

METRICS = "metrics.jsonl"


def write_state(branch: Path, trunk: Path, settings: Settings, rung: RungFile, train_tokens: int) -> Path:
    """Write a rung's trainer_state.json beside its metrics.

    Args:
        branch: the rung's folder.
        trunk: folder of the steps before the branch.
        settings: settings of the run.
        rung: the finished rung.
        train_tokens: tokens of an epoch; with data_fraction= that share of the training split.
    """
    path = branch / STATE
    state = trainer_state(history(branch, trunk), settings, rung, train_tokens)
    atomic_write(path, json.dumps(state, indent=2, allow_nan=False) + "\n")
    return path


def history(branch: Path, trunk: Path) -> list[dict[str, Any]]:
    """Return the metrics that lead to a rung: lines of the trunk before the branch's first, then those of the branch."""
    own = _lines(branch / METRICS)
    before = own[0]["step"] if own else float("inf")
    return [line for line in _lines(trunk / METRICS) if line["step"] < before] + own


def trainer_state(
    lines: Sequence[dict[str, Any]], settings: Settings, rung: RungFile, train_tokens: int
) -> dict[str, Any]:
    """Return the state of a Trainer at the rung's end (transformers.TrainerState).

    Partial evaluations are logged as eval_glance_loss, like those of another evaluation set: eval_loss is the rung's own.
    total_flos is the Trainer's count, 6 · tokens · parameters without embeddings.

    Args:
        lines: metrics of the run, as from `history`.
        settings: settings of the run.
        rung: the finished rung.
        train_tokens: tokens of an epoch.
    """
    run, batch = rung.observation, settings.batch_tokens
    steps = round(run.tokens / batch)

    def place(step: int) -> dict[str, Any]:
        return {"epoch": step * batch / train_tokens, "num_input_tokens_seen": step * batch, "step": step}

    log: list[dict[str, Any]] = []
    for line in lines:
        logged = {"loss": line["loss"], "learning_rate": line["lr"], "grad_norm": line["grad_norm"]}
        log.append({**logged, **place(line["step"])})
        if "eval_loss" in line:
            log.append({"eval_glance_loss": line["eval_loss"], **place(line["step"])})
    log.append({"eval_loss": run.loss, **place(steps)})
    flos = 6.0 * run.tokens * params_non_embedding(settings.spec())
    wall = run.wall_s or 0.0
    if wall:
        speed = {
            "train_steps_per_second": steps / wall,
            "train_samples_per_second": steps * settings.batch_size / wall,
        }
        summary = {"train_runtime": wall, "train_loss": _mean(lines), "total_flos": flos, **speed}
        log.append({**summary, **place(steps)})
    return {
        "best_global_step": None,
        "best_metric": None,
        "best_model_checkpoint": None,
        "epoch": steps * batch / train_tokens,
        "eval_steps": steps,
        "global_step": steps,
        "is_hyper_param_search": False,
        "is_local_process_zero": True,
        "is_world_process_zero": True,
        "log_history": log,
        "logging_steps": lines[0]["step"] if lines else steps,
        "max_steps": steps,
        "num_input_tokens_seen": steps * batch,
        "num_train_epochs": max(1, -(-steps * batch // train_tokens)),
        "save_steps": steps,
        "stateful_callbacks": {},
        "total_flos": flos,
        "train_batch_size": settings.micro_batch,
        "trial_name": settings.run,
        "trial_params": None,
    }


def _mean(lines: Sequence[dict[str, Any]]) -> float | None:
    """Return the mean loss over all steps; each line is the mean of the steps since the line before."""
    total, last = 0.0, 0
    for line in lines:
        total += line["loss"] * (line["step"] - last)
        last = line["step"]
    return total / last if last else None


def _lines(path: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a metrics file; a kill can leave an incomplete last one."""
    return [row for row, whole in metric_rows(path) if whole]


def close_ledger(ledger: Path, settings: Settings, rung: RungFile, part: str) -> RungFile:
    """Close a rung in the ledger with the hash of its observation; returns the rung file, which names that line.

    Args:
        ledger: the run's ledger.
        settings: settings of the run.
        rung: the finished rung, before it is written.
        part: the name of its branch.
    """
    observation = rung.observation
    step = round(observation.tokens / settings.batch_tokens)
    entry = WorkEntry(
        run=settings.run,
        part=part,
        from_step=step,
        to_step=step,
        tokens=0,
        flops=0.0,
        wall_s=0.0,
        settings_sha256=settings.identity(),
        at=now(),
        result=observation.row_hash,
    )
    line = append_entry(ledger, entry, opening=settings.ledger_opening())
    return rung.model_copy(update={"inputs": {LEDGER: line}})


def record(finished: Path, runs: Path) -> str:
    """Add a finished rung to the study's observations; returns the rung file as JSON."""
    rung = RungFile.read(finished)
    record_run(runs, rung.observation)
    return rung.dump()


def check_settings(settings: Settings, folder: Path) -> None:
    """Write run.json, or check that the folder's run has the same settings.

    Raises:
        BadInput: it has other settings.
    """
    path = folder / RUN
    if path.exists():
        recorded = Settings.read(path)
        if recorded.identity() != settings.identity():
            ours, theirs = settings.model_dump(), recorded.model_dump()
            key = next(name for name in ours if name not in NOT_IDENTITY and ours[name] != theirs[name])
            raise BadInput(
                f"{folder} holds a run {_changed(key, settings, recorded)}: choose another name= or out=, or remove the folder"
            )
    else:
        settings.write(path)


def _changed(key: str, ours: Settings, theirs: Settings) -> str:
    """Return in words what differs between the settings asked for and those recorded."""
    if key in ("data_sha256", "group"):
        names = (theirs.dataset, ours.dataset)
        other = (
            f"{names[0]}, and this one is of {names[1]}"
            if names[0] != names[1]
            else f"{names[0]} as it was before"
        )
        return f"trained on other text: {other}"
    if key == "init_sha256":
        began = [one.init or "nothing" for one in (theirs, ours)]
        other = (
            f"{began[0]}, and this one begins from {began[1]}"
            if began[0] != began[1]
            else f"{began[0]} as it was"
        )
        return f"that began from other weights: {other}"
    return f"with {key} {getattr(theirs, key)}; this one has {getattr(ours, key)}"


def write_run_plan(settings: Settings, rungs: tuple[int, ...], folder: Path) -> None:
    """Write the planned rungs to underway.json, from which the forecast reads them; rungs of earlier calls are kept."""
    path = folder / "underway.json"
    planned = tuple(
        PlannedRung(
            steps=steps,
            folder=branch_name(settings, steps),
            cooldown=settings.cooldown if settings.schedule == "wsd" else 0.0,
            shape=settings.cooldown_shape,
        )
        for steps in rung_steps(settings, rungs)
    )
    plan = RunPlan(
        run=settings.run,
        rungs=planned,
        batch_tokens=settings.batch_tokens,
        lr=settings.lr,
        warmup=settings.warmup,
        schedule=settings.schedule,
        params=params(settings.spec()),
        params_non_embedding=params_non_embedding(settings.spec()),
        group=settings.group,
        fresh=not settings.init,
        batches=settings.order_of_batches(),
    )
    before = RunPlan.read(path).rungs if path.exists() else ()
    plan.model_copy(update={"rungs": before}).with_rungs(planned).write(path)


def rung_file(
    session: Session,
    schedule: Schedule,
    result: Evaluation,
    eval_name: str,
    text: TokenizedText,
    folder: Path,
) -> RungFile:
    """Return the file of a finished rung: its observation and further measurements.

    Args:
        session: the session at the end of the rung.
        schedule: schedule of the rung.
        result: its evaluation on held-out text.
        eval_name: name of the evaluation set.
        text: the tokenised text.
        folder: the run's folder.
    """
    settings, spec = session.settings, session.settings.spec()
    branch = folder / branch_name(settings, session.step)
    ends = (0, *epoch_ends(settings, len(text.train)))
    one_pass = round(len(text.train) / settings.batch_size)
    pass_began = ends[-2] if settings.epochs else max(0, session.step - max(1, one_pass))
    parts = [(folder / TRUNK, trunk_end(schedule)), (branch, session.step)]
    train_loss = mean_train_loss(parts, pass_began, session.step)
    epochs = epochs_until(settings, len(text.train), result, train_loss, branch, trunk_end(schedule))
    tokens = session.step * settings.batch_tokens
    run = Run(
        run=settings.run,
        group=settings.group,
        params=params(spec),
        params_non_embedding=params_non_embedding(spec),
        params_active=params_active(spec) if experts(spec)[0] > 1 else None,
        n_experts=experts(spec)[0] if experts(spec)[0] > 1 else None,
        tokens=tokens,
        unique_tokens=min(tokens, len(text.train) * settings.n_positions),
        loss=result.loss,
        loss_se=result.se,
        compute=float(tokens * train_flops_per_token(spec)),
        compute_kind="exact",
        annealed=True,
        schedule=settings.decay,
        seed=settings.seed,
        eval_set=eval_name,
        n_positions=spec.n_positions,
        vocab_size=spec.vocab_size,
        batch_tokens=settings.batch_tokens,
        lr=settings.lr,
        architecture="" if spec.architecture == "gpt2" else maker_of(spec),
        n_layer=spec.n_layer,
        n_embd=spec.n_embd,
        n_head=spec.n_head,
        wall_s=round(session.wall_s, 3),
        accelerator=device_name(session.device, session.world.size),
    )
    return RungFile(
        observation=run,
        trunk_checkpoint=f"trunk/{step_folder(Path(), schedule.decay_starts).name}"
        if schedule.kind == "wsd"
        else "",
        perplexity=result.perplexity,
        bits_per_byte=result.bits_per_byte,
        loss_per_word=result.loss_per_word,
        eval_tokens=result.tokens,
        train_loss=train_loss,
        epochs=epochs,
        best_model=best_model(branch, epochs),
    )


def write_artifacts(
    branch: Path, study: Path, settings: Settings, rung: RungFile, manifest: DataManifest
) -> None:
    """Write the artifacts of a finished rung: settings, observation and model card beside the weights, trainer_state.json.

    Args:
        branch: the rung's folder.
        study: the study's folder, whose sealed plan may contain a prediction for this rung.
        settings: settings of the run.
        rung: the finished rung.
        manifest: manifest of the text.
    """
    model = branch / MODEL
    settings.write(model / RUN)
    rung.write(model / RUNG)
    sealed = outcome(StudyPaths(study), rung)
    attested = attestations(StudyPaths(study).plan) if sealed is not None else ()
    facts = Facts(settings=settings, rung=rung, manifest=manifest, sealed=sealed, attested=attested)
    write_card(model, facts)
    windows = count_windows(manifest, settings.n_positions, settings.data_fraction)
    write_state(branch, branch.parent / TRUNK, settings, rung, windows * settings.n_positions)


def log_final_eval(branch: Path, step: int, rung: RungFile) -> None:
    """Write the rung's final loss as TensorBoard's eval/loss, beside the events of its steps."""
    scalars = Scalars(branch, step)
    run = rung.observation
    scalars.write({"step": step, "rung_loss": run.loss, "tokens": run.tokens})
    scalars.close()

"""Rows of runs from the text that a trainer prints: Megatron-LM, Megatron-DeepSpeed, GPT-NeoX, nanoGPT, llm.c, modded-nanogpt.

Tokens are those that the log counts, else consumed samples × sequence length, else iteration × tokens per iteration, each by
numbers that stand in the log. Validation losses count; training losses only where there are no others, which is said.
"""

import re
from dataclasses import dataclass, field
from typing import Any

_FLOAT = r"([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?|nan|inf)"

# " iteration      100/  200000 | consumed samples: 25600 | … | lm loss: 6.5E+00 |": Megatron and its kin; NeoX says lm_loss.
_ITERATION = re.compile(r"iteration\s+(\d{1,15})\s*/\s*(\d{1,15})\s*\|(.*)")
_VALIDATION = re.compile(
    r"\b(validation|test)(?: loss| results)? at (?:iteration (\d{1,15})|(?:the )?end\b)[^|]*\|(.*)"
)
_VALUE = re.compile(rf"lm[ _]loss(?: value)?:\s*{_FLOAT}")
_ARGUMENT = re.compile(r"\s([a-z_\-]{3,40}) ?\.{3,}\s*([0-9]{1,15})\b")
_RANK = re.compile(
    r"number of parameters on (?:\([a-z_, ]+\) )?model parallel rank (\([0-9, ]+\)|\d+):? *(\d{1,15})"
)

# nanoGPT's "step 1000: train loss 4.10, val loss 4.12", llm.c's "s:250 tel:3.9", modded-nanogpt's "step:125/1750 val_loss:4.6"
_STEPS = (
    re.compile(rf"^step (\d{{1,15}}): train loss {_FLOAT}, val loss (?P<loss>{_FLOAT})"),
    re.compile(rf"^s:(\d{{1,15}}) tel:(?P<loss>{_FLOAT})"),
    re.compile(rf"^step:(\d{{1,15}})/\d+ val_loss:(?P<loss>{_FLOAT})"),
)
_ITER = re.compile(rf"^iter (\d{{1,15}}): loss {_FLOAT}")
_PER_ITERATION = re.compile(r"^tokens per iteration will be: ([0-9,]{1,20})$")
_TENSORS = re.compile(r"num (non-)?decayed parameter tensors: \d+, with ([0-9,]{1,20}) parameters")
_ABOUT = re.compile(r"^number of parameters: ([0-9.]{1,15})M$")

_LONGEST = 4000  # characters of a line that may hold numbers

Record = dict[str, Any]


@dataclass(slots=True)
class _Log:
    train: list[Record] = field(default_factory=list)
    held: list[Record] = field(default_factory=list)
    arguments: dict[str, int] = field(default_factory=dict)
    ranks: dict[str, int] = field(default_factory=dict)
    tensors: dict[str, int] = field(default_factory=dict)
    about: float | None = None
    per_iteration: int | None = None
    total: int | None = None
    seen: Record = field(default_factory=dict)  # of the last iteration


def read_log(text: str, run: str) -> tuple[list[Record], list[str]] | None:
    """The rows of a trainer's text log and what to say of them; None where the text is no such log.

    Args:
        text: what the trainer printed.
        run: the name of the run.
    """
    log = _Log()
    for line in text.splitlines():
        if 0 < len(line) <= _LONGEST:
            _read(line, log)
    rows = log.held or log.train
    if not rows:
        return None
    notes = []
    if not log.held:
        notes.append(
            "the log holds training losses alone: a law of held-out loss needs that of text not trained on"
        )
    elif log.train:
        notes.append(
            f"losses are the log's {len(log.held)} validation losses, not its {len(log.train)} training losses"
        )
    sizes, note = _sizes(log)
    notes += [note] if note else []
    context = log.arguments.get("seq_length")
    made = []
    for row in rows:
        tokens, way = _tokens(row, log, context)
        if way and way not in notes:
            notes.append(way)
        if not row["steps"]:  # the loss before the first step
            continue
        more = {"tokens": tokens} if tokens is not None else {}
        batch = row.get("samples", 0) / row["steps"]
        more |= {"batch": batch} if tokens is None and batch else {}
        end = {} if log.total is None else {"annealed": row["steps"] >= log.total}
        made.append({"run": run, "steps": row["steps"], **sizes, **more, "loss": row["loss"], **end})
    return made, notes


def _read(line: str, log: _Log) -> None:
    if found := _ITERATION.search(line):
        facts = dict(part.split(":", 1) for part in found[3].split("|") if part.count(":") == 1)
        values = {key.strip(): value.strip() for key, value in facts.items()}
        log.total = int(found[2])
        log.seen = {"steps": int(found[1])}
        for name, key in (
            ("samples", "consumed samples"),
            ("tokens", "consumed tokens"),
            ("batch", "global batch size"),
        ):
            if values.get(key, "").isdecimal() and len(values[key]) <= 18:
                log.seen[name] = int(values[key])
        loss = values.get("lm loss", values.get("lm_loss"))
        if loss is not None and re.fullmatch(_FLOAT, loss):
            log.train.append({**log.seen, "loss": float(loss)})
    elif found := _VALIDATION.search(line):
        value = _VALUE.search(found[3])
        if value is not None and found[1] == "validation" and " on test set" not in line:
            steps = int(found[2]) if found[2] else log.seen.get("steps", 0)
            seen = log.seen if log.seen.get("steps") == steps else {"steps": steps}
            log.held.append({**seen, "loss": float(value[1])})
    elif found := next(filter(None, (pattern.match(line) for pattern in _STEPS)), None):
        log.held.append({"steps": int(found[1]), "loss": float(found["loss"])})
    elif found := _ITER.match(line):
        log.train.append({"steps": int(found[1]), "loss": float(found[2])})
    elif found := _RANK.search(line):
        log.ranks[found[1]] = int(found[2])
    elif found := _TENSORS.match(line):
        log.tensors[found[1] or ""] = int(found[2].replace(",", ""))
    elif found := _PER_ITERATION.match(line):
        log.per_iteration = int(found[1].replace(",", "") or 0)
    elif (found := _ABOUT.match(line)) and found[1].count(".") <= 1 and found[1] != ".":
        log.about = 1e6 * float(found[1])
    elif found := _ARGUMENT.search(line):
        log.arguments.setdefault(found[1].replace("-", "_"), int(found[2]))


def _sizes(log: _Log) -> tuple[Record, str]:
    """The parameters that a log states, and what to say of them."""
    if log.ranks:
        names = ("tensor_model_parallel_size", "pipeline_model_parallel_size")
        expected = log.arguments.get(names[0], 1) * log.arguments.get(names[1], 1)
        if any(name in log.arguments for name in names) and expected != len(log.ranks):
            return {}, f"params are stated for {len(log.ranks)} of {expected} ranks, and not read"
        said = (
            f"params are the sum over {len(log.ranks)} ranks, in which tensors that ranks share count twice"
            if len(log.ranks) > 1
            else ""
        )
        return {"params": sum(log.ranks.values())}, said
    if len(log.tensors) == 2:
        return {"params": sum(log.tensors.values())}, ""
    if log.about:
        return {
            "params": log.about
        }, "params are the log's number of parameters, which leaves out position embeddings"
    return {}, ""


def _tokens(row: Record, log: _Log, context: int | None) -> tuple[int | None, str]:
    """Tokens at a row, and what they follow from; None where the log does not say."""
    if "tokens" in row:
        return row["tokens"], ""
    batch = (
        row.get("batch") or log.arguments.get("global_batch_size") or log.arguments.get("train_batch_size")
    )
    if context and "samples" in row:
        return row["samples"] * context, "tokens are consumed samples × seq_length, both of the log"
    if context and batch:
        return row[
            "steps"
        ] * batch * context, "tokens are iteration × batch size × seq_length, all of the log"
    if log.per_iteration:
        return row["steps"] * log.per_iteration, "tokens are step × tokens per iteration, both of the log"
    return None, ""

"""Rows of runs from the text that a trainer prints: Megatron-LM, Megatron-DeepSpeed, GPT-NeoX, nanoGPT, llm.c, modded-nanogpt.

The lines of other trainers are read in `consoles`.

Tokens are those that the log counts, else consumed samples × sequence length, else iteration × tokens per iteration, each by
numbers that stand in the log. Validation losses count; training losses only where there are no others, which is said.
"""

import re

from .consoles import FLOAT, Log, Record, number, plain, read_line

# " iteration      100/  200000 | consumed samples: 25600 | … | lm loss: 6.5E+00 |": Megatron and its kin; NeoX says lm_loss.
_ITERATION = re.compile(r"iteration\s+(\d{1,15})\s*/\s*(\d{1,15})\s*\|(.*)")
_VALIDATION = re.compile(
    r"\b(validation|test)(?: loss| results)? at (?:iteration (\d{1,15})|(?:the )?end\b)[^|]*\|(.*)"
)
_VALUE = re.compile(rf"lm[ _]loss(?: value)?:\s*{FLOAT}")
_ARGUMENT = re.compile(r"\s([a-z_\-]{3,40}) ?\.{3,}\s*([0-9]{1,15})\b")
_RANK = re.compile(
    r"number of parameters on (?:\([a-z_, ]+\) )?model parallel rank (\([0-9, ]+\)|\d+):? *(\d{1,15})"
)

# nanoGPT's "step 1000: train loss 4.10, val loss 4.12", llm.c's "s:250 tel:3.9", modded-nanogpt's "step:125/1750 val_loss:4.6"
_STEPS = (
    re.compile(rf"^step (\d{{1,15}}): train loss {FLOAT}, val loss (?P<loss>{FLOAT})"),
    re.compile(rf"^s:(\d{{1,15}}) tel:(?P<loss>{FLOAT})"),
    re.compile(rf"^step:(\d{{1,15}})/\d+ val_loss:(?P<loss>{FLOAT})"),
)
_ITER = re.compile(rf"^iter (\d{{1,15}}): loss {FLOAT}")
_PER_ITERATION = re.compile(r"^tokens per iteration will be: ([0-9,]{1,20})$")
_TENSORS = re.compile(r"num (non-)?decayed parameter tensors: \d+, with ([0-9,]{1,20}) parameters")
_ABOUT = re.compile(r"^number of parameters: ([0-9.]{1,15})M$")

_LONGEST = 4000  # characters of a line that may hold numbers


def read_log(text: str, run: str) -> tuple[list[Record], list[str]] | None:
    """The rows of a trainer's text log and what to say of them; None where the text is no such log.

    Args:
        text: what the trainer printed.
        run: the name of the run.
    """
    log = Log()
    for line in text.splitlines():
        if 0 < len(line) <= _LONGEST:
            _read(plain(line), log)
    if not (log.held or log.train or log.per_byte):
        return None
    notes = [*log.notes]
    if not (log.held or log.train):
        return _per_byte(log, run), notes
    rows = log.held or log.train
    if log.per_byte:
        notes.append(
            f"the log's {len(log.per_byte)} held-out losses are bits per byte, not read: nats per token are those × ln 2 × bytes "
            "per token"
        )
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
    if note := _iterations(rows, log):
        notes.append(note)
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
        more |= {"eval_set": row["eval_set"]} if "eval_set" in row else {}
        made.append({"run": run, "steps": row["steps"], **sizes, **more, "loss": row["loss"], **end})
    return made, notes


def _per_byte(log: Log, run: str) -> list[Record]:
    """Rows of bits per byte, which no law takes: the column's name says so."""
    sizes, tokens = _sizes(log)[0], log.arguments.get("training_tokens")
    return [
        {"run": run, **sizes, **({"tokens": tokens} if tokens else {}), "val_bpb": log.per_byte[-1]["loss"]}
    ]


def _iterations(rows: list[Record], log: Log) -> str:
    """Make steps of litgpt's iterations, which are micro-batches; what to say where the log does not tell."""
    if not any("iterations" in row for row in rows):
        return ""
    each = next(iter(log.micro)) if len(log.micro) == 1 else 0.0
    if not each.is_integer() or not each:
        return "steps are litgpt's iterations, each a micro-batch on each device: batch_tokens are the tokens of one such"
    for row in rows:
        row["steps"] = round(row["iterations"] / each)
    return f"{each:g} iterations are a step, as the log counts them"


def _read(line: str, log: Log) -> None:
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
        if loss is not None and re.fullmatch(FLOAT, loss):
            log.train.append({**log.seen, "loss": number(loss)})
    elif found := _VALIDATION.search(line):
        value = _VALUE.search(found[3])
        if value is not None and found[1] == "validation" and " on test set" not in line:
            steps = int(found[2]) if found[2] else log.seen.get("steps", 0)
            seen = log.seen if log.seen.get("steps") == steps else {"steps": steps}
            log.held.append({**seen, "loss": number(value[1])})
    elif found := next(filter(None, (pattern.match(line) for pattern in _STEPS)), None):
        log.held.append({"steps": int(found[1]), "loss": number(found["loss"])})
    elif found := _ITER.match(line):
        log.train.append({"steps": int(found[1]), "loss": number(found[2])})
    elif found := _RANK.search(line):
        log.ranks[found[1]] = int(found[2])
    elif found := _TENSORS.match(line):
        log.tensors[found[1] or ""] = int(found[2].replace(",", ""))
    elif found := _PER_ITERATION.match(line):
        log.per_iteration = int(found[1].replace(",", "") or 0)
    elif (found := _ABOUT.match(line)) and found[1].count(".") <= 1 and found[1] != ".":
        log.about = 1e6 * float(found[1])
    elif read_line(line, log):
        return
    elif found := _ARGUMENT.search(line):
        log.arguments.setdefault(found[1].replace("-", "_"), int(found[2]))


def _sizes(log: Log) -> tuple[Record, str]:
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
    if log.stated:
        return {name: count for name, count in log.stated.items() if count}, ""
    if log.about:
        return {
            "params": log.about
        }, "params are the log's number of parameters, which leaves out position embeddings"
    return {}, ""


def _tokens(row: Record, log: Log, context: int | None) -> tuple[int | None, str]:
    """Tokens at a row, and what they follow from; None where the log does not say."""
    if "tokens" in row:
        return row["tokens"], ""
    if log.counted:
        return _counted(row["steps"], log.counted)
    if log.words:
        words = sum(log.words) / len(log.words)
        return round(
            row["steps"] * words
        ), f"tokens are num_updates × {words:.6g} tokens per batch (wpb), both of the log"
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


def _counted(steps: int, counted: dict[int, int]) -> tuple[int | None, str]:
    """Tokens at a step that the log counts, or by tokens per step where those are one number throughout."""
    if steps in counted:
        return counted[steps], ""
    rates = {tokens / at for at, tokens in counted.items() if at > 0}
    if len(rates) == 1 and rates != {0.0}:
        return round(steps * rates.pop()), "tokens are step × tokens per step, both of the log"
    before = max((at for at in counted if at < steps), default=None)
    return (None if before is None else counted[before]), "tokens are those counted last before each loss"

"""Lines that trainers print to a console: torchtune, nanochat, OLMo, litgpt, fairseq, Levanter, torchtitan."""

import json
import math
import re
from dataclasses import dataclass, field
from typing import Any

from ..untrusted import parse_json

Record = dict[str, Any]

FLOAT = r"([-+]?[0-9.]{1,40}(?:[eE][-+]?[0-9]{1,4})?|nan|inf)"
_COUNT = r"([0-9][0-9,]{0,24})"

# torchtune: "Step 1 | loss:2.34 lr:0.0003 tokens_per_second_per_gpu:8123.4"
_TUNE = re.compile(r"^Step (\d{1,15}) \| (?=[a-z_/]+:)(.*)")
_PAIR = re.compile(r"([A-Za-z_/.]{1,60}):(\S{1,60})")

# nanochat: "step 00010/21400 (0.05%) | loss: 8.4", "Step 00250 | Validation bpb: 1.01"; its report's "- Minimum validation bpb"
_CHAT = re.compile(rf"^step (\d{{1,15}})/(\d{{1,15}}) \([0-9.]+%\) \| loss: {FLOAT}")
_CHAT_BPB = re.compile(rf"^Step (\d{{1,15}}) \| Validation bpb: {FLOAT}")
_REPORT_BPB = re.compile(rf"^- (?:Final|Minimum) validation bpb: {FLOAT}$")
_TRAINED = re.compile(rf"^- Number of training tokens: {_COUNT}$")
_CHAT_BATCH = re.compile(rf"^Total batch size {_COUNT} => gradient accumulation")
_CHAT_TOTAL = re.compile(rf"^total +: {_COUNT}$")

# OLMo and OLMo-core: "[step=10/1000,epoch=0]" and below it "    train/CE loss=3.2"
_OLMO = re.compile(r"\[step=(\d{1,15})/(\d{1,15}|\?\?\?)[\],]")
_OLMO_VALUE = re.compile(rf"^\s{{2,}}([A-Za-z][\w/ ().+-]{{2,120}})=([0-9,]{{4,25}}|{FLOAT})\s*$")
_CROSS_ENTROPY = ("CrossEntropyLoss", "CE loss")

# litgpt: "Epoch 1 | iter 80 step 10 | loss train: 9.8, val: n/a |", "iter 800: val loss 4.5, val time: 1.2 ms"
_LIT = re.compile(rf"^Epoch \d+ \| iter (\d{{1,15}}) step (\d{{1,15}}) \| loss train: {FLOAT}, val: ")
_LIT_HELD = re.compile(rf"^iter (\d{{1,15}}): val loss {FLOAT}, val time")

# fairseq: JSON, "| epoch 001 | valid on 'valid' subset | loss 5.3 | ppl 39 | num_updates 9", "epoch 001:  10 / 99 loss=9.1, …"
_SEQ_JSON = re.compile(r"(?:^|[|\]] (?:- )?)(\{\"epoch\": .*\})\s*$")
_SEQ_BARS = re.compile(r"(?:^|\| )epoch \d{1,9} \|(.*)")
_SEQ_LINE = re.compile(r"(?:^|\| )epoch \d{1,9}: +\d{1,15} ?/ ?\d{1,15} (.*)")
_SEQ_SET = re.compile(r"(valid|test)\w* on '([^']{1,60})' subset")
_SEQ_PARAMS = re.compile(rf"num\. (shared |expert )?model params: {_COUNT}")
_SEQ_MOST = re.compile(r"['\"]?max_update['\"]?[=:] ?(\d{1,15})\b")
_NEAR = 0.02  # of log2(ppl) and the loss, which are rounded to 2 and 3 digits

# Levanter: "Progress on:train 1.25kit/10.0kit rate:… postfix:loss=3.21", "eval loss: 3.456"
_LEV = re.compile(
    r"Progress on:train ([0-9.]{1,12})(k|M|)it/([0-9.]{1,12})(k|M|)it\b.* postfix:loss=(\S{1,30})"
)
_LEV_HELD = re.compile(rf"(?:^|\s)eval loss: {FLOAT}\s*$")

# torchtitan: "step: 10  loss: 7.9  grad_norm: 1.2  memory: 27GiB …", "validate step: 100  loss: 5.1  memory: …"
_TITAN = re.compile(rf"\b(validate )?step: *(\d{{1,15}}) +loss: *{FLOAT} +(?:grad_norm|memory):")
_TITAN_BATCH = re.compile(
    r"\bglobal batch size (\d{1,15}),.*\bsequence length (\d{1,15}), total steps (\d{1,15})"
)

# What a model counts: "Total number of parameters: 1,176,764,416", "size: 8,030,261,248 total parameters"
_PARAMS = re.compile(
    rf"(?:^|[\s:-])(?:total )?(?:number of |model )?(non-embedding )?param(?:eter)?s?(?: count)?: {_COUNT}$",
    re.IGNORECASE,
)
_SIZE = re.compile(rf"\bsize: {_COUNT} total parameters\b")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(slots=True)
class Log:
    """What the lines of a trainer's log said so far."""

    train: list[Record] = field(default_factory=list)
    held: list[Record] = field(default_factory=list)
    per_byte: list[Record] = field(default_factory=list)  # held-out bits per byte
    arguments: dict[str, int] = field(default_factory=dict)
    ranks: dict[str, int] = field(default_factory=dict)
    tensors: dict[str, int] = field(default_factory=dict)
    stated: dict[str, int] = field(default_factory=dict)  # params and params_non_embedding
    counted: dict[int, int] = field(default_factory=dict)  # tokens by step
    words: list[float] = field(default_factory=list)  # fairseq's tokens per batch
    micro: set[float] = field(default_factory=set)  # litgpt's iterations per step
    about: float | None = None
    per_iteration: int | None = None
    total: int | None = None
    seen: Record = field(default_factory=dict)  # of the last iteration
    notes: dict[str, None] = field(default_factory=dict)


def plain(line: str) -> str:
    """A line without the codes that colour it."""
    return _COLOURS.sub("", line) if "\x1b" in line else line


def read_line(line: str, log: Log) -> bool:
    """Add what one line of a console says; False for a line of none of these trainers."""
    return any(
        reader(line, log) for reader in (_chat, _tune, _olmo, _lit, _fairseq, _levanter, _titan, _counts)
    )


def whole(text: str) -> int:
    """A count with or without commas."""
    return int(text.replace(",", ""))


def number(text: str) -> float:
    """A loss as printed; NaN where it is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _tune(line: str, log: Log) -> bool:
    if (found := _TUNE.match(line)) is None:
        return False
    values = {key.rpartition("/")[2]: value for key, value in _PAIR.findall(found[2])}
    steps = int(found[1])
    if "loss" in values:
        log.train.append({"steps": steps, "loss": number(values["loss"])})
    for name in ("val_loss", "validation_loss", "eval_loss"):
        if name in values:
            log.held.append({"steps": steps, "loss": number(values[name])})
            break
    return bool({"loss", "val_loss", "validation_loss", "eval_loss"} & values.keys())


def _chat(line: str, log: Log) -> bool:
    if found := _CHAT.match(line):
        log.total = int(found[2])  # the first step is 0, and its loss that of the first batch
        log.train.append({"steps": int(found[1]) + 1, "loss": number(found[3])})
    elif found := _CHAT_BPB.match(line):
        log.per_byte.append({"steps": int(found[1]), "loss": number(found[2])})
    elif found := _REPORT_BPB.match(line):
        log.per_byte.append({"steps": 1, "loss": number(found[1])})
    elif found := _CHAT_BATCH.match(line):
        log.per_iteration = whole(found[1])
    elif found := _CHAT_TOTAL.match(line):
        log.stated.setdefault("params", whole(found[1]))
    else:
        return False
    return True


def _olmo(line: str, log: Log) -> bool:
    if found := _OLMO.search(line):
        log.seen = {"steps": int(found[1])}
        log.total = int(found[2]) if found[2].isdecimal() else log.total
        return True
    if "steps" not in log.seen or (found := _OLMO_VALUE.match(line)) is None:
        return False
    path = found[1].split("/")
    if path[0] == "throughput" and path[-1] in ("total_tokens", "total tokens"):
        if found[2].replace(",", "").isdecimal():
            log.counted[log.seen["steps"]] = whole(found[2])
    elif path[-1] in _CROSS_ENTROPY and path[0] in ("train", "eval"):
        row = {"steps": log.seen["steps"], "loss": number(found[2].replace(",", ""))}
        if path[0] == "train":
            log.train.append(row)
        else:
            log.held.append(row | ({"eval_set": "/".join(path[1:-1])} if path[1:-1] else {}))
    return True


def _lit(line: str, log: Log) -> bool:
    if found := _LIT.match(line):
        iterations, steps = int(found[1]), int(found[2])
        log.micro |= {iterations / steps} if steps else set()
        log.train.append({"steps": steps, "loss": number(found[3])})
    elif found := _LIT_HELD.match(line):
        log.held.append({"iterations": int(found[1]), "steps": int(found[1]), "loss": number(found[2])})
    else:
        return False
    return True


def _fairseq(line: str, log: Log) -> bool:
    if found := _SEQ_PARAMS.search(line):
        if found[1] == "expert ":
            log.notes |= (
                {"params of experts are those of one device, and not added": None} if whole(found[2]) else {}
            )
        else:
            log.stated["params"] = whole(found[2])
        return True
    if log.total is None and "max_update" in line and (found := _SEQ_MOST.search(line)) and int(found[1]):
        log.total = int(found[1])
        return True
    values: dict[str, str] = {}
    held = ""
    if found := _SEQ_JSON.search(line):
        try:
            read = parse_json(found[1])
        except (json.JSONDecodeError, RecursionError):
            return False
        held = next(
            (key.removesuffix("_loss") for key in read if re.fullmatch("(valid|test)[a-z0-9]*_loss", key)), ""
        )
        prefix = f"{held or 'train'}_"
        values = {key.removeprefix(prefix): str(value) for key, value in read.items()}
    elif found := _SEQ_BARS.search(line):
        subset = _SEQ_SET.search(found[1])
        held = subset[2] if subset else ""
        values = dict(part.split() for part in found[1].split("|") if len(part.split()) == 2)
    elif found := _SEQ_LINE.search(line):
        values = dict(part.strip().split("=", 1) for part in found[1].split(",") if part.count("=") == 1)
    if "loss" not in values or "num_updates" not in values or not values["num_updates"].isdecimal():
        return False
    bits = number(values.get("nll_loss", values["loss"]))
    if values.get("nll_loss", values["loss"]) != values["loss"]:
        log.notes["the loss is fairseq's nll_loss, not its loss with label smoothing or other terms"] = None
    factor = math.log(2)
    perplexity = number(values.get("ppl", "nan"))
    if perplexity > 1 and abs(math.log2(perplexity) - bits) > _NEAR * bits + 0.01:
        if abs(math.log(perplexity) - bits) > _NEAR * bits + 0.01:
            bits, factor = math.log2(perplexity), math.log(2)
            log.notes["the loss is ln(ppl): the log's loss holds other terms beside"] = None
        else:
            factor = 1.0
    if factor != 1:
        log.notes["fairseq's losses are in bits (base 2): they are × ln 2 here, in nats"] = None
    steps = int(values["num_updates"])
    row = {"steps": steps, "loss": bits * factor}
    if held:
        if not held.startswith("test"):
            log.held.append(row | ({"eval_set": held} if held != "valid" else {}))
        return True
    if (words := number(values.get("wpb", "nan"))) > 0:
        log.words.append(words)
    log.train.append(row)
    return True


def _levanter(line: str, log: Log) -> bool:
    if found := _LEV.search(line):
        unit = {"": 1.0, "k": 1e3, "M": 1e6}
        at, end = number(found[1]) * unit[found[2]], number(found[3]) * unit[found[4]]
        if not (math.isfinite(at) and math.isfinite(end)):
            return True
        log.total = round(end)
        log.seen = {"steps": round(at)}
        if found[2]:
            log.notes["steps are those of Levanter's progress bar, which rounds them to 3 digits"] = None
        log.train.append({**log.seen, "loss": number(found[5])})
    elif log.seen and log.total and (found := _LEV_HELD.search(line)):
        log.held.append({**log.seen, "loss": number(found[1])})
    else:
        return False
    return True


def _titan(line: str, log: Log) -> bool:
    if found := _TITAN.search(line):
        (log.held if found[1] else log.train).append({"steps": int(found[2]), "loss": number(found[3])})
    elif found := _TITAN_BATCH.search(line):
        log.per_iteration, log.total = int(found[1]) * int(found[2]), int(found[3])
    else:
        return False
    return True


def _counts(line: str, log: Log) -> bool:
    if found := _SIZE.search(line):
        log.stated.setdefault("params", whole(found[1]))
    elif found := _TRAINED.match(line):
        log.arguments["training_tokens"] = whole(found[1])
    elif found := _PARAMS.search(line):
        log.stated.setdefault("params_non_embedding" if found[1] else "params", whole(found[2]))
    else:
        return False
    return True


def litgpt_columns(columns: tuple[str, ...]) -> bool:
    """True for the metrics.csv of litgpt, whose `tokens` are those of one device and whose losses stand in rows of their own."""
    return {"iter", "step", "tokens", "total_tokens"} <= set(columns)


def litgpt_rows(rows: list[Record]) -> tuple[list[Record], list[str]]:
    """Rows of litgpt's metrics.csv with the tokens of all devices, those of a validation by its step; and what to say."""
    total: dict[str, str] = {}
    rates = set()
    for row in rows:
        step, tokens = str(row.get("step") or ""), str(row.get("total_tokens") or "")
        if tokens and step.isdecimal():
            total[step] = tokens
            rates |= {number(tokens) / (int(step) + 1)}
    made = []
    for row in rows:
        step = str(row.get("step") or "")
        tokens = row.get("total_tokens") or total.get(step, "")
        if not tokens and len(rates) == 1 and step.isdecimal():
            tokens = f"{(int(step) + 1) * next(iter(rates)):.0f}"
        made.append({name: cell for name, cell in row.items() if name != "total_tokens"} | {"tokens": tokens})
    return made, [
        "tokens are litgpt's total_tokens, of all devices, and those of a validation are of its step"
    ]

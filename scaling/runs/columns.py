"""Names of columns: the fields that headers name, the units they state, and which loss a name is of."""

import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal, get_args

LossUnit = Literal["nats", "bits", "ppl"]  # of a loss per token; ppl is the perplexity

LOSS_UNITS: tuple[LossUnit, ...] = get_args(LossUnit)

# Field to its headers without case, spaces and signs: the fields of Run, and those of published tables.
FIELDS = {
    "name": "name model modelname member modelfamilymember familymember run runname variant",
    "n_layer": "nlayer nlayers layer layers numlayers numhiddenlayers nblocks transformerblocks depth",
    "n_embd": "nembd dmodel hidden hiddensize hiddendimension nhidden width modeldim embeddingsize dim",
    "n_inner": "ninner dff ffn ffdim dffn dinner intermediatesize feedforward",
    "d_attn": "dattn dattention attentionwidth",
    "n_kv_head": "nkvhead nkvheads kvheads kvhead numkeyvalueheads numkvheads keyvalueheads nkeyvalueheads "
    "numquerygroups querygroups",
    "n_experts": "nexperts numexperts experts numlocalexperts nroutedexperts",
    "experts_per_token": "expertspertoken numexpertspertok numexpertspertoken activeexperts topk expertstopk",
    "n_head": "nhead nheads head heads attentionheads numheads numattentionheads",
    "params": "params param parameters parameter nparams nparameters numparams totalparams modelsize paramcount totalparameters "
    "numparameters parametercount modelparams modelparameters totalparams trainableparams numtrainableparams trainableparameters",
    "params_active": "activeparams activeparameters activatedparams activatedparameters nactiveparams "
    "paramsactive activatedparamcount nactiveparameters",
    "params_non_embedding": "paramsnonembedding nonembeddingparameters nonembeddingparams nonembparams "
    "nonembeddingparamsize nonvocabparameters nonvocabparams denseparametercount",
    "tokens": "tokens trainingtokens traintokens ntokens numtokens tokensseen ntokensseen numtokensseen "
    "numinputtokensseen consumedtokens totaltokens tokenstrained trainedtokens tokensprocessed timetoken",
    "unique_tokens": "datasettokens tokensindataset uniquetokens ntokensunique tokensunique distincttokens",
    "steps": "steps step trainingsteps iterations",
    "batch_tokens": "batchtokens tokensperbatch batchsizetokens tokensperstep tokensperiter tokensperiteration "
    "tokensperupdate tokensiter tokensstep tokensupdate tokensbatch globalbatchtokens globalbatchsizetokens batchsizeintokens",
    "batch": "batch bsz batchsize globalbatchsize trainbatchsize",
    "n_positions": "npositions context contextlen contextlength ctx seqlen sequencelength maxseqlen blocksize seqlength "
    "maxpositionembeddings maxsequencelength nctx contextsize contextwindow",
    "vocab_size": "vocab vocabsize vocabulary vocabularysize",
    "loss": "loss finalloss actualloss valloss validationloss evalloss testloss",
    "loss_train": "trainloss trainingloss",
    "loss_adjusted": "adjvalloss adjustedloss adjloss adjustedvalloss",
    "loss_predicted": "predictedloss predloss",
    "ppl": "perplexity ppl actualperplexity finalperplexity valperplexity validationperplexity evalppl valppl",
    "ppl_predicted": "predictedperplexity predictedppl",
    "compute": "compute flops flop trainingflops trainflops totalflops",
    "wall_s": "walls wallseconds seconds",
    "tokens_per_s": "tokenss tokenspers tokenssec tokenspersec tokenspersecond tokenssecond toks tokss tokspersec "
    "tokpersec toksec tokensecond throughput tps tokenthroughput throughputtokenss",
    "device_tokens_per_s": "tokenssgpu tokenspersecpergpu tokenspersecondpergpu tokenssecgpu tokensgpus tgs "
    "tokenspergpupersecond tokensgpusec tokensgpusecond tokenssdevice tokensschip tokenspersecperdevice "
    "tokenssecdevice devicetokenspers throughputpergpu "
    "toksgpu toksecgpu tokspergpu tokensgpusec tokspersecpergpu",
    "device_teraflops": "tflopss tflopsgpu tflopssgpu tflopspergpu tflopspersecpergpu tflopspersecondpergpu achievedtflops "
    "tflopsdevice tflopsperdevice teraflopspergpu",
    "mfu": "mfu modelflopsutilization modelflopsutilisation modelfloputilization flopsutilization",
    "devices": "ngpus ngpu numgpus numgpu gpucount devices ndevices numdevices devicecount nchips numchips chips "
    "worldsize numberofgpus numaccelerators accelerators",
    "nodes": "nodes nnodes numnodes nodecount",
    "devices_per_node": "gpuspernode ngpuspernode devicespernode chipspernode",
    "accelerator": "accelerator hardware gpu gpus device gputype gpumodel devicetype chip",
    "architecture": "architecture arch modeltype modelarchitecture",
    "group": "group family corpus",
    "data": "dataset data corpusname",
    "annealed": "annealed isannealed decayed isdecayed lrdecayed fullydecayed fullyannealed cooleddown",
}

BY_HEADER = {header: field for field, headers in FIELDS.items() for header in headers.split()}

FACTORS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}
FACTORS |= {"thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12}
_LONGEST_HEADER = 200  # characters
_REMEMBERED = 65536  # headers whose meaning is kept: each field asks for that of each

# Units in a header, and the fields they scale: "Params (M)", "tokens_B", "FLOPs (1e18)", "Compute [PF-days]".
_UNITS = {
    "k": 1e3,
    "m": 1e6,
    "b": 1e9,
    "g": 1e9,
    "bn": 1e9,
    "mio": 1e6,
    "mm": 1e6,
    "mln": 1e6,
    "mill": 1e6,
    "млн": 1e6,
    "mrd": 1e9,
    "mlrd": 1e9,
    "bil": 1e9,
    "млрд": 1e9,
    "lakh": 1e5,
    "crore": 1e7,
    "t": 1e12,
    "p": 1e15,
    "e": 1e18,
    "z": 1e21,
}
_UNITS |= {
    f"{word}{ending}": FACTORS[word]
    for word in ("thousand", "million", "billion", "trillion")
    for ending in ("", "s")
}
_COMPUTE_UNITS = {"pfdays": 8.64e19, "pflopsdays": 8.64e19, "pflopdays": 8.64e19, "petaflopsdays": 8.64e19}
_COMPUTE_UNITS |= {"petaflopdays": 8.64e19, "pflops": 1e15, "eflops": 1e18, "zflops": 1e21, "exaflops": 1e18}
_COMPUTE_UNITS |= {
    "zettaflops": 1e21,
    "petaflops": 1e15,
    "tflops": 1e12,
    "pflop": 1e15,
    "eflop": 1e18,
    "zflop": 1e21,
}
SCALED = (
    "params",
    "params_active",
    "params_non_embedding",
    "tokens",
    "unique_tokens",
    "batch_tokens",
    "compute",
)
_PREFIXES_OF_UNITS = r"[kmbgt]|thousands?|millions?|billions?|trillions?"
_POWERS = r"10\s*(?:\^|\*\*)\s*[0-9]{1,2}|1e[0-9]{1,2}"
# A unit behind the name ("Params (M)", "tokens_B", "tokens / 1e9", "params_millions"), before it ("M params"), and glued.
_SUFFIX = re.compile(
    r"(.*?)(?:\s*[(\[]\s*(?:in\s+|x\s*|×\s*)?([^)\]]+?)\s*[)\]]|[ _]in[ _]([A-Za-z]+)|[_ /]([kmbtKMBT])"
    rf"|\s*[/×x]\s*({_POWERS})|[_ ]((?:thousand|million|billion|trillion)s?)|[_ ](pf(?:lops?)?[_ -]?days?))\s*",
    re.IGNORECASE,
)
_BEFORE = re.compile(rf"({_PREFIXES_OF_UNITS})[ _]+(?:of[ _]+)?(.+)", re.IGNORECASE)
_GLUED = re.compile(r"([MBGT])([a-z]{4,})|([A-Za-z_ ]*[a-z])([MBGT])")
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")
_RAISED = re.compile("(?<=10)(?=[⁰¹²³⁴⁵⁶⁷⁸⁹])")
_POWER = re.compile(r"(?:10\s*(?:\^|\*\*)\s*|1?e\+?)([0-9]{1,2})", re.IGNORECASE)
_COUNTED_WORDS = re.compile(
    r"\b(?:in|of|non[- ]?emb\w*|active|total|unique|tokens?|toks?|params?|parameters?|flops?)\b|,",
    re.IGNORECASE,
)
_NOT_HOURS = re.compile(
    r"\$|€|usd|eur|price|cost|per[ _-]?hour|/\s*(?:gpu[ -]?)?h|tokens?\b|kwh|watt", re.IGNORECASE
)
_NO_RATES = frozenset(
    ("eflop", "eflops", "zflop", "zflops", "exaflops", "zettaflops")
)  # units that are columns

# What stands in brackets behind a name and makes it another quantity; the field that it is then, "" for none known here.
_QUALIFIERS: dict[str, tuple[tuple[re.Pattern[str], str], ...]] = {
    "params": (
        (
            re.compile(r"(?:non|no|w/?o|without|excl\w*\.?|ex|minus)[\s.-]*(?:the\s+)?(?:input\s+)?emb|\bbody\b"),
            "params_non_embedding",
        ),
        (re.compile(r"\bactiv"), "params_active"),
        (re.compile(r"\bemb(?:ed\w*)?\b"), ""),
    ),
    "tokens": (
        (re.compile(r"\bunique|\bdistinct|\bdedup"), "unique_tokens"),
        (re.compile(r"(?:\bper|/)\s*(?:step|batch|iter|update)"), "batch_tokens"),
        (re.compile(r"\bplanned|\btarget|\bval|\beval|\btest"), ""),
    ),
    "batch": ((re.compile(r"\btok"), "batch_tokens"),),
    "compute": ((re.compile(r"\bfwd\b|\bforward\b(?!.*backward)|\binference\b"), ""),),
}  # fmt: skip
_NO_COUNT = re.compile(
    r"\blog|\bln\b|\bper\b|/\s*[a-z]|\b[kmgt]i?b\b|\b(?:kilo|mega|giga|tera)?bytes?\b|\bwords?\b|\bchar|%|\bratio\b"
)
_WHOLE_OF_IT = re.compile(r"(?:incl\w*\.?|with)\s+(?:the\s+)?emb\w*|total|all|seen|trained")


@lru_cache(maxsize=_REMEMBERED)
def folded(text: str) -> str:
    """Lower-case letters and digits only: "$n_{layer}$" becomes nlayer."""
    return "".join(letter for letter in text.lower() if letter.isalnum())


@lru_cache(maxsize=_REMEMBERED)
def field_of(header: str) -> str | None:
    """The field that a header names, None where it is unknown; hours may name hardware: "Training Hours on 8xA100s"."""
    if len(header) > _LONGEST_HEADER:  # the patterns try each part of a run of spaces or brackets
        return None
    bare = folded(re.sub(r"\\[a-z]+", "", header))
    known = BY_HEADER.get(bare)
    if known is None and "hour" in bare:
        return None if _NOT_HOURS.search(header) else "hours"
    if known is not None:
        return known
    if bare in _COMPUTE_UNITS and (bare.endswith(("day", "days")) or bare in _NO_RATES):
        return "compute"
    known = BY_HEADER.get(folded(re.sub(r"[(\[].*?[)\]]", "", header)))
    if known is not None:
        return qualified(header, known)
    rest, unit = _split_unit(header)
    known = BY_HEADER.get(folded(rest)) if _factor(unit) is not None else None
    return known if known is None or unit == "" else qualified(header, known)


def qualified(header: str, known: str) -> str | None:
    """The field of a header that names `known`, by what stands in its brackets.

    That of "Params (non-emb.)" is without embeddings; None where the brackets make it no field, as in "FLOPs (per token)".
    """
    said = " ".join(re.findall(r"[(\[](.*?)[)\]]", header)).lower()
    if not said or known not in (*SCALED, "batch"):
        return known
    for pattern, field in _QUALIFIERS.get(known, ()):
        if pattern.search(said) and not _WHOLE_OF_IT.search(said):
            return field or None
    if known in SCALED and folded(said) not in _COMPUTE_UNITS and _NO_COUNT.search(said):
        return None
    return known


def is_qualified(header: str) -> bool:
    """True for a size whose brackets say which of several it is: "Params (total)", "Tokens (unique)"."""
    said = " ".join(re.findall(r"[(\[](.*?)[)\]]", header)).lower()
    patterns = (pattern for entries in _QUALIFIERS.values() for pattern, field in entries if field)
    return bool(said) and (
        bool(_WHOLE_OF_IT.fullmatch(said)) or any(pattern.search(said) for pattern in patterns)
    )


def header_factor(header: str, field: str) -> float:
    """The factor that a header states for its column: 1e6 for "Params (M)", 8.64e19 for "Compute (PF-days)"; else 1."""
    if field not in SCALED or BY_HEADER.get(folded(header)) is not None:
        return 1.0
    if field == "compute" and folded(header) in _COMPUTE_UNITS:
        return _COMPUTE_UNITS[folded(header)]
    unit = _split_unit(header)[1]
    if field == "compute" and folded(unit) in _COMPUTE_UNITS:
        return _COMPUTE_UNITS[folded(unit)]
    return _factor(unit) or 1.0


@lru_cache(maxsize=_REMEMBERED)
def _split_unit(header: str) -> tuple[str, str]:
    """A header without its unit, and the unit: ("Params", "M") of "Params (M)", "M params" and "ParamsM"; "" without one.

    Before the name, and glued to it, a letter is a unit only of a name that is known.
    """
    if len(header) > _LONGEST_HEADER:
        return header, ""
    text = raised(header)
    match = _SUFFIX.fullmatch(text)
    if match is not None:
        return match[1], next(filter(None, match.groups()[1:]), "").strip()
    before, glued = _BEFORE.fullmatch(text), _GLUED.fullmatch(text)
    candidates = [(before[2], before[1])] if before else []
    if glued:
        candidates.append((glued[2], glued[1]) if glued[1] else (glued[3], glued[4]))
    return next((pair for pair in candidates if BY_HEADER.get(folded(pair[0])) in SCALED), (header, ""))


def _factor(unit: str) -> float | None:
    """The factor of a header's unit; None where it is no unit of number."""
    power = _POWER.fullmatch(unit)
    if power is not None:
        return 10.0 ** int(power[1])
    whole = _UNITS.get(folded(unit), _COMPUTE_UNITS.get(folded(unit)))
    return whole or _UNITS.get(folded(_COUNTED_WORDS.sub(" ", unit)))


def raised(text: str) -> str:
    """A text with powers of ten in one notation: 10^6 for 10⁶."""
    return text if text.isascii() else _RAISED.sub("^", text).translate(_SUPERSCRIPTS)


def without_unit(header: str) -> str:
    """A header without the unit at its end: N of "N [10^6]"; as it is where that is another quantity, like "N (non-emb)"."""
    rest = _split_unit(header)[0]
    said = header[len(rest) :].lower()
    other = _NO_COUNT.search(said) or any(
        pattern.search(said)
        for known, entries in _QUALIFIERS.items()
        if known != "batch"
        for pattern, _ in entries
    )
    return header if other and folded(said) not in _COMPUTE_UNITS else rest


def stated_factor(header: str) -> float:
    """The factor of a header's suffix whatever the rest of it names: 1e6 for "N (M)"; 1 without one."""
    unit = _split_unit(header)[1]
    return _COMPUTE_UNITS.get(folded(header)) or _COMPUTE_UNITS.get(folded(unit)) or _factor(unit) or 1.0


# Losses


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+[a-z]*")
_JOINED = re.compile(
    r"(val|valid|validation|eval|test|train|training|final|log)(loss|ppl|perplexity|nll|bpb|bpt)|(bits)(?:per)?(byte|token|char)s?|"
    r"(loss)(bits|nats|ppl)"
)
_HELD = _words("val valid validation eval evaluation test held heldout holdout dev")
_TRAINING = frozenset(("train", "training"))
_NATS = _words("loss nll xent crossentropy nats")
_PPL = frozenset(("ppl", "perplexity", "ppls", "perplexities"))
_LOGARITHMS = frozenset(("log", "ln"))  # of a perplexity: nats
_BITS = frozenset(("bits", "bpt"))
_BASE_2 = re.compile(r"\b(?:log|base) 2\b")
_PER = {"word": "word", "words": "word", "byte": "byte", "bytes": "byte", "bpb": "byte", "char": "character"}
_PER |= {"chars": "character", "character": "character", "characters": "character", "bpc": "character"}
_PER_TEXT = {
    "sequence": "sequence",
    "seq": "sequence",
    "sample": "sample",
    "example": "example",
}  # behind "per" alone
_PER_TEXT |= {
    "doc": "document",
    "document": "document",
    "sentence": "sentence",
    "line": "line",
    "batch": "batch",
}
# Losses that are none of a model: of parts of it, of errors, of schedules.
_NOT_LOSS = _words(
    "se std stderr stdev err error scale scaling weight weights coef aux auxiliary balance balancing z router "
    "predicted pred diff delta ratio unit min max lowest highest smoothed curve sum normalized normalised initial init "
    "relative units"
)
_GENERIC = _words(
    "lm language model loss final last metrics metric summary none mean avg average global epoch step out per "
    "token tokens cross entropy ce best of the in vs a adjusted adj l"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LossName:
    """What the name of a loss says.

    Attributes:
        unit: nats, bits, or ppl for a perplexity.
        per: "word", "byte" or "character" where it is not per token, else "".
        held_out: of text that is not trained on.
        training: of the text that is.
        eval_set: the words of the name that say which text, like "c4" of eval_c4_loss; "" without any.
    """

    unit: LossUnit
    per: str
    held_out: bool
    training: bool
    eval_set: str


@lru_cache(maxsize=_REMEMBERED)
def loss_name(header: str) -> LossName | None:
    """Read "val_loss", "eval/c4/CrossEntropyLoss" or "word_perplexity,none" as the name of a loss; None for others."""
    if len(header) > _LONGEST_HEADER:
        return None
    words = _split(header)
    said = frozenset(words)
    if said & _NOT_LOSS or "__" in header.strip("_"):
        return None
    entropy = "cross" in said and "entropy" in said
    unit: LossUnit
    if said & _PPL and not said & _LOGARITHMS:
        unit = "ppl"
    elif said & _BITS or said & {"bpb", "bpc"} or (said & (_NATS | _PPL) and _BASE_2.search(" ".join(words))):
        unit = "bits"
    elif said & (_NATS | _PPL) or entropy:
        unit = "nats"
    else:
        return None
    per = next((_PER[word] for word in words if word in _PER), "") or next(
        (_PER_TEXT[word] for before, word in pairwise(words) if before == "per" and word in _PER_TEXT), ""
    )
    known = _HELD | _TRAINING | _NATS | _PPL | _BITS | _PER.keys() | _GENERIC | _LOGARITHMS
    pieces = [piece for piece in re.split(r"[/_. :,-]+", header) if piece]
    return LossName(
        unit=unit,
        per=per,
        held_out=bool(said & _HELD) or {"held", "out"} <= said,
        training=bool(said & _TRAINING),
        eval_set=" ".join(piece for piece in pieces if not known.issuperset(_split(piece))),
    )


def _split(name: str) -> list[str]:
    """The words of a name in lower case: val and loss of val_loss, valLoss and valloss."""
    words: list[str] = []
    for word in map(str.lower, _WORD.findall(name)):
        joined = _JOINED.fullmatch(word)
        words += filter(None, joined.groups()) if joined else [word]
    return words


# Exports of trackers: names with a path, like config.n_layer, summary.val/loss, metrics.eval_loss, params.lr

_PREFIXES = ("metrics.", "params.", "tags.", "summary.", "config.")


@lru_cache(maxsize=_REMEMBERED)
def last_part(header: str) -> str:
    """The last part of a name with a path: n_params of model.n_params, tokens_seen of train/tokens_seen."""
    return re.split(r"[./]", header.rstrip("./"))[-1].strip()


def without_prefix(header: str) -> str:
    """A name without the prefix that MLflow and exports of W&B put before it."""
    return next((header.removeprefix(prefix) for prefix in _PREFIXES if header.startswith(prefix)), header)


def is_known(header: str) -> bool:
    """True for a header that names a field, a loss, or the state of a run."""
    return (
        field_of(header) is not None
        or folded(header) in ("run", "n", "d", "l", "c", "id", "state", "status")
        or loss_name(header) is not None
        or field_of(last_part(header)) is not None
    )

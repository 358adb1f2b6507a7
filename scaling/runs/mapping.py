"""Which column of a table is which field of a run: by name, by what a header means, and by what exports call it."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from families.units import BadInput, nearest, parse_size

from .columns import (
    SCALED,
    LossUnit,
    field_of,
    folded,
    header_factor,
    is_qualified,
    last_part,
    loss_name,
    stated_factor,
    without_prefix,
    without_unit,
)
from .run import Run
from .words import (
    ALIASES,
    EXIT_CODES,
    EXPORTS,
    FALSE,
    FLAGS,
    HELPER_NAMES,
    LIKE,
    LOGARITHMS,
    NATS,
    PEAKS,
    PLAINLY_MEANT,
    SCORE,
    STATES,
    SYNONYMS,
    TOKENIZERS,
    TRUE,
    WHOLE_BATCH,
)

FIELDS = tuple(Run.model_fields)

STATE = "state"  # of a run, like finished or crashed; no field of Run

# What fields of a run are derived from; a cell of the later ones that is no number says nothing.
LENIENT = ("max_steps", "samples", "micro_batch", "devices", "tokens_per_param", "epochs")
HELPERS = ("steps", "batch", "grad_accumulation", "total_flos", STATE, *LENIENT)

REQUIRED = ("params", "tokens", "loss")


_NUMBERS = ("n_positions", "batch", "grad_accumulation")  # what a user may give in place of a column, too


_LISTED = 60  # columns that a message lists


_EXAMPLES = {"params": "124M", "tokens": "2.5B"}


_LAWS_LOSS = "a law's losses are per token"

PER_BYTE = (
    "bits per byte, and a law's losses are per token: add a column loss of nats per token, which are "
    "bits per byte × ln 2 × bytes per token"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The column that a field is read from, and the factor that its header states."""

    header: str
    factor: float = 1.0
    constant: float | None = None  # the value of every row, where a user gave one in place of a column


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapped:
    """The columns of a table by field of a run, and what was decided on the way.

    Attributes:
        sources: by field of `Run`, and of HELPERS.
        guessed: fields whose columns have other names than the fields.
        notes: a line for each choice that the user may want to make otherwise.
        batches_by_length: the user gave the context length, which makes tokens of batches in sequences.
        flags: columns that say of which rows a run did not finish.
    """

    sources: dict[str, Source]
    guessed: tuple[str, ...]
    notes: tuple[str, ...]
    batches_by_length: bool = False
    flags: tuple["Flag", ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """A column of truth values or exit codes, and the state of the rows in which it holds `when`."""

    header: str
    state: str
    when: bool

    def state_of(self, value: object) -> str | None:
        """The state that a cell says, None where it says none: of a crashed=True, or an exit code of 137."""
        if self.state == "exit code":
            code = str(value).strip().partition(":")[0].removesuffix(".0")
            return f"exit code {code}" if re.fullmatch(r"-?[0-9]{1,6}", code) and int(code) else None
        word = str(value).strip().lower().removesuffix(".0")
        said = True if word in TRUE else False if word in FALSE else None
        return self.state if said is self.when else None


@dataclass(slots=True)
class _Choice:
    """The state of `map_columns`."""

    header: Sequence[str]
    sources: dict[str, Source] = field(default_factory=dict)
    guessed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def free(self) -> list[str]:
        used = {source.header for source in self.sources.values()}
        return [name for name in self.header if name not in used]

    def take(self, name: str, header: str, factor: float = 1.0, note: str = "") -> None:
        self.sources[name] = Source(header=header, factor=factor)
        if header != name:
            self.guessed.append(name)
        if factor != 1:
            note = note or f"{name} is read from {header!r}"
            note += f" in units of {factor:g}"
        if note:
            self.notes.append(note)


def parse_columns(text: str) -> dict[str, str]:
    """Parse "params=N,tokens=D" into the file's column of each field.

    A column may hold commas and may stand in quotes: loss=word_perplexity,none or loss="a,b=c".

    Raises:
        BadInput: a part without "=", an unknown field, or one given twice.
    """
    names: dict[str, str] = {}
    for part in _column_parts(text):
        name, equals, column = (word.strip() for word in part.partition("="))
        if len(column) > 1 and column[0] == column[-1] == '"':
            column = column[1:-1]
        if not (equals and column):
            raise BadInput(f"columns has {part!r}; it must be like params=N,tokens=D")
        check_field(name)
        if name in names:
            raise BadInput(f"columns names {name} twice: {names[name]!r} and {column!r}")
        names[name] = column
    return names


def _column_parts(text: str) -> list[str]:
    """The parts of "a=b,c=d": a comma separates them where a word and "=" follow, outside of quotes."""
    parts: list[str] = []
    for piece in text.split(","):
        quoted = bool(parts) and parts[-1].count('"') % 2 == 1
        word, equals, _ = piece.partition("=")
        if parts and (quoted or not (equals and word.strip().replace("_", "").isalnum())):
            parts[-1] += f",{piece}"
        else:
            parts.append(piece)
    return [part.strip(" ,") for part in parts if part.strip(" ,")]


def check_field(name: str) -> None:
    """Check the name of a field that a user maps a column to.

    Raises:
        BadInput: it is neither a field of `Run` nor one that such are derived from; with the nearest.
    """
    if name not in FIELDS and name not in HELPERS:
        raise BadInput(f"columns names {name!r}; {nearest(name, (*FIELDS, *HELPERS))}")


def check_columns(names: Mapping[str, str], columns: Collection[str], path: object) -> None:
    """Check that a file has the columns that `column_names` maps to.

    Raises:
        BadInput: naming a missing column, with the nearest.
    """
    for name, column in names.items():
        if column not in columns:
            raise BadInput(
                f"columns says {name}={column}; {path} has no column {column!r}: {nearest(column, columns, _LISTED)}"
            )


def is_export(header: Collection[str]) -> bool:
    """True for the columns of a table of runs as a tracker (W&B, MLflow) exports it."""
    names = set(header)
    return any(mark <= names for mark in EXPORTS) or any(
        name.startswith(("config.", "summary.", "metrics.", "params.")) for name in names
    )


def refuse_curves(header: Sequence[str], path: object) -> None:
    """Refuse the export of one panel of W&B: curves, a column for each run.

    Raises:
        BadInput: saying what to export instead.
    """
    ends = Counter(name.rpartition(" - ")[2] for name in header[1:] if " - " in name)
    panel = {
        end
        for end, count in ends.items()
        if end.endswith(("__MIN", "__MAX")) or (count > 1 and loss_name(end))
    }
    runs = {
        name.rpartition(" - ")[0]
        for name in header[1:]
        if " - " in name and name.rpartition(" - ")[2] in panel
    }
    if runs:
        raise BadInput(
            f"{path} is the export of one W&B panel: the curves of {len(runs)} runs over {header[0]!r}, without their sizes "
            "and tokens; export the table of runs instead (Runs, then Export as CSV), with columns for parameters, tokens "
            "and the held-out loss"
        )


def map_columns(
    header: Sequence[str],
    names: Mapping[str, str],
    constant: Collection[str] = (),
    *,
    path: object = "the table",
) -> Mapped:
    """Map the columns of a table to the fields of a run.

    Args:
        header: the table's columns.
        names: columns that a user named, by field; they count before all others.
        constant: columns that hold one value only, which hence do not name runs.
        path: of the table, for messages.

    Raises:
        BadInput: a named column is missing, or several columns may hold the loss.
    """
    choice = _Choice(header=header)
    check_columns(
        {name: column for name, column in names.items() if not _is_constant(name, column, header)},
        header,
        path,
    )
    for name, column in names.items():
        if _is_constant(name, column, header):
            choice.sources[name] = Source(header=column, constant=parse_size(column, name))
            choice.notes.append(f"{name} is {column} in every row")
            continue
        choice.take(name, column, stated_factor(column) if name in SCALED else 1.0)
    export = is_export(header)
    for name in (*FIELDS, "flops_per_token"):
        if name not in names and name in choice.free:
            choice.take(name, name)
    for name in FIELDS:
        if name not in choice.sources:
            _take_spelled(choice, name)
    if "loss" not in names:
        _take_loss(choice, path)
    for name in (*FIELDS, *HELPER_NAMES):
        plain = export or name in HELPER_NAMES or name in PLAINLY_MEANT
        if name not in choice.sources and name != "loss" and plain:
            _take_meant(choice, name, export)
    if "tokens" not in choice.sources and _guess("tokens", choice.free) is None:
        for name in (
            "compute",
            "batch_tokens",
            "n_positions",
            "unique_tokens",
        ):  # what tokens are derived from
            if name not in choice.sources:
                _take_meant(choice, name, export)
    choice.notes += _unread_settings(choice, "n_positions" in names)
    if "run" not in choice.sources and export:
        _take_run(choice, constant)
    if not {"group", "vocab_size"} & choice.sources.keys():
        for header in choice.free:
            if folded(last_part(header)) in TOKENIZERS and header not in constant:
                choice.take(
                    "group",
                    header,
                    note=f"group is read from {header!r}: losses of two tokenizers do not compare",
                )
                break
    batch = choice.sources.get("batch")
    if batch is not None and folded(last_part(batch.header)).startswith(WHOLE_BATCH):
        choice.sources.pop("grad_accumulation", None)
    if STATE not in choice.sources:
        states = [name for name in choice.free if folded(last_part(name)) in STATES]
        if states:
            choice.sources[STATE] = Source(header=states[0])
    return Mapped(
        sources=choice.sources,
        guessed=tuple(choice.guessed),
        notes=tuple(choice.notes),
        flags=tuple(filter(None, map(_flag, choice.free))),
        batches_by_length="n_positions" in names,
    )


def _flag(header: str) -> Flag | None:
    name = folded(last_part(header))
    if name in EXIT_CODES:
        return Flag(header=header, state="exit code", when=True)
    state, when = FLAGS.get(name, ("", True))
    return Flag(header=header, state=state, when=when) if state else None


def _unread_settings(choice: _Choice, length_given: bool) -> list[str]:
    """A note on each column that states a learning rate or a batch in a way that no law takes."""
    sources = choice.sources
    notes = [
        f"{header!r} is not read: lr is the peak rate itself, not its logarithm"
        for header in choice.free
        if "lr" not in sources and folded(last_part(header)) in LOGARITHMS
    ]
    if {"batch", "tokens"} <= sources.keys() and not (
        length_given or {"batch_tokens", "steps"} & sources.keys()
    ):
        batch = _quoted(sources["batch"].header)
        lengths = [sources["n_positions"].header] if "n_positions" in sources else []
        lengths += [header for header in choice.free if field_of(header) == "n_positions"]
        notes.append(
            f"batches are not read from {batch!r}, whose unit is not stated: if sequences, --columns n_positions="
            f"{lengths[0] if lengths else 2048} makes tokens of them; if tokens, --columns batch_tokens={batch}"
        )
    return notes


def differing(header: Iterable[str], constant: Collection[str], mapped: Mapped) -> list[str]:
    """Columns of data, architecture and the like that are not read and in which the rows differ."""
    used = {source.header for source in mapped.sources.values()}
    return [
        name
        for name in header
        if name not in used and name not in constant and folded(last_part(name)) in LIKE
    ]


def _is_constant(name: str, column: str, header: Collection[str]) -> bool:
    """True for a size in place of a column: params=124M, where the table is that of one model."""
    if name not in (*SCALED, *_NUMBERS) or column in header or not column[:1].isdigit():
        return False
    try:
        return parse_size(column, name) > 0
    except BadInput:
        return False


def _take_spelled(choice: _Choice, name: str) -> None:
    """A header that is the field's own name in another spelling, with or without a unit: Params, "Tokens (B)"."""
    own = folded(name)
    for header in choice.free:
        if folded(header) == own:
            choice.take(name, header)
            return
    if name in SCALED:
        for header in choice.free:
            factor = header_factor(header, name)
            if field_of(header) == name and (factor != 1 or is_qualified(header)):
                choice.take(name, header, factor, "" if factor != 1 else f"{name} is read from {header!r}")
                return


def _take_loss(choice: _Choice, path: object) -> None:
    """The held-out loss, which counts before a training loss beside it; both are named."""
    stated = choice.sources.get("loss")
    if stated is not None and "eval_set" in choice.sources:
        return
    held = {
        header: loss
        for header in choice.free
        if (loss := loss_name(header)) is not None and loss.held_out and not loss.training
        if loss.unit == "nats" and not loss.per
    }
    if not held:
        if stated is None:
            _take_nats(choice)
        return
    plain = [header for header, loss in held.items() if not loss.eval_set]
    if not plain and len(held) > 1:
        shown = ", ".join(map(repr, held))
        first = next(iter(held))
        raise BadInput(
            f"{path} has {len(held)} held-out losses, {shown}; a law is fitted to one: --columns loss={_quoted(first)}"
        )
    header = min(plain or held, key=_standing)
    beside = [name for name in (*([stated.header] if stated else []), *choice.free) if name != header]
    others = [
        name
        for name in beside
        if (loss := loss_name(name)) is not None and loss.unit == "nats" and not loss.per
    ]
    note = f"loss is read from {header!r}, which is held out"
    if others:
        note += f", and not from {', '.join(map(repr, others[:6]))}: --columns loss={_quoted(others[0])} reads that"
    choice.take("loss", header, note=note)


_SECOND = frozenset(
    ("best", "ema", "swa", "first", "start")
)  # of the weights or moments that a law is not of


def _standing(header: str) -> int:
    """Order of two held-out losses: the last one of validation text, that of test text, one of other weights or moments."""
    words = set(re.findall("[a-z]+", header.lower()))
    return 2 * bool(words & _SECOND) + ("test" in header.lower())


def _take_nats(choice: _Choice) -> None:
    """A loss that says its unit and no more: "Loss (nats/token)"."""
    for header in choice.free:
        loss = loss_name(header)
        if (
            loss is not None
            and loss.unit == "nats"
            and not (loss.per or loss.training)
            and folded(header) in NATS
        ):
            choice.take("loss", header)
            return


def _quoted(column: str) -> str:
    return f'"{column}"' if "=" in column else column


def _take_meant(choice: _Choice, name: str, export: bool) -> None:
    """A header that means the field; in an export by its last part, where exactly one does."""
    helper, synonyms = HELPER_NAMES.get(name), SYNONYMS.get(name, ())

    def means(header: str) -> bool:
        parts = {header, last_part(header), without_prefix(header)} if export else {header}
        if helper is not None:
            return any(folded(part) in helper for part in parts)
        if any(folded(part) in synonyms for part in parts):
            return True
        return any(field_of(part) == name or folded(part) == folded(name) for part in parts)

    found = [header for header in choice.free if means(header)]
    if not found:
        return
    shallow = min(header.count(".") + header.count("/") for header in found)
    nearest_ones = [header for header in found if header.count(".") + header.count("/") == shallow]
    if len(nearest_ones) > 1 and helper is None and name in REQUIRED:
        return
    header = min(nearest_ones, key=lambda one: folded(last_part(one)) not in PEAKS)
    factor = header_factor(header, name) if name in SCALED else 1.0
    choice.take(name, header, factor, "" if helper is not None else f"{name} is read from {header!r}")


def _take_run(choice: _Choice, constant: Collection[str]) -> None:
    for header in (
        "Name",
        "tags.mlflow.runName",
        "name",
        "run_name",
        "Run Name",
        "sys/name",
        "rev",
        "sys/id",
        "run_id",
        "Run ID",
        "NAME",
        "trial_id",
        "TrainingJobName",
    ):
        if header in choice.header and header not in constant:
            choice.take("run", header)
            return


def guess_run(columns: Iterable[str], fields: Collection[str], constant: Collection[str]) -> str | None:
    """The column that seems to name training runs; none that holds one value only."""
    return _guess("run", [name for name in columns if name not in fields and name not in constant])


def _guess(name: str, columns: Iterable[str]) -> str | None:
    """The column that an alias of a field names, by its whole name or else by its last part."""
    columns = list(columns)
    for part in (str, last_part, without_unit):
        by_alias = {folded(part(column)): column for column in columns}
        found = next(
            (by_alias[alias] for alias in reversed(ALIASES.get(name, ())) if alias in by_alias), None
        )
        if found is not None:
            return found
    meant = [column for column in columns if name in (field_of(column), field_of(last_part(column)))]
    return meant[0] if len(meant) == 1 else None


def missing_columns(
    columns: Collection[str],
    fields: Collection[str],
    constant: Collection[str] = (),
    *,
    given: Mapped | None = None,
) -> str:
    """Say which columns a table of runs lacks, and which --columns would supply them.

    Args:
        columns: the table's columns.
        fields: the fields of a run.
        constant: columns that hold one value only, which hence do not name runs.
        given: the columns that were found for some fields.

    Returns:
        the end of a message that begins with the file's name; empty where nothing is missing.
    """
    found = dict.fromkeys(columns) if given is None else given.sources
    missing = [name for name in REQUIRED if name not in found]
    if "params_non_embedding" in found and "params" in missing:
        missing.remove("params")
    if not missing:
        return ""
    used = set() if given is None else {source.header for source in given.sources.values()}
    free = [name for name in columns if name not in fields and name not in used]
    guesses = {name: column for name in missing if (column := _guess(name, free)) is not None}
    if (
        "params" in missing
        and "params" not in guesses
        and (body := _guess("params_non_embedding", free)) is not None
    ):
        missing[missing.index("params")] = "params_non_embedding"
        guesses = {"params_non_embedding": body, **guesses}
    if "run" not in found and (run := guess_run(columns, fields, constant)) is not None:
        guesses = {"run": run, **guesses}
    if given is not None:
        guesses |= {name: given.sources[name].header for name in given.guessed if name in REQUIRED}
    unit, hint = "", ""
    if "loss" in guesses and (named := loss_name(guesses["loss"])) is not None and named.unit != "nats":
        unit = f" --loss-unit {named.unit}"
    if "loss" in missing and "loss" not in guesses:
        losses = {name: loss for name in free if (loss := loss_name(name)) is not None}
        other = next((name for name, loss in losses.items() if not loss.per), None)
        foreign = next((name for name, loss in losses.items() if loss.per), None)
        if other is not None:
            guesses["loss"] = other
            unit = "" if losses[other].unit == "nats" else f" --loss-unit {losses[other].unit}"
        elif foreign is not None:
            hint = f"{foreign} looks like {per_text(losses[foreign].unit, losses[foreign].per)}"
    if not hint and set(missing) <= set(guesses):
        hint = "--columns " + ",".join(f"{name}={_quoted(column)}" for name, column in guesses.items()) + unit
    elif not hint:
        unknown = next(name for name in missing if name not in guesses)
        hint = f"--columns {unknown}=… names the file's own"
        if unknown in SCALED:
            hint += f", and --columns {unknown}={_EXAMPLES.get(unknown, '1e18')} gives that of every row"
        if unknown == "tokens" and "batch" in found:
            hint += "; or n_positions=2048 makes them steps × batch × context"
        elif unknown == "tokens" and "steps" in found:
            hint += "; or batch_tokens=524288 makes them steps × batch_tokens"
        elif "tokens" in missing and "tokens" not in guesses and "steps" in found:
            hint += "; batch_tokens=524288 makes tokens steps × that, as in --columns params=124M,batch_tokens=524288"
    shown = ", ".join(list(columns)[:_LISTED]) + (", …" if len(columns) > _LISTED else "")
    sizes = ("params", "params_non_embedding")
    lacks = ", ".join("params or params_non_embedding" if name in sizes else name for name in missing)
    return f"has no column {lacks}; it has {shown}: {_shell(hint)}"


def _shell(hint: str) -> str:
    """A hint to paste: with quotes where a column's name has spaces."""
    words = hint.split(" --loss-unit ")
    option, _, value = words[0].partition(" ")
    if option != "--columns" or "…" in value or not set(value) & set(" ()&|;'*?$[]"):
        return hint
    return " --loss-unit ".join(
        [f'--columns "{value}"' if '"' not in value else f"--columns '{value}'", *words[1:]]
    )


def per_text(unit: LossUnit, per: str) -> str:
    """What a loss per word, byte or character is, and what a law needs."""
    if (unit, per) == ("bits", "byte"):
        return PER_BYTE
    what = {"ppl": "a perplexity", "bits": "bits", "nats": "nats"}[unit]
    turned = {
        "ppl": f"ln(perplexity) × {per}s per token",
        "bits": f"bits × ln 2 × {per}s per token",
        "nats": f"nats × {per}s per token",
    }
    return (
        f"{what} per {per}, and {_LAWS_LOSS}: add a column loss of nats per token, which are {turned[unit]}"
    )


def unit_warning(column: str, unit: str) -> str:
    """A warning where the name of the loss's column suggests another unit than the one it is read in, else nothing."""
    loss = loss_name(column)
    if loss is None:
        score = SCORE.search(column.lower())
        return f"{column} is read as {unit} per token, and its name suggests a score" if score else ""
    if loss.per:
        return f"{column} looks like {per_text(loss.unit, loss.per)}; it is read as {unit} per token"
    if loss.unit == unit.partition("+")[0]:
        if loss.training and not loss.held_out:
            return f"loss is read from {column!r}, a training loss: a law of held-out loss needs that of text not trained on"
        return ""
    return f"{column} is read as {unit}, and its name suggests {loss.unit}: --loss-unit {loss.unit}"

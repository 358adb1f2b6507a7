"""Published tables and lists: cells of CSV, JSONL and Markdown, their fields, and numbers with their rounding."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from families.units import BadInput

from ..files import read_text
from ..runs.store import merged_text
from ..untrusted import parse_csv, parse_json

_FACTORS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}
_FACTORS |= {"thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12}
_NUMBER = re.compile(
    r"[~≈]?\s*([0-9]{1,3}(?:,[0-9]{3})+|[0-9][0-9_]*)(\.[0-9]+)?(?:e([+-]?[0-9]+))?\s*(thousand|million|billion|trillion|[kmbgt])?"
    r"(?:\s+\w+|\s*\(.*\)|\s*)?",
    re.IGNORECASE,
)

_PERCENT = re.compile(r"[~≈]?\s*([0-9]+(?:\.[0-9]+)?)\s*(?:%|per ?cent)", re.IGNORECASE)
_WHOLE = re.compile(r"[0-9]{1,7}(?:,[0-9]{3})?")
_CLOCK = re.compile(r"([0-9]+):([0-5][0-9])(?::([0-5][0-9]))?")
_LARGEST_EXPONENT = 60  # beyond any count here
_LARGEST_SHARE = 1.5  # a bare MFU above this is in per cent
_NAMED_SIZE = re.compile(
    r"(?:(?<![a-z0-9.])|(?<=[a-z]{3}))([0-9]+(?:\.[0-9]+)?[mb])(?![a-z0-9])", re.IGNORECASE
)
_LONGEST_NUMBER = 200  # characters of a cell that may hold a number and a remark, and of a header
_LONGEST_LINE = 10_000  # characters of prose that are searched for numbers
_ROUNDED = 4  # an integer with at most so many digits before its trailing zeros is taken as rounded


@dataclass(frozen=True, slots=True, kw_only=True)
class StatedNumber:
    """A number as printed: its text, its value, and the value of one unit in its last digit."""

    text: str
    value: float
    unit: float

    def agrees(self, value: float) -> bool:
        """True if `value`, rounded or truncated, prints as this number."""
        return -self.unit / 2 * (1 + 1e-9) <= value - self.value < self.unit

    def rounds(self, value: float) -> bool:
        """True if `value` rounds to this number."""
        return abs(value - self.value) <= self.unit / 2 * (1 + 1e-9)

    @property
    def relative(self) -> float:
        """Rounding error, half a unit, as a share of the value."""
        return self.unit / 2 / self.value


def parse_stated(text: str) -> StatedNumber | None:
    """Parse 53.9M, 117 million, 1,234, 2.6e18, 02:44 (hours) or "3.38 (rising)"; None without a number above 0."""
    words = text.strip().strip("`*$")
    if len(words) > _LONGEST_NUMBER:
        return None
    clock = _CLOCK.fullmatch(words)
    if clock:
        hours, minutes, seconds = int(clock[1]), int(clock[2]), int(clock[3] or 0)
        unit, value = 1 / 3600 if clock[3] else 1 / 60, hours + minutes / 60 + seconds / 3600
        return StatedNumber(text=words, value=value, unit=unit) if value else None
    match = _NUMBER.fullmatch(words)
    if match is None:
        return None
    integer, decimals, exponent, word = match.groups()
    digits = re.sub("[_,]", "", integer)
    if abs(int(exponent or 0)) > _LARGEST_EXPONENT or len(digits) > _LARGEST_EXPONENT:
        return None
    factor = _FACTORS[(word or "").lower()] * 10.0 ** int(exponent or 0)
    value = float(digits + (decimals or "")) * factor
    if value <= 0:
        return None
    unit = 10.0 ** -(len(decimals) - 1 if decimals else 0) * factor
    zeros = len(digits) - len(digits.rstrip("0"))
    if exponent and not decimals:
        unit = 0.1 * factor  # 2e+20 stands for 2.0e20: printers drop the zero
    elif not decimals and zeros >= 3 and len(digits) - zeros <= _ROUNDED:
        unit = 10.0 ** (zeros - (len(digits) == zeros + 1)) * factor  # 1000000000 stands for 1.0B
    elif not decimals and zeros and word and len(digits) > 2:
        unit = 10.0 ** min(zeros, len(digits) - 2) * factor  # 340 million may stand for 335
    return StatedNumber(text=words, value=value, unit=unit)


def parse_share(text: str, *, percent: bool = False) -> StatedNumber | None:
    """Parse a share: 46%, 0.46, or 46 under a header in per cent; a bare number above 1.5 is taken as per cent."""
    match = _PERCENT.fullmatch(text.strip().strip("`*$"))
    number = parse_stated(match[1] if match else text)
    if number is None:
        return None
    scale = 0.01 if match or percent or number.value > _LARGEST_SHARE else 1.0
    return StatedNumber(text=text.strip(), value=number.value * scale, unit=number.unit * scale)


def size_in(name: str) -> StatedNumber | None:
    """The size in a model's name, 52M of "GPT-2 52M" and 15M of "stories15M"; None without one."""
    match = _NAMED_SIZE.search(name)
    return parse_stated(match[1].upper()) if match else None


# Field to its headers without case, spaces and signs: the fields of Run, and those of published tables.
_FIELDS = {
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
    "params": "params param parameters parameter nparams nparameters numparams totalparams modelsize paramcount totalparameters",
    "params_active": "activeparams activeparameters activatedparams activatedparameters nactiveparams "
    "paramsactive activatedparamcount nactiveparameters",
    "params_non_embedding": "paramsnonembedding nonembeddingparameters nonembeddingparams nonembparams",
    "tokens": "tokens trainingtokens traintokens ntokens numtokens",
    "unique_tokens": "uniquetokens ntokensunique tokensunique distincttokens",
    "steps": "steps step trainingsteps iterations",
    "batch_tokens": "batchtokens tokensperbatch batchsizetokens",
    "batch": "batch batchsize globalbatchsize trainbatchsize",
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
    "annealed": "annealed",
}

_BY_HEADER = {header: field for field, headers in _FIELDS.items() for header in headers.split()}

_TEXT = ("name", "accelerator", "architecture", "group", "data", "annealed")
_HELD_OUT = re.compile(r"val|eval|test|held", re.IGNORECASE)  # of two columns of losses, the one to read
# Units in a header, and the fields they scale: "Params (M)", "tokens_B", "FLOPs (1e18)", "Compute [PF-days]".
_UNITS = {
    "k": 1e3,
    "m": 1e6,
    "b": 1e9,
    "g": 1e9,
    "bn": 1e9,
    "mio": 1e6,
    "t": 1e12,
    "p": 1e15,
    "e": 1e18,
    "z": 1e21,
}
_UNITS |= {
    f"{word}{ending}": _FACTORS[word]
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
_SCALED = (
    "params",
    "params_active",
    "params_non_embedding",
    "tokens",
    "unique_tokens",
    "batch_tokens",
    "compute",
)
_SUFFIX = re.compile(
    r"(.*?)(?:\s*[(\[]\s*(?:in\s+|x\s*|×\s*)?([^)\]]+?)\s*[)\]]|[ _]in[ _]([a-z]+)|[_ /]([kmbtKMBT]))\s*"
)
_POWER = re.compile(r"(?:10\s*(?:\^|\*\*)\s*|1?e\+?)([0-9]{1,2})", re.IGNORECASE)
_NOT_HOURS = re.compile(
    r"\$|€|usd|eur|price|cost|per[ _-]?hour|/\s*(?:gpu[ -]?)?h|tokens?\b|kwh|watt", re.IGNORECASE
)
_BLANK = frozenset(("", "-", "–", "—", "?", "n/a", "na", "none", "null", "nan", "tbd", "..."))


@dataclass(frozen=True, slots=True, kw_only=True)
class TableEntry:
    """A model or run in a table or a list.

    Attributes:
        name: as printed, "" without one.
        where: its name, its line, or both, for findings.
        table: number of its table in the document; -1 for prose.
        numbers: by field; some may come from another table, joined by name.
        words: texts by field.
        headers: the column that each field was read from.
    """

    name: str
    where: str
    table: int
    numbers: dict[str, StatedNumber]
    words: dict[str, str]
    headers: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceTable:
    """Rows of cells under a header, with the line of each row."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[int, ...]

    def fields(self) -> tuple[str | None, ...]:
        """The field of each column, None where it is unknown."""
        return tuple(field_of(header) for header in self.header)

    def columns(self) -> tuple["_Column", ...]:
        """The known columns; of several for one loss the held-out one first, then as they stand."""
        known = [
            _Column(place=place, header=header, field=field, factor=header_factor(header, field))
            for place, (header, field) in enumerate(zip(self.header, self.fields(), strict=True))
            if field is not None
        ]
        return tuple(
            sorted(known, key=lambda column: column.field == "loss" and not _HELD_OUT.search(column.header))
        )

    def renamed(self, names: Mapping[str, str]) -> "SourceTable":
        """The table with field names in place of the headers that `names` maps them to: {"params": "N"}."""
        fields = {header: field for field, header in names.items()}
        return replace(self, header=tuple(fields.get(header, header) for header in self.header))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Column:
    """A known column: its place and header, its field, and the factor that its header states."""

    place: int
    header: str
    field: str
    factor: float


def folded(text: str) -> str:
    """Lower-case letters and digits only: "$n_{layer}$" becomes nlayer."""
    return "".join(letter for letter in text.lower() if letter.isalnum())


def field_of(header: str) -> str | None:
    """The field that a header names, None where it is unknown; hours may name hardware: "Training Hours on 8xA100s"."""
    if len(header) > _LONGEST_NUMBER:  # the patterns try each part of a run of spaces or brackets
        return None
    bare = folded(re.sub(r"\\[a-z]+", "", header))
    known = _BY_HEADER.get(bare)
    if known is None and "hour" in bare:
        return None if _NOT_HOURS.search(header) else "hours"
    if known is not None:
        return known
    match = _SUFFIX.fullmatch(header)
    known = _BY_HEADER.get(folded(re.sub(r"[(\[].*?[)\]]", "", header)))
    if known is None and match and _factor(match) is not None:
        known = _BY_HEADER.get(folded(match[1]))
    return known


def header_factor(header: str, field: str) -> float:
    """The factor that a header states for its column: 1e6 for "Params (M)", 8.64e19 for "Compute (PF-days)"; else 1."""
    match = _SUFFIX.fullmatch(header) if field in _SCALED and _BY_HEADER.get(folded(header)) is None else None
    if match is None:
        return 1.0
    unit = folded(next(filter(None, match.groups()[1:]), ""))
    if field == "compute" and unit in _COMPUTE_UNITS:
        return _COMPUTE_UNITS[unit]
    return _factor(match) or 1.0


def _factor(match: re.Match[str]) -> float | None:
    """The factor of a header's suffix; None where it is no unit of number."""
    unit = next(filter(None, match.groups()[1:]), "").strip()
    power = _POWER.fullmatch(unit)
    return 10.0 ** int(power[1]) if power else _UNITS.get(folded(unit), _COMPUTE_UNITS.get(folded(unit)))


def read_tables(path: Path) -> tuple[SourceTable, ...]:
    """All tables of a .csv, .tsv, .jsonl or Markdown file.

    Raises:
        BadInput: no such file, another kind of file, or a CSV or JSONL file without rows.
    """
    kind = path.suffix.lower()
    if kind not in (".csv", ".tsv", ".jsonl", ".md", ".markdown"):
        raise BadInput(f"{path} is not a table: it must end in .csv, .tsv, .jsonl or .md")
    if kind == ".jsonl":
        return (_jsonl(merged_text(path), path),)
    text = read_text(path)
    if kind in (".csv", ".tsv"):
        return (_csv(text, path, "\t" if kind == ".tsv" else ","),)
    return markdown_tables(text)


def markdown_tables(text: str) -> tuple[SourceTable, ...]:
    """The pipe tables of a Markdown text."""
    return tuple(_markdown(text.split("\n")))


def _csv(text: str, path: Path, delimiter: str) -> SourceTable:
    rows, lines = [], []
    for number, row in parse_csv(text, delimiter):
        if isinstance(row, str):
            raise BadInput(f"{path} line {number}: {row}")
        if any(cell.strip() for cell in row):
            rows.append(tuple(cell.strip() for cell in row))
            lines.append(number)
    if len(rows) < 2:
        raise BadInput(f"{path} has {max(0, len(rows) - 1)} rows under a header; at least 1 is needed")
    return SourceTable(header=rows[0], rows=tuple(rows[1:]), lines=tuple(lines[1:]))


def _jsonl(text: str, path: Path) -> SourceTable:
    objects: list[tuple[int, dict[str, object]]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = parse_json(line)
        except json.JSONDecodeError as error:
            raise BadInput(f"{path} line {number} is not JSON: {error.msg}") from error
        if not isinstance(value, dict):
            raise BadInput(f"{path} line {number} is not a JSON object but {type(value).__name__}")
        if "kind" not in value:
            objects.append((number, value))
    if not objects:
        raise BadInput(f"{path} has 0 runs; at least 1 is needed")
    header = tuple(dict.fromkeys(name for _, value in objects for name in value))
    rows = tuple(tuple(_printed(value.get(name)) for name in header) for _, value in objects)
    return SourceTable(header=header, rows=rows, lines=tuple(number for number, _ in objects))


def _printed(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def _cells(line: str) -> tuple[str, ...] | None:
    """The cells of "| a | b |"; None for other lines."""
    words = line.strip()
    if words.count("|") < 2 or not words.startswith("|"):
        return None
    inner = words[1:-1] if words.endswith("|") else words[1:]
    return tuple(cell.strip() for cell in re.split(r"(?<!\\)\|", inner))


def _markdown(lines: Sequence[str]) -> Iterator[SourceTable]:
    index = 0
    while index + 1 < len(lines):
        header, rule = _cells(lines[index]), _cells(lines[index + 1])
        if header is None or rule is None or not all(re.fullmatch(r":?-+:?", cell) for cell in rule):
            index += 1
            continue
        rows, numbers = [], []
        index += 2
        while index < len(lines) and (cells := _cells(lines[index])) is not None:
            rows.append(cells)
            numbers.append(index + 1)
            index += 1
        if rows:
            yield SourceTable(header=header, rows=tuple(rows), lines=tuple(numbers))


def entries(tables: Sequence[SourceTable]) -> tuple[TableEntry, ...]:
    """Every row with its fields; rows of several tables with one name become one entry."""
    merged: list[TableEntry] = []
    by_name: dict[str, list[int]] = {}  # entries of earlier tables, by folded name and by the size in it
    by_size: dict[str, list[int]] = {}
    for number, table in enumerate(tables):
        columns = table.columns()
        added = [
            _entry(number, table, columns, row, line)
            for row, line in zip(table.rows, table.lines, strict=True)
        ]
        names = Counter(entry.name for entry in added)
        start = len(merged)
        for entry in added:
            index = _matching_index(entry, by_name, by_size) if names[entry.name] == 1 else None
            if index is None:
                merged.append(entry)
            else:
                first = merged[index]
                merged[index] = replace(
                    first,
                    numbers={**entry.numbers, **first.numbers},
                    words={**entry.words, **first.words},
                    headers={**entry.headers, **first.headers},
                )
        if number + 1 == len(tables):
            break
        for index in range(start, len(merged)):
            name = merged[index].name
            by_name.setdefault(folded(name), []).append(index)
            if size := size_in(name):
                by_size.setdefault(size.text, []).append(index)
    names = Counter(entry.name for entry in merged)
    return tuple(
        replace(entry, where=entry.name) if entry.name and names[entry.name] == 1 else entry
        for entry in merged
    )


def _entry(
    number: int, table: SourceTable, columns: Sequence[_Column], row: Sequence[str], line: int
) -> TableEntry:
    numbers: dict[str, StatedNumber] = {}
    words: dict[str, str] = {}
    headers: dict[str, str] = {}
    filled = len(row) - (len(row) < len(table.header))  # a short row's last cell is another column's
    for column in columns:
        cell = row[column.place] if column.place < filled else ""
        field = column.field
        if field == "accelerator" and _WHOLE.fullmatch(cell):
            field = "devices"  # a column GPUs that holds their number
        elif field == "devices" and not _WHOLE.fullmatch(cell):
            field = "accelerator"  # and one of numbers that holds 8xA100
        if not cell or field in headers:
            continue
        if field in _TEXT:
            words[field], headers[field] = cell, column.header
        elif (value := _cell_number(cell, column)) is not None:
            numbers[field], headers[field] = value, column.header
    name = words.get("name", "")
    where = f"{name}, line {line}" if name else f"line {line}"
    return TableEntry(name=name, where=where, table=number, numbers=numbers, words=words, headers=headers)


def _cell_number(cell: str, column: _Column) -> StatedNumber | None:
    """The number in a cell, by the unit of its header unless the cell has its own."""
    if column.field == "mfu":
        return parse_share(cell, percent="%" in column.header or "per cent" in column.header.lower())
    value = parse_stated(cell)
    if value is None or column.factor == 1 or re.search("[a-z]", cell.lower().replace("e", "")):
        return value
    if value.value >= column.factor:  # 124000000 under "Params (M)" is not in millions
        return value
    return replace(value, value=value.value * column.factor, unit=value.unit * column.factor)


def reading_notes(tables: Sequence[SourceTable]) -> tuple[str, ...]:
    """Notes on reading: unknown columns, second columns of a field, units of columns, cells without a number."""
    notes: list[str] = []
    for number, table in enumerate(tables, start=1):
        prefix = f"table {number}: " if len(tables) > 1 else ""
        columns = table.columns()
        unknown = [
            header for header, field in zip(table.header, table.fields(), strict=True) if field is None
        ]
        if unknown:
            notes.append(f"{prefix}not read: {_shortened(unknown)}")
        first: dict[str, str] = {}
        for column in columns:
            if column.field == "accelerator":
                continue
            other = first.setdefault(column.field, column.header)
            if other != column.header:
                notes.append(f"{prefix}{column.field} is read from {other!r}, not from {column.header!r}")
        for column in columns:
            if column.factor != 1:
                notes.append(f"{prefix}{column.header!r} is read in units of {column.factor:g}")
            if column.field not in _TEXT:
                notes += _unread_cells(prefix, table, column)
    return tuple(notes)


def _unread_cells(prefix: str, table: SourceTable, column: _Column) -> list[str]:
    """The cells of a column of numbers that hold none."""
    bad = [
        (line, row[column.place])
        for row, line in zip(table.rows, table.lines, strict=True)
        if column.place < len(row)
        and row[column.place].strip("`*$ ").lower() not in _BLANK
        and _cell_number(row[column.place], column) is None
    ]
    if not bad:
        return []
    line, text = bad[0]
    cells = "1 cell" if len(bad) == 1 else f"{len(bad)} cells"
    return [
        f"{prefix}{cells} of {column.header!r} hold no positive number, first {text[:40]!r} on line {line}"
    ]


def _shortened(names: Sequence[str], most: int = 12) -> str:
    shown = ", ".join(repr(name[:40]) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def _matching_index(
    entry: TableEntry, by_name: Mapping[str, Sequence[int]], by_size: Mapping[str, Sequence[int]]
) -> int | None:
    """Index of the one entry of an earlier table with the same name, or the same size in its name; else None."""
    if not entry.name:
        return None
    same = by_name.get(folded(entry.name), ())
    if not same and (size := size_in(entry.name)):
        same = by_size.get(size.text, ())
    return same[0] if len(same) == 1 else None


_PROSE_SIZE = r"(?<![\w.])([0-9][0-9,.]{0,30}\s*(?:million|billion|[MBK]\b)?)"

_PHRASES = {
    "n_layer": r"layers?\b",
    "n_embd": r"(?:hidden (?:size|dimensions?|units)|wide\b)",
    "n_head": r"(?:attention )?heads\b",
    "params": r"(?:trainable )?param(?:eter)?s\b",
}

_COUNTED = {
    field: re.compile(rf"{_PROSE_SIZE}[- ]+{phrase}", re.IGNORECASE) for field, phrase in _PHRASES.items()
}

_ASSIGNED = re.compile(r"\b([A-Za-z_]+)=([0-9][0-9_]*)\b")

_LONGEST_TITLE = 300  # characters

_TOTAL = re.compile(rf"model size:\s*{_PROSE_SIZE}", re.IGNORECASE)

_HEADING = re.compile(r"\s*(?:#+\s*(.+?)|\*\*(.+?)\*\*:?|[-*]\s+([\w .-]+):)\s*")

_NAMED = re.compile(r"\s*[-*]\s+`?([A-Za-z][\w .-]*?)`?\s*(\([^)]*\))?\s*(?::|\s[-–—]\s)(.*)")


def prose_entries(text: str) -> tuple[TableEntry, ...]:
    """Entries of lists ("12 layers, 768 hidden size, 117 million parameters") and commands ("NHIDDEN=2048; NLAYERS=24")."""
    return tuple(_prose(text.split("\n")))


def _prose(lines: Sequence[str]) -> Iterator[TableEntry]:
    """Join neighbouring lines to one entry until a field repeats, a heading comes, or a line has a name of its own."""
    heading, family = "", ""
    open_name, open_line, facts, aliases = "", 0, dict[str, StatedNumber](), ""

    def entry() -> TableEntry:
        words = {"name": open_name, "group": family, **({"aliases": aliases} if aliases else {})}
        headers = {"name": "", **dict.fromkeys(facts, "text")}
        where = f"{open_name}, line {open_line}" if open_name else f"line {open_line}"
        return TableEntry(name=open_name, where=where, table=-1, numbers=facts, words=words, headers=headers)

    for number, printed in enumerate(lines, start=1):
        if printed.lstrip().startswith("|"):
            continue
        line = " ".join(printed[:_LONGEST_LINE].split())  # the patterns try each part of a run of spaces
        title = _HEADING.fullmatch(line)
        if title:
            if facts:
                yield entry()
                facts, aliases = {}, ""
            heading = re.sub(
                r"\[([^\]]*)\]\([^)]*\)", r"\1", next(filter(None, title.groups()))[:_LONGEST_TITLE]
            ).strip(": ")
            family = heading if not title[3] else family
            continue
        named = _NAMED.fullmatch(line)
        numbers = _numbers_in(named[3] if named else line)
        if not numbers:
            continue
        if facts and (named or numbers.keys() & facts.keys()):
            yield entry()
            facts, aliases = {}, ""
        if not facts:
            open_name, open_line = (named[1] if named else heading), number
            aliases = ", ".join(re.findall(r"`([0-9.]+[MB])`", named[2] or "")) if named else ""
        facts |= numbers
    if facts:
        yield entry()


def _numbers_in(line: str) -> dict[str, StatedNumber]:
    """Numbers that a line of prose states, by field."""
    numbers: dict[str, StatedNumber] = {}
    for field, pattern in _COUNTED.items():
        match = pattern.search(line)
        if match and (number := parse_stated(match[1].strip(" ,"))) is not None:
            numbers[field] = number
    for name, value in _ASSIGNED.findall(line):
        known = field_of(name)
        if known is not None and (number := parse_stated(value)) is not None:
            numbers.setdefault(known, number)
    total = _TOTAL.search(line)
    if total and (number := parse_stated(total[1].strip())) is not None:
        numbers["params"] = number
    return numbers

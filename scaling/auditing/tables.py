"""Published tables and lists: cells of CSV, JSONL and Markdown, their fields, and numbers with their rounding."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from families.units import BadInput

from ..files import read_text

_FACTORS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}
_FACTORS |= {"thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12}
_NUMBER = re.compile(
    r"[~≈]?\s*([0-9]{1,3}(?:,[0-9]{3})+|[0-9][0-9_]*)(\.[0-9]+)?(?:e([+-]?[0-9]+))?\s*(thousand|million|billion|trillion|[kmbgt])?"
    r"(?:\s+\w+|\s*\(.*\)|\s*)?",
    re.IGNORECASE,
)

_CLOCK = re.compile(r"([0-9]+):([0-5][0-9])(?::([0-5][0-9]))?")
_LARGEST_EXPONENT = 60  # beyond any count here
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


def size_in(name: str) -> StatedNumber | None:
    """The size in a model's name, 52M of "GPT-2 52M"; None without one."""
    match = re.search(r"(?<![a-z0-9.])([0-9]+(?:\.[0-9]+)?[mb])(?![a-z0-9])", name, re.IGNORECASE)
    return parse_stated(match[1].upper()) if match else None


# Field to its headers without case, spaces and signs: the fields of Run, and those of published tables.
_FIELDS = {
    "name": "name model modelname member modelfamilymember familymember run runname variant",
    "n_layer": "nlayer nlayers layer layers numlayers numhiddenlayers nblocks transformerblocks depth",
    "n_embd": "nembd dmodel hidden hiddensize hiddendimension nhidden width modeldim embeddingsize dim",
    "n_inner": "ninner dff ffn ffdim dffn dinner intermediatesize feedforward",
    "d_attn": "dattn dattention attentionwidth",
    "n_head": "nhead nheads head heads attentionheads numheads numattentionheads",
    "params": "params param parameters parameter nparams nparameters numparams totalparams modelsize paramcount",
    "params_non_embedding": "paramsnonembedding nonembeddingparameters nonembeddingparams nonembparams",
    "tokens": "tokens trainingtokens traintokens ntokens numtokens",
    "unique_tokens": "uniquetokens",
    "steps": "steps step trainingsteps iterations",
    "batch_tokens": "batchtokens tokensperbatch batchsizetokens",
    "batch": "batch batchsize globalbatchsize trainbatchsize",
    "n_positions": "npositions context contextlen contextlength ctx seqlen sequencelength maxseqlen",
    "vocab_size": "vocab vocabsize vocabulary vocabularysize",
    "loss": "loss finalloss actualloss valloss validationloss evalloss testloss",
    "loss_train": "trainloss trainingloss",
    "loss_adjusted": "adjvalloss adjustedloss adjloss adjustedvalloss",
    "loss_predicted": "predictedloss predloss",
    "ppl": "perplexity ppl actualperplexity finalperplexity valperplexity validationperplexity evalppl valppl",
    "ppl_predicted": "predictedperplexity predictedppl",
    "compute": "compute flops flop trainingflops trainflops totalflops",
    "wall_s": "walls wallseconds seconds",
    "accelerator": "accelerator acceleratortype hardware gpu gputype gpumodel gpuname device devicetype devicename tpu",
    "devices": "gpus ngpu ngpus numgpu numgpus numberofgpus gpucount devices ndevices numdevices numberofdevices devicecount "
    "accelerators numaccelerators chips nchips numchips tpus",
    "devices_per_node": "gpuspernode devicespernode ngpuspernode acceleratorspernode",
    "nodes": "nodes nnodes numnodes numberofnodes",
    "group": "group family corpus",
    "data": "dataset data corpusname",
    "annealed": "annealed",
}

_BY_HEADER = {header: field for field, headers in _FIELDS.items() for header in headers.split()}

_TEXT = ("name", "accelerator", "devices", "group", "data", "annealed")


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

    def renamed(self, names: Mapping[str, str]) -> "SourceTable":
        """The table with field names in place of the headers that `names` maps them to: {"params": "N"}."""
        fields = {header: field for field, header in names.items()}
        return replace(self, header=tuple(fields.get(header, header) for header in self.header))


def folded(text: str) -> str:
    """Lower-case letters and digits only: "$n_{layer}$" becomes nlayer."""
    return "".join(letter for letter in text.lower() if letter.isalnum())


def field_of(header: str) -> str | None:
    """The field that a header names, None where it is unknown; hours may name hardware: "Training Hours on 8xA100s"."""
    bare = folded(re.sub(r"\\[a-z]+", "", header))
    if "hour" in bare:
        return "hours"
    return _BY_HEADER.get(bare) or _BY_HEADER.get(folded(re.sub(r"\(.*?\)", "", header)))


def read_tables(path: Path) -> tuple[SourceTable, ...]:
    """All tables of a .csv, .tsv, .jsonl or Markdown file.

    Raises:
        BadInput: no such file, another kind of file, or a CSV or JSONL file without rows.
    """
    kind = path.suffix.lower()
    if kind not in (".csv", ".tsv", ".jsonl", ".md", ".markdown"):
        raise BadInput(f"{path} is not a table: it must end in .csv, .tsv, .jsonl or .md")
    text = read_text(path)
    if kind == ".jsonl":
        return (_jsonl(text, path),)
    if kind in (".csv", ".tsv"):
        return (_csv(text, path, "\t" if kind == ".tsv" else ","),)
    return markdown_tables(text)


def markdown_tables(text: str) -> tuple[SourceTable, ...]:
    """The pipe tables of a Markdown text."""
    return tuple(_markdown(text.split("\n")))


def _csv(text: str, path: Path, delimiter: str) -> SourceTable:
    reader = csv.reader(io.StringIO(text), delimiter=delimiter)
    rows, lines = [], []
    for row in reader:
        if any(cell.strip() for cell in row):
            rows.append(tuple(cell.strip() for cell in row))
            lines.append(reader.line_num)
    if len(rows) < 2:
        raise BadInput(f"{path} has {max(0, len(rows) - 1)} rows under a header; at least 1 is needed")
    return SourceTable(header=rows[0], rows=tuple(rows[1:]), lines=tuple(lines[1:]))


def _jsonl(text: str, path: Path) -> SourceTable:
    objects: list[tuple[int, dict[str, object]]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
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
    for number, table in enumerate(tables):
        fields = table.fields()
        added = [
            _entry(number, table, fields, row, line)
            for row, line in zip(table.rows, table.lines, strict=True)
        ]
        names = Counter(entry.name for entry in added)
        for entry in added:
            index = _matching_index(entry, merged) if names[entry.name] == 1 else None
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
    names = Counter(entry.name for entry in merged)
    return tuple(
        replace(entry, where=entry.name) if entry.name and names[entry.name] == 1 else entry
        for entry in merged
    )


def _entry(
    number: int, table: SourceTable, fields: Sequence[str | None], row: Sequence[str], line: int
) -> TableEntry:
    numbers: dict[str, StatedNumber] = {}
    words: dict[str, str] = {}
    headers: dict[str, str] = {}
    cells = row if len(row) >= len(table.header) else row[:-1]  # a short row's last cell is another column's
    for header, field, cell in zip(table.header, fields, cells, strict=False):
        if field is None or field in headers or not cell:
            continue
        if field in _TEXT:
            words[field], headers[field] = cell, header
        elif (value := parse_stated(cell)) is not None:
            numbers[field], headers[field] = value, header
    name = words.get("name", "")
    where = f"{name}, line {line}" if name else f"line {line}"
    return TableEntry(name=name, where=where, table=number, numbers=numbers, words=words, headers=headers)


def _matching_index(entry: TableEntry, before: Sequence[TableEntry]) -> int | None:
    """Index of the one entry of an earlier table with the same name, or the same size in its name; else None."""
    if not entry.name:
        return None
    others = [index for index, other in enumerate(before) if other.table != entry.table and other.name]
    same = [index for index in others if folded(before[index].name) == folded(entry.name)]
    if not same and (size := size_in(entry.name)):
        same = [
            index for index in others if (other := size_in(before[index].name)) and other.text == size.text
        ]
    return same[0] if len(same) == 1 else None


_PROSE_SIZE = r"(?<![\w.])([0-9][0-9,.]*\s*(?:million|billion|[MBK]\b)?)"

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

    for number, line in enumerate(lines, start=1):
        if line.lstrip().startswith("|"):
            continue
        title = _HEADING.fullmatch(line)
        if title:
            if facts:
                yield entry()
                facts, aliases = {}, ""
            heading = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", next(filter(None, title.groups()))).strip(": ")
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

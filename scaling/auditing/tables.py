"""Tables as people publish them: the cells of a CSV, a JSONL or a Markdown document, with what their headers mean."""

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

# MERGED DOCSTRINGS
# Numbers as printed: what they say, and how far they were rounded.

_WORDS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}

_WORDS |= {"thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12}

_STATED_NUMBER = re.compile(
    r"[~≈]?\s*([0-9]{1,3}(?:,[0-9]{3})+|[0-9][0-9_]*)(\.[0-9]+)?(?:e([+-]?[0-9]+))?\s*(thousand|million|billion|trillion|[kmbgt])?"
    r"(?:\s+\w+|\s*\(.*\)|\s*)?",
    re.IGNORECASE,
)

_CLOCK = re.compile(r"([0-9]+):([0-5][0-9])(?::([0-5][0-9]))?")

_LARGEST_EXPONENT = 60  # beyond any count of anything here

_ROUNDED = 4  # a whole number of at most so many digits before its zeros is a rounded one


@dataclass(frozen=True, slots=True, kw_only=True)
class Stated:
    """A number as printed: its value, and the worth of one unit in its last digit."""

    text: str
    value: float
    unit: float

    def agrees(self, value: float) -> bool:
        """Whether `value` prints so, rounded or cut off."""
        return -self.unit / 2 * (1 + 1e-9) <= value - self.value < self.unit

    def rounds(self, value: float) -> bool:
        """Whether `value` rounds to it."""
        return abs(value - self.value) <= self.unit / 2 * (1 + 1e-9)

    @property
    def relative(self) -> float:
        """Half a unit, as a share of the value."""
        return self.unit / 2 / self.value


def stated(text: str) -> Stated | None:
    """Read 53.9M, 117 million, 1,234, 2.6e18, 02:44 (hours) or "3.38 (rising)"; None where there is no number above 0."""
    words = text.strip().strip("`*$")
    clock = _CLOCK.fullmatch(words)
    if clock:
        hours, minutes, seconds = int(clock[1]), int(clock[2]), int(clock[3] or 0)
        unit, value = 1 / 3600 if clock[3] else 1 / 60, hours + minutes / 60 + seconds / 3600
        return Stated(text=words, value=value, unit=unit) if value else None
    match = _STATED_NUMBER.fullmatch(words)
    if match is None:
        return None
    whole, decimals, exponent, word = match.groups()
    digits = re.sub("[_,]", "", whole)
    if abs(int(exponent or 0)) > _LARGEST_EXPONENT or len(digits) > _LARGEST_EXPONENT:
        return None
    factor = _WORDS[(word or "").lower()] * 10.0 ** int(exponent or 0)
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
    return Stated(text=words, value=value, unit=unit)


def size_in(name: str) -> Stated | None:
    """The size in a member's name: 52M of "GPT-2 52M"."""
    match = re.search(r"(?<![a-z0-9.])([0-9]+(?:\.[0-9]+)?[mb])(?![a-z0-9])", name, re.IGNORECASE)
    return stated(match[1].upper()) if match else None


# Header, without case, spaces and signs -> field. The fields of Run, and those of published tables.
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
    "accelerator": "accelerator hardware gpu gpus device",
    "group": "group family corpus",
    "data": "dataset data corpusname",
    "annealed": "annealed",
}

_BY_HEADER = {header: field for field, headers in _FIELDS.items() for header in headers.split()}

_TEXT = ("name", "accelerator", "group", "data", "annealed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One member or run: its name, where it stands, its numbers by field and its words by field.

    headers: the column each field was read from, for naming it. A field may come from another table, joined by name.
    """

    name: str
    where: str
    table: int  # its number in the document; -1 for prose
    numbers: dict[str, Stated]
    words: dict[str, str]
    headers: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Cells in rows under a header, with the line of each row and the header's own numbers of cells."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[int, ...]

    def fields(self) -> tuple[str | None, ...]:
        """What each column means, or None where that is not known."""
        return tuple(field_of(header) for header in self.header)

    def renamed(self, names: Mapping[str, str]) -> "Table":
        """With our names in place of the headers that `names` maps them to: {"params": "N"}."""
        ours = {theirs: name for name, theirs in names.items()}
        return replace(self, header=tuple(ours.get(header, header) for header in self.header))


def folded(text: str) -> str:
    """Letters and digits in lower case: "$n_{layer}$" is nlayer."""
    return "".join(letter for letter in text.lower() if letter.isalnum())


def field_of(header: str) -> str | None:
    """The field that a header names. Hours may name their hardware: "Training Hours on 8xA100s"."""
    bare = folded(re.sub(r"\\[a-z]+", "", header))
    if "hour" in bare:
        return "hours"
    return _BY_HEADER.get(bare) or _BY_HEADER.get(folded(re.sub(r"\(.*?\)", "", header)))


def read_tables(path: Path) -> tuple[Table, ...]:
    """All tables of a .csv, .tsv, .jsonl or Markdown file.

    Raises:
        BadInput: no such file, another kind of file, or no table in it.
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


def markdown_tables(text: str) -> tuple[Table, ...]:
    """The pipe tables of a Markdown text; everything else is passed over."""
    return tuple(_markdown(text.split("\n")))


def _csv(text: str, path: Path, delimiter: str) -> Table:
    reader = csv.reader(io.StringIO(text), delimiter=delimiter)
    rows, lines = [], []
    for row in reader:
        if any(cell.strip() for cell in row):
            rows.append(tuple(cell.strip() for cell in row))
            lines.append(reader.line_num)
    if len(rows) < 2:
        raise BadInput(f"{path} has {max(0, len(rows) - 1)} rows under a header; at least 1 is needed")
    return Table(header=rows[0], rows=tuple(rows[1:]), lines=tuple(lines[1:]))


def _jsonl(text: str, path: Path) -> Table:
    found: list[tuple[int, dict[str, object]]] = []
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
            found.append((number, value))
    if not found:
        raise BadInput(f"{path} has 0 runs; at least 1 is needed")
    header = tuple(dict.fromkeys(name for _, value in found for name in value))
    rows = tuple(tuple(_printed(value.get(name)) for name in header) for _, value in found)
    return Table(header=header, rows=rows, lines=tuple(number for number, _ in found))


def _printed(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def _cells(line: str) -> tuple[str, ...] | None:
    """The cells of "| a | b |", or None where the line is no table's."""
    words = line.strip()
    if words.count("|") < 2 or not words.startswith("|"):
        return None
    inner = words[1:-1] if words.endswith("|") else words[1:]
    return tuple(cell.strip() for cell in re.split(r"(?<!\\)\|", inner))


def _markdown(lines: Sequence[str]) -> Iterator[Table]:
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
            yield Table(header=header, rows=tuple(rows), lines=tuple(numbers))


def entries(tables: Sequence[Table]) -> tuple[Entry, ...]:
    """Every row with its fields; rows of several tables that name one member become one entry."""
    found: list[Entry] = []
    for number, table in enumerate(tables):
        fields = table.fields()
        fresh = [
            _entry(number, table, fields, row, line)
            for row, line in zip(table.rows, table.lines, strict=True)
        ]
        names = Counter(entry.name for entry in fresh)
        for entry in fresh:
            at = _partner(entry, found) if names[entry.name] == 1 else None
            if at is None:
                found.append(entry)
            else:
                found[at] = replace(
                    found[at],
                    numbers={**entry.numbers, **found[at].numbers},
                    words={**entry.words, **found[at].words},
                    headers={**entry.headers, **found[at].headers},
                )
    everyone = Counter(entry.name for entry in found)
    return tuple(
        replace(entry, where=entry.name) if entry.name and everyone[entry.name] == 1 else entry
        for entry in found
    )


def _entry(number: int, table: Table, fields: Sequence[str | None], row: Sequence[str], line: int) -> Entry:
    numbers: dict[str, Stated] = {}
    words: dict[str, str] = {}
    headers: dict[str, str] = {}
    whole = row if len(row) >= len(table.header) else row[:-1]  # a short row's last cell is another column's
    for header, field, cell in zip(table.header, fields, whole, strict=False):
        if field is None or field in headers or not cell:
            continue
        if field in _TEXT:
            words[field], headers[field] = cell, header
        elif (value := stated(cell)) is not None:
            numbers[field], headers[field] = value, header
    name = words.get("name", "")
    where = f"{name}, line {line}" if name else f"line {line}"
    return Entry(name=name, where=where, table=number, numbers=numbers, words=words, headers=headers)


def _partner(entry: Entry, before: Sequence[Entry]) -> int | None:
    """Which entry of an earlier table has the same name, or the same size at its name's end; None unless just one."""
    if not entry.name:
        return None
    others = [index for index, other in enumerate(before) if other.table != entry.table and other.name]
    same = [index for index in others if folded(before[index].name) == folded(entry.name)]
    if not same and (size := size_in(entry.name)):
        same = [
            index for index in others if (theirs := size_in(before[index].name)) and theirs.text == size.text
        ]
    return same[0] if len(same) == 1 else None

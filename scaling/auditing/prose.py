"""Shapes and sizes that a model card states in lists and commands rather than in tables."""

import re
from collections.abc import Iterator, Sequence

from .shapes import known_member
from .stated import Stated, stated
from .tables import Entry, field_of

_SIZE = r"(?<![\w.])([0-9][0-9,.]*\s*(?:million|billion|[MBK]\b)?)"
_PHRASES = {
    "n_layer": r"layers?\b",
    "n_embd": r"(?:hidden (?:size|dimensions?|units)|wide\b)",
    "n_head": r"(?:attention )?heads\b",
    "params": r"(?:trainable )?param(?:eter)?s\b",
}
_WORDED = {field: re.compile(rf"{_SIZE}[- ]+{phrase}", re.IGNORECASE) for field, phrase in _PHRASES.items()}
_ASSIGNED = re.compile(r"\b([A-Za-z_]+)=([0-9][0-9_]*)\b")
_TOTAL = re.compile(rf"model size:\s*{_SIZE}", re.IGNORECASE)
_HEADING = re.compile(r"\s*(?:#+\s*(.+?)|\*\*(.+?)\*\*:?|[-*]\s+([\w .-]+):)\s*")
_NAMED = re.compile(r"\s*[-*]\s+`?([A-Za-z][\w .-]*?)`?\s*(\([^)]*\))?\s*(?::|\s[-–—]\s)(.*)")


def prose_entries(text: str) -> tuple[Entry, ...]:
    """What lists say ("12 layers, 768 hidden size, 117 million parameters") and commands ("NHIDDEN=2048; NLAYERS=24").

    An entry has a count of parameters and a shape, or the name of a published member.
    """
    return tuple(
        entry
        for entry in _gathered(text.split("\n"))
        if known_member(entry) is not None
        or (
            {"n_layer", "n_embd"} <= entry.numbers.keys()
            and ("params" in entry.numbers or "aliases" in entry.words)
        )
    )


def _gathered(lines: Sequence[str]) -> Iterator[Entry]:
    """Neighbouring lines make one entry, until a field repeats, a heading comes or a line has a name of its own."""
    heading, family = "", ""
    open_name, open_line, facts, aliases = "", 0, dict[str, Stated](), ""

    def entry() -> Entry:
        words = {"name": open_name, "group": family, **({"aliases": aliases} if aliases else {})}
        headers = {"name": "", **dict.fromkeys(facts, "text")}
        where = f"{open_name}, line {open_line}" if open_name else f"line {open_line}"
        return Entry(name=open_name, where=where, table=-1, numbers=facts, words=words, headers=headers)

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
        said = facts_of(named[3] if named else line)
        if not said:
            continue
        if facts and (named or said.keys() & facts.keys()):
            yield entry()
            facts, aliases = {}, ""
        if not facts:
            open_name, open_line = (named[1] if named else heading), number
            aliases = ", ".join(re.findall(r"`([0-9.]+[MB])`", named[2] or "")) if named else ""
        facts |= said
    if facts:
        yield entry()


def facts_of(line: str) -> dict[str, Stated]:
    """Field to number, as a line states them."""
    found: dict[str, Stated] = {}
    for field, pattern in _WORDED.items():
        match = pattern.search(line)
        if match and (number := stated(match[1].strip(" ,"))) is not None:
            found[field] = number
    for name, value in _ASSIGNED.findall(line):
        known = field_of(name)
        if known is not None and (number := stated(value)) is not None:
            found.setdefault(known, number)
    total = _TOTAL.search(line)
    if total and (number := stated(total[1].strip())) is not None:
        found["params"] = number
    return found

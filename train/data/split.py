"""The held-out split: whole files, or the ends of large ones, cut at a document, a line, a space or a character."""

import hashlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from families.units import BadInput

from .readers import SourceText, holds_documents, open_bytes, read_chunks
from .tokenizer import END_OF_TEXT

TOLERANCE = 1.5  # the held-out share is met within this factor, or the text is refused

LARGEST_SHARE = (
    1 / 8
)  # largest share of a file in the held-out text, so that no single file dominates the loss

CUT_FROM = 0.8  # of the bytes: where whole files cannot be held out, the ends of the largest files that hold this much are

COPY = 32  # characters of a document from which on an equal one is a copy; shorter ones ("Yes.") repeat by chance

SHARED = 0.3  # of the held-out lines that are trained on too, from which on it is said

_LINES_KEPT = 2**16  # held-out lines that are compared with the training text

_MARGIN = 1.4  # of the held-out share at a cut; less than TOLERANCE, which counts bytes of text

_BLOCK = 2**16  # bytes hashed at a time


@dataclass(frozen=True, slots=True)
class Cut:
    """Where a file is cut: before the character `at` of the piece `piece` that `read_chunks` yields."""

    piece: int
    at: int
    kind: str


class SharedLines:
    """Compares an even sample of the held-out text's lines of COPY characters or more with the training text's."""

    def __init__(self) -> None:
        self._kept: set[int] = set()
        self._found: set[int] = set()
        self._every = 1

    def note(self, chunk: str) -> None:
        """Note the lines of a held-out piece."""
        self._kept.update(line for line in _long_lines(chunk) if not line % self._every)
        while len(self._kept) > _LINES_KEPT:
            self._every *= 2
            self._kept = {line for line in self._kept if not line % self._every}

    def look(self, chunk: str) -> None:
        """Look for them in a training piece."""
        if self._kept:
            self._found.update(self._kept.intersection(_long_lines(chunk)))

    @property
    def share(self) -> float:
        """Share of the lines that stand on both sides; 0 without lines."""
        return len(self._found) / max(1, len(self._kept))


def _long_lines(chunk: str) -> Iterator[int]:
    return (zlib.crc32(line.strip().encode()) for line in chunk.splitlines() if len(line) >= COPY)


@dataclass(slots=True)
class Split:
    """Split of the text into training and held-out text.

    Args:
        train: files to train on.
        held: files that are held out as a whole.
        cuts: by name, where a file of `train` is cut; what follows is held out.
        named: the held-out files were named, as by validation= or by their own names.
        held_documents: hashes of the held-out documents, which are not trained on; filled by reading that side.
        copies: number of documents that were not trained on for that.
        shared: lines that are held out and trained on, as where a file called valid is a part of another; also filled by reading.
    """

    train: tuple[SourceText, ...]
    held: tuple[SourceText, ...]
    cuts: Mapping[str, Cut] = field(default_factory=dict)
    named: bool = False
    held_documents: set[bytes] = field(default_factory=set)
    copies: int = 0
    shared: SharedLines = field(default_factory=SharedLines)

    @property
    def how(self) -> str:
        """A description of the held-out text."""
        if self.named or not self.cuts:
            names = ", ".join(text.name for text in self.held[:3])
            more = f" and {len(self.held) - 3:,} more" if len(self.held) > 3 else ""
            return names + more
        at = max(set(kinds := [cut.kind for cut in self.cuts.values()]), key=kinds.count)
        files = next(iter(self.cuts)) if len(self.cuts) == 1 else f"each of {len(self.cuts):,} files"
        return f"the end of {files}, from a {at} on"

    def pieces(self, side: Literal["train", "heldout"]) -> Iterator[tuple[SourceText, Iterator[str]]]:
        """Yield the files of a side, each with its pieces; read the held-out side first, so that copies of it are known."""
        if side == "heldout":
            for text in (*self.train, *self.held):
                if text.name in self.cuts:
                    yield text, self._noted(text, _after(read_chunks(text), self.cuts[text.name]))
                elif text in self.held:
                    yield text, self._noted(text, read_chunks(text))
            return
        for text in self.train:
            cut = self.cuts.get(text.name)
            yield (
                text,
                self._without_copies(text, _before(read_chunks(text), cut) if cut else read_chunks(text)),
            )

    def side_of(self, name: str) -> Literal["train", "heldout", "both"]:
        """Return the side of a file."""
        if name in self.cuts:
            return "both"
        return "heldout" if any(text.name == name for text in self.held) else "train"

    def _noted(self, text: SourceText, chunks: Iterator[str]) -> Iterator[str]:
        for chunk in chunks:
            self.held_documents |= {_digest(part) for part in _documents(text, chunk) if _tells(part)}
            self.shared.note(chunk)
            yield chunk

    def _without_copies(self, text: SourceText, chunks: Iterator[str]) -> Iterator[str]:
        for chunk in chunks:
            parts = _documents(text, chunk)
            kept = [part for part in parts if not (_tells(part) and _digest(part) in self.held_documents)]
            self.copies += len(parts) - len(kept)
            if kept:
                left = chunk if len(kept) == len(parts) else END_OF_TEXT.join(kept)
                self.shared.look(left)
                yield left


def _documents(text: SourceText, chunk: str) -> list[str]:
    """Return the documents of a piece: itself, or what stands between ends of text in a plain file; nothing without those."""
    if holds_documents(text):
        return [chunk]
    return chunk.split(END_OF_TEXT) if END_OF_TEXT in chunk else [""]


def _tells(document: str) -> bool:
    return len(document.strip()) >= COPY


def _digest(document: str) -> bytes:
    return hashlib.blake2b(document.strip().encode(), digest_size=12).digest()


def _before(chunks: Iterator[str], cut: Cut) -> Iterator[str]:
    for number, chunk in enumerate(chunks):
        if number >= cut.piece:
            if number == cut.piece and cut.at:
                yield chunk[: cut.at]
            return
        yield chunk


def _after(chunks: Iterator[str], cut: Cut) -> Iterator[str]:
    for number, chunk in enumerate(chunks):
        if number > cut.piece:
            yield chunk
        elif number == cut.piece and cut.at < len(chunk):
            yield chunk[cut.at :]


def split_texts(texts: Sequence[SourceText], share: float) -> Split:
    """Hold out `share` of the bytes: whole files where that meets the share, else the ends of the largest files.

    Whole files are taken in the order of their names' hashes, which keeps near-copies within a file on one side; small
    ones if there are enough, so that none dominates the loss.

    Raises:
        BadInput: a file cannot be read.
    """
    sizes = text_sizes(texts)
    wanted = share * sum(sizes.values())
    ordered = sorted(texts, key=lambda text: hashlib.sha256(text.name.encode()).hexdigest())
    small = [text for text in ordered if sizes[text.name] <= LARGEST_SHARE * wanted]
    if sum(sizes[text.name] for text in small) < wanted:
        small = ordered
    held: set[str] = set()
    total = 0
    for text in small:
        if total >= wanted or len(held) == len(texts) - 1:
            break
        if sizes[text.name] and total + sizes[text.name] <= TOLERANCE * wanted:
            held.add(text.name)
            total += sizes[text.name]
    if total >= wanted / TOLERANCE:
        return Split(
            tuple(text for text in texts if text.name not in held),
            tuple(text for text in ordered if text.name in held),
        )
    return _cut_files(texts, sizes, wanted)


def _cut_files(texts: Sequence[SourceText], sizes: Mapping[str, int], wanted: float) -> Split:
    total = sum(sizes.values())
    chosen: list[SourceText] = []
    covered = 0
    for text in sorted(texts, key=lambda text: (-sizes[text.name], text.name)):
        if covered >= CUT_FROM * total or not sizes[text.name]:
            break
        chosen.append(text)
        covered += sizes[text.name]
    found = ((text.name, find_cut(text, wanted / max(1, covered))) for text in chosen)
    return Split(tuple(texts), (), {name: cut for name, cut in found if cut})


def text_sizes(texts: Sequence[SourceText]) -> dict[str, int]:
    """Return the size of each file in proportion to its text: bytes of a file, uncompressed, or of Parquet's column."""
    return {text.name: _size(text) for text in texts}


def _size(text: SourceText) -> int:
    if text.compression:
        size = 0
        with open_bytes(text.path, text.compression) as file:
            while block := file.read(_BLOCK):
                size += len(block)
        return size
    if text.kind == ".parquet":
        try:
            from pyarrow import parquet

            facts = parquet.ParquetFile(text.path).metadata
            return sum(facts.row_group(group).total_byte_size for group in range(facts.num_row_groups))
        except Exception:  # reading it says what is wrong
            return text.path.stat().st_size
    return text.path.stat().st_size


def find_cut(text: SourceText, share: float) -> Cut | None:
    """Return where the last `share` of a file's text begins: of the places within the tolerance the nearest of the best kind.

    The file is read twice, a piece at a time. None for a file without text.

    Args:
        text: the file.
        share: of its bytes of text that follow the cut.
    """
    total = _text_bytes(text)
    documents = holds_documents(text)
    held = share * total
    target, low, high = total - held, total - _MARGIN * held, total - held / _MARGIN
    best: tuple[int, float, Cut] | None = None
    begin = 0
    for number, chunk in enumerate(read_chunks(text)):
        end = begin + len(chunk) if chunk.isascii() else begin + len(chunk.encode())
        if end >= low and begin <= high:
            for rank, at, kind in _places(chunk, begin, target, low, high, documents=documents):
                found = (rank, abs(begin + at - target), Cut(number, _characters(chunk, at), kind))
                best = found if best is None or found[:2] < best[:2] else best
        begin = end
    if best is None:
        return None
    return best[2]


def _text_bytes(text: SourceText) -> int:
    return sum(len(chunk) if chunk.isascii() else len(chunk.encode()) for chunk in read_chunks(text))


def _characters(chunk: str, at: int) -> int:
    return at if chunk.isascii() else len(chunk.encode()[:at].decode())


def _places(
    chunk: str, begin: int, target: float, low: float, high: float, *, documents: bool
) -> Iterator[tuple[int, int, str]]:
    """Yield (rank, byte, kind) of the places in a piece to cut, the nearest to the target of each kind, best rank 0."""
    if documents and low <= begin <= high and begin:
        yield 0, 0, "document"
    data = chunk.encode()
    near = min(len(data), max(0, round(target - begin)))
    least, most = max(0, round(low - begin)), min(len(data), round(high - begin))
    for rank, (mark, kind) in enumerate(((b"<|endoftext|>\n", "document"), (b"\n", "line"), (b" ", "space"))):
        before, after = data.rfind(mark, least, near), data.find(mark, near, most)
        for at in (before, after):
            place = at + len(mark)
            if at >= 0 and begin + place > 0 and place < len(data) + (not documents):
                yield rank, place, kind
    at = near
    while 0 < at < len(data) and data[at] & 0xC0 == 0x80:  # within a character of UTF-8
        at += 1
    if low <= begin + at <= high and begin + at > 0 and at < len(data):
        yield 3, at, "character"


def check_share(train_bytes: int, held_bytes: int, share: float, source: str) -> float:
    """Return the held-out share of the bytes of text, and check that it is the one asked for.

    Args:
        train_bytes: bytes of the training text.
        held_bytes: bytes of the held-out text.
        share: the share asked for.
        source: name of the text.

    Raises:
        BadInput: it is off by more than the factor TOLERANCE.
    """
    there = held_bytes / max(1, train_bytes + held_bytes)
    if not share / TOLERANCE <= there <= share * TOLERANCE:
        raise BadInput(
            f"data is {source!r}, of which {there:.1%} can be held out where held_out={share:g} asks for {share:.1%}: "
            "name the held-out text with validation=, or ask for another held_out="
        )
    return there

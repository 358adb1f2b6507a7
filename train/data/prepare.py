"""Preparation of text: encoded once into token shards on disk, with a manifest of their sources.

Also finds a model and its data for validation; without torch, so that a wrong name is reported at once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from families.units import BadInput, format_bytes, format_size
from scaling.files import atomic_dir, sha256_bytes
from scaling.planning.planfile import PlanFile

from ..rung import MODEL, RUNG, RungFile
from . import DataManifest, Need, Shard, SourceFile, check_enough, check_shards
from .encode import Encoder
from .readers import content_sha256, markup_in, names_field, read_chunks
from .remote import PREFIX, fetch, hub_set, is_url, local_text
from .split import COPY, SHARED, Split, check_share, split_texts, text_sizes
from .text import MOST_NAMED, Survey, find_texts, fingerprint, survey
from .tokenizer import (
    CONFIG,
    ENDS,
    MASKS,
    SpecialTokens,
    check_vocabulary,
    end_in_config,
    load_files,
    losses_of_text,
    neutral,
    special_token,
    spread,
    token_names,
    train_tokenizer,
    vocabulary_remark,
    vocabulary_size,
    write_companions,
)

Progress = Callable[[str, float], None]

Log = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Coder:
    """A tokenizer that is ready to encode: its special tokens, its number of rows, and the text of its other files."""

    tokenizer: Any
    eos: int
    mask: int | None
    size: int
    files: dict[str, str]

    @classmethod
    def of(cls, tokenizer: Any, files: dict[str, str], *, mask: bool, ends: tuple[str, ...] = ()) -> "_Coder":
        eos = special_token(tokenizer, (*token_names(files, "eos_token"), *ends, *ENDS))
        masking = special_token(tokenizer, (*token_names(files, "mask_token"), *MASKS)) if mask else None
        return cls(tokenizer=tokenizer, eos=eos, mask=masking, size=vocabulary_size(tokenizer), files=files)

    @classmethod
    def load(cls, name: str, special_tokens: SpecialTokens, *, mask: bool) -> "_Coder":
        tokenizer, files = load_files(name)
        check_vocabulary(tokenizer, name)
        end = end_in_config(name, tokenizer) if CONFIG not in files else ()
        return cls.of(neutral(tokenizer, special_tokens), files, mask=mask, ends=end)

    @property
    def text(self) -> str:
        """The contents of tokenizer.json."""
        return str(self.tokenizer.to_str(pretty=False))


def prepare(
    data: str,
    folder: Path,
    *,
    vocab_size: int,
    tokenizer: str | None = None,
    held_out: float = 0.05,
    validation: str | None = None,
    mask: bool = False,
    field: str | None = None,
    special_tokens: SpecialTokens = "markers",
    need: Need | None = None,
    progress: Progress | None = None,
    log: Log = lambda line: None,
) -> DataManifest:
    """Tokenise text into `folder`, once: tokenizer.json, train-*.bin, heldout.bin and data.json.

    A folder that already holds the same text under the same settings is used as it is; the text is known by its hashes,
    whatever its path, and is not needed again.

    Args:
        data: a text file, a folder of text files, a URL, or a data set of the Hugging Face hub.
        folder: destination of the tokenised text.
        vocab_size: largest number of tokenizer entries; the size of a tokenizer trained here.
        tokenizer: file or name of a tokenizer to load; None trains one on the text.
        held_out: share of the text that is held out, between 0 and 1; not used with `validation`, nor where files are
            called valid or test.
        validation: text that is held out in place of a share of `data`; a data set of the hub may bring its own.
        mask: True to require a mask token in the tokenizer.
        field: field of records that holds their text; None for the usual one.
        special_tokens: what special tokens written in the text are: "markers" (one id each) or "text".
        need: least text that the run needs; None skips the check.
        progress: called with a description and the completed share, 0 to 1.
        log: called with a line about the split, and about each file that is left out.

    Returns:
        The manifest written to data.json.

    Raises:
        BadInput: no text, less than is needed, a held-out share that cannot be met, a tokenizer larger than `vocab_size`, or
            tokens on disk that were changed; nothing is written then.
    """
    report = progress or (lambda what, share: None)
    asked = inputs_of(
        data, vocab_size=vocab_size, tokenizer=tokenizer, held_out=held_out, validation=validation, mask=mask, field=field,
        special_tokens=special_tokens,
    )  # fmt: skip
    if (folder / "data.json").exists():
        manifest = DataManifest.read(folder / "data.json")
        if other := difference(manifest, asked, folder, report):
            raise BadInput(
                f"{folder} holds tokens of other text or settings: {other}; give another --study, or train a model of this "
                "study further on the new text with init=RUN"
            )
        check_shards(folder, manifest)
        check_enough(manifest, need)
        return manifest
    found, named = _texts(data, validation, field or "", folder.parent, report)
    marks = {text.name: (text.path.stat().st_mtime_ns, *fingerprint(text.path)) for text in found.texts}
    total = sum(size for _, size, _ in marks.values())
    if total == 0:
        raise BadInput(f"data is {data!r}, which is empty; it must hold text")
    _drop_copies(found, {text.name: marks[text.name][2] for text in found.texts}, data)
    split = (
        Split(tuple(found.train), tuple(found.heldout), named=True)
        if named
        else split_texts(found.train, held_out)
    )
    for line in _how_read(found):
        log(line)
    for line in found.lines():
        log(f"left out: {line}")

    report("training the tokenizer", 0.0)
    if tokenizer is None:
        pieces = (chunk for _, chunks in split.pieces("train") for chunk in chunks)
        trained = train_tokenizer(spread(pieces, total), vocab_size, mask=mask, special_tokens=special_tokens)
        coder = _Coder.of(trained, {}, mask=mask)
    else:
        coder = _Coder.load(tokenizer, special_tokens, mask=mask)
    entries = coder.tokenizer.get_vocab_size()
    gap = f" (of {entries:,} entries the greatest id is {coder.size - 1:,})" if entries < coder.size else ""
    if coder.size > vocab_size:
        raise BadInput(
            f"tokenizer {tokenizer!r} has {coder.size} entries{gap}; the model's vocab_size is {vocab_size}, which must hold "
            f"them: give vocab_size={coder.size}"
        )
    if gap:
        log(f"the tokenizer's ids have gaps{gap}: {coder.size - entries:,} rows of the model are never used")
    dtype = np.dtype("<u2" if coder.size <= 2**16 else "<u4")
    with atomic_dir(folder) as place:
        (place / "tokenizer.json").write_text(coder.text, encoding="utf-8")
        write_companions(coder.files, place)
        writer = Encoder(
            coder.tokenizer, coder.eos, place, dtype, lambda done: report("tokenising", done / total)
        )
        heldout = writer.write(split.pieces("heldout"), "heldout")  # first: what it holds is not trained on
        writer.used[:] = False
        train = writer.write(split.pieces("train"), "train")
        copied = f"left out: {split.copies:,} training documents that are held out too"
        if split.copies and not train.shards:
            raise BadInput(
                f"data is {data!r}, all of which is held out too; held-out text must not be trained on"
            )
        manifest = DataManifest(
            inputs=asked,
            source=data,
            tokenizer=tokenizer or "byte-level BPE trained on the training split",
            vocab_size=coder.size,
            eos_token_id=coder.eos,
            mask_token_id=coder.mask,
            dtype="uint16" if dtype.itemsize == 2 else "uint32",
            held_out=held_out,
            train=train.shards,
            heldout=heldout.shards[0] if heldout.shards else Shard(name="heldout.bin", tokens=0),
            heldout_bytes=heldout.bytes,
            heldout_words=heldout.words,
            heldout_sha256=heldout.shards[0].sha256 if heldout.shards else "",
            files=tuple(
                SourceFile(
                    name=text.name,
                    bytes=marks[text.name][1],
                    sha256=marks[text.name][2],
                    split=split.side_of(text.name),
                    modified_ns=marks[text.name][0],
                )
                for text in found.texts
            ),
            train_bytes=train.bytes,
            used_entries=int(writer.used.sum()),
            how=split.how,
            left_out=(*found.lines(), *([copied] if split.copies else ())),
            tokenizer_sha256=sha256_bytes(coder.text.encode()),
        )
        check_enough(manifest, need)
        if not named:
            check_share(train.bytes, heldout.bytes, held_out, data)
        manifest.write(place / "data.json")
    if split.copies:
        log(copied)
    log(split_line(manifest))
    if (share := split.shared.share) >= SHARED:
        log(
            f"{share:.0%} of the held-out lines (of {COPY} characters or more) stand in the training text too: held-out loss is "
            "of text that is trained on"
        )
    for line in losses_of_text(writer.coverage.lost, writer.coverage.markers, coder.tokenizer):
        log(line)
    if remark := vocabulary_remark(
        entries, manifest.used_entries, manifest.train_tokens, loaded=tokenizer is not None
    ):
        log(remark)
    return manifest


def split_line(manifest: DataManifest) -> str:
    """Return a line about the size of both splits and what is held out."""
    return (
        f"text: {format_size(manifest.train_tokens)} training tokens, {format_size(manifest.heldout.tokens)} held out "
        f"({manifest.held_share:.1%} of the text: {manifest.how})"
    )


_LOOKED_AT = 8  # files that are looked at for what is said of how they are read


def _how_read(found: Survey) -> list[str]:
    """Return a line where records are read by a field that was guessed, and one for markup that is read as text."""
    guessed = {name for text in found.texts[:_LOOKED_AT] if (name := names_field(text))}
    lines = (
        [f"text is read from the field {', '.join(sorted(guessed))}; field= names another"] if guessed else []
    )
    for text in found.texts[:_LOOKED_AT]:
        if markup := markup_in(text):
            lines.append(f"{text.name} is read as {markup}")
    return lines


def _drop_copies(found: Survey, digests: dict[str, str], data: str) -> None:
    """Leave out files whose text is a copy of another's, and training files that are copies of held-out ones.

    Raises:
        BadInput: all training text is held out too.
    """
    if len(found.texts) > 1:
        digests = {text.name: content_sha256(text, digests[text.name]) for text in found.texts}
    held = {digests[text.name]: text.name for text in found.heldout}
    seen: dict[str, str] = {}
    kept, copies = [], {}
    for text in found.train:
        digest = digests[text.name]
        if digest in held:
            copies[text.name] = f"a copy of {held[digest]}, which is held out"
        elif digest in seen:
            copies[text.name] = f"a copy of {seen[digest]}"
        else:
            seen[digest] = text.name
            kept.append(text)
    for name, reason in copies.items():
        found.leave(reason if len(copies) <= MOST_NAMED else "copies of other files", [name])
    if not kept:
        raise BadInput(
            f"data is {data!r}, all of which is held out too; held-out text must not be trained on"
        )
    found.train = kept


def difference(
    manifest: DataManifest,
    asked: Mapping[str, str],
    folder: Path,
    report: Progress = lambda what, share: None,
) -> str:
    """Return in words how the text or a setting differs from what tokens were made of; "" if it is the same text.

    Text that is gone is the same if it has the same name: the tokens are there.

    Args:
        manifest: manifest of the tokens.
        asked: the settings asked for, as `inputs` of a manifest.
        folder: folder of the tokens.
        report: called with the progress of a download.

    Raises:
        BadInput: there is no such text.
    """
    there = manifest.inputs
    for key in ("vocab_size", "tokenizer", "held_out", "mask", "field", "special_tokens"):
        ours, theirs = asked.get(key, ""), there.get(key, "")
        same = _same_tokenizer(manifest, ours, theirs) if key == "tokenizer" else ours == theirs
        if not same:
            none = "one trained on the text" if key == "tokenizer" else "the default"
            return f"made with {key}={theirs or none}, where this run has {ours or none}"
    if bool(asked.get("validation")) != bool(there.get("validation")):
        return f"made {'without' if asked.get('validation') else 'with'} validation="
    try:
        found, _ = _texts(
            asked["data"], asked.get("validation"), asked.get("field", ""), folder.parent, report
        )
    except BadInput:
        if all(
            Path(asked.get(key, "")).name == Path(there.get(key, "")).name for key in ("data", "validation")
        ):
            return ""
        raise
    recorded = {(file.name, file.bytes, file.modified_ns): file.sha256 for file in manifest.files}
    hashes: dict[str, int] = {}
    for text in found.texts:
        facts = text.path.stat()
        known_as = (text.name, facts.st_size, facts.st_mtime_ns)
        hashes[recorded.get(known_as) or fingerprint(text.path)[1]] = facts.st_size
    known = {file.sha256: file.bytes for file in manifest.files}
    if hashes.keys() == known.keys():
        return ""
    now, then = format_bytes(sum(hashes.values())), format_bytes(sum(known.values()))
    if manifest.source == asked["data"] and len(known) == len(hashes) == 1:
        return f"made when {manifest.source} was another text of {then}; it has {now} now"
    new, gone = len(hashes.keys() - known.keys()), len(known.keys() - hashes.keys())
    return (
        f"made from {manifest.source}, {then} in {_files(len(known))}; {asked['data']} has {now} in {_files(len(hashes))}, "
        f"{new:,} of them new; {gone:,} of the old gone"
    )


def _files(count: int) -> str:
    return f"{count:,} file{'s' if count != 1 else ''}"


def inputs_of(
    data: str, *, vocab_size: int, tokenizer: str | None, held_out: float, validation: str | None, mask: bool,
    field: str | None, special_tokens: SpecialTokens,
) -> dict[str, str]:  # fmt: skip
    """Return the settings that tokens are made with, as data.json records them.

    Args:
        data: the text.
        vocab_size: largest number of tokenizer entries.
        tokenizer: file or name of a tokenizer; None for one trained on the text.
        held_out: share of the text that is held out.
        validation: text that is held out instead.
        mask: True for a mask token.
        field: field of records.
        special_tokens: what special tokens written in the text are.
    """
    return {
        "data": data,
        "vocab_size": str(vocab_size),
        "tokenizer": tokenizer or "",
        "held_out": repr(held_out),
        **({"mask": "yes"} if mask else {}),
        **({"validation": validation} if validation else {}),
        **({"field": field} if field else {}),
        **({"special_tokens": special_tokens} if special_tokens != "markers" else {}),
    }


def _same_tokenizer(manifest: DataManifest, name: str, recorded: str) -> bool:
    """True if a tokenizer is the one that the tokens were made with, by its contents where they are there."""
    if not name or not manifest.tokenizer_sha256:
        return name == recorded
    special: SpecialTokens = "text" if manifest.inputs.get("special_tokens") == "text" else "markers"
    try:
        coder = _Coder.load(name, special, mask="mask" in manifest.inputs)
    except BadInput:
        return name == recorded
    return sha256_bytes(coder.text.encode()) == manifest.tokenizer_sha256


def text_bytes(data: str, validation: str | None, field: str, study: Path) -> int:
    """Return about how many bytes of text there are to train on and hold out, without reading them where sizes tell.

    Args:
        data: as `prepare`.
        validation: as `prepare`.
        field: field of records; "" for the usual one.
        study: folder of the study, in which a download is stored.

    Raises:
        BadInput: there is no such text.
    """
    found, _ = _texts(data, validation, field, study, lambda what, share: None)
    return sum(text_sizes(found.texts).values())


def sample_text(data: str, field: str, characters: int) -> str:
    """Return the first characters of a text, of several files if need be; "" for one that is not on this machine."""
    if hub_set(data) is not None or is_url(data):
        return ""
    parts: list[str] = []
    size = 0
    for text in survey(data, field).train:
        for chunk in read_chunks(text):
            parts.append(chunk[: characters - size])
            size += len(parts[-1])
            if size >= characters:
                return "\n".join(parts)
    return "\n".join(parts)


def check_data(data: str, folder: Path | None = None) -> None:
    """Check a path for text before anything else is done; data to download is checked when it is fetched.

    Args:
        data: the text.
        folder: of tokens, which may be there already.

    Raises:
        BadInput: there is no such path, or no file of text below it.
    """
    if hub_set(data) is None and not is_url(data) and not (folder and (folder / DATA).exists()):
        find_texts(data)


def _texts(
    data: str, validation: str | None, field: str, study: Path, report: Progress
) -> tuple[Survey, bool]:
    """Return all texts, and True if the held-out ones are named."""
    known = hub_set(data)
    stored = study / "fetched"
    held: str | Path | None = None if validation is None else local_text(validation, stored, report)
    source: str | Path = local_text(data, stored, report)
    if known is not None:
        source, own = fetch(
            data, known, study / "hub" / data.removeprefix(PREFIX).replace("/", "--").replace(":", "--")
        )
        held = held or own
    found = survey(str(source), field)
    if held is None:
        return found, bool(found.heldout)
    found.leave(
        "held-out text by its name, and validation= names another", (text.name for text in found.heldout)
    )
    prefix, names = "validation/", {text.name for text in found.train}
    held_texts = find_texts(str(held), field)
    while any(prefix + text.name in names for text in held_texts):  # the data may have a folder of that name
        prefix = f"_{prefix}"
    found.heldout = [replace(text, name=prefix + text.name) for text in held_texts]
    same = {text.path.resolve() for text in found.train} & {text.path.resolve() for text in found.heldout}
    if same:
        raise BadInput(
            f"validation has {min(same)}, which is in data too; held-out text must not be trained on"
        )
    return found, True


def prepare_planned(
    plan: PlanFile,
    folder: Path,
    data: str | None,
    tokenizer: str | None,
    trained: Sequence[str] = (),
    log: Log = lambda line: None,
) -> None:
    """Tokenise the text of a plan's members into a folder, or use the tokens that are there.

    Args:
        plan: the plan.
        folder: of the tokens.
        data: the text; None takes what is there.
        tokenizer: a folder or file; None trains one.
        trained: names of the members that the text must be enough for; empty means all.
        log: called with a line about the split, and about each file that is left out.

    Raises:
        BadInput: there is none, and none was given; or as `prepare`.
    """
    if data is None:
        if not (folder / "data.json").exists():
            raise BadInput(f"{folder.parent} has no text yet; say which with --data")
        return
    vocab = max((member.vocab_size for member in plan.members), default=0)
    masked = any(member.architecture == "bert" for member in plan.members)
    needs = [
        Need(n_positions=member.n_positions, batch_size=member.recipe.batch_sequences)
        for member in plan.only(trained).members
        if member.recipe
    ]
    need = max(needs, key=lambda one: one.n_positions * one.batch_size, default=None)
    prepare(data, folder, vocab_size=vocab, tokenizer=tokenizer, mask=masked, need=need, log=log)


DATA = "data.json"

MAX_PARENTS = 5  # parent folders of a model that are searched for its data


def model_folder(folder: Path) -> Path:
    """Return the folder to load: the folder itself, a rung's model, or the model of a run's longest rung.

    Raises:
        BadInput: there is no config.json in any of them.
    """
    rungs = sorted(folder.glob(f"rung-*/{RUNG}"), key=lambda path: RungFile.read(path).observation.tokens)
    for place in (folder, folder / MODEL, *(path.parent / MODEL for path in reversed(rungs))):
        if (place / "config.json").is_file():
            return place
    what = "holds no config.json" if folder.exists() else "does not exist"
    raise BadInput(f"{folder} {what}; it must be a Hugging Face model folder, a rung or a run")


def find_prepared_data(place: Path, data: str | None) -> Path | None:
    """Return the folder of prepared tokens: the given one, or the nearest above the model; None if there is none.

    Raises:
        BadInput: what is named is neither such a folder nor a text.
    """
    above = [parent / "data" for parent in list(place.resolve().parents)[:MAX_PARENTS]]
    named = above if data is None else [Path(data), Path(data) / "data"]
    found = next((folder for folder in named if (folder / DATA).is_file()), None)
    if found is None and data is not None and not is_url(data):
        find_texts(data)  # raises with the reason for a wrong path
    return found

"""Nasty inputs: what a reader may meet and must refuse in words, without form or spoilt from a good file."""

import contextlib
import json
import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DEEP = 100_000

# Values as a JSON file may spell them: out of range, of another type, too deep, too long, or with escapes in them.
LITERALS = (
    "null", "true", "false", "0", "-1", "-0.0", "0.5", "1e999", "-1e999", "1e308", "1e-320", "NaN", "Infinity", "-Infinity",
    "1" * 30, "9" * 400, "7" * 5000, "1" + "0" * 308, "2147483648", "18446744073709551616", "-9223372036854775809",
    '""', '" "', '"x"', '"nan"', '"inf"', '"1e999"', '"1,5"', '"1_000"', '"²"', '"٣"', '"−1"', '"1e5000"', '"' + "9" * 5000 + '"',
    '"\\u0000"', '"\\ud800"', '"\\u001b[31mred\\u001b[0m\\u0007"', '"\\u202egnp.exe"', '"a\\nb\\r\\tc"', '"../../x"',
    '"/"', '"."',
    '"=1+1"', '"<script>alert(1)</script>"', '"$(touch ran)"', '"' + "x" * 3000 + '"', '"' + "x" * 200_000 + '"', '"a/b"', '"|"',
    "[]", "{}", "[null]", "[[1, 2], [3]]", "[1e999, NaN]", '{"a": 1}', '{"": {"": {}}}', "[" * 200 + "]" * 200,
    "[" * DEEP + "]" * DEEP, '{"a":' * DEEP + "1" + "}" * DEEP, "[" + "1," * 3000 + "1]",
)  # fmt: skip

CELLS = (
    "", " ", "x", "nan", "NaN", "inf", "-inf", "1e999", "-1", "0", "-0", "1e308", "1e-320", "9" * 400, "7" * 5000,
    "1e5000", "1,5",
    "1.234,5", "1,000,000", "²", "٣", "−1", "1_000", "1__0", "0x10", "1e", "e1", "\x1b[31mred", "\x00", "\ud7ff",
    "\u202e", "=1+1",
    "x" * 3000, "x" * 140_000, '"', '""', "'", "|", "a\tb", "true", "8xA100", "10^21", "52M", "52 M tokens", "12:99", "1:30:00",
    "1" * 3000 + ".", "1," * 3000, "(" * 3000, " " * 3000 + "x", "1 " * 3000,
)  # fmt: skip

_BYTES = (
    b"\0", b"\0" * 64, b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\r", b"\r\n", b"\n\n", b"\x1b[2J",
    b"\x85", b"\x0c",
    b"\xe2\x80\xa8", b'"', b"'", b"{", b"}", b"[", b"]", b",", b":", b"\\", b"\\u", b"#", b"|", b"-", b"&a", b"*a", b"NaN", b"\t",
)  # fmt: skip

FORMLESS: dict[str, bytes] = {
    "empty": b"",
    "spaces": b"   \n \n",
    "one NUL": b"\0",
    "NULs": b"\0" * 4096,
    "a mark alone": b"\xef\xbb\xbf",
    "UTF-16 mark alone": b"\xff\xfe",
    "null": b"null",
    "a number": b"1",
    "a string": b'"x"',
    "a list": b"[]",
    "an object": b"{}",
    "a huge number": b"9" * 10_000,
    "a huge float": b"1e999999",
    "open lists": b"[" * DEEP,
    "deep lists": b"[" * DEEP + b"]" * DEEP,
    "deep objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "deep lists in a row": b'{"run": ' + b"[" * DEEP + b"]" * DEEP + b"}\n",
    "deep YAML lists": b"- " * 20_000 + b"x",
    "deep YAML flow": b"[" * 20_000 + b"]" * 20_000,
    "deep YAML maps": b"".join(b" " * depth + b"a:\n" for depth in range(1500)),
    "YAML alias bomb": b"a0: &a0 [x, x]\n"
    + b"".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n".encode() for n in range(1, 12)),
    "YAML members bomb": b"members:\n  m0: &m0 {time: '10'}\n"
    + b"".join(f"  m{n}: &m{n} {{a: [{', '.join([f'*m{n - 1}'] * 9)}]}}\n".encode() for n in range(1, 12)),
    "YAML in itself": b"environment: &a\n  x: *a\nmembers: &b [*b]\n",
    "YAML tag": b"!!python/object/apply:os.system ['touch ran']\n",
    "YAML odd keys": b"? [1, 2]\n: 3\n? {a: b}\n: c\n",
    "YAML two documents": b"partition: a\n---\npartition: b\n",
    "one line of bars": b"|" * 100_000 + b"\n|" + b"-|" * 50_000 + b"\n",
    "digits": b"1" * 50_000 + b" layers",
    "groups of digits": b"1,000" * 20_000 + b" layers",
    "numbers in a line": b"12 " * 20_000 + b"layers",
    "dots": b"1." * 20_000 + b" parameters",
    "stars": b"**" * 20_000 + b"\n" + b"- " * 20_000 + b"\n" + b"#" * 20_000 + b" x",
    "brackets": b"# " + b"[" * 20_000 + b"](" * 20_000,
    "hyphens": b"- a" + b" -" * 20_000 + b" 12 layers\n" + b"- a" + b"(" * 20_000 + b": 12 layers\n",
    "equals": b"NHIDDEN=" * 10_000 + b"1",
    "spaces and a word": b"12" + b" " * 50_000 + b"layer\n| a |" + b" " * 50_000 + b"b\n",
    "an image": b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8,
    "gzip": b"\x1f\x8b\x08\0" + bytes(range(256)),
    "zip": b"PK\x03\x04" + bytes(range(256)),
    "a pickle": b"\x80\x04\x95\x1a\0\0\0\0\0\0\0\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x02ls\x94\x85\x94R\x94.",
    "an own kind": b'{"kind": "law", "version": 1}',
    "a newer kind": b'{"kind": "runs", "version": 99}\n',
    "an odd version": b'{"kind": "plan", "version": true}',
    "many columns": b",".join(b"c%d" % n for n in range(20_000)) + b"\n" + b"1," * 19_999 + b"1\n",
    "one quote": b'run,params,tokens,loss\n"a,1e6,2e7,3\n' * 50,
    "a JSON array": b'[{"run": "a", "params": 1e6, "tokens": 2e7, "loss": 3.5}]',
}

HUGE: dict[str, bytes] = {
    "a line of 10 MB": b"a" * 10_000_000,
    "digits of 10 MB": b"1" * 10_000_000,
    "a string of 10 MB": b'"' + b"x" * 10_000_000 + b'"',
    "a million lists": b"[" * 10_000_000,
    "a million empty lines": b"\n" * 3_000_000,
    "a million commas": b"," * 3_000_000 + b"\n",
    "NULs of 10 MB": b"\0" * 10_000_000,
    "bars of 3 MB": b"|" * 3_000_000 + b"\n",
    "50,000 rows": b"run,params,tokens,loss\n" + b"a,1e6,2e7,3.5,x\n" * 50_000,
}


def nothing_there(path: Path) -> None:
    """No file."""


def folder_there(path: Path) -> None:
    """A folder in place of the file."""
    path.mkdir()


def loop_there(path: Path) -> None:
    """A link to itself."""
    path.symlink_to(path.name)


def dangling_there(path: Path) -> None:
    """A link to nothing."""
    path.symlink_to("nowhere")


def locked_there(path: Path) -> None:
    """A file without permission; to root it is an empty one."""
    path.write_bytes(b"")
    path.chmod(0)


def pipe_there(path: Path) -> None:
    """A named pipe that nobody writes to."""
    os.mkfifo(path)


def socket_there(path: Path) -> None:
    """A socket."""
    before = Path.cwd()
    os.chdir(path.parent)  # its name may have 108 bytes at most
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(before)


def device_there(path: Path) -> None:
    """A link to a device that gives zeros for ever."""
    path.symlink_to("/dev/zero")


def sparse_there(path: Path) -> None:
    """A file of a terabyte that takes no place."""
    with path.open("wb") as file:
        file.truncate(10**12)


PLACES = (
    nothing_there, folder_there, loop_there, dangling_there, locked_there, pipe_there, socket_there, device_there, sparse_there,
)  # fmt: skip


def nasty(kind: str, whole: bytes, rng: random.Random) -> tuple[str, bytes]:
    """(what was done, bytes) of one nasty file.

    Args:
        kind: json, jsonl, csv, yaml, text or binary: how to spoil it by its parts.
        whole: a file that is read without complaint.
    """
    draw = rng.random()
    if draw < 0.06:
        name = rng.choice(tuple(FORMLESS))
        return name, FORMLESS[name]
    if draw < 0.061:
        name = rng.choice(tuple(HUGE))
        return name, HUGE[name]
    spoilt = _by_parts(kind, whole, rng) if draw < 0.65 else None
    return spoilt or _by_bytes(whole, rng)


def _by_parts(kind: str, whole: bytes, rng: random.Random) -> tuple[str, bytes] | None:
    if kind == "json":
        done, text = _spoil_json(whole.decode(), rng)
        return done, text.encode("utf-8", "surrogatepass")
    if kind == "jsonl":
        lines = whole.decode().splitlines()
        at = rng.randrange(len(lines))
        done, lines[at] = _spoil_json(lines[at], rng)
        return f"line {at + 1}: {done}", ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")
    if kind in ("csv", "md"):
        return _spoil_cells(whole.decode(), rng, "," if kind == "csv" else "|")
    if kind == "yaml":
        lines = whole.decode().splitlines()
        at = rng.randrange(len(lines))
        literal = rng.choice((*LITERALS, *CELLS))
        key, colon, _ = lines[at].partition(":")
        lines[at] = f"{key}{colon} {literal}"
        return f"line {at + 1} {literal[:20]!r}", "\n".join(lines).encode("utf-8", "surrogatepass")
    return None


def _spoil_json(text: str, rng: random.Random) -> tuple[str, str]:
    """One value replaced, removed, repeated or renamed, at any depth."""
    tree = json.loads(text)
    places = list(_places(tree))
    if not places:
        return "as it is", text
    parent, key = rng.choice(places)
    literal = rng.choice(LITERALS)
    how = rng.random()
    if how < 0.6:
        parent[key] = "@here@"
        out = json.dumps(tree).replace('"@here@"', literal, 1)
        done = f"{key} = {literal[:20]}"
    elif how < 0.75:
        del parent[key]
        out, done = json.dumps(tree), f"without {key}"
    elif how < 0.85 and isinstance(parent, dict):
        parent["@here@"] = 0
        out = json.dumps(tree).replace('"@here@": 0', f'"{key}": {literal}', 1)
        done = f"{key} twice, {literal[:20]}"
    elif how < 0.92 and isinstance(parent, dict):
        parent[rng.choice(("", "x", "\0", "\x1b[2J", "x" * 3000, "kind", "__class__", "run ", "\ud800"))] = (
            parent.pop(key)
        )
        out, done = json.dumps(tree), f"{key} renamed"
    else:
        other, at = rng.choice(places)
        with contextlib.suppress(IndexError, KeyError):
            other[at] = json.loads(json.dumps(parent[key]))
        out, done = json.dumps(tree), f"{key} at {at}"
    return done, out


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in pairs:
        yield tree, key
        yield from _places(value)


def _spoil_cells(text: str, rng: random.Random, between: str) -> tuple[str, bytes]:
    rows = [line.split(between) for line in text.splitlines()]
    row = rng.randrange(len(rows))
    column = rng.randrange(len(rows[row]))
    cell = rng.choice(CELLS)
    how = rng.random()
    if how < 0.6:
        rows[row][column] = cell
    elif how < 0.7:
        del rows[row][column]
    elif how < 0.8:
        rows[row].insert(column, cell)
    elif how < 0.9:  # the whole column
        for other in rows[1:]:
            if column < len(other):
                other[column] = cell
    else:
        rows = rows[: rng.randrange(len(rows) + 1)] * rng.choice((1, 2, 30))
    end = rng.choice(("\n", "\n", "\n", "\r\n", "\r"))
    said = f"row {row + 1}, column {column + 1}: {cell[:20]!r}"
    return said, end.join(between.join(cells) for cells in rows).encode("utf-8", "surrogatepass")


def _by_bytes(whole: bytes, rng: random.Random) -> tuple[str, bytes]:
    """Cut, damaged, or in another encoding."""
    at = rng.randrange(len(whole) + 1)
    how = rng.randrange(10)
    if how <= 2:
        return f"cut at {at}", whole[:at]
    if how == 3:
        return f"begun at {at}", whole[at:]
    if how == 4:
        flipped = bytearray(whole or b"x")
        flipped[at % len(flipped)] ^= 1 << rng.randrange(8)
        return f"a bit flipped at {at}", bytes(flipped)
    if how == 5:
        more = rng.choice(_BYTES)
        return f"{more[:8]!r} at {at}", whole[:at] + more + whole[at:]
    if how == 6:
        end = min(len(whole), at + rng.choice((1, 8, 500, 4096)))
        return f"zeros from {at} to {end}", whole[:at] + b"\0" * (end - at) + whole[end:]
    if how == 7:
        code = rng.choice(("utf-16", "utf-16-be", "utf-32", "utf-8-sig", "utf-7", "cp037"))
        with contextlib.suppress(UnicodeError):
            return code, whole.decode().encode(code)
        return "twice", whole * 2
    if how == 8:
        return "other line ends", whole.replace(
            b"\n", rng.choice((b"\r", b"\x0b", b"\xe2\x80\xa8", b"\0", b" "))
        )
    return "random bytes", rng.randbytes(rng.randrange(1, 4000))

"""Text that strangers wrote: parsed with every fault as one kind of error, and shown without its control characters.

The parsers of Python fail in more ways than they say: lists nested too deep overflow the stack, a number of 5,000 digits
is a plain ValueError, a long cell an error of the csv module, and half a character breaks whatever writes it.
"""

import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterator
from typing import Any

LONGEST_MESSAGE = 1900  # characters; with what stands before it, a line on standard error has at most 2,000

_EXACT_DIGITS = 19  # of an integer; a longer one is read as a float, so that no arithmetic on it overflows
_DEEPEST_YAML = 100  # brackets open at once; a profile of a cluster has two
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
# Categories that a terminal obeys: control, format (text from right to left), half a character, other line ends.
_OBEYED = ("Cc", "Cf", "Cs", "Zl", "Zp")


class YamlError(ValueError):
    """Text is not YAML; `line` is where, if that is known."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


def parse_json(text: str | bytes) -> Any:
    """A JSON value, as `json.loads` gives it; an integer beyond 64 bits is a float.

    Raises:
        json.JSONDecodeError: the text is not JSON, not UTF-8, nested too deep, has half a character in a string, or a key
            twice in an object.
    """
    try:
        text = text if isinstance(text, str) else text.decode()
        value = _DECODER.decode(text)
        if "\\u" in text and _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeEncodeError:
        raise json.JSONDecodeError("half a character stands in a string", "", 0) from None
    except RecursionError:
        raise json.JSONDecodeError("lists or objects are nested too deep", "", 0) from None
    except UnicodeDecodeError as error:
        raise json.JSONDecodeError(f"not UTF-8 text: {error.reason}", "", 0) from error


def _whole(digits: str) -> int | float:
    return int(digits) if len(digits) <= _EXACT_DIGITS else float(digits)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; one with a key twice is refused, since one reader takes the first value and another the last."""
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise json.JSONDecodeError(f"the key {twice[:60]!r} stands there twice", "", 0)
    return found


_DECODER = json.JSONDecoder(parse_int=_whole, object_pairs_hook=_unique)


def parse_csv(text: str, delimiter: str) -> Iterator[tuple[int, list[str] | str]]:
    """(number of the line, its cells) of each row that is no empty line; in place of the cells, what is wrong with a row."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield reader.line_num, f"it is no row of a table: {error}"
        else:
            if row:
                yield reader.line_num, row


def parse_yaml(text: str) -> Any:
    """A YAML value in which every scalar is text: 12:00:00 is no number in base 60, and a partition may be called no.

    Raises:
        YamlError: the text is not YAML, or nested too deep.
    """
    import yaml

    if _nesting(text) > _DEEPEST_YAML:  # the parser looks at every open bracket at each token
        raise YamlError("lists or maps are nested too deep")
    plain = type("Plain", (yaml.SafeLoader,), {"yaml_implicit_resolvers": {}})
    try:
        return yaml.load(text, Loader=plain)  # noqa: S506 - a SafeLoader that knows fewer types
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = None if mark is None else mark.line + 1
        raise YamlError(str(getattr(error, "problem", None) or error), line) from error
    except RecursionError:
        raise YamlError("lists or maps are nested too deep") from None


def _nesting(text: str) -> int:
    """The most brackets open at once, those in quotes and comments too."""
    deepest = depth = 0
    for bracket in re.findall(r"[\[\]{}]", text):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def shown(text: str) -> str:
    """Text with its control characters as escapes, line ends and tabs left: a terminal obeys it nowhere."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(letter) for letter in text)


def one_line(message: str) -> str:
    """A message as one line of at most LONGEST_MESSAGE characters, its control characters as escapes."""
    return shortened(shown(" ".join(message.split())))


def shortened(line: str) -> str:
    """A line of at most LONGEST_MESSAGE characters, its beginning and its end."""
    if len(line) <= LONGEST_MESSAGE:
        return line
    half = LONGEST_MESSAGE // 2 - 4
    return f"{line[:half]} […] {line[-half:]}"


def _escaped(letter: str) -> str:
    if letter in "\n\t" or unicodedata.category(letter) not in _OBEYED:
        return letter
    return letter.encode("unicode_escape").decode()

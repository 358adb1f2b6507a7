"""key=value arguments as a dictionary; imports nothing heavy, so that a wrong key is refused at once."""

from collections.abc import Sequence

from families.units import BadInput, nearest


def pairs(words: Sequence[str], allowed: Sequence[str]) -> dict[str, str]:
    """Return ["family=gpt2", …] as a dictionary.

    Raises:
        BadInput: a word has no "=", or a key is unknown or given twice.
    """
    values: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            hint = f"write {word}=VALUE" if word in allowed else nearest(word, allowed, 30)
            raise BadInput(f"{word!r} is not key=value; {hint}")
        if key not in allowed:
            raise BadInput(f"unknown key {key!r}; {nearest(key, allowed, 30)}")
        if key in values:
            raise BadInput(f"{key} is given twice: {values[key]!r} and {value!r}")
        values[key] = value
    return values

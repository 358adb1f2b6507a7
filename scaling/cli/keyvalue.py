"""key=value arguments, merged into a pydantic model: a wrong key or value is one line."""

from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from families.errors import BadInput
from families.units import nearest

from ..files import first_problem

M = TypeVar("M", bound=BaseModel)


def pairs(words: Sequence[str], allowed: Sequence[str]) -> dict[str, str]:
    """["family=gpt2", …] as a dictionary.

    Raises:
        BadInput: a word without "=", an unknown or a repeated key.
    """
    values: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            how = f"write {word}=VALUE" if word in allowed else nearest(word, allowed, 30)
            raise BadInput(f"{word!r} is not key=value; {how}")
        if key not in allowed:
            raise BadInput(f"unknown key {key!r}; {nearest(key, allowed, 30)}")
        if key in values:
            raise BadInput(f"{key} is given twice: {values[key]!r} and {value!r}")
        values[key] = value
    return values


def merge(model: type[M], words: Sequence[str], **given: Any) -> M:
    """A model from key=value words and what is `given` besides.

    Raises:
        BadInput: naming the key, its value and what is allowed.
    """
    values = pairs(words, [name for name in model.model_fields if name not in given])
    try:
        return model.model_validate({**values, **given})
    except ValidationError as error:
        problem = error.errors()[0]
        if problem["type"] == "missing":
            raise BadInput(f"{problem['loc'][0]}= is missing; it is needed") from error
        raise BadInput(first_problem(error)) from error

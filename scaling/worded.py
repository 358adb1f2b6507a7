"""Verdicts that say what they mean: an enumeration whose members carry a message."""

from enum import StrEnum
from typing import Self


class Worded(StrEnum):
    """Base of verdicts; a member is written NAME = "name", "what it means"."""

    message: str

    def __new__(cls, value: str, message: str) -> Self:
        member = str.__new__(cls, value)
        member._value_ = value
        member.message = message
        return member

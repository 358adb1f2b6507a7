"""Losses that are printed with their error: 2.345 ± 0.012, 2.345(12), 2.345 (0.012)."""

import re

from families.units import BadInput

_LONGEST = 60  # characters
_FLOAT = r"[0-9]{1,9}(?:\.[0-9]{1,17})?(?:[eE][+-]?[0-9]{1,3})?"
_PLUS_MINUS = re.compile(rf"({_FLOAT})\s*(?:±|\+/?[-−]|\+-)\s*({_FLOAT})")
_IN_BRACKETS = re.compile(r"([0-9]{1,9}\.([0-9]{1,17}))(\s*)\(\s*([0-9]{1,9}(?:\.[0-9]{1,17})?)\s*\)")
_TWO_NUMBERS = re.compile(r"[~≈]?[0-9][0-9.,]*\s*(?:±|\+|[([/;→]|-[^0-9]*[0-9]|\s[0-9])")
_WITH_COMMAS = re.compile(r"[0-9]{1,3},[0-9]{1,9}\D+0,[0-9]{1,9}\)?")
_LARGEST = 0.2  # of a loss: an error beyond that is another number


def with_error(text: str) -> tuple[str, str] | None:
    """The loss and the standard error of a cell, as numbers in text; None for a cell without an error.

    Raises:
        BadInput: two numbers of which the second may be something else.
    """
    if len(text) > _LONGEST or text.replace(".", "", 1).isdecimal():
        return None
    cell = text.strip().replace("−", "-")
    if "." not in cell and _WITH_COMMAS.fullmatch(cell):
        cell = cell.replace(",", ".")
    error = None
    if match := _PLUS_MINUS.fullmatch(cell):
        loss, error = match[1], match[2]
    elif match := _IN_BRACKETS.fullmatch(cell):
        loss, digits, space, inner = match[1], match[2], match[3], match[4]
        if "." in inner:
            error = inner if inner.startswith("0.") else None
        elif not space and len(inner) <= len(digits):
            error = f"{int(inner)}e-{len(digits)}"
    if error is None:
        if _TWO_NUMBERS.match(cell):
            raise BadInput(
                f"loss is {text!r}, of which the second part may be several things: write the loss alone, and its standard error "
                "in a column loss_se"
            )
        return None
    if not 0 <= float(error) <= _LARGEST * float(loss):
        raise BadInput(
            f"loss is {text!r}, whose error of {float(error):g} is too large to be one: write the loss alone, and its standard "
            "error in a column loss_se"
        )
    return loss, error

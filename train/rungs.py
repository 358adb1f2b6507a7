"""Where a ladder's rungs are: listed token counts, or so many in a geometric row that ends at the last."""

import re
from typing import Any

from families.errors import BadInput
from families.units import listed, parse_count
from scaling.files import Record

_ROW = re.compile(r"(\d+)\s*x\s*(\d+(?:\.\d+)?|\.\d+)", re.IGNORECASE)
MOST = 64  # rungs in a row: more is a slip of the keyboard


class Rungs(Record):
    """`listed` token counts; or `count` rungs in all, each `factor` times the one before, the last at the run's tokens."""

    listed: tuple[int, ...] = ()
    count: int = 1
    factor: float = 2.0

    @classmethod
    def parse(cls, value: Any) -> Any:
        """1M,2M,4M lists them; 5x2 is five rungs, each twice the one before.

        Raises:
            BadInput: neither, or a row that does not grow.
        """
        if isinstance(value, list | tuple):
            return cls(listed=tuple(parse_count(part, "rungs") for part in value))
        if not isinstance(value, str):
            return value
        if "x" not in value.lower():
            return cls(listed=tuple(parse_count(part, "rungs") for part in listed(value, "rungs") if part))
        match = _ROW.fullmatch(value.strip())
        if match is None:
            raise BadInput(f"rungs is {value!r}; it must be token counts like 1M,2M,4M, or a row like 5x2")
        count, factor = int(match[1]), float(match[2])
        if not 1 <= count <= MOST or factor <= 1:
            raise BadInput(f"rungs is {value!r}; a row has 1 to {MOST} rungs and a factor above 1")
        return cls(count=count, factor=factor)

    def at(self, tokens: int) -> tuple[int, ...]:
        """Token counts of all rungs, ascending, `tokens` the last.

        Raises:
            BadInput: a listed rung beyond `tokens`, or a row that starts below one token.
        """
        if any(rung > tokens for rung in self.listed):
            raise BadInput(f"rungs has {max(self.listed)}; none may exceed tokens, which is {tokens}")
        if tokens / self.factor ** (self.count - 1) < 1:
            raise BadInput(
                f"rungs is {self.count}x{self.factor:g}; its first would be below one token of {tokens}"
            )
        row = (round(tokens / self.factor**step) for step in range(self.count))
        return tuple(sorted({*self.listed, *row}))

    @property
    def many(self) -> bool:
        """Whether there is more than the run's own end."""
        return bool(self.listed) or self.count > 1

"""What stands in for everything that a pickle would import, call or load."""

from dataclasses import dataclass
from typing import Any, Self

LONGEST_ARGUMENT = 60
"""Characters of an argument that are shown."""


class PlacedFloat(float):
    """A float that knows where in the pickle its eight bytes stand."""

    __slots__ = ("at",)
    at: int

    def __new__(cls, value: float, at: int) -> Self:
        """Make one from a value and a position."""
        made = super().__new__(cls, value)
        made.at = at
        return made


@dataclass(frozen=True, slots=True)
class Global:
    """A name that the pickle wanted to import."""

    module: str
    name: str

    @property
    def dotted(self) -> str:
        """Module and name joined by a dot."""
        return f"{self.module}.{self.name}"


@dataclass(slots=True, eq=False)
class Call:
    """A call or construction that the pickle asked for and that never happens.

    Args:
        func: What it wanted to call: usually a Global.
        args: With what.
        state: What it wanted to set on the result (`BUILD`).
        items: What it wanted to append to the result.
        pairs: What it wanted to put into the result as a mapping.
    """

    func: Any
    args: Any
    state: Any = None
    items: list[Any] | None = None
    pairs: dict[Any, Any] | None = None

    def shown(self) -> str:
        """Write the call as Python would, shortened."""
        name = self.func.dotted if isinstance(self.func, Global) else "(...)"
        args = self.args if isinstance(self.args, tuple) else (self.args,)
        texts = (repr(a)[:LONGEST_ARGUMENT] if isinstance(a, str | bytes | float) else "..." for a in args[:3])
        return f"{name}({', '.join(texts)}{', ...' if len(args) > 3 else ''})"

    def named(self, *dotted: str) -> bool:
        """Return whether it is a call of one of these dotted names."""
        return isinstance(self.func, Global) and self.func.dotted in dotted


@dataclass(frozen=True, slots=True, eq=False)
class Persistent:
    """A reference to something outside the pickle: in torch files, a storage."""

    key: Any


@dataclass(frozen=True, slots=True, eq=False)
class OpaqueKey:
    """Stands in for a dictionary key that is no plain value."""

    value: Any

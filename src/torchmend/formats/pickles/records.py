"""What stands in for everything that a pickle would import, call or load."""

from dataclasses import dataclass
from typing import Any, Self

from torchmend.facts.texts import printable

LONGEST_ARGUMENT = 60
"""Characters of an argument that are shown."""

MOST_ARGUMENTS = 3
"""Arguments, and items of one argument, that are shown."""

LONGEST_WALK = 200
"""Characters of a walk over attributes that are kept; beyond them only its last step is."""

_GETATTR = ("builtins.getattr", "__builtin__.getattr")
_GETTERS = ("operator.attrgetter", "_operator.attrgetter", "operator.methodcaller", "_operator.methodcaller")


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
        fetched: The name that the call would have given, where it only fetches an attribute of one.
        encoded: The bytes that it would have given, once they are known, where it only encodes a text.
    """

    func: Any
    args: Any
    state: Any = None
    items: list[Any] | None = None
    pairs: dict[Any, Any] | None = None
    fetched: Global | None = None
    encoded: bytes | None = None

    def shown(self) -> str:
        """Write the call as Python would, shortened."""
        named = known_as(self.func)
        args = self.args if isinstance(self.args, tuple) else (self.args,)
        return f"{printable(named.dotted) if named else '(...)'}({_listed(args, 2)})"

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


def known_as(value: Any) -> Global | None:
    """Return the name that a value was imported by or, attribute by attribute, fetched from."""
    return value if isinstance(value, Global) else value.fetched if isinstance(value, Call) else None


def fetched(func: Any, args: Any) -> Global | None:
    """Return the name that a call of `getattr`, or of what `attrgetter` gave, would have fetched."""
    if not isinstance(args, tuple) or not args:
        return None
    if isinstance(func, Global) and func.dotted in _GETATTR:
        steps = args[1] if len(args) > 1 else None
    elif isinstance(func, Call) and func.named(*_GETTERS) and isinstance(func.args, tuple) and func.args:
        steps = func.args[0]
    else:
        return None
    base = known_as(args[0])
    if base is None or not isinstance(steps, str):
        return None
    walk = f"{base.name}.{steps}"
    return Global(base.module, walk if len(walk) <= LONGEST_WALK else steps)


def _listed(values: tuple[Any, ...] | list[Any], levels: int) -> str:
    texts = (_shown(value, levels) for value in values[:MOST_ARGUMENTS])
    return f"{', '.join(texts)}{', ...' if len(values) > MOST_ARGUMENTS else ''}"


def _shown(value: Any, levels: int) -> str:
    if isinstance(value, str | bytes):
        return repr(value[:LONGEST_ARGUMENT])[:LONGEST_ARGUMENT]
    if value is None or isinstance(value, float) or (isinstance(value, int) and value.bit_length() <= 64):
        return repr(value)
    if (named := known_as(value)) is not None:
        return printable(named.dotted)
    if levels and isinstance(value, list | tuple):
        inside = _listed(value, levels - 1)
        return f"[{inside}]" if isinstance(value, list) else f"({inside}{',' if len(value) == 1 else ''})"
    return "..."

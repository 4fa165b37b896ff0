"""An interpreter of pickle opcodes that never imports and never calls.

Every opcode of protocols 0 to 5 is understood; what would be imported, called or loaded becomes an inert
record. Sizes that the pickle claims are checked against the bytes that are there; memory and the number of
opcodes are limited.
"""

import struct
from collections.abc import Callable
from typing import Any

from torchmend.facts.codes import Code
from torchmend.facts.errors import FileError
from torchmend.formats.contents import Import
from torchmend.formats.mapped import Buffer
from torchmend.formats.pickles.opcodes import STOP, bind
from torchmend.formats.pickles.records import Persistent
from torchmend.formats.pickles.state import CutError, State

MOST_OPCODES = 100_000_000


class Machine:
    """Interpret a pickle, or several that stand back to back.

    Args:
        data: The bytes; what follows the pickle's end is left alone.
        start: Where the pickle begins.
        persistent: Turns what names something outside the pickle into what stands for it.
    """

    def __init__(self, data: Buffer, start: int = 0, persistent: Callable[[Any], Any] = Persistent) -> None:
        self.state = State(data, start, persistent)
        self.handlers = bind(self.state)
        self.is_cut = False
        """Whether the last run failed because the bytes ended before the pickle did."""

    def imports(self, *, start: int | None = None, pickle: str = "") -> tuple[Import, ...]:
        """Return the names that the pickles so far wanted to import, in their order, each with its first call.

        Args:
            start: Where in the file the machine's data begin; None when they are compressed there.
            pickle: What the file calls this pickle, where there are several.
        """
        return tuple(
            Import(
                module=found.module,
                name=found.name,
                call=self.state.calls[found].shown() if found in self.state.calls else "",
                at=at,
                place=None if start is None else start + at,
                pickle=pickle,
            )
            for found, at in self.state.imports.items()
        )

    def run(self) -> Any:
        """Return the pickled object, with inert records in it; another run reads the pickle that follows.

        Raises:
            FileError: The pickle is malformed, cut off, or over a limit.
        """
        state, handlers, data = self.state, self.handlers, self.state.data
        state.stack.clear()
        state.memo.clear()
        try:
            for _ in range(MOST_OPCODES):
                opcode = data[state.position]
                state.position += 1
                if handlers[opcode]() is STOP:
                    return state.pop()
        except (IndexError, KeyError, ValueError, TypeError, AttributeError, struct.error) as error:
            self.is_cut = isinstance(error, CutError) or state.position >= len(data)
            detail = f"{type(error).__name__} at byte {state.position:,} of {len(data):,}"
            raise FileError(
                Code.UNREADABLE,
                f"The pickle inside is malformed ({detail}).",
                "Use an earlier checkpoint; this one's structure cannot be read.",
            ) from None
        raise state.over_limit(f"more than {MOST_OPCODES:,} opcodes")

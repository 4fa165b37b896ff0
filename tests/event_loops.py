"""gradio makes event loops that it neither runs nor closes, and Python warns of them at any time later."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch


@contextmanager
def closed_afterwards() -> Iterator[None]:
    """Close whatever event loops are made within."""
    made, make = [], asyncio.new_event_loop

    def make_and_remember() -> asyncio.AbstractEventLoop:
        made.append(make())
        return made[-1]

    with patch("asyncio.new_event_loop", make_and_remember):
        yield
    asyncio.set_event_loop(None)
    for loop in made:
        loop.close()

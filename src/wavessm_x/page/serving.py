"""The page, while it is open: a server on this machine, that nobody else is told of."""

from collections.abc import Iterator
from contextlib import contextmanager

import gradio as gr

from wavessm_x.config import WavessmError


class PageError(WavessmError, OSError):
    """The page cannot be served where it was to be."""


@contextmanager
def served(page: gr.Blocks, host: str, port: int) -> Iterator[str]:
    """Serve a page, until the block ends.

    Args:
        page: The page.
        host: The address that it listens at: 127.0.0.1 lets in this machine alone.
        port: Of that address.

    Yields:
        What to open in a browser.

    Raises:
        PageError: Something else listens there, or the address is none of this machine.
    """
    theme = gr.themes.Default(font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace"))
    try:
        _, address, _ = page.launch(
            server_name=host, server_port=port, share=False, quiet=True, prevent_thread_lock=True, footer_links=[],
            theme=theme,
        )
    except OSError as error:
        raise PageError(f"The page cannot be served at {host}:{port}: is the port taken? Try another one.") from error
    try:
        yield address
    finally:
        page.close(verbose=False)

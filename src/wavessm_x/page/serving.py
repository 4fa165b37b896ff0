"""The page while it is open: a server on this machine that nobody else is told of."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import gradio as gr

from wavessm_x.config import WavessmError


class PageError(WavessmError, OSError):
    """The page cannot be served where it was to be."""


@contextmanager
def served(page: gr.Blocks, host: str, port: int) -> Iterator[str]:
    """Serve a page until the block ends.

    Args:
        page: The page.
        host: Where to listen: at 127.0.0.1 only this machine can reach it.
        port: Likewise, from 1.

    Yields:
        What to open in a browser.

    Raises:
        PageError: The port is taken, or the host is not this machine.
    """
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        raise PageError(
            f"Nothing can be served at {host}:{port}. Either the port is taken, so choose another --port, or the "
            "--host is no address of this machine."
        ) from error
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        footer_links=[],
        theme=gr.themes.Default(font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace")),
    )
    try:
        yield address
    finally:
        page.close(verbose=False)

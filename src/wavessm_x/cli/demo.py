"""`wavessm demo`: a page on which pictures are filled by hand."""

import threading
import webbrowser
from typing import Annotated

import typer

from wavessm_x.cli.common import MODEL_FILE, ModelFile, tell


def demo(
    model_file: ModelFile = MODEL_FILE,
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Where the page listens.")] = 7860,
    host: Annotated[
        str, typer.Option("--host", help="Likewise; 0.0.0.0 lets in whoever can reach this machine.")
    ] = "127.0.0.1",
    no_browser: Annotated[bool, typer.Option("--no_browser", help="Open no browser.")] = False,
) -> None:
    """Paint over a picture in a browser and see it filled, all on this machine."""
    from wavessm_x.page import build, served
    from wavessm_x.restoring import Restorer

    with served(build(Restorer.load(model_file)), host, port) as address:
        tell(f"The page is at {address} until you press Ctrl-C.")
        if not no_browser:
            webbrowser.open(address)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            tell("Closed.")

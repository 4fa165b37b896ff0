"""`wavessm demo`."""

import os
import threading
import webbrowser
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from wavessm_x.cli.common import MODEL_FILE, DeviceOption, ModelFile, Overlap, Tile, load_restorer, tell


def demo(  # one parameter a flag
    model_file: ModelFile = MODEL_FILE,
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Where the page listens.")] = 7860,
    host: Annotated[
        str, typer.Option("--host", help="Likewise; 0.0.0.0 lets in whoever can reach this machine.")
    ] = "127.0.0.1",
    no_browser: Annotated[bool, typer.Option("--no_browser", help="Open no browser.")] = False,
    tile: Tile = 256,
    overlap: Overlap = 32,
    device: DeviceOption = "auto",
) -> None:
    """Load a picture on a page in the browser, paint over what should go, and see it filled.

    The page is served by this machine to itself. What is loaded is deleted when the page closes.
    """
    with TemporaryDirectory(prefix="wavessm_") as kept:
        os.environ |= _environment(kept, host)
        from wavessm_x.page import build, served

        restorer = load_restorer(model_file, device, tile, overlap)
        with served(build(restorer), host, port) as address:
            tell(f"The page is at {address} until you press Ctrl-C.")
            try:
                if not no_browser:
                    webbrowser.open(address)
                threading.Event().wait()
            except KeyboardInterrupt:
                tell("Closed.")


def _environment(kept: str, host: str) -> dict[str, str]:
    """Return what has gradio report to nobody, keep pictures nowhere but in a folder, and reach itself by no proxy."""
    direct = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    return {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_RUN_HISTORY": "False",
        "GRADIO_TEMP_DIR": kept,
        "no_proxy": f"{direct},localhost,{host}".lstrip(","),
    }

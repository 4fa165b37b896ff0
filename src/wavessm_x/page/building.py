"""The page: a place to load and paint a photo, a button, and the picture before and after."""

from functools import partial
from typing import Any

import gradio as gr

from wavessm_x.config import WavessmError
from wavessm_x.data.reading import Pixels
from wavessm_x.page.painting import loaded, picture_and_mask
from wavessm_x.restoring import Restorer

PAINT = "#ff2fd0"
"""A colour that few photos have much of."""

MASKED = """# Fill a picture
Load a photo, paint over what should go, and press Fill. Whatever is painted over is replaced, and so is what is
transparent; every other pixel stays exactly as it is. The photo never leaves the machine that runs this page."""

BLIND = """# Restore a picture
Load a damaged photo and press Restore: this network finds the damage itself. The photo never leaves the machine that
runs this page."""


def build(restorer: Restorer) -> gr.Blocks:
    """Build the page.

    Args:
        restorer: What fills, or restores; the page has a brush if it expects a mask.
    """
    page = gr.Blocks(title="wavessm", analytics_enabled=False)
    with page:
        gr.Markdown(MASKED if restorer.masked else BLIND)
        photo = _editor() if restorer.masked else gr.Image(label="Photo", format="png", sources=["upload", "clipboard"])
        button = gr.Button("Fill" if restorer.masked else "Restore", variant="primary")
        result = gr.ImageSlider(label="Before and after", format="png", interactive=False)
        again = gr.Button("Go on with the result", visible=False)
        button.click(partial(_restore, restorer), photo, [result, again])
        again.click(_after, result, photo)
    return page


def _editor() -> gr.ImageEditor:
    return gr.ImageEditor(
        label="Photo",
        placeholder="Drop a photo here\nor load one\nby the arrow on the left",
        height="min(65vh, 100vw)",
        format="png",
        sources=["upload", "clipboard"],
        brush=gr.Brush(colors=[PAINT], color_mode="fixed"),
        transforms=(),
        layers=False,
        buttons=[],
    )


def _restore(restorer: Restorer, given: Any) -> tuple[Any, Any]:
    """Make what the slider and the second button show of what the photo's place holds."""
    try:
        picture, mask = picture_and_mask(given) if restorer.masked else (loaded(given), None)
        restored = restorer.restore(picture, mask)
    except WavessmError as error:
        gr.Warning(str(error))
        return gr.skip(), gr.skip()
    return (picture, restored), gr.Button(visible=True)


def _after(shown: tuple[Pixels, Pixels]) -> Pixels:
    return shown[1]

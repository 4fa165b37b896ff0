"""The page: an editor to paint in, a button, and the picture before and after."""

from functools import partial
from typing import Any

import gradio as gr

from wavessm_x.config import WavessmError
from wavessm_x.data.reading import Pixels
from wavessm_x.page.painting import Painted, picture_and_mask
from wavessm_x.restoring import Restorer

PAINT = "#ff2fd0"
"""A colour that few photographs have much of."""

DAY = 24 * 60 * 60
"""Seconds after which pictures that the page keeps for the browser are deleted; all of them are when it ends."""

MASKED = """# Fill a picture
Load a photo, paint over what should go, and press Fill. What is painted is replaced, whatever was there; every other
pixel stays exactly as it is. The photo never leaves this machine."""


def build(restorer: Restorer) -> gr.Blocks:
    """Build the page.

    Args:
        restorer: What fills.
    """
    with gr.Blocks(title="wavessm", analytics_enabled=False, delete_cache=(DAY, DAY)) as page:
        gr.Markdown(MASKED)
        editor = gr.ImageEditor(
            label="Photo",
            format="png",
            sources=("upload", "clipboard"),
            brush=gr.Brush(colors=[PAINT], color_mode="fixed"),
            transforms=(),
            layers=False,
            buttons=[],
        )
        button = gr.Button("Fill", variant="primary")
        result = gr.ImageSlider(label="Before and after", format="png", interactive=False)
        again = gr.Button("Paint on the result", visible=False)
        button.click(partial(_fill, restorer), editor, [result, again])
        again.click(_take, result, editor)
    return page


def _fill(restorer: Restorer, painted: Painted | None) -> Any:
    try:
        picture, mask = picture_and_mask(painted)
        filled = restorer.restore(picture, mask)
    except WavessmError as error:
        gr.Warning(str(error), title="Not filled")
        return gr.skip(), gr.skip()
    return (picture, filled), gr.Button(visible=True)


def _take(pair: tuple[Pixels, Pixels]) -> Painted:
    return {"background": pair[1], "layers": [], "composite": None}

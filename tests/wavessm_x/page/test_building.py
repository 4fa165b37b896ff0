"""The page has what its network needs, sends nothing anywhere, and answers mistakes by messages."""

from pathlib import Path

import gradio as gr
import numpy as np
import pytest

from networks import network
from wavessm_x.data.reading import read
from wavessm_x.page import build
from wavessm_x.restoring import Restorer


@pytest.fixture
def warned(monkeypatch):
    said = []
    monkeypatch.setattr(gr, "Warning", said.append)
    return said


def page(*, masked=True):
    return build(Restorer(network(masked=masked)))


def press(page, given):
    """Call what the first button calls."""
    return page.fns[0].fn(given)


def names(page):
    return [each.get_block_name() for each in page.blocks.values()]


def photo():
    drawn = np.random.default_rng(0).integers(0, 256, (20, 30, 4), dtype=np.uint8)
    drawn[..., 3] = 255
    return drawn


def test_a_page_for_a_masked_network_has_a_brush():
    assert "imageeditor" in names(page())


def test_a_page_for_a_blind_network_has_none():
    built = page(masked=False)
    assert "imageeditor" not in names(built)
    (before, after), _ = press(built, photo()[..., :3])
    assert before.shape == after.shape
    assert not np.array_equal(before, after)


def test_it_reports_to_nobody():
    assert page().config["analytics_enabled"] is False


def test_what_is_painted_is_filled_and_nothing_else():
    layer = np.zeros((20, 30, 4), np.uint8)
    layer[5:9, 10:20] = 255
    (before, after), again = press(page(), {"background": photo(), "layers": [layer], "composite": None})
    changed = (before != after).any(axis=2)
    assert changed[5:9, 10:20].any()
    assert not changed[layer[..., 3] == 0].any()
    assert again.visible


@pytest.mark.parametrize("masked", [True, False])
def test_a_button_pressed_too_early_changes_nothing_and_says_why(masked, warned):
    assert press(page(masked=masked), None) == (gr.skip(), gr.skip())
    assert warned == ["Load a photo first."]


def test_what_goes_wrong_in_the_network_is_told(warned):
    broken = network()
    broken.output.bias.data[:] = float("nan")
    background = photo()
    background[3, 3, 3] = 0
    press(build(Restorer(broken)), {"background": background, "layers": [], "composite": None})
    assert "not finite" in warned[0]


@pytest.mark.parametrize("masked", [True, False])
def test_the_result_can_be_gone_on_with(masked):
    _, go_on = page(masked=masked).fns.values()
    before, after = photo()[..., :3], 255 - photo()[..., :3]
    loaded = go_on.outputs[0].postprocess(go_on.fn((before, after)))
    kept = loaded.background if masked else loaded
    assert np.array_equal(read(Path(kept.path)), after)
    assert not masked or loaded.layers == []

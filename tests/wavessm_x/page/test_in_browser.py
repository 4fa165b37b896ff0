"""The whole page in a real browser: a photo is loaded, painted with the mouse, filled and downloaded."""

import shutil
import socket

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from networks import network
from wavessm_x.data.reading import read
from wavessm_x.page import build, served
from wavessm_x.restoring import Restorer

CHROMIUM = shutil.which("chromium")
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-quic",
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
]
LONG = 120_000
"""Milliseconds to wait at most, on slow machines."""

HEIGHT, WIDTH = 1000, 1500
"""Of the photo: larger than the canvas that the editor begins with, and than the screen."""

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs /usr/bin/chromium")]


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def address():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with served(build(Restorer(network())), "127.0.0.1", port) as address:
        yield address


@pytest.fixture
def browser_page():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        opened = browser.new_page(viewport={"width": 1200, "height": 900})
        opened.set_default_timeout(LONG)
        yield opened
        browser.close()


def load(page: Page, photo):
    """Load a photo, and wait until the editor has gone over to its brush."""
    page.set_input_files("input[type=file]", photo)
    page.locator("button[aria-label='Brush Size']").wait_for()


def paint(page: Page):
    """Paint a stroke right of the centre, and wait until the editor knows of it."""
    box = page.locator("canvas").first.bounding_box()
    across, down = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(across, down)
    page.mouse.down()
    page.mouse.move(across + 60, down + 30, steps=8)
    page.mouse.up()
    expect(page.locator("button[aria-label='Undo']").first).to_be_enabled(timeout=LONG)


def download(page: Page, path):
    with page.expect_download() as started:
        page.get_by_role("button", name="Download").click()
    started.value.save_as(path)
    return read(path)


def test_what_is_painted_is_filled_and_the_rest_is_the_photo_to_the_bit(address, browser_page, photo, tmp_path):
    asked = []
    browser_page.on("request", lambda request: asked.append(request.url))
    browser_page.goto(address)
    load(browser_page, photo)
    paint(browser_page)
    browser_page.get_by_role("button", name="Fill").click()
    browser_page.get_by_role("button", name="Go on with the result").wait_for()
    rows, columns = (read(photo) != download(browser_page, tmp_path / "filled.png")).any(axis=2).nonzero()
    assert rows.size > 1000
    assert HEIGHT * 0.4 < rows.min() <= rows.max() < HEIGHT * 0.7
    assert WIDTH * 0.4 < columns.min() <= columns.max() < WIDTH * 0.7
    assert all(url.startswith((address, "data:", "blob:")) for url in asked)


def test_a_button_pressed_too_early_is_answered(address, browser_page):
    browser_page.goto(address)
    browser_page.get_by_role("button", name="Fill").click()
    browser_page.get_by_text("Load a photo first.").wait_for()

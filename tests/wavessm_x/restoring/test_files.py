"""Pictures are paired with masks by name, and outputs appear whole or not at all."""

import numpy as np
import pytest
from PIL import Image

from networks import network
from wavessm_x.data.folders import Skipped
from wavessm_x.data.reading import read
from wavessm_x.restoring import Restorer, RestoringError
from wavessm_x.restoring.drafts import draft
from wavessm_x.restoring.files import Job, plan, restore_file


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def job(picture, mask, output):
    return Job(picture=picture, mask=mask, output=output)


def test_masks_are_found_by_name_at_any_depth(tmp_path):
    touch(tmp_path, "in/a.jpg", "in/b/a.png", "masks/a.png", "masks/b/a.webp")
    found = plan(tmp_path / "in", tmp_path / "masks", tmp_path / "out")
    assert found == [
        job(tmp_path / "in/a.jpg", tmp_path / "masks/a.png", tmp_path / "out/a.png"),
        job(tmp_path / "in/b/a.png", tmp_path / "masks/b/a.webp", tmp_path / "out/b/a.png"),
    ]


def test_one_mask_serves_all(tmp_path):
    touch(tmp_path, "in/a.jpg", "in/b.jpg", "mask.png")
    assert {each.mask for each in plan(tmp_path / "in", tmp_path / "mask.png", tmp_path / "out")} == {
        tmp_path / "mask.png"
    }


def test_a_picture_without_its_mask_is_skipped(tmp_path):
    touch(tmp_path, "in/a.jpg", "in/b.jpg", "masks/b.png")
    first, _ = plan(tmp_path / "in", tmp_path / "masks", tmp_path / "out")
    assert first == Skipped(path=tmp_path / "in/a.jpg", reason=f"{tmp_path / 'masks'} has no mask of that name")


def test_of_two_pictures_with_one_output_the_second_is_skipped(tmp_path):
    touch(tmp_path, "in/a.jpg", "in/a.png")
    _, second = plan(tmp_path / "in", None, tmp_path / "out")
    assert second == Skipped(path=tmp_path / "in/a.png", reason="its output would be that of a.jpg")


def test_masks_and_outputs_within_the_folder_are_no_pictures(tmp_path):
    touch(tmp_path, "a.jpg", "masks/a.png", "out/a.png")
    assert plan(tmp_path, tmp_path / "masks", tmp_path / "out") == [
        job(tmp_path / "a.jpg", tmp_path / "masks/a.png", tmp_path / "out/a.png")
    ]


@pytest.mark.parametrize(
    ("output", "becomes"), [("new.jpg", "new.jpg"), ("there.d", "there.d/a.png"), ("new", "new/a.png")]
)
def test_one_picture_goes_to_a_file_or_into_a_folder(tmp_path, output, becomes):
    touch(tmp_path, "a.jpg")
    (tmp_path / "there.d").mkdir()
    (found,) = plan(tmp_path / "a.jpg", None, tmp_path / output)
    assert found.output == tmp_path / becomes


@pytest.mark.parametrize("own", ["a.png", "mask.png"])
def test_neither_the_picture_nor_its_mask_is_written_over(tmp_path, own):
    touch(tmp_path, "a.png", "mask.png")
    (found,) = plan(tmp_path / "a.png", tmp_path / "mask.png", tmp_path / own)
    assert "it would be overwritten" in found.reason


@pytest.mark.parametrize(
    ("image", "mask", "told"),
    [
        ("nowhere", None, "nowhere does not exist"),
        ("in", "lost.png", r"lost\.png does not exist"),
        ("empty", None, "There are no pictures in"),
    ],
)
def test_what_is_missing_is_told(tmp_path, image, mask, told):
    touch(tmp_path, "in/a.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RestoringError, match=told):
        plan(tmp_path / image, mask and tmp_path / mask, tmp_path / "out")


def test_a_folder_cannot_go_into_a_file(tmp_path):
    touch(tmp_path, "in/a.png", "out.png")
    with pytest.raises(RestoringError, match="Name a folder for the restored pictures"):
        plan(tmp_path / "in", None, tmp_path / "out.png")


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    marked = np.zeros((20, 30), np.uint8)
    marked[4:9, 5:11] = 255
    Image.fromarray(marked).save(tmp_path / "mask.png")
    return pixels


def test_a_file_is_filled_and_nothing_else_in_it_changes(tmp_path, photo):
    done = job(tmp_path / "a.png", tmp_path / "mask.png", tmp_path / "deep" / "out.png")
    assert restore_file(Restorer(network()), done, dilation=2) == 9 * 10 / 600
    kept = np.ones((20, 30), dtype=bool)
    kept[2:11, 3:13] = False
    restored = read(done.output)
    assert np.array_equal(restored[kept], photo[kept])
    assert not np.array_equal(restored[~kept], photo[~kept])


@pytest.mark.usefixtures("photo")
def test_a_blind_network_needs_no_mask(tmp_path):
    done = job(tmp_path / "a.png", None, tmp_path / "out.jpg")
    assert restore_file(Restorer(network(masked=False)), done) is None
    with Image.open(done.output) as opened:
        assert (opened.format, opened.size) == ("JPEG", (30, 20))


@pytest.mark.usefixtures("photo")
@pytest.mark.parametrize("name", ["out.txt", "out"])
def test_a_suffix_that_holds_no_picture_is_refused(tmp_path, name):
    with pytest.raises(RestoringError, match="No picture can be written to out"):
        restore_file(Restorer(network()), job(tmp_path / "a.png", tmp_path / "mask.png", tmp_path / name))


def test_a_draft_replaces_a_file_only_in_the_end_and_leaves_nothing(tmp_path):
    target = tmp_path / "x.txt"
    target.write_text("old")
    with pytest.raises(FileNotFoundError), draft(target):
        pass
    assert target.read_text() == "old"
    with draft(target) as file:
        file.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]

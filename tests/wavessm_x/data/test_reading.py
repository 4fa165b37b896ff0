import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from strategies import quick
from wavessm_x.data.reading import Size, UnreadableError, check, read, read_cut_out
from wavessm_x.data.synthetic import photograph

PICTURE = photograph(24, np.random.default_rng(5))
LOSSLESS = ["png", "bmp", "tif"]
KINDS = [*LOSSLESS, "jpg", "webp"]


def encoded(suffix: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PICTURE).save(buffer, Image.registered_extensions()[f".{suffix}"])
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_lossless_files_are_read_as_they_were_written(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(encoded(suffix))
    np.testing.assert_array_equal(read(path), PICTURE)


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_lossy_files_are_read_nearly_as_they_were_written(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(encoded(suffix))
    assert np.abs(read(path).astype(int) - PICTURE).mean() < 20


def test_a_picture_is_turned_as_its_exif_data_say(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "a.png"
    Image.fromarray(PICTURE[:10]).save(path, exif=exif)
    np.testing.assert_array_equal(read(path), np.rot90(PICTURE[:10], -1))
    assert check(path) == Size(24, 10)


def test_sixteen_bits_keep_their_range(tmp_path: Path) -> None:
    levels = np.array([[0, 257, 32896, 65535]], np.uint16)
    Image.fromarray(levels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read(tmp_path / "a.png")[0, :, 0], [0, 1, 128, 255])


def test_floats_count_as_zero_to_one(tmp_path: Path) -> None:
    Image.fromarray(np.array([[-1, 0, 0.2, 1, 7]], np.float32)).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[0, :, 2], [0, 0, 51, 255, 255])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_floats_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(np.array([[0.5, value]], np.float32)).save(path)
    for look in (check, read):
        with pytest.raises(UnreadableError, match=r"a\.tif cannot be read: it holds values that are not finite"):
            look(path)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK", "RGBA"])
def test_other_kinds_of_colour_become_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.tif"
    Image.new("RGB", (3, 2), (255, 255, 255)).convert(mode).save(path)
    np.testing.assert_array_equal(read(path), np.full((2, 3, 3), 255))


@pytest.mark.parametrize("background", [0, 128, 255])
def test_the_background_shows_through_where_a_picture_is_transparent(tmp_path: Path, background: int) -> None:
    clear = np.array([[[10, 20, 30, 0], [10, 20, 30, 255]]], np.uint8)
    Image.fromarray(clear).save(tmp_path / "a.png")
    expected = [[[background] * 3, [10, 20, 30]]]
    np.testing.assert_array_equal(read(tmp_path / "a.png", background=background), expected)


@pytest.mark.parametrize("suffix", KINDS)
def test_a_file_that_is_cut_off_is_refused_at_once_and_when_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    whole = encoded(suffix)
    path.write_bytes(whole[: len(whole) // 2])
    for look in (check, read):
        with pytest.raises(UnreadableError):
            look(path)


def test_a_missing_file_is_called_gone(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match="the file is gone"):
        read(tmp_path / "a.png")


@quick
@given(st.sampled_from(KINDS), st.integers(0), st.integers(1, 255), st.integers(0, 40))
def test_damaged_files_are_read_or_refused_and_never_fail_otherwise(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, where: int, change: int, cut: int
) -> None:
    data = bytearray(encoded(suffix))
    data[where % len(data)] ^= change
    path = tmp_path_factory.mktemp("fuzz") / f"a.{suffix}"
    path.write_bytes(data[: len(data) - cut])
    try:
        assert read(path).shape[2] == 3
    except UnreadableError as error:
        assert error.reason  # noqa: PT017 either outcome is right


def test_a_picture_that_is_cut_out_keeps_its_colours_and_is_turned(tmp_path: Path) -> None:
    layers = np.dstack([PICTURE[:10], np.arange(240, dtype=np.uint8).reshape(10, 24)])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(layers).save(tmp_path / "a.png", exif=exif)
    found = read_cut_out(tmp_path / "a.png")
    assert found is not None
    np.testing.assert_array_equal(np.dstack(found), np.rot90(layers, -1))


def test_a_palette_with_a_transparent_entry_is_cut_out(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([9, 8, 7, 1, 2, 3])
    image.save(tmp_path / "a.png", transparency=1)
    found = read_cut_out(tmp_path / "a.png")
    assert found is not None
    assert [each.tolist() for each in found] == [[[[9, 8, 7], [1, 2, 3]]], [[255, 0]]]


def test_a_picture_without_transparency_is_not_cut_out(tmp_path: Path) -> None:
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    assert read_cut_out(tmp_path / "a.png") is None


def test_a_damaged_file_is_no_cut_out(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"torn")
    with pytest.raises(UnreadableError):
        read_cut_out(tmp_path / "a.png")

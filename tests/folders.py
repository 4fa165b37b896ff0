"""Checkpoints of several files that the tests share, written by the libraries that own the formats."""

import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file

NAN = float("nan")


def state(*, damaged: bool = False) -> dict[str, torch.Tensor]:
    """Make a small model with a BatchNorm layer; damaged in its statistics, in both shards."""
    made = {
        "conv.weight": torch.arange(24.0).reshape(4, 6) / 10,
        "bn.running_mean": torch.tensor([0.5, 0.25, 0.75, 0.6]),
        "bn.running_var": torch.tensor([1.0, 2.0, 1.5, 1.2]),
        "head.weight": torch.arange(8.0).reshape(2, 4) / 7,
    }
    if damaged:
        made["bn.running_mean"][1] = NAN
        made["bn.running_var"][2] = -1.0
    return made


SHARDS = (("conv.weight", "bn.running_mean"), ("bn.running_var", "head.weight"))


def sharded(folder: Path, tensors: dict[str, torch.Tensor], kind: str = "safetensors") -> Path:
    """Write two shards and their index as Hugging Face libraries do; return the index."""
    folder.mkdir(parents=True, exist_ok=True)
    stem, suffix = ("model", "safetensors") if kind == "safetensors" else ("pytorch_model", "bin")
    weight_map = {}
    for number, names in enumerate(SHARDS, 1):
        file = f"{stem}-0000{number}-of-00002.{suffix}"
        part = {name: tensors[name] for name in names}
        if kind == "safetensors":
            save_file(part, folder / file, metadata={"format": "pt"})
        else:
            torch.save(part, folder / file)
        weight_map |= dict.fromkeys(names, file)
    index = folder / f"{stem}.{suffix}.index.json"
    total = sum(tensor.nbytes for tensor in tensors.values())
    index.write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}))
    (folder / "config.json").write_text('{"model_type": "tiny"}')
    return index


def load_sharded(folder: Path) -> dict[str, torch.Tensor]:
    """Load every shard of a folder with its own library."""
    from safetensors.torch import load_file

    loaded: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*-of-*")):
        loaded |= load_file(path) if path.suffix == ".safetensors" else torch.load(path)
    return loaded


def distributed(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """Write a distributed checkpoint of one rank, with optimizer state and numbers."""
    moments = {"exp_avg": torch.zeros(4, 6), "exp_avg_sq": torch.ones(4, 6), "step": torch.tensor(3.0)}
    optimizer = {"state": {"conv.weight": moments}, "param_groups": [{"lr": 0.1, "params": ["conv.weight"]}]}
    with alone():
        dcp.save({"model": tensors, "optimizer": optimizer, "iteration": 7}, checkpoint_id=folder, no_dist=True)
    return folder


@contextmanager
def alone() -> Iterator[None]:
    """Keep torch from warning that there is one process only."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        yield


def load_distributed(folder: Path, like: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Load the model of a distributed checkpoint with torch."""
    loaded = {"model": {name: torch.zeros_like(tensor) for name, tensor in like.items()}}
    with alone():
        dcp.load(loaded, checkpoint_id=folder, no_dist=True)
    return loaded["model"]


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file below a folder."""
    return {os.path.relpath(path, folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}

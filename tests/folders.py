"""Checkpoints of several files that the tests share, written by the libraries that own the formats."""

import json
import os
import warnings
from collections import OrderedDict
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


def deepspeed(folder: Path, tensors: dict[str, torch.Tensor], ranks: int = 2) -> Path:
    """Write what DeepSpeed writes under ZeRO 1 or 2 with bfloat16: weights, and a flat float32 stretch a rank."""
    folder.mkdir(parents=True)
    weights = {name: tensor for name, tensor in tensors.items() if name.endswith("weight")}
    module = {name: tensor.bfloat16() if name in weights else tensor for name, tensor in tensors.items()}
    shapes = OrderedDict((name, tensor.shape) for name, tensor in weights.items())
    torch.save({"module": module, "param_shapes": [shapes]}, folder / "mp_rank_00_model_states.pt")
    flat = torch.cat([tensor.float().nan_to_num(nan=0.5).flatten() for tensor in weights.values()])
    flat = torch.cat([flat, torch.zeros(-len(flat) % (2 * ranks))])
    for rank, stretch in enumerate(flat.chunk(ranks)):
        moments = {"step": torch.tensor(3.0), "exp_avg": 0.1 * stretch, "exp_avg_sq": stretch.square()}
        optimizer = {
            "zero_stage": 2,
            "single_partition_of_fp32_groups": [stretch.clone()],
            "base_optimizer_state": {"state": {0: moments}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        }
        name = f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
        torch.save({"optimizer_state_dict": optimizer, "ds_version": "0.17"}, folder / name)
    return folder


def megatron(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """Write what Megatron writes for one model-parallel rank with float16: weights, and float32 masters by number."""
    weights = [tensor for name, tensor in tensors.items() if name.endswith("weight")]
    half = {name: tensor.half() if name.endswith("weight") else tensor for name, tensor in tensors.items()}
    masters = [tensor.nan_to_num(nan=0.5) for tensor in weights]
    moments = {i: {"exp_avg": 0.1 * w, "exp_avg_sq": w.square()} for i, w in enumerate(masters)}
    inner = {"state": moments, "param_groups": [{"lr": 0.1, "params": list(range(len(weights)))}]}
    (folder / "mp_rank_00").mkdir(parents=True)
    torch.save(
        {"model": half, "optimizer": {"optimizer": inner, "fp32_from_fp16_params": [masters]}, "iteration": 100},
        folder / "mp_rank_00" / "model_optim_rng.pt",
    )
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file below a folder."""
    return {os.path.relpath(path, folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}

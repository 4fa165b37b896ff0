"""Small real checkpoints, some of them with damaged numbers, as bytes."""

import functools
import io
import tempfile
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

import folders
import old_files


def _layers(*, damaged: bool) -> dict[str, torch.Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = {
            "conv.weight": torch.randn(4, 3, 1, 1),
            "bn.weight": torch.rand(4),
            "bn.bias": torch.randn(4),
            "bn.running_mean": torch.randn(4),
            "bn.running_var": torch.rand(4) + 0.5,
            "bn.num_batches_tracked": torch.tensor(7),
            "half.weight": torch.randn(2, 2).half(),
        }
    if damaged:
        state["bn.running_mean"][1] = torch.inf
        state["bn.running_var"][2] = -1.0
        state["conv.weight"][0, 0] = torch.nan
    return state


def _training(*, damaged: bool) -> dict[str, object]:
    state = _layers(damaged=damaged)
    moments = {
        at: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(4), "exp_avg_sq": torch.full((4,), torch.nan)}
        for at in range(2)
    }
    return {
        "model": state,
        "ema": {name: tensor.clone() for name, tensor in _layers(damaged=False).items()},
        "optimizer": {"state": moments, "param_groups": [{"lr": float("nan"), "params": [0, 1]}]},
        "best_loss": float("inf"),
        "epoch": 3,
        "scaler": {"scale": 0.0, "growth_factor": 2.0, "_growth_tracker": 0},
        "tied": state["conv.weight"],
        "view": state["conv.weight"][1:],
        "array": np.arange(4.0),
        "sparse": torch.eye(2).to_sparse(),
    }


def _saved(value: object, **how: object) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, **how)
    return stream.getvalue()


@functools.cache
def torch_zips() -> tuple[bytes, ...]:
    """Return files of `torch.save`."""
    return (
        _saved(_layers(damaged=False)),
        _saved(_layers(damaged=True)),
        _saved(_training(damaged=True)),
        _saved(_training(damaged=False), pickle_protocol=4),
        _saved(torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2))),
    )


@functools.cache
def safetensors_files() -> tuple[bytes, ...]:
    """Return files of safetensors."""
    return tuple(
        safetensors.torch.save(_layers(damaged=damaged), metadata)
        for damaged, metadata in ((False, None), (True, {"format": "pt", "note": "a"}))
    )


@functools.cache
def legacy_streams() -> tuple[bytes, ...]:
    """Return files as torch wrote them before 1.6."""
    how = {"_use_new_zipfile_serialization": False}
    return (
        _saved(_layers(damaged=False), **how),
        _saved(_training(damaged=True), **how),
        _saved({"w": torch.full((2, 2), torch.nan), "e": torch.ones(0)}, **how),
    )


@functools.cache
def legacy_tars() -> tuple[bytes, ...]:
    """Return files as torch wrote them before 0.1.10."""
    statistics = {"bn.running_mean": np.array([1, np.nan], "f4"), "bn.running_var": np.array([1, 2], "f4")}
    return (
        old_files.tar_of({"w": np.ones((2, 3), np.float32), "epoch": 3}),
        old_files.tar_of({**statistics, "w": np.zeros(4, np.float64)}),
    )


@functools.cache
def npz_archives() -> tuple[bytes, ...]:
    """Return archives of NumPy's, stored and compressed."""
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.array([1, np.nan], np.float16), "texts": np.array(["x"])}
    found = []
    for save in (np.savez, np.savez_compressed):
        stream = io.BytesIO()
        save(stream, **arrays, objects=np.array([{}, 1], dtype=object))
        found.append(stream.getvalue())
    return tuple(found)


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@functools.cache
def sharded_folders() -> tuple[dict[str, bytes], ...]:
    """Return folders of shards with their index, of both kinds."""
    with tempfile.TemporaryDirectory() as folder:
        made = []
        for kind in ("safetensors", "bin"):
            folders.sharded(Path(folder, kind), folders.state(damaged=True), kind)
            made.append(_files(Path(folder, kind)))
        return tuple(made)


@functools.cache
def parallel_folders() -> tuple[dict[str, bytes], ...]:
    """Return folders as DeepSpeed and Megatron write them."""
    with tempfile.TemporaryDirectory() as folder:
        made = (
            folders.deepspeed(Path(folder, "d"), folders.state(damaged=True)),
            folders.megatron(Path(folder, "m"), folders.state(damaged=True)),
        )
        return tuple(map(_files, made))


@functools.cache
def distributed_folders() -> tuple[dict[str, bytes], ...]:
    """Return folders of torch.distributed.checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        return (_files(folders.distributed(Path(folder), folders.state(damaged=True))),)

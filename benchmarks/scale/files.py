"""Checkpoints of any number of tensors, with the names and the mixture that real ones have."""

from pathlib import Path

import torch
from safetensors.torch import save_file

CHANNELS = 16
PER_BLOCK = 7
"""A convolution's weight and bias, and the five tensors of its BatchNorm layer."""


def state_dict(tensors: int) -> dict[str, torch.Tensor]:
    """Return convolutions with a BatchNorm each, cut off at exactly so many tensors."""
    generator = torch.Generator().manual_seed(0)
    state: dict[str, torch.Tensor] = {}
    for block in range(-(-tensors // PER_BLOCK)):
        prefix = f"encoder.stage{block % 4 + 1}.blocks.{block // 4}"
        state[f"{prefix}.conv.weight"] = torch.randn(CHANNELS, CHANNELS, 1, 1, generator=generator)
        state[f"{prefix}.conv.bias"] = torch.randn(CHANNELS, generator=generator)
        state[f"{prefix}.bn.weight"] = torch.rand(CHANNELS, generator=generator) + 0.5
        state[f"{prefix}.bn.bias"] = torch.randn(CHANNELS, generator=generator)
        state[f"{prefix}.bn.running_mean"] = torch.randn(CHANNELS, generator=generator)
        state[f"{prefix}.bn.running_var"] = torch.rand(CHANNELS, generator=generator) + 0.5
        state[f"{prefix}.bn.num_batches_tracked"] = torch.tensor(1000)
    return dict(list(state.items())[:tensors])


def training_state(tensors: int) -> dict[str, object]:
    """Return a model with its Adam state, about so many tensors in all."""
    # 7 of the model and 3 for each of 4 parameters make 19 a block
    model = state_dict(tensors // 19 * PER_BLOCK)
    learned = [value for name, value in model.items() if name.endswith(("weight", "bias"))]
    moments = {
        index: {"step": torch.tensor(1000.0), "exp_avg": value * 1e-3, "exp_avg_sq": value.square() * 1e-6}
        for index, value in enumerate(learned)
    }
    group = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "params": list(range(len(learned)))}
    return {"model_state_dict": model, "optimizer_state_dict": {"state": moments, "param_groups": [group]}}


def written(folder: Path, kind: str, tensors: int) -> Path:
    """Return a file of one kind and size; written once and kept."""
    path = folder / f"{kind}-{tensors}{'.safetensors' if kind == 'safetensors' else '.pth'}"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    if kind == "safetensors":
        save_file(state_dict(tensors), part)
    else:
        torch.save(training_state(tensors) if kind == "training" else {"state_dict": state_dict(tensors)}, part)
    part.replace(path)
    return path

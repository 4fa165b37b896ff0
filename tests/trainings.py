"""Short trainings on made-up pictures that the tests share."""

import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from wavessm_x.config import DataConfig, ModelConfig, TrainConfig
from wavessm_x.data.synthetic import photographs
from wavessm_x.training.run import train
from wavessm_x.training.watch import Watch

MODEL = ModelConfig.preset("tiny")


def data_in(folder: Path, count: int = 12) -> DataConfig:
    """Make pictures in a folder, and say how they are trained on."""
    photographs(folder / "pictures", count, 40, 0)
    return DataConfig(data_path=folder / "pictures", patch_size=32, batch_size=2, workers=0, validation=0.2)


def config_in(folder: Path, **changed) -> TrainConfig:
    """Say how a short training in a folder is run."""
    config = TrainConfig(model_file=folder / "run" / "wavessm_x.pth", num_iter=6, val_every=3, lr=1e-3, csv_every=1)
    return replace(config, **changed)


def run(data: DataConfig, config: TrainConfig, model: ModelConfig = MODEL):
    """Train on one core of the CPU, so that tests side by side do not wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return train(model, data, config, accelerator="cpu", devices=1)
    finally:
        torch.set_num_threads(threads)


def interrupted_at(monkeypatch: pytest.MonkeyPatch, iteration: int) -> None:
    """Have the process interrupted, as by Ctrl-C, while a training tells of an iteration."""
    step = Watch.step

    def interrupting(self, at, *arguments, **keywords):
        if at == iteration:
            signal.raise_signal(signal.SIGINT)
        return step(self, at, *arguments, **keywords)

    monkeypatch.setattr(Watch, "step", interrupting)


def saved(config: TrainConfig):
    """Read a checkpoint."""
    return torch.load(config.model_file, weights_only=True)

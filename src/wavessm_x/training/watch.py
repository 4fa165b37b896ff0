"""What one sees of a training while it runs: a progress bar, a log file, TensorBoard, curves and samples."""

import math
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from wavessm_x.config import TrainConfig
from wavessm_x.training.setup import Parts
from wavessm_x.training.validation import Validation
from wavessm_x.watching import CsvLog, board, curves, samples

SHOWN = 4
"""Validation pictures in a grid of samples."""


class Watch:
    """Tells what happens, on the main process; others tell nothing.

    Args:
        config: Of the training; all files lie beside its checkpoint.
        start: The iteration at which it begins.
        is_main: Whether this process tells anything.
    """

    def __init__(self, config: TrainConfig, start: int, *, is_main: bool) -> None:
        folder = config.model_file.parent
        self._config = config
        self._pictures = folder / "visualizations"
        self._bar: Bar | None = None
        if is_main:
            self._log = folder / "logs" / f"training_{config.model_file.stem}.csv"
            self._csv = CsvLog(self._log, resume_at=start)
            self._board = board(folder / "logs" / "tensorboard" / config.model_file.stem, start)
            columns = (
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                TextColumn("loss {task.fields[loss]:.4f}  lr {task.fields[rate]:.2e}"),
            )  # fmt: skip
            self._bar = Bar(*columns, console=Console(stderr=True), transient=False, refresh_per_second=2)
            self._task = self._bar.add_task(
                config.dataset_name, total=config.num_iter, completed=start, loss=math.nan, rate=math.nan
            )

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._csv.close()
            self._board.close()

    def step(self, iteration: int, losses: dict[str, float], *, rate: float, norm: float, seconds: float) -> None:
        """Tell of a step that was attempted.

        Args:
            iteration: Steps attempted so far.
            losses: Total and parts.
            rate: The learning rate.
            norm: Of the gradients, before clipping.
            seconds: That it took.
        """
        if self._bar is None:
            return
        self._bar.update(self._task, completed=iteration, loss=losses["total"], rate=rate)
        if iteration % self._config.csv_every == 0:
            memory = torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_available() else 0.0
            parts = {name: value for name, value in losses.items() if name != "total"}
            values = {"total_loss": losses["total"], "lr": rate, "grad_norm": norm, "iter_time": seconds}
            self._csv.write(iteration, {**values, "gpu_mem_mb": memory}, parts)
            self._board.numbers(iteration, {**values, **parts})

    def validated(self, iteration: int, found: Validation, history: list[dict[str, Any]], parts: Parts) -> None:
        """Tell of a validation; now and then draw curves and samples.

        Args:
            iteration: Steps attempted so far.
            found: By this validation.
            history: Of all validations.
            parts: Of the training.
        """
        if self._bar is None:
            return
        scores = {"val_loss": found.val_loss, "psnr": found.psnr, "ssim": found.ssim}
        self._board.numbers(iteration, {f"val_{name.removeprefix('val_')}": value for name, value in scores.items()})
        every = self._config.pictures_every
        if iteration % every < self._config.val_every or iteration == self._config.num_iter:
            curves(self._log, history, self._pictures)
            self._draw_samples(self._pictures / f"samples_iter{iteration}.png", parts)

    @torch.no_grad()
    def _draw_samples(self, path: Path, parts: Parts) -> None:
        pictures = parts.datasets.validation
        shown = [pictures[number] for number in range(min(SHOWN, len(pictures)))]
        model, device = parts.evaluated, parts.fabric.device
        was_training = model.training
        model.eval()
        outputs = [
            model(
                each["image"].unsqueeze(0).to(device), each["mask"].unsqueeze(0).to(device) if parts.masked else None
            )[0]
            .float()
            .clamp(0, 1)
            .cpu()
            for each in shown
        ]
        model.train(was_training)
        samples(
            path,
            [each["image"] for each in shown],
            [each["mask"] for each in shown],
            outputs,
            [each["target"] for each in shown],
        )

"""The training itself: attempt steps, validate now and then, save, and stop when asked to."""

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from wavessm_x.checkpoints import write
from wavessm_x.config import DataConfig, ModelConfig, TrainConfig
from wavessm_x.data import Batches
from wavessm_x.training.setup import Parts
from wavessm_x.training.state import MOST_LOSSES, Progress, collect
from wavessm_x.training.validation import Validation, as_history, validate
from wavessm_x.training.watch import Watch

logger = logging.getLogger("wavessm_x")

RECALIBRATED_ON = 8
"""Training batches on which repaired statistics are measured again."""

SCORED_ON = 4
"""Validation pictures on which the PSNR before and after is measured."""


class Loop:
    """Trains until the last iteration, or until it is asked to stop.

    Args:
        parts: What is trained, and with what.
        progress: How far it is already.
        watch: Told what happens.
        model_config: For the checkpoint.
        data: The same, and for the batches.
        config: Of the training.
    """

    def __init__(
        self,
        parts: Parts,
        progress: Progress,
        watch: Watch,
        model_config: ModelConfig,
        data: DataConfig,
        config: TrainConfig,
    ) -> None:
        self.parts, self.progress, self.watch = parts, progress, watch
        self._configs = model_config, data, config
        self.config = config
        self._stops = False

    def run(self) -> bool:
        """Train.

        Returns:
            Whether it came to its end; False if it was asked to stop before, and has saved where it was.

        Raises:
            TrainingStoppedError: Going on would not help; the guard says why.
        """
        fabric, progress = self.parts.fabric, self.progress
        batches = self._batches(progress.iteration * self.config.accumulate)
        self.parts.forward.train()
        with self._stopped_by_signals(), batches, self.watch:
            while progress.iteration < self.config.num_iter and not self._should_stop():
                began = time.perf_counter()
                parts = self._step(batches)
                progress.iteration += 1
                self._note(parts, time.perf_counter() - began)
                if progress.iteration % self.config.val_every == 0 or progress.iteration == self.config.num_iter:
                    self._validate_and_save()
            if progress.iteration < self.config.num_iter:
                logger.info(
                    "Asked to stop at iteration %d; saving first. --resume goes on from there.", progress.iteration
                )
                self._save()
        fabric.barrier()
        return progress.iteration >= self.config.num_iter

    def _step(self, batches: Iterator[Any]) -> dict[str, float]:
        """Attempt one step; whether it happens is the guard's decision. Returns the losses' parts and their total."""
        parts, count = self.parts, self.config.accumulate
        sums: dict[str, Tensor] = {}
        for number in range(count):
            batch = next(batches)
            image, target, mask = (batch[key].to(parts.fabric.device) for key in ("image", "target", "mask"))
            with parts.fabric.no_backward_sync(parts.forward, enabled=number < count - 1):
                output = parts.forward(image, mask if parts.masked else None)
                total, each = parts.losses(output, target, self.progress.iteration)
                parts.protection.seen = {"INPUT": image, "OUTPUT": output, "SUBLOSS": each.values()}
                parts.protection.guard.observe(total)
                parts.fabric.backward(total / count)
            for name, value in {"total": total, **each}.items():
                sums[name] = sums.get(name, torch.zeros_like(total)) + value.detach().float() / count
        parts.optimizer.step()
        parts.scheduler.step()
        if parts.average is not None:
            parts.average.update_parameters(parts.model)
        parts.optimizer.zero_grad()
        return dict(zip(sums, torch.stack([*sums.values()]).tolist(), strict=True))

    def _note(self, losses: dict[str, float], seconds: float) -> None:
        self.progress.loss_history.append(losses["total"])
        del self.progress.loss_history[:-MOST_LOSSES]
        guard = self.parts.protection.guard
        self.watch.step(
            self.progress.iteration,
            losses,
            rate=self.parts.scheduler.get_last_lr()[0],
            norm=guard.gradient_norm,
            seconds=seconds,
        )

    def _validate_and_save(self) -> None:
        parts, progress = self.parts, self.progress
        if parts.fabric.is_global_zero:
            parts.protection.before_validation(parts.model, self._some_batches, self._score)
            found = validate(
                parts.evaluated,
                parts.datasets.validation,
                parts.losses.final,
                parts.fabric.device,
                masked=parts.masked,
                lpips=parts.lpips,
            )
            self._remember(found)
            self.watch.validated(progress.iteration, found, progress.val_history, parts)
        parts.fabric.barrier()
        self._save()

    def _remember(self, found: Validation) -> None:
        progress = self.progress
        logger.info(
            "[Iter %d] Val Loss: %.4f | PSNR: %.2f | SSIM: %.4f",
            progress.iteration, found.val_loss, found.psnr, found.ssim,
        )  # fmt: skip
        progress.val_history.append(as_history(found, progress.iteration))
        if found.psnr > progress.best_psnr:  # never true for NaN
            progress.best_psnr = found.psnr
            logger.info("New best! PSNR=%.2f SSIM=%.4f", found.psnr, found.ssim)
        if found.ssim > progress.best_ssim:
            progress.best_ssim = found.ssim
        if found.val_loss < progress.best_val_loss:
            progress.best_val_loss = found.val_loss

    def _save(self) -> None:
        if self.parts.fabric.is_global_zero:
            last = self.progress.val_history[-1] if self.progress.val_history else {}
            is_new = last.get("iteration") == self.progress.iteration
            state = collect(self.parts, self.progress, *self._configs)
            write(state, self.config.model_file, last["psnr"] if is_new else None)
        self.parts.fabric.barrier()

    def _score(self, model: nn.Module) -> float:
        parts, pictures = self.parts, self.parts.datasets.validation
        some = [pictures[number] for number in range(min(SCORED_ON, len(pictures)))]
        return validate(model, some, parts.losses.final, parts.fabric.device, masked=parts.masked).psnr

    def _some_batches(self) -> list[Any]:
        """Return training batches of another order than the training's, so that its own goes on undisturbed."""
        device = self.parts.fabric.device
        with self._batches(0) as batches:
            some = [next(batches) for _ in range(RECALIBRATED_ON)]
        masks = [each["mask"].to(device) if self.parts.masked else None for each in some]
        return [((each["image"].to(device), mask),) for each, mask in zip(some, masks, strict=True)]

    def _batches(self, start: int) -> Batches:
        fabric, data = self.parts.fabric, self._configs[1]
        return Batches(self.parts.datasets.train, data, start, fabric.global_rank, fabric.world_size)

    def _should_stop(self) -> bool:
        """Return whether any process was asked to stop."""
        if self.parts.fabric.world_size == 1:
            return self._stops
        asked = self.parts.fabric.all_reduce(torch.tensor(float(self._stops)), reduce_op="sum")
        return bool(torch.as_tensor(asked) > 0)

    @contextmanager
    def _stopped_by_signals(self) -> Iterator[None]:
        """Finish the step that is under way when interrupted or terminated; a second time ends it at once."""

        def ask(_number: int, _frame: FrameType | None) -> None:
            if self._stops:
                raise KeyboardInterrupt
            self._stops = True

        if threading.current_thread() is not threading.main_thread():  # only the main thread hears of signals
            yield
            return
        before = {each: signal.signal(each, ask) for each in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

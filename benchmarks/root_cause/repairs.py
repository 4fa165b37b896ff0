"""The poisoned checkpoint, repaired in every way there is."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.optim.swa_utils import update_bn

import torchmend
from benchmarks.root_cause.pictures import HOLES, SIDE
from benchmarks.root_cause.training import NOTHING, Course, Network, batches, network_of, psnr

MEASURED_ON = 8
"""Batches."""


class Patient:
    """A poisoned training.

    Args:
        course: How it went.
        seed: Of its batches.
        folder: For files.
    """

    def __init__(self, course: Course, seed: int, folder: Path) -> None:
        self.course, self.seed = course, seed
        self.checkpoint, self.donor = folder / "last.pth", folder / "best.pth"
        torch.save({"model_state_dict": course.after}, self.checkpoint)
        torch.save({"model_state_dict": course.before}, self.donor)

    def model(self) -> Network:
        """Return the poisoned network."""
        return network_of(self.course.after, NOTHING)

    def fixed(self, **options: object) -> Network:
        """Return the network of the checkpoint after `torchmend.fix`."""
        result = torchmend.fix(self.checkpoint, torchmend.FixOptions(force=True, **options))
        state = torch.load(result.output, weights_only=True)["model_state_dict"]
        return network_of(state, NOTHING)

    def recalibrated(self, data: object) -> Network:
        """Return the network after `torchmend.recalibrate`."""
        model = self.model()
        torchmend.recalibrate(model, data)
        return model


def updated(patient: Patient) -> Network:
    """Call `torch.optim.swa_utils.update_bn`, which measures all layers, in training mode."""
    model = patient.model()
    update_bn(batches(patient.seed, MEASURED_ON), model)
    return model


def noise() -> object:
    """Return noise like pictures with holes."""
    return torchmend.noise((4, 4, SIDE, SIDE), batches=MEASURED_ON, mean=HOLES, std=0.3, falloff=1.0)


REPAIRS: dict[str, Callable[[Patient], Network]] = {
    "as it is": lambda patient: patient.model(),
    "0/1: `torchmend fix --strategy reset`": lambda patient: patient.fixed(strategy=torchmend.Strategy.RESET),
    "`torchmend fix`": lambda patient: patient.fixed(),
    "`torchmend fix --donor`, from 90 steps before": lambda patient: patient.fixed(donors=(patient.donor,)),
    "`torchmend.recalibrate` on noise": lambda patient: patient.recalibrated(noise()),
    "`torch.optim.swa_utils.update_bn`": updated,
    "`torchmend.recalibrate` on 8 batches": lambda patient: patient.recalibrated(batches(patient.seed, MEASURED_ON)),
}


def repaired(course: Course, seed: int) -> dict[str, float]:
    """Return the PSNR after each repair, in decibels; NaN where no output is finite."""
    with TemporaryDirectory() as folder:
        patient = Patient(course, seed, Path(folder))
        return {name: psnr(repair(patient)) for name, repair in REPAIRS.items()}

"""The pictures: folders in, training batches and whole pictures for validation out."""

from wavessm_x.data.batches import Batch, Batches
from wavessm_x.data.datasets import Sample, TrainingSet, WholeSet
from wavessm_x.data.folders import DataError, DataWarning, Skipped
from wavessm_x.data.loading import Datasets, Report, Whole, load, load_whole

__all__ = [
    "Batch",
    "Batches",
    "DataError",
    "DataWarning",
    "Datasets",
    "Report",
    "Sample",
    "Skipped",
    "TrainingSet",
    "Whole",
    "WholeSet",
    "load",
    "load_whole",
]

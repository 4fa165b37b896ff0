"""What a training leaves to look at: a log file, curves, samples and a TensorBoard."""

from wavessm_x.watching.board import Board, board
from wavessm_x.watching.csvlog import COLUMNS, CsvLog, LogError, read
from wavessm_x.watching.curves import curves
from wavessm_x.watching.samples import grid, samples

__all__ = ["COLUMNS", "Board", "CsvLog", "LogError", "board", "curves", "grid", "read", "samples"]

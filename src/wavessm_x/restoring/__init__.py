"""A trained network at work: pictures in, restored pictures out."""

from wavessm_x.restoring.restorer import Restorer, RestoringError
from wavessm_x.restoring.tiles import Tiling

__all__ = ["Restorer", "RestoringError", "Tiling"]

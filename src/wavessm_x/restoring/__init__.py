"""A trained network at work: pictures in, restored pictures out."""

from wavessm_x.restoring.restorer import Restorer, RestoringError

__all__ = ["Restorer", "RestoringError"]

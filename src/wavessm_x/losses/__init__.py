"""What a training minimises: five terms, their schedule, and how they are balanced."""

from wavessm_x.losses.losses import Losses
from wavessm_x.losses.schedule import TERMS

__all__ = ["TERMS", "Losses"]

"""A page in a browser on which pictures are restored; a machine serves it to itself."""

from wavessm_x.page.building import build
from wavessm_x.page.serving import PageError, served

__all__ = ["PageError", "build", "served"]

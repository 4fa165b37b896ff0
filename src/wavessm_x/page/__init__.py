"""A page in a browser on which pictures are restored, served by this machine to itself."""

from wavessm_x.page.serving import PageError, served

__all__ = ["PageError", "served"]

"""The network: wavelets, state-space blocks and Fourier convolutions."""

from wavessm_x.model.inpainting import Inpainting
from wavessm_x.model.loading import KeysError, load_weights

__all__ = ["Inpainting", "KeysError", "load_weights"]

"""Both selective scans as a few large steps, for graphs that are exported.

A loop over tokens or chunks would become as many nodes as it has turns. Here what a token adds is passed on by 1, 2,
4, ... tokens, within chunks and then from chunk to chunk (Hillis and Steele, 1986, "Data parallel algorithms"). That
takes more memory than a loop, a state for each token, and keeps no gradient cheap: it is for inference alone.

Shapes: B batch, L tokens, D inner channels, N states, M chunks, K tokens of a chunk, T whatever is counted along.
"""

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from wavessm_x.model.ssd import chunks, ssd_scan


def selective_scan_by_doubling(u: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Scan a sequence; arguments and result are those of `scan.selective_scan`, in the precision of the arguments."""
    batch, length, inner = u.shape
    u_BMKD, dt_BMK, b_BMKN, c_BMKN = (chunks(each) for each in (u, dt, b, c))
    rates_ND = a.t()
    added_BMKND = b_BMKN.unsqueeze(-1) * (dt_BMK.unsqueeze(-1) * u_BMKD).unsqueeze(-2)
    within_BMKND = accumulated(added_BMKND.flatten(0, 1), _decays(dt_BMK, rates_ND).flatten(0, 1)).view_as(added_BMKND)
    after_BMND = accumulated(within_BMKND[:, :, -1], _decays(dt_BMK.sum(-1), rates_ND))
    entering_BMND = _delayed(after_BMND, 1)
    states_BMKND = within_BMKND + _decays(dt_BMK.cumsum(-1), rates_ND) * entering_BMND.unsqueeze(2)
    y_BMKD = torch.einsum("bmkn,bmknd->bmkd", c_BMKN, states_BMKND)
    return y_BMKD.reshape(batch, -1, inner)[:, :length] + u * d


def _entering(ends_BMHPN: Tensor, decays_BMH: Tensor) -> Tensor:
    return _delayed(accumulated(ends_BMHPN, decays_BMH[..., None, None]), 1)


ssd_scan_by_doubling = partial(ssd_scan, carry=_entering)
"""Scans a sequence; arguments and result are those of `ssd.ssd_scan`."""


def accumulated(added_BT: Tensor, kept_BT: Tensor) -> Tensor:
    """Return x_t = kept_t * x_(t-1) + added_t along the second dimension, from x_(-1) = 0.

    Args:
        added_BT: [B, T, ...].
        kept_BT: [B, T, ...], of shapes that can be multiplied; between 0 and 1.
    """
    back = 1
    while back < added_BT.shape[1]:
        added_BT = added_BT + kept_BT * _delayed(added_BT, back)
        kept_BT = kept_BT * _delayed(kept_BT, back)
        back *= 2
    return added_BT


def _delayed(values_BT: Tensor, by: int) -> Tensor:
    """Move values [B, T, ...] along the second dimension; zeros follow."""
    rest = (0, 0) * (values_BT.dim() - 2)
    return functional.pad(values_BT, (*rest, by, 0))[:, : values_BT.shape[1]]


def _decays(steps: Tensor, rates_ND: Tensor) -> Tensor:
    return (steps[..., None, None] * rates_ND).exp()

"""The selective scan with a scalar rate a head, by matrix products within chunks and a carry between them.

This is the structured state-space duality of Mamba-2 (Dao and Gu, 2024, arXiv 2405.21060), with one dt a token. Decays
are exponentials of sums of steps within a chunk: never above 1, and as precise for long sequences as for short ones.

Shapes: B batch, L tokens, H heads, P channels of a head, N states, M chunks, K tokens of a chunk (Q: those that read).
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

CHUNK = 64
"""Tokens of a chunk."""


Carry = Callable[[Tensor, Tensor], Tensor]
"""Gives the states that enter each chunk, [B, M, H, P, N], from what each adds, and how it lets decay [B, M, H]."""


def carry_in_turn(ends_BMHPN: Tensor, decays_BMH: Tensor) -> Tensor:
    """Carry from chunk to chunk, as a `Carry`."""
    state = torch.zeros_like(ends_BMHPN[:, 0])
    entering = [state]
    for chunk in range(ends_BMHPN.shape[1] - 1):
        state = state * decays_BMH[:, chunk, :, None, None] + ends_BMHPN[:, chunk]
        entering.append(state)
    return torch.stack(entering, dim=1)


def ssd_scan(
    u: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, *, carry: Carry = carry_in_turn
) -> Tensor:
    """Scan a sequence.

    Args:
        u: The input, [B, L, D].
        dt: Steps, [B, L], 0 or more.
        a: Rates, [H], 0 or less; head h has the channels from h * D/H on.
        b: What is written, [B, L, N].
        c: What is read, [B, L, N].
        d: What is passed on, [D].
        carry: How the state gets from chunk to chunk.

    Returns:
        [B, L, D], in single precision, or double when the inputs are; also under autocast.

    Raises:
        ValueError: The channels are no multiple of the heads.
    """
    batch, length, inner = u.shape
    if inner % len(a):
        raise ValueError(f"{inner} channels cannot be shared by {len(a)} heads; expected a multiple.")
    exact = torch.promote_types(u.dtype, torch.float32)
    u, dt, a, b, c, d = (each.to(exact) for each in (u, dt, a, b, c, d))
    with torch.autocast(u.device.type, enabled=False):
        y_BMKD = _chunked(chunks(u), chunks(dt), chunks(b), chunks(c), a, carry)
        return y_BMKD.reshape(batch, -1, inner)[:, :length] + u * d


def _chunked(u_BMKD: Tensor, dt_BMK: Tensor, b_BMKN: Tensor, c_BMKN: Tensor, a_H: Tensor, carry: Carry) -> Tensor:
    steps_BMQK = _steps_between(dt_BMK)
    moved_BMKD = u_BMKD * dt_BMK.unsqueeze(-1)
    moved_BMKHP = moved_BMKD.view(*dt_BMK.shape, len(a_H), -1)
    to_end_BMHK = _decays(steps_BMQK[..., -1, :], a_H)
    from_start_BMHQ = _decays(dt_BMK.cumsum(-1), a_H)
    ends_BMHPN = torch.einsum("bmkhp,bmhk,bmkn->bmhpn", moved_BMKHP, to_end_BMHK, b_BMKN)
    entering_BMHPN = carry(ends_BMHPN, from_start_BMHQ[..., -1])
    scores_BMQK = (c_BMKN @ b_BMKN.transpose(-1, -2)).tril()
    between_BMHQK = (steps_BMQK.unsqueeze(2) * a_H[:, None, None]).exp()
    within = torch.einsum("bmhqk,bmkhp->bmqhp", between_BMHQK * scores_BMQK.unsqueeze(2), moved_BMKHP)
    carried = torch.einsum("bmqn,bmhpn,bmhq->bmqhp", c_BMKN, entering_BMHPN, from_start_BMHQ)
    return (within + carried).flatten(-2)


def _steps_between(dt_BMK: Tensor) -> Tensor:
    """Return the sum of the steps after each token k up to each later token q of its chunk, else 0, [B, M, Q, K].

    Each is summed by itself; the difference of two sums from the start would lose digits.
    """
    steps_BMQK = dt_BMK.unsqueeze(-1).expand(*dt_BMK.shape, dt_BMK.shape[-1])
    return steps_BMQK.tril(-1).cumsum(-2)


def _decays(steps_BMK: Tensor, a_H: Tensor) -> Tensor:
    return (steps_BMK.unsqueeze(-2) * a_H[:, None]).exp()


def chunks(tokens: Tensor) -> Tensor:
    """Cut [B, L, ...] into [B, M, K, ...]; the last chunk is filled with zeros, steps that do nothing."""
    batch, length, *rest = tokens.shape
    lacking = -length % CHUNK
    filled = functional.pad(tokens, (0, 0) * len(rest) + (0, lacking))
    return filled.view(batch, -1, CHUNK, *rest)

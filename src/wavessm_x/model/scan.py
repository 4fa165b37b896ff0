"""The selective scan with a matrix A, exact: chunks side by side, then from chunk to chunk.

h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t and y_t = <C_t, h_t> + D u_t, with one dt a token (Gu and Dao, 2023, arXiv
2312.00752). States are multiplied by decays exp(dt A) <= 1 only, never divided, so that nothing overflows however large
dt is.

The tokens are cut into about sqrt(L) chunks of about sqrt(L) tokens. What each chunk adds to the state is gathered for
all chunks at once and carried from chunk to chunk; then all chunks are run at once from what enters them. Only the
entering states outlive the forward pass. The backward pass runs a group of chunks at a time anew, so that its memory
has a bound.

Shapes: B batch, L tokens, D inner channels, N states, K tokens of a chunk, M chunks of the whole batch.
"""

from itertools import pairwise
from math import isqrt
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

GROUP_NUMBERS = 1 << 23
"""Numbers of states that the backward pass holds at a time: 32 MiB in single precision; more is not faster."""


@torch.compiler.disable  # type: ignore[untyped-decorator]  # tens of small steps in a loop, which a compiler would unroll
def selective_scan(u: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Scan a sequence.

    Args:
        u: The input, [B, L, D].
        dt: Steps, [B, L], 0 or more.
        a: Rates, [D, N], 0 or less.
        b: What is written, [B, L, N].
        c: What is read, [B, L, N].
        d: What is passed on, [D].

    Returns:
        [B, L, D], in single precision, or double when the inputs are; also under autocast.

    Raises:
        ValueError: Shapes do not fit.
    """
    batch, length, inner = u.shape
    fitting = dt.shape == (batch, length) and b.shape == c.shape == (batch, length, a.shape[1])
    if not fitting or a.shape[0] != inner or d.shape != (inner,):
        named = {"u": u, "dt": dt, "a": a, "b": b, "c": c, "d": d}
        given = ", ".join(f"{name} {list(each.shape)}" for name, each in named.items())
        raise ValueError(f"{given} do not fit; expected u [B, L, D], dt [B, L], a [D, N], b and c [B, L, N], d [D].")
    exact = torch.promote_types(u.dtype, torch.float32)
    u, dt, a, b, c, d = (each.to(exact) for each in (u, dt, a, b, c, d))
    scanned: Tensor = _Scan.apply(u, dt, a, b, c)  # type: ignore[no-untyped-call]
    return scanned + u * d


class _Cut(NamedTuple):
    """A sequence cut into chunks: token k of every chunk lies together."""

    u_KMD: Tensor
    dt_KM: Tensor
    b_KMN: Tensor
    c_KMN: Tensor

    def some(self, chunks: slice) -> "_Cut":
        """Return some of the chunks."""
        return _Cut(*(each[:, chunks] for each in self))


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        """Return the scan [B, L, D], without what is passed on."""
        with torch.autocast(u.device.type, enabled=False):
            cut, rates_ND = _cut(u, dt, b, c), a.t().contiguous()
            after_KM = functional.pad(cut.dt_KM[1:], (0, 0, 0, 1)).flip(0).cumsum(0).flip(0)
            ends_MND = _gathered(after_KM, cut.b_KMN, cut.dt_KM[..., None] * cut.u_KMD, rates_ND)
            entering_MND = _carried(ends_MND, cut.dt_KM.sum(0), rates_ND, len(u))
            state_MND = entering_MND.clone()
            y_KMD = torch.empty_like(cut.u_KMD)
            for k in range(len(y_KMD)):
                _decayed(state_MND, cut.dt_KM[k], rates_ND)
                state_MND.addcmul_(*_factors(cut.b_KMN[k], cut.dt_KM[k, :, None] * cut.u_KMD[k]))
                y_KMD[k] = torch.bmm(cut.c_KMN[k].unsqueeze(1), state_MND).squeeze(1)
        ctx.save_for_backward(u, dt, a, b, c, entering_MND)
        return _joined(y_KMD, u.shape[:2])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, ...]:
        """Return the gradients of u, dt, a, b and c."""
        u, dt, a, b, c, entering_MND = ctx.saved_tensors
        with torch.autocast(u.device.type, enabled=False):
            cut, rates_ND, dy_KMD = _cut(u, dt, b, c), a.t().contiguous(), _chunks(dy)
            starts_MND = _gathered(cut.dt_KM.cumsum(0), cut.c_KMN, dy_KMD, rates_ND)
            returning_MND = _carried(starts_MND, cut.dt_KM.sum(0), rates_ND, len(u), backwards=True)
            found = _Cut(*(torch.empty_like(each) for each in cut))
            da_ND = torch.zeros_like(rates_ND)
            at_once = max(1, GROUP_NUMBERS // (len(dy_KMD) * rates_ND.numel()))
            for first in range(0, len(entering_MND), at_once):
                chunks = slice(first, first + at_once)
                kept = _states_again(
                    cut.some(chunks), rates_ND, entering_MND[chunks], dy_KMD[:, chunks], found.some(chunks)
                )
                da_ND += _gradients(
                    cut.some(chunks), rates_ND, kept, returning_MND[chunks], dy_KMD[:, chunks], found.some(chunks)
                )
        du, ddt, db, dc = (_joined(each, u.shape[:2]) for each in found)
        return du, ddt, da_ND.t(), db, dc


def _states_again(cut: _Cut, rates_ND: Tensor, entering_MND: Tensor, dy_KMD: Tensor, found: _Cut) -> Tensor:
    """Write the gradient of c; return the states before each token, as they have decayed by then, [K, M, N, D]."""
    kept_KMND = entering_MND.new_empty(len(dy_KMD), *entering_MND.shape)
    state_MND = entering_MND.clone()
    for k, kept_MND in enumerate(kept_KMND):
        torch.mul(state_MND, _decays(cut.dt_KM[k], rates_ND), out=kept_MND)
        torch.addcmul(kept_MND, *_factors(cut.b_KMN[k], cut.dt_KM[k, :, None] * cut.u_KMD[k]), out=state_MND)
        found.c_KMN[k] = _sums(state_MND, dy_KMD[k])
    return kept_KMND


def _gradients(
    cut: _Cut, rates_ND: Tensor, kept_KMND: Tensor, returning_MND: Tensor, dy_KMD: Tensor, found: _Cut
) -> Tensor:
    """Write the gradients of u, dt and b, from the last token to the first; return that of the rates, [N, D]."""
    da_ND = torch.zeros_like(rates_ND)
    state_MND = returning_MND.clone()
    for k in reversed(range(len(dy_KMD))):
        u_MD, dt_M = cut.u_KMD[k], cut.dt_KM[k]
        state_MND.addcmul_(*_factors(cut.c_KMN[k], dy_KMD[k]))
        written_MD = torch.bmm(cut.b_KMN[k].unsqueeze(1), state_MND).squeeze(1)
        found.u_KMD[k] = dt_M[:, None] * written_MD
        found.b_KMN[k] = _sums(state_MND, dt_M[:, None] * u_MD)
        through = kept_KMND[k].mul_(state_MND).flatten(1)
        found.dt_KM[k] = (u_MD * written_MD).sum(-1) + through @ rates_ND.flatten()
        da_ND += (dt_M @ through).view_as(da_ND)
        _decayed(state_MND, dt_M, rates_ND)
    return da_ND


def _gathered(steps_KM: Tensor, left_KMN: Tensor, right_KMD: Tensor, rates_ND: Tensor) -> Tensor:
    """Return the sum over a chunk's tokens of left x right, each decayed by its steps, [M, N, D]."""
    total_MND = torch.zeros(left_KMN.shape[1], *rates_ND.shape, dtype=rates_ND.dtype, device=rates_ND.device)
    for steps_M, left_MN, right_MD in zip(steps_KM, left_KMN, right_KMD, strict=True):
        left, right = _factors(left_MN, right_MD)
        total_MND.addcmul_(_decays(steps_M, rates_ND).mul_(left), right)
    return total_MND


def _carried(ends_MND: Tensor, steps_M: Tensor, rates_ND: Tensor, batch: int, *, backwards: bool = False) -> Tensor:
    """Return what enters each chunk [M, N, D] from those before it (after it, backwards), given what each adds."""
    ends = ends_MND.view(batch, -1, *rates_ND.shape)
    steps = steps_M.view(batch, -1)
    entering = torch.zeros_like(ends)
    order = range(ends.shape[1])
    chunks = list(reversed(order)) if backwards else list(order)
    for chunk, following in pairwise(chunks):
        carried = _decays(steps[:, chunk], rates_ND).mul_(entering[:, chunk])
        entering[:, following] = carried.add_(ends[:, chunk])
    return entering.view_as(ends_MND)


def _decays(steps_M: Tensor, rates_ND: Tensor) -> Tensor:
    return (steps_M[:, None, None] * rates_ND).exp_()


def _decayed(state_MND: Tensor, steps_M: Tensor, rates_ND: Tensor) -> Tensor:
    return state_MND.mul_(_decays(steps_M, rates_ND))


def _factors(left_MN: Tensor, right_MD: Tensor) -> tuple[Tensor, Tensor]:
    """Return the factors of an outer product [M, N, D]."""
    return left_MN.unsqueeze(-1), right_MD.unsqueeze(-2)


def _sums(state_MND: Tensor, weights_MD: Tensor) -> Tensor:
    """Return the sums over the channels [M, N]; a product and a sum are faster on CPUs than the matrix product."""
    return (state_MND * weights_MD.unsqueeze(1)).sum(-1)


def _cut(u: Tensor, dt: Tensor, b: Tensor, c: Tensor) -> _Cut:
    return _Cut(*(_chunks(each) for each in (u, dt, b, c)))


def _chunks(tokens: Tensor) -> Tensor:
    """Cut [B, L, ...] into [K, M, ...]; the last chunks of a sequence are filled with zeros, steps that do nothing."""
    batch, length, *rest = tokens.shape
    size = isqrt(length - 1) + 1
    count = -(-length // size)
    filled = tokens.new_zeros(batch, count * size, *rest)
    filled[:, :length] = tokens
    return filled.view(batch * count, size, *rest).transpose(0, 1).contiguous()


def _joined(chunks: Tensor, shape: torch.Size) -> Tensor:
    """Undo `_chunks`: return [B, L, ...], given B and L."""
    batch, length = shape
    return chunks.transpose(0, 1).reshape(batch, -1, *chunks.shape[2:])[:, :length]

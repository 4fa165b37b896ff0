"""One batch run again, forward and backward, from the state in which it failed."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from torchmend.live.forensics.batches import examples_in, fresh, reachable, taken
from torchmend.live.forensics.calls import Call
from torchmend.live.forensics.probing import Probe, is_bad, is_damaged
from torchmend.live.ownership import plain

Loss = Callable[[Any, Any], Tensor]
"""Takes the model, or a list of them if there are several, and a batch; returns the loss, without the scaler."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a run showed.

    Args:
        backward: Whether the forward pass was sound, and the backward pass was not.
        tensors: Those that are not finite, with their names.
        given: Whether the gradients that came in from behind the models were not finite already.
        lacks_gradients: Whether no gradient of an output is known, so that nothing could go backward.
    """

    backward: bool = False
    tensors: tuple[tuple[str, Tensor], ...] = ()
    given: bool = False
    lacks_gradients: bool = False

    def __bool__(self) -> bool:
        return bool(self.tensors) or self.given


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rerun:
    """A batch that can be run again: by what the models were called with, or by the loss as a whole.

    Args:
        models: Without wrappers.
        calls: Of the models, oldest first; at least one.
        restore: Puts buffers back to where they were before the step.
        loss: Makes the loss; None runs the calls alone.
        batch: What the loss is made of.
        scale: The scaler's factor.
    """

    models: Sequence[nn.Module]
    calls: Sequence[Call]
    restore: Callable[[], None]
    loss: Loss | None = None
    batch: Any = None
    scale: float = 1.0

    @property
    def examples(self) -> int:
        """How many examples the batch has; 0 where the calls do not agree, or nothing can be divided."""
        sizes = (
            {examples_in(self.batch)} if self.loss is not None else {examples_in(each.inputs) for each in self.calls}
        )
        return sizes.pop() if len(sizes) == 1 else 0

    def with_scale(self, scale: float) -> Self:
        """Return the same batch with another factor on its gradients."""
        by = scale / self.scale
        calls = [
            replace(call, out_gradients={at: each * by for at, each in call.out_gradients.items()})
            for call in self.calls
        ]
        return replace(self, scale=scale, calls=calls)

    def in_type(self, dtype: torch.dtype | None) -> Self:
        """Return the same batch under autocast to another type, or without autocast."""
        calls = [
            call if call.autocast.dtype is None else replace(call, autocast=replace(call.autocast, dtype=dtype))
            for call in self.calls
        ]
        return replace(self, calls=calls)

    def only(self, samples: Sequence[int]) -> Self:
        """Return some examples of the batch as one of their own."""
        count = self.examples
        calls = [
            replace(
                call.with_inputs(*taken(call.inputs, samples, count)),
                out_gradients=taken(call.out_gradients, samples, count),
            )
            for call in self.calls
        ]
        return replace(self, calls=calls, batch=taken(self.batch, samples, count))

    def inputs(self) -> list[tuple[str, Tensor]]:
        """Return what comes from outside, named."""
        if self.loss is not None:
            return [(f"tensor {at} of the batch", each) for at, each in enumerate(reachable(self.batch))]
        found = []
        for call in self.calls:
            where = call.name or "the model"
            arguments, keywords = call.inputs
            found += [(f"argument {at} of {where}", each) for at, each in enumerate(reachable(arguments))]
            for key, value in keywords.items():
                found += [(f"{key} of {where}", each) for each in reachable(value)]
        return found

    def run(self, probe: Probe | None = None) -> Shown:
        """Run forward, and backward if that was sound.

        Args:
            probe: Looks at every operation.
        """
        self.restore()
        self.calls[0].rng.restore()
        sound = {(at, n) for at, m in enumerate(self.models) for n, each in m.named_buffers() if not is_bad(each)}
        with torch.enable_grad():
            leaves: list[Tensor] = []
            outputs = self._with_loss(probe) if self.loss is not None else self._forward(probe, leaves)
            is_loss = self.loss is not None  # which is no mask
            bad = [(name, each) for name, each, _ in outputs if is_bad(each) and (is_loss or _is_damage(each, probe))]
            for at, model in enumerate(self.models):
                bad += [(plain(n), each) for n, each in model.named_buffers() if (at, n) in sound and is_bad(each)]
            if bad:
                return Shown(tensors=tuple(bad))
            return self._backward(probe, outputs, leaves)

    def _with_loss(self, probe: Probe | None) -> "list[_Output]":
        models = self.models[0] if len(self.models) == 1 else list(self.models)
        assert self.loss is not None
        with self.calls[0].autocast.again(), probe or nullcontext():
            loss = self.loss(models, fresh(self.batch))
        return [("the loss", loss, torch.full_like(loss, self.scale))]

    def _forward(self, probe: Probe | None, leaves: list[Tensor]) -> "list[_Output]":
        """Make calls up to the first that fails; add to the leaves those inputs that take gradients.

        What comes after it was made of its outputs: that it is not finite either says nothing.
        """
        outputs: list[_Output] = []
        for at_call, call in enumerate(self.calls):
            if at_call and call.has_damaged_input:
                break
            arguments, keywords = _with_gradients(call.inputs, iter(call.with_gradients), leaves)
            call.rng.restore()
            with call.autocast.again(), probe or nullcontext():
                output = call.module(*arguments, **keywords)
            found = [each for each in reachable(output) if each.requires_grad]
            others = [each for each in reachable(output) if not each.requires_grad]
            for at, each in enumerate(found):
                gradient = call.out_gradients.get(at) if len(found) == call.outputs else None
                fits = gradient is not None and gradient.shape == each.shape
                outputs.append((f"output of {call.name or 'the model'}", each, gradient if fits else None))
            outputs += [(f"output of {call.name or 'the model'}", each, None) for each in others]
            if any(_is_damage(each, probe) for each in (*found, *others)):
                break
        return outputs

    def _backward(self, probe: Probe | None, outputs: "list[_Output]", leaves: list[Tensor]) -> Shown:
        """Go backward from the outputs whose gradients were finite; the others may have their damage from here."""
        given = [(each, gradient) for _, each, gradient in outputs if gradient is not None and each.requires_grad]
        known = [(each, gradient) for each, gradient in given if not is_bad(gradient)]
        if not known:
            return Shown(backward=True, given=bool(given), lacks_gradients=not given)
        named = {id(p): (plain(n), p) for m in self.models for n, p in m.named_parameters() if p.requires_grad}
        parameters = [*named.values(), *(("an input of a model", each) for each in leaves)]
        with probe.backward() if probe else nullcontext(), probe or nullcontext():
            gradients: tuple[Tensor | None, ...] = torch.autograd.grad(
                [each for each, _ in known],
                [each for _, each in parameters],
                [gradient.to(each.dtype) for each, gradient in known],
                allow_unused=True,
            )
        bad = [
            (name, gradient)
            for (name, _), gradient in zip(parameters, gradients, strict=True)
            if gradient is not None and is_bad(gradient)
        ]
        return Shown(backward=True, tensors=tuple(bad), given=not bad and len(known) < len(given))


_Output = tuple[str, Tensor, Tensor | None]
"""Its name, the tensor, and its gradient if that is known."""


def _with_gradients(tree: Any, flags: Any, leaves: list[Tensor]) -> Any:
    """Return a tree whose tensors take gradients where the flags, in order, say so; add their leaves."""

    def flagged(tensor: Tensor) -> Tensor:
        if not next(flags, False):
            return tensor
        leaves.append(tensor.detach().requires_grad_())
        return leaves[-1].clone()  # it may be written to in place

    return tree_map_only(Tensor, flagged, tree)


def _is_damage(tensor: Tensor, probe: Probe | None) -> bool:
    """Return whether an output is damaged: -Inf may be a mask, and so may Inf of which the probe says so."""
    if not is_bad(tensor):
        return False
    if probe is None:
        return is_damaged(tensor)
    origin = probe.origin_of(tensor)
    return origin is not None and not origin.on_purpose

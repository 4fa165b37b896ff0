"""Hooks and overridden methods that leave no trace: undone on detach, inert in copies and pickles of their owners."""

import contextlib
import copyreg
import functools
from collections.abc import Callable
from typing import Any

import torch

from torchmend.facts.errors import UserError
from torchmend.live.rerunning import is_rerun

_inert = contextlib.nullcontext().__exit__
"""Takes anything and does nothing. It is the standard library's, so that a pickled module can be loaded without us."""


class Hook:
    """A callback that a copied or unpickled module does not carry on with, and that rests while a batch runs again.

    Args:
        callback: Called with what the hook gets.
    """

    def __init__(self, callback: Callable[..., Any]) -> None:
        self._callback = callback

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Call back."""
        return None if is_rerun() else self._callback(*arguments, **keywords)

    def __deepcopy__(self, _: dict[int, Any]) -> Callable[..., None]:
        return _inert

    def __reduce__(self) -> Any:
        return getattr, (contextlib.nullcontext(), "__exit__")


class EagerHook(Hook):
    """A hook that is not traced: a compiled region is broken there, or says so if it has to be whole."""

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Call back."""
        if torch.compiler.is_dynamo_compiling() and not torch.compiler.is_exporting():
            return _uncompiled(super().__call__, *arguments, **keywords)
        return super().__call__(*arguments, **keywords)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _uncompiled(callback: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    return callback(*arguments, **keywords)


class Wrapping:
    """Hooks, and methods overridden on single objects; `undo` takes them all back.

    A method is overridden by giving the object a class of its own below its class. Its `__dict__`, which schedulers
    save as their state, stays as it is, and copies and pickles of it are of its own class again.
    """

    def __init__(self) -> None:
        self._undoing: list[Callable[[], None]] = []

    def hook(self, handle: Any) -> None:
        """Remember a hook by its handle."""
        self._undoing.append(handle.remove)

    def override(self, owner: Any, **methods: Callable[..., Any]) -> None:
        """Override methods of this object alone.

        Args:
            owner: The object.
            methods: By name; each is called with the overridden method, bound, before the caller's arguments.

        Raises:
            UserError: The object cannot be given another class.
        """
        base = type(owner)
        body = {name: _overriding(base, name, function) for name, function in methods.items()}
        made = type(base.__name__, (base,), {**body, "__reduce_ex__": _as_base(base), "__module__": base.__module__})
        try:
            owner.__class__ = made
        except TypeError as error:
            raise UserError(f"A {base.__name__} cannot be guarded: {error}. Leave it out of the guard.") from None

        def undo() -> None:
            if type(owner) is made:
                owner.__class__ = base

        self._undoing.append(undo)

    def undo(self) -> None:
        """Take everything back, last first."""
        while self._undoing:
            self._undoing.pop()()


def _overriding(base: type, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    original = getattr(base, name)

    @functools.wraps(original)
    def method(self: Any, *arguments: Any, **keywords: Any) -> Any:
        return function(functools.partial(original, self), *arguments, **keywords)

    return method


def _as_base(base: Any) -> Callable[..., Any]:
    def reduce(self: Any, protocol: Any) -> Any:
        made = type(self)
        how, arguments, *rest = base.__reduce_ex__(self, protocol)
        if how is copyreg.__newobj__ and arguments == (made,):  # type: ignore[attr-defined]
            return copyreg._reconstructor, (base, object, None), *rest  # type: ignore[attr-defined]
        return how, tuple(base if each is made else each for each in arguments), *rest

    return reduce

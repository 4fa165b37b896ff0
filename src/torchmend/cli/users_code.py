"""The user's own code, imported by name and called: what it raises is theirs, and told as such."""

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from torchmend.cli.common import Exit, complain
from torchmend.facts.errors import TorchmendError, UserError


@contextmanager
def told_as_users(what: str) -> Iterator[None]:
    """Turn whatever the user's code raises into a UserError, after its traceback; so does leaving by `sys.exit`.

    Args:
        what: Was being done.
    """
    try:
        yield
    except TorchmendError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, SystemExit) and error.code == Exit.TERMINATED:
            raise
        complain("".join(traceback.format_exception(error)))
        raise UserError(
            f"{what} failed with {type(error).__name__}: {error}. The traceback above says where. Nothing was written."
        ) from error


def with_torch(command: str, name: str) -> Any:
    """Import a module of ours that needs PyTorch; raise UserError where there is none."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise UserError(
            f"{command} runs the model and needs PyTorch, which is not installed: pip install torch"
        ) from None


@contextmanager
def importing_from_here() -> Iterator[None]:
    """Let modules of the present folder be imported, as `python -m` does."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def named(spec: str, option: str) -> Any:
    """Import what `pkg.module:name` names; raise UserError if it is not there."""
    module, _, name = spec.partition(":")
    if not name or not all(part.isidentifier() for part in module.split(".")) or module.endswith(".py"):
        raise UserError(
            f"{option} is {spec!r}. Give module and name, such as mypackage.models:make_model, not the path of a file."
        )
    with told_as_users(f"{option} {spec}: importing {module}"):
        try:
            found = import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not (module == error.name or module.startswith(f"{error.name}.")):
                raise UserError(f"{option} {spec}: importing {module} failed: {error}.") from error
            raise UserError(
                f"{option} {spec}: there is no module {error.name}. "
                "Run this where it can be imported from, or install it."
            ) from None
    for part in name.split("."):
        if not hasattr(found, part):
            raise UserError(f"{option} {spec}: {module} has no {name}.")
        found = getattr(found, part)
    return found


def made(spec: str, option: str) -> Any:
    """Call the function or class that is named for what it makes; a model or batches are taken as they are."""
    given = named(spec, option)
    is_ready = hasattr(given, "state_dict") or hasattr(given, "__iter__")
    if not (isinstance(given, type) or (callable(given) and not is_ready)):
        return given
    with told_as_users(f"{option} {spec}: calling it without arguments"):
        return given()

"""Which modules compute in float32: named ones, those that a pass over a batch shows, or those that look like it."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from torch import nn

from torchmend.facts.errors import UserError
from torchmend.live.half import LARGEST, LEAST_BITS
from torchmend.live.ownership import plain
from torchmend.live.stabilising.changes import Change, Kind, LeftOut, Stabilised, together
from torchmend.live.stabilising.choosing import Wanted, find, inside, outermost, place_of, suspects
from torchmend.live.stabilising.probing import Sighting, probe
from torchmend.live.stabilising.widening import HALVES, Wide, covered_names, why_not

AS_AUTOCAST = "autocast's type"
BY_HAND = "its own code casts to float16, or turns autocast on inside"
AS_WEIGHTS = "what comes next has weights in half precision and needs it so"


def in_float32(
    model: nn.Module, modules: Wanted | Iterable[Wanted], *, cast_back: bool = False, reason: str = "it was named"
) -> Stabilised:
    """Have modules compute in float32 inside autocast; nothing else is changed.

    Args:
        model: Wrappers of DDP and `torch.compile` may be around it.
        modules: Names, patterns, classes. Those inside another one are left out, as it covers them.
        cast_back: Cast what they put out to autocast's type.
        reason: Why, for the record.

    Raises:
        UserError: One is not there, or cannot be changed from outside. Nothing is changed then.
    """
    inner = inside(model)
    found = find(inner, modules)
    for name in found.keys() - covered_names(inner):
        why = why_not(found[name])
        if why:
            raise UserError(f"{place_of(inner, name)} cannot be put into float32: {why}")
    return _joined(*_widen(inner, dict.fromkeys(found, reason), cast_back=cast_back))


def float32_by_structure(model: nn.Module, *, cast_back: bool = False) -> Stabilised:
    """Have those modules compute in float32 that are likely to overflow, judged without running them.

    Args:
        model: Without wrappers.
        cast_back: Cast what they put out to autocast's type.
    """
    return _joined(*_widen(model, suspects(model), cast_back=cast_back))


def float32_where_seen(
    model: nn.Module, run: Callable[[], object], headroom: float = LEAST_BITS, *, cast_back: bool = False
) -> Stabilised:
    """Have those modules compute in float32 that come near float16's largest number.

    What lies behind an overflow cannot be judged before it is gone, so the model is run again after each change, until
    a pass shows nothing new. What a change did not help is changed back, and said to be left out if it overflows.

    Args:
        model: Without wrappers.
        run: Runs it on a batch.
        headroom: Bits below which a module is changed.
        cast_back: Cast what they put out to autocast's type.
    """
    done: dict[str, Stabilised] = {}
    first: dict[str, Sighting] = {}
    in_vain: set[str] = set()
    try:
        while True:
            seen = probe(model, run, headroom)
            useless = {name for name in done if name in seen and seen[name].is_like(first[name])}
            for name in useless:
                done.pop(name).undo()
            in_vain |= useless
            covered = covered_names(model) | in_vain
            new = {name: each for name, each in seen.items() if name is not None and name not in covered}
            parts, blocked = _widen(model, {name: str(each) for name, each in new.items()}, cast_back=cast_back)
            done |= parts
            first |= new
            if not (useless or parts):
                break
    except BaseException:
        together(list(done.values())).undo()
        raise
    overflowed = [each for each in seen.values() if each.name not in new and each.largest > LARGEST]
    left_out = [*blocked, *(_left(model, each) for each in overflowed)]
    return together([*done.values(), Stabilised(left_out=left_out)])


def _joined(parts: Mapping[str, Stabilised], left_out: Sequence[LeftOut]) -> Stabilised:
    return together([*parts.values(), Stabilised(left_out=left_out)])


def _widen(
    model: nn.Module, reasons: Mapping[str, str], *, cast_back: bool
) -> tuple[dict[str, Stabilised], list[LeftOut]]:
    """Put modules into float32 that are not yet, each by itself; leave out those that cannot be."""
    covered = covered_names(model)
    modules = {plain(name): module for name, module in model.named_modules(remove_duplicate=False)}
    named = {name: modules[name] for name in modules if name in reasons and name not in covered}
    blocked = {name: why for name, module in named.items() if (why := why_not(module))}
    layers = [each for each in modules.values() if isinstance(each, nn.TransformerEncoderLayer)]
    fusible = {inner for layer in layers for inner in layer.modules() if inner is not layer}
    parts: dict[str, Stabilised] = {}
    try:
        for name, module in outermost({name: each for name, each in named.items() if name not in blocked}).items():
            wide = Wide(module, cast_back=cast_back, may_be_fused=module in fusible)
            place, reason = place_of(model, name), reasons[name]
            change = Change(kind=Kind.FLOAT32, place=place, before=AS_AUTOCAST, after="float32", reason=reason)
            parts[name] = Stabilised([change], wide=[(name, wide)])
    except BaseException:
        together(list(parts.values())).undo()
        raise
    left_out = [LeftOut(place=place_of(model, name), reason=f"{reasons[name]}; {why}") for name, why in blocked.items()]
    return parts, left_out


def _left(model: nn.Module, sighting: Sighting) -> LeftOut:
    if sighting.name is None:
        return LeftOut(place="", reason=f"{sighting}; call it in float32")
    narrow = any(each.dtype in HALVES for each in model.parameters())
    why = AS_WEIGHTS if narrow else BY_HAND
    return LeftOut(
        place=place_of(model, sighting.name), reason=f"{sighting}; {why}; change that, or scale what it gets"
    )

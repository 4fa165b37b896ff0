"""Other sources of the same model, to take tensors from."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from torchmend.facts.sources import TensorSource
from torchmend.facts.tensors import TensorRef
from torchmend.rules.evidence import is_damaged
from torchmend.rules.roles import plain_name


@dataclass(frozen=True, kw_only=True, eq=False)
class Donor:
    """A healthy source of the same model.

    Args:
        name: What plans and reports call it.
        source: Its tensors.
        main: Its model's container.
    """

    name: str
    source: TensorSource
    main: str

    @cached_property
    def _by_path(self) -> dict[str, TensorRef]:
        return {ref.path: ref for ref in self.source.refs}

    @cached_property
    def _by_plain_name(self) -> dict[tuple[str, tuple[int, ...], str], TensorRef]:
        table: dict[tuple[str, tuple[int, ...], str], TensorRef] = {}
        for ref in self.source.refs:
            if ref.container == self.main:
                table.setdefault((plain_name(ref.name), ref.shape, ref.dtype), ref)
        return table

    def find(self, ref: TensorRef, main: str) -> TensorRef | None:
        """Return the donor's tensor for one of the patient's: same place, else same plain name in the model.

        Args:
            ref: The patient's tensor.
            main: The patient's model container.
        """
        exact = self._by_path.get(ref.path)
        if exact is not None and (exact.shape, exact.dtype) == (ref.shape, ref.dtype):
            return exact
        return self._by_plain_name.get((plain_name(ref.name), ref.shape, ref.dtype)) if ref.container == main else None

    def is_sound(self, ref: TensorRef) -> bool:
        """Return whether the donor's own tensor is undamaged."""
        measure = self.source.measures.get(ref)
        return measure is not None and not is_damaged(ref, measure)


def first_sound(donors: Sequence[Donor], ref: TensorRef, main: str) -> tuple[Donor, TensorRef] | None:
    """Return the first donor that has a sound tensor for the patient's, with that tensor."""
    for donor in donors:
        match = donor.find(ref, main)
        if match is not None and donor.is_sound(match):
            return donor, match
    return None

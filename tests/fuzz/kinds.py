"""What is thrown at the readers, one entry a format. To add a format: one function from chance to a `Case`, one entry."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from fuzz import bombs, noise, pickles, safetensors_files, specimens, zips
from fuzz.sandbox import Case


@dataclass(frozen=True, slots=True)
class Kind:
    """One way of making cases.

    Args:
        name: What the counts call it.
        make: Makes a case from chance alone.
        whole: Files in order, which show that the readers read this format, and get late imports out of the way.
        every: Made once in so many rounds.
    """

    name: str
    make: Callable[[Random], Case]
    whole: Callable[[], tuple[Case, ...]]
    every: int = 1


def one_file(name: str, data: bytes) -> Case:
    """Make a case of one file."""
    return Case({name: data}, name)


def _zips_in_order() -> tuple[Case, ...]:
    return tuple(one_file("case.pth", data) for data in specimens.torch_zips())


def _spoiled_zip(rng: Random) -> Case:
    return one_file("case.pth", noise.spoil(rng, rng.choice(specimens.torch_zips())))


def _zip_headers(rng: Random) -> Case:
    entries = zips.entries_of(rng.choice(specimens.torch_zips()))
    return one_file("case.pth", zips.mutate(rng, entries, lies=rng.choice((0, 0.01, 0.05))))


def _archive_of(rng: Random, pickled: bytes) -> Case:
    entries = [zips.Entry("archive/data.pkl", pickled, method=0 if rng.randrange(6) else 8)]
    entries += [zips.Entry(f"archive/data/{at}", rng.randbytes(rng.choice((4, 64, 64, 256)))) for at in range(4)]
    if not rng.randrange(8):
        entries.append(zips.Entry("archive/byteorder", rng.choice((b"big", b"little", b"", b"x"))))
    return one_file("case.pth", zips.write(entries, lambda value, bits: value % (1 << bits)))


def _mutated_pickle(rng: Random) -> Case:
    entries = zips.entries_of(rng.choice(specimens.torch_zips()))
    return _rewritten(entries, lambda pickled: pickles.mutate(rng, pickled))


def _rewritten(entries: list[zips.Entry], change: Callable[[bytes], bytes]) -> Case:
    changed = [
        zips.Entry(each.name, change(each.data) if each.name.endswith("data.pkl") else each.data) for each in entries
    ]
    return one_file("case.pth", zips.write(changed, lambda value, bits: value % (1 << bits)))


def _safetensors_in_order() -> tuple[Case, ...]:
    return tuple(one_file("case.safetensors", data) for data in specimens.safetensors_files())


def _spoiled_safetensors(rng: Random) -> Case:
    return one_file("case.safetensors", noise.spoil(rng, rng.choice(specimens.safetensors_files())))


def _safetensors_headers(rng: Random) -> Case:
    data = rng.choice(specimens.safetensors_files())
    return one_file("case.safetensors", safetensors_files.mutate(rng, data))


KINDS: tuple[Kind, ...] = (
    Kind("torch zip, any bytes", _spoiled_zip, _zips_in_order),
    Kind("torch zip, headers", _zip_headers, _zips_in_order),
    Kind("torch zip, pickle changed", _mutated_pickle, _zips_in_order),
    Kind("torch zip, pickle built", lambda rng: _archive_of(rng, pickles.build(rng)), _zips_in_order),
    Kind("torch zip, pickle of any opcodes", lambda rng: _archive_of(rng, pickles.babble(rng)), _zips_in_order),
    Kind("safetensors, any bytes", _spoiled_safetensors, _safetensors_in_order),
    Kind("safetensors, header", _safetensors_headers, _safetensors_in_order),
    Kind("bombs", bombs.make, _zips_in_order, every=20),
)


def warm_up() -> list[Case]:
    """Return the files in order of every kind, once each."""
    found = {case.target + str(hash(tuple(case.files.values()))): case for kind in KINDS for case in kind.whole()}
    return list(found.values())

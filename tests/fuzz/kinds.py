"""What is thrown at the readers. To add a format: one function from chance to a `Case`, and one entry in `KINDS`."""

import io
import json
import pickletools
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

import old_files
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


def _any_of(name: str, files: Callable[[], tuple[bytes, ...]]) -> Callable[[], tuple[Case, ...]]:
    return lambda: tuple(one_file(name, data) for data in files())


def _legacy_stream(rng: Random) -> Case:
    data = rng.choice(specimens.legacy_streams())
    if rng.randrange(3):
        head, root, tail = _split_stream(data)
        data = head + pickles.mutate(rng, root) + tail
    return one_file("case.pth", data if not rng.randrange(4) else noise.spoil(rng, data))


def _split_stream(data: bytes) -> tuple[bytes, bytes, bytes]:
    """Split a legacy file before and behind its fourth pickle, which holds the object."""
    stream = io.BytesIO(data)
    ends = []
    for _ in range(4):
        for _ in pickletools.genops(stream):
            pass
        ends.append(stream.tell())
    return data[: ends[2]], data[ends[2] : ends[3]], data[ends[3] :]


def _legacy_tar(rng: Random) -> Case:
    data = rng.choice(specimens.legacy_tars())
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        parts = [(each.name, archive.extractfile(each).read()) for each in archive if each.isfile()]
    at = rng.randrange(len(parts))
    name, part = parts[at]
    match rng.randrange(6):
        case 0:
            parts[at] = (noise.text(rng)[:90].replace("\0", ""), part)
        case 1:
            parts.append(parts[at])
        case 2 if name == "pickle":
            parts[at] = (name, pickles.mutate(rng, part))
        case _:
            parts[at] = (name, noise.spoil(rng, part))
    data = old_files.archive(parts)
    return one_file("case.pth", data if rng.randrange(4) else noise.spoil(rng, data))


def _npz(rng: Random) -> Case:
    entries = zips.entries_of(rng.choice(specimens.npz_archives()))
    at = rng.randrange(len(entries))
    if rng.randrange(2):
        header = entries[at].data[:128]
        entries[at] = replace(entries[at], data=noise.spoil(rng, header) + entries[at].data[128:])
    return one_file("case.npz", zips.mutate(rng, entries, lies=rng.choice((0, 0, 0.02))))


def _sharded(rng: Random) -> Case:
    files = dict(rng.choice(specimens.sharded_folders()))
    index = next(name for name in files if name.endswith(".index.json"))
    table = json.loads(files[index])
    for _ in range(rng.randrange(3)):
        key = rng.choice([*table["weight_map"], noise.text(rng)])
        table["weight_map"][key] = rng.choice((*files, noise.text(rng), "../case/config.json", 7, None))
    if not rng.randrange(6):
        table[rng.choice(("metadata", "weight_map"))] = safetensors_files.junk(rng)
    files[index] = json.dumps(table).encode()
    return Case(_one_spoiled(rng, files), rng.choice(("", index)))


def _distributed(rng: Random) -> Case:
    files = dict(rng.choice(specimens.distributed_folders()))
    if rng.randrange(4):
        files[".metadata"] = pickles.mutate(rng, files[".metadata"])
        return Case(files, "")
    return Case(_one_spoiled(rng, files), "")


def _parallel(rng: Random) -> Case:
    """Change the pickle of one rank's file, or its bytes."""
    files = dict(rng.choice(specimens.parallel_folders()))
    name = rng.choice([*files])
    if rng.randrange(4):
        case = _rewritten(zips.entries_of(files[name]), lambda pickled: pickles.mutate(rng, pickled))
        return Case({**files, name: case.files["case.pth"]}, "")
    return Case(_one_spoiled(rng, files), "")


def _one_spoiled(rng: Random, files: dict[str, bytes]) -> dict[str, bytes]:
    name = rng.choice([*files])
    match rng.randrange(6):
        case 0:
            return {key: data for key, data in files.items() if key != name}
        case 1 | 2:
            return files
        case _:
            return {**files, name: noise.spoil(rng, files[name])}


def _folders(files: Callable[[], tuple[dict[str, bytes], ...]]) -> Callable[[], tuple[Case, ...]]:
    return lambda: tuple(Case(each, "") for each in files())


KINDS: tuple[Kind, ...] = (
    Kind("torch zip, any bytes", _spoiled_zip, _zips_in_order),
    Kind("torch zip, headers", _zip_headers, _zips_in_order),
    Kind("torch zip, pickle changed", _mutated_pickle, _zips_in_order),
    Kind("torch zip, pickle built", lambda rng: _archive_of(rng, pickles.build(rng)), _zips_in_order),
    Kind("torch zip, pickle of any opcodes", lambda rng: _archive_of(rng, pickles.babble(rng)), _zips_in_order),
    Kind("safetensors, any bytes", _spoiled_safetensors, _safetensors_in_order),
    Kind("safetensors, header", _safetensors_headers, _safetensors_in_order),
    Kind("legacy stream", _legacy_stream, _any_of("case.pth", specimens.legacy_streams)),
    Kind("legacy tar", _legacy_tar, _any_of("case.pth", specimens.legacy_tars)),
    Kind("npz", _npz, _any_of("case.npz", specimens.npz_archives)),
    Kind("sharded index", _sharded, _folders(specimens.sharded_folders)),
    Kind("distributed checkpoint", _distributed, _folders(specimens.distributed_folders)),
    Kind("DeepSpeed and Megatron folders", _parallel, _folders(specimens.parallel_folders)),
    Kind("bombs", bombs.make, _zips_in_order, every=20),
)


def warm_up() -> list[Case]:
    """Return the files in order of every kind, once each."""
    found = {case.target + str(hash(tuple(case.files.values()))): case for kind in KINDS for case in kind.whole()}
    return list(found.values())

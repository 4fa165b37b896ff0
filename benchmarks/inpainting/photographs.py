"""Seventy-two photographs, none of them committed: fetched, checked, reduced, and split into two folders by photograph.

    python benchmarks/inpainting/photographs.py

They are in four packages of Debian 12, fetched by `apt-get download`, and in the wheels of scikit-image and of
scikit-learn; `photographs.json` lists them with their SHA-256. They end in .cache/photographs/train and
.cache/photographs/test.
"""

import hashlib
import json
import subprocess
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
FOLDER = HERE.parents[1] / ".cache" / "photographs"
SIDE = 256
"""Photographs are reduced until their shorter side has so many pixels."""


def main() -> None:
    manifest = json.loads((HERE / "photographs.json").read_text())
    roots = {source: root_of(source) for source in manifest}
    for source, listed in manifest.items():
        for each in listed:
            prepare(roots[source] / each["path"], each["sha256"], FOLDER / each["split"] / each["name"])
    for split in ("train", "test"):
        print(f"{len(list((FOLDER / split).iterdir()))} photographs in {FOLDER / split}")


def root_of(source: str) -> Path:
    """Return where the files of a package are, of Debian's (fetched and unpacked if need be) or of Python's."""
    kind, _, package = source.partition(":")
    if kind == "python":
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise SystemExit(f"{package} is not installed; `make test` installs it.")
        return Path(spec.origin).parent
    unpacked = FOLDER / "debian" / package
    if not unpacked.exists():
        print(f"Fetching {package} ...")
        unpacked.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", package], cwd=unpacked.parent, check=True)
        (archive,) = unpacked.parent.glob(f"{package}_*.deb")
        subprocess.run(["dpkg-deb", "-x", archive.name, package], cwd=unpacked.parent, check=True)
        archive.unlink()
    return unpacked


def prepare(source: Path, sha256: str, target: Path) -> None:
    if hashlib.sha256(source.read_bytes()).hexdigest() != sha256:
        raise SystemExit(f"{source} is not the photograph that was measured on; its package has another version.")
    target.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.open(source).convert("RGB")
    scale = SIDE / min(picture.size)
    if scale < 1:
        size = round(picture.width * scale), round(picture.height * scale)
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    picture.save(target)


if __name__ == "__main__":
    main()

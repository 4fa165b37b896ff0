"""The application as a whole: golden output of every command, versions, and wrong commands.

Each file in `golden/` is a case: the arguments, and the exit code and the streams that they give in the folder
that `workshop` makes. A new case is a new file with `args` alone. After a change of wording, write the files
anew with

    TORCHMEND_REGENERATE=1 python -m pytest tests/cli/test_main.py

and read the difference before committing it.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import bad_files
import checkpoints
from checkpoints import torchmend
from torchmend.cli.main import app

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.json"))
COMMANDS = [command.name or command.callback.__name__ for command in app.registered_commands]
REGENERATE = bool(os.environ.get("TORCHMEND_REGENERATE"))


@pytest.fixture(scope="session")
def stock(tmp_path_factory):
    """Make one file of each kind, once."""
    folder = tmp_path_factory.mktemp("stock")
    fresh = checkpoints.training_checkpoint
    whole = checkpoints.save(fresh(), folder / "healthy.pth", age=500).read_bytes()
    checkpoints.save(checkpoints.infinite_mean(fresh()), folder / "damaged.pth", age=400)
    several = checkpoints.infinite_second_moment(checkpoints.negative_variance(checkpoints.nan_channels(fresh())))
    checkpoints.save(several, folder / "several.pth", age=400)
    checkpoints.save(checkpoints.nan_weight(checkpoints.nan_channels(fresh())), folder / "weights.pth", age=400)
    (folder / "truncated.pth").write_bytes(whole[:200_000])
    (folder / "empty.pth").write_bytes(b"")
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(16))
    (folder / "notes.txt").write_text("iteration,loss\n")
    (folder / "nothing").mkdir()
    (folder / "run").mkdir()
    checkpoints.save(fresh(), folder / "run" / "iter_1000.pth", age=300)
    checkpoints.save(checkpoints.nan_weight(fresh()), folder / "run" / "iter_2000.pth", age=200)
    (folder / "run" / "iter_3000.pth").write_bytes(whole[:100_000])
    checkpoints.made_at(folder / "run" / "iter_3000.pth", 100)
    bad = folder / "bad"
    bad.mkdir()
    bad_files.rezipped(bad / "deflated.pth")
    bad_files.with_flipped_bit(bad / "flipped.pth")
    bad_files.claiming_a_gigabyte(bad / "claims.pth")
    bad_files.announcing_a_gigabyte(bad / "announces.safetensors")
    bad_files.bomb(bad / "bomb.pth")
    bad_files.hostile(bad / "hostile.pth")
    bad_files.deep(bad / "deep.pth")
    bad_files.legacy(bad / "legacy.pth")
    bad_files.plain_pickle(bad / "pickle.pth")
    return folder


@pytest.fixture
def workshop(stock, tmp_path, monkeypatch):
    """Stand in a copy of the stock."""
    folder = tmp_path / "workshop"
    shutil.copytree(stock, folder)
    monkeypatch.chdir(folder)
    return folder


def normalised(text, folder):
    """Take out what differs between machines: paths, sizes of torch's files, and figures of trained numbers."""
    text = text.replace(str(folder.resolve()), "<folder>").replace(metadata.version("torchmend"), "<version>")
    text = re.sub(r"\((torch zip|legacy torch stream), [\d.]+ kB,", r"(\1, <size>,", text)
    text = re.sub(r"byte [\d,]+ of the (pickle|file)", r"byte <n> of the \1", text)
    text = re.sub(r"(B: it needs [\d,]+ bytes of a storage that has) [\d,]+", r"\1 <n>", text)
    text = re.sub(r"output: \S+ standard", "output: <error> standard", text)
    return re.sub(r"(?m)^    .+, the best of \d+ predictors", "    <method>, the best of <n> predictors", text)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_a_command_prints_and_returns_what_is_on_record(workshop, path):
    case = json.loads(path.read_text(encoding="utf-8"))
    outcome = torchmend(*case["args"])
    found = {
        "args": case["args"],
        "rc": outcome.rc,
        "stdout": normalised(outcome.stdout, workshop).split("\n"),
        "stderr": normalised(outcome.stderr, workshop).split("\n"),
    }
    if REGENERATE:
        path.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    assert found == json.loads(path.read_text(encoding="utf-8"))


def test_every_command_has_its_help_on_record():
    recorded = {path.stem for path in GOLDEN}
    assert {"help", *(f"help_{name}" for name in COMMANDS)} <= recorded


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)])
def test_h_is_short_for_help(command):
    assert torchmend(*command, "-h") == torchmend(*command, "--help")


def test_version_prints_name_and_version():
    outcome = torchmend("--version")
    assert (outcome.rc, outcome.stdout) == (0, f"torchmend {metadata.version('torchmend')}\n")


def test_no_command_shows_the_help_and_exits_2():
    outcome = torchmend()
    assert outcome.rc == 2
    assert "Commands:" in outcome.stdout + outcome.stderr


def test_an_unknown_command_exits_2_and_is_named():
    outcome = torchmend("mend")
    assert (outcome.rc, outcome.stdout) == (2, "")
    assert "'mend'" in outcome.stderr


@pytest.mark.parametrize("launcher", [["-m", "torchmend"], ["-c", "from torchmend.cli.main import run; run()"]])
def test_it_runs_as_a_module_and_as_a_script(launcher):
    done = subprocess.run([sys.executable, *launcher, "explain", "TM101"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("## TM101: ")


def test_a_reader_that_goes_away_gives_no_traceback():
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "wb") as closed:
        command = [sys.executable, "-m", "torchmend", "explain", "TM101"]
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == ""

"""torchmend never imports PyTorch: not the package, and no command."""

import subprocess
import sys

import pytest

import checkpoints

BLOCKED = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "safetensors"):
            raise AssertionError(f"{name} was imported")

sys.meta_path.insert(0, NoTorch())
try:
    %s
finally:
    assert "torch" not in sys.modules, "torch was imported"
"""


def run(statement, *arguments):
    """Run a statement where importing torch is an error, with arguments as the command line."""
    command = [sys.executable, "-W", "error", "-c", BLOCKED % statement, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def cli(*arguments):
    return run("from torchmend.cli.main import run; run()", *arguments)


@pytest.fixture
def damaged(tmp_path):
    return checkpoints.save(checkpoints.infinite_mean(checkpoints.training_checkpoint()), tmp_path / "damaged.pth")


def test_the_blocker_blocks():
    assert "torch was imported" in run("import torch").stderr


def test_importing_the_package_does_not_import_torch():
    done = run("import torchmend")
    assert (done.returncode, done.stderr) == (0, "")


def test_help_does_not_import_torch():
    done = cli("--help")
    assert (done.returncode, done.stderr) == (0, "")


def test_diagnosing_does_not_import_torch(damaged):
    done = cli("diagnose", damaged)
    assert (done.returncode, done.stderr) == (1, "")
    assert "TM101" in done.stdout


def test_fixing_does_not_import_torch(damaged):
    done = cli("fix", damaged)
    assert (done.returncode, done.stderr) == (0, "")
    assert damaged.with_name("damaged_FIXED.pth").exists()


def test_the_classic_command_does_not_import_torch(damaged):
    done = run("from torchmend.cli.classic import run; sys.exit(run())", "--checkpoint", damaged, "--fix")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", [("pick", "."), ("explain", "TM101")])
def test_the_other_commands_do_not_import_torch(damaged, monkeypatch, command):
    monkeypatch.chdir(damaged.parent)
    assert "torch was imported" not in cli(*command).stderr

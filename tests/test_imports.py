"""PyTorch is imported for live objects only: not by the package, and by no command."""

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


def test_diagnosing_a_path_does_not_import_torch(damaged):
    done = run("import torchmend; assert torchmend.diagnose(sys.argv[1]).damaged", damaged)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_source_of_another_kind_is_refused_without_torch():
    done = run("import torchmend; torchmend.repair(3)")
    assert "TypeError: Cannot repair a int." in done.stderr


LIVE_NAMES = ("check_model_health", "configure_bn_for_stability", "sanitize_model_bn_stats", "RepairResult")


@pytest.mark.parametrize("name", LIVE_NAMES)
def test_a_name_that_needs_torch_imports_it_when_it_is_used(name):
    assert "torch was imported" in run(f"import torchmend; torchmend.{name}").stderr


@pytest.mark.parametrize("name", LIVE_NAMES)
def test_without_torch_such_a_name_says_what_to_install(name):
    blocked = f"import torchmend; sys.modules['torch'] = None; torchmend.{name}"
    done = subprocess.run([sys.executable, "-c", f"import sys; {blocked}"], capture_output=True, text=True, check=False)
    assert f"ImportError: torchmend.{name} needs PyTorch, which is not installed: pip install torch" in done.stderr


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


@pytest.mark.parametrize("command", [(), ("train",), ("predict",), ("evaluate",), ("export",)], ids=str)
def test_help_of_the_trainer_does_not_import_torch(command):
    done = run("from wavessm_x.cli import run; sys.exit(run())", *command, "--help")
    assert (done.returncode, done.stderr) == (0, "")

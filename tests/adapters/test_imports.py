"""Adapters are imported one by one, each with its library, and say what to install where that is missing."""

import subprocess
import sys

import pytest

LIBRARIES = ("lightning", "transformers", "accelerate")


BLOCKED = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {libraries!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
"""


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_importing_the_package_imports_no_library_and_no_torch():
    done = run(f"import sys, torchmend.adapters; assert not {{*{LIBRARIES!r}, 'torch'}} & sys.modules.keys()")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", LIBRARIES)
def test_without_its_library_an_adapter_says_what_to_install(name):
    done = run(BLOCKED.format(libraries=(name,)) + f"import torchmend.adapters.{name}")
    assert f"ImportError: torchmend.adapters.{name} needs {name.capitalize()}, which is not installed" in done.stderr
    assert f"pip install 'torchmend[{name}]'" in done.stderr


def test_the_adapter_of_fabric_needs_no_library_but_torch():
    done = run(BLOCKED.format(libraries=LIBRARIES) + "from torchmend.adapters.fabric import guarded")
    assert (done.returncode, done.stderr) == (0, "")

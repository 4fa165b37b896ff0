"""Adapters are imported one by one, each with its library, and say what to install where that is missing."""

import subprocess
import sys

import pytest

LIBRARIES = ("lightning", "transformers", "accelerate")


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_importing_the_package_imports_no_library_and_no_torch():
    done = run(
        f"import sys, torchmend.adapters; assert not {{*{LIBRARIES!r}, 'torch'}} & sys.modules.keys()",
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", LIBRARIES)
def test_without_its_library_an_adapter_says_what_to_install(name):
    done = run(f"import sys; sys.modules[{name!r}] = None; import torchmend.adapters.{name}")
    assert f"ImportError: torchmend.adapters.{name} needs {name.capitalize()}, which is not installed" in done.stderr
    assert f"pip install 'torchmend[{name}]'" in done.stderr


def test_the_adapter_of_fabric_needs_no_library_but_torch():
    blocked = "; ".join(f"sys.modules[{name!r}] = None" for name in LIBRARIES)
    done = run(f"import sys; {blocked}; from torchmend.adapters.fabric import guarded")
    assert (done.returncode, done.stderr) == (0, "")

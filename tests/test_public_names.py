"""The names that `import torchmend` promises."""

import inspect

import pytest

import torchmend

NAMES = [
    "Code",
    "Diagnosis",
    "Edit",
    "FileError",
    "Finding",
    "FixOptions",
    "FixResult",
    "Measure",
    "RepairError",
    "RepairPlan",
    "Role",
    "Rung",
    "Severity",
    "SourceChangedError",
    "Strategy",
    "TensorRef",
    "TorchmendError",
    "UserError",
    "diagnose",
    "fix",
]


def test_the_public_names_are_these_in_order():
    assert torchmend.__all__ == NAMES == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_there_and_documented(name):
    documented = inspect.getdoc(getattr(torchmend, name))
    assert documented
    assert documented.splitlines()[0].endswith(".")


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("Error")])
def test_every_public_error_can_be_caught_as_the_one_base_class(name):
    assert issubclass(getattr(torchmend, name), torchmend.TorchmendError)


def test_the_package_says_what_it_is_for():
    assert torchmend.__doc__.startswith("Find, repair and prevent numerical corruption")

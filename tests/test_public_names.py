"""The names that `import torchmend` promises."""

import inspect

import pytest

import torchmend

NAMES = [
    "Action",
    "By",
    "Capsules",
    "Cause",
    "Clip",
    "Code",
    "ConvertOptions",
    "ConvertResult",
    "CorruptedStateError",
    "Decision",
    "Diagnosis",
    "Edit",
    "FileError",
    "Finding",
    "FixOptions",
    "FixResult",
    "Guard",
    "GuardOptions",
    "Incident",
    "Layout",
    "Localisation",
    "Measure",
    "Policy",
    "Recalibration",
    "Remedy",
    "RepairError",
    "RepairPlan",
    "RepairResult",
    "Replay",
    "Ring",
    "Role",
    "Rung",
    "SalvageOptions",
    "SalvageResult",
    "Saved",
    "Sensor",
    "Severity",
    "SourceChangedError",
    "Stabilised",
    "Strategy",
    "TensorRef",
    "TorchmendError",
    "TrainingStoppedError",
    "UnfixResult",
    "UserError",
    "check_model_health",
    "configure_bn_for_stability",
    "convert",
    "diagnose",
    "fix",
    "inject",
    "noise",
    "recalibrate",
    "repair",
    "replay",
    "salvage",
    "sanitize_model_bn_stats",
    "save",
    "saving",
    "stabilise",
    "unfix",
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


def test_every_public_name_is_listed_by_dir():
    assert set(NAMES) <= set(dir(torchmend))


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'diagnosis'"):
        _ = torchmend.diagnosis


def test_the_package_says_what_it_is_for():
    assert torchmend.__doc__.startswith("Find, repair and prevent numerical corruption")

"""Codes and severities keep their values and their order."""

import pytest

from torchmend.facts.codes import Code, Severity


def test_the_codes_keep_their_values():
    assert {code.name: code.value for code in Code} == {
        "MEAN_NOT_FINITE": "TM101",
        "VARIANCE_NOT_FINITE": "TM102",
        "VARIANCE_NEGATIVE": "TM103",
        "VARIANCE_COLLAPSED": "TM104",
        "STATISTIC_OUTLIER": "TM105",
        "BATCH_COUNT": "TM106",
        "STATISTIC_HALF_PRECISION": "TM107",
        "STATISTIC_NEVER_MOVED": "TM108",
        "STATISTIC_BEYOND_HALF": "TM109",
        "WEIGHT_NOT_FINITE": "TM201",
        "BIAS_NOT_FINITE": "TM202",
        "WEIGHT_ALL_ZERO": "TM203",
        "WEIGHT_CONSTANT": "TM204",
        "WEIGHT_BEYOND_HALF": "TM205",
        "WEIGHT_BEYOND_BFLOAT16": "TM206",
        "FIRST_MOMENT_NOT_FINITE": "TM301",
        "SECOND_MOMENT_NOT_FINITE": "TM302",
        "SECOND_MOMENT_NEGATIVE": "TM303",
        "OPTIMIZER_STATE_NOT_FINITE": "TM304",
        "MOMENT_SHAPE": "TM305",
        "MOMENT_NARROW": "TM306",
        "STEP_COUNT": "TM307",
        "METADATA_NOT_FINITE": "TM401",
        "SCALER_BROKEN": "TM402",
        "LEARNING_RATE": "TM403",
        "BEST_METRIC": "TM404",
        "LOSS_NOT_FINITE": "TM405",
        "AVERAGED_NOT_FINITE": "TM501",
        "LIVE_NOT_FINITE": "TM502",
        "GRADIENT_NOT_FINITE": "TM601",
        "TRAINING_LOSS_NOT_FINITE": "TM602",
        "SCALER_COLLAPSING": "TM603",
        "TRAINING_SPIKE": "TM604",
        "RISKY_SETUP": "TM605",
        "HEADROOM_LOW": "TM606",
        "STATISTICS_UNCALIBRATED": "TM607",
        "UPDATES_VANISH": "TM608",
        "BATCH_NOT_FINITE": "TM701",
        "BATCH_OUT_OF_RANGE": "TM702",
        "STATE_NOT_FINITE_BEFORE": "TM703",
        "OVERFLOW_IN_HALF": "TM704",
        "OVERFLOW": "TM705",
        "DIVISION_BY_ZERO": "TM706",
        "LOGARITHM_OF_ZERO": "TM707",
        "SLOPE_INFINITE": "TM708",
        "ROW_FULLY_MASKED": "TM709",
        "MEAN_OF_NOTHING": "TM710",
        "LOSS_CODE": "TM711",
        "MODULE_CODE": "TM712",
        "NOT_REPRODUCED": "TM713",
        "SCALE_TOO_HIGH": "TM714",
        "NOT_A_CHECKPOINT": "TM901",
        "TRUNCATED": "TM902",
        "OUT_OF_BOUNDS": "TM903",
        "UNREADABLE": "TM904",
        "WRONG_CHECKSUM": "TM905",
        "OVERLAPPING": "TM906",
        "UNREFERENCED": "TM907",
        "DUPLICATE_NAMES": "TM908",
        "DANGEROUS_GLOBAL": "TM910",
        "UNKNOWN_GLOBAL": "TM911",
    }


def test_severities_are_ordered_so_that_thresholds_compare():
    assert Severity.NOTE < Severity.WARNING < Severity.ERROR


def test_a_severity_s_label_is_its_name_in_lower_case():
    assert [severity.label for severity in Severity] == ["note", "warning", "error"]


@pytest.mark.parametrize("code", list(Code))
def test_a_code_s_family_is_a_prefix_of_three_characters(code):
    assert code.value.startswith(code.family)
    assert len(code.family) == 3


@pytest.mark.parametrize("code", list(Code))
def test_only_the_first_codes_about_the_file_mean_that_something_was_not_checked(code):
    assert code.means_unchecked is (code.value in {"TM901", "TM902", "TM903", "TM904"})

"""Codes and severities keep their values and their order."""

import pytest

from torchmend.facts.codes import Code, Severity


def test_the_codes_keep_their_values():
    assert {code.name: code.value for code in Code} == {
        "MEAN_NOT_FINITE": "TM101",
        "VARIANCE_NOT_FINITE": "TM102",
        "VARIANCE_NEGATIVE": "TM103",
        "WEIGHT_NOT_FINITE": "TM201",
        "BIAS_NOT_FINITE": "TM202",
        "FIRST_MOMENT_NOT_FINITE": "TM301",
        "SECOND_MOMENT_NOT_FINITE": "TM302",
        "SECOND_MOMENT_NEGATIVE": "TM303",
        "OPTIMIZER_STATE_NOT_FINITE": "TM304",
        "METADATA_NOT_FINITE": "TM401",
        "NOT_A_CHECKPOINT": "TM901",
        "TRUNCATED": "TM902",
        "OUT_OF_BOUNDS": "TM903",
        "UNREADABLE": "TM904",
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
def test_only_codes_about_the_file_mean_that_something_was_not_checked(code):
    assert code.means_unchecked is code.value.startswith("TM9")

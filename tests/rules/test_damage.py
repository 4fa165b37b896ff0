"""Rules on values that can never be right, on tensors made of nothing but a name, a role and counts."""

import pytest

from fake_sources import MeasuredSource
from torchmend.facts.codes import Code, Severity
from torchmend.facts.findings import Measure
from torchmend.facts.tensors import Role, TensorRef
from torchmend.rules.judge import judge
from torchmend.rules.requests import needs_counting
from torchmend.rules.texts import TEXTS


def ref(role, name="layer.tensor"):
    return TensorRef(source="x.pth", container="model", name=name, shape=(8,), dtype="float32", role=role, storage=name)


def measure(**counts):
    return Measure(**{"numel": 8, "negative": 0, "zeros": 0, "absmax": 1.0} | counts)


def verdict(role, **counts):
    tensor = ref(role)
    return [(f.code, f.severity) for f in judge(MeasuredSource([tensor], {tensor: measure(**counts)}))]


ERRORS = [
    (Code.MEAN_NOT_FINITE, Role.RUNNING_MEAN, {"pos_inf": 8}),
    (Code.MEAN_NOT_FINITE, Role.RUNNING_MEAN, {"nan": 1}),
    (Code.VARIANCE_NOT_FINITE, Role.RUNNING_VAR, {"pos_inf": 1}),
    (Code.VARIANCE_NOT_FINITE, Role.RUNNING_VAR, {"nan": 2}),
    (Code.VARIANCE_NEGATIVE, Role.RUNNING_VAR, {"negative": 1, "minimum": -0.5}),
    (Code.WEIGHT_NOT_FINITE, Role.WEIGHT, {"nan": 1}),
    (Code.WEIGHT_NOT_FINITE, Role.WEIGHT, {"neg_inf": 1, "negative": 1}),
    (Code.WEIGHT_NOT_FINITE, Role.INFINITE_BUFFER, {"nan": 1}),
    (Code.BIAS_NOT_FINITE, Role.BIAS, {"pos_inf": 1}),
    (Code.FIRST_MOMENT_NOT_FINITE, Role.FIRST_MOMENT, {"nan": 3}),
    (Code.SECOND_MOMENT_NOT_FINITE, Role.SECOND_MOMENT, {"pos_inf": 3}),
    (Code.SECOND_MOMENT_NEGATIVE, Role.SECOND_MOMENT, {"negative": 2, "minimum": -1e-9}),
    (Code.OPTIMIZER_STATE_NOT_FINITE, Role.OPTIMIZER_STATE, {"nan": 8}),
    (Code.OPTIMIZER_STATE_NOT_FINITE, Role.OPTIMIZER_STEP, {"pos_inf": 1}),
]


@pytest.mark.parametrize(("code", "role", "counts"), ERRORS)
def test_damage_gives_its_code_as_an_error(code, role, counts):
    assert verdict(role, **counts) == [(code, Severity.ERROR)]


def test_a_metric_history_with_nan_is_a_note():
    assert verdict(Role.METADATA, nan=1) == [(Code.METADATA_NOT_FINITE, Severity.NOTE)]


@pytest.mark.parametrize(
    ("role", "counts"),
    [
        (Role.RUNNING_MEAN, {"negative": 5, "minimum": -3.0}),
        (Role.RUNNING_MEAN, {"zeros": 8, "absmax": 0.0}),
        (Role.RUNNING_VAR, {"absmax": 65504.0}),
        (Role.RUNNING_VAR, {"zeros": 8, "absmax": 0.0}),
        (Role.WEIGHT, {"negative": 8, "minimum": -1e30}),
        (Role.BIAS, {"negative": 8, "minimum": -1.0}),
        (Role.FIRST_MOMENT, {"negative": 8, "minimum": -1.0}),
        (Role.SECOND_MOMENT, {"zeros": 8}),
        (Role.OPTIMIZER_STATE, {"negative": 8, "minimum": -1.0}),
        (Role.OPTIMIZER_STEP, {}),
        (Role.METADATA, {"negative": 1, "minimum": -1.0}),
        (Role.BUFFER, {}),
        (Role.BATCH_COUNT, {}),
    ],
)
def test_sound_numbers_give_no_finding(role, counts):
    assert [code for code, severity in verdict(role, **counts) if severity is Severity.ERROR] == []


def test_an_attention_mask_of_zeros_and_minus_infinity_is_legal_whatever_its_name():
    assert verdict(Role.WEIGHT, neg_inf=3, negative=3, zeros=5) == []


def test_a_mask_with_another_number_in_it_is_no_mask():
    assert verdict(Role.WEIGHT, neg_inf=3, negative=3, zeros=4) == [(Code.WEIGHT_NOT_FINITE, Severity.ERROR)]


def test_a_mask_with_a_nan_in_it_is_an_error():
    assert verdict(Role.WEIGHT, neg_inf=3, negative=3, zeros=4, nan=1) == [(Code.WEIGHT_NOT_FINITE, Severity.ERROR)]


@pytest.mark.parametrize("counts", [{"pos_inf": 1}, {"neg_inf": 1, "negative": 1}, {"pos_inf": 4, "neg_inf": 4}])
def test_observers_and_named_masks_may_be_infinite(counts):
    assert verdict(Role.INFINITE_BUFFER, **counts) == []


@pytest.mark.parametrize(
    ("role", "code"),
    [
        (Role.RUNNING_MEAN, Code.MEAN_NOT_FINITE),
        (Role.RUNNING_VAR, Code.VARIANCE_NOT_FINITE),
        (Role.BIAS, Code.BIAS_NOT_FINITE),
        (Role.WEIGHT, Code.WEIGHT_NOT_FINITE),
        (Role.FIRST_MOMENT, Code.FIRST_MOMENT_NOT_FINITE),
        (Role.SECOND_MOMENT, Code.SECOND_MOMENT_NOT_FINITE),
    ],
)
def test_minus_infinity_everywhere_is_damage_and_no_mask(role, code):
    assert verdict(role, neg_inf=8, negative=8, absmax=0.0) == [(code, Severity.ERROR)]


@pytest.mark.parametrize(
    ("role", "code"),
    [
        (Role.RUNNING_MEAN, Code.MEAN_NOT_FINITE),
        (Role.RUNNING_VAR, Code.VARIANCE_NOT_FINITE),
        (Role.BIAS, Code.BIAS_NOT_FINITE),
        (Role.FIRST_MOMENT, Code.FIRST_MOMENT_NOT_FINITE),
        (Role.SECOND_MOMENT, Code.SECOND_MOMENT_NOT_FINITE),
    ],
)
def test_minus_infinity_among_zeros_is_damage_where_a_mask_cannot_be(role, code):
    assert verdict(role, neg_inf=1, negative=1, zeros=7, absmax=0.0) == [(code, Severity.ERROR)]


def test_a_variance_with_nan_and_negative_channels_gets_both_codes():
    assert verdict(Role.RUNNING_VAR, nan=1, negative=1, minimum=-1.0) == [
        (Code.VARIANCE_NOT_FINITE, Severity.ERROR),
        (Code.VARIANCE_NEGATIVE, Severity.ERROR),
    ]


def test_minus_infinity_in_a_variance_does_not_count_as_negative_too():
    assert verdict(Role.RUNNING_VAR, neg_inf=1, negative=1) == [(Code.VARIANCE_NOT_FINITE, Severity.ERROR)]


def test_errors_come_before_notes_and_codes_in_their_order():
    refs = [ref(Role.METADATA, "a"), ref(Role.BIAS, "b"), ref(Role.RUNNING_MEAN, "c"), ref(Role.WEIGHT, "d")]
    findings = judge(MeasuredSource(refs, dict.fromkeys(refs, measure(nan=1))))
    assert [f.code.value for f in findings] == ["TM101", "TM201", "TM202", "TM401"]


def test_findings_of_one_code_keep_the_source_s_order():
    refs = [ref(Role.WEIGHT, name) for name in ("z", "a", "m")]
    assert [f.ref.name for f in judge(MeasuredSource(refs, dict.fromkeys(refs, measure(nan=1))))] == ["z", "a", "m"]


def test_a_tensor_that_was_not_measured_gives_no_finding():
    assert judge(MeasuredSource([ref(Role.WEIGHT)], {})) == ()


def test_a_finding_carries_its_tensor_its_measure_and_the_words_of_its_code():
    tensor, counted = ref(Role.BIAS), measure(nan=1)
    (finding,) = judge(MeasuredSource([tensor], {tensor: counted}))
    text = TEXTS[Code.BIAS_NOT_FINITE]
    assert (finding.ref, finding.measure) == (tensor, counted)
    assert (finding.message, finding.remedy) == (text.consequence, text.remedy)


@pytest.mark.parametrize("role", list(Role))
def test_only_statistics_are_counted_in_full_when_they_look_finite(role):
    expected = role in (Role.RUNNING_MEAN, Role.RUNNING_VAR)
    assert needs_counting(ref(role)) is expected

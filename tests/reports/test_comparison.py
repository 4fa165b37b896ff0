"""What is said of a comparison."""

import math

import pytest

from torchmend.facts.findings import Diagnosis
from torchmend.facts.tensors import Role, Scalar, TensorRef
from torchmend.reports.comparison import Comparison, Delta, Kind, ScalarChange, TensorChange, first_to_break, sentence
from torchmend.reports.comparison_text import comparison_text, percent

SOUND = Diagnosis(source="a.pth", format="torch zip")


def change(name, role, kind=Kind.BROKE, **options):
    ref = TensorRef(source="", container="model", name=name, shape=(4,), dtype="float32", role=role)
    return TensorChange(kind=kind, before=ref, after=ref, delta=Delta(numel=4, broke=1), **options)


def compared(*changes, **options):
    return Comparison(before=SOUND, after=SOUND, changes=changes, **options)


def test_a_statistic_is_taken_for_the_origin_before_a_weight():
    broke = [change("a.weight", Role.WEIGHT), change("b.running_var", Role.RUNNING_VAR)]
    assert first_to_break(broke).ref.name == "b.running_var"


@pytest.mark.parametrize(
    ("role", "said"),
    [
        (Role.RUNNING_VAR, "running statistics only: the weights are fine"),
        (Role.FIRST_MOMENT, "optimizer state only: the weights are fine"),
        (Role.BUFFER, "1 other tensor: the weights are fine"),
        (Role.WEIGHT, "(1 weight or bias)"),
    ],
)
def test_the_sentence_says_whether_the_weights_are_fine(role, said):
    assert said in sentence(compared(change("a.x", role)))


def test_a_number_that_broke_alone_is_told():
    broke = ScalarChange(path=("scale",), before=None, after=Scalar(path=("scale",), value=math.inf), broke=True)
    found = compared(scalars=(broke,))
    assert found.broke
    assert sentence(found) == "Between A and B no tensor broke, but scale did."


@pytest.mark.parametrize(
    ("relative", "text"), [(0.1234, "12 %"), (1.0, "100 %"), (12.0, "x12"), (math.inf, "from zero"), (1e-7, "1e-05 %")]
)
def test_relative_changes_read_as_per_cent_up_to_tenfold(relative, text):
    assert percent(relative) == text


def test_the_rest_beyond_top_is_counted():
    text = comparison_text(compared(*(change(f"l{i}.weight", Role.WEIGHT) for i in range(5))), top=2)
    assert "    and 3 more; --top shows more, --format json all" in text


def test_damage_is_painted_red():
    text = comparison_text(compared(change("a.weight", Role.WEIGHT)), lambda word, style: f"<{style}>{word}")
    assert "<red>BROKE" in text

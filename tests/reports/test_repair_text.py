"""The text of a repair plan."""

import pytest

from torchmend.facts.plans import Edit, FillDamaged, Refusal, RepairPlan, Rung, ScalarEdit, Values
from torchmend.facts.tensors import Role, Scalar, TensorRef
from torchmend.reports.repair_text import plan_text


def ref(name="bn.running_mean", numel=64):
    return TensorRef(source="x", container="model", name=name, shape=(numel,), dtype="float32", role=Role.RUNNING_MEAN)


def edit(tensor, **more):
    change = {"change": FillDamaged(value=0.0), "count": 2, "rung": Rung.ZEROED, "reason": "because"}
    return Edit(ref=tensor, **change | more)


def lines(*edits, refused=(), scalars=()):
    return plan_text(RepairPlan(source="x.pth", edits=edits, refused=refused, scalars=scalars)).splitlines()


def test_an_edit_shows_place_count_rung_and_reason():
    assert lines(edit(ref())) == [
        "Repair plan for x.pth",
        "",
        "  model / bn.running_mean",
        "    2 elements of 64: zeroed",
        "    because",
    ]


@pytest.mark.parametrize("rung", list(Rung))
def test_every_rung_is_named(rung):
    (line,) = [line for line in lines(edit(ref(), rung=rung)) if line.startswith("    2 elements of 64: ")]
    assert rung.value in line


def test_a_single_element_is_in_the_singular():
    assert "    1 element of 64: zeroed" in lines(edit(ref(), count=1))


def test_an_estimated_error_is_shown_with_two_digits():
    change = Values(index=(0,), values=(1.0,))
    (line,) = [line for line in lines(edit(ref(), change=change, error=0.04682)) if "error" in line]
    assert line == "    estimated error of the layer's normalised output: 0.047 standard deviations"


def test_an_error_of_zero_is_shown_and_not_taken_for_unknown():
    assert any("0 standard deviations" in line for line in lines(edit(ref(), error=0.0)))


def test_an_approximate_repair_says_so():
    assert any(line.startswith("    approximate:") for line in lines(edit(ref(), approximate=True)))


def test_an_exact_repair_does_not_say_approximate():
    assert not any("approximate" in line for line in lines(edit(ref())))


def test_refusals_are_listed_with_their_reasons():
    refused = (Refusal(about=ref("conv.weight"), reason="a weight cannot be invented"),)
    assert lines(refused=refused)[-2:] == ["  REFUSED", "    model / conv.weight: a weight cannot be invented"]


def test_edits_beyond_twenty_are_summed_up():
    found = lines(*(edit(ref(f"bn{n}.running_mean")) for n in range(25)))
    assert sum("model / bn" in line for line in found) == 20
    assert found[-1] == "  and 5 more; --format json lists all"


def test_refusals_beyond_twenty_are_summed_up():
    refused = tuple(Refusal(about=ref(f"w{n}"), reason="no") for n in range(21))
    assert lines(refused=refused)[-1] == "    and 1 more; --format json lists all"


def test_an_empty_plan_is_its_heading():
    assert lines() == ["Repair plan for x.pth"]


def test_paint_is_asked_to_colour_refusals_red():
    painted = {}
    plan = RepairPlan(source="x", refused=(Refusal(about=ref(), reason="no"),))
    plan_text(plan, lambda text, style: painted.setdefault(text, style) and text)
    assert painted["REFUSED"] == "red"


SCALE = Scalar(path=("extra", "scaler", "scale"), value=0.0, place=100)


def scalar_edit(scalar=SCALE, value=65536.0, rung=Rung.FRESH):
    return ScalarEdit(scalar=scalar, value=value, rung=rung, reason="because")


def test_an_edit_of_a_number_shows_old_and_new_value_rung_and_reason():
    assert lines(scalars=(scalar_edit(),))[2:] == ["  extra.scaler.scale: 0.0 -> 65536.0", "    fresh state: because"]


def test_values_that_are_not_finite_are_shown_as_words():
    best = Scalar(path=("best_loss",), value=float("nan"), place=1)
    assert "  best_loss: nan -> inf" in lines(scalars=(scalar_edit(best, float("inf"), Rung.WORST),))


@pytest.mark.parametrize("rung", list(Rung))
def test_every_rung_is_named_for_numbers_too(rung):
    assert rung.value in lines(scalars=(scalar_edit(rung=rung),))[-1]


def test_a_refusal_about_a_number_shows_its_value():
    refused = (Refusal(about=SCALE, reason="it is stored in a form that is not patched"),)
    assert lines(refused=refused)[-1] == "    extra.scaler.scale = 0.0: it is stored in a form that is not patched"


def test_numbers_count_among_the_twenty_edits():
    found = lines(*(edit(ref(f"bn{n}.running_mean")) for n in range(20)), scalars=(scalar_edit(),))
    assert found[-1] == "  and 1 more; --format json lists all"


def test_an_edit_without_a_reason_leaves_no_empty_line():
    assert lines(edit(ref(), reason=""))[-1] == "    2 elements of 64: zeroed"

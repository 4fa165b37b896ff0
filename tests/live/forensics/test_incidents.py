"""What a stranger reads, and what a machine does."""

import json
import logging

import pytest

from live.forensics.faults import FAULTS
from live.forensics.runs import incident_of, into
from torchmend import Cause, Code, Incident, Localisation, Remedy
from torchmend.live.forensics.incidents import Kind


@pytest.mark.parametrize("name", FAULTS)
def test_an_incident_is_told_in_less_than_fifteen_lines(name, tmp_path, caplog):
    steps = (True,) * 6 if name == "random_mask" else (False, False, True)
    found = incident_of(into(FAULTS[name], steps=steps, capsules=tmp_path / "c")[1])
    (told,) = [each.message for each in caplog.records if "Incident" in each.message]
    assert str(found) in told
    assert len(told.splitlines()) < 15
    assert all(word in told for word in ("  what     ", "  where    ", "  undone   ", "  change   ", "  replay   "))


def test_all_that_can_be_told_takes_less_than_fifteen_lines():
    place = Localisation(
        cause=Cause.MODULE, module="a", kind="Linear", operation="addmm", dtype="float16", samples=(1,), of=4,
        note="other examples show it as well",
    )  # fmt: skip
    tried = [Remedy(kind=Kind.OTHER_TYPE, change="run in bfloat16", helped=helped) for helped in (False, True)]
    found = Incident(
        step=1, what="w", undone="u", found=place, code=Code.OVERFLOW_IN_HALF, remedies=tuple(tried), rank=1,
        capsule="my runs/step 1",
    )  # fmt: skip
    assert str(found).splitlines() == [
        "Incident at step 1 on rank 1",
        "  what     w",
        "  where    module a (Linear) produced NaN in the forward pass from finite inputs",
        "  how      addmm in float16",
        "  examples 1 of 4 (counted from 0)",
        "  note     other examples show it as well",
        "  undone   u",
        "  cause    overflow in half precision (torchmend explain TM704)",
        "  change   run in bfloat16 (tried on this batch: it helps)",
        "  no help  run in bfloat16",
        "  replay   torchmend replay 'my runs/step 1' --model MODULE:NAME",
    ]


def test_the_file_of_decisions_holds_it_as_data(tmp_path):
    into(FAULTS["outlier"], log=tmp_path / "guard.jsonl")
    (line,) = map(json.loads, (tmp_path / "guard.jsonl").read_text().splitlines())
    told = line["incident"]
    assert (told["cause"], told["module"], told["operation"], told["samples"], told["code"]) == (
        "module", "1", "native_batch_norm", [5], "TM702",
    )  # fmt: skip


def test_an_overflow_of_the_forward_pass_is_a_warning_even_where_a_scaler_refuses(caplog):
    import torch

    from torchmend import Guard

    fault = FAULTS["linear_in_float16"]
    model = fault.model()
    fault.spoil(model)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    with Guard(model, optimizer, scaler=scaler), caplog.at_level(logging.INFO):
        with torch.autocast("cpu", torch.float16):
            loss = fault.loss(model, fault.batch(True))
        scaler.scale(loss).backward()
        scaler.step(optimizer)
    (told,) = [each for each in caplog.records if "Incident" in each.message]
    assert told.levelno == logging.WARNING
    assert "(by the GradScaler)" in told.message


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        (Localisation(cause=Cause.INPUT, module="x"), "the batch itself holds NaN: x"),
        (Localisation(cause=Cause.BUFFER, module="mask"), "buffer mask held NaN before the step"),
        (Localisation(cause=Cause.OUTSIDE), "a tensor that is neither the model's nor the batch's holds NaN"),
        (
            Localisation(cause=Cause.LOSS, module="CrossEntropyLoss", kind="CrossEntropyLoss"),
            "the loss code, in CrossEntropyLoss, produced NaN in the forward pass",
        ),
        (
            Localisation(cause=Cause.LOSS, module="head", backward=True, value="Inf"),
            "the loss code after module head produced Inf in the backward pass",
        ),
        (Localisation(cause=Cause.UNKNOWN), "where it began is not known"),
    ],
)
def test_each_place_has_a_sentence(place, sentence):
    assert place.sentence == sentence

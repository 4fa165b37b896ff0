"""Networks as files for other programs: what is written gives what the network gives, or is not written."""

import pytest
import torch

from networks import network
from wavessm_x.model.ssm import FrequencyAdaptiveSsm
from wavessm_x.restoring import exporting
from wavessm_x.restoring.exporting import ExportingError, export


def half_masked():
    """A mask of the upper half; where nothing at all is known, networks amplify rounding."""
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., :16, :] = 1
    return mask


@pytest.mark.slow
@pytest.mark.parametrize("masked", [True, False], ids=["masked", "blind"])
@pytest.mark.parametrize("ssm", ["exact", "ssd"])
def test_an_exported_program_gives_what_the_network_gives(tmp_path, ssm, masked):
    model = network(ssm=ssm, masked=masked)
    assert export(model, tmp_path / "x.pt2", 32) < 1e-5
    given = [torch.rand(1, 3, 32, 32), half_masked()][: 1 + masked]
    with torch.no_grad():
        output = torch.export.load(tmp_path / "x.pt2").module()(*given)
        torch.testing.assert_close(output, model(*given))


@pytest.mark.slow
@pytest.mark.parametrize("ssm", ["exact", "ssd"])
def test_an_onnx_file_gives_what_the_network_gives(tmp_path, ssm):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = network(ssm=ssm)
    assert export(model, tmp_path / "x.onnx", 32) < 1e-5
    session = onnxruntime.InferenceSession(tmp_path / "x.onnx", providers=["CPUExecutionProvider"])
    given = {"image": torch.rand(1, 3, 32, 32), "mask": half_masked()}
    (output,) = session.run(None, {name: each.numpy() for name, each in given.items()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(output), model(**given), rtol=1e-4, atol=1e-5)


def writes(monkeypatch, run):
    """Have something written that runs as told, without waiting for PyTorch to export."""

    def write(_program, file):
        file.write_bytes(b"program")
        return run

    monkeypatch.setattr(exporting, "_exported", lambda *_: None)
    monkeypatch.setattr(exporting, "_WRITERS", {".pt2": write})


def test_what_gives_the_same_gets_its_name(tmp_path, monkeypatch):
    model = network()
    writes(monkeypatch, lambda given: model(*given) + 1e-4)
    assert export(model, tmp_path / "x.pt2", 32) == pytest.approx(1e-4, rel=0.01)
    assert (tmp_path / "x.pt2").read_bytes() == b"program"


@pytest.mark.parametrize("wrong", [0.01, float("nan")])
def test_what_gives_something_else_is_not_written(tmp_path, monkeypatch, wrong):
    model = network()
    writes(monkeypatch, lambda given: model(*given) + wrong)
    with pytest.raises(ExportingError, match="differs from the network by"):
        export(model, tmp_path / "x.pt2", 32)
    assert list(tmp_path.iterdir()) == []


def test_what_pytorch_cannot_export_is_told(tmp_path, monkeypatch):
    def fail(*_arguments, **_keywords):
        raise RuntimeError("no such operator")

    monkeypatch.setattr(torch.export, "export", fail)
    with pytest.raises(ExportingError, match=r"cannot export this network, .* no such operator"):
        export(network(), tmp_path / "x.pt2", 32)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "size", "told"),
    [
        ("x.pth", 32, r"to \.pt2 or \.onnx; x\.pth is neither"),
        ("x.pt2", 40, "size is 40; this network takes multiples of 16"),
        ("x.pt2", 0, "size is 0"),
    ],
)
def test_mistakes_are_told(tmp_path, name, size, told):
    with pytest.raises(ExportingError, match=told):
        export(network(), tmp_path / name, size)


def test_what_onnx_lacks_is_named_with_the_way_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "REQUIRED", ("onnx_that_is_nowhere",))
    with pytest.raises(ExportingError, match=r"takes onnx_that_is_nowhere, .*pip install '\.\[onnx\]'"):
        export(network(), tmp_path / "x.onnx", 32)


def test_the_network_itself_keeps_its_scans():
    model = network()
    scans = [module.scan for module in model.modules() if isinstance(module, FrequencyAdaptiveSsm)]
    copied = exporting._exportable(model)
    assert scans == [module.scan for module in model.modules() if isinstance(module, FrequencyAdaptiveSsm)]
    assert not set(scans) & {module.scan for module in copied.modules() if isinstance(module, FrequencyAdaptiveSsm)}

"""The network computes the same when it is compiled, in value and gradient."""

import pytest
import torch
from torch import nn

from wavessm_x.config import ModelConfig
from wavessm_x.model import Inpainting


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # the tracer looks at all
def test_the_compiled_network_equals_the_network():
    torch.manual_seed(0)
    model, image = Inpainting(ModelConfig.preset("tiny")), torch.rand(1, 3, 32, 32)
    nn.init.normal_(model.output.weight)
    expected = model(image)
    expected.square().mean().backward()
    slopes = [each.grad.clone() for each in model.parameters()]
    model.zero_grad()
    found = torch.compile(model, backend="aot_eager", dynamic=False)(image)
    found.square().mean().backward()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    for each, slope in zip(model.parameters(), slopes, strict=True):
        torch.testing.assert_close(each.grad, slope, rtol=1e-2, atol=1e-3)

"""The head: it is the report's, and computes what its formula says."""

import numpy as np
import pytest
import torch

import model
from whichlayer.heads.options import Options


def shapes(head):
    return {name: tuple(value.shape) for name, value in head.state_dict().items()}


@pytest.mark.parametrize("layers, fusion", [(1, {}), (4, {"fuse.weight": (1, 4, 1), "fuse.bias": (1,)})])
def test_head_is_the_reports(layers, fusion):
    head = model.Head(Options(), layers, hidden=768, classes=4)
    assert shapes(head) == fusion | {
        "reduce.weight": (1, 1, 3),
        "reduce.bias": (1,),
        "mlp.0.weight": (512, 256),
        "mlp.0.bias": (512,),
        "mlp.2.weight": (4, 512),
        "mlp.2.bias": (4,),
    }
    assert isinstance(head.reduce, torch.nn.Conv1d)
    assert head.reduce.kernel_size == (3,) and head.reduce.stride == (3,)


def head_by_hand(state, x, fusion, reduction, standardize):
    """The head's formula in numpy, step by step, with loops where the report has a convolution."""
    state = {name: value.double().numpy() for name, value in state.items()}
    x = x.double().numpy()
    layers = range(x.shape[1])
    if standardize:
        x = (x - state["mean"]) / state["deviation"]

    if len(layers) == 1:
        fused = x[:, 0]
    elif fusion == "conv":
        kernel = state["fuse.weight"][0, :, 0]
        fused = sum(kernel[layer] * x[:, layer] for layer in layers) + state["fuse.bias"][0]
    elif fusion == "mix":
        powers = np.exp(state["weights"])
        fused = sum(powers[layer] * x[:, layer] for layer in layers) / powers.sum()
    else:
        fused = np.concatenate([x[:, layer] for layer in layers], axis=1)

    reduced = fused
    if reduction == "conv":
        kernel = state["reduce.weight"][0, 0]
        starts = range(0, fused.shape[1] - 2, 3)
        steps = [fused[:, start : start + 3] @ kernel for start in starts]
        reduced = np.stack(steps, axis=1) + state["reduce.bias"][0]

    inner = np.maximum(reduced @ state["mlp.0.weight"].T + state["mlp.0.bias"], 0)
    return inner @ state["mlp.2.weight"].T + state["mlp.2.bias"]


@pytest.mark.parametrize("layers, hidden", [(1, 12), (4, 12), (2, 14), (3, 3)])
@pytest.mark.parametrize("fusion", ["conv", "mix", "concat"])
@pytest.mark.parametrize("reduction", ["conv", "none"])
@pytest.mark.parametrize("standardize", [False, True])
def test_forward_equals_the_formula(layers, hidden, fusion, reduction, standardize):
    torch.manual_seed(1)
    options = Options(fusion=fusion, reduction=reduction, hidden=7, standardize=standardize)
    head = model.Head(options, layers, hidden, 3)
    for value in head.state_dict().values():  # nothing may be at a value where it has no effect
        value.copy_(torch.rand_like(value) + 0.1)
    x = torch.randn(5, layers, hidden)
    expected = head_by_hand(head.state_dict(), x, fusion, reduction, standardize)
    np.testing.assert_allclose(head(x).detach().numpy(), expected, rtol=1e-4, atol=1e-5)

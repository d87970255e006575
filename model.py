"""The head: what is trained on top of the frozen encoder. Nothing else."""

import copy
import os
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.func import functional_call, vmap

import cli
import store


def choose_device(name):
    """The torch device for --device; under torchrun each process takes the GPU of its local rank."""
    name = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or index and (kind == "cpu" or not index.isdecimal()):
        raise cli.Problem(f"--device {name}: use auto, cpu, cuda or cuda:0, cuda:1 …")
    if kind == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if int(index or 0) >= count:
        raise cli.Problem(f"--device {name}: torch sees {count} CUDA devices here; use --device cpu")
    return torch.device("cuda", int(index or int(os.environ.get("LOCAL_RANK", 0)) % count))


class Head(nn.Module):
    """Layer fusion, reduction and a two-layer MLP, as in the report.

    Input: (titles, layers, hidden) float32. Output: (titles, classes) float32 logits.

    fusion, where there are several layers:
        conv    point-wise Conv1d over layers with one output channel (the report's)
        mix     softmax-weighted sum of the layers (the scalar mix of ELMo, Peters et al. 2018, without its scale)
        concat  the layers side by side
    reduction:
        conv    Conv1d with kernel 3 and stride 3 over the hidden dimension (the report's)
        none    the full width
    standardize: keep a mean and a deviation for each layer and dimension as buffers, and apply them first.

    Raises ValueError when there is no whole step of the reduction in the width, or fewer than two classes.
    """

    def __init__(self, layers, hidden, classes, fusion="conv", reduction="conv", width=512, standardize=False):
        super().__init__()
        if hidden < 3 or classes < 2 or layers < 1:
            raise ValueError(f"a head needs hidden ≥ 3, classes ≥ 2 and layers ≥ 1, not {hidden}, {classes}, {layers}")
        self.standardize = standardize
        if standardize:
            self.register_buffer("mean", torch.zeros(layers, hidden))
            self.register_buffer("deviation", torch.ones(layers, hidden))
        self.fusion = fusion if layers > 1 else "one"
        if self.fusion == "conv":
            self.fuse = nn.Conv1d(layers, 1, kernel_size=1)
        elif self.fusion == "mix":
            self.weights = nn.Parameter(torch.zeros(layers))
        size = hidden * layers if self.fusion == "concat" else hidden
        self.reduce = nn.Conv1d(1, 1, kernel_size=3, stride=3) if reduction == "conv" else nn.Identity()
        size = size // 3 if reduction == "conv" else size
        self.mlp = nn.Sequential(nn.Linear(size, width), nn.ReLU(), nn.Linear(width, classes))

    def forward(self, x):
        if self.standardize:
            x = (x - self.mean) / self.deviation
        # the convolutions are computed as products of matrices: stacked under vmap, that is several times faster
        if self.fusion == "conv":
            x = self.fuse.weight.view(1, -1) @ x + self.fuse.bias
        elif self.fusion == "mix":
            x = self.weights.softmax(0).view(1, -1) @ x
        x = x.flatten(1)
        if isinstance(self.reduce, nn.Conv1d):
            steps = x[:, : x.shape[1] // 3 * 3].unflatten(1, (-1, 3)).mT  # (titles, 3, hidden // 3)
            x = (self.reduce.weight.view(1, 3) @ steps).squeeze(1) + self.reduce.bias
        return self.mlp(x)


def build(config):
    """A Head with fresh weights for the configuration of a run (what train.py keeps in config.json)."""
    options = config["options"]
    return Head(
        len(config["columns"]),
        config["encoder"]["hidden"],
        len(config["classes"]),
        options["fusion"],
        options["reduction"],
        options["hidden"],
        options["standardize"],
    )


def stacked(head):
    """The head's forward pass for several heads of its kind at once.

    Takes a state of stacked tensors, (heads, …) each, and x of shape (heads, titles, layers, hidden); returns logits of
    shape (heads, titles, classes).
    """
    shape = copy.deepcopy(head).to("meta")
    return vmap(lambda state, x: functional_call(shape, state, (x,)))


def held_out_probabilities(forward, state, x, folds, block=4096):
    """Class probabilities of every title from the head of its own fold, which has not seen it.

    x: (titles, layers, hidden) tensor; folds: (titles,) int array; state: as for `stacked`, on the device of x.
    Returns (titles, classes) float32 numpy.
    """
    rows = [torch.as_tensor(np.flatnonzero(folds == fold), device=x.device) for fold in range(folds.max() + 1)]
    rows = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)
    out = None
    with torch.inference_mode():
        for part in rows.split(block, dim=1):
            values = forward(state, x[part]).softmax(-1)
            out = values.new_empty(len(x) + 1, values.shape[-1]) if out is None else out
            out[part.flatten()] = values.flatten(0, 1)  # padding (-1) falls into the extra last row
    return out[:-1].cpu().numpy()


def read_heads(folder, config):
    """The trained heads of a run as (stacked forward pass, state); the file is checked against the run first."""
    path = Path(folder) / "heads.safetensors"
    store.check_content(path, config)
    head, state = build(config), load_file(path)
    if {name: value.shape[1:] for name, value in state.items()} != {n: v.shape for n, v in head.state_dict().items()}:
        raise cli.Problem(f"{path}: these are not the heads that config.json describes; train again")
    return stacked(head), state


def stack_columns(config, features):
    """The features of a run's layers and poolings side by side: a (titles, layers, hidden) float32 tensor."""
    columns = [tuple(column) for column in config["columns"]]
    x = np.empty((features.manifest["data"]["rows"], len(columns), config["encoder"]["hidden"]), np.float32)
    for i, column in enumerate(columns):
        x[:, i] = features.read(*column)
    return torch.from_numpy(x)


def layer_weights(state):
    """The learned weight of each layer, averaged over folds, or None where layers are not weighed."""
    if "weights" in state:
        return state["weights"].softmax(-1).mean(0).tolist()
    return state["fuse.weight"].mean(0).flatten().tolist() if "fuse.weight" in state else None

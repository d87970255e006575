"""The heads: what is trained on top of the frozen encoder. Nothing else."""

import contextlib
import copy
from dataclasses import dataclass

import numpy as np
import torch
from safetensors.torch import load
from torch import nn
from torch.func import functional_call, vmap

from whichlayer.common import cli


class Head(nn.Module):
    """Layer fusion, reduction and a two-layer MLP, as in the report.

    Input: (titles, layers, hidden) float32. Output: (titles, classes) float32 logits.

    options: options.Options, of which it takes the width `hidden`, and
    fusion, where there are several layers:
        conv    point-wise Conv1d over layers with one output channel (the report's)
        mix     softmax-weighted sum of the layers (ELMo's, Peters et al. 2018, without its scale)
        concat  the layers side by side
    reduction:
        conv    Conv1d with kernel 3 and stride 3 over the hidden dimension (the report's)
        none    the full width
    standardize: keep a mean and a deviation of each layer and dimension as buffers; apply them first.
    """

    def __init__(self, options, layers, hidden, classes):
        super().__init__()
        self.classes = classes
        self.standardize = options.standardize
        if self.standardize:
            self.register_buffer("mean", torch.zeros(layers, hidden))
            self.register_buffer("deviation", torch.ones(layers, hidden))
        self.fusion = options.fusion if layers > 1 else "one"
        if self.fusion == "conv":
            self.fuse = nn.Conv1d(layers, 1, kernel_size=1)
        elif self.fusion == "mix":
            self.weights = nn.Parameter(torch.zeros(layers))
        size = hidden * layers if self.fusion == "concat" else hidden
        self.reduce = nn.Identity()
        if options.reduction == "conv":
            self.reduce = nn.Conv1d(1, 1, kernel_size=3, stride=3)
            size //= 3
        first = nn.Linear(size, options.hidden)
        self.mlp = nn.Sequential(first, nn.ReLU(inplace=True), nn.Linear(options.hidden, classes))

    def forward(self, x):
        if self.standardize:
            x = (x - self.mean) / self.deviation
        # convolutions are computed as products of matrices: stacked under vmap, that is much faster
        if self.fusion == "conv":
            x = self.fuse.weight.view(1, -1) @ x + self.fuse.bias
        elif self.fusion == "mix":
            x = self.weights.softmax(0).view(1, -1) @ x
        x = x.flatten(1)
        if isinstance(self.reduce, nn.Conv1d):
            whole = x.shape[1] // 3 * 3
            # (titles, 3, hidden // 3)
            steps = x[:, :whole].unflatten(1, (-1, 3)).mT
            x = (self.reduce.weight.view(1, 3) @ steps).squeeze(1) + self.reduce.bias
        return self.mlp(x)


class Probe(nn.Module):
    """The linear probe: multinomial logistic regression on layers and poolings side by side.

    Input: (titles, layers, hidden) float32. Output: (titles, classes) float32 logits. The
    standardisation that the weights were trained with is folded into them (see probe.train), so
    they apply to the features as they are.
    """

    def __init__(self, layers, hidden, classes):
        super().__init__()
        self.classes = classes
        self.linear = nn.Linear(layers * hidden, classes)

    def forward(self, x):
        return self.linear(x.flatten(-2))


@dataclass
class Trained:
    """What a training gives: the heads of all folds of all repeats, and what they predict."""

    state: dict[str, torch.Tensor]  # the heads' tensors, stacked: (repeats · folds, …) each, on the CPU
    probabilities: np.ndarray  # (repeats, titles, classes) float32, out of fold
    # (repeat, fold, epoch, loss, macro-F1), for the report's head
    history: list = ()
    penalties: list | None = None  # C of each fold of each repeat, for linear probes
    offsets: np.ndarray | None = None  # (repeats, folds, classes) of the decision, see decision.py


def build(options, layers, hidden, classes):
    """A head with fresh weights. options: options.Options."""
    if options.head == "linear":
        return Probe(layers, hidden, classes)
    return Head(options, layers, hidden, classes)


def stacked(head, shared=False):
    """The head's forward pass for several heads of its kind at once.

    Takes a state of stacked tensors, (heads, …) each, and x of shape (heads, titles, layers,
    hidden), or, where all heads see the same titles, (titles, layers, hidden); returns logits of
    shape (heads, titles, classes).
    """
    shape = copy.deepcopy(head).to("meta")
    axes = (0, None if shared else 0)
    return vmap(lambda state, x: functional_call(shape, state, (x,)), in_dims=axes)


def held_out_probabilities(head, state, x, folds, block=1 << 21):
    """Class probabilities of every title from the heads of its own folds, which have not seen it.

    head: a module of the heads' kind; state: their tensors stacked, (repeats · folds, …) each, on
    the device of x; x: (titles, layers, hidden) tensor; folds: (repeats, titles) int array; block:
    numbers of x that are gathered at a time, which bounds the memory. Returns (repeats, titles,
    classes) float32 numpy.
    """
    out = np.empty((*folds.shape, head.classes), np.float32)
    titles = max(1, block // x[0].numel())
    with torch.inference_mode():
        for number, (repeat, fold) in enumerate(np.ndindex(len(folds), int(folds.max()) + 1)):
            own = {name: value[number] for name, value in state.items()}
            rows = torch.from_numpy(np.flatnonzero(folds[repeat] == fold))
            for part in rows.split(titles):
                inputs = x.index_select(0, part.to(x.device))
                logits = functional_call(head, own, (inputs,))
                out[repeat, part] = logits.softmax(-1).cpu()
    return out


def mean_probabilities(forward, state, x, block=1 << 22):
    """Class probabilities of new titles, log-probabilities averaged over all heads.

    forward: what `stacked` made of a head; state: its tensors, on the device of x; x: (titles,
    layers, hidden) float32. Returns a (titles, classes) float32 tensor.
    """
    heads = len(next(iter(state.values())))
    titles = max(1, block // x[0].numel() // heads)
    with torch.inference_mode():
        means = [forward(state, part).log_softmax(-1).mean(0) for part in x.split(titles)]
        return torch.cat(means).softmax(-1)


def read_heads(run):
    """The trained heads of a run as (head: a module of their kind without values, state: stacked
    tensors).

    The file is checked against the run first, and no memory is taken for more than it holds.
    Misfits are a Problem.
    """
    path = run.file("heads.safetensors")
    # of any kind, since a configuration may ask for anything
    with contextlib.suppress(Exception):
        with torch.device("meta"):
            head = build(run.options, len(run.columns), run.encoder.hidden, len(run.classes))
        # read here, as the library takes no path that is not UTF-8
        state = load(path.read_bytes())
        shapes = {name: (run.options.heads, *value.shape) for name, value in head.state_dict().items()}
        if shapes == {name: tuple(value.shape) for name, value in state.items()}:
            return head, state
    raise cli.Problem(f"{path}: these are not the heads that config.json describes; train again")

"""The head: what is trained on top of the frozen encoder. Nothing else."""
import torch
from torch import nn

FUSIONS = ("conv", "mix", "concat")
REDUCTIONS = ("conv", "none")


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
        if self.fusion == "conv":
            x = self.fuse(x)
        elif self.fusion == "mix":
            x = torch.einsum("bld,l->bd", x, self.weights.softmax(0)).unsqueeze(1)
        elif self.fusion == "concat":
            x = x.flatten(1).unsqueeze(1)
        return self.mlp(self.reduce(x).squeeze(1))

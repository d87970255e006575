"""The options of a run: their names, defaults and order, and which decide what a head is scored on."""

from dataclasses import dataclass

# the linear probe has none of these: its runs leave them out
MLP_OPTIONS = ("standardize", "fusion", "reduction", "hidden", "epochs", "batch_size", "lr")
# rows are compared only where these are the same: they decide which titles a head is scored on
PROTOCOL = ("folds", "repeats", "split", "seed")
# how each head decides unless --decide says otherwise, see decision.py
DECISIONS = {"mlp": "likeliest", "linear": "macro-f1"}


@dataclass(frozen=True)
class Options:
    """How the heads of a run are trained and scored; its name says what differs from these
    defaults.
    """

    head: str = "mlp"  # mlp is the report's head, linear the linear probe
    standardize: bool = False  # bring every dimension to mean 0 and deviation 1 on the training titles
    fusion: str = "conv"  # of several layers: conv, mix or concat
    reduction: str = "conv"  # of the hidden dimensions: conv or none
    hidden: int = 512  # width of the hidden layer
    decide: str | None = None  # which category is named: likeliest or macro-f1; None: see DECISIONS
    labels: int | None = None  # labelled titles of each category in training; None: all of them
    folds: int = 5  # parts that are held out in turn
    repeats: int = 3  # how often all of it is done, with folds of its own
    split: str = "grouped"  # grouped keeps copies of a title in one fold, random does not
    epochs: int = 30  # passes over the training titles
    batch_size: int = 64  # titles a step
    lr: float = 1e-3  # learning rate of Adam
    seed: int = 0  # decides folds, first weights and order

    def __post_init__(self):
        if self.decide is None:
            object.__setattr__(self, "decide", DECISIONS[self.head])

    @property
    def protocol(self):
        """The values of PROTOCOL."""
        return tuple(getattr(self, name) for name in PROTOCOL)

    @property
    def heads(self):
        """How many heads a run trains: one for each fold of each repeat."""
        return self.folds * self.repeats

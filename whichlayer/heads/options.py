"""The heads that can be trained, each an entry of HEADS; and the options of a run."""

from dataclasses import dataclass

# rows are compared only where these are the same: they decide which titles a head is scored on
PROTOCOL = ("folds", "repeats", "split", "seed")
# which category is named: the likeliest, or the one with the largest p / prior^τ, see decision.py
DECISIONS = ("likeliest", "macro-f1")


@dataclass(frozen=True)
class Head:
    """A kind of head."""

    words: str  # its name in a table
    pooling: str  # what it is trained on unless --pooling says otherwise
    decide: str  # which category it names, one of DECISIONS, unless --decide says otherwise
    options: tuple  # those of Options that no other head has


# by the name that --head and folders have for it
HEADS = {
    "mlp": Head(
        words="report's head",
        pooling="cls",
        decide="likeliest",
        options=("standardize", "fusion", "reduction", "hidden", "epochs", "batch_size", "lr"),
    ),
    "linear": Head(words="probe", pooling="mean", decide="macro-f1", options=("decide",)),
}


@dataclass(frozen=True)
class Options:
    """How the heads of a run are trained and scored; its name says what differs from these
    defaults.
    """

    head: str = "mlp"  # see HEADS
    standardize: bool = False  # bring every dimension to mean 0 and deviation 1 on the training titles
    fusion: str = "conv"  # of several layers: conv, mix or concat
    reduction: str = "conv"  # of the hidden dimensions: conv or none
    hidden: int = 512  # width of the hidden layer
    decide: str | None = None  # one of DECISIONS; None: as the head usually does
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
            object.__setattr__(self, "decide", HEADS[self.head].decide)

    @property
    def protocol(self):
        """The values of PROTOCOL."""
        return tuple(getattr(self, name) for name in PROTOCOL)

    @property
    def heads(self):
        """How many heads a run trains: one for each fold of each repeat."""
        return self.folds * self.repeats

    @property
    def unusual(self):
        """What differs from the head's defaults, by name."""
        usual = Options(self.head)
        return {name: value for name, value in vars(self).items() if value != getattr(usual, name)}

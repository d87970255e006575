"""How the hidden states of a title become one vector: each pooling is an entry of POOLINGS.

Options, names of files and tables, and checks follow from the entry, and nothing else lists them.
torch is not imported: --help and tables need the names alone.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Pooling:
    """One way to pool."""

    short: str  # its name in a table, beside others
    # from hidden states (titles, tokens, hidden), a mask (titles, tokens) that is 1 for tokens and 0 for padding, or
    # None where nothing is padded, and lengths (titles, 1) in tokens: to (titles, hidden) float32
    pool: Callable
    is_first_token: bool = False  # whether it is the state of a summary token that stands first, such as [CLS]

    @property
    def words(self):
        """Its name in a table, alone."""
        return self.short if self.is_first_token else f"{self.short} pooling"


def first_token(states, _mask, _lengths):
    """The state of the first token."""
    # a view would keep the states of all tokens
    return states[:, 0].float().clone()


def mean(states, mask, lengths):
    """The mean over all tokens, [CLS] and [SEP], too."""
    if mask is None:
        return states.float().mean(1)
    return (states.float() * mask[..., None]).sum(1) / lengths


# by the name that --pooling and files have for it, in the order of tables
POOLINGS = {
    "cls": Pooling("[CLS]", first_token, is_first_token=True),
    "mean": Pooling("mean", mean),
}

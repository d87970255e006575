"""What has changed in the titles of features: which rows have a text that was there before."""

import array
import hashlib
from dataclasses import dataclass

import numpy as np

from whichlayer.common import cli
from whichlayer.encoder import store

# titles are another set, not a later state, where fewer than this share of either is in both
LEAST_KEPT = 0.1


@dataclass
class Rows:
    """What is compared of a file of titles."""

    texts: np.ndarray  # (titles,) 16-byte digests
    labels: np.ndarray  # (titles,) int32 numbers of categories


@dataclass
class Changes:
    """How a later state of some titles differs from an earlier one."""

    sources: np.ndarray  # (titles,) int64: of each row, an earlier one with the same text, or -1
    same_rows: bool  # whether all texts are the same, in the same order
    labels: int  # rows whose text was there with another label
    gone: int  # earlier rows that no row is the like of

    @property
    def kept(self):
        """How many rows have a text that was there."""
        return int((self.sources >= 0).sum())

    @property
    def copies(self):
        """How many of those are the like of an earlier row that another one is the like of, too."""
        return self.kept - len(np.unique(self.sources[self.sources >= 0]))

    @property
    def is_later_state(self):
        """Whether so much is kept that the titles are those of before, changed."""
        earlier = self.kept - self.copies + self.gone
        return self.kept >= LEAST_KEPT * min(len(self.sources), earlier)

    def __str__(self):
        rows = len(self.sources)
        parts = [f"{self.kept:,} kept"]
        if self.copies:
            parts.append(f"{self.copies:,} of them new copies")
        if self.kept < rows:
            parts.append(f"{rows - self.kept:,} new")
        if self.gone:
            parts.append(f"{self.gone:,} gone")
        if self.labels:
            parts.append(f"{cli.count(self.labels, 'label')} changed")
        if not self.same_rows and len(parts) == 1:
            parts.append("in another order")
        return f"{cli.count(rows, 'title')}: {', '.join(parts)}"


def compare(earlier, later):
    """The Changes from one file of titles, which data.copy_titles wrote, to another.

    The k-th copy of a text is compared with its k-th copy of before, or with the last one.
    """
    names = {}  # numbers of categories
    old = read(earlier, names)
    new = read(later, names)
    same_rows = np.array_equal(old.texts, new.texts)

    # earlier rows, text by text: where those of each row's text begin, and how many there are
    by_text = np.argsort(old.texts, kind="stable")
    begin = np.searchsorted(old.texts, new.texts, "left", sorter=by_text)
    copies = np.searchsorted(old.texts, new.texts, "right", sorter=by_text) - begin
    is_kept = copies > 0

    # the one among them that each row is the like of
    places = begin + np.minimum(copy_number(new.texts), copies - 1)
    sources = np.full(len(new.texts), -1)
    sources[is_kept] = by_text[places[is_kept]]
    changed = new.labels[is_kept] != old.labels[sources[is_kept]]
    gone = len(old.texts) - len(np.unique(sources[is_kept]))
    return Changes(sources, same_rows, int(changed.sum()), gone)


def read(path, names):
    """The Rows of a file of titles.

    names: numbers of categories by name, to which new ones are added. Digests of 128 bits stand for
    the texts, which would not fit into memory: that two of a billion titles share one is less
    likely than that the memory errs.
    """
    digests = bytearray()
    labels = array.array("i")
    for title, label in store.titles_in(path):
        digests += hashlib.blake2b(title.encode(), digest_size=16).digest()
        labels.append(names.setdefault(label, len(names)))
    return Rows(np.frombuffer(digests, "S16"), np.asarray(labels))


def copy_number(texts):
    """For each of (n,) values, how many equal ones stand before it: (n,) int64."""
    order = np.argsort(texts, kind="stable")
    ordered = texts[order]
    count = np.empty(len(texts), dtype=np.int64)
    count[order] = np.arange(len(texts)) - np.searchsorted(ordered, ordered)
    return count

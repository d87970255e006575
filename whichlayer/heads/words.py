"""What needs no encoder: the majority class, and TF-IDF of words and characters with logistic
regression.

terms.json            the terms, which are the rows of the weights: words and pairs, then characters
weights.safetensors   idf (terms,) float64, weight (terms, classes) float32, bias (classes,) float64

Terms are words, pairs of neighbouring words, and one to four characters within what spaces
separate; so it works in scripts that write no spaces, too. scikit-learn learns (CountVectorizer,
LogisticRegression); what it has learned is applied with numpy alone.
"""

import collections
import functools
import itertools
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import regex  # comes with transformers
from safetensors.numpy import load, save

from whichlayer.common import cli

PENALTY = 30.0  # scikit-learn's C
LONGEST = 4  # characters
# letters, digits and underscores, with the marks on them, such as the vowel signs of Hindi: Python's own
# \w has none
PATTERN = regex.compile(r"[\p{L}\p{N}_][\p{L}\p{N}\p{Mn}\p{Mc}_]*")
WORD = "\t"  # marks a term that is a word or a pair: no run of characters has a tab in it


# --- terms ----------------------------------------------------------------------------------------


def terms_in(title):
    """All terms of a title, as often as they occur."""
    text = title.lower()
    words = PATTERN.findall(text)
    found = [WORD + word for word in words]
    found += [f"{WORD}{first} {second}" for first, second in itertools.pairwise(words)]
    for part in text.split():
        found += characters_in(part)
    return found


@functools.lru_cache(1 << 14)  # most parts recur
def characters_in(part):
    """All runs of one to four characters in a part of a text, with a space at both ends."""
    padded = f" {part} "
    lengths = range(1, LONGEST + 1)
    return [padded[start : start + length] for length in lengths for start in range(len(padded) - length + 1)]


# --- learning -------------------------------------------------------------------------------------


@dataclass(eq=False)
class Counts:
    """How often each term stands in each of some titles, and their labels."""

    terms: list[str]
    words: np.ndarray  # (terms,) bool: whether they are words or pairs, see are_words
    matrix: "scipy.sparse.csr_matrix"  # noqa: F821  (titles, terms) float64
    labels: np.ndarray  # (titles,) int; each category has a title


def count(titles, labels):
    """The Counts of titles, a list of str, with their labels, (titles,) int."""
    try:
        from sklearn.feature_extraction.text import CountVectorizer
    except ImportError:
        raise cli.Problem("--baselines: TF-IDF needs scikit-learn: pip install scikit-learn") from None
    vectorizer = CountVectorizer(analyzer=terms_in, dtype=np.float64)
    matrix = vectorizer.fit_transform(titles)
    terms = vectorizer.get_feature_names_out().tolist()
    return Counts(terms, are_words(terms), matrix, labels)


def are_words(terms):
    """Whether terms are words or pairs, not characters: (terms,) bool."""
    return np.array([term[0] == WORD for term in terms])


def weigh(title, term, times, idf, words):
    """What each term counts in its title: its words together have length 1, its characters, too.

    title, term: (n,) int, where a term stands; times: how often; idf: (terms,), 0 for terms that
    are unknown; words: see Counts.
    """
    values = (1 + np.log(times)) * idf[term]
    part = 2 * title + words[term]
    length = np.sqrt(np.bincount(part, values**2))
    # nothing of a part may be known
    length[length == 0] = 1
    return values / length[part]


def weighed(counts, rows, idf):
    """The titles in some rows of Counts as a sparse matrix of what weigh gives, (rows, terms)."""
    matrix = counts.matrix[rows]
    matrix.data = weigh(*matrix.nonzero(), matrix.data, idf, counts.words)
    return matrix


def learn(counts, rows):
    """(idf, weight, bias) of TF-IDF that learns from some rows of Counts; see Words."""
    from sklearn.linear_model import LogisticRegression

    titles = counts.matrix[rows].getnnz(0)
    idf = np.where(titles, 1 + np.log((1 + len(rows)) / (1 + titles)), 0)
    x = weighed(counts, rows, idf)
    # k equal columns are as good as one, √k times as large: most terms of one title are in no other
    mark = x.T @ np.random.default_rng(0).random(len(rows))
    _, first, which, equal = np.unique(mark, return_index=True, return_inverse=True, return_counts=True)
    size = np.sqrt(equal)
    model = LogisticRegression(C=PENALTY, max_iter=1000)
    # many categories of few titles are no mistake
    with warnings.catch_warnings(action="ignore"):
        model.fit(x[:, first].multiply(size).tocsr(), counts.labels[rows])
    weight = (model.coef_ / size)[:, which].T
    bias = model.intercept_
    # of two categories, scikit-learn has the weights of the second one only
    if len(bias) == 1:
        weight = np.hstack([np.zeros_like(weight), weight])
        bias = np.append(0.0, bias)
    return idf, weight, bias


def softmax(logits):
    """Probabilities from logits, (titles, classes)."""
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


# --- baselines ------------------------------------------------------------------------------------


def majority(counts, rows, test):
    """The shares of the categories among some rows of Counts, the same for each test row.

    rows, test: numbers of titles. Returns (test, classes) float64 probabilities, as all baselines.
    """
    shares = np.bincount(counts.labels[rows], minlength=counts.labels.max() + 1)
    return np.tile(shares / len(rows), (len(test), 1))


def tfidf(counts, rows, test):
    """What TF-IDF that learns from some rows of Counts predicts of test rows; see majority."""
    probabilities = majority(counts, rows, test)
    present = np.unique(counts.labels[rows])
    if len(present) > 1:
        idf, weight, bias = learn(counts, rows)
        probabilities[:, present] = softmax(weighed(counts, test, idf) @ weight + bias)
    return probabilities


@dataclass
class Baseline:
    """A kind of baseline."""

    name: str  # in tables
    predict: Callable  # see majority
    reads: bool  # whether what titles say matters: if so, also how many there are


BASELINES = {
    "majority": Baseline("majority class", majority, reads=False),
    "tfidf": Baseline("TF-IDF", tfidf, reads=True),
}


# --- TF-IDF that is kept --------------------------------------------------------------------------


@dataclass(eq=False)
class Words:
    """TF-IDF that learned from titles with categories."""

    terms: list[str]
    idf: np.ndarray  # (terms,) float64
    weight: np.ndarray  # (terms, classes) float32
    bias: np.ndarray  # (classes,) float64

    @functools.cached_property
    def numbers(self):
        """The number of each term."""
        return {term: number for number, term in enumerate(self.terms)}

    @functools.cached_property
    def words(self):
        return are_words(self.terms)


def fit(counts):
    """The Words that learn from all titles of some Counts."""
    idf, weight, bias = learn(counts, np.arange(len(counts.labels)))
    return Words(counts.terms, idf, weight.astype(np.float32, order="C"), bias)


def probabilities(words, titles):
    """The probability of each category for titles, a list of str: (titles, classes) float64."""
    logits = np.tile(words.bias, (len(titles), 1))
    for logit, title in zip(logits, titles, strict=True):
        found = collections.Counter(map(words.numbers.get, terms_in(title)))
        # unknown terms
        found.pop(None, None)
        terms = np.fromiter(found.keys(), int)
        times = np.fromiter(found.values(), float)
        logit += weigh(0, terms, times, words.idf, words.words) @ words.weight[terms]
    return softmax(logits)


def files(words):
    """What a run keeps of Words: {name of the file: bytes}."""
    terms = json.dumps(words.terms, ensure_ascii=False)
    tensors = {"idf": words.idf, "weight": words.weight, "bias": words.bias}
    return {"terms.json": terms.encode(), "weights.safetensors": save(tensors)}


def read(run):
    """The Words that a run keeps; files that are gone or changed are a cli.Problem."""
    terms = run.file("terms.json").read_text(encoding="utf-8")
    return Words(json.loads(terms), **load(run.file("weights.safetensors").read_bytes()))

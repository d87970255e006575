"""What needs no encoder: the majority class, and TF-IDF of words and characters with logistic
regression.

terms.json            the terms, which are the rows of the weights: words and pairs, then characters
weights.safetensors   idf (terms,) float64, weight (terms, classes) float32, bias (classes,) float64

Terms are words, pairs of neighbouring words, and one to four characters within what spaces
separate; so it works in scripts that write no spaces, too. scikit-learn learns (CountVectorizer,
TfidfTransformer, LogisticRegression); what it has learned is applied with numpy alone.
"""

import collections
import functools
import itertools
import json
import re
import unicodedata
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from whichlayer.common import cli

PENALTY = 30.0  # scikit-learn's C
LONGEST = 4  # characters
FILES = ("terms.json", "weights.safetensors")
WORD = "\t"  # marks a term that is a word or a pair: no run of characters has a tab in it


# --- terms ----------------------------------------------------------------------------------------


@functools.cache
def word_pattern():
    """The pattern of a word: letters, digits and underscores, with the marks that stand on them.

    Python's \\w has no marks, such as the vowel signs of Hindi and the tones of Thai.
    """
    characters = map(chr, range(0x300, 0x20000))
    marks = "".join(each for each in characters if unicodedata.category(each) in ("Mn", "Mc"))
    return re.compile(rf"\w[\w{marks}]*")


def terms_in(title):
    """All terms of a title, as often as they occur."""
    text = title.lower()
    words = word_pattern().findall(text)
    found = [WORD + word for word in words]
    found += [f"{WORD}{first} {second}" for first, second in itertools.pairwise(words)]
    for part in text.split():
        found += characters_in(part)
    return found


@functools.lru_cache(1 << 14)  # most parts recur
def characters_in(part):
    """All runs of one to four characters in a part of a text, with a space at both ends."""
    padded = f" {part} "
    found = []
    # one character has two spaces beside it: no run is longer than that
    for length in range(1, min(LONGEST, len(padded)) + 1):
        found += [padded[start : start + length] for start in range(len(padded) - length + 1)]
    return found


# --- learning -------------------------------------------------------------------------------------


@dataclass(eq=False)
class Counts:
    """How often each term stands in each of some titles, and their labels."""

    terms: list[str]  # words and pairs, then characters
    words: int  # how many of them are words and pairs
    matrix: "scipy.sparse.csr_matrix"  # noqa: F821  (titles, terms) float64
    labels: np.ndarray  # (titles,) int; each category has a title


def count(titles, labels):
    """The Counts of titles, a list of str, with their labels, (titles,) int."""
    try:
        from sklearn.feature_extraction.text import CountVectorizer
    except ImportError:
        remedy = "pip install scikit-learn"
        raise cli.Problem(f"--baselines: TF-IDF needs scikit-learn: {remedy}") from None
    vectorizer = CountVectorizer(analyzer=terms_in, dtype=np.float64)
    matrix = vectorizer.fit_transform(titles)
    columns = vectorizer.vocabulary_
    terms = sorted(columns, key=lambda term: (not is_word(term), term))
    ordered = matrix[:, [columns[term] for term in terms]]
    return Counts(terms, sum(map(is_word, terms)), ordered, labels)


def is_word(term):
    """Whether a term is a word or a pair, not characters."""
    return term[0] == WORD


def learn(matrix, words, labels):
    """scikit-learn's Pipeline that has learned labels from a matrix of counts, (titles, terms), of
    which so many columns are words.
    """
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    pipeline = make_pipeline(
        TfidfTransformer(norm=None, sublinear_tf=True),
        FunctionTransformer(normalize_parts, kw_args={"words": words}),
        LogisticRegression(C=PENALTY, max_iter=1000),
    )
    # many categories of few titles are no mistake
    with warnings.catch_warnings(action="ignore"):
        return pipeline.fit(matrix, labels)


def normalize_parts(matrix, words):
    """Give each title's words length 1, and its characters, too."""
    from scipy.sparse import hstack
    from sklearn.preprocessing import normalize

    parts = [matrix[:, :words], matrix[:, words:]]
    return hstack([normalize(part) for part in parts if part.shape[1]], format="csr")


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
        # terms that none of these rows has are unknown
        own = counts.matrix[rows]
        known = np.flatnonzero(own.getnnz(0))
        words = np.searchsorted(known, counts.words)
        pipeline = learn(own[:, known], words, counts.labels[rows])
        probabilities[:, present] = pipeline.predict_proba(counts.matrix[test][:, known])
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

    terms: list[str]  # see Counts
    idf: np.ndarray  # (terms,) float64
    weights: np.ndarray  # (terms, classes) float32
    bias: np.ndarray  # (classes,) float64

    @functools.cached_property
    def numbers(self):
        """The number of each term."""
        return {term: number for number, term in enumerate(self.terms)}

    @functools.cached_property
    def words(self):
        """How many terms are words and pairs."""
        return sum(map(is_word, self.terms))


def fit(counts):
    """The Words that learn from all titles of some Counts."""
    weigher, _, model = learn(counts.matrix, counts.words, counts.labels)
    weights = model.coef_
    bias = model.intercept_
    # of two categories, scikit-learn has the weights of the second one only
    if len(bias) == 1:
        weights = np.concatenate([np.zeros_like(weights), weights])
        bias = np.append(0.0, bias)
    return Words(counts.terms, weigher.idf_, weights.T.astype(np.float32, order="C"), bias)


def probabilities(words, titles):
    """The probability of each category for titles, a list of str: (titles, classes) float64."""
    logits = np.tile(words.bias, (len(titles), 1))
    for logit, title in zip(logits, titles, strict=True):
        found = collections.Counter(map(words.numbers.get, terms_in(title)))
        # unknown terms
        found.pop(None, None)
        terms = np.fromiter(found.keys(), int)
        values = (1 + np.log(np.fromiter(found.values(), float))) * words.idf[terms]
        are_words = terms < words.words
        for part in (are_words, ~are_words):
            values[part] /= np.linalg.norm(values[part]) or 1.0
        logit += values @ words.weights[terms]
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def files(words):
    """What a run keeps of Words: {name of the file: bytes}."""
    tensors = {"idf": words.idf, "weight": words.weights, "bias": words.bias}
    contents = (json.dumps(words.terms, ensure_ascii=False).encode(), save(tensors))
    return dict(zip(FILES, contents, strict=True))


def read(run):
    """The Words that a run keeps; files that are gone, changed or do not fit are a cli.Problem."""
    terms, weights = map(run.file, FILES)
    try:
        tensors = load(weights.read_bytes())
        listed = json.loads(terms.read_text(encoding="utf-8"))
        found = Words(listed, tensors["idf"], tensors["weight"], tensors["bias"])
        shapes = found.idf.shape + found.bias.shape, found.weights.shape
        fits = shapes == ((len(listed), len(run.classes)),) * 2
    except (SafetensorError, ValueError, KeyError):
        fits = False
    if not fits:
        wrong = "these are not the weights that config.json describes"
        raise cli.Problem(f"{weights}: {wrong}; {run.remedy}")
    return found

"""TF-IDF of words and characters with logistic regression: fit, keep, apply.

terms.json            the words and word pairs, then the characters: the rows of the weights
idf.npy               (terms,) float64
weights.safetensors   weight (terms, classes) float32, bias (classes,) float64

Terms are words, pairs of neighbouring words, and one to four characters within what spaces
separate; so it works in scripts that write no spaces, too. What is learned is what scikit-learn's
TfidfVectorizer and LogisticRegression learn; it is applied with numpy alone.
"""

import functools
import io
import itertools
import json
import re
import unicodedata
import warnings
from dataclasses import dataclass

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from whichlayer.common import cli, disk

NAME = "TF-IDF of words and characters"
# what decides what is learned: a run that was made with something else is made again
PENALTY = 30.0  # scikit-learn's C
LONGEST = 4  # characters
SETTINGS = {"terms": "words, pairs, characters within words", "longest": LONGEST, "C": PENALTY}
IDENTITY = disk.digest(SETTINGS)
# parts of titles of which the characters are kept at hand, and their length
MOST_KEPT = 1 << 16
LONGEST_KEPT = 24
FILES = ("terms.json", "idf.npy", "weights.safetensors")


@dataclass(eq=False)
class Words:
    """What was learned from titles with categories."""

    words: list[str]  # the words, and pairs of them with a space between
    characters: list[str]  # one to four; a space where a word begins or ends
    idf: np.ndarray  # (terms,) float64, of the words first; 0 for a term that no title had
    weights: np.ndarray  # (terms, classes) float32
    bias: np.ndarray  # (classes,) float64; -infinity for a category that no title had

    @functools.cached_property
    def vocabulary(self):
        """The Vocabulary of its terms."""
        return Vocabulary(self.words, self.characters)


@dataclass(eq=False)
class Counts:
    """How often each term stands in each of some titles."""

    words: list[str]
    characters: list[str]
    starts: np.ndarray  # (titles + 1,) int64: where each title's terms begin; then where all end
    terms: np.ndarray  # int32 numbers of the terms, ascending within a title
    counts: np.ndarray  # int64, of the same length


# --- terms ----------------------------------------------------------------------------------------


@functools.cache
def word_pattern():
    """The pattern of a word: letters, digits and underscores, with the marks that stand on them.

    Python's \\w has no marks, such as the vowel signs of Hindi and the tones of Thai.
    """
    characters = map(chr, range(0x300, 0x20000))
    marks = "".join(each for each in characters if unicodedata.category(each) in ("Mn", "Mc"))
    return re.compile(rf"\w[\w{marks}]*")


def words_in(text):
    """The words of a text in lower case, then the pairs of neighbours."""
    words = word_pattern().findall(text)
    pairs = [f"{first} {second}" for first, second in itertools.pairwise(words)]
    return words + pairs


def characters_in(part):
    """All runs of one to four characters in a part of a text between spaces, with a space at both
    ends.
    """
    padded = f" {part} "
    found = []
    # one character has two spaces beside it: no run is longer than that
    for length in range(1, min(LONGEST, len(padded)) + 1):
        found += [padded[start : start + length] for start in range(len(padded) - length + 1)]
    return found


class Vocabulary:
    """The numbers of terms: words first, then characters. Several threads may share it."""

    def __init__(self, words, characters):
        self.words = {word: number for number, word in enumerate(words)}
        self.characters = {run: number for number, run in enumerate(characters, len(words))}
        self.parts = {}  # numbers of the characters of a part that has been seen, since most recur

    def count(self, title):
        """(numbers of the terms in a title, ascending; how often each occurs), int32 and int64;
        unknown ones are left out.
        """
        text = title.lower()
        found = [self.words[word] for word in words_in(text) if word in self.words]
        for part in text.split():
            found += self.parts.get(part) or self.of_part(part)
        return np.unique(np.array(found, dtype=np.int32), return_counts=True)

    def of_part(self, part):
        """The numbers of the known characters in a part of a text that has no space in it."""
        known = self.characters
        found = [known[run] for run in characters_in(part) if run in known]
        # memory stays bounded
        if len(part) <= LONGEST_KEPT and len(self.parts) < MOST_KEPT:
            self.parts[part] = found
        return found


def count(titles):
    """The Counts of titles, with all terms that they have."""
    words = set()
    parts = set()
    for title in titles:
        text = title.lower()
        words.update(words_in(text))
        parts.update(text.split())
    words = sorted(words)
    characters = sorted({run for part in parts for run in characters_in(part)})
    vocabulary = Vocabulary(words, characters)
    counted = [vocabulary.count(title) for title in titles]
    return Counts(
        words,
        characters,
        starts=np.cumsum([0, *(len(terms) for terms, _ in counted)]),
        terms=np.concatenate([terms for terms, _ in counted]),
        counts=np.concatenate([counts for _, counts in counted]),
    )


def weigh(terms, counts, idf, first):
    """The values of a title's terms: (1 + log count) · idf, with length 1 for words and for
    characters.

    first: number of the first term that is characters.
    """
    values = (1 + np.log(counts)) * idf[terms]
    place = np.searchsorted(terms, first)
    for part in (values[:place], values[place:]):
        length = np.sqrt(part @ part)
        if length:
            part /= length
    return values


# --- fitting --------------------------------------------------------------------------------------


def fit(titles, labels, classes):
    """The Words that learned from titles, a list of str, with their labels, (titles,) int below
    `classes`.
    """
    return fit_rows(count(titles), np.arange(len(titles)), labels, classes)


def fit_rows(counts, rows, labels, classes):
    """The Words that learned from some rows of Counts, without what only other rows have.

    rows: (rows,) int; labels: (rows,) int, of these rows.
    """
    # how many of the rows have each term
    parts = [slice(counts.starts[row], counts.starts[row + 1]) for row in rows]
    terms = np.concatenate([counts.terms[part] for part in parts])
    first = len(counts.words)
    total = first + len(counts.characters)
    having = np.bincount(terms, minlength=total)
    idf = np.where(having, np.log((1 + len(rows)) / (1 + having)) + 1, 0)

    # without anything to learn from, or to tell apart, it is the categories' shares
    weights = np.zeros((total, classes), dtype=np.float32)
    bias = np.full(classes, -np.inf)
    present, number = np.unique(labels, return_counts=True)
    if len(terms) == 0 or len(present) < 2:
        bias[present] = np.log(number / len(labels))
    else:
        values = [weigh(counts.terms[part], counts.counts[part], idf, first) for part in parts]
        known = np.flatnonzero(having)
        places = np.searchsorted(known, terms)
        weights[np.ix_(known, present)], bias[present] = solve(values, places, labels)
    return Words(counts.words, counts.characters, idf, weights, bias)


def solve(values, places, labels):
    """(weights, bias) of logistic regression: (columns, categories) and (categories,), of the
    categories that are there.

    values: an array for each title; places: (all values,) int, their columns; labels: (titles,).
    """
    try:
        from scipy.sparse import csr_matrix
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        remedy = "pip install scikit-learn"
        raise cli.Problem(f"--baselines: TF-IDF needs scikit-learn: {remedy}") from None
    starts = np.cumsum([0, *map(len, values)])
    matrix = csr_matrix((np.concatenate(values), places, starts))
    # many categories of few titles are no mistake
    with warnings.catch_warnings(action="ignore"):
        model = LogisticRegression(C=PENALTY, max_iter=1000).fit(matrix, labels)
    weights = model.coef_
    bias = model.intercept_
    # of two categories, scikit-learn has the weights of the second one only
    if len(bias) == 1:
        weights = np.concatenate([np.zeros_like(weights), weights])
        bias = np.concatenate([[0.0], bias])
    return weights.T, bias


# --- applying -------------------------------------------------------------------------------------


def probabilities(words, titles):
    """The probability of each category for titles, a list of str: (titles, classes) float64."""
    return apply(words, [words.vocabulary.count(title) for title in titles])


def row_probabilities(words, counts, rows):
    """The same for rows of the Counts that Words learned from."""
    parts = [slice(counts.starts[row], counts.starts[row + 1]) for row in rows]
    return apply(words, [(counts.terms[part], counts.counts[part]) for part in parts])


def apply(words, counted):
    """Probabilities of titles of which the terms are counted, as Vocabulary.count does it."""
    logits = np.tile(words.bias, (len(counted), 1))
    for logit, (terms, counts) in zip(logits, counted, strict=True):
        values = weigh(terms, counts, words.idf, len(words.words))
        logit += values @ words.weights[terms]
    powers = np.exp(logits - logits.max(1, keepdims=True, initial=-np.inf))
    return powers / powers.sum(1, keepdims=True)


# --- keeping --------------------------------------------------------------------------------------


def files(words):
    """What a run keeps of Words: {name of the file: bytes}."""
    terms = {"words": words.words, "characters": words.characters}
    idf = io.BytesIO()
    np.save(idf, words.idf, allow_pickle=False)
    contents = (
        json.dumps(terms, ensure_ascii=False).encode(),
        idf.getvalue(),
        save({"weight": words.weights, "bias": words.bias}),
    )
    return dict(zip(FILES, contents, strict=True))


def read(run):
    """The Words that a run keeps; files that are gone, changed or do not fit are a cli.Problem."""
    terms, idf, weights = map(run.file, FILES)
    try:
        lists = json.loads(terms.read_text(encoding="utf-8"))
        tensors = load(weights.read_bytes())
        found = Words(
            words=lists["words"],
            characters=lists["characters"],
            idf=np.load(idf, allow_pickle=False),
            weights=tensors["weight"],
            bias=tensors["bias"],
        )
        total = len(found.words) + len(found.characters)
        shapes = (found.idf.shape, found.weights.shape, found.bias.shape)
        fits = shapes == ((total,), (total, len(run.classes)), (len(run.classes),))
    except (SafetensorError, ValueError, TypeError, KeyError, EOFError):
        fits = False
    if not fits:
        wrong = "these are not the weights that config.json describes"
        raise cli.Problem(f"{weights}: {wrong}; {run.remedy}")
    return found

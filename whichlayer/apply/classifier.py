"""Runs that are ready to predict, alone or combined: titles to calibrated probabilities.

Encoders are loaded once each, for all runs that share one (frozen.py); words (words.py) need none,
and no torch. The probabilities of the runs become one, and calibrated, by a log-linear pool, whose
exponents fit what they said out of fold (chosen.py).
"""

from dataclasses import dataclass

import numpy as np

import data
from whichlayer.common import cli, windows
from whichlayer.heads import runs, words
from whichlayer.reading import tables
from whichlayer.scores import calibration, decision, metrics


@dataclass
class ByWords:
    """What gives probabilities for titles by their words, like frozen.Frozen with an encoder."""

    fitted: words.Words

    def prepare(self, titles):
        """What `judge` takes; called in another thread."""
        return titles

    def judge(self, titles):
        """([(titles, classes) of each run], number of titles that are cut)."""
        return [words.probabilities(self.fitted, titles)], 0


@dataclass
class Classifier:
    """Runs that are ready to predict: one, or several that are combined.

    Several threads may share it.
    """

    runs: list[runs.Run]  # in the order of their probabilities: those of the first part come first
    parts: list  # of ByWords and frozen.Frozen
    exponents: list[float]  # (runs,), of their probabilities in the pool
    offsets: list[float]  # (classes,) of the decision by the probabilities that come out

    @property
    def classes(self):
        """The names of the categories, in the order of their probabilities."""
        return self.runs[0].classes

    def __reduce__(self):
        raise TypeError("a classifier cannot be pickled: call predict.load in each process, or fork")


# --- loading --------------------------------------------------------------------------------------


@cli.loading()
def load(chosen, name=None, device="auto", dtype=None):
    """The Classifier of chosen.Chosen runs. What does not fit is a cli.Problem.

    name: where the encoder is found, as --model, or a list with one for each encoder; dtype: auto,
    float32, bfloat16 or float16, what encoders compute in. Names and dtype are the runs' own where
    they are not given.
    """
    shared = by_encoder(chosen.runs)
    names = as_list(name) or [None] * len(shared)
    if len(names) != len(shared):
        raise cli.Problem(f"--model names {len(names)}, but the runs need {cli.count(len(shared), 'encoder')}")

    own = [run for run in chosen.runs if run.baseline]
    parts = [ByWords(words.read(run)) for run in own]
    for members, place in zip(shared, names, strict=True):
        # torch takes a second or two, which words do not need
        from whichlayer.apply import frozen

        parts.append(frozen.load(members, place, device, dtype))
        own += members
    exponents = [chosen.exponents[chosen.runs.index(run)] for run in own]
    return Classifier(own, parts, exponents, chosen.offsets)


def as_list(value):
    """A list of what was given: one thing, several, or, for None, nothing."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def by_encoder(own):
    """Lists of the runs that share an encoder and its features, in the order of the runs; words are
    in none.
    """
    shared = {}
    for run in own:
        if run.encoder:
            # runs that are combined are of the same titles
            shared.setdefault(run.features, []).append(run)
    return list(shared.values())


# --- from titles to probabilities -----------------------------------------------------------------


@dataclass
class Window:
    """Some titles with their predictions."""

    titles: list[str]
    probabilities: np.ndarray  # (titles, classes) float64, not-a-number where a title has no text
    named: np.ndarray  # (titles,) int: the number of the category that is named
    cut: int  # titles that are longer than the encoder reads

    @property
    def sure(self):
        """(titles,) float64: the probability of the category that is named, not-a-number without text."""
        return metrics.of_each(self.probabilities, self.named)


def predict(classifier, batches):
    """Yield (key, Window) for each (key, titles) in batches.

    A batch waits until the next one is there and can be made ready beside it; one without titles
    lets the last one through.
    """

    def prepare(titles):
        return [part.prepare(titles) for part in classifier.parts]

    texts = (((key, titles), texts_of(titles)) for key, titles in batches)
    for (key, titles), prepared in windows.ahead(prepare, texts):
        probabilities = np.full((len(titles), len(classifier.classes)), np.nan)
        named = np.zeros(len(titles), np.int64)
        cut = 0
        with_text = [i for i, title in enumerate(titles) if not data.is_blank(title)]
        if with_text:
            judged = [part.judge(ready) for part, ready in zip(classifier.parts, prepared, strict=True)]
            said = [values for own, _ in judged for values in own]
            probabilities[with_text] = calibration.pool(said, classifier.exponents)
            cut = max(too_long for _, too_long in judged)
            named[with_text] = decision.decide(probabilities[with_text], classifier.offsets)
        yield key, Window(titles, probabilities, named, cut)


def texts_of(titles):
    """The titles that have text, or a dash where none has. What is no title is a cli.Problem."""
    texts = []
    for title in titles:
        wrong = tables.fault(title)
        if wrong:
            raise cli.Problem(f"title {title!r:.80}: holds {wrong}")
        if not data.is_blank(title):
            texts.append(title)
    return texts or ["-"]

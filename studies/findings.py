"""What the study found on each set of titles, and which rows a rule chooses; study.py measures it, summary.py
prints it.
"""

from dataclasses import dataclass

import numpy as np

from whichlayer.common import cli
from whichlayer.scores import comparison

FORMAT = 1
MIDDLE = "recommended by `evaluate.py`"


# --- what is found --------------------------------------------------------------------------------


@dataclass
class Score:
    """A row: what its table promises, and what the test titles show."""

    encoder: str | None  # its short name; None: words alone
    columns: list[tuple[str, int]]  # (pooling, layer); empty for words alone
    words: bool  # whether it is words, or combined with words
    labels: int | None  # labelled titles a category; None: all
    decide: str  # see options.DECISIONS
    promised: float  # macro-F1 out of fold
    low: float  # its 95% interval
    high: float
    promised_error: float  # expected calibration error out of fold
    flop: float | None  # of the encoder for a title of mean length
    found: float | None = None  # macro-F1 on test titles; None: it is not kept
    deviation: float | None = None  # its standard error by the choice of test titles
    accuracy: float | None = None
    log_loss: float | None = None  # in nats
    found_error: float | None = None  # expected calibration error


@dataclass
class Promise:
    """A threshold: the share of right answers that is wanted, promised and found."""

    wanted: float
    promised: float  # share of right answers among those that held-out titles got
    answered: float  # share of the test titles that get an answer
    found: float | None  # share of these that are right; None: there is none


@dataclass
class Choice:
    """What evaluate.py recommends of some rows."""

    encoders: list[str]
    words: bool  # whether words, and combinations with them, compete
    recommended: int  # its number among the Scores; -1: none
    best: int  # that of the best row
    bound: float  # what the recommended one loses against it, with 95% confidence at most
    promises: list[Promise]


@dataclass
class Estimate:
    """How an estimator, which trains no head, ranks the layers of an encoder, mean pooling."""

    estimator: str
    encoder: str
    values: list[float]  # of layers 1 … N, the higher the better


@dataclass
class Set:
    """A set of titles with all that was found on it."""

    format: int
    name: str
    titles: int  # to learn from
    test: int  # to test on
    classes: int
    largest: float  # share of the most frequent category
    layers: dict[str, int]  # of each encoder, the cheapest first
    scores: list[Score]
    choices: list[Choice]
    estimates: list[Estimate]


# --- rows by rule ---------------------------------------------------------------------------------


@dataclass
class Rule:
    """A way to choose the layers of an encoder without looking at any title."""

    name: str
    poolings: tuple[str, ...]
    layers: int | None  # how many from the top; None: all


RULES = (
    Rule("last layer, [CLS]", ("cls",), 1),
    Rule("last layer, mean", ("mean",), 1),
    Rule("last four layers, mean", ("mean",), 4),
    Rule("all layers, mean", ("mean",), None),
    Rule("all layers, both poolings", ("cls", "mean"), None),
)
# what README and --help recommend: an earlier run on these sets chose it, with other folds
USUAL = RULES[2]
# after these, what a table recommends
WORDS_ALONE = "words alone"
WITH_WORDS = "words combined with the recommended"
COMPETING = f"{MIDDLE}, words competing"
FOUND = (MIDDLE, WORDS_ALONE, WITH_WORDS, COMPETING)


def columns_of(rule, depth):
    """The columns, a set of (pooling, layer), that a Rule takes of an encoder with so many layers."""
    deepest = depth - (rule.layers or depth)
    return {(pooling, layer) for pooling in rule.poolings for layer in range(deepest + 1, depth + 1)}


def trained(own, encoder, words=False):
    """The Scores of an encoder's rows with all titles, decided for macro-F1: alone, or combined
    with words, which recommended rows of any decision are.
    """
    found = []
    for score in own.scores:
        wanted = words or score.decide == "macro-f1"
        if wanted and score.encoder == encoder and score.words == words and not score.labels:
            found.append(score)
    return found


def row_with(scores, columns):
    """The first of some Scores with these columns; None where there is none."""
    for score in scores:
        if set(score.columns) == set(columns):
            return score
    return None


def choice_of(own, encoders, words):
    """The Choice among the rows of some encoders."""
    for choice in own.choices:
        if choice.encoders == encoders and choice.words == words:
            return choice
    raise cli.Problem(f"{own.name}: no choice among {' and '.join(encoders)}; score it again")


def by_rule(own, encoder):
    """The Score of each of RULES and FOUND for an encoder, {name: Score or None}."""
    alone = trained(own, encoder)
    found = {rule.name: row_with(alone, columns_of(rule, own.layers[encoder])) for rule in RULES}
    recommended = own.scores[choice_of(own, [encoder], False).recommended]
    competing = own.scores[choice_of(own, [encoder], True).recommended]
    words = trained(own, None, words=True)[0]
    # where words add nothing, or nothing is added to them, no row has both
    both = row_with(trained(own, encoder, words=True), recommended.columns) or recommended
    return found | dict(zip(FOUND, (recommended, words, both, competing), strict=True))


def best_found(own, encoder):
    """The highest macro-F1 that a row of an encoder, without words, has on the test titles."""
    return max(score.found for score in trained(own, encoder))


def single_layers(own, encoder, pooling):
    """Macro-F1 on test titles of each layer alone, (layers,) float64."""
    alone = trained(own, encoder)
    depth = own.layers[encoder]
    return np.array([row_with(alone, [(pooling, layer)]).found for layer in range(1, depth + 1)])


def losses(sets, encoder):
    """What each rule loses on test titles to the encoder's best row in hindsight, {name: (sets,)
    float64}.
    """
    names = [rule.name for rule in RULES]
    names += FOUND
    found = {name: [] for name in names}
    for own in sets:
        best = best_found(own, encoder)
        for name, score in by_rule(own, encoder).items():
            found[name].append(best - score.found)
    return {name: np.array(values) for name, values in found.items()}


def interval_over(values):
    """The 95% interval of a mean over sets, as a sample of all sets, by Student's t."""
    half = comparison.t_quantile(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return values.mean() - half, values.mean() + half

"""What evaluate.py says of a table: the recommendation, the tables, and the notes under them, as
markdown.
"""

import numpy as np

from whichlayer.common import cli
from whichlayer.heads import runs
from whichlayer.report import answer as answers
from whichlayer.report import recommendation
from whichlayer.report import table as tables
from whichlayer.report.layout import (
    SHOWN,
    category_table,
    curve_sizes,
    has_report,
    learning_table,
    main_table,
    size_name,
    threshold_table,
    wrap,
)
from whichlayer.scores import thresholds

REPORT_MODELS = ("bert-base-uncased", "google-bert/bert-base-uncased")

# --- the sentences, as they are printed -----------------------------------------------------------

HEADING = "## {name}"
PROTOCOL = "{titles} in {classes} categories, {folds} {split} folds, {repeats}, seed {seed}. {encoders}."
ENCODER = "{name} has {layers} layers of {hidden} dimensions, computed in {dtypes}"
NOTHING_TO_COMPARE = "Nothing here was trained on all titles: `--labels all` adds that, for the comparison."
THRESHOLDS = (
    "From which probability on may its answers be accepted (`predict.py --at-least`)? What is held out was answered by "
    "thresholds that the other folds chose."
)
NO_THRESHOLD = "No probability is known from which on its answers are right in {least:.0%} of the titles."
CATEGORIES = "The recommended row by category, the lowest F1 first:"
MORE_CATEGORIES = "and {count:,} more categories with higher F1"

NEVER_CAUGHT = "TF-IDF stays significantly behind {name} with every number of labels here."
CAUGHT_WITH_ALL = "Only with all titles is TF-IDF not significantly behind {name}."
CAUGHT = "From {size} labels a category on, TF-IDF is not significantly behind {name}."
LAST_STEP = (
    "The last step, from {before} to {after} labels, brought {gain:+.4f} "
    "(95% interval {low:+.4f} to {high:+.4f}): {verdict}."
)

SCORED = "F1-macro is over all out-of-fold predictions, the mean of {repeats}; its 95% interval covers {covers}."
DIFFERENCES = (
    "Difference is to the best row. In brackets: not significantly different (95%, all rows at once), "
    "which does not make rows equal."
)
LOG_LOSS = "Log loss is after the temperature."
NO_LOG_LOSS = "Log loss is left out where there are several encoders."
WORK = (
    "GFLOP is what the encoder computes for a title of {tokens} tokens, their mean length here. "
    "Depth is the share of its layers that have to run."
)
DEPTH = "Depth is the share of the encoder that has to run."
DECISION = (
    "Linear probes, and TF-IDF beside them, name the category with the largest p / prior^τ, τ chosen for macro-F1 "
    "on training titles, which may not be the likeliest."
)
DECISION_GAIN = (
    "For {name}, that brought {gain:+.4f} of macro-F1 (95% interval {low:+.4f} to {high:+.4f}) "
    "against naming the likeliest."
)
DECISION_SAME = "For {name}, that changed nothing."
GRID_ENDS = "At an end of the grid of penalties (C 1e-05 or 100): {names}."
ONE_DRAW = "With one repeat, the choice of the labelled titles is not in these intervals: `--repeats 3` adds it."
SCARCE = "Too few titles for intervals that hold: {names}."
COLLAPSED = "Collapsed: {name} {what}; try {remedy}."
FROM_REPORT = "The report's figures are those of its last epoch with bert-base-uncased, on a split of its own."
OTHER_ENCODER = "They stand beside layers of this encoder that are as far from the top."


# --- the page -------------------------------------------------------------------------------------


def page(table, answer):
    """One table with its heading, the recommendation first, then the tables, then the notes, as
    markdown.

    answer: the Answer of table.compare, or None for a table without rows trained on all titles.
    """
    parts = [HEADING.format(name=cli.escape_markdown(tables.title(table))), wrap(protocol(table))]
    # what to take
    if answer:
        parts.append(wrap(recommendation.paragraph(table, answer)))
        parts.append(wrap(recommendation.words(answer)))
        parts.append(main_table(table, answer))
    # how many labels it takes
    if table.learning_curve:
        parts.append(learning_table(table))
        said = learning_sentences(table)
        if said:
            parts.append(wrap(said))
    if not answer:
        return "\n\n".join([*parts, NOTHING_TO_COMPARE])
    # how good it is, and what the columns mean
    if answer.recommended:
        parts += categories(table, answer.recommended)
        parts += accepting(table, answer.recommended)
    parts.append(wrap(" ".join(notes(table, answer))))
    return "\n\n".join(parts)


def protocol(table):
    """What was compared, and how: a sentence."""
    options = table.options
    return PROTOCOL.format(
        titles=cli.count(table.data.rows, "title"),
        classes=len(table.classes),
        folds=options.folds,
        split=options.split,
        repeats=cli.count(options.repeats, "repeat"),
        seed=options.seed,
        encoders="; ".join(encoder_words(table, key, name) for key, name in table.encoders.items()),
    )


def encoder_words(table, key, name):
    """How large an encoder is, and what it was computed in."""
    own = [row.run for row in table.trained if tables.encoder_key(row.run) == key]
    dtypes = sorted({run.config.settings.dtype for run in own})
    encoder = own[0].encoder
    return ENCODER.format(
        name=cli.escape_markdown(name),
        layers=encoder.layers,
        hidden=encoder.hidden,
        dtypes=cli.listing(dtypes),
    )


# --- what else the tables say ---------------------------------------------------------------------


def categories(table, row):
    """The table of categories with what stands around it: a list of paragraphs."""
    titles = np.bincount(table.labels, minlength=len(table.classes))
    parts = [CATEGORIES, category_table(table.classes, row.influence.scores, titles)]
    if len(table.classes) > SHOWN:
        parts.append(MORE_CATEGORIES.format(count=len(table.classes) - SHOWN))
    return parts


def accepting(table, row):
    """From which probability on a row's answers may be accepted: a list of paragraphs."""
    found = thresholds.of_run(row.run, table.labels, table.folds)
    if all(each.probability is None for each in found):
        return [NO_THRESHOLD.format(least=thresholds.WANTED[0])]
    return [wrap(THRESHOLDS), threshold_table(found)]


def learning_sentences(table):
    """From how many labels on TF-IDF is not behind the best curve, and whether that one still
    rises.
    """
    curves = tables.curves(table)
    tfidf = curves.pop(runs.BASELINES["tfidf"], {})
    name, best = max(curves.items(), key=lambda item: max(row.value for row in item[1].values()))
    steps = [size for size in curve_sizes(curves) if size in best]
    sentences = []

    shared = [size for size in steps if size in tfidf]
    if shared and shared == steps:  # else `--baselines` has not been asked for since
        # the sizes after the last one at which TF-IDF is significantly behind
        caught = list(shared)
        for place, size in enumerate(shared):
            low = answers.gain(tfidf[size], best[size])[1]
            if low > 0:
                caught = shared[place + 1 :]
        if caught:
            template = CAUGHT if caught[0] else CAUGHT_WITH_ALL
            sentences.append(template.format(size=size_name(caught[0]), name=name))
        else:
            sentences.append(NEVER_CAUGHT.format(name=name))

    if len(steps) > 1:
        before, after = steps[-2:]
        gain, low, high = answers.gain(best[before], best[after])
        sentences.append(
            LAST_STEP.format(
                before=size_name(before),
                after=size_name(after),
                gain=gain,
                low=low,
                high=high,
                verdict=recommendation.verdict(
                    low, high, "it still rises", "it falls", "that it still rises is not shown"
                ),
            )
        )
        if table.options.repeats == 1:
            sentences.append(ONE_DRAW)
    return " ".join(sentences)


# --- the notes ------------------------------------------------------------------------------------


def notes(table, answer):
    """What the columns mean and do not cover, and what is wrong with some rows: a list of
    sentences.
    """
    repeats = table.options.repeats
    covers = "the choice of titles and of repeats"
    if repeats == 1:
        covers = "the choice of titles, not of folds and weights"
    sentences = [SCORED.format(repeats=cli.count(repeats, "repeat"), covers=covers), DIFFERENCES]
    sentences.append(LOG_LOSS if len(table.encoders) == 1 else NO_LOG_LOSS)
    if table.has_flop and not has_report(table):
        tokens = sorted({f"{row.run.config.tokens:.1f}" for row in table.rows})
        sentences.append(WORK.format(tokens=" or ".join(tokens)))
    else:
        sentences.append(DEPTH)
    for row in table.rows:
        collapsed = runs.collapse(row.run)
        if collapsed:
            what, remedy = collapsed
            sentences.append(COLLAPSED.format(name=row.name, what=what, remedy=remedy))
    decided = [row for row in table.rows if row.run.options.decide == "macro-f1"]
    if decided:
        sentences.append(DECISION)
        row = max(decided, key=lambda each: each.value)
        gain, low, high = answers.decision_gain(table, row)
        template = DECISION_GAIN if low < high else DECISION_SAME
        sentences.append(template.format(name=row.name, gain=gain, low=low, high=high))
    ends = [row for row in table.rows if row.run.figures.grid_ends]
    if ends:
        sentences.append(GRID_ENDS.format(names=listed([grid_end(row) for row in ends], 2)))
    influence = answer.best_of_encoder.influence
    scarce = [cli.escape_markdown(table.classes[number]) for number in influence.scarce]
    if scarce:
        sentences.append(SCARCE.format(names=listed(scarce)))
    if has_report(table):
        sentences.append(FROM_REPORT)
        if not set(table.encoders.values()) <= set(REPORT_MODELS):
            sentences.append(OTHER_ENCODER)
    return sentences


def grid_end(row):
    """How many heads of a row chose a penalty at an end of the grid, in words."""
    return f"{row.run.figures.grid_ends} of {row.run.options.heads} heads of {row.name}"


def listed(names, most=5):
    """The first names, with commas between them, and how many more there are."""
    text = ", ".join(names[:most])
    return f"{text} and {len(names) - most} more" if len(names) > most else text

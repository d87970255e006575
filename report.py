"""What evaluate.py says of a table: the recommendation, the tables, and the notes under them, as
markdown.
"""

import numpy as np

import cli
import runs
import table as tables
from layout import SHOWN, category_table, curve_sizes, has_report, learning_table, main_table, size_name, wrap

REPORT_MODELS = ("bert-base-uncased", "google-bert/bert-base-uncased")
# the probability from which on a prediction is called sure
SURE = 0.9

# --- the sentences, as they are printed ---------------------------------------------------------------------------

HEADING = "## {name}"
PROTOCOL = "{titles} in {classes} categories, {folds} {split} folds, {repeats}, seed {seed}. {encoders}."
ENCODER = "{name} has {layers} layers of {hidden} dimensions, computed in {dtypes}"
RECOMMENDED_ONLY = "**Recommended: {name}**, macro-F1 {value:.4f}: the only row."
RECOMMENDED_CHEAPEST = "**Recommended: {name}**, macro-F1 {value:.4f}: the best row, and no row is cheaper."
RECOMMENDED_BEST = (
    "**Recommended: {name}**, macro-F1 {value:.4f}: the best row. "
    "No cheaper one is shown to be non-inferior within {margin:g}."
)
RECOMMENDED_CHEAPER = (
    "**Recommended: {name}**, macro-F1 {value:.4f}: the cheapest row that is non-inferior within {margin:g} "
    "to the best one, {best}. It loses {loss:.4f}, with 95% confidence at most {bound:.4f}, and takes {saving}."
)
RECOMMENDED_NONE = "**Recommended: none.** No row is shown to know more of the categories than chance does."
NOTHING_TO_COMPARE = "Nothing here was trained on all titles: `--labels all` adds that, for the comparison."
TITLES_NEEDED = "About {titles:,} titles would show whether {name} is non-inferior."
LESS_WORK = "{less:.3g} GFLOP a title instead of {more:.3g}"
SHARE_OF_WORK = "about {share:.0%} of its encoder's work"
SHALLOWER = "{less:.0%} of the encoder instead of {more:.0%}"
FEWER_EMBEDDINGS = "as much of the encoder, but {fewer} a title instead of {more}"
CORRECTED = "The figure of the best of {rows} rows is optimistic, as it was chosen; optimism-corrected: {value:.4f}."

WORDS_BETTER = "**TF-IDF is significantly better than every row here: words alone will do.** Of the rows:"
WORDS_UNKNOWN = "How far do words alone get? `--baselines` adds TF-IDF on the same folds."
NO_PROBE = "The linear probe has not been tried here: `train.py --survey` adds it, on all that is worth comparing."
WORDS = (
    "TF-IDF with logistic regression reaches {value:.4f}; the best row differs from it by {difference:+.4f} "
    "(95% interval {low:+.4f} to {high:+.4f}): {verdict}. The average of both rows' probabilities reaches "
    "{average:.4f}, {gain:+.4f} ({least:+.4f} to {most:+.4f}) on the best row: {adds}."
)
SURE_OF = "It is at least {level:.0%} sure of {share:.0%} of the titles, and right in {right:.1%} of those."
NOWHERE_SURE = "It is nowhere {level:.0%} sure."
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
LEFT_OUT = (
    "Left out of the comparison for the best row, as not shown to know more than chance does: {name}, "
    "macro-F1 {value:.4f} ({low:.4f} to {high:.4f})."
)
ONE_REPEAT = "With one repeat, the choice of folds and first weights is not in this: `--repeats 3` adds it."
ONE_DRAW = "With one repeat, the choice of the labelled titles is not in these intervals: `--repeats 3` adds it."
SCARCE = "Too few titles for intervals that hold: {names}."
COLLAPSED = "Collapsed: {name} {what}; try {remedy}."
FROM_REPORT = "The report's figures are those of its last epoch with bert-base-uncased, on a split of its own."
OTHER_ENCODER = "They stand beside layers of this encoder that are as far from the top."


# --- the page -----------------------------------------------------------------------------------------------------


def page(table, answer):
    """One table with its heading, the recommendation first, then the tables, then the notes, as
    markdown.

    answer: the Answer of table.compare, or None for a table without rows trained on all titles.
    """
    parts = [HEADING.format(name=cli.escape_markdown(tables.title(table))), wrap(protocol(table))]
    if answer:
        parts.append(wrap(recommendation(table, answer)))
        parts.append(wrap(words(answer)))
        parts.append(main_table(table, answer))
    if table.learning_curve:
        parts.append(learning_table(table))
        said = learning_sentences(table)
        if said:
            parts.append(wrap(said))
    if not answer:
        return "\n\n".join([*parts, NOTHING_TO_COMPARE])
    if answer.recommended:
        parts += categories(table, answer.recommended)
        parts.append(wrap(sure_sentence(table, answer.recommended)))
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
        name=cli.escape_markdown(name), layers=encoder.layers, hidden=encoder.hidden, dtypes=" and ".join(dtypes)
    )


# --- the recommendation -------------------------------------------------------------------------------------------


def recommendation(table, answer):
    """The row to take and what it costs against the best one, or why there is none: a paragraph."""
    sentences = []
    tfidf = answer.references.get("tfidf")
    if tfidf and answer.comparison.low[answer.number(tfidf)] > 0 and tables.beats_chance(tfidf):
        sentences.append(WORDS_BETTER)
    if not answer.recommended:
        return " ".join([*sentences, RECOMMENDED_NONE])
    sentences.append(recommended(table, answer))
    if answer.recommended is answer.best:
        sentences += titles_needed(table, answer)
    elif table.options.repeats == 1:
        sentences.append(ONE_REPEAT)
    for row in answer.left_out:
        low, high = row.interval
        sentences.append(LEFT_OUT.format(name=row.name, value=row.value, low=low, high=high))
    if not any(row.run.options.head == "linear" for row in table.rows):
        sentences.append(NO_PROBE)
    if len(table.rows) > 1:
        sentences.append(CORRECTED.format(rows=len(table.rows), value=answer.comparison.corrected))
    return " ".join(sentences)


def recommended(table, answer):
    """The sentence that names the recommended row."""
    row, best = answer.recommended, answer.best
    if len(table.rows) == 1:
        return RECOMMENDED_ONLY.format(name=row.name, value=row.value)
    if row is not best:
        number = answer.number(row)
        return RECOMMENDED_CHEAPER.format(
            name=row.name,
            value=row.value,
            margin=answer.margin,
            best=best.name,
            loss=abs(answer.comparison.difference[number]),
            bound=max(answer.comparison.loss_bound[number], 0),
            saving=saving(table, row, best),
        )
    if row is min(table.rows, key=lambda each: each.cost):
        return RECOMMENDED_CHEAPEST.format(name=row.name, value=row.value)
    return RECOMMENDED_BEST.format(name=row.name, value=row.value, margin=answer.margin)


def saving(table, row, best):
    """What a row takes of its encoder, and what the best one does."""
    if row.expense < best.expense:
        if len(table.encoders) > 1 and table.has_flop:
            return LESS_WORK.format(less=row.expense / 1e9, more=best.expense / 1e9)
        if len(table.encoders) > 1:
            return SHARE_OF_WORK.format(share=row.expense / best.expense)
        return SHALLOWER.format(less=row.depth, more=best.depth)
    fewer = cli.count(len(row.run.columns), "embedding")
    return FEWER_EMBEDDINGS.format(fewer=fewer, more=len(best.run.columns))


def titles_needed(table, answer):
    """A sentence, in a list, on the cheaper row that the fewest titles would show to be
    non-inferior; or none.
    """
    needed = []
    for number, row in enumerate(table.rows):
        close = -answer.comparison.difference[number] < answer.margin
        if close and row.cost < answer.best.cost:
            titles = answer.comparison.titles_needed(number, answer.margin, table.data.rows)
            if titles:
                needed.append((titles, row.name))
    if not needed:
        return []
    titles, name = min(needed)
    return [TITLES_NEEDED.format(titles=titles, name=name)]


def verdict(low, high, above, below, neither):
    """The words for an interval that lies above 0, below it, or around it."""
    if low > 0:
        return above
    return below if high < 0 else neither


def words(answer):
    """Whether the best row beats words alone, and whether it knows something that they do not: a
    paragraph.
    """
    tfidf = answer.references.get("tfidf")
    if not tfidf:
        return WORDS_UNKNOWN
    found = answer.comparison
    number = answer.number(tfidf)
    low, high = -found.high[number], -found.low[number]
    better = "the best row is significantly better"
    average = answer.number(answer.references["average"])
    nothing = "not significantly different"
    return WORDS.format(
        value=tfidf.value,
        difference=-found.difference[number],
        low=low,
        high=high,
        verdict=verdict(low, high, better, "TF-IDF is significantly better", nothing),
        average=answer.compared[average].value,
        gain=found.difference[average],
        least=found.low[average],
        most=found.high[average],
        adds=average_verdict(found, average),
    )


def average_verdict(found, number):
    """Whether averaging with TF-IDF adds something to the best row, in words. found: a Comparison."""
    if found.difference[number] <= 0:
        return "averaging adds nothing"
    return "significantly better" if found.significant[number] else "not significantly different"


# --- what else the tables say ---------------------------------------------------------------------------------------


def categories(table, row):
    """The table of categories with what stands around it: a list of paragraphs."""
    parts = [CATEGORIES, category_table(table, row)]
    if len(table.classes) > SHOWN:
        parts.append(MORE_CATEGORIES.format(count=len(table.classes) - SHOWN))
    return parts


def sure_sentence(table, row):
    """How often a row is right where it is sure."""
    probabilities = row.run.calibrated
    named = row.run.named(table.folds)
    sure = np.take_along_axis(probabilities, named[:, None], 1)[:, 0] >= SURE
    right = named == table.labels
    if not sure.any():
        return NOWHERE_SURE.format(level=SURE)
    return SURE_OF.format(level=SURE, share=sure.mean(), right=right[sure].mean())


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
            _, low, _ = tables.gain(tfidf[size], best[size])
            if low > 0:
                caught = shared[place + 1 :]
        if caught:
            template = CAUGHT if caught[0] else CAUGHT_WITH_ALL
            sentences.append(template.format(size=size_name(caught[0]), name=name))
        else:
            sentences.append(NEVER_CAUGHT.format(name=name))

    if len(steps) > 1:
        before, after = steps[-2:]
        gain, low, high = tables.gain(best[before], best[after])
        sentences.append(
            LAST_STEP.format(
                before=size_name(before),
                after=size_name(after),
                gain=gain,
                low=low,
                high=high,
                verdict=verdict(low, high, "it still rises", "it falls", "that it still rises is not shown"),
            )
        )
        if table.options.repeats == 1:
            sentences.append(ONE_DRAW)
    return " ".join(sentences)


# --- the notes ----------------------------------------------------------------------------------------------------


def notes(table, answer):
    """What the columns mean and do not cover, and what is wrong with some rows: a list of
    sentences.
    """
    repeats = table.options.repeats
    covers = "the choice of titles and of repeats" if repeats > 1 else "the choice of titles, not of folds and weights"
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
        gain, low, high = tables.decision_gain(table, row)
        template = DECISION_GAIN if low < high else DECISION_SAME
        sentences.append(template.format(name=row.name, gain=gain, low=low, high=high))
    ends = [row for row in table.rows if row.run.figures.grid_ends]
    if ends:
        sentences.append(GRID_ENDS.format(names=listed([grid_end(row) for row in ends], 2)))
    scarce = [cli.escape_markdown(table.classes[number]) for number in answer.best.influence.scarce]
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

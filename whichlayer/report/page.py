"""What evaluate.py prints of a table: the recommendation and the tables, as markdown."""

from whichlayer.common import cli
from whichlayer.heads import runs, words
from whichlayer.report import answer as answers
from whichlayer.report import layout, recommendation
from whichlayer.report.rows import curves, encoder_key, judge
from whichlayer.scores import thresholds

# --- the sentences, as they are printed -----------------------------------------------------------

PROTOCOL = (
    "{titles} in {classes} categories, {options.folds} {options.split} folds, {repeats}, seed {options.seed}. "
    "{encoders}."
)
ENCODER = "{name} has {encoder.layers} layers of {encoder.hidden} dimensions, computed in {dtype}"
NOTHING_TO_COMPARE = "Nothing here was trained on all titles: `train.py --labels all` adds that."

SCORED = "Out of fold, mean of {repeats}; the recommended row in bold."
ONE_REPEAT = (
    "Out of fold, recommended row in bold; one repeat, so intervals leave out folds and weights: `--repeats 3`."
)
TERMS = 'Terms: README, "How to read the table".'
COLLAPSED = f"Collapsed heads predict one class only; {runs.COLLAPSED}."
SCARCE = "Too few titles for intervals that hold in {few} of {all} categories, such as {name}."

BEHIND = "TF-IDF is significantly behind {name} with {sizes} labels."
LAST_STEP = "The step from {} to {} labels brought {difference}."

CATEGORIES = "By category, {name}, lowest F1 first (at most {shown}):"
THRESHOLDS = "When to accept its answers (`predict.py --at-least`), as other folds chose:"


def page(table, answer):
    """A table with its heading and the recommendation, how many labels it takes, and how good the
    recommended row is, as markdown.

    answer: the Answer of answer.compare, or None for a table without rows trained on all titles.
    """
    parts = [f"## {cli.escape_markdown(table.title)}", *recommendation.no_probe(table), protocol(table)]
    if answer:
        parts.append(recommendation.paragraph(table, answer))
        parts.append(layout.main_table(table, answer))
        parts.append(" ".join(notes(table, answer)))
    else:
        parts.append(NOTHING_TO_COMPARE)
    if table.learning_curve:
        parts.append(layout.learning_table(table))
        parts.append(" ".join(learning_sentences(table)))
    if answer and answer.recommended:
        parts += details(table, answer.recommended)
    return layout.join(parts)


def protocol(table):
    """What was compared, and how: a sentence."""
    encoders = []
    for row in table.trained:
        encoder = row.run.encoder
        name = cli.escape_markdown(table.encoders[encoder_key(row.run)])
        dtype = row.run.settings.dtype
        encoders.append(ENCODER.format(name=name, encoder=encoder, dtype=dtype))
    return PROTOCOL.format(
        titles=cli.count(table.data.rows, "title"),
        classes=len(table.classes),
        options=table.options,
        repeats=cli.count(table.options.repeats, "repeat"),
        encoders="; ".join(dict.fromkeys(encoders)),
    )


def notes(table, answer):
    """What the table rests on, and what is wrong with some rows: a list of sentences."""
    repeats = table.options.repeats
    sentences = [SCORED.format(repeats=cli.count(repeats, "repeat")) if repeats > 1 else ONE_REPEAT]
    sentences.append(TERMS)
    if any(row.figures.collapsed for row in table.rows):
        sentences.append(COLLAPSED)
    scarce = answer.best_of_encoder.influence.scarce
    if scarce:
        name = cli.escape_markdown(table.classes[scarce[0]])
        sentences.append(SCARCE.format(few=len(scarce), all=len(table.classes), name=name))
    return sentences


def learning_sentences(table):
    """With how many labels TF-IDF is behind the best curve, and whether that one still rises: a
    list of sentences.
    """
    found = curves(table)
    tfidf = found.pop(words.BASELINES["tfidf"].name, {})
    name, best = max(found.items(), key=lambda item: max(row.value for row in item[1].values()))
    steps = [size for size in layout.curve_sizes(found) if size in best]
    sentences = []
    if tfidf:
        both = [size for size in steps if size in tfidf]
        behind = [layout.size_name(size) for size in both if answers.gain(tfidf[size], best[size])[1] > 0]
        sentences.append(BEHIND.format(name=name, sizes=cli.listing(behind or ["no number of"])))
    if len(steps) > 1:
        before, after = steps[-2:]
        brought = recommendation.difference(best[before], best[after])
        sizes = (layout.size_name(before), layout.size_name(after))
        sentences.append(LAST_STEP.format(*sizes, difference=brought))
    return sentences


def details(table, row):
    """How good a row is by category, and from which probability on its answers may be accepted: a
    list of paragraphs.
    """
    found = thresholds.of_judged(judge(row.runs, table), table.labels, table.folds)
    return [
        CATEGORIES.format(name=row.name, shown=layout.SHOWN),
        layout.category_table(table.classes, table.labels, row.influence.scores),
        THRESHOLDS,
        layout.threshold_table(found),
    ]

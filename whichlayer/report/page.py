"""What evaluate.py prints of a table: the recommendation and the tables, as markdown; and the model
card of a classifier that is kept, its README.md, as model hubs show it.
"""

from whichlayer.common import cli
from whichlayer.report import layout, recommendation
from whichlayer.report.rows import curves, encoder_key, judge
from whichlayer.scores import decision

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
COLLAPSED = (
    "Collapsed heads predict one class only; try --standardize or a smaller --lr (both of --head mlp), or another "
    "layer or --pooling."
)
SCARCE = "Too few titles for intervals that hold in {few} of {all} categories, such as {name}."

LAST_STEP = "{name}: the step from {before} to {after} labels brought {difference}."

CATEGORIES = "By category, {name}, lowest F1 first (at most {shown}):"
THRESHOLDS = "When to accept its answers (`predict.py --at-least`), as other folds chose:"

CARD_HEADER = "---\npipeline_tag: text-classification\ntags: [whichlayer]\n---\n\n# {title}"
CARD_WHAT = (
    "Names the category of a short text, one of {classes}. A frozen encoder with heads on some of its layers, words, "
    "or both: {name}."
)
CARD_TRAINED = "Learned from {titles} with categories, {made.at:.10}; config.json has their sha256, and the versions."
CARD_ENCODER = "Encoder: {encoder.name}, not in this folder; its weights are checked (sha256 {encoder.weights:.12}…)."
CARD_GOOD = (
    "Macro-F1 **{row.value:.4f}** (95% interval {row.interval[0]:.4f}–{row.interval[1]:.4f}), log loss "
    "{row.figures.log_loss:.4f}, calibration error {row.figures.calibration_error:.4f}: of titles that the heads had "
    "not seen, nor a copy of them. New titles of another kind are another matter: `--csv FILE --label-column NAME` "
    "scores a test file."
)
CARD_USE = ["The scripts of whichlayer apply it:", '    python predict.py --run FOLDER "a title of your own"']


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
        parts.append(last_step(table))
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


def last_step(table):
    """Whether the best learning curve still rises: a sentence, or nothing where it is one point."""
    name, best = max(curves(table).items(), key=lambda item: max(row.value for row in item[1].values()))
    steps = layout.curve_sizes({name: best})
    if len(steps) < 2:
        return ""
    before, after = map(layout.size_name, steps[-2:])
    brought = recommendation.difference(*(best[size] for size in steps[-2:]))
    return LAST_STEP.format(name=name, before=before, after=after, difference=brought)


def details(table, row):
    """How good a row is by category, and from which probability on its answers may be accepted: a
    list of paragraphs.
    """
    found = decision.thresholds_of(judge(row, table), table.labels, table.folds)
    return [
        CATEGORIES.format(name=row.name, shown=layout.SHOWN),
        layout.category_table(table.classes, table.labels, row.influence.scores),
        THRESHOLDS,
        layout.threshold_table(found),
    ]


# --- the model card -------------------------------------------------------------------------------


def card(table, row):
    """The model card of a Row of a Table, as markdown."""
    run = row.run
    classes = cli.listing(map(cli.escape_markdown, table.classes))
    titles = f"{cli.count(table.data.rows, 'title')} of {cli.escape_markdown(table.data.name)}"
    parts = [
        CARD_HEADER.format(title=cli.escape_markdown(table.title)),
        CARD_WHAT.format(classes=classes, name=row.name),
        CARD_TRAINED.format(titles=titles, made=run.made),
        CARD_ENCODER.format(encoder=run.encoder) if run.encoder else "",
        CARD_GOOD.format(row=row),
        *CARD_USE,
        *details(table, row),
    ]
    return layout.join(parts) + "\n"

"""The model card of a classifier that is kept: its README.md, as model hubs show it."""

from whichlayer.common import cli
from whichlayer.report import layout, page

# --- what stands in it ----------------------------------------------------------------------------

HEADER = "---\npipeline_tag: text-classification\ntags: [whichlayer]\n---\n\n# {title}"
WHAT = (
    "Names the category of a short text, one of {classes}. A frozen encoder with heads on some of its layers, words, "
    "or both: {name}."
)
TRAINED = "Learned from {titles} with categories, {made.at:.10}; config.json has their sha256, and the versions."
ENCODER = "Encoder: {encoder.name}, not in this folder; its weights are checked (sha256 {encoder.weights:.12}…)."
GOOD = (
    "Macro-F1 **{row.value:.4f}** (95% interval {row.interval[0]:.4f}–{row.interval[1]:.4f}), log loss "
    "{row.figures.log_loss:.4f}, calibration error {row.figures.calibration_error:.4f}: of titles that the heads had "
    "not seen, nor a copy of them. New titles of another kind are another matter: `--csv FILE --label-column NAME` "
    "scores a test file."
)
USE = ["The scripts of whichlayer apply it:", '    python predict.py --run FOLDER "a title of your own"']


def card(table, row):
    """The model card of a Row of a Table, as markdown."""
    run = row.run
    classes = cli.listing(map(cli.escape_markdown, table.classes))
    titles = f"{cli.count(table.data.rows, 'title')} of {cli.escape_markdown(table.data.name)}"
    parts = [
        HEADER.format(title=cli.escape_markdown(table.title)),
        WHAT.format(classes=classes, name=row.name),
        TRAINED.format(titles=titles, made=run.made),
        ENCODER.format(encoder=run.encoder) if run.encoder else "",
        GOOD.format(row=row),
        *USE,
        *page.details(table, row),
    ]
    return layout.join(parts) + "\n"

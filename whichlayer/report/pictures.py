"""Pictures of a table: macro-F1 by layer, confusions and calibration; and macro-F1 by labels."""

import logging
import warnings

import numpy as np

from whichlayer.common import cli, disk
from whichlayer.heads import runs
from whichlayer.report import layout
from whichlayer.report.rows import curves, judge
from whichlayer.scores import metrics

# of Okabe & Ito (2008), for eyes that see fewer colours, too
COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999"]
GRAY = "#555555"
MARKERS = "osD^vPX<>p*h8d"
STYLES = {"majority": ":", "tfidf": "--", None: "-."}
# most confused pairs that are shown
PAIRS = 10
# the same bytes for the same picture; a dollar sign in a category is a dollar sign
SETTINGS = {
    "svg.hashsalt": "layers",
    "text.parse_math": False,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
}
LONGEST = 58  # characters of a name


def library():
    """matplotlib as it comes, whatever the user's settings; a Problem without it."""
    # it tells of its cache and its fonts
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    # what its font lacks becomes a box
    warnings.filterwarnings("ignore", "Glyph|Matplotlib currently")
    try:
        import matplotlib.figure
    except ImportError:
        raise cli.Problem("--plot needs matplotlib; install it with: pip install matplotlib") from None
    matplotlib.rcdefaults()
    matplotlib.rcParams.update(SETTINGS)
    return matplotlib


def check_path(path):
    """Refuse what cannot be drawn, or not there."""
    library()
    for own in (path, curves_path(path)):
        cli.check_output("--plot", own, (".png", ".svg"))


def draw(path, table, answer):
    """Draw the pictures of a table to .png or .svg files.

    answer: the table's Answer; None where no row was trained on all titles: no first picture.
    """
    if answer:
        save(draw_rows(table, answer), path)
    if table.learning_curve:
        save(draw_curves(table), curves_path(path))


def curves_path(path):
    """The path of the learning curves, beside that of the rows."""
    return path.with_stem(f"{path.stem}-labels")


def save(figure, path):
    """Write a figure to a .png or .svg file."""
    kind = path.suffix[1:].lower()
    # the same bytes for the same picture
    metadata = {"Date": None} if kind == "svg" else None
    with disk.atomic(path) as file:
        figure.savefig(file, format=kind, dpi=150, metadata=metadata, bbox_inches="tight")
    cli.say(f"Picture: {path}")


def short(name, longest=LONGEST):
    """A name on one line, cut in the middle."""
    line = cli.one_line(name)
    half = longest // 2
    return line if len(line) <= longest else f"{line[:half]}…{line[1 - half :]}"


def style(row, number):
    """The look of a line or of several points. number: of the line."""
    color = GRAY if row.run.baseline else COLORS[number % len(COLORS)]
    return {"color": color, "marker": MARKERS[number % len(MARKERS)]}


def draw_line(axes, x, rows, look):
    """The macro-F1 of some rows with their intervals. x: of each row."""
    axes.plot(x, [row.value for row in rows], **look)
    axes.vlines(x, *np.transpose([row.interval for row in rows]), color=look["color"])


def finish(axes, table):
    """The title and grid of an axis of macro-F1, and a legend below all panels, for which the figure grows."""
    axes.set_title(short(table.title, 80), loc="left")
    axes.set_ylabel("macro-F1, out of fold, 95% interval")
    axes.grid(axis="y", alpha=0.4)
    figure = axes.figure
    legend = figure.legend(loc="outside lower left", ncols=2)
    figure.set_figheight(figure.get_figheight() + 0.1 * len(legend.get_texts()))


# --- the rows -------------------------------------------------------------------------------------


def draw_rows(table, answer):
    """Macro-F1 by layer; what the recommended row (or else the best) confuses, how sure it is: a figure."""
    size = (max(13, len(table.rows) / 4), 8)
    figure = library().figure.Figure(figsize=size, layout="constrained")
    panels = [["scores", "confusions"], ["scores", "calibration"]]
    axes = figure.subplot_mosaic(panels, width_ratios=(3, 2), height_ratios=(4, 3))
    draw_scores(axes["scores"], table, answer)
    row = answer.recommended or answer.best_of_encoder
    judged = judge(row, table)
    draw_confusions(axes["confusions"], table, judged, row.name)
    draw_calibration(axes["calibration"], table, judged)
    return figure


def draw_scores(axes, table, answer):
    """Macro-F1: a tick for each set of layers, a colour and a marker for each encoder and head."""
    kinds = {}
    for row in table.rows:
        kind = ", ".join(filter(None, [row.encoder, row.run.head]))
        kinds.setdefault(kind, []).append(row)
    sets = sorted({tuple(row.run.layers) for row in table.rows}, key=lambda own: (len(own), own))
    axes.set_xticks(range(len(sets)), map(runs.spell, map(list, sets)), rotation=40, ha="right")
    axes.set_xlabel("layers, 1 is the first")

    # the kinds stand side by side over the tick of their layers
    step = min(0.14, 0.8 / len(kinds))
    for number, (name, rows) in enumerate(kinds.items()):
        shift = step * (number - (len(kinds) - 1) / 2)
        x = [sets.index(tuple(row.run.layers)) + shift for row in rows]
        draw_line(axes, x, rows, style(rows[0], number) | {"label": short(name), "linestyle": ""})
    # baselines are lines
    for row in answer.compared:
        if row.run.baseline or len(row.runs) > 1:
            name = f"{short(row.name)} ({row.value:.3f})"
            axes.axhline(row.value, label=name, color=GRAY, linestyle=STYLES.get(row.run.baseline, "-"))
    # from the lowest row, as a baseline may be far below, to the highest of all
    low = min(row.interval[0] for row in table.rows)
    high = max(row.interval[1] for row in answer.compared)
    axes.set_ylim(low - 0.01, high + 0.01)
    finish(axes, table)


def draw_confusions(axes, table, judged, name):
    """The most confused pairs of categories, as bars."""
    predictions = judged.predictions
    labels = np.tile(table.labels, len(predictions))
    pairs, counts = metrics.confused_pairs(labels, predictions.ravel(), PAIRS)
    names = [short(name, 18) for name in table.classes]
    names = [f"{names[label]} → {names[predicted]}" for label, predicted in pairs]
    bars = axes.barh(range(len(names)), counts / len(predictions), color=COLORS[0])
    # repeats differ: whole numbers would not add up
    axes.bar_label(bars, fmt=" {:,.1f}")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(xlabel="most confused (labelled → predicted), mean titles a repeat", title=short(name))


def draw_calibration(axes, table, judged):
    """How often a row is right where it is so sure, out of fold."""
    sure, right, count = metrics.calibration(table.labels, judged.probabilities)
    axes.plot((0, 1), (0, 1), color=GRAY, linestyle=":")
    axes.scatter(sure, right, 8 + 250 * count / count.sum(), alpha=0.6)
    axes.set(xlabel="how sure (area: share of titles)", ylabel="how often right", title="Calibration")


# --- the learning curves --------------------------------------------------------------------------


def draw_curves(table):
    """Macro-F1 over labels a category: a line with its interval for each row; a figure."""
    figure = library().figure.Figure(figsize=(10, 5.2), layout="constrained")
    axes = figure.add_subplot()
    found = curves(table)
    sizes = layout.curve_sizes(found)
    for number, (name, curve) in enumerate(found.items()):
        own = [size for size in sizes if size in curve]
        rows = [curve[size] for size in own]
        # intervals stand side by side
        shift = 0.2 * ((number + 0.5) / len(found) - 0.5)
        look = style(rows[0], number) | {"label": short(name)}
        draw_line(axes, [sizes.index(size) + shift for size in own], rows, look)
    axes.set_xticks(range(len(sizes)), map(layout.size_name, sizes))
    axes.set_xlabel("labels a category")
    finish(axes, table)
    return figure

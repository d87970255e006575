"""Pictures of a table: macro-F1 by layer, confusions and calibration; macro-F1 by labels."""

import logging
import re
import textwrap

import numpy as np

from whichlayer.common import cli, disk
from whichlayer.heads import naming, runs
from whichlayer.report import table as tables
from whichlayer.scores import metrics

# of Okabe & Ito (2008), for eyes that see fewer colours, too
COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999"]
GRAY = "#555555"
MARKERS = "osD^vPX*"
STYLES = {"majority": ":", "tfidf": "--", "average": "-."}
# rows below this share of the best one's macro-F1 are named at the edge
NEAR = 0.85
# categories up to which the whole confusion matrix is legible
MATRIX = 12
# of more categories, the most confused pairs that are shown
PAIRS = 10
# of the calibration, as in metrics.expected_calibration_error
BINS = 15


def library():
    """matplotlib as it comes, whatever the user's settings; a Problem without it."""
    # it tells of its cache and its fonts
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    try:
        import matplotlib.figure
    except ImportError:
        raise cli.Problem("--plot needs matplotlib; install it with: pip install matplotlib") from None
    matplotlib.rcdefaults()
    # the same bytes for the same picture
    matplotlib.rc("svg", hashsalt="layers")
    # a dollar sign in a category is a dollar sign
    matplotlib.rc("text", parse_math=False)
    matplotlib.rc("legend", frameon=False, fontsize=9)
    matplotlib.rc("axes", titlesize=10)
    matplotlib.rc("axes.spines", top=False, right=False)
    return matplotlib


def paths(path):
    """The paths of a table's pictures: its rows trained on all titles, and its learning curves."""
    return path, path.with_stem(f"{path.stem}-labels")


def draw(path, table, answer):
    """Draw the pictures of a table to .png or .svg files; returns their paths.

    answer: the table's Answer; None where no row was trained on all titles: no first picture.
    """
    rows_path, curves_path = paths(path)
    pictures = {}
    if answer:
        pictures[rows_path] = lambda figure: draw_rows(figure, table, answer)
    if table.learning_curve:
        pictures[curves_path] = lambda figure: draw_curves(figure, table)
    for place, picture in pictures.items():
        figure = library().figure.Figure(layout="constrained")
        axes = picture(figure)
        axes.set_title(readable([tables.title(table)], 80)[0], loc="left")
        axes.set(ylabel="macro-F1, out of fold, 95% interval", axisbelow=True)
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        save(figure, place)
    return list(pictures)


def save(figure, path):
    """Write a figure to a .png or .svg file."""
    kind = path.suffix.lower().lstrip(".")
    # the same bytes for the same picture
    metadata = {"Date": None} if kind == "svg" else None
    with disk.atomic(path) as file:
        figure.savefig(file, format=kind, dpi=150, metadata=metadata)


def readable(names, longest=16):
    """Names on one line, � for what the font lacks, cut in the middle, numbered where equal."""
    from matplotlib import font_manager

    glyphs = font_manager.get_font(font_manager.findfont("DejaVu Sans")).get_charmap()
    half = longest // 2
    short = []
    for name in map(cli.one_line, names):
        name = "".join(c if ord(c) in glyphs else "\ufffd" for c in name)
        name = re.sub("\ufffd( *\ufffd)*", "\ufffd", name)
        short.append(name if len(name) <= longest else f"{name[:half]}…{name[1 - half :]}")
    return [f"{name} {i}" if short.count(name) > 1 else name for i, name in enumerate(short, 1)]


# --- the rows ---


def draw_rows(figure, table, answer):
    """Macro-F1 by layer; how the recommended row (or else the best) confuses, how sure it is."""
    row = answer.recommended or answer.best_of_encoder
    width = 7.2 + 0.12 * max(0, len(table.rows) - 24)
    figure.set_size_inches(width + 4.6, 6.4)
    grid = figure.add_gridspec(2, 2, width_ratios=(width, 4.6), height_ratios=(2.7, 1))
    scores = figure.add_subplot(grid[:, 0])
    draw_scores(scores, table, answer)
    confusion = figure.add_subplot(grid[0, 1])
    draw_confusion = draw_matrix if len(table.classes) <= MATRIX else draw_confused_pairs
    draw_confusion(confusion, table, row)
    confusion.set_title(textwrap.fill(f"{'Recommended' if answer.recommended else 'Best'}: {row.name}", 52))
    draw_calibration(figure.add_subplot(grid[1, 1]), table, row)
    return scores


def draw_scores(axes, table, answer):
    """Macro-F1: a place for each set of layers, a colour and a marker for each encoder and head."""
    places = layer_places(table)
    x = row_positions(table, places)
    kinds = list(dict.fromkeys(map(tables.kind, table.rows)))
    handles = []
    for kind, style in zip(kinds, kind_styles(kinds), strict=True):
        members = [row for row in table.rows if tables.kind(row) == kind]
        style["label"] = ", ".join(filter(None, kind))
        handles.append(draw_kind(axes, members, [x[row] for row in members], style, answer.best_of_encoder))

    # baselines are lines; they need room, and so do the rows that are named at the edge
    low, high = axes.get_ylim()
    if axes.texts:
        low -= 0.15 * (high - low)
    for row in answer.references:
        high = max(high, row.value + 0.03 * (high - low))
        label = f"{row.name} ({row.value:.3f}{', below' if row.value < low else ''})"
        style = {"color": GRAY, "linestyle": STYLES[row.run.baseline], "linewidth": 1}
        handles.append(axes.axhline(row.value, label=label, **style))
    axes.set(ylim=(low, high), xlim=(-0.5, max(places.values()) + 0.5))
    name_places(axes, table, places)
    legend_below(axes.figure, handles)


def place_of(table, row):
    """What a row's place on the axis stands for: with one encoder, its layers.

    With several, what compares them: a single layer's share of the depth, a float; else a name.
    """
    layers = row.run.layers
    if len(table.encoders) == 1:
        return tuple(layers)
    depth = row.run.encoder.layers
    if len(layers) == 1:
        return layers[0] / depth
    if layers != list(range(depth, depth - len(layers), -1)):
        return naming.spell(layers)
    return "all layers" if len(layers) == depth else f"last {len(layers)}"


def layer_places(table):
    """Where each set of layers stands, {place_of: x}: single layers first, others apart."""
    found = {place_of(table, row) for row in table.rows}
    if len(table.encoders) == 1:
        sets = sorted(found, key=lambda layers: (len(layers), layers))
        return {layers: i if len(layers) == 1 else i + 0.6 for i, layers in enumerate(sets)}
    depth = max(row.run.encoder.layers for row in table.rows)
    shares = sorted(share for share in found if isinstance(share, float))
    names = sorted(name for name in found if isinstance(name, str))
    places = {share: share * depth - 1 for share in shares}
    return places | {name: depth + 0.6 + i for i, name in enumerate(names)}


def name_places(axes, table, places):
    """The ticks of the layer sets and their names."""
    ticks = {naming.spell(list(place)): x for place, x in places.items() if isinstance(place, tuple)}
    label = "layers"
    if len(table.encoders) == 1:
        label = f"layers ({table.rows[0].run.encoder.layers} = top)"
    elif any(isinstance(place, float) for place in places):
        depth = max(row.run.encoder.layers for row in table.rows)
        ticks = {f"{share:.0%}": share * depth - 1 for share in (0.25, 0.5, 0.75, 1.0)}
        label = "share of the encoder's depth"
    ticks |= {place: x for place, x in places.items() if isinstance(place, str)}
    names = readable(ticks)
    turned = {}
    if sum(map(len, names)) > 28:
        turned = {"rotation": 60, "ha": "right", "rotation_mode": "anchor", "fontsize": 9}
    axes.set_xticks(list(ticks.values()), names, **turned)
    axes.set_xlabel(label)


def kind_styles(kinds):
    """Style of each kind of row, (encoder or None, head): a colour each, or an encoder."""
    encoders = list(dict.fromkeys(encoder for encoder, _ in kinds))
    heads = list(dict.fromkeys(head for _, head in kinds))
    styles = []
    for number, (encoder, head) in enumerate(kinds):
        color = encoders.index(encoder) if len(encoders) > 1 else number
        marker = heads.index(head)
        styles.append({"color": COLORS[color % 8], "fmt": MARKERS[(marker + marker // 8) % 8]})
    return styles


def row_positions(table, places):
    """The x of each row, {row: x}: rows of one place stand side by side, centred over its tick."""
    positions = {}
    for place, x in places.items():
        members = [row for row in table.rows if place_of(table, row) == place]
        step = min(0.14, 0.8 / len(members))
        for number, row in enumerate(members):
            positions[row] = x + step * (number - (len(members) - 1) / 2)
    return positions


def draw_kind(axes, rows, x, style, best):
    """The rows of one kind, those far below the best one at the edge; returns their handle."""
    color = style["color"]
    x = np.array(x)
    y = np.array([row.value for row in rows])
    errors = np.abs(np.transpose([row.interval for row in rows]) - y)
    near = y >= NEAR * best.value
    single = near & [len(row.run.layers) == 1 for row in rows]
    lines = {"markersize": 5, "capsize": 2, "linewidth": 1.2}
    handle = axes.errorbar(x[near], y[near], errors[:, near], **style, **lines)
    axes.plot(x[single], y[single], color=color, linewidth=1, alpha=0.5)
    edge = {"transform": axes.get_xaxis_transform(), "rotation": 90, "ha": "center", "fontsize": 8}
    for far in np.flatnonzero(~near):
        axes.text(x[far], 0.01, f"← {y[far]:.2f}", color=color, **edge)
    return handle


def legend_below(figure, handles):
    """A legend below everything, in as many columns as have room; the figure grows with it."""
    labels = [textwrap.fill(handle.get_label(), 60) for handle in handles]
    width, height = figure.get_size_inches()
    for columns in (3, 2, 1):
        needed, more = legend_size(handles, labels, columns)
        if needed <= width:
            break
    # three lines have room
    figure.set_size_inches(max(width, needed), height + max(0, more - 0.6))
    figure.legend(handles=handles, labels=labels, loc="outside lower left", ncols=columns)


def legend_size(handles, labels, columns):
    """Width and height of a legend in inches."""
    figure = library().figure.Figure()
    legend = figure.legend(handles=handles, labels=labels, ncols=columns)
    figure.draw_without_rendering()
    box = legend.get_window_extent()
    # with what stays free around it
    return box.width / figure.dpi + 0.2, box.height / figure.dpi + 0.2


def draw_matrix(axes, table, row):
    """The confusion matrix of a row, mean over repeats; errors have their own scale of colours."""
    classes = len(table.classes)
    matrices = [metrics.confusion_matrix(table.labels, each, classes) for each in row.predictions]
    matrix = np.mean(matrices, axis=0)
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    diagonal = np.eye(classes, dtype=bool)
    worst = max(share[~diagonal].max(), 1e-9)
    axes.imshow(np.ma.masked_array(share, ~diagonal), cmap="Blues", vmin=0, vmax=1)
    axes.imshow(np.ma.masked_array(share, diagonal), cmap="Oranges", vmin=0, vmax=1.5 * worst)
    axes.spines[:].set_visible(False)

    names = readable(table.classes)
    size = 9 if classes <= 8 else 7
    turned = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
    axes.set(xlabel="predicted", ylabel="labelled")
    axes.set_xticks(range(classes), names, fontsize=size, **turned)
    axes.set_yticks(range(classes), names, fontsize=size)
    centred = {"ha": "center", "va": "center", "fontsize": size}
    for i, j in np.ndindex(*matrix.shape):
        color = "white" if i == j and share[i, j] > 0.5 else "black"
        axes.text(j, i, f"{matrix[i, j]:,.0f}", color=color, **centred)


def draw_confused_pairs(axes, table, row):
    """The most confused pairs of categories, as bars: titles of the one predicted as the other."""
    classes = len(table.classes)
    repeats = len(row.predictions)
    labels = np.tile(table.labels, repeats)
    pairs, counts = metrics.confused_pairs(labels, row.predictions.ravel(), classes, PAIRS)
    names = []
    for pair in pairs:
        names.append(" → ".join(readable([table.classes[i] for i in pair])))
    lengths = counts / repeats
    axes.barh(range(len(names)), lengths, color=COLORS[1], alpha=0.7)
    for place, length in enumerate(lengths):
        axes.text(length, place, f" {length:,.0f}", va="center", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(f"titles a repeat, the {len(names)} most confused pairs (labelled → predicted)", fontsize=9)


def draw_calibration(axes, table, row):
    """How often a row is right where it is so sure, out of fold."""
    probabilities = row.run.calibrated
    sure = probabilities.max(1)
    right = probabilities.argmax(1) == table.labels
    _, place, count = np.unique((sure * BINS).astype(int), return_inverse=True, return_counts=True)
    x = np.bincount(place, sure) / count
    y = np.bincount(place, right) / count
    axes.plot((0, 1), (0, 1), color=GRAY, linestyle=":", linewidth=1)
    area = 8 + 250 * count / len(sure)
    axes.scatter(x, y, area, color=COLORS[0], alpha=0.6, linewidth=0, clip_on=False)
    axes.set(xlim=(0, 1.02), xlabel="how sure (area: share of titles)")
    axes.set(ylim=(0, 1.02), ylabel="how often right")


# --- the learning curves ---


def draw_curves(figure, table):
    """Macro-F1 over labels a category: a line with its interval for each row, the best first."""
    figure.set_size_inches(9.6, 5.2)
    axes = figure.add_subplot(xscale="log")
    curves = tables.curves(table)
    tfidf = runs.BASELINES["tfidf"]
    names = [name for name in curves if name != tfidf]
    names.sort(key=lambda name: -max(row.value for row in curves[name].values()))
    colors = COLORS
    band = 0.15  # opacity of the intervals
    if len(names) > 6:
        # more than there are colours to tell apart: from red, the best, to blue
        colors = [(share, 0.2, 1 - share) for share in np.linspace(1, 0, len(names))]
        band = 0.05
    styles = {}
    for number, name in enumerate(names):
        styles[name] = {"color": colors[number], "marker": MARKERS[number % 8]}
    if tfidf in curves:
        styles[tfidf] = {"color": GRAY, "linestyle": "--"}

    places = size_places(table)
    for name, style in styles.items():
        curve = curves[name]
        sizes = [size for size in places if size in curve]
        x = [places[size] for size in sizes]
        y = [curve[size].value for size in sizes]
        low, high = np.transpose([curve[size].interval for size in sizes])
        axes.plot(x, y, markersize=5, label=textwrap.fill(name, 44), **style)
        axes.fill_between(x, low, high, color=style["color"], alpha=band, linewidth=0)
    axes.minorticks_off()
    axes.set_xticks(list(places.values()), [f"{size:,}" if size else "all" for size in places])
    axes.set_xlabel("labels a category")
    width, height = legend_size(*axes.get_legend_handles_labels(), 1)
    figure.set_size_inches(max(9.6, 5 + width), max(5.2, height))
    figure.legend(loc="outside center right")
    return axes


def size_places(table):
    """Where each size of --labels stands, {size: x}; all titles (None) at theirs, but apart."""
    sizes = sorted({row.run.labels_per_category for row in table.learning_curve})
    places = {size: size for size in sizes}
    if any(None in curve for curve in tables.curves(table).values()):
        folds = table.options.folds
        in_training = len(table.labels) / len(table.classes) * (folds - 1) / folds
        places[None] = max(2 * sizes[-1], in_training)
    return places

"""Pictures of a table: macro-F1 by layer, confusions and calibration of the recommended row, macro-F1 by labels."""

import logging
import re
import textwrap
from pathlib import Path

import numpy as np

import cli
import metrics
import report
import runs
import store

COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999"]  # Okabe & Ito 2008
GRAY, MARKERS, STYLES = "#555555", "osD^vPX*", {"majority": ":", "tfidf": "--", "average": "-."}
FAR = 0.85  # rows below this share of the best score are values at the lower edge
BINS = 15  # of how sure a row is, as in the expected calibration error


def library():
    """matplotlib as it comes, whatever the user's settings, and what its font can show; a Problem without it."""
    try:
        import matplotlib.figure
        from matplotlib import font_manager, ft2font
    except ImportError:
        raise cli.Problem("--plot needs matplotlib; install it with: pip install matplotlib") from None
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it tells of its cache and its fonts
    matplotlib.rcdefaults()
    changed = {"svg.hashsalt": "layers", "text.parse_math": False, "legend.frameon": False, "legend.fontsize": 9}
    matplotlib.rcParams.update(changed | {"axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10})
    return matplotlib, ft2font.FT2Font(font_manager.findfont("DejaVu Sans")).get_charmap()


def labels_path(path):
    """The path of the second picture, beside the first."""
    return Path(path).with_stem(f"{Path(path).stem}-labels")


def draw(path, table):
    """Draw the pictures of a table that evaluate.compare filled, to .png or .svg files; returns their paths.

    The first, at `path`, shows the rows that were trained on all titles, the second those of --labels; a picture
    without rows is not drawn. The same table gives the same bytes.
    """
    matplotlib, glyphs = library()
    pictures = {Path(path): draw_rows} if table["rows"] else {}
    pictures |= {labels_path(path): draw_labels} if table["few"] else {}
    name = f"{Path(table['config']['encoder']['name']).name} on {table['config']['data']['name']}"
    for path, picture in pictures.items():
        figure, kind = matplotlib.figure.Figure(layout="constrained"), path.suffix.lower().lstrip(".")
        axes = picture(figure, table, glyphs)
        axes.set_title(readable([name], glyphs, 80)[0], loc="left")
        axes.set(ylabel="macro-F1, out of fold, 95% interval", axisbelow=True)
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        with store.atomic(path) as file:
            figure.savefig(file, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    return list(pictures)


def readable(names, glyphs, longest=16):
    """Names on one line, with � for what the font lacks, cut in the middle; those that look alike get their number."""
    short, half = [], longest // 2
    for name in map(cli.one_line, names):
        name = re.sub("\ufffd( *\ufffd)*", "\ufffd", "".join(c if ord(c) in glyphs else "\ufffd" for c in name))
        short.append(name if len(name) <= longest else f"{name[:half]}…{name[1 - half :]}")
    return [f"{name} {i}" if short.count(name) > 1 else name for i, name in enumerate(short, 1)]


def draw_rows(figure, table, glyphs):
    """Macro-F1 by layer; how the recommended row (or, where there is none, the best) confuses, and how sure it is."""
    width = 7.2 + 0.12 * max(0, len(table["rows"]) - 24)
    figure.set_size_inches(width + 4.6, 6.4)
    grid = figure.add_gridspec(2, 2, width_ratios=(width, 4.6), height_ratios=(2.7, 1))
    left, run = figure.add_subplot(grid[:, 0]), table["choice"] or table["best"]
    draw_scores(left, table, glyphs)
    draw_confusion(figure.add_subplot(grid[0, 1]), table, run, glyphs)
    draw_calibration(figure.add_subplot(grid[1, 1]), runs.mean_probabilities(run), table["labels"])
    return left


def draw_scores(axes, table, glyphs):
    """Macro-F1 with its interval: a place for each set of layers, a colour and a marker for each kind of head."""
    floor, depth = FAR * table["best"]["influences"]["value"], table["config"]["encoder"]["layers"]
    by_set, by_kind, places, handles = {}, {}, {}, []
    for run in table["rows"]:
        by_set.setdefault(tuple(report.layers_of(run)), []).append(run)
    for i, layers in enumerate(sorted(by_set, key=lambda layers: (len(layers) > 1, len(layers), layers))):
        places[", ".join(map(str, layers))] = place = i + 0.6 * (len(layers) > 1)  # several layers stand apart
        for run, beside in zip(by_set[layers], np.arange(0.5, len(by_set[layers])) / len(by_set[layers]), strict=True):
            point = place + 0.7 * (beside - 0.5), run["influences"]["value"], *run["interval"], len(layers) == 1
            by_kind.setdefault(report.head_label(run["config"]), []).append(point)
    for i, (kind, points) in enumerate(by_kind.items()):
        points, color, marker = np.array(points), COLORS[i % 8], MARKERS[(i + i // 8) % 8]
        x, y, low, high, single = points[points[:, 1] >= floor].T
        style = {"color": color, "fmt": marker, "markersize": 5, "linewidth": 1.2, "capsize": 2, "label": kind}
        handles.append(axes.errorbar(x, y, (y - low, high - y), **style))
        axes.plot(x[single > 0], y[single > 0], color=color, linewidth=1, alpha=0.5)
        style = {"transform": axes.get_xaxis_transform(), "rotation": 90, "ha": "center", "color": color, "fontsize": 8}
        for x, value, *_ in points[points[:, 1] < floor]:
            axes.text(x, 0.01, f"← {value:.2f}", **style)
    low, high = axes.get_ylim()
    low -= 0.15 * (high - low) * any(run["influences"]["value"] < floor for run in table["rows"])
    for run in table["plain"]:
        value, style = run["influences"]["value"], STYLES[run["config"]["baseline"]]
        high = max(high, value + 0.03 * (high - low))
        label = f"{report.head_label(run['config'])} ({value:.3f}{', below' if value < low else ''})"
        handles.append(axes.axhline(value, color=GRAY, linestyle=style, linewidth=1, label=label))
    crowded = {"rotation": 60, "ha": "right", "rotation_mode": "anchor", "fontsize": 9} if len(places) > 14 else {}
    axes.set_xticks(list(places.values()), readable(places, glyphs), **crowded)
    axes.set(xlabel=f"layers ({depth} = top)", xlim=(-0.5, max(places.values()) + 0.5), ylim=(low, high))
    axes.figure.legend(handles=handles, loc="outside lower left", ncols=3)


def draw_confusion(axes, table, run, glyphs):
    """The confusion matrix of a run, mean over repeats, of the 20 commonest categories."""
    classes, labels = table["config"]["classes"], table["labels"]
    titles = np.bincount(labels, minlength=len(classes))
    shown = np.sort(np.argsort(-titles, kind="stable")[:20])
    index, names = np.full(len(classes), len(shown)), readable([classes[i] for i in shown], glyphs)
    index[shown] = range(len(shown))
    matrices = [metrics.confusion_matrix(index[labels], index[p], len(shown) + 1) for p in run["predictions"]]
    matrix = np.mean(matrices, axis=0)[:-1, :-1]
    share, size = matrix / np.maximum(titles[shown, None], 1), 9 if len(shown) <= 8 else 7
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.spines[:].set_visible(False)
    some = f"; the {len(shown)} commonest of {len(classes):,} categories" if len(shown) < len(classes) else ""
    title = f"{'Recommended' if run is table['choice'] else 'Best'}: {report.row_label(run)}{some}"
    axes.set(xlabel="predicted", ylabel="labelled", title=textwrap.fill(title, 52))
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor", fontsize=size)
    axes.set_yticks(range(len(names)), names, fontsize=size)
    for i, j in np.ndindex(*matrix.shape) if len(names) <= 12 else ():
        color = "white" if share[i, j] > 0.5 else "black"
        axes.text(j, i, f"{matrix[i, j]:,.0f}", ha="center", va="center", fontsize=size, color=color)


def draw_calibration(axes, probabilities, labels):
    """How often the first choice is right against how sure it is, in bins; a dot's area is its share of the titles."""
    sure, right = probabilities.max(1), probabilities.argmax(1) == labels
    place = np.minimum((sure * BINS).astype(int), BINS - 1)
    count = np.bincount(place, minlength=BINS)
    x, y = (metrics.divide(np.bincount(place, weights, BINS), count)[count > 0] for weights in (sure, right))
    axes.plot((0, 1), (0, 1), color=GRAY, linestyle=":", linewidth=1)
    axes.scatter(x, y, 8 + 250 * count[count > 0] / len(sure), color=COLORS[0], alpha=0.6, linewidth=0, clip_on=False)
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="how sure (area: share of titles)", ylabel="how often right")


def draw_labels(figure, table, _):
    """Macro-F1 over labels a category: a line with its interval for each layer and head, the best one first."""
    figure.set_size_inches(9.6, 5.2)
    axes, (lines, words) = figure.add_subplot(xscale="log"), report.few_lines(table)
    order = sorted(lines.items(), key=lambda line: -max(run["influences"]["value"] for run in line[1].values()))
    folds, each = table["config"]["options"]["folds"], len(table["labels"]) / len(table["config"]["classes"])
    sizes = {size: size for line in [*lines.values(), words] for size in line}
    sizes |= {None: max(2 * max(filter(None, sizes)), each * (folds - 1) / folds)} if None in sizes else {}
    many, ticks = len(order) > 6, {sizes[size]: f"{size:,}" if size else "all" for size in sizes}
    colors = [(share, 0.2, 1 - share) for share in np.linspace(0, 1, len(order))] if many else COLORS
    order += [(report.head_label({"baseline": "tfidf"}), words)] if words else []
    for i, (name, line) in enumerate(order):
        color, marker, dashes = (GRAY, "", "--") if line is words else (colors[i], MARKERS[i % 8], "-")
        x, size = zip(*sorted((sizes[size], size) for size in line), strict=True)
        style = {"color": color, "marker": marker, "markersize": 5, "label": textwrap.fill(name, 44)}
        axes.plot(x, [line[s]["influences"]["value"] for s in size], dashes, **style)
        ends = np.transpose([line[s]["interval"] for s in size])
        axes.fill_between(x, *ends, color=color, alpha=0.05 if many else 0.15, linewidth=0)
    axes.minorticks_off()
    axes.set(xlabel="labels a category", xticks=list(ticks), xticklabels=list(ticks.values()))
    figure.legend(loc="outside center right")
    return axes

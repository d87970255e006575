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


def library():
    """matplotlib as it comes, whatever the user's settings, and what its font can show; a Problem without it."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it tells of its cache and its fonts
    try:
        import matplotlib.figure
        from matplotlib import font_manager, ft2font
    except ImportError:
        raise cli.Problem("--plot needs matplotlib; install it with: pip install matplotlib") from None
    matplotlib.rcdefaults()
    changed = {"svg.hashsalt": "layers", "text.parse_math": False, "legend.frameon": False, "legend.fontsize": 9}
    matplotlib.rcParams.update(changed | {"axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10})
    return matplotlib, ft2font.FT2Font(font_manager.findfont("DejaVu Sans")).get_charmap()


def labels_path(path):
    """The path of the second picture, beside the first."""
    return Path(path).with_stem(f"{Path(path).stem}-labels")


def draw(path, table):
    """Draw the pictures of a table that evaluate.compare filled, to .png or .svg files; returns their paths.

    The first shows the rows trained on all titles, the second those of --labels; without rows there is no picture.
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
    run, width = table["choice"] or table["best"], 7.2 + 0.12 * max(0, len(table["rows"]) - 24)
    figure.set_size_inches(width + 4.6, 6.4)
    grid = figure.add_gridspec(2, 2, width_ratios=(width, 4.6), height_ratios=(2.7, 1))
    left, matrix, calibration = (figure.add_subplot(place) for place in (grid[:, 0], grid[0, 1], grid[1, 1]))
    draw_scores(left, table, glyphs)
    draw_confusion(matrix, table, run, glyphs)
    sure = runs.mean_probabilities(run)
    right, sure = sure.argmax(1) == table["labels"], sure.max(1)
    _, place, count = np.unique((sure * 15).astype(int), return_inverse=True, return_counts=True)  # 15 bins
    x, y = (np.bincount(place, weights) / count for weights in (sure, right))
    calibration.plot((0, 1), (0, 1), color=GRAY, linestyle=":", linewidth=1)
    calibration.scatter(x, y, 8 + 250 * count / len(sure), color=COLORS[0], alpha=0.6, linewidth=0, clip_on=False)
    calibration.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="how sure (area: share of titles)", ylabel="how often right")
    return left


def draw_scores(axes, table, glyphs):
    """Macro-F1 with its interval: a place for each set of layers, a colour and a marker for each kind of head."""
    rows, handles, depth = table["rows"], [], table["config"]["encoder"]["layers"]
    kinds = list(dict.fromkeys(report.head_label(run["config"]) for run in rows))
    sets = sorted({tuple(report.layers_of(run)) for run in rows}, key=lambda layers: (len(layers), layers))
    places = {layers: i + 0.6 * (len(layers) > 1) for i, layers in enumerate(sets)}  # several layers stand apart
    for i, kind in enumerate(kinds):
        members = [run for run in rows if report.head_label(run["config"]) == kind]
        place = np.array([places[tuple(report.layers_of(run))] for run in members])
        x, y = place + 0.7 * ((i + 0.5) / len(kinds) - 0.5), np.array([run["influences"]["value"] for run in members])
        errors = np.abs(np.transpose([run["interval"] for run in members]) - y)
        near, color = y >= 0.85 * table["best"]["influences"]["value"], COLORS[i % 8]  # others are named at the edge
        single = near & [len(report.layers_of(run)) == 1 for run in members]
        style = {"color": color, "fmt": MARKERS[(i + i // 8) % 8], "markersize": 5, "capsize": 2, "label": kind}
        handles.append(axes.errorbar(x[near], y[near], errors[:, near], linewidth=1.2, **style))
        axes.plot(x[single], y[single], color=color, linewidth=1, alpha=0.5)
        style = {"transform": axes.get_xaxis_transform(), "rotation": 90, "ha": "center", "color": color, "fontsize": 8}
        for far in np.flatnonzero(~near):
            axes.text(x[far], 0.01, f"← {y[far]:.2f}", **style)
    low, high = axes.get_ylim()
    low -= 0.15 * (high - low) * bool(axes.texts)
    for run in table["plain"]:
        value, style = run["influences"]["value"], STYLES[run["config"]["baseline"]]
        high = max(high, value + 0.03 * (high - low))
        label = f"{report.head_label(run['config'])} ({value:.3f}{', below' if value < low else ''})"
        handles.append(axes.axhline(value, color=GRAY, linestyle=style, linewidth=1, label=label))
    names = readable([", ".join(map(str, layers)) for layers in places], glyphs)
    turned = {"rotation": 60, "ha": "right", "rotation_mode": "anchor", "fontsize": 9}
    crowded = turned if sum(map(len, names)) > 28 else {}
    axes.set_xticks(list(places.values()), names, **crowded)
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

"""Pictures of a table: macro-F1 by layer, confusions and calibration of the recommended row, macro-F1 by labels."""

import logging
import re
import textwrap
from pathlib import Path

import numpy as np

import baselines
import cli
import metrics
import report
import runs
import store

COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999"]  # Okabe & Ito 2008
GRAY, MARKERS, STYLES = "#555555", "osD^vPX*", {"majority": ":", "tfidf": "--", "average": "-."}


def library():
    """matplotlib as it comes, whatever the user's settings; a Problem without it."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it tells of its cache and its fonts
    try:
        import matplotlib.figure
    except ImportError:
        raise cli.Problem("--plot needs matplotlib; install it with: pip install matplotlib") from None
    matplotlib.rcdefaults()
    changed = {"svg.hashsalt": "layers", "text.parse_math": False, "legend.frameon": False, "legend.fontsize": 9}
    matplotlib.rcParams.update(changed | {"axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10})
    return matplotlib


def paths(path):
    """The paths of the pictures of a table: its rows trained on all titles, and those of --labels."""
    return path, path.with_stem(f"{path.stem}-labels")


def draw(path, table):
    """Draw the pictures of a table that evaluate.compare filled, to .png or .svg files; returns their paths.

    Without rows trained on all titles, or without rows of --labels, there is no such picture.
    """
    matplotlib, drawn = library(), []
    name = f"{Path(table['config']['encoder']['name']).name} on {table['config']['data']['name']}"
    for file, rows, picture in zip(paths(path), ("rows", "few"), (draw_rows, draw_labels), strict=True):
        if not table[rows]:
            continue
        figure, kind = matplotlib.figure.Figure(layout="constrained"), file.suffix.lower().lstrip(".")
        axes = picture(figure, table)
        axes.set_title(readable([name], 80)[0], loc="left")
        axes.set(ylabel="macro-F1, out of fold, 95% interval", axisbelow=True)
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        with store.atomic(file) as opened:
            figure.savefig(opened, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
        drawn.append(file)
    return drawn


def readable(names, longest=16):
    """Names on one line, with � for what the font lacks, cut in the middle; those that look alike get their number."""
    from matplotlib import font_manager

    glyphs = font_manager.get_font(font_manager.findfont("DejaVu Sans")).get_charmap()
    short, half = [], longest // 2
    for name in map(cli.one_line, names):
        name = re.sub("\ufffd( *\ufffd)*", "\ufffd", "".join(c if ord(c) in glyphs else "\ufffd" for c in name))
        short.append(name if len(name) <= longest else f"{name[:half]}…{name[1 - half :]}")
    return [f"{name} {i}" if short.count(name) > 1 else name for i, name in enumerate(short, 1)]


def draw_rows(figure, table):
    """Macro-F1 by layer; how the recommended row (or, where there is none, the best) confuses, and how sure it is."""
    run, width = table["choice"] or table["best"], 7.2 + 0.12 * max(0, len(table["rows"]) - 24)
    figure.set_size_inches(width + 4.6, 6.4)
    grid = figure.add_gridspec(2, 2, width_ratios=(width, 4.6), height_ratios=(2.7, 1))
    left, matrix, calibration = (figure.add_subplot(place) for place in (grid[:, 0], grid[0, 1], grid[1, 1]))
    draw_scores(left, table)
    draw_confusion(matrix, table, run)
    sure = runs.mean_probabilities(run)
    right, sure = sure.argmax(1) == table["labels"], sure.max(1)
    _, place, count = np.unique((sure * 15).astype(int), return_inverse=True, return_counts=True)  # 15 bins
    x, y = (np.bincount(place, weights) / count for weights in (sure, right))
    calibration.plot((0, 1), (0, 1), color=GRAY, linestyle=":", linewidth=1)
    calibration.scatter(x, y, 8 + 250 * count / len(sure), color=COLORS[0], alpha=0.6, linewidth=0, clip_on=False)
    calibration.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="how sure (area: share of titles)", ylabel="how often right")
    return left


def draw_scores(axes, table):
    """Macro-F1 with its interval: a place for each set of layers, a colour and a marker for each kind of head."""
    rows, handles = table["rows"], []
    sets = sorted({tuple(run["layers"]) for run in rows}, key=lambda layers: (len(layers), layers))
    places = {layers: i + 0.6 * (len(layers) > 1) for i, layers in enumerate(sets)}  # several layers stand apart
    kinds = list(dict.fromkeys(run["head"] for run in rows))
    for i, kind in enumerate(kinds):
        members = [run for run in rows if run["head"] == kind]
        x = np.array([places[tuple(run["layers"])] for run in members]) + 0.7 * ((i + 0.5) / len(kinds) - 0.5)
        y = np.array([run["value"] for run in members])
        errors = np.abs(np.transpose([run["interval"] for run in members]) - y)
        near, color = y >= 0.85 * table["best"]["value"], COLORS[i % 8]  # others are named at the edge
        single = near & [len(run["layers"]) == 1 for run in members]
        style = {"color": color, "fmt": MARKERS[(i + i // 8) % 8], "markersize": 5, "capsize": 2, "label": kind}
        handles.append(axes.errorbar(x[near], y[near], errors[:, near], linewidth=1.2, **style))
        axes.plot(x[single], y[single], color=color, linewidth=1, alpha=0.5)
        style = {"transform": axes.get_xaxis_transform(), "rotation": 90, "ha": "center", "color": color, "fontsize": 8}
        for far in np.flatnonzero(~near):
            axes.text(x[far], 0.01, f"← {y[far]:.2f}", **style)
    low, high = axes.get_ylim()
    low -= 0.15 * (high - low) * bool(axes.texts)
    for kind, run in table["plain"].items():
        value = run["value"]
        high = max(high, value + 0.03 * (high - low))
        label = f"{run['head']} ({value:.3f}{', below' if value < low else ''})"
        handles.append(axes.axhline(value, color=GRAY, linestyle=STYLES[kind], linewidth=1, label=label))
    names = readable([runs.spell(list(layers)) for layers in places])
    turned = {"rotation": 60, "ha": "right", "rotation_mode": "anchor", "fontsize": 9}
    crowded = turned if sum(map(len, names)) > 28 else {}
    axes.set_xticks(list(places.values()), names, **crowded)
    axes.set(
        xlabel=f"layers ({table['config']['encoder']['layers']} = top)",
        xlim=(-0.5, max(places.values()) + 0.5),
        ylim=(low, high),
    )
    axes.figure.legend(handles=handles, loc="outside lower left", ncols=3)


def draw_confusion(axes, table, run):
    """The confusion matrix of a run, mean over repeats, of the 20 commonest categories."""
    classes, labels = table["config"]["classes"], table["labels"]
    titles = np.bincount(labels, minlength=len(classes))
    shown = np.sort(np.argsort(-titles, kind="stable")[:20])
    index, names = np.full(len(classes), len(shown)), readable([classes[i] for i in shown])
    index[shown] = range(len(shown))
    matrices = [metrics.confusion_matrix(index[labels], index[p], len(shown) + 1) for p in run["predictions"]]
    matrix = np.mean(matrices, axis=0)[:-1, :-1]
    share, size = matrix / np.maximum(titles[shown, None], 1), 9 if len(shown) <= 8 else 7
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.spines[:].set_visible(False)
    some = f"; the {len(shown)} commonest of {len(classes):,} categories" if len(shown) < len(classes) else ""
    title = f"{'Recommended' if run is table['choice'] else 'Best'}: {run['name']}{some}"
    axes.set(xlabel="predicted", ylabel="labelled", title=textwrap.fill(title, 52))
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor", fontsize=size)
    axes.set_yticks(range(len(names)), names, fontsize=size)
    for i, j in np.ndindex(*matrix.shape) if len(names) <= 12 else ():
        color = "white" if share[i, j] > 0.5 else "black"
        axes.text(j, i, f"{matrix[i, j]:,.0f}", ha="center", va="center", fontsize=size, color=color)


def draw_labels(figure, table):
    """Macro-F1 over labels a category: a line with its interval for each layer and head, the best one first."""
    figure.set_size_inches(9.6, 5.2)
    axes, lines = figure.add_subplot(xscale="log"), report.few_lines(table)
    words = lines.pop(baselines.NAMES["tfidf"], {})
    lines = sorted(lines.items(), key=lambda line: -max(run["value"] for run in line[1].values()))
    many, colors = len(lines) > 6, COLORS
    if many:
        colors = [(share, 0.2, 1 - share) for share in np.linspace(0, 1, len(lines))]
    lines += [(baselines.NAMES["tfidf"], words)] if words else []
    sizes = {size: size for _, line in lines for size in line}
    if None in sizes:  # all titles of the training folds, but apart from the largest size
        folds, each = table["config"]["options"]["folds"], len(table["labels"]) / len(table["config"]["classes"])
        sizes[None] = max(2 * max(filter(None, sizes)), each * (folds - 1) / folds)
    for i, (name, line) in enumerate(lines):
        color, marker, dashes = (GRAY, "", "--") if line is words else (colors[i], MARKERS[i % 8], "-")
        x, size = zip(*sorted((sizes[size], size) for size in line), strict=True)
        style = {"color": color, "marker": marker, "markersize": 5, "label": textwrap.fill(name, 44)}
        axes.plot(x, [line[s]["value"] for s in size], dashes, **style)
        ends = np.transpose([line[s]["interval"] for s in size])
        axes.fill_between(x, *ends, color=color, alpha=0.05 if many else 0.15, linewidth=0)
    axes.minorticks_off()
    ticks = {place: f"{size:,}" if size else "all" for size, place in sizes.items()}
    axes.set(xlabel="labels a category", xticks=list(ticks), xticklabels=list(ticks.values()))
    figure.legend(loc="outside center right")
    return axes

"""The tables of a page as markdown that also lines up in a terminal, and paragraphs as wide."""

import shutil
import sys
import textwrap

import numpy as np

import data
from whichlayer.common import cli
from whichlayer.heads import naming
from whichlayer.report import table as tables

# Macro-F1 of the report's last epoch, for bert-base-uncased, by the layers' distance from the top
REPORT = {(0,): 0.9565, (1,): 0.9032, (2,): 0.9034, (3,): 0.9023, (0, 1): 0.9546, (0, 1, 2, 3): 0.9114}
WIDEST = 120  # columns of a table
NARROWEST = 20  # columns of a cell that is cut
SHOWN = 20  # categories in the table of categories


def main_table(table, answer):
    """The table of rows and baselines."""
    lines = []
    several = len(table.encoders) > 1
    # only the report's head has epochs
    have_epochs = all(row.run.options.head == "mlp" for row in table.rows)
    score = "F1-macro, last epoch" if have_epochs else "F1-macro"
    reported = has_report(table)
    for number, row in enumerate(answer.compared):
        low, high = row.interval
        line = {":Encoder": row.encoder or "none"} if several else {}
        line |= {"Layers": naming.spell(row.run.layers) or "none", ":Head": head_cell(row)}
        line |= {score: f"{row.run.figures.macro_f1:.4f}", "95% interval": f"{low:.4f}–{high:.4f}"}
        line["Difference"] = difference(answer, number)
        if not several:  # else the table would be too wide
            line["Log loss"] = cli.at_least(row.run.figures.log_loss)
        if table.has_flop and not reported:
            line["GFLOP"] = f"{row.expense / 1e9:.2f}"
        line["Depth"] = f"{row.depth:.0%}"
        if reported:
            figure = report_figure(table, row)
            line["Report"] = f"{figure:.4f}" if figure else ""
        lines.append(line)
    return fitted(lines, ":Head", "Layers", *([":Encoder"] if several else []))


def head_cell(row):
    """The head of a row as its column, Head, says it, and whether some of the heads collapsed."""
    head = row.run.head.replace("report's head", "report's").replace("linear probe", "probe")
    if row.run.figures.collapsed and not row.run.baseline:
        head += ", collapsed"
    return head


def difference(answer, number):
    """How far a row is from the best one; in brackets where that is not significant."""
    if answer.compared[number] is answer.best:
        return "**best**"
    value = f"{answer.comparison.difference[number]:+.4f}"
    return value if answer.comparison.significant[number] else f"({value})"


def has_report(table):
    """Whether the report's figures stand beside the rows: one encoder only leaves room for them."""
    return len(table.encoders) == 1 and any(report_figure(table, row) for row in table.rows)


def report_figure(table, row):
    """The macro-F1 that the report has for such a row on its own titles, or None."""
    run = row.run
    if run.baseline or run.head != naming.REPORTS_HEAD or table.data.sha256 != data.YOUTUBE_SHA256:
        return None
    return REPORT.get(tuple(run.encoder.layers - layer for layer in run.layers))


def learning_table(table):
    """The table of --labels: a line for each layer and head, a column for each size."""
    curves = tables.curves(table)
    sizes = curve_sizes(curves)
    lines = []
    for name, curve in curves.items():
        line = {":Labels a category": name}
        for size in sizes:
            line[size_name(size)] = f"{curve[size].value:.4f}" if size in curve else ""
        lines.append(line)
    return fitted(lines, ":Labels a category")


def curve_sizes(curves):
    """The sizes of all learning curves, ascending, None (all titles) last."""
    sizes = {size for curve in curves.values() for size in curve}
    return sorted(sizes - {None}) + [None]


def size_name(size):
    return f"{size:,}" if size else "all"


def category_table(names, scores, titles):
    """F1, precision and recall of each category, the worst ones first, and how many titles it has.

    names: of the categories; scores: (3, categories), as comparison.Influence has them; titles:
    (categories,) int.
    """
    lines = []
    for number in np.argsort(scores[0], kind="stable")[:SHOWN]:
        line = {":Category": cli.escape_markdown(names[number])}
        for name, values in zip(("F1", "Precision", "Recall"), scores, strict=True):
            line[name] = f"{values[number]:.4f}"
        lines.append(line | {"Titles": f"{titles[number]:,}"})
    return fitted(lines, ":Category")


def threshold_table(found):
    """When to accept an answer; found: thresholds.Threshold, a line each."""
    lines = []
    for each in found:
        line = {"To be right in": f"{each.wanted:.0%}", "accept from": "not reachable"}
        line |= {"answered": "", "right in, held out": ""}
        if each.probability == 0:
            line["accept from"] = "any"
        elif each.probability is not None:
            # rounded up, so that what is typed gives no answer more
            digits = 4 if each.probability <= 0.9999 else 6
            rounded = np.ceil(each.probability * 10**digits) / 10**digits
            line["accept from"] = f"{rounded:.{digits}f}"
        if each.probability is not None:
            line["answered"] = f"{each.coverage:.1%}"
            line["right in, held out"] = f"{each.precision:.1%}"
        lines.append(line)
    return fitted(lines)


def fitted(lines, *columns):
    """A markdown table of lines, {column: cell} each, of which no line is wider than WIDEST.

    Cells of `columns`, in this order, that are too long for that are cut, and stand whole below.
    """
    cut = []
    for column in columns:
        room = max(WIDEST - width_without(lines, column), NARROWEST)
        shown = []
        for line in lines:
            cell = line[column]
            if cli.width(cell) > room:
                cut += [cell] if cell not in cut else []
                cell = f"{start_of(cell, room - 6)}… [{cut.index(cell) + 1}]"
            shown.append(line | {column: cell})
        lines = shown
    text = cli.markdown(list(lines[0]), [line.values() for line in lines])
    return "\n\n".join([text, *(f"[{number}] {cell}" for number, cell in enumerate(cut, 1))])


def start_of(text, room):
    """As much of a text as is no wider than that many columns."""
    while cli.width(text) > room:
        text = text[:-1]
    return text


def width_without(lines, column):
    """How wide a table of these lines is, without the cells of one column."""
    # the edges of the table, and a space on both sides of the column
    taken = 4
    for name in lines[0]:
        if name != column:
            taken += 3 + max(len(name.lstrip(":")), *(cli.width(line[name]) for line in lines))
    return taken


def wrap(text):
    """A paragraph in lines of the terminal's width, or of 100 columns where there is none."""
    width = shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else 100
    return textwrap.fill(text, max(width, 40), break_long_words=False, break_on_hyphens=False)

"""The tables of a page as markdown that also lines up in a terminal, and paragraphs as wide."""

import math
import textwrap

import numpy as np

from whichlayer.common import cli
from whichlayer.heads import runs
from whichlayer.report.rows import curves, head_of

SHOWN = 20  # categories in the table of categories


def main_table(table, answer):
    """The table of rows and baselines: by encoder, what needs none last, and by macro-F1."""
    encoders = [*table.encoders.values(), None]
    several = len(table.encoders) > 1
    # only the report's head has epochs
    have_epochs = all(row.run.options.head == "mlp" for row in table.rows)
    score = "F1-macro, last epoch" if have_epochs else "F1-macro"
    lines = []
    for row in sorted(answer.compared, key=lambda row: (encoders.index(row.encoder), -row.value)):
        low, high = row.interval
        line = {":Encoder": row.encoder or "none"} if several else {}
        head = head_of(row.runs)
        if row.figures.collapsed and not row.run.baseline:
            head += ", collapsed"
        if row is answer.recommended:
            head = f"**{head}**"
        line |= {"Layers": runs.spell(row.run.layers) or "none", ":Head": head}
        line |= {score: f"{row.value:.4f}", "95% interval": f"{low:.4f}–{high:.4f}"}
        line["Difference"] = difference(answer, row)
        if not several:  # else the table would be too wide
            line["Log loss"] = f"{row.figures.log_loss:.4f}"
        if table.has_flop:
            line["GFLOP"] = f"{row.expense / 1e9:.2f}"
        lines.append(line)
    return markdown(lines)


def difference(answer, row):
    """How far a row is from the best one; in brackets where that is not significant."""
    if row is answer.best:
        return "**best**"
    number = answer.compared.index(row)
    value = f"{answer.comparison.difference[number]:+.4f}"
    return value if answer.comparison.significant[number] else f"({value})"


def learning_table(table):
    """The table of --labels: a line for each layer and head, a column for each size."""
    found = curves(table)
    lines = []
    for name, curve in found.items():
        line = {":Labels a category": name}
        for size in curve_sizes(found):
            line[size_name(size)] = f"{curve[size].value:.4f}" if size in curve else ""
        lines.append(line)
    return markdown(lines)


def curve_sizes(curves):
    """The sizes of all learning curves, ascending, None (all titles) last."""
    sizes = {size for curve in curves.values() for size in curve}
    return sorted(sizes, key=lambda size: size or math.inf)


def size_name(size):
    return f"{size:,}" if size else "all"


def category_table(names, labels, scores):
    """F1, precision and recall of each category that has titles, the worst ones first, and how many
    it has.

    names: of the categories; labels: (titles,) int; scores: (3, categories), as comparison.Influence
    has them.
    """
    titles = np.bincount(labels)
    lines = []
    for number in sorted(np.flatnonzero(titles), key=scores[0].item)[:SHOWN]:
        cells = [f"{value:.4f}" for value in scores[:, number]]
        lines.append([cli.escape_markdown(names[number]), *cells, f"{titles[number]:,}"])
    return cli.markdown([":Category", "F1", "Precision", "Recall", "Titles"], lines)


def threshold_table(found):
    """When to accept an answer; found: decision.Threshold, a line each."""
    lines = []
    for each in found:
        cells = ["not reachable", "", ""]
        if each.probability is not None:
            # rounded up, so that what is typed gives no answer more
            digits = 4 if each.probability <= 0.9999 else 6
            rounded = np.ceil(each.probability * 10**digits) / 10**digits
            accept = f"{rounded:.{digits}f}" if each.probability else "any"
            cells = [accept, f"{each.coverage:.1%}", f"{each.precision:.1%}"]
        lines.append([f"{each.wanted:.0%}", *cells])
    return cli.markdown(["To be right in", "accept from", "answered", "right in, held out"], lines)


def markdown(lines):
    """A markdown table of lines, {column: cell} each."""
    return cli.markdown(list(lines[0]), [line.values() for line in lines])


def join(parts):
    """Paragraphs, in lines of 100 columns, and tables and code, as they are, as one text."""
    joined = []
    for part in filter(None, parts):
        filled = textwrap.fill(part, 100, break_long_words=False, break_on_hyphens=False)
        joined.append(part if part.startswith(("|", "    ", "---")) else filled)
    return "\n\n".join(joined)

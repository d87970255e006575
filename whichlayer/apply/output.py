"""How predictions are written: as columns of a table, as CSV, as text and as JSON Lines."""

import json
import math
import operator
from dataclasses import dataclass

import numpy as np

from whichlayer.common import cli
from whichlayer.reading import tables


@dataclass
class Style:
    """What is written of predictions, and how."""

    classes: list[str]
    top: int | None  # so many categories; None: all of them
    least: float  # no category is named whose probability is lower
    delimiter: str = ","  # of CSV
    header: bytes = b""  # what stands above the rows


def columns(classes, probabilities, named, top=None, least=0.0):
    """What is added to a table of titles: {name of the column: list}.

    The category that is named, or so many up to `top`, see ranked, each with its probability, and
    without `top` the probabilities of all. None and not-a-number stand where a title has no text;
    None stands for all categories of a title where the one that is named is less likely than
    `least`.
    """
    order = ranked(probabilities, named, top or 1)
    values = np.take_along_axis(probabilities, order, 1)
    names = np.array(classes, dtype=object)[order]
    # nor is not-a-number at least anything
    names[~(values[:, 0] >= least)] = None

    added = {}
    for rank in range(order.shape[1]):
        suffix = f" {rank + 1}" if rank else ""
        added[f"prediction{suffix}"] = names[:, rank].tolist()
        added[f"probability{suffix}"] = values[:, rank].tolist()
    if not top:
        for number, name in enumerate(classes):
            added[f"probability of {cli.one_line(name)}"] = probabilities[:, number].tolist()
    return added


def ranked(probabilities, named, top):
    """Numbers of classes of each title, the one that is named first, then the likeliest: (titles,
    top) int.
    """
    first = np.arange(probabilities.shape[1]) == np.reshape(named, (-1, 1))
    return np.argsort(np.where(first, -np.inf, -probabilities), kind="stable")[:, :top]


# --- CSV ------------------------------------------------------------------------------------------


def style_of(args, table, classes):
    """The Style of args.out: with the delimiter and the byte order mark of the table that is read,
    but tabs in .tsv only. A table with a column of predictions is a Problem.
    """
    style = Style(classes, args.top, args.at_least)
    added = list(columns(classes, np.empty((0, len(classes))), [], args.top))
    taken = sorted(set(table.header) & set(added))
    if taken:
        wrong = f"rename its column {cli.quote(taken[0])}; predictions would add one of that name"
        raise cli.Problem(f"{args.csv}: {wrong}")
    style.delimiter = "," if table.form.delimiter == "\t" else table.form.delimiter
    if args.out.suffix.lower() == ".tsv":
        style.delimiter = "\t"
    mark = b"\xef\xbb\xbf" if table.form.mark else b""
    style.header = mark + tables.as_csv([table.header + added], style.delimiter)
    return style


def csv_rows(rows, window, style):
    """The bytes of rows of a table with the predictions behind them. window: the classifier.Window
    of the same titles.
    """
    added = columns(style.classes, window.probabilities, window.named, style.top, style.least)
    cells = zip(*(map(cell_of, values) for values in added.values()), strict=True)
    return tables.as_csv(map(operator.add, rows, cells), style.delimiter)


def cell_of(value):
    """A category, that no spreadsheet runs, a probability, or nothing, as a cell."""
    if isinstance(value, str):
        return tables.escape_cell(value)
    return "" if value is None or math.isnan(value) else f"{value:.6f}"


# --- text and JSON Lines --------------------------------------------------------------------------


def lines(window, kind, style):
    """Yield a line for each title of a classifier.Window. kind: text or jsonl."""
    line_of = text_line if kind == "text" else json_line
    order = ranked(window.probabilities, window.named, style.top)
    for title, numbers, values in zip(window.titles, order, window.probabilities.tolist(), strict=True):
        # none where a title has no text
        pairs = [(style.classes[number], values[number]) for number in numbers if not math.isnan(values[0])]
        yield line_of(title, pairs, style)


def text_line(title, pairs, style):
    """Categories with their probabilities, side by side, and the title; a dash for a category that
    is not likely enough.
    """
    width = min(30, max(map(len, style.classes)))
    unsure = bool(pairs) and pairs[0][1] < style.least
    words = []
    for name, value in pairs or [("", 0.0)]:
        words.append(f"{'-' if unsure else cli.one_line(name):<{width}}  {value:.3f}")
    words.append(cli.one_line(title))
    return "  ".join(words).rstrip()


def json_line(title, pairs, style):
    """A title with its prediction as a JSON object in ASCII, which no terminal obeys."""
    label, probability = pairs[0] if pairs else (None, 0.0)
    item = {
        "title": title,
        "prediction": label if probability >= style.least else None,
        "probability": round(probability, 6),
        "probabilities": {name: round(value, 6) for name, value in pairs},
    }
    return json.dumps(item)

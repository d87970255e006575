"""How predictions are written: as columns of a table, as text and as JSON Lines."""

import csv
import json
import math
import sys
from dataclasses import dataclass, replace

import numpy as np

from whichlayer.common import cli
from whichlayer.reading import tables


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


@dataclass
class Format:
    """How predictions are written."""

    kind: str  # text, csv or jsonl
    classes: list[str]
    top: int | None  # so many categories; None: all of them
    least: float  # no category is named whose probability is lower
    table: tables.Form  # of CSV

    @property
    def columns(self):
        """The names of the columns that are added to a table."""
        return list(columns(self.classes, np.empty((0, len(self.classes))), [], self.top))


def choose_format(args, classes, source=None):
    """The Format that the arguments ask for. source: the tables.Form that --out keeps."""
    least = args.at_least or 0.0
    if source:
        return Format("csv", classes, args.top, least, form_of(args.out, source))
    top = args.top
    if args.format == "text" and not top:
        top = 1
    return Format(args.format, classes, top, least, tables.Form(line_end="\n"))


def form_of(out, source):
    """The tables.Form of a file that is written: that of the source, but tabs in .tsv only."""
    is_tsv = str(out).lower().endswith(".tsv")
    if is_tsv == (source.delimiter == "\t"):
        return replace(source, kind="csv")
    delimiter = "\t" if is_tsv else ","
    return replace(source, kind="csv", delimiter=delimiter, quoting=csv.QUOTE_MINIMAL, hint=False)


class Terminal:
    """Standard output, as far as print and csv.writer need a file, without what a terminal obeys."""

    def write(self, text):
        # as JSON and Python write them
        print(cli.UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text), end="")


def encoding_of(form):
    """How open() encodes a file of this tables.Form; in other columns, bytes may be no text."""
    if form.encoding == "utf-16":
        return {"encoding": "utf-16-le", "errors": "surrogatepass", "newline": ""}
    return {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}


def write_header(file, header, form):
    """Write what stands above the rows. header: the columns that stand before the predictions."""
    if form.table.mark:
        file.write("\ufeff")
    if form.table.hint:
        file.write(f"sep={form.table.delimiter}{form.table.line_end}")
    tables.row_writer(file, form.table)(header + form.columns)


def write(file, window, form):
    """Write a classifier.Window as a Format says."""
    if form.kind == "csv":
        added = columns(form.classes, window.probabilities, window.named, form.top, form.least)
        write_row = tables.row_writer(file, form.table)
        for item, *values in zip(window.items, *added.values(), strict=True):
            write_row(item.cells + [as_cell(value) for value in values])
        return
    line = text_line if form.kind == "text" else json_line
    for item, pairs in zip(window.items, shown(window, form), strict=True):
        print(line(item.title, pairs, form), file=file)


def as_cell(value):
    """A category or a probability as a cell of CSV, empty where there is none."""
    if isinstance(value, str):
        return cli.escape_cell(value)
    if value is None or math.isnan(value):
        return ""
    return f"{value:.6f}"


def shown(window, form):
    """Yield the (category, probability) pairs to print for a title, the named one first, none
    without text.
    """
    order = ranked(window.probabilities, window.named, form.top)
    for numbers, values in zip(order, window.probabilities.tolist(), strict=True):
        has_text = not math.isnan(values[0])
        yield [(form.classes[number], values[number]) for number in numbers] if has_text else []


def text_line(title, pairs, form):
    """Categories with their probabilities, side by side, and the title; a dash for a category that
    is not likely enough.
    """
    width = min(30, max(map(len, form.classes)))
    unsure = bool(pairs) and pairs[0][1] < form.least
    words = []
    for name, value in pairs or [("", 0.0)]:
        words.append(f"{'-' if unsure else cli.one_line(name):<{width}}  {value:.3f}")
    words.append(cli.one_line(title))
    return "  ".join(words).rstrip()


def json_line(title, pairs, form):
    """A title with its prediction as a JSON object."""
    label, probability = pairs[0] if pairs else (None, 0.0)
    item = {
        "title": title,
        "prediction": label if probability >= form.least else None,
        "probability": round(probability, 6),
        "probabilities": {name: round(value, 6) for name, value in pairs},
    }
    # where there is one
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return json.dumps(item, ensure_ascii=not encoding.lower().startswith("utf"))

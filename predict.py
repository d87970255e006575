"""Apply a trained run to new titles, or score it on a test file.

    python predict.py --run results/RUN "Street food in Rome" "How to paint a sunset"
    cat titles.txt | python predict.py --run results/RUN --format jsonl
    python predict.py --run results/RUN --csv new.csv --out labelled.csv
    python predict.py --run results/RUN --csv test.csv --label-column category

The probabilities of the run's heads are pooled, then its temperature is applied. A run that decides
for macro-F1 may name a category that is not the likeliest; its probability is the calibrated one of
that category. The encoder runs no deeper than the run needs. From Python:
predict.table(predict.load("results/RUN"), ["a title"]).
"""

import cli


def parse_arguments(argv=None):
    parser = cli.parser(__doc__)
    add = parser.add_argument
    add("titles", nargs="*", metavar="TITLE", help="without any, and without --csv, standard input is read")
    add("--run", metavar="FOLDER", help="the run to apply: what train.py made, a copy of it, or results with one run")
    add("--model", metavar="NAME", help="where the run's encoder is found here (default: the name in the run)")
    add("--csv", metavar="IN.csv", help="read titles from a CSV, TSV or JSON Lines file")
    add("--out", metavar="OUT.csv", help="with --csv: the file to write, with all columns of IN.csv")
    add("--text-column", metavar="NAME", help="with --csv: column of the titles (default: title)")
    add("--label-column", metavar="NAME", help="with --csv: column of the true categories, to score the predictions")
    add("--features", metavar="FOLDER", help="with --label-column: the run's features (default: where they were)")
    add("--format", choices=("text", "csv", "jsonl"), default="text", help="of what is printed")
    at_least_1 = cli.number(int, 1)
    add(
        "--top",
        type=at_least_1,
        metavar="N",
        help="give the N likeliest categories only (default: one as text, else all)",
    )
    add(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        help="what the encoder computes in (default: as for the run's features)",
    )
    add("--device", default="auto", metavar="auto|cpu|cuda[:n]", help="where to compute")
    add(
        "--window",
        type=cli.number(int, 1, 1 << 20),
        default=4096,
        metavar="TITLES",
        help="most titles computed together",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    ARGUMENTS = cli.begin(parse_arguments)

import io
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

import data
import decision
import metrics
import model
import output
import runs
import score
import splits
from embedding import embed, windows_ahead
from encoder import Encoder, load_encoder

# --- a run that is ready to predict ---------------------------------------------------------------


@dataclass
class Classifier:
    """A run and its encoder, ready to predict."""

    run: runs.Run
    encoder: Encoder
    forward: Callable  # all heads at once, see model.stacked
    state: dict[str, torch.Tensor]  # of the heads, on the encoder's device
    offsets: np.ndarray | float  # (classes,) of the decision, the mean over heads, see decision.py


def load(folder, name=None, device="auto", dtype=None):
    """The Classifier of a run. What does not fit is a cli.Problem.

    folder: a run, or results that hold one; name: where the encoder is found, as --model; dtype:
    auto, float32, bfloat16 or float16, what the encoder computes in. Name and dtype are the run's
    own where they are not given.
    """
    run = runs.find(folder)
    head, state = model.read_heads(run)
    # a wrong one is no fault of the encoder's
    cli.choose_device(device)
    try:
        encoder = load_own_encoder(run, name or run.encoder.name, device, dtype)
    except cli.Problem as error:
        needed = run.encoder.name
        if run.encoder.revision:
            needed = f"{needed.partition('@')[0]}@{run.encoder.revision}"
        hint = f"{run.folder} needs {needed}, or --model to say where that is"
        raise cli.Problem(f"{error} ({hint})") from None
    state = {key: value.to(encoder.device) for key, value in state.items()}
    offsets = 0.0 if run.offsets is None else run.offsets.mean((0, 1))
    return Classifier(run, encoder, model.stacked(head, shared=True), state, offsets)


def load_own_encoder(run, name, device, dtype):
    """The Encoder of this name, once it is known to be the one that the run was trained with."""
    settings = run.config.settings
    encoder = load_encoder(name, device, dtype or settings.dtype, settings.max_length, run.poolings)
    for what in ("weights", "tokenizer"):
        if getattr(encoder.info, what) != getattr(run.encoder, what):
            wrong = f"not the encoder that the run was trained with, its {what} differ"
            raise cli.Problem(f"{name}: {wrong}")
    return encoder


# --- from titles to probabilities -----------------------------------------------------------------


@dataclass
class Item:
    """A title to predict."""

    title: str
    cells: list[str] = field(default_factory=list)  # of its row, to be written, too


@dataclass
class Window:
    """Some titles with their predictions."""

    items: list[Item]
    probabilities: np.ndarray  # (items, classes) float64, not-a-number where a title has no text
    named: np.ndarray  # (items,) int: the number of the category that is named
    cut: int  # titles that are longer than the encoder reads


def predict(classifier, blocks, size=4096):
    """Yield Windows of at most `size` items; blocks: iterables of Items.

    A window waits until the next one is there and can be tokenised beside it; the empty one after
    each block lets the block's last one through.
    """
    classes = classifier.run.classes
    for items, tokenised in windows_ahead(classifier.encoder, in_windows(blocks, size)):
        probabilities = np.full((len(items), len(classes)), np.nan)
        named = np.zeros(len(items), np.int64)
        with_text = [i for i, item in enumerate(items) if not data.is_blank(item.title)]
        if with_text:
            probabilities[with_text], named[with_text] = classify(classifier, tokenised)
        yield Window(items, probabilities, named, tokenised.cut)


def in_windows(blocks, size):
    """Yield (items, their texts): at most `size` items of a block, and no items after each block."""
    for block in blocks:
        left = iter(block)
        items = list(itertools.islice(left, size))
        while items:
            yield items, texts_of(items)
            items = list(itertools.islice(left, size))
        yield [], texts_of([])


def texts_of(items):
    """The titles that have text, or a dash where none has. What is no title is a cli.Problem."""
    texts = []
    for item in items:
        wrong = data.fault(item.title) if isinstance(item.title, str) else "no text"
        if wrong:
            raise cli.Problem(f"title {item.title!r:.80}: holds {wrong}")
        if not data.is_blank(item.title):
            texts.append(item.title)
    return texts or ["-"]


def classify(classifier, tokenised):
    """(probabilities, named) of embedding.Tokenised titles: (titles, classes) float64, (titles,)
    int.
    """
    run = classifier.run
    values = embed(classifier.encoder, tokenised, run.layers, run.poolings)
    # through the numbers that were stored: the heads know features of that precision
    stored = [values[column].astype(run.config.settings.store) for column in run.columns]
    if not all(np.isfinite(values).all() for values in stored):
        raise cli.Problem("the encoder's features are not finite numbers; use --dtype float32")
    x = torch.from_numpy(np.stack(stored, axis=1).astype(np.float32)).to(classifier.encoder.device)
    pooled = model.mean_probabilities(classifier.forward, classifier.state, x).cpu().numpy()
    named = decision.decide(pooled, classifier.offsets)
    return metrics.sharpen(pooled, run.figures.temperature), named


# --- predictions as a table -----------------------------------------------------------------------


def table(classifier, titles):
    """A pandas DataFrame with a row for each of the titles.

    Columns: title, prediction, probability, and "probability of …" for each category. Where a
    title has no text, the others are empty.
    """
    import pandas

    titles = list(titles)
    windows = list(predict(classifier, [map(Item, titles)]))
    probabilities = np.concatenate([window.probabilities for window in windows])
    named = np.concatenate([window.named for window in windows])
    predicted = output.columns(classifier.run.classes, probabilities, named)
    return pandas.DataFrame({"title": titles, **predicted})


# --- what comes in --------------------------------------------------------------------------------


@dataclass
class Source:
    """Where titles come from."""

    header: list[str]  # names of the Items' cells
    blocks: Iterable[Iterable[Item]]  # each is predicted before the next one is asked for


def open_source(args, columns):
    """The Source that the arguments name. columns: what --csv may be given to read."""
    if args.csv:
        rows = data.read_table(args.csv, columns)
        header = next(rows)
        place = header.index(columns[0])
        return Source(header, [(Item(cells[place], cells) for _, cells in rows)])
    lists = [args.titles] if args.titles else standard_input()
    return Source(["title"], map(typed_items, lists))


def typed_items(titles):
    """Items for titles that come without a table."""
    return [Item(title, [cli.escape_cell(title)]) for title in titles]


def standard_input():
    """Yield lists of the lines that are there, as soon as they are; what is not UTF-8 becomes �."""
    if sys.stdin.isatty():
        cli.say("type titles, one a line; Ctrl-D ends")
    begun = b""  # a line whose end is still to come
    block = None
    while block != b"":
        block = sys.stdin.buffer.read1(1 << 20)
        lines = (begun + block).split(b"\n")
        begun = lines.pop()
        # the end ends the last line, too
        if begun and not block:
            lines.append(begun)
        yield [line.decode("utf-8", "replace").strip("\r\n\ufeff") for line in lines]


# --- the script -----------------------------------------------------------------------------------


def check_arguments(args):
    """Refuse what contradicts itself before anything slow is done."""
    given = "titles as arguments" if args.titles else "--format"
    has_titles = args.csv or args.titles or sys.stdin
    has_use = args.out or args.label_column
    if not has_titles:
        raise cli.Problem("no titles: give some as arguments, with --csv, or on standard input")
    if bool(args.csv) != bool(has_use):
        raise cli.Problem("--csv needs --out or --label-column, and those need --csv, the file to read")
    if args.csv and (args.titles or args.format != "text"):
        raise cli.Problem(f"--csv and {given} exclude one another; --out is CSV")
    if args.text_column and not args.csv:
        raise cli.Problem("--text-column needs --csv, the file to read")
    if args.features and not args.label_column:
        raise cli.Problem("--features needs --label-column: it tells what was in training")
    if args.out and Path(args.out).suffix.lower() != ".csv":
        raise cli.Problem(f"--out {args.out}: the name must end in .csv")
    if args.csv and not Path(args.csv).is_file():
        raise cli.Problem(f"--csv {args.csv}: there is no such file, or it is not a plain one")
    if args.out:
        cli.check_output("--out", args.out)
        if Path(args.out).exists() and os.path.samefile(args.csv, args.out):
            raise cli.Problem(f"--out {args.out}: this is the input file; choose another name")


def training_keys(run, folder):
    """The splits.group_key of every title that was in training; none where it cannot be known."""
    try:
        titles, _ = runs.features_of(run, folder and [folder]).titles()
    except cli.Problem as error:
        if folder:
            raise
        cli.say(f"which titles were in training cannot be checked: {error}")
        return set()
    return set(map(splits.group_key, titles))


@dataclass
class Outcome:
    """What was predicted."""

    titles: int = 0
    cut: int = 0  # longer than the encoder reads
    blank: int = 0  # without text
    seconds: float = 0.0
    windows: list[Window] = field(default_factory=list)  # all of them, where they are to be scored


def predict_all(classifier, source, args, form):
    """Predict and write every title of a Source: an Outcome."""
    started = time.time()
    outcome = Outcome()
    bar = cli.progress(None, " titles", shown=bool(args.csv), desc="predict")
    with bar, output.open_file(args) as file:
        if file and form.kind == "csv":
            output.write_header(file, source.header, form)
        for window in predict(classifier, source.blocks, args.window):
            if file:
                output.write(file, window, form)
                # who feeds standard input may wait for it
                print(end="", flush=True)
            if args.label_column:
                outcome.windows.append(window)
            outcome.titles += len(window.items)
            outcome.cut += window.cut
            outcome.blank += int(np.isnan(window.probabilities[:, 0]).sum())
            bar.update(len(window.items))
    outcome.seconds = time.time() - started
    return outcome


def score_predictions(classes, windows, label, training):
    """The score.report of a test file. label: number of the cell with the true category."""
    items = [item for window in windows for item in window.items]
    titles = [item.title for item in items]
    labels = [" ".join(item.cells[label].split()) for item in items]
    probabilities = np.concatenate([window.probabilities for window in windows])
    named = np.concatenate([window.named for window in windows])
    return score.report(classes, titles, labels, probabilities, named, training)


def say_outcome(outcome, encoder, out):
    """Say how many titles were predicted, and what of them is worth knowing."""
    text = f"{cli.count(outcome.titles, 'title')} predicted in {outcome.seconds:.1f} s"
    if outcome.cut:
        text += f", {outcome.cut:,} cut at {encoder.max_length} tokens"
    if outcome.blank:
        text += f", {outcome.blank:,} without text"
    if out:
        text += f". Written to {out}"
    cli.say(text)


def main(args):
    # what is asked for
    check_arguments(args)
    run = runs.find(args.run)
    form = output.choose_format(args, run.classes)

    # the titles: a fault here should not cost the loading of an encoder
    columns = [args.text_column or "title"]
    training = set()
    if args.label_column:
        columns.append(args.label_column)
        data.copy_titles(args.csv, *columns, io.BytesIO(), least=1)
        training = training_keys(run, args.features)
    source = open_source(args, columns)
    taken = sorted(set(source.header) & set(form.columns))
    if args.out and taken:
        wrong = f"rename its column {taken[0]!r}; predictions would add one of that name"
        raise cli.Problem(f"{args.csv}: {wrong}")

    # the predictions, and how good they are
    classifier = load(run.folder, args.model, args.device, args.dtype)
    outcome = predict_all(classifier, source, args, form)
    if args.label_column:
        label = source.header.index(args.label_column)
        print(score_predictions(run.classes, outcome.windows, label, training))
    say_outcome(outcome, classifier.encoder, args.out)


if __name__ == "__main__":
    cli.launch(main, ARGUMENTS)

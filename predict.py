"""Apply trained runs to new titles, or score them on a test file.

    python predict.py "Street food in Rome" "How to paint a sunset"
    cat titles.txt | python predict.py --format jsonl
    python predict.py --run results/RUN --csv new.csv --out labelled.csv --at-least 0.9
    python predict.py --run results/RUN --csv test.csv --label-column category
    python predict.py --run results/RUN results/ANOTHER "Street food in Rome"

The probabilities of a run's heads are pooled, then its temperature is applied. Several runs, of the
same titles and folds, are combined: a log-linear pool weighs them by what they said out of fold. A
run that decides for macro-F1 may name a category that is not the likeliest; its probability is the
calibrated one of that category. An encoder runs no deeper than the runs need.
From Python: predict.table(predict.load("results"), ["a title"]).
"""

from whichlayer.common import cli


def parse_arguments(argv=None):
    parser = cli.parser(__doc__)
    add = parser.add_argument
    add("titles", nargs="*", metavar="TITLE", help="without any, and without --csv, standard input is read")
    runs_help = (
        "the runs to apply, several combined; or results, for what evaluate.py recommends there, or what it has kept; "
        "what is no folder behind them, and all after it, are titles (default: results)"
    )
    add("--run", nargs="+", metavar="RUN", default=["results"], help=runs_help)
    names = "where the encoder is found, of several encoders each (default: the names in the runs)"
    add("--model", nargs="+", type=cli.place, metavar="NAME", help=names)
    add("--csv", type=cli.place, metavar="IN", help="read titles from a CSV, TSV, JSON or Parquet file")
    add("--out", type=cli.path, metavar="OUT.csv", help="with --csv: the file to write, with all columns of IN")
    add("--text-column", metavar="NAME", help="with --csv: column of the titles (default: title)")
    add("--label-column", metavar="NAME", help="with --csv: column of the true categories, to score the predictions")
    features = "for --label-column: the run's features, if they have moved"
    add("--features", type=cli.place, metavar="FOLDER", help=features)
    least = "name no category whose probability is lower; evaluate.py says how far that can be trusted"
    add("--at-least", type=cli.number(float, 0, 1), default=0, metavar="P", help=least)
    top = "give the N likeliest categories only (default: one as text, else all)"
    add("--top", type=cli.number(int, 1), metavar="N", help=top)
    add("--format", choices=("text", "jsonl"), default="text", help="of what is printed")
    dtypes = ("auto", "float32", "bfloat16", "float16")
    add("--dtype", choices=dtypes, help="what the encoder computes in (default: as for the run's features)")
    add("--device", default="auto", metavar="auto|cpu|cuda[:n]", help="where to compute")
    return parser.parse_args(argv)


if __name__ == "__main__":
    ARGUMENTS = cli.begin(parse_arguments)

import io
import itertools
import os
import sys

import numpy as np

import data
from whichlayer.apply import bulk, output
from whichlayer.apply.chosen import choose
from whichlayer.apply.classifier import Window, as_list, predict
from whichlayer.apply.classifier import load as load_chosen
from whichlayer.common import disk
from whichlayer.common.windows import WINDOW, WORLD, batches_of
from whichlayer.heads import runs, splits
from whichlayer.reading import tables
from whichlayer.report import score

# --- what is applied -------------------------------------------------------------------------------


def split_runs(given):
    """(runs, titles) of what stands behind --run: what is no folder, and all after it, are titles."""
    own = list(itertools.takewhile(os.path.isdir, given)) or given[:1]
    titles = given[len(own) :]
    # a folder that was mistyped is no title
    if titles and os.path.dirname(titles[0]) and os.path.isdir(os.path.dirname(titles[0])):
        raise cli.Problem(f"--run {titles[0]}: no such folder is there; titles come after the last run")
    return own, titles


def check_arguments(args):
    """Refuse what contradicts itself before anything slow is done."""
    has_titles = args.titles or args.csv or sys.stdin
    has_use = args.out or args.label_column
    is_typed = args.titles or args.format != "text"
    rules = [
        (has_titles, "no titles: give some as arguments, with --csv, or on standard input"),
        (bool(args.csv) == bool(has_use), "--csv needs --out or --label-column, and those need --csv"),
        (not args.csv or not is_typed, "--csv on one side, titles as arguments or --format exclude one another"),
        (args.csv or not args.text_column, "--text-column needs --csv"),
        (args.label_column or not args.features, "--features needs --label-column"),
        (WORLD == 1 or (args.out and not args.label_column), "several processes share --csv with --out only; run one"),
    ]
    for holds, otherwise in rules:
        if not holds:
            raise cli.Problem(otherwise)
    if args.csv:
        args.csv = data.find_titles(args.csv)
    if args.out:
        cli.check_output("--out", args.out, (".csv", ".tsv"))
        if args.out.exists() and args.out.samefile(args.csv):
            raise cli.Problem(f"--out {args.out}: this is the input file; choose another name")


# --- titles that somebody types --------------------------------------------------------------------


def predict_typed(args, chosen):
    """Print predictions of titles that are arguments or lines of standard input: a bulk.Outcome."""
    classifier = load_chosen(chosen, args.model, args.device, args.dtype)
    top = args.top or (1 if args.format == "text" else None)
    style = output.Style(chosen.runs[0].classes, top, args.at_least)
    outcomes = []
    for _, window in predict(classifier, typed(args.titles)):
        for line in output.lines(window, args.format, style):
            print(line)
        # who feeds standard input may wait for it
        print(end="", flush=True)
        outcomes.append(bulk.outcome_of(window, style.least))
    return bulk.summed(outcomes)


def typed(titles):
    """Yield (number, titles) of what is predicted together: some titles, or, without any, those on
    standard input as soon as they are there.
    """
    for block in [titles] if titles else standard_input():
        yield from batches_of(block, WINDOW)
        # lets the last one through
        yield None, []


def standard_input():
    """Yield lists of lines, as soon as they are there."""
    if sys.stdin.isatty():
        cli.say("type titles, one a line; Ctrl-D ends")
    begun = b""  # a line whose end is still to come
    while block := sys.stdin.buffer.read1(1 << 20):
        *whole, begun = (begun + block).split(b"\n")
        yield list(map(decoded, whole))
    if begun:
        yield [decoded(begun)]


def decoded(line):
    """A line as text; bytes that are none become surrogates, which are refused."""
    return line.decode("utf-8", "surrogateescape").strip("\r\ufeff")


# --- a test file -----------------------------------------------------------------------------------


def score_file(args, chosen):
    """Predict a test file, print how good that is, and, with --out, write it: a bulk.Outcome."""
    own = chosen.runs
    columns = [args.text_column or "title", args.label_column]
    # a fault here should not cost the loading of an encoder
    checked = data.copy_titles(args.csv, *columns, io.BytesIO(), least=1)
    score.check_labels(f"{args.csv}: column {cli.quote(args.label_column)}", checked.classes, own[0].classes)
    training = training_keys(own, args.features)
    table = tables.open_table(args.csv, columns)
    style = output.style_of(args, table, own[0].classes) if args.out else None
    rows = list(table.rows)
    titles, labels = ([row[place] for row in rows] for place in table.places)

    classifier = load_chosen(chosen, args.model, args.device, args.dtype)
    whole = predict_all(classifier, titles)
    # nothing is written before all of it is predicted
    if style:
        with disk.atomic(args.out) as file:
            file.write(style.header + output.csv_rows(rows, whole, style))
    labels = [" ".join(label.split()) for label in labels]
    print(score.report(own, titles, labels, whole, training, args.at_least))
    return bulk.outcome_of(whole, args.at_least)


def training_keys(own, folder):
    """The splits.group_key of every title that was in training; none where it cannot be known.

    own: the runs; folder: of their features, None for where they were.
    """
    keys = set()
    for run in own:
        try:
            titles = runs.features_of(run, folder and [folder]).titles()[0]
        except cli.Problem:
            if folder:
                raise
            cli.say("which titles were in training cannot be checked, as their features are not here; see --features")
            return set()
        keys.update(map(splits.group_key, titles))
    return keys


# --- from Python ----------------------------------------------------------------------------------


def load(folders="results", name=None, device="auto", dtype=None):
    """The classifier.Classifier of what evaluate.py recommends in a folder, or has kept in one; of a
    run, or of several, a list, which are combined. What does not fit is a cli.Problem.

    name, device, dtype: as --model (a list, where there are several encoders), --device and --dtype.
    """
    return load_chosen(choose(as_list(folders)), name, device, dtype)


def table(classifier, titles):
    """A pandas DataFrame with a row for each of the titles, a list or a Series of str.

    Columns: title, prediction, probability, and "probability of …" for each category. Where a
    title has no text, the others are empty. A Series hands its index on. Anything else is a
    TypeError.
    """
    import pandas

    is_list = isinstance(titles, list | tuple | np.ndarray | pandas.Series)
    if not is_list or not all(isinstance(title, str) for title in titles):
        raise TypeError("titles must be a list or a Series, and each of them a str")
    index = titles.index if isinstance(titles, pandas.Series) else None
    titles = list(titles)
    whole = predict_all(classifier, titles, shown=False)
    predicted = output.columns(classifier.classes, whole.probabilities, whole.named)
    return pandas.DataFrame({"title": titles, **predicted}, index=index)


def predict_all(classifier, titles, shown=True):
    """The Window of all titles. shown: whether there is a bar of progress."""
    parts = []
    # the last one is there where there are no titles, too
    batches = [*batches_of(titles, WINDOW), (None, [])]
    with cli.progress(len(titles), " titles", "predict", shown) as bar:
        for _, window in predict(classifier, batches):
            parts.append(window)
            bar.update(len(window.titles))
    return Window(
        titles=titles,
        probabilities=np.concatenate([part.probabilities for part in parts]),
        named=np.concatenate([part.named for part in parts]),
        cut=sum(part.cut for part in parts),
    )


# --- the script -----------------------------------------------------------------------------------


def main(args):
    places, behind = split_runs(args.run)
    args.titles = behind + args.titles
    chosen = choose(places)
    check_arguments(args)
    if args.label_column:
        outcome = score_file(args, chosen)
    elif args.csv:
        outcome = bulk.predict_file(args, chosen)
    else:
        outcome = predict_typed(args, chosen)
    # None in all processes but the first
    if outcome:
        say_outcome(outcome)


def say_outcome(outcome):
    """Say how many titles were predicted, and what of them is worth knowing."""
    text = f"{cli.count(outcome.titles, 'title')} predicted in {cli.took()}"
    notes = {
        "cut, as they are longer than the encoder reads": outcome.cut,
        "without text": outcome.blank,
        "without an answer, as no category is as likely as --at-least": outcome.unsure,
    }
    for note, number in notes.items():
        if number:
            text += f", {number:,} {note}"
    cli.say(text)


if __name__ == "__main__":
    cli.launch(main, ARGUMENTS)

"""Apply trained runs to new titles, or score them on a test file.

    python predict.py --run results/RUN "Street food in Rome" "How to paint a sunset"
    cat titles.txt | python predict.py --run results/RUN --format jsonl
    python predict.py --run results/RUN --csv new.csv --out labelled.csv --at-least 0.9
    python predict.py --run results/RUN --csv test.csv --label-column category
    python predict.py --run results/RUN results/ANOTHER "Street food in Rome"

The probabilities of a run's heads are pooled, then its temperature is applied; of several runs, the
average is taken. A run that decides for macro-F1 may name a category that is not the likeliest; its
probability is the calibrated one of that category. An encoder runs no deeper than the runs need.
From Python: predict.table(predict.load("results/RUN"), ["a title"]).
"""

from whichlayer.common import cli


def parse_arguments(argv=None):
    parser = cli.parser(__doc__)
    add = parser.add_argument
    add("titles", nargs="*", metavar="TITLE", help="without any, and without --csv, standard input is read")
    add(
        "--run",
        nargs="+",
        metavar="FOLDER",
        help="the run to apply: what train.py made, or the words that evaluate.py kept, a copy of it, or "
        "results with one run; of several, the average is taken",
    )
    add(
        "--model",
        nargs="+",
        metavar="NAME",
        help="where the encoder of the runs is found here; of several encoders, all (default: the names in the runs)",
    )
    add("--csv", type=cli.place, metavar="IN.csv", help="read titles from a CSV, TSV, JSON or Parquet file")
    add("--out", type=cli.place, metavar="OUT.csv", help="with --csv: the file to write, with all columns of IN.csv")
    add("--text-column", metavar="NAME", help="with --csv: column of the titles (default: title)")
    add("--label-column", metavar="NAME", help="with --csv: column of the true categories, to score the predictions")
    add(
        "--features",
        type=cli.place,
        metavar="FOLDER",
        help="for --label-column: the run's features, if they have moved",
    )
    add(
        "--at-least",
        type=cli.number(float, 0, 1),
        metavar="P",
        help="name no category whose probability is lower; evaluate.py says how far that can be trusted",
    )
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
else:
    # before numpy and torch are imported, who read it then
    cli.settle_threads()

import io
import os
import sys
import time
from pathlib import Path

import numpy as np

import data
from whichlayer.apply import bulk, output
from whichlayer.apply.classifier import Item, batches_of, by_encoder, load, predict
from whichlayer.common import disk, windows
from whichlayer.heads import runs, splits
from whichlayer.reading import tables
from whichlayer.report import score

# what is said of a title that stands where runs are named
NO_FOLDER = "if it is a title, let it stand before --run"

# --- predictions as a table -----------------------------------------------------------------------


def table(classifier, titles):
    """A pandas DataFrame with a row for each of the titles, a list or a Series of str.

    Columns: title, prediction, probability, and "probability of …" for each category. Where a
    title has no text, the others are empty. A Series hands its index on. Anything else is a
    TypeError.
    """
    import pandas

    if not isinstance(titles, list | tuple | np.ndarray | pandas.Series):
        kind = type(titles).__name__
        wanted = "titles must be a list or a Series of str"
        raise TypeError(f"{wanted}, not a {kind}; pass [title] for one")
    for title in titles:
        if not isinstance(title, str):
            remedy = "fill in or leave out what is missing"
            raise TypeError(f"each title must be a str, not {title!r:.80}; {remedy}")
    index = titles.index if isinstance(titles, pandas.Series) else None
    titles = list(titles)
    # the last one is there where there are no titles, too
    batches = [*batches_of(map(Item, titles), 4096), (None, [])]
    windows = [window for _, window in predict(classifier, batches)]
    probabilities = np.concatenate([window.probabilities for window in windows])
    named = np.concatenate([window.named for window in windows])
    predicted = output.columns(classifier.classes, probabilities, named)
    return pandas.DataFrame({"title": titles, **predicted}, index=index)


# --- what comes in --------------------------------------------------------------------------------


def read_titles(args, table):
    """Yield (number, Items) of what is to be predicted together. table: of --csv, or None."""
    if table:
        text = table.places[0]
        yield from batches_of((Item(cells[text], cells) for _, cells in table.rows), args.window)
        return
    for titles in [args.titles] if args.titles else standard_input():
        typed = [Item(title, [cli.escape_cell(title)]) for title in titles]
        yield from batches_of(typed, args.window)
        # lets the last one through
        yield None, []


def standard_input():
    """Yield lists of lines, as soon as they are there; one that is no text is a Problem, once those
    before it have been yielded.
    """
    if sys.stdin.isatty():
        cli.say("type titles, one a line; Ctrl-D ends")
    begun = b""  # a line whose end is still to come
    block = None
    done = 0
    while block != b"":
        block = sys.stdin.buffer.read1(1 << 20)
        lines = (begun + block).split(b"\n")
        begun = lines.pop()
        # the end ends the last line, too
        if begun and not block:
            lines.append(begun)
        titles = [line.decode("utf-8", "surrogateescape").strip("\r\n\ufeff") for line in lines]
        faults = list(map(data.fault, titles))
        right = next((place for place, wrong in enumerate(faults) if wrong), len(titles))
        yield titles[:right]
        if right < len(titles):
            number = done + right + 1
            remedy = "the lines before it are answered; save it as UTF-8 text, or leave it out"
            raise cli.Problem(f"line {number:,} of standard input holds {faults[right]}; {remedy}")
        done += len(titles)


# --- the script -----------------------------------------------------------------------------------


def split_runs(given):
    """(runs, titles) of what stood behind --run: runs, up to the first that is no folder."""
    found = given[:1]
    for place in given[1:]:
        if not place or not Path(place).is_dir():
            break
        found.append(place)
    titles = given[len(found) :]
    if titles and os.sep in titles[0] and " " not in titles[0]:
        raise cli.Problem(f"--run {titles[0]}: there is no such folder; {NO_FOLDER}")
    check_named("--run", found)
    return found, titles


def find_run(place, places):
    """The runs.Run of one of the places behind --run, of which all but the first may be meant as
    titles.
    """
    try:
        return runs.find(place)
    except cli.Problem as error:
        if place is places[0]:
            raise
        raise cli.Problem(f"{error}; {NO_FOLDER}") from None


def check_named(option, places):
    """Refuse an empty name of a folder; behind the names, titles may be empty."""
    if "" in places:
        raise cli.Problem(f"{option}: is empty; name a folder")


def split_models(given, own):
    """(models, titles) of what stood behind --model: one for each encoder of the runs."""
    count = max(len(by_encoder(own)), 1)
    for place in given[count:]:
        if place and Path(place).is_dir():
            need = cli.count(count, "encoder")
            raise cli.Problem(f"--model {place}: the runs need {need}; name no more")
    check_named("--model", given[:count])
    return given[:count], given[count:]


def check_arguments(args):
    """Refuse what contradicts itself before anything slow is done."""
    given = "titles as arguments" if args.titles else "--format"
    has_titles = args.csv or args.titles or sys.stdin
    has_use = args.out or args.label_column
    if sys.stdout is None and not args.out:
        remedy = "open it, or use --csv with --out"
        raise cli.Problem(f"standard output is closed, and answers would be lost; {remedy}")
    if not has_titles:
        raise cli.Problem("no titles: give some as arguments, with --csv, or on standard input")
    if bool(args.csv) != bool(has_use):
        other = "and those need --csv, the file to read"
        raise cli.Problem(f"--csv needs --out or --label-column, {other}")
    if args.csv and (args.titles or args.format != "text"):
        raise cli.Problem(f"--csv and {given} exclude one another; --out is CSV")
    if args.text_column and not args.csv:
        raise cli.Problem("--text-column needs --csv, the file to read")
    if args.features and not args.label_column:
        raise cli.Problem("--features needs --label-column: it tells what was in training")
    if args.out and Path(args.out).suffix.lower() not in (".csv", ".tsv"):
        raise cli.Problem(f"--out {args.out}: the name must end in .csv or .tsv")
    if args.csv and not (Path(args.csv).is_file() or Path(args.csv).is_dir()):
        raise cli.Problem(f"--csv {args.csv}: there is no such file, or it is not a plain one")
    if windows.WORLD > 1 and (args.label_column or not args.out):
        only = "--csv with --out only, without --label-column"
        raise cli.Problem(f"several processes share {only}; run one")
    if args.out:
        cli.check_output("--out", args.out)
        if Path(args.out).exists() and os.path.samefile(args.csv, args.out):
            raise cli.Problem(f"--out {args.out}: this is the input file; choose another name")


def check_encoder_options(args, own):
    """Refuse options of the encoder where the runs have none."""
    if by_encoder(own):
        return
    given = {"--model": args.model, "--dtype": args.dtype, "--device": args.device != "auto"}
    for option, value in given.items():
        if value:
            raise cli.Problem(f"{option}: words need no encoder; leave out {option}")


def check_labels(args, columns, classes):
    """Read a test file once, and refuse it where none of its labels is known to the run."""
    checked = data.copy_titles(args.csv, *columns, io.BytesIO(), least=1)
    if not set(checked.classes) & set(classes):
        there = ", ".join(repr(name[:40]) for name in list(checked.classes)[:3])
        known = ", ".join(repr(name[:40]) for name in classes[:3])
        known += ", …" if len(classes) > 3 else ""
        wrong = f"none of its labels is known to the run: it holds {there}, the run knows {known}"
        where = f"{args.csv}: column {cli.quote(args.label_column)}"
        raise cli.Problem(f"{where}: {wrong}; name another --label-column")


def training_keys(own, folder):
    """The splits.group_key of every title that was in training; none where it cannot be known.

    own: the runs; folder: of their features, None for where they were.
    """
    keys = set()
    # runs on the same titles need them once
    for run in {run.config.data.titles: run for run in own}.values():
        try:
            titles = runs.features_of(run, folder and [folder]).titles()[0]
        except cli.Problem as error:
            if folder:
                raise
            cli.say(f"which titles were in training cannot be checked: {error}")
            return set()
        keys.update(map(splits.group_key, titles))
    return keys


def predict_all(classifier, args, form, table=None):
    """Predict all titles, and print them, or keep them to be scored: (bulk.Outcome, Windows)."""
    outcome = bulk.Outcome()
    kept = []
    if form.kind == "csv" and not table:
        output.write_header(output.Terminal(), ["title"], form)
    with cli.progress(None, " titles", shown=bool(table), desc="predict") as bar:
        for _, window in predict(classifier, read_titles(args, table)):
            if table:
                kept.append(window)
            else:
                output.write(output.Terminal(), window, form)
                # who feeds standard input may wait for it
                print(end="", flush=True)
            outcome.add(window, form.least)
            bar.update(len(window.items))
    return outcome, kept


def score_file(args, own):
    """Predict a test file, print how good that is, and, with --out, write it: a bulk.Outcome."""
    columns = [args.text_column or "title", args.label_column]
    # a fault here should not cost the loading of an encoder
    check_labels(args, columns, own[0].classes)
    training = training_keys(own, args.features)
    table = tables.open_table(args.csv, columns)
    form = output.choose_format(args, own[0].classes, table.form)
    if args.out:
        bulk.check_header(args, table, form)
    classifier = load([run.folder for run in own], args.model, args.device, args.dtype)
    outcome, kept = predict_all(classifier, args, form, table)
    # nothing is written before all of it is predicted
    if args.out:
        with disk.atomic(args.out, "w", **output.encoding_of(form.table)) as file:
            output.write_header(file, table.header, form)
            for window in kept:
                output.write(file, window, form)
    print(score_predictions(own, kept, table.places[1], args, training))
    return outcome


def score_predictions(own, windows, label, args, training):
    """The score.report of a test file.

    own: the runs; label: number of the cell with the true category; training: of training_keys.
    """
    items = [item for window in windows for item in window.items]
    known = score.Known(
        titles=[item.title for item in items],
        labels=[" ".join(item.cells[label].split()) for item in items],
        probabilities=np.concatenate([window.probabilities for window in windows]),
        named=np.concatenate([window.named for window in windows]),
    )
    return score.report(own, known, training, args.at_least)


def say_outcome(outcome, seconds, args):
    """Say how many titles were predicted, and what of them is worth knowing."""
    text = f"{cli.count(outcome.titles, 'title')} predicted in {seconds:.1f} s"
    if outcome.cut:
        text += f", {outcome.cut:,} cut, as they are longer than the encoder reads"
    if outcome.blank:
        text += f", {outcome.blank:,} without text"
    if args.at_least:
        why = f"as no category reaches a probability of {args.at_least:g}"
        text += f", {outcome.unsure:,} without an answer, {why}"
    if args.out:
        text += f". Written to {args.out}"
    cli.say(text)


def main(args):
    # what is to be applied, and to what
    places, behind = split_runs(args.run or [None])
    own = [find_run(place, places) for place in places]
    args.model, further = split_models(args.model or [], own)
    args.titles = behind + further + args.titles
    check_arguments(args)
    check_encoder_options(args, own)
    # a test file, a file, or titles that somebody types
    started = time.time()
    if args.label_column:
        outcome = score_file(args, own)
    elif args.csv:
        outcome = bulk.predict_file(args, own)
    else:
        form = output.choose_format(args, own[0].classes)
        classifier = load([run.folder for run in own], args.model, args.device, args.dtype)
        started = time.time()
        outcome = predict_all(classifier, args, form)[0]
    if outcome:
        say_outcome(outcome, time.time() - started, args)


if __name__ == "__main__":
    cli.launch(main, ARGUMENTS)

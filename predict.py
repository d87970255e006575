"""Apply a trained run to new titles, or score it on a test file.

    python predict.py --run results/RUN "Street food in Rome" "How to paint a sunset"
    cat titles.txt | python predict.py --run results/RUN --format jsonl
    python predict.py --run results/RUN --csv new.csv --out labelled.csv
    python predict.py --run results/RUN --csv test.csv --label-column category

The opinions of the run's heads are pooled, then its temperature is applied. The encoder runs no deeper than the
run needs. From Python: predict.table(predict.load("results/RUN"), ["a title", "another"]).
"""

import cli


def parse_arguments(argv=None):
    parser = cli.parser(__doc__)
    add, kinds = parser.add_argument, ("auto", "float32", "bfloat16", "float16")
    add("titles", nargs="*", metavar="TITLE", help="without any, and without --csv, standard input is read")
    add("--run", metavar="FOLDER", help="the run to apply: what train.py made, a copy of it, or results with one run")
    add("--model", metavar="NAME", help="where the run's encoder is found here (default: the name in the run)")
    add("--csv", metavar="IN.csv", help="read titles from a CSV file")
    add("--out", metavar="OUT.csv", help="with --csv: the file to write, with all columns of IN.csv")
    add("--text-column", default="title", metavar="NAME", help="with --csv: column of the titles")
    add("--label-column", metavar="NAME", help="with --csv: column of the true categories, to score the predictions")
    add("--features", metavar="FOLDER", help="with --label-column: the run's features (default: where they were)")
    add("--format", choices=("text", "csv", "jsonl"), default="text", help="of what is printed")
    top = "give the N likeliest categories only (default: one as text, else all)"
    add("--top", type=cli.number(int, 1), metavar="N", help=top)
    add("--dtype", choices=kinds, help="what the encoder computes in (default: as for the run's features)")
    add("--device", default="auto", metavar="auto|cpu|cuda[:n]", help="where to compute")
    add("--window", type=cli.number(int, 1), default=4096, metavar="TITLES", help="most titles computed together")
    return parser.parse_args(argv)


if __name__ == "__main__":
    ARGUMENTS = cli.begin(parse_arguments)

import contextlib
import csv
import io
import itertools
import json
import os
import re
import sys
import time
from pathlib import Path

import numpy as np
import torch

import data
import metrics
import model
import runs
import splits
import store
from encoder import embed, load_encoder, windows_ahead

# what moves a terminal's cursor, changes its colours or turns text around; tabs and new lines do no harm
UNSAFE = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def load(folder, name=None, device="auto", dtype=None):
    """A run and its encoder, ready to predict: (config, encoder, forward, state). What does not fit is a cli.Problem.

    folder: a run, or results that hold one; name: where the encoder is found, as --model; dtype: auto, float32,
    bfloat16 or float16, what the encoder computes in. Name and dtype are the run's own where they are not given.
    """
    folder = runs.find(folder)
    config = runs.open_(folder)
    head, state = model.read_heads(folder, config)
    settings, trained = config["settings"], config["encoder"]
    place, poolings = name or trained["name"], tuple({pooling for pooling, _ in config["columns"]})
    try:
        encoder = load_encoder(place, device, dtype or settings["dtype"], settings["max_length"], poolings)
    except cli.Problem as error:
        if name or not str(error).startswith("--model "):
            raise
        raise cli.Problem(f"{folder}: no encoder to run it with; say with --model where it is ({error})") from None
    for what in ("weights", "tokenizer"):
        if encoder.info[what] != trained[what]:
            pinned = f"{trained['name'].partition('@')[0]}@{trained.get('revision')}"
            hint = f"--model {pinned}" if trained.get("revision") else "--model"
            wrong = f"not the encoder that {folder} was trained with, its {what} differ"
            raise cli.Problem(f"{encoder.name}: {wrong}; name the right one with {hint}")
    state = {key: value.to(encoder.device) for key, value in state.items()}
    return config, encoder, model.stacked(head, shared=True), state


def predict(classifier, windows):
    """Yield (items, probabilities, titles cut) for each window, a list of (title, whatever goes with it).

    probabilities: (items, classes) float64, not-a-number where a title has no text. A window waits until the next one
    is there and can be tokenised beside it; an empty one makes no work and lets the one before it through.
    """
    config, encoder, forward, state = classifier
    columns = [tuple(column) for column in config["columns"]]
    layers, poolings = sorted({layer for _, layer in columns}), tuple({pooling for pooling, _ in columns})
    placed = ((items, [i for i, (title, _) in enumerate(items) if not data.is_blank(title)]) for items in windows)
    texts = (((items, place), [items[i][0] for i in place] or ["-"]) for items, place in placed)
    for (items, place), tokenised in windows_ahead(encoder, texts):
        probabilities = np.full((len(items), len(config["classes"])), np.nan)
        if place:
            values = embed(encoder, tokenised, layers, poolings)
            # through the numbers that were stored, so that predictions are those of the features the heads know
            stored = [values[column].astype(config["settings"]["store"]).astype(np.float32) for column in columns]
            x = torch.from_numpy(np.stack(stored, axis=1)).to(encoder.device)
            mean = model.mean_probabilities(forward, state, x).cpu().numpy()
            probabilities[place] = metrics.sharpen(mean, config["results"]["temperature"])
        yield items, probabilities, tokenised[2]


def table(classifier, titles, window=4096):
    """A pandas DataFrame of predictions, a row for each of a list of titles: title, prediction, probability, and
    "probability of …" for each category; where a title has no text, the others are empty."""
    import pandas

    check_titles(titles := list(titles))
    classes, windows = classifier[0]["classes"], in_windows([(title, None) for title in titles], window)
    rows = np.concatenate([np.empty((0, len(classes))), *(part for _, part, _ in predict(classifier, windows))])
    best = [None if np.isnan(row[0]) else classes[row.argmax()] for row in rows]
    return pandas.DataFrame(
        dict(zip(["title", *new_columns(classes)], [titles, best, rows.max(1), *rows.T], strict=True))
    )


def check_titles(titles):
    """Refuse what is no text."""
    for title in titles:
        if wrong := data.fault(title) if isinstance(title, str) else "no text":
            raise cli.Problem(f"title {title!r:.80}: holds {wrong}")


def in_windows(items, size):
    """Lists of at most `size` items."""
    items = iter(items)
    while window := list(itertools.islice(items, size)):
        yield window


def standard_input(size):
    """Yield lists of at most `size` lines as soon as they are there, then an empty one, which lets them through."""
    if sys.stdin.isatty():
        cli.say("type titles, one a line; Ctrl-D ends")
    source, begun = getattr(sys.stdin, "buffer", None) or io.BytesIO(sys.stdin.read().encode()), b""
    for block in itertools.chain(iter(lambda: source.read1(1 << 20), b""), [b""]):  # what is there, at least a byte
        *whole, begun = (begun + (block or b"\n" * bool(begun))).split(b"\n")  # the end ends the last line, too
        yield from in_windows((line.decode("utf-8", "replace").strip("\r\n\ufeff") for line in whole), size)
        yield []


def new_columns(classes, top=None):
    """The names of the columns that predictions add."""
    if top:
        ranks = ["", *(f" {n}" for n in range(2, min(top, len(classes)) + 1))]
        return [name + rank for rank in ranks for name in ("prediction", "probability")]
    return ["prediction", "probability", *(f"probability of {cli.one_line(name)}" for name in classes)]


def write(file, sheet, kind, classes, top, items, probabilities):
    """Write one window of (title, cells) with its probabilities as lines of text, JSON or CSV.

    kind: text, jsonl, csv (printed: nothing in it does anything to a terminal), or table (the user's own cells, kept),
    for which `sheet` is the writer of the file's CSV.
    """
    ascii_only, width = not (file.encoding or "utf").lower().startswith("utf"), min(30, max(map(len, classes)))
    for (title, cells), row in zip(items, probabilities, strict=True):
        order = [] if np.isnan(row[0]) else np.argsort(-row, kind="stable")[: top or 1]
        best = [(classes[i], float(row[i])) for i in order]
        every = best if top or not best else list(zip(classes, row.tolist(), strict=True))
        if kind == "jsonl":
            label, sure = best[0] if best else (None, 0.0)
            item = {"title": title, "prediction": label, "probability": round(sure, 6)}
            item["probabilities"] = {name: round(value, 6) for name, value in every}
            print(printable(json.dumps(item, ensure_ascii=ascii_only)), file=file)
        elif kind == "text":
            pairs = [f"{cli.one_line(name):<{width}}  {value:.3f}" for name, value in best or [("", 0.0)]]
            print("  ".join([*pairs, cli.one_line(title)]).rstrip(), file=file)
        else:
            new = [cell for name, value in best for cell in (cli.escape_cell(name), f"{value:.6f}")]
            new += [] if top else [f"{value:.6f}" for _, value in every]
            cells = [*cells, *(new or [""] * len(new_columns(classes, top)))]
            sheet.writerow(cells if kind == "table" else map(printable, cells))
    file.flush()


def printable(text):
    """The text with control characters written as JSON and Python write them."""
    return UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def training_keys(config, folder):
    """splits.group_key of every title that the run was trained on; none where its features are gone, which is said."""
    try:
        return set(map(splits.group_key, runs.features_of(config, folder).titles()[0]))
    except cli.Problem as error:
        if folder:
            raise
        cli.say(f"which titles were in training cannot be checked: {error}")
        return set()


def report(classes, titles, labels, probabilities, training):
    """Markdown that says how good the predictions for a test file are.

    titles, labels: lists; probabilities: (titles, classes); training: what training_keys gives. A label that the run
    does not know is a class of its own, which is never predicted.
    """
    keys, names = list(map(splits.group_key, titles)), [*classes, *sorted(set(labels) - set(classes))]
    number, predictions, groups = dict(zip(names, itertools.count())), probabilities.argmax(1), splits.numbered(keys)
    truth = np.array([number[label] for label in labels])
    known, seen = truth < len(classes), np.array([key in training for key in keys])
    rows, text, shown = [], [], list(map(cli.escape_markdown, names))
    for name, chosen in [("all", seen | True), ("not in training", ~seen)][: 1 + (seen.any() and not seen.all())]:
        row = metrics.influences(truth[chosen], predictions[None, chosen], len(names), groups[chosen])
        some, interval = chosen & known, "{:.4f} to {:.4f}".format(*metrics.interval(row))
        loss = f"{metrics.log_loss(truth[some], probabilities[some]):.4f}" if some.any() else "–"
        error = metrics.expected_calibration_error(truth[chosen], probabilities[chosen])
        rows.append([name, f"{chosen.sum():,}", f"{row['value']:.4f}", interval, loss, f"{error:.4f}"])
    if training:
        text.append(f"Of the {len(seen):,} titles, {seen.sum():,} were in training, as they are or as copies.")
    if not known.all():
        unknown = [f"{name} ({labels.count(name):,})" for name in names[len(classes) :]]
        listed = cli.escape_markdown(", ".join(unknown[:8]) + ", …" * (len(unknown) > 8))
        text.append(f"Labels that the run does not know count as errors, and not in the log loss: {listed}.")
    if few := row["too_few"]:
        text.append(f"Too few titles for the interval to be trusted: {', '.join(shown[i] for i in few[:8])}.")
    if len(names) <= 12:
        matrix = metrics.confusion_matrix(truth, predictions, len(names))[:, : len(classes)].tolist()
        lines = [[name, *counts] for name, counts in zip(shown, matrix, strict=True)]
        text.append(cli.markdown([":Label ↓ prediction →", *shown[: len(classes)]], lines))
    heading = [":Titles", "Number", "Macro-F1", "95% interval", "Log loss", "ECE (15 bins)"]
    return "\n\n".join([cli.markdown(heading, rows), *text])


def check_arguments(args):
    """Refuse what contradicts itself before anything slow is done."""
    check_titles(args.titles)
    missing, asked = args.csv and not Path(args.csv).is_file(), args.csv or args.titles or sys.stdin
    for wrong, text in (
        (not asked, "no titles: give some as arguments, with --csv, or on standard input"),
        (not args.csv and (args.out or args.label_column), "--out and --label-column need --csv, the file to read"),
        (args.csv and not (args.out or args.label_column), "--csv needs --out, a file to write, or --label-column"),
        (args.label_column == args.text_column, "--text-column and --label-column are the same; name two columns"),
        (args.csv and args.titles, "titles as arguments and --csv exclude one another; use one of them"),
        (args.csv and args.format != "text", "--format is for titles that are not in a file; --out is always CSV"),
        (missing, f"--csv {args.csv}: there is no such file, or it is not a plain one"),
    ):
        if wrong:
            raise cli.Problem(text)
    if args.out:
        cli.check_output("--out", args.out)
        if Path(args.out).exists() and os.path.samefile(args.csv, args.out):
            raise cli.Problem(f"--out {args.out}: this is the input file; choose another name")


def main(args):
    check_arguments(args)
    folder = runs.find(args.run)
    config = runs.open_(folder)
    classes, kind, header, labels = config["classes"], args.format, ["title"], []
    if args.csv:
        kind, rows = "table", data.read_table(args.csv, [args.text_column, *filter(None, [args.label_column])])
        header = next(rows)
        if twice := args.out and sorted(set(header) & set(new_columns(classes, args.top))):
            raise cli.Problem(f"{args.csv}: rename its column {twice[0]!r}; predictions would add one of that name")
        text = header.index(args.text_column)
        if args.label_column:  # read at once: a fault in it should not cost the loading of an encoder
            rows, label = list(rows), header.index(args.label_column)
            lacking = [row for row, cells in rows if data.is_blank(cells[text]) or data.is_blank(cells[label])]
            if lacking or not rows:
                where = f"row {lacking[0]} lacks its title or its label" if lacking else "there is no row with data"
                raise cli.Problem(f"{args.csv}: {where}; fill it in or delete it")
            titles, labels = [cells[text] for _, cells in rows], [" ".join(cells[label].split()) for _, cells in rows]
            training = training_keys(config, args.features)
        windows = in_windows(((cells[text], cells) for _, cells in rows), args.window)
    else:
        lines = in_windows(args.titles, args.window) if args.titles else standard_input(args.window)
        windows = ([(title, [cli.escape_cell(title)]) for title in window] for window in lines)
    classifier = load(folder, args.model, args.device, args.dtype)
    started, counts, kept = time.time(), np.zeros(3, int), []
    options = {"mode": "w", "encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
    printed = contextlib.nullcontext(None if args.csv else sys.stdout)
    bar = cli.progress(None, " titles", desc="predict", **({} if args.csv else {"disable": True}))
    with bar, store.atomic(args.out, **options) if args.out else printed as file:
        # with both signs at the ends of lines, a lone return in one of the user's cells gets quotes
        sheet = file and csv.writer(file, lineterminator="\r\n" if args.out else "\n")
        if file and kind in ("table", "csv"):
            sheet.writerow(header + new_columns(classes, args.top))
        for items, probabilities, cut in predict(classifier, windows):
            if file:
                write(file, sheet, kind, classes, args.top, items, probabilities)
            kept += [probabilities] if labels else []
            counts += len(items), cut, np.isnan(probabilities[:, 0]).sum()
            bar.update(len(items))
    if labels:
        print(report(classes, titles, labels, np.concatenate(kept), training))
    count, cut, blank = counts.tolist()
    text = f"{cli.count(count, 'title')} predicted in {time.time() - started:.1f} s"
    text += f", {cut:,} cut at {classifier[1].max_length} tokens" if cut else ""
    text += f", {blank:,} without text" if blank else ""
    cli.say(text + (f". Written to {args.out}" if args.out else ""))


if __name__ == "__main__":
    cli.launch(main, ARGUMENTS)

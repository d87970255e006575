"""Apply a trained run to new titles.

    python predict.py --run results/RUN "Street food in Rome" "How to paint a sunset"
    cat titles.txt | python predict.py --run results/RUN --format jsonl
    python predict.py --run results/RUN --csv new.csv --out labelled.csv

The probabilities of the run's heads, one for each fold, are averaged. The encoder runs no deeper than the run needs.
"""

import argparse

import cli


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "titles",
        nargs="*",
        metavar="TITLE",
        help="titles; without any, and without --csv, standard input is read, a title a line",
    )
    add("--run", metavar="FOLDER", help="the run to apply: a folder that train.py made, or a copy of one (needed)")
    add("--model", metavar="NAME", help="where the run's encoder is found here (default: the name in the run)")
    add("--csv", metavar="IN.csv", help="read titles from a CSV file; all its columns are kept")
    add("--out", metavar="OUT.csv", help="with --csv: the file to write")
    add("--text-column", default="title", help="with --csv: column of the titles (default: title)")
    add("--format", choices=("text", "csv", "jsonl"), default="text", help="of what is printed (default: text)")
    add("--device", default="auto", metavar="auto|cpu|cuda[:n]", help="where to compute (default: auto)")
    add(
        "--window",
        type=cli.number(int, 1),
        default=4096,
        metavar="TITLES",
        help="titles computed together (default: 4096)",
    )
    add("--quiet", action="store_true", help="print nothing but predictions and errors")
    return parser.parse_args(argv)


if __name__ == "__main__":
    ARGUMENTS = cli.begin(
        parse_arguments
    )  # before the slow imports, so that --help and wrong options are answered at once

import contextlib
import csv
import itertools
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch

import data
import model
import store
from encoder import embed, load_encoder, windows_ahead


def load_classifier(folder, name=None, device="auto"):
    """A run and its encoder, ready to predict: (config, encoder, forward, state). What does not fit is a Problem."""
    (config,) = store.open_run(folder)
    if "columns" not in config:
        raise cli.Problem(f"{folder}: a baseline, kept for the table only; name a run that train.py made")
    forward, state = model.read_heads(folder, config)
    settings, trained = config["settings"], config["encoder"]
    poolings = tuple({pooling for pooling, _ in config["columns"]})
    encoder = load_encoder(name or trained["name"], device, settings["dtype"], settings["max_length"], poolings)
    for what in ("weights", "tokenizer"):
        if encoder.info[what] != trained[what]:
            pinned = (
                f" (--model {trained['name'].partition('@')[0]}@{trained['revision']})" if trained["revision"] else ""
            )
            raise cli.Problem(
                f"{encoder.name}: not the encoder that {folder} was trained with, its {what} differ; name the "
                f"right one with --model{pinned}"
            )
    return config, encoder, forward, {key: value.to(encoder.device) for key, value in state.items()}


def predict(classifier, windows):
    """Yield (key, (titles, classes) float32 probabilities, titles cut) for each (key, titles) of `windows`."""
    config, encoder, forward, state = classifier
    columns = [tuple(column) for column in config["columns"]]
    layers, poolings = sorted({layer for _, layer in columns}), tuple({pooling for pooling, _ in columns})
    heads = len(next(iter(state.values())))
    for key, tokenised in windows_ahead(encoder, windows):
        values = embed(encoder, tokenised, layers, poolings)
        # through the numbers that were stored, so that predictions are those of the features the heads know
        x = np.stack(
            [values[column].astype(config["settings"]["store"]).astype(np.float32) for column in columns], axis=1
        )
        with torch.inference_mode():
            x = torch.from_numpy(x).to(encoder.device)
            parts = [forward(state, part.expand(heads, *part.shape)).softmax(-1).mean(0) for part in x.split(1024)]
        yield key, torch.cat(parts).cpu().numpy(), tokenised[2]


def in_windows(items, size):
    """Lists of at most `size` items."""
    items = iter(items)
    while window := list(itertools.islice(items, size)):
        yield window


def predict_items(classifier, items, title_of, window):
    """Yield (item, (classes,) probabilities, whether a title of its window was cut) for each item, in order.

    The probabilities are None where an item has no text, so that what is written stays in step with what was read.
    """
    blank = lambda item: data.is_blank(title_of(item))
    windows = (
        (part, [title_of(item) for item in part if not blank(item)] or ["-"]) for part in in_windows(items, window)
    )
    for part, probabilities, cut in predict(classifier, windows):
        rows = iter(probabilities)
        for number, item in enumerate(part):
            yield item, None if blank(item) else next(rows), cut if number == 0 else 0


def predict_lines(classifier, titles, args):
    """Print a prediction for each title, an empty one for a blank line; returns (titles, titles cut, blank ones)."""
    classes, count, cut, blank = classifier[0]["classes"], 0, 0, 0
    writer, width = csv.writer(sys.stdout, lineterminator="\n"), min(30, max(map(len, classes)))
    if args.format == "csv":
        writer.writerow(["title", *new_columns(classes)])
    for title, row, over in predict_items(classifier, titles, str, args.window):
        count, cut, blank = count + 1, cut + over, blank + (row is None)
        label, best = ("", 0.0) if row is None else (classes[int(row.argmax())], float(row.max()))
        if args.format == "csv":
            writer.writerow([cli.escape_cell(title), *new_cells(classes, row)])
        elif args.format == "jsonl":
            values = {} if row is None else {c: round(float(p), 6) for c, p in zip(classes, row)}
            print(
                json.dumps(
                    {
                        "title": title,
                        "prediction": label or None,
                        "probability": round(best, 6),
                        "probabilities": values,
                    },
                    ensure_ascii=False,
                )
            )
        else:
            print(f"{cli.one_line(label):<{width}}  {best:.3f}  {cli.one_line(title)}".rstrip())
    return count, cut, blank


def predict_table(classifier, args):
    """Write the input file with its predictions to --out; returns (titles, titles cut, blank ones)."""
    classes = classifier[0]["classes"]
    table = data.read_table(args.csv, [args.text_column])
    header = next(table)
    column, added = header.index(args.text_column), new_columns(classes)
    twice = sorted(set(header) & set(added))
    if twice:
        raise cli.Problem(
            f"{args.csv}: it has a column {twice[0]!r} already, which the predictions would add; rename it"
        )
    count, cut, blank = 0, 0, 0
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(store.atomic(args.out, "w", encoding="utf-8", errors="surrogateescape", newline=""))
        bar = stack.enter_context(cli.progress(None, " titles", args.quiet, desc="predict"))
        writer = csv.writer(file, lineterminator="\r\n")  # csv quotes a lone return only where it is part of line ends
        writer.writerow(header + added)
        rows = (cells for _, cells in table)
        for cells, row, over in predict_items(classifier, rows, lambda cells: cells[column], args.window):
            writer.writerow(cells + new_cells(classes, row))
            count, cut, blank = count + 1, cut + over, blank + (row is None)
            bar.update()
    return count, cut, blank


def new_columns(classes):
    """The names of the columns that predictions add."""
    return ["prediction", "probability", *(f"probability of {cli.one_line(name)}" for name in classes)]


def new_cells(classes, row):
    """The cells of those columns for one title, empty ones where there are no probabilities."""
    if row is None:
        return [""] * (2 + len(classes))
    return [cli.escape_cell(classes[int(row.argmax())]), f"{row.max():.6f}", *(f"{p:.6f}" for p in row)]


def check_arguments(args):
    """Refuse what contradicts itself before anything slow is done."""
    if not args.run:
        there = sorted(
            path.parent.name for path in Path("results").glob("*/config.json") if "-baseline-" not in path.parent.name
        )
        known = f"; in results/ there are: {', '.join(there[:8])}{', …' if len(there) > 8 else ''}" if there else ""
        raise cli.Problem(f"--run: name the folder of the run to apply{known}")
    if bool(args.csv) != bool(args.out):
        raise cli.Problem("--csv and --out go together: the file to read and the file to write")
    if args.csv and args.titles:
        raise cli.Problem("titles as arguments and --csv exclude one another; use one of them")
    if args.csv and args.format != "text":
        raise cli.Problem("--format is for what is printed; --out is always CSV")
    if args.csv and not Path(args.csv).is_file():
        raise cli.Problem(f"--csv {args.csv}: there is no such file, or it is not a plain one")
    for title in args.titles:
        if data.fault(title):
            raise cli.Problem(f"TITLE {title!r}: holds {data.fault(title)}")
    if args.out:
        cli.check_output("--out", args.out)
    if args.out and Path(args.out).exists() and os.path.samefile(args.csv, args.out):
        raise cli.Problem(f"--out {args.out}: this is the input file; choose another name")


def standard_input():
    """The titles on standard input, a line each."""
    if sys.stdin is None:
        raise cli.Problem("no titles: give some as arguments, with --csv, or on standard input")
    if sys.stdin.isatty():
        cli.say("type titles, one a line; Ctrl-D ends")
    for line in sys.stdin.buffer if hasattr(sys.stdin, "buffer") else sys.stdin:
        yield (line.decode("utf-8", "replace") if isinstance(line, bytes) else line).strip("\r\n\ufeff")


def main(args):
    check_arguments(args)
    if args.csv:
        next(data.read_table(args.csv, [args.text_column]))  # a wrong column should not cost the loading of an encoder
    classifier = load_classifier(args.run, args.model, args.device)
    started = time.time()
    count, cut, blank = (
        predict_table(classifier, args)
        if args.csv
        else predict_lines(classifier, args.titles or standard_input(), args)
    )
    notes = [f"{cut:,} cut at {classifier[1].max_length} tokens"] * bool(cut) + [f"{blank:,} without text"] * bool(
        blank
    )
    seconds = time.time() - started
    cli.say(
        f"{count:,} titles predicted in {seconds:.1f} s{''.join(f', {note}' for note in notes)}"
        f"{f'. Written to {args.out}' if args.out else ''}",
        args.quiet,
    )


if __name__ == "__main__":
    cli.launch(main, ARGUMENTS)

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
    add("--text-column", metavar="NAME", help="with --csv: column of the titles (default: title)")
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
import sys
import time
from pathlib import Path
from types import SimpleNamespace

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
UNSAFE = [*range(9), *range(0x0B, 0x20), *range(0x7F, 0xA0), 0x61C, 0x200E, 0x200F, *range(0x2028, 0x202F)]
ESCAPES = {code: f"\\u{code:04x}" for code in (*UNSAFE, *range(0x2066, 0x206A))}  # as JSON and Python write them


def load(folder, name=None, device="auto", dtype=None):
    """A run and its encoder, ready to predict: (config, encoder, forward, state). What does not fit is a cli.Problem.

    folder: a run, or results that hold one; name: where the encoder is found, as --model; dtype: auto, float32,
    bfloat16 or float16, what the encoder computes in. Name and dtype are the run's own where they are not given.
    """
    folder = runs.find(folder)
    config = runs.open_(folder)
    head, state = model.read_heads(folder, config)
    settings, own = config["settings"], config["encoder"]
    place, poolings = name or own["name"], tuple({pooling for pooling, _ in config["columns"]})
    cli.choose_device(device)  # a wrong one is no fault of the encoder's
    try:
        encoder = load_encoder(place, device, dtype or settings["dtype"], settings["max_length"], poolings)
        for what in ("weights", "tokenizer"):
            if encoder.info[what] != own[what]:
                raise cli.Problem(f"{place}: not the encoder that the run was trained with, its {what} differ")
    except cli.Problem as error:
        pinned = f"{own['name'].partition('@')[0]}@{own['revision']}" if own.get("revision") else own["name"]
        raise cli.Problem(f"{error} ({folder} needs {pinned}, or --model to say where that is)") from None
    state = {key: value.to(encoder.device) for key, value in state.items()}
    return config, encoder, model.stacked(head, shared=True), state


def in_windows(blocks, size):
    """Yield (items, their texts) for at most `size` (title, …) items of a block at a time, and no items after each.

    What is no title is a cli.Problem, one without text is left out, and a dash stands where nothing else is.
    """
    for block in map(iter, blocks):
        while items := list(itertools.islice(block, size)):
            for title, _ in items:
                if wrong := data.fault(title) if isinstance(title, str) else "no text":
                    raise cli.Problem(f"title {title!r:.80}: holds {wrong}")
            yield items, [title for title, _ in items if not data.is_blank(title)] or ["-"]
        yield [], ["-"]


def predict(classifier, blocks, size=4096):
    """Yield (items, probabilities, titles cut) for each window of at most `size` items; blocks: see in_windows.

    probabilities: (items, classes) float64, not-a-number where a title has no text. A window waits until the next one
    is there and can be tokenised beside it; the empty one after each block lets the block's last one through.
    """
    config, encoder, forward, state = classifier
    columns = [tuple(column) for column in config["columns"]]
    poolings, layers = map(set, zip(*columns, strict=True))
    for items, tokenised in windows_ahead(encoder, in_windows(blocks, size)):
        probabilities = np.full((len(items), len(config["classes"])), np.nan)
        if place := [i for i, (title, _) in enumerate(items) if not data.is_blank(title)]:
            values = embed(encoder, tokenised, layers, poolings)
            # through the numbers that were stored, so that predictions are those of the features the heads know
            stored = [values[column].astype(config["settings"]["store"]).astype(np.float32) for column in columns]
            x = torch.from_numpy(np.stack(stored, axis=1)).to(encoder.device)
            mean = model.mean_probabilities(forward, state, x).cpu().numpy()
            probabilities[place] = metrics.sharpen(mean, config["results"]["temperature"])
        yield items, probabilities, tokenised[2]


def predictions(classes, probabilities, top=None):
    """What is added to a table of titles, as {column: list}: the likeliest category, or the `top` likeliest, each with
    its probability, and without `top` those of all. None and not-a-number stand where a title has no text."""
    order = np.argsort(-probabilities, kind="stable")[:, : top or 1]
    likeliest = np.take_along_axis(probabilities, order, 1)
    names, found = np.where(np.isnan(likeliest), None, np.array(classes, dtype=object)[order]), {}
    for rank, suffix in enumerate(["", *(f" {n}" for n in range(2, order.shape[1] + 1))]):
        found["prediction" + suffix], found["probability" + suffix] = names[:, rank], likeliest[:, rank]
    if not top:
        found |= {f"probability of {cli.one_line(name)}": probabilities[:, i] for i, name in enumerate(classes)}
    return {name: values.tolist() for name, values in found.items()}


def table(classifier, titles):
    """A pandas DataFrame of predictions, a row for each of a list of titles: title, prediction, probability, and
    "probability of …" for each category; where a title has no text, the others are empty."""
    import pandas

    titles = list(titles)
    found = [probabilities for _, probabilities, _ in predict(classifier, [[(title, None) for title in titles]])]
    return pandas.DataFrame({"title": titles, **predictions(classifier[0]["classes"], np.concatenate(found))})


def standard_input():
    """Yield lists of the lines that are there, as soon as they are; bytes that are not UTF-8 become �."""
    if sys.stdin.isatty():
        cli.say("type titles, one a line; Ctrl-D ends")
    begun = b""
    for block in itertools.chain(iter(lambda: sys.stdin.buffer.read1(1 << 20), b""), [b""]):
        *whole, begun = (begun + (block or b"\n" * bool(begun))).split(b"\n")  # the end ends the last line, too
        yield [line.decode("utf-8", "replace").strip("\r\n\ufeff") for line in whole]


def write(file, sheet, kind, classes, top, items, probabilities):
    """Write a window of (title, cells) with its probabilities to a file as text (with a `top`), as JSON, or as CSV."""
    ascii_only, width = not (sys.stdout.encoding or "utf").lower().startswith("utf"), min(30, max(map(len, classes)))
    for (title, cells), *row in zip(items, *predictions(classes, probabilities, top).values(), strict=True):
        names, values = (row[::2], row[1::2]) if top else (classes, row[2:])
        pairs = list(zip(names, values, strict=True)) if row[0] else []
        if kind == "text":
            words = [f"{cli.one_line(name):<{width}}  {value:.3f}" for name, value in pairs or [("", 0.0)]]
            print("  ".join([*words, cli.one_line(title)]).rstrip(), file=file)
        elif kind == "jsonl":
            label, sure = row[:2] if pairs else (None, 0.0)
            item = {"title": title, "prediction": label, "probability": round(sure, 6)}
            item["probabilities"] = {name: round(value, 6) for name, value in pairs}
            print(json.dumps(item, ensure_ascii=ascii_only), file=file)
        else:
            new = [cli.escape_cell(cell) if isinstance(cell, str) else f"{cell:.6f}" for cell in row if pairs]
            sheet.writerow(cells + (new or [""] * len(row)))


def report(classes, items, labels, probabilities, training):
    """Markdown that says how good the predictions for a test file are.

    items: (title, …) each; labels: a list; probabilities: (titles, classes); training: splits.group_key of what was in
    training. A label that the run does not know is a class of its own, which is never predicted.
    """
    names, keys = [*classes, *sorted(set(labels) - set(classes))], [splits.group_key(title) for title, _ in items]
    truth, predicted = splits.numbered([*names, *labels])[len(names) :], probabilities.argmax(1)
    known, groups, seen = truth < len(classes), splits.numbered(keys), np.array([key in training for key in keys])
    rows, shown = [], [cli.escape_markdown(name) for name in names]
    for name, chosen in (("all", seen | True), ("not in training", ~seen)):
        if not rows or seen.any() and not seen.all():
            row = metrics.influences(truth[chosen], predicted[chosen], len(names), groups[chosen])
            some, interval = chosen & known, "{:.4f} to {:.4f}".format(*metrics.interval(row))
            loss = f"{metrics.log_loss(truth[some], probabilities[some]):.4f}" if some.any() else "–"
            error = metrics.expected_calibration_error(truth[chosen], probabilities[chosen])
            rows.append([name, f"{chosen.sum():,}", f"{row['value']:.4f}", interval, loss, f"{error:.4f}"])
    text = [cli.markdown([":Titles", "Number", "Macro-F1", "95% interval", "Log loss", "ECE (15 bins)"], rows)]
    if training:
        text.append(f"Of the {len(seen):,} titles, {seen.sum():,} were in training, as they are or as copies.")
    if unknown := [f"{name} ({labels.count(name):,})" for name in names[len(classes) :]]:
        listed = cli.escape_markdown(", ".join(unknown[:8]) + ", …" * (len(unknown) > 8))
        text.append(f"Labels that the run does not know count as errors, and not in the log loss: {listed}.")
    if few := row["too_few"]:
        text.append(f"Too few titles for the interval to be trusted: {', '.join(shown[i] for i in few[:8])}.")
    if len(names) <= 12:
        matrix = metrics.confusion_matrix(truth, predicted, len(names))[:, : len(classes)].tolist()
        lines = [[name, *counts] for name, counts in zip(shown, matrix, strict=True)]
        text.append(cli.markdown([":Label ↓ prediction →", *shown[: len(classes)]], lines))
    return "\n\n".join(text)


def check_arguments(args):
    """Refuse what contradicts itself before anything slow is done."""
    asked, used = args.csv or args.titles or sys.stdin, args.out or args.label_column
    given = "titles as arguments" if args.titles else "--format"
    missing = args.csv and not Path(args.csv).is_file()
    for wrong, text in (
        (not asked, "no titles: give some as arguments, with --csv, or on standard input"),
        (bool(args.csv) != bool(used), "--csv needs --out or --label-column, and those need --csv, the file to read"),
        (args.csv and (args.titles or args.format != "text"), f"--csv and {given} exclude one another; --out is CSV"),
        (args.text_column and not args.csv, "--text-column needs --csv, the file to read"),
        (args.features and not args.label_column, "--features needs --label-column: it tells what was in training"),
        (args.out and Path(args.out).suffix.lower() != ".csv", f"--out {args.out}: the name must end in .csv"),
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
    args.text_column = args.text_column or "title"
    folder = runs.find(args.run)
    config = runs.open_(folder)
    classes, kind, header = config["classes"], "csv" if args.csv else args.format, ["title"]
    top = 1 if kind == "text" and not args.top else args.top
    added, training, kept = list(predictions(classes, np.empty((0, len(classes))), top)), set(), []
    if args.label_column:  # a fault here should not cost the loading of an encoder
        data.copy_titles(args.csv, args.text_column, args.label_column, io.BytesIO(), least=1)
        try:
            training = set(map(splits.group_key, runs.features_of(config, args.features).titles()[0]))
        except cli.Problem as error:
            if args.features:
                raise
            cli.say(f"which titles were in training cannot be checked: {error}")
    if args.csv:
        rows = data.read_table(args.csv, [args.text_column, *filter(None, [args.label_column])])
        header = next(rows)
        if twice := args.out and sorted(set(header) & set(added)):
            raise cli.Problem(f"{args.csv}: rename its column {twice[0]!r}; predictions would add one of that name")
        text = header.index(args.text_column)
        blocks = [((cells[text], cells) for _, cells in rows)]
    else:
        lists = [args.titles] if args.titles else standard_input()
        blocks = ([(title, [cli.escape_cell(title)]) for title in titles] for titles in lists)
    # a test file that is only scored goes nowhere
    printed = SimpleNamespace(write=lambda text: sys.stdout.write("" if args.csv else text.translate(ESCAPES)))
    out = contextlib.nullcontext(printed)
    if args.out:
        out = store.atomic(args.out, "w", encoding="utf-8", errors="surrogateescape", newline="")
    bar = cli.progress(None, " titles", shown=bool(args.csv), desc="predict")
    classifier = load(folder, args.model, args.device, args.dtype)
    started, counts = time.time(), np.zeros(3, int)
    with bar, out as file:
        # with both signs at the ends of lines, a lone return in one of the user's cells gets quotes
        sheet = csv.writer(file, lineterminator="\r\n" if args.csv else "\n")
        if kind == "csv":
            sheet.writerow(header + added)
        for items, probabilities, cut in predict(classifier, blocks, args.window):
            write(file, sheet, kind, classes, top, items, probabilities)
            sys.stdout.flush()
            kept += [(items, probabilities)] if args.label_column else []
            counts += len(items), cut, np.isnan(probabilities[:, 0]).sum()
            bar.update(len(items))
    if args.label_column:
        items, label = [item for part, _ in kept for item in part], header.index(args.label_column)
        labels = [" ".join(cells[label].split()) for _, cells in items]
        print(report(classes, items, labels, np.concatenate([values for _, values in kept]), training))
    count, cut, blank = counts.tolist()
    text = f"{cli.count(count, 'title')} predicted in {time.time() - started:.1f} s"
    text += f", {cut:,} cut at {classifier[1].max_length} tokens" if cut else ""
    text += f", {blank:,} without text" if blank else ""
    cli.say(text + (f". Written to {args.out}" if args.out else ""))


if __name__ == "__main__":
    cli.launch(main, ARGUMENTS)

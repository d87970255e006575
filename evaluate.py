"""Print what has been trained as a markdown table: macro-F1 with its uncertainty, rows compared,
and what they cost.

    python evaluate.py
    python evaluate.py --baselines --plot layers.png --suspects suspects.csv

The recommended row, or why there is none, comes first.
"""

from whichlayer.common import cli


def parse_arguments(argv=None):
    parser = cli.parser(__doc__)
    add = parser.add_argument
    add("--results", type=cli.path, default="results", metavar="FOLDER", help="where train.py put the runs")
    add(
        "--features",
        type=cli.place,
        nargs="+",
        metavar="FOLDER",
        help="the runs' features, for --suspects and --baselines; of several folders each run finds its own "
        "(default: those each run was trained on)",
    )
    add(
        "--margin",
        type=cli.number(float, 0, 1),
        default=0.01,
        help="the loss of macro-F1 within which a cheaper row is non-inferior and can be recommended",
    )
    add(
        "--plot",
        type=cli.path,
        metavar="FILE",
        help="draw macro-F1 by layer with the recommended row's confusions and calibration to FILE, a .png or .svg, "
        "and where there are runs of --labels, macro-F1 by labels to a second file, FILE-labels; of each further "
        "table to FILE-2, FILE-3 and so on",
    )
    add(
        "--suspects",
        type=cli.path,
        metavar="FILE.csv",
        help="list the titles whose own label is least likely, out of fold; of a further table in FILE-2.csv",
    )
    add(
        "--baselines",
        action="store_true",
        help="add the majority class and TF-IDF, alone and combined with rows of an encoder; kept, and ready to "
        "predict",
    )
    add(
        "--keep",
        type=cli.path,
        metavar="FOLDER",
        help="put the recommended classifier into a folder of its own, a few MB with a model card, for predict.py here "
        "or elsewhere; of several tables, the first one's",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    ARGUMENTS = cli.begin(parse_arguments)

import contextlib

from whichlayer.apply import chosen
from whichlayer.common import disk
from whichlayer.encoder import store
from whichlayer.heads import runs
from whichlayer.report import answer as answers
from whichlayer.report import baselines, page, pictures, rows, suspects


def read(args):
    """The tables that are there, with the baselines that were asked for."""
    every = rows.read_tables(args.results)
    if not every:
        train = cli.command("train.py", results=(args.results, "results"))
        raise cli.Problem(
            f"{args.results}: no runs are there; name the folder that holds them, or train first: {train}"
        )
    # one of earlier titles is neither shown nor recommended from beside others
    tables = [table for table in every if not say_outdated(table)] or every
    check_outputs(args, tables)
    if args.baselines:
        with disk.locked(args.results, "a training"):
            for table in tables:
                baselines.add(table, args.results, args.features)
    return tables


def say_outdated(table):
    """Whether the titles of a table's features have changed since; says so, and how to train anew."""
    own = [row.run for row in table.trained]
    outdated = []
    # of features that are gone, or not whole, nothing is known
    with contextlib.suppress(cli.Problem, OSError):
        features = store.open_features(own[0].made.features)
        outdated = [run for run in own if runs.is_earlier(run, features)]
    if outdated:
        command = outdated[0].made.command
        left_out = "and so is their table, which is left out beside others"
        cli.say(f"{runs.out_of_date(outdated)}, {left_out}; train anew with: {command}")
    return outdated


def check_outputs(args, tables):
    """Refuse what cannot be written before anything is computed."""
    if args.keep:
        chosen.check_keep(args.keep)
    for number, table in enumerate(tables, 1):
        if args.plot:
            pictures.check_path(numbered(args.plot, number))
        if args.suspects:
            suspects.check_path(numbered(args.suspects, number))
            runs.features_of(table.trained[0].run, args.features)


def numbered(path, number):
    """The path for one of the tables: path, path-2 and so on."""
    return path if number == 1 else path.with_stem(f"{path.stem}-{number}")


def recommend(args, table, row, is_first):
    """Give the command that applies a recommended row; the first one is written down, so that predict.py
    needs no names of runs, and kept, if that was asked for.
    """
    place = [run.folder for run in row.runs]
    if is_first:
        own = chosen.combine(row.runs)
        # results that cannot be written to can still be looked at
        with contextlib.suppress(OSError):
            chosen.write(args.results, own)
            place = args.results
        if args.keep:
            chosen.keep(args.keep, own, page.card(table, row))
            place = args.keep
    return cli.command("predict.py", "a title of your own", run=(place, "results"))


def main(args):
    tables = read(args)
    count = 0  # of rows
    following = []

    # what is asked for of each table: the page on standard output, the rest in files, and what to run next
    for number, table in enumerate(tables, 1):
        answer = answers.compare(table, args.margin) if table.rows else None
        count += len(answer.compared if answer else table.learning_curve)
        # before the page, as who reads that may close the pipe after some lines
        if answer and answer.recommended:
            following.append(recommend(args, table, answer.recommended, is_first=not following))
        print(page.page(table, answer), end="\n\n", flush=True)
        if args.plot:
            pictures.draw(numbered(args.plot, number), table, answer)
        if args.suspects:
            suspects.write(numbered(args.suspects, number), table, answer, args.features)
    done = f"{cli.count(count, 'row')} in {cli.count(len(tables), 'table')}, {cli.took()}"
    cli.say(f"{args.results}: {done}")
    for command in following:
        cli.say(f"Next: {command}")
    if not following:
        (args.results / chosen.FILE).unlink(missing_ok=True)
        if args.keep:
            raise cli.Problem(f"--keep {args.keep}: nothing is recommended, so nothing was kept")


if __name__ == "__main__":
    cli.launch(main, ARGUMENTS)

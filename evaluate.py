"""Print what has been trained as a markdown table: macro-F1 with its uncertainty, rows compared,
and what they cost.

    python evaluate.py
    python evaluate.py --baselines --plot layers.png --suspects suspects.csv

The recommended row, or why there is none, comes first.
"""

from whichlayer.common import cli
from whichlayer.heads.options import PROTOCOL


def parse_arguments(argv=None):
    parser = cli.parser(__doc__)
    add = parser.add_argument
    add("--results", type=cli.path, default="results", metavar="FOLDER", help="where train.py put the runs")
    add(
        "--features",
        type=cli.place,
        nargs="+",
        metavar="FOLDER",
        help="the runs' features, for --suspects, --baselines and --verify; of several folders each run finds its own "
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
        help="draw macro-F1 by layer, the recommended row's confusions and its calibration to a .png or .svg file",
    )
    add(
        "--suspects",
        type=cli.path,
        metavar="FILE.csv",
        help="list the titles whose own label is least likely, out of fold",
    )
    add(
        "--baselines",
        action="store_true",
        help="add the majority class, TF-IDF and its averages with rows of an encoder; kept, and ready to predict",
    )
    add(
        "--verify",
        action="store_true",
        help="compute every stored figure again from the heads and the features, and fail where one differs",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    ARGUMENTS = cli.begin(parse_arguments)

import contextlib
import time

from whichlayer.common import disk
from whichlayer.encoder import store
from whichlayer.heads import baselines, runs
from whichlayer.report import answer as answers
from whichlayer.report import report, suspects, verify
from whichlayer.report import table as tables


def check_arguments(args):
    """Refuse what contradicts itself before anything is read."""
    if args.suspects and args.suspects != args.plot:
        suspects.check_path(args.suspects)
    if not args.plot:
        return
    # matplotlib is loaded where it is asked for
    from whichlayer.report import plot

    plot.library()
    if args.plot.suffix.lower() not in (".png", ".svg"):
        raise cli.Problem(f"--plot {args.plot}: the name must end in .png or .svg")
    if args.plot == args.suspects:
        raise cli.Problem(f"--plot and --suspects: both name {args.plot}; name two files")


def check_outputs(args, found):
    """Refuse what cannot be written before anything is computed. found: the tables."""
    for table in found:
        if args.plot:
            from whichlayer.report import plot

            for path in plot.paths(numbered(args.plot, table, found[0])):
                cli.check_output("--plot", path)
        if args.suspects:
            runs.features_of(table.everything[0].run, args.features)
            path = numbered(args.suspects, table, found[0])
            cli.check_output("--suspects", path, named=table is found[0])


def numbered(path, table, first):
    """`path` for the first table; for others, with what distinguishes them from it:
    path-seed-1.png.
    """
    parts = []
    if table.data.titles != first.data.titles:
        parts += [disk.slug(table.data.name), table.data.titles[:8]]
    for name in PROTOCOL:
        value = getattr(table.options, name)
        if value != getattr(first.options, name):
            parts.append(f"{name}-{value}")
    return path.with_stem("-".join([path.stem, *parts]))


def read(args):
    """The tables that are there, with the baselines that were asked for."""
    found = tables.read_tables(args.results)
    if not found:
        raise cli.Problem(f"{args.results}: {why_empty(args.results)}")
    say_outdated(found)
    check_outputs(args, found)
    if not args.baselines:
        return found
    with disk.locked(args.results, "a training"):
        for table in found:
            baselines.add(table, args.results, args.features)
    # what is left out has been said
    return tables.read_tables(args.results, say=lambda line: None)


def why_empty(place):
    """What is wrong with a place where no runs are, and what to do."""
    if place.is_file():
        return "this is a file; name the folder that train.py put the runs in"
    if (place / "config.json").exists():
        beside = cli.command("evaluate.py", results=(place.resolve().parent, "results"))
        return f"this is one run, or something else; the table of the runs beside it: {beside}"
    if (place / "manifest.json").exists():
        following = cli.command("train.py", features=(place, "features"))
        return f"these are features; train on them first: {following}"
    following = cli.command("train.py", results=(place, "results"))
    return f"no runs are there; train some first: {following}"


def say_outdated(found):
    """Say which tables are of earlier titles than the features that their runs were trained on, and
    how to train anew.
    """
    trained = [[row.run for row in table.trained] for table in found]
    places = dict.fromkeys(run.config.made.features for own in trained for run in own)
    every = []
    for place in filter(None, places):
        # of features that are gone, or not whole, nothing is known
        with contextlib.suppress(cli.Problem, OSError):
            every.append(store.open_features(place))
    for own in trained:
        outdated = runs.find_outdated(own, every)
        if outdated:
            made_by = dict.fromkeys(cli.one_line(run.config.made.command) for run in outdated)
            again = " && ".join(list(made_by)[:3])
            what = f"{runs.out_of_date(outdated)}, and so is their table"
            cli.say(f"{what}; train anew with: {again}")


def main(args):
    started = time.time()
    check_arguments(args)
    found = read(args)
    if args.verify:
        for table in found:
            verify.verify(table, args.features)

    # what is asked for of each table: the page on standard output, the rest in files
    pictures = []
    compared = []
    for table in found:
        answer = answers.compare(table, args.margin) if table.rows else None
        compared.append(answer)
        print(report.page(table, answer), end="\n\n", flush=True)
        if args.plot:
            from whichlayer.report import plot

            pictures += plot.draw(numbered(args.plot, table, found[0]), table, answer)
        if args.suspects:
            suspects.write(numbered(args.suspects, table, found[0]), table, answer, args.features)

    # what was done, and what to run next
    count = sum(len(table.trained) for table in found)
    made = f"{cli.count(count, 'run')} in {cli.count(len(found), 'table')}"
    cli.say(f"{args.results}: {made}, {time.time() - started:.1f} s")
    for path in pictures:
        cli.say(f"Picture: {path}")
    for answer in compared:
        if answer and answer.recommended:
            say_next(answer.recommended.run)


def say_next(run):
    """Say how to use a run, or the runs of an average; a file of theirs that is damaged is a
    Problem.
    """
    parts = run.parts or [run]
    for part in parts:
        # what is named as the next command has to work
        for name in part.config.contents:
            part.file(name)
    folders = [part.folder for part in parts]
    cli.say(f"Next: {cli.command('predict.py', 'a title of your own', run=(folders, None))}")


if __name__ == "__main__":
    cli.launch(main, ARGUMENTS)

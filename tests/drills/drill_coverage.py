"""Drill: does the 95% interval of macro-F1 hold what new titles of real data sets show?

    python tests/drills/drill_coverage.py FOLDER > results/coverage.md

FOLDER holds pairs NAME.csv and NAME-test.csv. Titles are drawn from NAME.csv many times, and each draw is trained as
by train.py. The truth is the mean macro-F1 of the draw's heads, each with its own decision, on NAME-test.csv (less
what stands in NAME.csv, too) and on the rest of NAME.csv, which is of the same origin. A category with fewer
distinct titles in a draw than folds is left out of that draw, and of its test titles.
"""

import functools
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas
import torch
from drill_suspects import run  # first: it lets the scripts be imported

# isort: split
import model
from whichlayer.common import cli
from whichlayer.encoder import store
from whichlayer.heads import probe, splits
from whichlayer.heads.options import Options
from whichlayer.scores import calibration, comparison, decision, figures, metrics

TEXT = """# What new titles show

{draws} draws of {titles} titles from each training file; minilm, last layer, mean pooling, linear probe, 5 folds,
3 repeats. *Promised*: out of fold, mean over draws. *Found*: on test titles, by the heads that a draw trained. *Holds
own*, *holds mean*: draws whose 95% interval of macro-F1 holds what was found with this draw, and on average over draws.
*Error*: of what was found, since test titles are a sample, too. Made by `python tests/drills/drill_coverage.py FOLDER`.
"""
COLUMNS = (":Test titles", "Number", "Holds own", "Holds mean", "Width", "Promised", "Deviation", "Found", "Deviation")
COLUMNS += ("Error", "Calibration error promised", "Found", "Log loss promised", "Found")


@functools.lru_cache(1)
def read(folder, name):
    """Of both files: features (titles, 1, hidden), labels (-1: unknown), groups, whether from the training file."""
    both = [store.open_features(folder / f"{name}{end}.csv") for end in ("", "-test")]
    x = [features.stack([("mean", features.layers("mean")[0])]) for features in both]
    titles, categories = map(np.concatenate, zip(*(features.titles() for features in both), strict=True))
    known = pandas.Index(np.unique(categories[: len(x[0])]))
    labels = known.get_indexer(categories)
    groups = splits.numbered(map(splits.group_key, titles))
    return torch.from_numpy(np.concatenate(x)), labels, groups, np.arange(len(labels)) < len(x[0])


def measure(folder, name, size, seed):
    """What a draw promises, and what its heads reach: on the test file, and on the rest of the training file.

    Returns a dictionary for each of these two.
    """
    features, labels, groups, training = read(folder, name)
    options = Options(head="linear", seed=seed)

    # draw, and number the categories that have enough titles
    drawn = np.random.default_rng(seed).choice(np.flatnonzero(training), size, replace=False)
    kept = np.flatnonzero(splits.distinct_titles(labels[drawn], groups[drawn]) >= options.folds)
    labels = pandas.Index(kept).get_indexer(labels)
    drawn = drawn[labels[drawn] >= 0]
    own = labels[drawn]

    # train, and measure out of fold
    folds = splits.repeat_folds(own, groups[drawn], options)
    draws = splits.draw_titles(own, groups[drawn], folds, seed)
    x = features[drawn]  # a copy
    scale = probe.rescale(x)
    trained = probe.train(x, scale, own, folds, draws, len(kept), options.decide)
    named = decision.predictions(trained.probabilities, folds, trained.offsets)
    low, high = comparison.interval(comparison.influence(own, named, len(kept), groups[drawn]))
    promised = figures.measure(own, trained.probabilities, folds, len(kept), trained.offsets)
    of_draw = {"low": low, "high": high, "promised": promised.macro_f1}
    of_draw |= {"promised_error": promised.calibration_error, "promised_loss": promised.log_loss}

    # test on titles without a copy in the training file, or in the draw
    outcomes = []
    origins = {"test file": (~training, groups[training]), "rest of its training file": (training, groups[drawn])}
    for origin, (place, seen) in origins.items():
        rows = place & (labels >= 0) & ~np.isin(groups, seen)
        found = test(trained, promised.temperature, features[rows], labels[rows], groups[rows])
        outcomes.append({"titles": f"{name}, {origin}"} | of_draw | found)
    return outcomes


def test(trained, temperature, x, labels, groups):
    """What heads reach on these titles: macro-F1 (with its error by the choice of titles) is the mean over heads, the
    calibration error and log loss are those of all heads together, as predict.py has them.
    """
    classes = trained.offsets.shape[-1]
    forward = model.stacked(model.Probe(1, x.shape[-1], classes), shared=True)
    probabilities = forward(trained.state, x).softmax(-1).numpy()
    named = decision.decide(probabilities, trained.offsets.reshape(-1, 1, classes))
    reached = comparison.influence(labels, named, classes, groups)
    pooled = calibration.pool([calibration.pool(probabilities)], [1 / temperature])
    return {
        "number": len(labels),
        "found": reached.value,
        "error": reached.titles_variance**0.5,
        "found_error": metrics.expected_calibration_error(labels, pooled),
        "found_loss": metrics.log_loss(labels, pooled),
    }


def summarise(own):
    """What the table says of all draws on one kind of test titles, a DataFrame."""
    mean = own.mean(numeric_only=True)
    held = [own.found.between(own.low, own.high).mean(), ((own.low <= mean.found) & (mean.found <= own.high)).mean()]
    values = [mean.high - mean.low, mean.promised, own.promised.std(), mean.found, own.found.std(), mean.error]
    values += mean[["promised_error", "found_error", "promised_loss", "found_loss"]].tolist()
    return f"{mean.number:,.0f}", *(f"{share:.1%}" for share in held), *(f"{value:.4f}" for value in values)


def main(args):
    names = sorted(path.name.removesuffix("-test.csv") for path in args.folder.glob("*-test.csv"))
    outcomes = []
    processes = torch.multiprocessing.get_context("spawn").Pool(2, torch.set_num_threads, (1,))
    with tempfile.TemporaryDirectory() as folder, processes as pool:
        for name in names:
            for file in (f"{name}.csv", f"{name}-test.csv"):
                options = ("--model", "minilm", "--pooling", "mean", "--layers", -1, "--out", Path(folder, file))
                run("extract", "--data", args.folder / file, *options)
            print(f"{name}: {args.draws} draws", file=sys.stderr)
            tasks = [(Path(folder), name, args.titles, seed) for seed in range(args.draws)]
            outcomes += sum(pool.starmap(measure, tasks, chunksize=1), [])
    rows = [(titles, *summarise(own)) for titles, own in pandas.DataFrame(outcomes).groupby("titles", sort=False)]
    print(TEXT.format(draws=args.draws, titles=args.titles))
    print(cli.markdown(COLUMNS, rows))


if __name__ == "__main__":
    PARSER = cli.parser(__doc__)
    PARSER.add_argument("folder", type=Path, help="where the pairs are")
    PARSER.add_argument("--draws", type=cli.number(int, 2), default=200, help="draws from each training file")
    PARSER.add_argument("--titles", type=cli.number(int, 10), default=600, help="titles of a draw")
    main(PARSER.parse_args())

"""How probabilities of an encoder and of words are best combined: on test files, by how many titles are labelled.

    python -m studies.combination FOLDER OUT > results/combination.md

FOLDER holds NAME.csv with NAME-test.csv; what is made for it stays in OUT, and is not made again. Per
set and size: MiniLM's last four layers (mean) and TF-IDF, one repeat. Each way of combining is fitted
out of fold on the labelled titles, and scored on the test titles.
"""

import collections
from pathlib import Path

from whichlayer.common import cli


def parse_arguments(argv=None):
    parser = cli.parser(__doc__)
    parser.add_argument("data", type=Path, metavar="FOLDER", help="holds NAME.csv with NAME-test.csv")
    parser.add_argument("out", type=Path, metavar="OUT", help="where what is made stays")
    return parser.parse_args(argv)


if __name__ == "__main__":
    ARGUMENTS = cli.begin(parse_arguments)

import numpy as np

from bench.measuring import run
from studies import study
from whichlayer.apply import chosen
from whichlayer.report import rows
from whichlayer.scores import calibration, decision, metrics

SIZES = (500, 2000, None)
# the most frequent category has so many times the titles of the rarest, and the others lie between
RATIO = 10
LAST_FOUR = ("-1", "-2", "-3", "-4")

HEAD = "# Combining words and an encoder"
WAYS = """Log loss · expected calibration error (15 bins) · macro-F1 of the likeliest category, on test titles. *Mean*:
of calibrated probabilities (version 0.7.0); *mean, T*: the same, then a temperature; *geometric, T*: equal exponents,
then a temperature; *pool*: what this version does, with the exponents of encoder and words."""
DECISIONS = """Macro-F1 on test titles where the categories are as unequal as {ratio} to 1, by how categories are named:
the likeliest; by the runs' own offsets, combined with the same exponents (what this version does); by offsets chosen
anew on pooled probabilities; and by the mean of version 0.7.0."""


# --- titles and runs ------------------------------------------------------------------------------


def pairs_of(path):
    """(training, test) pairs of a set in random order; no test title is a copy of one in training."""
    training = study.read_pairs(path)
    test = study.without_copies(study.read_pairs(path.with_stem(f"{path.stem}-test")), training)
    order = np.random.default_rng(0).permutation(len(training))
    return [training[number] for number in order], test


def unequal(pairs, most):
    """At most so many of these pairs, of categories that are as unequal as RATIO to 1."""
    counts = collections.Counter(category for _, category in pairs)
    names = [name for name, _ in counts.most_common()]
    shares = {name: RATIO ** (-place / (len(names) - 1)) for place, name in enumerate(names)}
    unit = min(most / sum(shares.values()), *(counts[name] / shares[name] for name in names))
    left = {name: max(2, round(unit * share)) for name, share in shares.items()}
    kept = []
    for pair in pairs:
        left[pair[1]] -= 1
        if left[pair[1]] >= 0:
            kept.append(pair)
    # the rarest were complete first
    return [kept[number] for number in np.random.default_rng(0).permutation(len(kept))]


def make(folder, training, test):
    """The encoder's and the words' run on some training pairs, and (probabilities of both, labels) of test pairs."""
    study.write_pairs(folder / "train.csv", training)
    runs = folder / "runs"
    if not list(runs.glob("*tfidf*")):
        features = ("--features", folder / "features")
        mean = ("--pooling", "mean")
        run("extract.py", "--data", folder / "train.csv", "--model", "minilm", *mean, "--out", folder / "features")
        layers = ("--head", "linear", "--layers", *LAST_FOUR)
        run("train.py", *features, "--results", runs, *layers, "--repeats", 1)
        run("evaluate.py", "--results", runs, "--baselines")
    (table,) = rows.read_tables(runs)
    words = next(row.run for row in table.baselines if row.run.baseline == "tfidf")
    own = [table.rows[0].run, words]
    known = [(title, table.classes.index(category)) for title, category in test if category in table.classes]
    titles, labels = zip(*known, strict=True)
    found = study.probabilities_of(own, list(titles))
    return table, own, [found[each.folder] for each in own], np.array(labels)


# --- ways to combine ------------------------------------------------------------------------------


def combine(table, own, probabilities, together):
    """What each way of combining two runs says of test titles: {way: (titles, classes)}, and the pool's exponents.

    together: the chosen.Chosen of the runs.
    """
    out_of_fold = [calibration.pool(each.probabilities) for each in own]
    held = [
        calibration.pool([each], [1 / run.figures.pooled_temperature])
        for each, run in zip(out_of_fold, own, strict=True)
    ]
    new = [
        calibration.pool([each], [1 / run.figures.temperature]) for each, run in zip(probabilities, own, strict=True)
    ]

    def sharpened(seen, unseen):
        return calibration.pool([unseen], calibration.fit(table.labels, [seen]))

    ways = {
        "encoder": new[0],
        "words": new[1],
        "mean": sum(new) / 2,
        "mean, T": sharpened(sum(held) / 2, sum(new) / 2),
        "geometric, T": sharpened(calibration.pool(held), calibration.pool(new)),
        "pool": calibration.pool(probabilities, together.exponents),
    }
    # as exponents of calibrated probabilities
    exponents = [a * run.figures.temperature for a, run in zip(together.exponents, own, strict=True)]
    return ways, exponents


def decisions(table, own, ways, together, labels):
    """Macro-F1 of each way to name categories, {way: score}."""
    pooled = calibration.pool([calibration.pool(each.probabilities) for each in own], together.exponents)
    anew = decision.choose_offsets(table.labels, pooled, table.labels, len(table.classes))
    parts = [chosen.combine([each]).offsets for each in own]
    offsets = {
        "likeliest": (ways["pool"], 0.0),
        "combined": (ways["pool"], together.offsets),
        "anew": (ways["pool"], anew),
        "mean of 0.7.0": (ways["mean"], np.mean(parts, 0)),
    }
    return {
        name: metrics.macro_f1(labels, decision.decide(values, taken), len(table.classes))
        for name, (values, taken) in offsets.items()
    }


# --- what came out --------------------------------------------------------------------------------


def main(args):
    sets = [path for path in sorted(args.data.glob("*.csv")) if path.with_stem(f"{path.stem}-test").exists()]
    of_ways = []
    of_decisions = []
    for path in sets:
        training, test = pairs_of(path)
        for size in SIZES:
            table, own, probabilities, labels = make(args.out / path.stem / str(size), training[:size], test)
            ways, exponents = combine(table, own, probabilities, chosen.combine(own))
            line = [path.stem, f"{len(table.labels):,}"]
            for values in ways.values():
                loss = metrics.log_loss(labels, values)
                error = metrics.expected_calibration_error(labels, values)
                f1 = metrics.macro_f1(labels, values.argmax(1), len(table.classes))
                line.append(f"{loss:.3f} · {error:.3f} · {f1:.3f}")
            line[-1] += " ({:.2f}, {:.2f})".format(*exponents)
            of_ways.append(line)

        both = training + test
        few = unequal(both, 3000)
        first = len(few) * 2 // 3
        table, own, probabilities, labels = make(args.out / path.stem / "unequal", few[:first], few[first:])
        together = chosen.combine(own)
        ways, _ = combine(table, own, probabilities, together)
        found = decisions(table, own, ways, together, labels)
        of_decisions.append([path.stem, f"{len(table.labels):,}", *(f"{value:.4f}" for value in found.values())])

    means = [np.mean([float(line[place]) for line in of_decisions]) for place in range(2, 6)]
    of_decisions.append(["mean", "", *(f"{value:.4f}" for value in means)])
    print(HEAD, WAYS.replace("\n", " "), sep="\n\n", end="\n\n")
    print(cli.markdown([":Set", "Labelled", *ways], of_ways), end="\n\n")
    print(DECISIONS.format(ratio=RATIO).replace("\n", " "), end="\n\n")
    print(cli.markdown([":Set", "Labelled", *found], of_decisions))


if __name__ == "__main__":
    cli.launch(main, ARGUMENTS)

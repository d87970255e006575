"""The study's measuring: what the rows of a table promise, and what test titles show. See studies/study.sh.

python -m studies.study titles FOLDER OUT      # share titles: OUT/NAME/train.csv and OUT/NAME/test.csv
python -m studies.study score OUT/NAME         # the runs in OUT/NAME/runs on OUT/NAME/test.csv: OUT/NAME/scores.json
python -m studies.study recommended OUT/NAME   # the folders of the row that evaluate.py recommends
"""

import csv
from dataclasses import dataclass
from pathlib import Path

from whichlayer.common import cli


def parse_arguments(argv=None):
    parser = cli.parser(__doc__)
    parts = parser.add_subparsers(dest="what", required=True, metavar="titles|score|recommended")
    titles = parts.add_parser("titles", help="share titles between a training file and a test file")
    titles.add_argument(
        "data", type=Path, metavar="FOLDER", help="holds NAME.csv, and NAME-test.csv where there is one"
    )
    titles.add_argument("out", type=Path, metavar="OUT", help="where a folder for each set goes")
    for what, does in (("score", "score all runs on the test titles"), ("recommended", "name what is recommended")):
        part = parts.add_parser(what, help=does)
        part.add_argument("folder", type=Path, metavar="OUT/NAME", help="a set's folder")
    return parser.parse_args(argv)


if __name__ == "__main__":
    ARGUMENTS = cli.begin(parse_arguments)

import numpy as np

import data
from studies import findings
from whichlayer.apply import chosen, classifier
from whichlayer.common import disk
from whichlayer.encoder import store
from whichlayer.heads import plan, splits
from whichlayer.heads.words import probabilities as word_probabilities
from whichlayer.heads.words import read as read_words
from whichlayer.report import answer as answers
from whichlayer.report import rows as tables
from whichlayer.scores import calibration, comparison, decision, metrics

# labelled titles of a set, at most; of one without a test file, at most so large a share
TITLES = 3000
SHARE = 0.75
# titles that are computed together
WINDOW = 512
MARGIN = 0.01


# --- titles ---------------------------------------------------------------------------------------


def read_pairs(path):
    """The (title, category) of each row of a file that has a title."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        pairs = [(row["title"], row["category"]) for row in csv.DictReader(file)]
    return [pair for pair in pairs if pair[0].strip()]


def share_titles(path, test_path):
    """(training, test): lists of (title, category), drawn with seed 0; no test title is a copy of
    one in training.

    test_path: the official test file, or None: what is not drawn is the test.
    """
    pairs = read_pairs(path)
    keys = [splits.group_key(title) for title, _ in pairs]
    members = {}
    for number, key in enumerate(keys):
        members.setdefault(key, []).append(number)
    # whole groups of copies, until there are enough titles
    wanted = TITLES if test_path else min(TITLES, int(SHARE * len(pairs)))
    training = []
    rest = []
    groups = list(members.values())
    for group in np.random.default_rng(0).permutation(len(groups)):
        part = training if len(training) < wanted else rest
        part.extend(pairs[number] for number in groups[group])
    return training, without_copies(read_pairs(test_path), training) if test_path else rest


def without_copies(pairs, training):
    """The pairs whose title is no copy of one in training."""
    seen = {splits.group_key(title) for title, _ in training}
    return [pair for pair in pairs if splits.group_key(pair[0]) not in seen]


def write_pairs(path, pairs):
    """Write (title, category) pairs as a file that extract.py reads; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with disk.atomic(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("title", "category"), *pairs])


def write_titles(args):
    """Write the training file and the test file of each set."""
    sources = [path for path in sorted(args.data.glob("*.csv")) if not path.stem.endswith("-test")]
    for path in [*sources, data.find_titles("sample")]:
        test_path = path.with_stem(f"{path.stem}-test")
        training, test = share_titles(path, test_path if test_path.exists() else None)
        write_pairs(args.out / path.stem / "train.csv", training)
        write_pairs(args.out / path.stem / "test.csv", test)
        cli.say(f"{path.stem}: {len(training):,} titles to learn from, {len(test):,} to test on")


# --- what test titles show ------------------------------------------------------------------------


def probabilities_of(own, titles):
    """The probabilities of runs for titles, {run's folder: (titles, classes)}.

    An encoder runs once for all runs that share it.
    """
    # torch and transformers are loaded where an encoder is
    from whichlayer.apply import frozen

    found = {}
    for run in own:
        if run.baseline:
            found[run.folder] = word_probabilities(read_words(run), titles)
    for members in classifier.by_encoder(own):
        loaded = frozen.load(members, None, "auto", None)
        windows = []
        with cli.progress(len(titles), " titles", "score") as bar:
            for start in range(0, len(titles), WINDOW):
                part = titles[start : start + WINDOW]
                windows.append(loaded.judge(loaded.prepare(part))[0])
                bar.update(len(part))
        for run, values in zip(members, zip(*windows, strict=True), strict=True):
            found[run.folder] = np.concatenate(values)
    return found


@dataclass
class Test:
    """Test titles, and what all runs say of them."""

    labels: np.ndarray  # (titles,) int
    groups: np.ndarray  # (titles,) int, copies of one another
    probabilities: dict[Path, np.ndarray]  # of each run's folder: (titles, classes)

    def judge(self, row):
        """(probabilities, named) of a row, as predict.py has them: (titles, classes), (titles,) int."""
        exponents = chosen.exponents_of(row.runs)
        values = calibration.pool([self.probabilities[run.folder] for run in row.runs], exponents)
        return values, decision.decide(values, chosen.offsets_of(row.runs, exponents))


def read_test(folder, table):
    """The Test of a set's folder, for all rows of its table that are kept."""
    pairs = read_pairs(folder / "test.csv")
    titles = [title for title, _ in pairs]
    number = {name: i for i, name in enumerate(table.classes)}
    labels = np.array([number[" ".join(name.split())] for _, name in pairs])
    groups = splits.numbered(map(splits.group_key, titles))
    kept = [row.run for row in table.rows]
    kept += [row.run for row in table.baselines if is_kept(row)]
    return Test(labels, groups, probabilities_of(kept, titles))


def is_kept(row):
    """Whether a row of words can predict: with all titles."""
    return row.run.baseline == "tfidf" and not row.run.labels_per_category


def score_row(table, row, test):
    """The Score of a row; test: a Test, or None for a row that is not kept."""
    score = findings.Score(
        encoder=table.encoders[tables.encoder_key(row.run)] if row.run.columns else None,
        columns=row.run.columns,
        words=row.runs[-1].baseline == "tfidf",
        labels=row.run.labels_per_category,
        decide=row.run.options.decide,
        promised=row.value,
        low=row.interval[0],
        high=row.interval[1],
        promised_error=row.figures.calibration_error,
        flop=row.run.flop,
    )
    if test:
        values, named = test.judge(row)
        found = comparison.influence(test.labels, named, len(table.classes), test.groups)
        score.found = found.value
        score.deviation = found.titles_variance**0.5
        score.accuracy = float((named == test.labels).mean())
        score.log_loss = metrics.log_loss(test.labels, values)
        score.found_error = metrics.expected_calibration_error(test.labels, values)
    return score


def promises(table, row, test):
    """The Promises of a row's thresholds that can be reached."""
    values, named = test.judge(row)
    sure = metrics.of_each(values, named)
    made = []
    for each in decision.thresholds_of(tables.judge(row, table), table.labels, table.folds):
        if each.probability is not None:
            answered = sure >= each.probability
            right = named == test.labels
            found = float(right[answered].mean()) if answered.any() else None
            made.append(findings.Promise(each.wanted, float(each.precision), float(answered.mean()), found))
    return made


# --- what is recommended of which rows ------------------------------------------------------------


def choose(table, words, test, scores, every):
    """The Choice of a table, with the Scores of its combinations added to `scores`.

    every: the rows whose Scores are there, in their order; those of combinations are added, too.
    """
    answer = answers.compare(table, MARGIN)
    for row in [each for each in answer.compared if len(each.runs) > 1]:
        every.append(row)
        scores.append(score_row(table, row, test))

    # a row of the part is another one than in the whole, its runs are the same
    def number(row):
        return next(number for number, each in enumerate(every) if each.runs == row.runs)

    row = answer.recommended
    if row is None:
        return findings.Choice(list(table.encoders.values()), words, -1, number(answer.best), 0.0, [])
    bound = 0.0
    if row is not answer.best:
        bound = float(answer.comparison.loss_bound[answer.compared.index(row)])
    names = list(table.encoders.values())
    return findings.Choice(names, words, number(row), number(answer.best), bound, promises(table, row, test))


def is_surveyed(row):
    """Whether `train.py --survey` has a row: not several layers of [CLS] side by side."""
    return len(row.run.layers) == 1 or row.run.poolings != ["cls"]


def all_choices(table, test, scores, every):
    """The Choices among the rows of each encoder and of all, without words and with them."""
    baselines = [row.run for row in table.baselines]
    words = next(row for row in table.baselines if is_kept(row))
    parts = [[key] for key in table.encoders]
    if len(parts) > 1:
        parts.append(list(table.encoders))
    found = []
    for keys in parts:
        # what `train.py --survey` trains: rows of all kinds are scored to see whether that is right
        own = [row.run for row in table.rows if tables.encoder_key(row.run) in keys and is_surveyed(row)]
        alone = tables.make_table(own, [])
        together = tables.make_table(own, baselines)
        for part in (alone, together):
            part.encoders = {key: table.encoders[key] for key in keys}
        choice = choose(alone, False, test, scores, every)
        # what is recommended, combined with words, whatever competes; none where one of both adds nothing
        both = None
        if choice.recommended >= 0:
            both = answers.combined_row(together, every[choice.recommended], words)
        if both:
            every.append(both)
            scores.append(score_row(together, both, test))
        found += [choice, choose(together, True, test, scores, every)]
    return found


# --- estimators -----------------------------------------------------------------------------------


def estimate(table, folders):
    """The Estimates of transformer-ranker's estimators for the layers of each encoder, mean
    pooling; none where it is not installed.
    """
    try:
        from transformer_ranker import estimators
    except ImportError:
        cli.say("transformer-ranker is not installed, so its estimators are left out")
        return []
    import torch

    labels = torch.from_numpy(np.asarray(table.labels).astype(np.int64))
    found = []
    for folder in folders:
        features = store.open_features(folder)
        key = f"{features.encoder.weights} {features.encoder.tokenizer}"
        for kind in (estimators.HScore, estimators.LogME, estimators.NearestNeighbors):
            values = []
            for layer in plan.layers_with(features, ["mean"]):
                x = torch.from_numpy(features.read("mean", layer).astype(np.float32))
                values.append(float(kind().fit(embeddings=x, labels=labels)))
            found.append(findings.Estimate(kind.__name__, table.encoders[key], values))
    return found


# --- a set ----------------------------------------------------------------------------------------


def read_set(folder):
    """The Table of a set's runs. None there is a Problem."""
    found = tables.read_tables(folder / "runs")
    if not found:
        raise cli.Problem(f"{folder / 'runs'}: no runs are there; studies/study.sh makes them")
    return found[0]


def score_set(args):
    """Score all runs of a set on its test titles, and keep that in scores.json."""
    table = read_set(args.folder)
    test = read_test(args.folder, table)
    # rows that can predict, and those that cannot
    every = [*table.rows, *(row for row in table.baselines if is_kept(row))]
    scores = [score_row(table, row, test) for row in every]
    for row in [*table.learning_curve, *table.baselines]:
        if row.run.labels_per_category:
            every.append(row)
            scores.append(score_row(table, row, None))
    choices = all_choices(table, test, scores, every)

    layers = {table.encoders[tables.encoder_key(row.run)]: row.run.encoder.layers for row in table.rows}
    found = findings.Set(
        format=findings.FORMAT,
        name=args.folder.name,
        titles=len(table.labels),
        test=len(test.labels),
        classes=len(table.classes),
        largest=float(np.bincount(table.labels).max() / len(table.labels)),
        layers={name: layers[name] for name in table.encoders.values()},
        scores=scores,
        choices=choices,
        estimates=estimate(table, sorted(args.folder.glob("features-*"))),
    )
    disk.write_json(args.folder / "scores.json", found)
    cli.say(f"{args.folder}: {cli.count(len(scores), 'row')} scored on {cli.count(found.test, 'title')}")


def name_recommended(args):
    """Print the folders of the runs that evaluate.py recommends, one a line."""
    row = answers.compare(read_set(args.folder), MARGIN).recommended
    if row is None:
        raise cli.Problem(f"{args.folder}: no row is shown to know more than chance does")
    for run in row.runs:
        print(run.folder)


def main(args):
    if args.what == "titles":
        write_titles(args)
    elif args.what == "score":
        score_set(args)
    else:
        name_recommended(args)


if __name__ == "__main__":
    cli.launch(main, ARGUMENTS)

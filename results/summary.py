"""What the study found, as sentences, tables and a picture. See results/study.sh.

python summary.py OUT --plot study.png > study.md      # of each set OUT/NAME/scores.json
"""

from pathlib import Path

import cli


def parse_arguments(argv=None):
    parser = cli.parser(__doc__)
    parser.add_argument("out", type=Path, metavar="OUT", help="holds a folder for each set")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw macro-F1 by layer to a .png or .svg file")
    return parser.parse_args(argv)


if __name__ == "__main__":
    ARGUMENTS = cli.begin(parse_arguments)

import findings
import numpy as np
from findings import (
    MIDDLE,
    RULES,
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

import disk
import plot

SIZES = (8, 32, 128)  # labels a category
FEW = RULES[3]  # what is trained with them
NEAR = 0.01  # a loss of macro-F1 that counts as none


# --- tables ---------------------------------------------------------------------------------------


def sets_table(sets):
    """The sets: how many titles, categories, and how unequal these are."""
    rows = []
    for own in sets:
        sizes = (f"{own.titles:,}", f"{own.test:,}", own.classes, f"{own.largest:.0%}")
        rows.append((own.name, *sizes))
    return cli.markdown((":Set", "Labelled", "Test", "Categories", "Largest"), rows)


def rules_table(sets, encoder):
    """What each rule loses: mean, interval, and the worst set."""
    rows = []
    for name, values in losses(sets, encoder).items():
        low, high = interval_over(values)
        worst = int(values.argmax())
        near = int((values <= NEAR).sum())
        cells = (f"{values.mean():.4f}", f"{low:+.4f} to {high:+.4f}", f"{near} of {len(sets)}")
        rows.append((name, *cells, f"{values[worst]:.4f}", sets[worst].name))
    heads = (f":{encoder}", "Mean loss", "95% interval over sets", f"At most {NEAR}", "Largest", ":on")
    return cli.markdown(heads, rows)


def scores_table(sets, encoder):
    """Macro-F1 on test titles of each set by rule."""
    rows = []
    for own in sets:
        found = by_rule(own, encoder)
        best = best_found(own, encoder)
        rows.append((own.name, *(f"{score.found:.3f}" for score in found.values()), f"{best:.3f}"))
    short = ("[CLS]", "mean", "last 4", "all", "all, both", "rec.", "words", "+ words", "rec. of all", "best alone")
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
        cells += [f"{loss:+.4f}", f"{choice.bound:.4f}"]
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


# --- sentences ------------------------------------------------------------------------------------

DEFAULT = (
    "**Without looking, take {rule}, with the linear probe.** Against the best row of its encoder in hindsight that "
    "loses {losses} of macro-F1 on average, and at most {worst} ({where})."
)
LAST = (
    "**The last layer alone** loses {mean} with mean pooling and {cls} with [CLS]; with mean pooling it is within "
    "{near} of the best row on {count} of {all} sets ({names})."
)
SINGLE = (
    "**Among single layers**, mean pooling, the last one is the best or within {near} of it on {last} of {all} sets; "
    "elsewhere a deeper look pays: {others}."
)
WORDS = (
    "**Words alone** are no worse than that default on {count} of {all} sets ({names}), and lose {mean} on average; "
    "averaged with the recommended row they change {gain} (95% interval over sets {low} to {high})."
)
LARGER = (
    "**The larger encoder**, {large}, brings {gain} against {small} by that default (95% interval over sets {low} to "
    "{high}; from {least} on {least_set} to {most} on {most_set}), for {times:.0f} times the work."
)


def default_rule(sets):
    """The Rule that loses least over all sets and encoders."""
    means = {}
    for rule in RULES:
        means[rule.name] = np.mean([losses(sets, encoder)[rule.name] for encoder in sets[0].layers])
    return min(RULES, key=lambda rule: means[rule.name])


def each_encoder(sets, numbers):
    """Figures by encoder, as text: 0.0049 (minilm) and 0.0062 (mpnet)."""
    said = [f"{number:.4f} ({encoder})" for encoder, number in zip(sets[0].layers, numbers, strict=True)]
    return " and ".join(said)


def listed(names):
    return ", ".join(names) or "none"


def default_sentence(sets, rule):
    every = [losses(sets, encoder)[rule.name] for encoder in sets[0].layers]
    worst = np.max(every, axis=0)
    where = sets[int(worst.argmax())].name
    said = each_encoder(sets, [values.mean() for values in every])
    return DEFAULT.format(rule=rule.name, losses=said, worst=f"{worst.max():.4f}", where=where)


def last_sentence(sets):
    lost = {name: [] for name in ("last layer, mean", "last layer, [CLS]")}
    for encoder in sets[0].layers:
        for name, values in lost.items():
            values.append(losses(sets, encoder)[name])
    worst = np.max(lost["last layer, mean"], axis=0)
    near = [own.name for own, value in zip(sets, worst, strict=True) if value <= NEAR]
    mean, cls = (each_encoder(sets, [each.mean() for each in values]) for values in lost.values())
    return LAST.format(mean=mean, cls=cls, near=NEAR, count=len(near), all=len(sets), names=listed(near))


def single_sentence(sets):
    last = 0
    others = []
    for own in sets:
        pays = []
        for encoder, depth in own.layers.items():
            found = single_layers(own, encoder, "mean")
            if found.max() - found[-1] > NEAR:
                pays.append(f"layer {found.argmax() + 1} of {depth} by {found.max() - found[-1]:.3f}")
        if pays:
            others.append(f"{own.name} ({', '.join(pays)})")
        else:
            last += 1
    return SINGLE.format(near=NEAR, last=last, all=len(sets), others="; ".join(others) or "none")


def words_sentence(sets, rule):
    no_worse = []
    lost = []
    gained = []
    for own in sets:
        by_encoder = [by_rule(own, encoder) for encoder in own.layers]
        lost.append(np.mean([found[rule.name].found - found["words alone"].found for found in by_encoder]))
        if all(found["words alone"].found >= found[rule.name].found for found in by_encoder):
            no_worse.append(own.name)
        together = [found["words averaged with the recommended"].found - found[MIDDLE].found for found in by_encoder]
        gained.append(np.mean(together))
    gained = np.array(gained)
    low, high = interval_over(gained)
    return WORDS.format(
        count=len(no_worse),
        all=len(sets),
        names=listed(no_worse),
        mean=f"{np.mean(lost):.4f}",
        gain=f"{gained.mean():+.4f}",
        low=f"{low:+.4f}",
        high=f"{high:+.4f}",
    )


def larger_sentence(sets, rule):
    small, large = sets[0].layers
    gained = np.array([by_rule(own, large)[rule.name].found - by_rule(own, small)[rule.name].found for own in sets])
    times = np.mean([by_rule(own, large)[rule.name].flop / by_rule(own, small)[rule.name].flop for own in sets])
    low, high = interval_over(gained)
    return LARGER.format(
        large=large,
        small=small,
        gain=f"{gained.mean():+.4f}",
        low=f"{low:+.4f}",
        high=f"{high:+.4f}",
        least=f"{gained.min():+.4f}",
        least_set=sets[int(gained.argmin())].name,
        most=f"{gained.max():+.4f}",
        most_set=sets[int(gained.argmax())].name,
        times=times,
    )


# --- the page and the picture ---------------------------------------------------------------------


def page(sets):
    rule = default_rule(sets)
    encoders = list(sets[0].layers)
    parts = ["## In five sentences", default_sentence(sets, rule), last_sentence(sets), single_sentence(sets)]
    parts += [words_sentence(sets, rule), larger_sentence(sets, rule)]
    parts += ["## The sets", sets_table(sets)]
    parts += ["## What simple rules lose", *(rules_table(sets, encoder) for encoder in encoders)]
    parts += ["## Macro-F1 on test titles", *(scores_table(sets, encoder) for encoder in encoders)]
    parts += ["## By layer", *(layers_table(sets, encoder) for encoder in encoders)]
    parts += ["## What the table promises", promises_table(sets)]
    parts += ["## With few labels", labels_table(sets, FEW)]
    parts += ["## Work", work_table(sets)]
    parts += ["## Beside estimators", *(estimators_table(sets, encoder) for encoder in encoders)]
    return "\n\n".join(parts)


def draw(path, sets):
    """Draw what each layer alone loses to its encoder's best row: a panel for each encoder and pooling."""
    encoders = list(sets[0].layers)
    figure = plot.library().figure.Figure(figsize=(10, 7), layout="constrained")
    panels = figure.subplots(2, len(encoders), sharey=True, squeeze=False)
    for column, encoder in enumerate(encoders):
        for axes, pooling in zip(panels[:, column], ("cls", "mean"), strict=True):
            for number, own in enumerate(sets):
                lost = single_layers(own, encoder, pooling) - best_found(own, encoder)
                style = {"color": plot.COLORS[number % 8], "marker": plot.MARKERS[number % 8], "markersize": 4}
                axes.plot(range(1, len(lost) + 1), lost, label=own.name, linewidth=1.2, **style)
            axes.set_title(f"{encoder}, {'[CLS]' if pooling == 'cls' else 'mean pooling'}", loc="left")
            axes.set(axisbelow=True, ylim=(-0.3, 0.01), xticks=range(1, own.layers[encoder] + 1))
            axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    for axes in panels[-1]:
        axes.set_xlabel("layer")
    figure.supylabel("macro-F1 on test titles, less that of the encoder's best row", fontsize=10)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    plot.save(figure, path)


def main(args):
    paths = sorted(args.out.glob("*/scores.json"))
    if not paths:
        raise cli.Problem(f"{args.out}: no scores are there; results/study.sh makes them")
    sets = [disk.read_json(path, findings.Set, "a set's scores", findings.FORMAT) for path in paths]
    print(page(sets))
    if args.plot:
        draw(args.plot, sets)


if __name__ == "__main__":
    cli.launch(main, ARGUMENTS)

"""The study's five sentences: which layers to take, when words, what a larger encoder brings."""

import numpy as np

from studies.findings import (
    COMPETING,
    MIDDLE,
    RULES,
    USUAL,
    WITH_WORDS,
    WORDS_ALONE,
    by_rule,
    interval_over,
    losses,
    single_layers,
)

NEAR = 0.01  # a loss of macro-F1 that counts as none

DEFAULT = (
    "**Without looking, take “{rule}”** with the linear probe: in {near_cases} of {cases} cases "
    "(sets times encoders) it is within {near} of the best row of its encoder in hindsight; it "
    "loses {losses} on average, and at most {worst} ({where}). An earlier run on these sets chose "
    "it. Of the other rules, “{other}” loses least, {others}: {difference} beside that rule (95% "
    "interval over sets {low} to {high})."
)
LAST = (
    "**The last layer alone** loses {mean} with mean pooling and {cls} with [CLS]; with mean "
    "pooling it is within {near} of the best row, for both encoders, on {count} of {all} sets "
    "({names})."
)
SINGLE = (
    "**Among single layers**, mean pooling, the last one is within {near} of the best, for both "
    "encoders, on {last} of {all} sets; elsewhere an earlier one was better, picked on the test "
    "titles: {others}."
)
WORDS = (
    "**Words alone** are no worse than that rule in {count} of {cases} cases ({names}), and lose "
    "{mean} to it on average; combined with the recommended row they change {gain} (95% interval "
    "over sets {low} to {high}). What `evaluate.py` recommends by layers alone loses {alone}, so "
    "that a survey gains over the rule is not shown; where words compete, it loses {competing}."
)
LARGER = (
    "**The larger encoder**, {large}, brings {gain} against {small} by that rule (95% interval "
    "over sets {low} to {high}; from {least} on {least_set} to {most} on {most_set}), for "
    "{times:.0f} times the work."
)


def by_loss(sets):
    """The RULES, the one that loses least over all sets and encoders first."""
    means = {}
    for rule in RULES:
        means[rule.name] = np.mean([losses(sets, encoder)[rule.name] for encoder in sets[0].layers])
    return sorted(RULES, key=lambda rule: means[rule.name])


def each_encoder(sets, numbers):
    """Figures by encoder, as text: 0.0049 (minilm) and 0.0062 (mpnet)."""
    said = [f"{number:.4f} ({encoder})" for encoder, number in zip(sets[0].layers, numbers, strict=True)]
    return " and ".join(said)


def listed(names):
    return ", ".join(names) or "none"


def mean_losses(sets, name):
    """What a rule loses on average, of each encoder, as text."""
    return each_encoder(sets, [losses(sets, encoder)[name].mean() for encoder in sets[0].layers])


def default_sentence(sets, rule):
    other = next(each for each in by_loss(sets) if each is not rule)
    lost = [losses(sets, encoder) for encoder in sets[0].layers]
    apart = np.mean([each[other.name] - each[rule.name] for each in lost], axis=0)
    low, high = interval_over(apart)
    every = np.array([each[rule.name] for each in lost])
    worst = every.max(0)
    return DEFAULT.format(
        rule=rule.name,
        near_cases=(every <= NEAR).sum(),
        cases=every.size,
        near=NEAR,
        losses=mean_losses(sets, rule.name),
        worst=f"{worst.max():.4f}",
        where=sets[int(worst.argmax())].name,
        other=other.name,
        others=mean_losses(sets, other.name),
        difference=f"{apart.mean():+.4f}",
        low=f"{low:+.4f}",
        high=f"{high:+.4f}",
    )


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
        by_encoder = {encoder: by_rule(own, encoder) for encoder in own.layers}
        differences = {}
        together = []
        for encoder, found in by_encoder.items():
            differences[encoder] = found[rule.name].found - found[WORDS_ALONE].found
            together.append(found[WITH_WORDS].found - found[MIDDLE].found)
            if differences[encoder] <= 0:
                no_worse.append(f"{own.name} with {encoder}")
        lost.append(np.mean(list(differences.values())))
        gained.append(np.mean(together))
    gained = np.array(gained)
    low, high = interval_over(gained)
    return WORDS.format(
        count=len(no_worse),
        cases=len(sets) * len(sets[0].layers),
        names=listed(no_worse),
        mean=f"{np.mean(lost):.4f}",
        gain=f"{gained.mean():+.4f}",
        low=f"{low:+.4f}",
        high=f"{high:+.4f}",
        alone=mean_losses(sets, MIDDLE),
        competing=mean_losses(sets, COMPETING),
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


def all_of_them(sets):
    """The sentences, in a list."""
    said = [default_sentence(sets, USUAL), last_sentence(sets), single_sentence(sets)]
    return [*said, words_sentence(sets, USUAL), larger_sentence(sets, USUAL)]

"""The study's five sentences: which layers to take, when words, what a larger encoder brings."""

import numpy as np
from findings import MIDDLE, RULES, by_rule, interval_over, losses, single_layers

NEAR = 0.01  # a loss of macro-F1 that counts as none

DEFAULT = (
    "**Without looking, take the rule “{rule}”**, side by side, with the linear probe. Against "
    "the best row of its encoder in hindsight it loses {losses} of macro-F1 on average, and at most {worst} ({where})."
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


def all_of_them(sets):
    """The sentences, in a list."""
    rule = default_rule(sets)
    said = [default_sentence(sets, rule), last_sentence(sets), single_sentence(sets)]
    return [*said, words_sentence(sets, rule), larger_sentence(sets, rule)]

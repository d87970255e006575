"""Training the report's head: all at once equals one after the other, on the titles that each may learn from."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

import train
from whichlayer.heads import splits, stacking
from whichlayer.heads.options import Options


@dataclass
class Inputs:
    """What train.train_heads takes."""

    x: torch.Tensor  # (titles, layers, hidden)
    labels: np.ndarray  # (titles,)
    folds: np.ndarray  # (repeats, titles)
    options: Options
    classes: int
    draws: list  # of each head

    def train(self):
        return train.train_heads(self.x, self.labels, self.folds, self.options, self.classes, self.draws)

    def new_heads(self):
        return stacking.new_heads(self.options, *self.x.shape[1:], self.classes)


def made_up(rows=90, layers=2, hidden=16, classes=3, size=None, **options):
    """Random Inputs; options that are not given are small."""
    random = np.random.default_rng(5)
    labels = random.permutation(np.arange(rows) % classes)
    x = random.normal(size=(rows, layers, hidden)).astype(np.float32) * 3 + 1
    small = Options(hidden=20, epochs=3, batch_size=16, repeats=2, folds=3)
    options = replace(small, **options)
    groups = np.arange(rows)
    folds = splits.repeat_folds(labels, groups, options)
    draws = splits.draw_titles(labels, groups, folds, options.seed, size)
    return Inputs(torch.from_numpy(x), labels, folds, options, classes, draws)


def train_one(head, number, inputs):
    """Train one head by an ordinary loop, on the batches that train.train_heads would give it."""
    options = inputs.options
    targets = torch.as_tensor(inputs.labels)
    own = inputs.x[inputs.draws[number].rows]
    if options.standardize:
        head.mean.copy_(own.mean(0))
        head.deviation.copy_(own.std(0, correction=0))
    optimizer = torch.optim.Adam(head.parameters(), lr=options.lr)
    for epoch in range(1, options.epochs + 1):
        rows, counts = stacking.epoch_batches(inputs.draws, options, epoch)
        for batch, count in zip(rows[:, number], counts[:, number], strict=True):
            titles = batch[: int(count)]
            optimizer.zero_grad()
            cross_entropy(head(inputs.x[titles]), targets[titles]).backward()
            optimizer.step()


@pytest.mark.parametrize(
    "layers, options",
    [
        (1, {}),
        (3, {"standardize": True}),
        (2, {"standardize": True, "fusion": "mix", "size": 8}),
        (2, {"fusion": "concat", "reduction": "none"}),
        (1, {"folds": 4, "repeats": 1, "batch_size": 7, "seed": 9}),
        (2, {"batch_size": 1000}),
    ],
)
def test_training_all_heads_at_once_equals_one_after_the_other(layers, options):
    inputs = made_up(layers=layers, **options)
    folds = inputs.folds
    trained = inputs.train()
    heads = inputs.new_heads()
    assert len(heads) == inputs.options.folds * inputs.options.repeats
    for number, head in enumerate(heads):
        fresh = head.mlp[0].weight.detach().clone()
        train_one(head, number, inputs)
        assert set(trained.state) == set(head.state_dict())
        for name, value in head.state_dict().items():
            torch.testing.assert_close(trained.state[name][number], value, rtol=1e-3, atol=2e-5)
        # of each title, by the head that has not seen it
        repeat, fold = divmod(number, inputs.options.folds)
        held_out = folds[repeat] == fold
        expected = head(inputs.x[torch.from_numpy(held_out)]).softmax(1).detach()
        np.testing.assert_allclose(trained.probabilities[repeat, held_out], expected, atol=1e-4)
        assert not torch.allclose(fresh, trained.state["mlp.0.weight"][number], atol=1e-3)
    assert len(trained.history) == len(heads) * inputs.options.epochs


def test_first_weights_depend_on_seed_repeat_and_fold_alone():
    def first(**options):
        inputs = made_up(**options)
        places = np.ndindex(inputs.options.repeats, inputs.options.folds)
        weights = [head.mlp[0].weight.detach() for head in inputs.new_heads()]
        return dict(zip(places, weights, strict=True))

    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    many = first(folds=5, repeats=3)
    assert torch.equal(torch.rand(2), expected)  # the caller's random numbers are left alone
    few = first(folds=3, repeats=2, epochs=9)
    assert all(torch.equal(many[place], weight) for place, weight in few.items())
    different = {weight.numpy().tobytes() for weight in (*many.values(), *first(seed=1).values())}
    assert len(different) == 15 + 6


@pytest.mark.parametrize(
    "rows, folds, size",
    [(90, 5, 16), (91, 2, 64), (17, 4, 1), (33, 3, 1000), (128, 2, 64)],
)
def test_an_epoch_shows_each_training_title_once(rows, folds, size):
    draws = made_up(rows=rows, folds=folds, classes=2).draws
    options = Options(folds=folds, batch_size=size, seed=3)
    numbers, counts = (tensor.numpy() for tensor in stacking.epoch_batches(draws, options, 1))
    assert numbers.shape[:2] == counts.shape[:2] and numbers.shape[1] == 2 * folds
    assert counts.min() >= 1 and np.ptp(counts, 0).max() <= 1
    # single titles: a fold may have one more
    assert numbers.shape[2] == counts.max() <= max(size, 2)
    for head, draw in enumerate(draws):
        batches = zip(numbers[:, head], counts[:, head, 0], strict=True)
        shown = np.concatenate([batch[:count] for batch, count in batches])
        assert sorted(shown) == draw.rows.tolist()
    assert not np.array_equal(numbers, stacking.epoch_batches(draws, options, 2)[0])

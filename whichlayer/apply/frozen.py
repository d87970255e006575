"""A frozen encoder with the heads of all runs that share it: titles to their probabilities.

The encoder is loaded once and runs once for all of them, no deeper than they need.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

import model
from whichlayer.common import cli
from whichlayer.encoder.embedding import embed, tokenise
from whichlayer.encoder.encoder import Encoder, load_encoder
from whichlayer.heads import runs

# tokens × hidden² below which one thread computes: two would wait longer for each other, product
# after product, than they would gain. 20 tokens of bert-base's shape, 80 of MiniLM's
FEW = 1.2e7


@dataclass
class Heads:
    """The heads of a run."""

    run: runs.Run
    forward: Callable  # all of them at once, see model.stacked
    state: dict[str, torch.Tensor]  # their tensors, on the encoder's device


@dataclass
class Frozen:
    """An encoder and the heads that stand on it."""

    encoder: Encoder
    heads: list[Heads]
    # hooks hang on the blocks, and a tokenizer keeps how it was called: one call at a time
    reading: threading.Lock
    running: threading.Lock
    alone: ThreadPoolExecutor  # of one thread that torch gives no others, for few tokens
    process: int  # that loaded it

    def prepare(self, titles):
        """The embedding.Tokenised of some titles."""
        with self.reading:
            return tokenise(self.encoder, titles)

    def judge(self, tokenised):
        """What each run says of Tokenised titles: ([(titles, classes) float32, …], titles that are cut)."""
        tokens = sum(map(len, tokenised.ids))
        if self.process != os.getpid():
            # threads stay behind in a fork, and would be waited for without end
            torch.set_num_threads(1)
        elif tokens * self.encoder.info.hidden**2 < FEW:
            return self.alone.submit(compute, self, tokenised).result()
        return compute(self, tokenised)


def load(own, name, device, dtype):
    """The Frozen of runs that share an encoder and its settings. What does not fit is a
    cli.Problem.

    name: where the encoder is found, or None for where the runs know it; dtype: what it computes in,
    or None for what the runs' features were computed in.
    """
    read = [model.read_heads(run) for run in own]
    encoder = load_own_encoder(own, name or own[0].encoder.place, device, dtype)
    heads = []
    for run, (head, state) in zip(own, read, strict=True):
        state = {key: value.to(encoder.device) for key, value in state.items()}
        heads.append(Heads(run, model.stacked(head, shared=True), state))
    return Frozen(encoder, heads, threading.Lock(), threading.Lock(), one_thread(), os.getpid())


def one_thread():
    """An executor of one thread in which torch has no others; in all others it keeps what it has."""
    executor = ThreadPoolExecutor(1)
    several = torch.get_num_threads()
    executor.submit(torch.set_num_threads, 1).result()
    # threads that are still to come get what was said last
    torch.set_num_threads(several)
    return executor


def load_own_encoder(own, name, device, dtype):
    """The Encoder of this name, once it is known to be the one that the runs were trained with."""
    trained = own[0].encoder
    settings = own[0].settings
    encoder = load_encoder(
        name,
        device,
        dtype or settings.dtype,
        settings.max_length,
        poolings_of(own),
        settings.prefix or "",
        trained.checked,
    )
    found = encoder.info
    if (found.weights, found.tokenizer) != (trained.weights, trained.tokenizer):
        raise cli.Problem(f"{name}: not the encoder that the run was trained with")
    return encoder


def poolings_of(own):
    """All poolings of some runs."""
    return sorted({pooling for run in own for pooling in run.poolings})


def compute(frozen, tokenised):
    """What Frozen.judge gives, computed in the thread that calls."""
    own = [heads.run for heads in frozen.heads]
    layers = sorted({layer for run in own for layer in run.layers})
    # the heads' modules, too, hold the values of one call
    with frozen.running:
        values = embed(frozen.encoder, tokenised, layers, poolings_of(own))
        # through the numbers that were stored: the heads know features of that precision
        kind = own[0].settings.store
        stored = {column: array.astype(kind) for column, array in values.items()}
        if not all(np.isfinite(array).all() for array in stored.values()):
            raise cli.Problem("the encoder's features are not finite numbers; use --dtype float32")
        return [probabilities(frozen, heads, stored) for heads in frozen.heads], tokenised.cut


def probabilities(frozen, heads, stored):
    """What a run's heads say, pooled: (titles, classes) float32.

    stored: {(pooling, layer): (titles, hidden)}.
    """
    side_by_side = np.stack([stored[column] for column in heads.run.columns], axis=1)
    x = torch.from_numpy(side_by_side.astype(np.float32)).to(frozen.encoder.device)
    return model.mean_probabilities(heads.forward, heads.state, x).cpu().numpy()

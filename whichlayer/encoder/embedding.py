"""Titles through a frozen encoder: tokenise, batch by length, hidden states, pooling."""

import contextlib
import functools
import itertools
from dataclasses import dataclass, replace

import numpy as np
import torch

from whichlayer.common import cli
from whichlayer.encoder.poolings import POOLINGS


@dataclass(frozen=True)
class Batching:
    """How many titles are computed together, and how."""

    budget: int  # tokens a batch
    least: int  # a run of equal lengths with fewer tokens is padded together with its neighbours


# by what multiplies, and not by a stopwatch: the same machine is to give the same bytes. Titles a
# second of bert-base's shape in bfloat16 on two cores with AMX, by budget and least: 2,048 and 256,
# as without AMX, 200; with GELU in the product, 2,048 and 2,048: 287; 3,072 twice: 299; 4,096: 299;
# 6,144: 283; 8,192: 282. In float32 there, and in bfloat16 without AMX, larger ones bring nothing.
BATCHING = {
    "cuda": Batching(32768, 16384),
    "cpu": Batching(2048, 256),
    "cpu, bfloat16 with AMX": Batching(4096, 4096),
}


# of a text, for each token that is kept: more of a huge one would take minutes and gigabytes
CHARACTERS = 1000
# of what a tokenizer gives, only the ids are needed
BARE = {"return_attention_mask": False, "return_token_type_ids": False}


@dataclass
class Tokenised:
    """Titles as an encoder reads them."""

    ids: list[list[int]]  # the token ids of each distinct title
    place: np.ndarray  # (titles,) int64: where in ids each title finds its own
    cut: int  # titles, copies included, that are cut at max_length
    tokens: int  # of all titles, copies included, after cutting


def tokenise(encoder, titles):
    """Tokenised for a list of titles. An encoder.Encoder says how, and where titles are cut."""
    # copies are computed once
    number = {title: i for i, title in enumerate(dict.fromkeys(titles))}
    place = np.array([number[title] for title in titles], dtype=np.int64)

    tokenizer = encoder.tokenizer
    longest = encoder.max_length
    texts = [encoder.prefix + title for title in number]
    if tokenizer.truncation_side == "right":
        texts = [text[: CHARACTERS * longest] for text in texts]
    ids = tokenizer(texts, truncation=True, max_length=longest, **BARE).input_ids

    # the longest are read again to know which were longer
    full = [i for i, tokens in enumerate(ids) if len(tokens) >= longest]
    cut = [i for i in full if len(tokenizer(texts[i], **BARE).input_ids) > longest]

    # a title of nothing but characters that the tokenizer drops
    nothing = [tokenizer.unk_token_id or tokenizer.pad_token_id or 0]
    ids = [tokens or nothing for tokens in ids]
    lengths = np.array([len(tokens) for tokens in ids])
    return Tokenised(ids, place, cut=int(np.isin(place, cut).sum()), tokens=int(lengths[place].sum()))


class Enough(Exception):
    """Raised by a hook to leave the encoder where the deepest layer that is wanted has come out."""


def embed_batch(encoder, titles, layers, poolings):
    """Pooled hidden states of lists of token ids.

    Returns {(pooling, layer): (titles, hidden) float32 tensor on the CPU}.
    """
    # padded on the right, whatever the tokenizer would do: so positions are right for every kind
    sizes = [len(tokens) for tokens in titles]
    longest = max(sizes)
    padding = [encoder.tokenizer.pad_token_id or 0]
    rows = [tokens + padding * (longest - len(tokens)) for tokens in titles]
    ids = torch.tensor(rows, device=encoder.device)
    lengths = torch.tensor(sizes, device=encoder.device)[:, None]
    mask = None
    if min(sizes) < longest:
        mask = (torch.arange(longest, device=encoder.device) < lengths).long()

    # each layer is pooled as it comes out
    pooled = {}

    def keep(layer, state):
        for pooling in poolings:
            pooled[pooling, layer] = POOLINGS[pooling].pool(state, mask, lengths)

    run(encoder, {"input_ids": ids, "attention_mask": mask}, layers, keep)
    # one transfer for all
    together = torch.stack(list(pooled.values())).cpu()
    return dict(zip(pooled, together, strict=True))


def run(encoder, inputs, layers, keep):
    """Run an encoder with keep(layer, state) for each of `layers`; with blocks, no deeper than
    needed.
    """
    if encoder.blocks is None:
        states = encoder.model(**inputs, output_hidden_states=True).hidden_states
        # CANINE, for one, has others between them
        if len(states) != encoder.info.layers + 1:
            raise ValueError("it does not give a hidden state for each layer")
        for layer in layers:
            keep(layer, states[layer])
        return

    def look(layer, block, arguments):
        keep(layer, arguments[0])
        if layer == max(layers):
            raise Enough

    depth = encoder.info.layers
    with contextlib.suppress(Enough), contextlib.ExitStack() as hooks:
        for layer in set(layers) - {depth}:
            # what comes out of a layer goes into the next
            following = encoder.blocks[layer]
            hooks.enter_context(following.register_forward_pre_hook(functools.partial(look, layer)))
        # the last one's comes out of the encoder: some kinds normalise it once more
        keep(depth, encoder.model(**inputs).last_hidden_state)


def embed(encoder, tokenised, layers, poolings, report=lambda titles: None):
    """Features of Tokenised titles, in their order: {(pooling, layer): (titles, hidden) float32}.

    report: called after every batch with the number of titles in it. Where memory is short, batches
    become smaller, now and later; a cli.Problem if it does not suffice for one title.
    """
    # distinct titles, the shortest first
    ids = tokenised.ids
    shape = (len(ids), encoder.info.hidden)
    out = {column: np.empty(shape, np.float32) for column in itertools.product(poolings, layers)}
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    lengths = np.array([len(ids[i]) for i in order])

    # batch after batch
    start = 0
    while start < len(ids):
        rows = order[start : start + batch_size(encoder, lengths[start:])]
        pooled = None
        with torch.inference_mode(), contextlib.suppress(torch.OutOfMemoryError):
            pooled = embed_batch(encoder, [ids[i] for i in rows], layers, poolings)
        # nothing refers to the failed batch any more: its memory is free again
        if pooled is None:
            tokens = len(rows) * len(ids[rows[-1]])
            if len(rows) == 1:
                raise cli.Problem(f"too little memory for one title of {tokens} tokens; use a smaller --max-length")
            encoder.batching = replace(encoder.batching, budget=tokens // 2)
            torch.cuda.empty_cache()
            continue
        for column, values in pooled.items():
            out[column][rows] = values.numpy()
        start += len(rows)
        report(len(rows))

    # every copy gets its row
    if len(ids) == len(tokenised.place):
        return out
    return {column: values[tokenised.place] for column, values in out.items()}


def batch_size(encoder, lengths):
    """How many of the titles that are left make the next batch. lengths: (titles,) int, ascending."""
    # titles of one length need neither padding nor a mask; where they are few, longer ones join them
    size = int(np.searchsorted(lengths, lengths[0], side="right"))
    budget = encoder.batching.budget
    if encoder.info.checked.mixes:
        least = min(encoder.batching.least, budget)
        while size < len(lengths) and size * lengths[size - 1] < least:
            size += 1
    return max(1, min(size, budget // int(lengths[size - 1])))

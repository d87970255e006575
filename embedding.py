"""Titles through a frozen encoder: tokenise, batch by length, hidden states, pooling."""

import contextlib
import functools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

import cli

# a run of equal lengths with fewer tokens than these is padded together with its neighbours
LEAST = {"cpu": 256, "cuda": 16384}


# --- from titles to tokens ----------------------------------------------------------------------------------------


@dataclass
class Tokenised:
    """Titles as an encoder reads them."""

    ids: list[list[int]]  # the token ids of each distinct title
    place: np.ndarray  # (titles,) int64: where in ids each title finds its own
    cut: int  # titles, copies included, that are cut at max_length


def tokenise(encoder, titles):
    """Tokenised for a list of titles. An encoder.Encoder says how, and where titles are cut."""
    # copies are computed once
    distinct = list(dict.fromkeys(titles))
    number = {title: i for i, title in enumerate(distinct)}
    place = np.array([number[title] for title in titles], dtype=np.int64)

    tokenizer = encoder.tokenizer
    longest = encoder.max_length
    options = {"return_attention_mask": False, "return_token_type_ids": False}
    ids = tokenizer(distinct, truncation=True, max_length=longest, **options).input_ids

    # those that are as long as may be are read again to know which were longer
    cut = []
    for i, tokens in enumerate(ids):
        if len(tokens) >= longest and len(tokenizer(distinct[i], **options).input_ids) > longest:
            cut.append(i)

    # a title of nothing but characters that the tokenizer drops
    nothing = [tokenizer.unk_token_id or tokenizer.pad_token_id or 0]
    ids = [tokens or nothing for tokens in ids]
    return Tokenised(ids, place, cut=int(np.isin(place, cut).sum()))


def windows_ahead(encoder, windows):
    """Yield (key, Tokenised) for (key, titles), from a thread that stays one window ahead."""
    with ThreadPoolExecutor(1) as thread:
        begun = []
        for key, titles in windows:
            begun.append((key, thread.submit(tokenise, encoder, titles)))
            if len(begun) > 1:
                first, tokenised = begun.pop(0)
                yield first, tokenised.result()
        for last, tokenised in begun:
            yield last, tokenised.result()


# --- one batch ----------------------------------------------------------------------------------------------------


@dataclass
class Batch:
    """Titles that are computed at once."""

    ids: torch.Tensor  # (titles, longest) int64
    lengths: torch.Tensor  # (titles, 1) int64: tokens of each title
    mask: torch.Tensor | None  # (titles, longest) int64: 0 on padding; None where there is none


class Enough(Exception):
    """Raised by a hook to leave the encoder where the deepest layer that is wanted has come out."""


def embed_batch(encoder, titles, layers, poolings):
    """Pooled hidden states of a list of lists of token ids.

    Returns {(pooling, layer): (titles, hidden) float32 tensor on the CPU}. The encoder runs no
    deeper than needed.
    """
    batch = pad(encoder, titles)
    pooled = {}

    def keep(layer, state):
        for pooling in poolings:
            pooled[pooling, layer] = pool(batch, state, pooling)

    if encoder.blocks is None:
        output = encoder.model(input_ids=batch.ids, attention_mask=batch.mask, output_hidden_states=True)
        for layer in layers:
            keep(layer, output.hidden_states[layer])
    else:
        run_blocks(encoder, batch, layers, keep)
    together = torch.stack(list(pooled.values())).cpu()  # one transfer for all
    return dict(zip(pooled, together, strict=True))


def pad(encoder, titles):
    """A Batch of lists of token ids.

    Padding stands on the right, whatever the tokenizer would do, behind an attention mask, so
    positions are right for every kind of encoder.
    """
    sizes = [len(tokens) for tokens in titles]
    longest = max(sizes)
    padding = encoder.tokenizer.pad_token_id or 0
    rows = [tokens + [padding] * (longest - len(tokens)) for tokens in titles]
    ids = torch.tensor(rows, device=encoder.device)
    lengths = torch.tensor(sizes, device=encoder.device)[:, None]
    mask = None
    if min(sizes) < longest:
        mask = (torch.arange(longest, device=encoder.device) < lengths).long()
    return Batch(ids, lengths, mask)


def pool(batch, state, pooling):
    """One vector a title, (titles, hidden) float32, from the hidden states of all its tokens.

    The mean is over all tokens of the title, [CLS] and [SEP] among them, in float32.
    """
    if pooling == "cls":
        return state[:, 0].float().clone()  # a view would keep the states of all tokens
    state = state.float()
    if batch.mask is None:
        return state.mean(1)
    return (state * batch.mask[..., None]).sum(1) / batch.lengths


def run_blocks(encoder, batch, layers, keep):
    """Run an encoder as far as the deepest of `layers`, with keep(layer, state) for each of them."""
    depth = encoder.info.layers
    deepest = max(layers)

    def look(layer, block, inputs):
        keep(layer, inputs[0])
        if layer == deepest:
            raise Enough

    with contextlib.suppress(Enough), contextlib.ExitStack() as hooks:
        for layer in set(layers) - {depth}:
            following = encoder.blocks[layer]  # what comes out of a layer goes into the next
            hook = following.register_forward_pre_hook(functools.partial(look, layer))
            hooks.enter_context(hook)
        output = encoder.model(input_ids=batch.ids, attention_mask=batch.mask)
        # the last one's comes out of the encoder: some kinds normalise it once more
        keep(depth, output.last_hidden_state)


# --- all titles of a window ---------------------------------------------------------------------------------------


def embed(encoder, tokenised, layers, poolings, report=lambda titles: None):
    """Features of Tokenised titles: {(pooling, layer): (titles, hidden) float32 array}, in their order.

    report: called after every batch with the number of titles in it. Where memory is short, batches
    become smaller, now and later; a cli.Problem if it does not suffice for one title.
    """
    # distinct titles by length
    ids = tokenised.ids
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    lengths = np.array([len(ids[i]) for i in order])
    out = {}
    for column in [(pooling, layer) for pooling in poolings for layer in layers]:
        out[column] = np.empty((len(ids), encoder.info.hidden), np.float32)

    # batch after batch
    start = 0
    while start < len(ids):
        rows = order[start : start + batch_size(encoder, lengths[start:])]
        pooled = None
        with torch.inference_mode(), contextlib.suppress(torch.OutOfMemoryError):
            pooled = embed_batch(encoder, [ids[i] for i in rows], layers, poolings)
        if pooled is None:  # nothing refers to the failed batch any more: its memory is free again
            tokens = len(rows) * len(ids[rows[-1]])
            if len(rows) == 1:
                short = f"too little memory for one title of {tokens} tokens"
                raise cli.Problem(f"{short}; use a smaller --max-length")
            encoder.budget = tokens // 2
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
    if encoder.mixes:
        least = min(LEAST[encoder.device.type], encoder.budget)
        while size < len(lengths) and size * lengths[size - 1] < least:
            size += 1
    longest = int(lengths[size - 1])
    return max(1, min(size, encoder.budget // longest))

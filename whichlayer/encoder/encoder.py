"""The frozen encoder: load it, check it, and make it ready for embedding.py to run."""

import contextlib
import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from whichlayer.common import cli
from whichlayer.encoder import store
from whichlayer.encoder.embedding import BATCHING, Batching, embed, tokenise
from whichlayer.encoder.loading import read_model
from whichlayer.encoder.poolings import POOLINGS

# titles that an encoder is tried on
TRIED = ["a title", "another, rather longer title: 10 things | 2024", "a"]


@dataclass
class Encoder:
    """A frozen encoder that is ready to give the pooled hidden states of some layers."""

    name: str  # as the user gave it
    info: store.EncoderInfo
    tokenizer: object
    model: nn.Module
    device: torch.device
    dtype: torch.dtype  # that the weights are rounded to
    max_length: int  # tokens; longer titles are cut
    batching: Batching  # how many of them are computed together
    blocks: list | None = None  # its layers as modules, where it may be left between them
    operations: np.ndarray | None = None  # of a title, as count_operations says; None: unknown
    prefix: str = ""  # put before every title

    @property
    def poolings(self):
        """The names of all POOLINGS that it has."""
        has_summary = self.info.checked.has_summary
        return [name for name, pooling in POOLINGS.items() if has_summary or not pooling.is_first_token]


@cli.loading()
def load_encoder(name, device="auto", dtype="auto", max_length=128, poolings=(), prefix="", checked=None):
    """An Encoder whose parts fit one another and the poolings; misfits are a cli.Problem.

    dtype: of the weights, and of the arithmetic where there are instructions for it; poolings:
    those that it must have; prefix: what it wants before every title; checked: the store.Checked
    that a run keeps of it, so that what was found out here, of these weights, is not tried again;
    nor are its operations counted then.
    """
    device = cli.choose_device(device)
    dtype = choose_dtype(dtype, device)
    model, tokenizer, info = read_model(name)
    check_parts(name, model, tokenizer, max_length)
    model.eval().requires_grad_(False).to(device)
    encoder = Encoder(name, info, tokenizer, model, device, dtype, max_length, BATCHING[device.type])

    # which shortcuts are right, in float32
    here = store.Checked(info.weights, versions(), processor(device))
    info.checked = checked if checked == here else here
    if info.checked is here:
        check_encoder(encoder)
    if info.checked.leaves:
        encoder.blocks = find_blocks(encoder)
    if not set(poolings) <= set(encoder.poolings):
        what = f"{name} puts no summary token first (decoder-only models have none)"
        raise cli.Problem(f"--pooling: {what}; use --pooling mean")
    if checked is None:
        encoder.operations = count_operations(encoder)

    # make it fast
    model.to(dtype)
    if device.type == "cpu":
        pack_linears(encoder)
        if model.dtype == torch.bfloat16 and has_amx():
            encoder.batching = BATCHING["cpu, bfloat16 with AMX"]
            fuse_activations(encoder)
    # what was tried had to be titles alone
    encoder.prefix = prefix
    return encoder


def versions():
    """What decides, beside the processor, how an encoder is computed."""
    import transformers

    return {"torch": str(torch.__version__), "transformers": transformers.__version__}


def has_amx():
    """Whether the processor multiplies matrices of bfloat16 by instructions of their own."""
    return torch.cpu._is_amx_tile_supported()


def processor(device):
    """The kind of a device, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return torch.backends.cpu.get_cpu_capability() + " with AMX" * has_amx()


def choose_dtype(name, device):
    """The torch dtype for --dtype; auto: bfloat16 where there are instructions for its products."""
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        fast = has_amx() or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def check_parts(name, model, tokenizer, max_length):
    """Refuse titles longer than the encoder reads, and a tokenizer that is not made for it."""
    # positions: none, or -1, where they are relative
    limit = getattr(model.config, "max_position_embeddings", None) or 0
    if hasattr(getattr(model, "embeddings", None), "padding_idx"):
        # they are counted from there
        limit -= (getattr(model.config, "pad_token_id", 0) or 0) + 1
    if 0 < limit < max_length:
        raise cli.Problem(f"--max-length {max_length}: {name} reads at most {limit} tokens")

    # vocabulary
    size = getattr(model.config, "vocab_size", None) or float("inf")
    unknown = {token for token, number in tokenizer.get_vocab().items() if number >= size}
    unknown -= set(tokenizer.all_special_tokens)
    if unknown:
        raise cli.Problem(f"--model {name}: its tokenizer knows {len(unknown):,} tokens that its weights do not")


def check_encoder(encoder):
    """Note in its info which shortcuts of embedding.py give transformers' own hidden states.

    For some kinds, such as FNet and ConvBERT, padding changes the values of a title in spite of its
    mask. Some call their layers in ways that the hooks do not know, and those run to their end.
    """
    tokenised = tokenise(encoder, TRIED)
    layers = range(encoder.info.layers + 1)
    try:
        truth = embed(encoder, tokenised, layers, POOLINGS)
        if not all(np.isfinite(values).all() for values in truth.values()):
            raise ValueError("hidden states that are not finite, though in float32: its weights are damaged")
    except Exception as error:
        reason = cli.one_line(error)[:160]
        raise cli.Problem(f"--model {encoder.name}: cannot be run on titles ({reason})") from None

    # is there a summary? its token is there without a title, too, whatever the tokenizer calls it;
    # what reads from left to right knows nothing of the title there
    checked = encoder.info.checked
    nothing = encoder.tokenizer("").input_ids
    starts = {tuple(tokens[:1]) for tokens in [nothing, *tokenised.ids]}
    first = next(name for name, pooling in POOLINGS.items() if pooling.is_first_token)
    knows = not close(*truth[first, layers[-1]][:2], 1e-5)
    checked.has_summary = len(starts) == 1 and knows

    # may titles be padded?
    checked.mixes = True
    checked.mixes = is_same(encoder, tokenised, layers, truth)
    # may the encoder be left after each of its layers?
    encoder.blocks = find_blocks(encoder)
    if encoder.blocks is not None:
        checked.leaves = all(is_same(encoder, tokenised, [layer], truth) for layer in layers)
    encoder.blocks = None


def find_blocks(encoder):
    """Its layers as modules; None where no list of them is there, as in ALBERT, which calls one
    block again and again.
    """
    lists = [part for part in encoder.model.modules() if isinstance(part, nn.ModuleList)]
    return next((blocks for blocks in lists if len(blocks) == encoder.info.layers), None)


def is_same(encoder, tokenised, layers, truth, tolerance=1e-4):
    """Whether the encoder, as it is set now, gives the true features of these layers."""
    with contextlib.suppress(Exception):
        poolings = {pooling for pooling, _ in truth}
        found = embed(encoder, tokenised, layers, poolings)
        return all(close(found[column], truth[column], tolerance) for column in found)
    return False


def close(value, truth, tolerance):
    """Whether all values are true within `tolerance` of the largest one."""
    return np.allclose(value, truth, 0, tolerance * np.abs(truth).max())


def count_operations(encoder):
    """What the floating-point operations of a title of T tokens are made of, before linears are
    packed.

    Returns (3, layers + 1) float64: the factors of T², T and 1, for layer 0, 1, … with all below
    it. None where they cannot be counted, as in an encoder that cannot be left between its layers.
    """
    if encoder.blocks is None:
        return None
    token = tokenise(encoder, ["a title"]).ids[0][0]
    terms = []
    found = []
    with contextlib.suppress(Exception), contextlib.ExitStack() as stack:
        # in one kernel, attention would go uncounted on a CPU
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        counter = stack.enter_context(FlopCounterMode(display=False))

        def note(*_):
            found.append(counter.get_total_flops())

        # where a batch begins, before each layer, and after the last one
        for part in (encoder.model, *encoder.blocks):
            stack.enter_context(part.register_forward_pre_hook(note))
        stack.enter_context(encoder.blocks[-1].register_forward_hook(note))
        for titles, tokens in ((1, 4), (1, 8), (1, 12), (2, 4)):
            # the last is done once a batch, as DeBERTa's table of distances: it is no title's
            terms.append([titles * tokens**2, titles * tokens, titles, 1])
            encoder.model(input_ids=torch.full((titles, tokens), token, device=encoder.device))
        counts = np.array(found, float).reshape(len(terms), -1)
        return np.linalg.solve(terms, counts[:, 1:] - counts[:, :1])[:3]
    return None


def cost(encoder, tokens):
    """The store.Cost of titles with so many tokens on average; None where it cannot be known."""
    if encoder.operations is None:
        return None
    flop = np.array([tokens**2, tokens, 1]) @ encoder.operations
    return store.Cost(tokens, flop.round().tolist())


def pack_linears(encoder):
    """Let oneDNN keep each Linear's weights in the order that its CPU kernels read: up to 2×
    faster.

    Otherwise torch multiplies float32 by MKL, slow where the processor is not Intel's, and orders
    bfloat16 weights anew in every call. Where torch, the processor or the model does not go along,
    rounded weights are multiplied in float32, as exact and, where there are no instructions for
    half precision, 8× faster.
    """
    checked = encoder.info.checked
    arithmetic = str(encoder.model.dtype)
    tolerance = 1e-4 if arithmetic == "torch.float32" else 0.05
    with contextlib.suppress(Exception):
        if change(encoder, packed_linears(encoder), tolerance, is_known=checked.packs == arithmetic):
            checked.packs = arithmetic
            return
    if arithmetic != "torch.float32":
        encoder.model.float()
        pack_linears(encoder)


def packed_linears(encoder):
    """What pack_linears changes, as `change` takes it."""
    changes = []
    for linear in encoder.model.modules():
        if type(linear) is nn.Linear:
            weight = linear.weight.detach()
            packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
            how = {"W": packed, "B": linear.bias, "attr": "none", "scalars": [], "algorithm": ""}
            product = functools.partial(torch.ops.mkldnn._linear_pointwise, **how)
            # one copy of the weights is enough
            changes += [(linear, "forward", product), (linear.weight, "data", weight.new_empty(0))]
    return changes


def fuse_activations(encoder):
    """Let packed products apply the exact GELU that follows them."""
    from transformers.activations import GELUActivation

    changes = []
    for module in encoder.model.modules():
        parts = list(module.children())
        packed = [part for part in parts if isinstance(part.__dict__.get("forward"), functools.partial)]
        exact = [part for part in parts if isinstance(part, GELUActivation)]
        # where others stand first, states change
        if packed and exact:
            # without an algorithm, oneDNN's would be the approximation by tanh
            product = functools.partial(packed[0].forward, attr="gelu", algorithm="none")
            identity = nn.Identity().forward
            changes += [(packed[0], "forward", product), (exact[0], "forward", identity)]
    change(encoder, changes, 0.05)


def change(encoder, changes, tolerance, is_known=False):
    """Have parts of an encoder compute in another way; undone where that changes its features.

    changes: (module or parameter, name of an attribute, its new value); is_known: that it changes
    none. Returns whether it is done.
    """
    tokenised = tokenise(encoder, TRIED)
    layers = range(encoder.info.layers + 1)
    earlier = [(thing, name, getattr(thing, name)) for thing, name, _ in changes]
    with contextlib.suppress(Exception):
        truth = None if is_known else embed(encoder, tokenised, layers, ["mean"])
        for thing, name, value in changes:
            setattr(thing, name, value)
        if is_known or is_same(encoder, tokenised, layers, truth, tolerance):
            return True
    for thing, name, value in earlier:
        setattr(thing, name, value)
    return False

"""The frozen encoder: load it, check it, and make it ready for embedding.py to run."""

import contextlib
import ctypes
import functools
import os
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from whichlayer.common import cli
from whichlayer.encoder import store
from whichlayer.encoder.embedding import BATCHING, Batching, embed, tokenise
from whichlayer.encoder.loading import keep_garbage, read_model

# oneDNN keeps what it has made for every shape of matrices, by default hundreds of MB
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
os.environ.setdefault("LRU_CACHE_CAPACITY", "64")

# as code of others may fail
FOREIGN = (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)


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
    mixes: bool = False  # whether titles of different lengths may be padded to one
    blocks: list | None = None  # its layers as modules, where hooks know how they are called
    operations: np.ndarray | None = None  # of a title, as count_operations says; None: unknown
    prefix: str = ""  # put before every title


@keep_garbage()
def load_encoder(name, device="auto", dtype="auto", max_length=128, poolings=("cls",), prefix="", counted=True):
    """An Encoder whose parts fit one another and the poolings; misfits are a cli.Problem.

    dtype: of the weights, and of the arithmetic where there are instructions for it; prefix: what
    it wants before every title; counted: whether its operations are, which takes a moment.
    """
    device = cli.choose_device(device)
    dtype = choose_dtype(dtype, device)
    model, tokenizer, info = read_model(name)
    check_parts(name, model, tokenizer, max_length)
    if prefix and len(tokenizer(prefix).input_ids) >= max_length:
        raise cli.Problem(f"--max-length {max_length}: the prefix alone has as many tokens")

    # try it in float32, then make it fast
    model.eval().requires_grad_(False).to(device)
    batching = BATCHING[device.type]
    encoder = Encoder(name, info, tokenizer, model, device, dtype, max_length, batching)
    check_encoder(encoder, poolings)
    if counted:
        encoder.operations = count_operations(encoder)
    model.to(dtype)
    if device.type == "cpu":
        keep_memory()
        pack_linears(encoder)
    encoder.batching = choose_batching(device, model.dtype)
    if encoder.batching.fuse:
        fuse_activations(encoder)
    # what was tried had to be titles alone
    encoder.prefix = prefix
    return encoder


def choose_dtype(name, device):
    """The torch dtype for --dtype; auto: bfloat16 where there are instructions for its products."""
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
    else:  # not every version of torch can tell
        units = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
        fast = any(getattr(torch.cpu, unit, bool)() for unit in units)
    return torch.bfloat16 if fast else torch.float32


def keep_memory():
    """Let glibc, where there is one, keep the large blocks that are freed for the next batch.

    It would give them back, and the system would have to find each page anew: 6% of the time with
    AMX, more on a virtual machine.
    """
    threshold = -3  # blocks from this size on are mapped, and unmapped when freed
    top = -1  # from this size on, what is free at the heap's end is given back
    with contextlib.suppress(AttributeError, OSError, TypeError):
        glibc = ctypes.CDLL(None)
        glibc.mallopt(threshold, 32 << 20)  # its maximum
        glibc.mallopt(top, (1 << 31) - 1)


def choose_batching(device, dtype):
    """The embedding.Batching for a device and the dtype of the arithmetic."""
    # not every version of torch can tell
    has_amx = getattr(torch.cpu, "_is_amx_tile_supported", bool)
    if device.type == "cpu" and dtype == torch.bfloat16 and has_amx():
        return BATCHING["cpu, bfloat16 with AMX"]
    return BATCHING[device.type]


def check_parts(name, model, tokenizer, max_length):
    """Refuse titles longer than the encoder reads, and a tokenizer that is not made for it."""
    # positions: none, or -1, where they are relative
    limit = getattr(model.config, "max_position_embeddings", None) or 0
    if hasattr(getattr(model, "embeddings", None), "padding_idx"):
        # they are counted from there
        limit -= (getattr(model.config, "pad_token_id", 0) or 0) + 1
    if 0 < limit < max_length:
        remedy = f"pass --max-length {limit}"
        raise cli.Problem(f"--max-length {max_length}: {name} reads at most {limit} tokens; {remedy}")

    # vocabulary
    size = getattr(model.config, "vocab_size", None) or float("inf")
    unknown = {token for token, number in tokenizer.get_vocab().items() if number >= size}
    unknown -= set(tokenizer.all_special_tokens)
    if unknown:
        raise cli.Problem(f"--model {name}: its tokenizer knows {len(unknown):,} tokens that its weights do not")


def check_encoder(encoder, poolings):
    """Take those shortcuts of embedding.py that give transformers' own hidden states, in float32.

    For some kinds, such as FNet and ConvBERT, padding changes the values of a title in spite of its
    mask. Some call their layers in ways that the hooks do not know, and those run to their end.
    """
    titles = ["a title", "another, rather longer title: 10 things | 2024", "a"]
    tokenised = tokenise(encoder, titles)
    depth = encoder.info.layers
    layers = range(depth + 1)
    try:
        check_states(encoder, tokenised.ids[0])
        truth = embed(encoder, tokenised, layers, cli.POOLINGS)
    except FOREIGN as error:
        reason = cli.one_line(error)[:160]
        raise cli.Problem(f"--model {encoder.name}: cannot be run on titles ({reason})") from None
    if not all(np.isfinite(values).all() for values in truth.values()):
        wrong = "its hidden states are not finite numbers, though computed in float32"
        remedy = "its weights are damaged: get them again"
        raise cli.Problem(f"--model {encoder.name}: {wrong}; {remedy}")

    # is there a summary? its token is none of the title's, whatever the tokenizer calls it;
    # what reads from left to right knows nothing of the title there
    starts = {tokens[0] for tokens in tokenised.ids}
    bare = encoder.tokenizer(titles, add_special_tokens=False).input_ids
    own = {token for tokens in bare for token in tokens[:1]} - {encoder.tokenizer.cls_token_id}
    knows = not close(*truth["cls", depth][:2], 1e-5)
    if "cls" in poolings and not (len(starts) == 1 and starts.isdisjoint(own) and knows):
        what = f"{encoder.name} puts no summary token first (decoder-only models have none)"
        raise cli.Problem(f"--pooling cls: {what}; use --pooling mean")

    # may titles be padded?
    encoder.mixes = True
    encoder.mixes = is_same(encoder, tokenised, layers, truth)
    # may the encoder be left early? ALBERT, which calls one block again and again, has no list of them
    lists = [part for part in encoder.model.modules() if isinstance(part, nn.ModuleList)]
    encoder.blocks = next((blocks for blocks in lists if len(blocks) == depth), None)
    if encoder.blocks is not None and not is_same(encoder, tokenised, layers, truth):
        encoder.blocks = None
    # after each of its layers; their values are right, so one short title tells whether it ends there
    short = tokenise(encoder, titles[-1:])
    wanted = {column: values[-1:] for column, values in truth.items()}
    for layer in layers:
        if encoder.blocks is not None and not is_same(encoder, short, [layer], wanted):
            encoder.blocks = None


def check_states(encoder, tokens):
    """Refuse an encoder that does not give a hidden state for each layer and token, such as CANINE."""
    ids = torch.tensor([tokens], device=encoder.device)
    with torch.inference_mode():
        states = encoder.model(input_ids=ids, output_hidden_states=True).hidden_states
    is_whole = all(state.shape[:2] == ids.shape for state in states)
    if len(states) != encoder.info.layers + 1 or not is_whole:
        wrong = f"a {encoder.info.kind} model does not give a hidden state for each layer and token"
        raise cli.Problem(f"--model {encoder.name}: {wrong}; choose another encoder")


def is_same(encoder, tokenised, layers, truth):
    """Whether the encoder, as it is set now, gives the true features of these layers."""
    with contextlib.suppress(*FOREIGN):
        found = embed(encoder, tokenised, layers, cli.POOLINGS)
        return all(close(values, truth[column], 1e-4) for column, values in found.items())
    return False


def close(value, truth, tolerance):
    """Whether all values are true within `tolerance` of the largest one."""
    return np.allclose(value, truth, 0, tolerance * np.abs(truth).max())


def count_operations(encoder):
    """What the floating-point operations of a title of T tokens are made of, before linears are
    packed.

    Returns (3, layers + 1) float64: the factors of T², T and 1, for layer 0, 1, … with all below
    it. None where they cannot be counted.
    """
    terms = []
    counts = []
    with contextlib.suppress(*FOREIGN):
        for titles, tokens in ((1, 4), (1, 8), (1, 12), (2, 4)):
            # the last is done once a batch, as DeBERTa's table of distances: it is no title's
            terms.append([titles * tokens**2, titles * tokens, titles, 1])
            counts.append(batch_operations(encoder, titles, tokens))
        return np.linalg.solve(terms, counts)[:3]
    return None


def batch_operations(encoder, titles, tokens):
    """Floating-point operations of a batch until each layer comes out: (layers + 1,) float64.

    titles, tokens: the batch's shape. An encoder that cannot be left early does all for each layer.
    """
    token = tokenise(encoder, ["a title"]).ids[0][0]
    ids = torch.full((titles, tokens), token, device=encoder.device)
    found = {}
    with contextlib.ExitStack() as stack:
        # in one kernel, attention would go uncounted on a CPU
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(torch.no_grad())
        counter = stack.enter_context(FlopCounterMode(display=False))

        def note(layer, *_):
            found[layer] = counter.get_total_flops()

        if encoder.blocks is not None:
            first = encoder.blocks[0]
            stack.enter_context(first.register_forward_pre_hook(functools.partial(note, 0)))
            for layer, block in enumerate(encoder.blocks, 1):
                stack.enter_context(block.register_forward_hook(functools.partial(note, layer)))
        encoder.model(input_ids=ids, attention_mask=None)
        whole = counter.get_total_flops()
    return np.array([found.get(layer, whole) for layer in range(encoder.info.layers + 1)], float)


def cost(encoder, tokens):
    """The store.Cost of titles with so many tokens on average; None where it cannot be known."""
    if encoder.operations is None or tokens is None:
        return None
    flop = np.array([tokens**2, tokens, 1]) @ encoder.operations
    return store.Cost(tokens, flop.round().tolist())


def pack_linears(encoder):
    """Let oneDNN keep each Linear's weights in the order that its CPU kernels read: up to 2×
    faster.

    Otherwise torch multiplies float32 by MKL, slow where the processor is not Intel's, and orders
    bfloat16 weights anew in every call. Undone where torch, the processor or the model does not go
    along: then rounded weights are multiplied in float32, as exact and, where there are no
    instructions for half precision, 8× faster.
    """
    depth = encoder.info.layers
    features = functools.partial(embed, encoder, tokenise(encoder, ["a title"]), [depth], ["mean"])
    linears = [module for module in encoder.model.modules() if type(module) is nn.Linear]
    weights = [linear.weight.detach() for linear in linears]
    tolerance = 1e-4 if encoder.model.dtype == torch.float32 else 0.05
    with contextlib.suppress(*FOREIGN):
        before = features()["mean", depth]
        for linear, weight in zip(linears, weights, strict=True):
            packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
            product = functools.partial(torch.ops.mkldnn._linear_pointwise, W=packed, B=linear.bias)
            linear.forward = functools.partial(product, attr="none", scalars=[], algorithm="")
            # one copy is enough
            linear.weight.data = weight.new_empty(0)
        if close(features()["mean", depth], before, tolerance):
            return

    # undo it
    for linear, weight in zip(linears, weights, strict=True):
        linear.__dict__.pop("forward", None)
        linear.weight.data = weight
    if encoder.model.dtype != torch.float32:
        encoder.model.float()
        pack_linears(encoder)


def fuse_activations(encoder):
    """Let packed products apply the exact GELU that follows them. Undone where that changes states."""
    layers = range(encoder.info.layers + 1)
    tokenised = tokenise(encoder, ["a title", "another, rather longer title: 10 things | 2024"])
    features = functools.partial(embed, encoder, tokenised, layers, ["mean"])
    before = features()
    pairs = find_activations(encoder, features)
    products = [linear.forward for linear, _ in pairs]
    with contextlib.suppress(*FOREIGN):
        for (linear, activation), product in zip(pairs, products, strict=True):
            # without an algorithm, oneDNN's would be the approximation by tanh
            linear.forward = functools.partial(product, attr="gelu", algorithm="none")
            activation.forward = nn.Identity().forward
        after = features()
        if all(close(after[column], values, 0.05) for column, values in before.items()):
            return

    # undo it
    for (linear, activation), product in zip(pairs, products, strict=True):
        linear.forward = product
        activation.__dict__.pop("forward", None)


def find_activations(encoder, work):
    """[(packed Linear, the exact GELU that its output goes into)], as seen while `work` is done."""
    made = {}  # by what came out, which is kept so that no other gets its place
    pairs = {}

    def note_product(linear, _, output):
        made[id(output)] = (linear, output)

    def note_activation(activation, inputs, _):
        linear, _ = made.get(id(inputs[0]), (None, None))
        if linear is not None:
            pairs[linear] = activation

    with contextlib.ExitStack() as hooks:
        for module in encoder.model.modules():
            if isinstance(module.__dict__.get("forward"), functools.partial):
                hooks.enter_context(module.register_forward_hook(note_product))
            elif is_exact_gelu(module):
                hooks.enter_context(module.register_forward_hook(note_activation))
        work()
    return list(pairs.items())


def is_exact_gelu(module):
    """Whether a module is the GELU by the error function, whatever its class is called."""
    if list(module.children()) or list(module.parameters()):
        return False
    x = torch.linspace(-4, 4, 100)
    with contextlib.suppress(*FOREIGN, NotImplementedError):
        return torch.allclose(module(x), nn.functional.gelu(x), rtol=0, atol=1e-6)
    return False

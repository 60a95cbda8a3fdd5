"""SigLIPs with random weights as `transformers` saves them, and how far ours are from them.

    python -m tools.torch_siglip [SHAPE ...]

For each shape, SigLIP and SigLIP 2: the largest distance of a vector of ours from theirs, as a part
of the latter's length, of dense maps, pooled features and text features.
"""

import argparse
import json
import pathlib
import tempfile
import warnings
from typing import Any

import jax
import numpy as np
import tokenizers
import torch

from safe_jax import backbones
from safe_jax.data.preprocessing import normalize
from safe_jax.siglip import convert

# The released shapes' small brothers: patch, image size, heads and the MLP's width differ as there.
SHAPES = {
    "base-patch16": {"patch": 16, "size": 64, "width": 32, "heads": 2, "mlp": 128},
    "base-patch32": {"patch": 32, "size": 64, "width": 32, "heads": 2, "mlp": 128},
    "so400m-patch14": {"patch": 14, "size": 62, "width": 36, "heads": 2, "mlp": 134},
    "giant-opt": {"patch": 16, "size": 48, "width": 48, "heads": 4, "mlp": 96, "text_width": 32},
    # In full; the texts' vocabulary alone is small.
    "base-patch16-224": {
        "patch": 16,
        "size": 224,
        "width": 768,
        "heads": 12,
        "mlp": 3072,
        "layers": 12,
    },
}
WORDS = "a photo of the red green blue dark grey cat dog thing".split()  # noqa: SIM905


def write_tokenizer(folder: pathlib.Path, second: bool = False) -> None:
    """A tokenizer.json of whole words that ends a text as SigLIP's does."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>"] if second else ["<unk>", "</s>"]
    end = "<eos>" if second else "</s>"
    vocabulary = {word: number for number, word in enumerate([*special, *WORDS])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, vocabulary[end])]
    )
    made.save(str(folder / "tokenizer.json"))
    words = {
        "tokenizer_class": "GemmaTokenizer" if second else "SiglipTokenizer",
        "pad_token": {"content": "<pad>"} if second else "</s>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(words))


def write(folder: pathlib.Path, second: bool = False, **shape):
    """A folder as on the Hub, and the model of `transformers` that is in it."""
    import transformers

    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    text_width = shape.get("text_width", shape["width"])
    config = transformers.SiglipConfig(
        text_config={
            "vocab_size": 40, "hidden_size": text_width, "intermediate_size": shape["mlp"],
            "num_hidden_layers": shape.get("layers", 2), "num_attention_heads": 2,
            "projection_size": shape["width"], "bos_token_id": 0, "eos_token_id": 1,
        },
        vision_config={
            "hidden_size": shape["width"], "intermediate_size": shape["mlp"],
            "num_hidden_layers": shape.get("layers", 2), "num_attention_heads": shape["heads"],
            "image_size": shape["size"], "patch_size": shape["patch"],
        },
    )  # fmt: skip
    model = transformers.SiglipModel(config).eval()
    with torch.no_grad():  # as initialized, biases are 0 and the head hardly depends on its input
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
        model.logit_scale.fill_(4.7)
        model.logit_bias.fill_(-12.9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder)
    preprocessor = {
        "do_resize": True, "resample": 2 if second else 3, "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3, "size": {"height": shape["size"], "width": shape["size"]},
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    write_tokenizer(folder, second)
    return model


def distance(found: Any, expected: Any) -> float:
    """The largest distance of a vector from the expected one, as a part of the latter's length."""
    found, expected = np.asarray(found), np.asarray(expected)
    off = np.linalg.norm(found - expected, axis=-1) / np.linalg.norm(expected, axis=-1)
    return float(off.max())


def compare(folder: pathlib.Path, second: bool = False, **shape: Any) -> dict[str, float]:
    """The distances of a model of this shape; `folder` takes both forms of it."""
    theirs = write(folder / "hub", second, **shape)
    convert.convert(folder / "hub", folder / "ours")
    ours = backbones.load(folder / "ours")
    size = shape["size"]
    pixels_bhwc = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), np.uint8)
    images_bhwc = normalize(pixels_bhwc, ours.config.preprocessing)
    tokens_bt = ours.tokenize(["a photo of the red thing.", "Dark-grey cat", "unheard of"])
    with torch.no_grad():
        vision = theirs.vision_model(torch.from_numpy(images_bhwc).permute(0, 3, 1, 2))
        text = theirs.text_model(torch.from_numpy(tokens_bt).long())
    dense_bhwc = jax.jit(lambda model, x: model.dense_features(x))(ours, images_bhwc)
    image_bd = jax.jit(lambda model, x: model.attnpool(x))(ours, dense_bhwc)
    text_bd = jax.jit(lambda model, x: model.encode_text(x))(ours, tokens_bt)
    cells_bnc = dense_bhwc.reshape(3, -1, dense_bhwc.shape[-1])
    return {
        "dense": distance(cells_bnc, vision.last_hidden_state),
        "pooled": distance(image_bd, vision.pooler_output),
        "text": distance(text_bd, text.pooler_output),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shapes", nargs="*", metavar="SHAPE", help=", ".join(SHAPES))
    for name in parser.parse_args().shapes or SHAPES:
        for second in (False, True):
            with tempfile.TemporaryDirectory() as folder:
                found = compare(pathlib.Path(folder), second, **SHAPES[name])
            label = f"{name}, SigLIP{' 2' if second else ''}"
            print(f"{label:30}", *(f"{what} {off:.1e}" for what, off in found.items()), sep="  ")


if __name__ == "__main__":
    main()

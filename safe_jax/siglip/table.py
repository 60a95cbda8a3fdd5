"""The table of a SigLIP, under the names of Hugging Face's checkpoints."""

from safe_jax.checkpoints.table import CONV, DENSE, LAYER_NORM, LEAF, SAME, Layout, Row

KIND = "SigLIP"
TOKENIZER = "tokenizer.json"  # the file's bytes, beside the tensors of a checkpoint

_PROBE = (("", "", Layout(lambda x: x.reshape(x.shape[-1]), lambda x: x[None, None])),)
_SCALAR = (("", "", Layout(lambda x: x.reshape(()), lambda x: x[None])),)
_PATCHES = (("weight", "kernel", CONV), ("bias", "bias", SAME))
_ROWS = (("weight", "kernel", SAME), ("bias", "bias", SAME))  # as torch has them, (out, in)

_BLOCK = (
    ("layer_norm#", "layer_norm#", LAYER_NORM),
    ("self_attn.q_proj", "self_attn/q_proj", DENSE),
    ("self_attn.k_proj", "self_attn/k_proj", DENSE),
    ("self_attn.v_proj", "self_attn/v_proj", DENSE),
    ("self_attn.out_proj", "self_attn/out_proj", DENSE),
    ("mlp.fc#", "mlp/fc#", DENSE),
)


def _blocks(torch_tower: str, tower: str) -> tuple[Row, ...]:
    return tuple(
        (f"{torch_tower}.encoder.layers.#.{name}", f"{tower}/layers/#/{path}", kind)
        for name, path, kind in _BLOCK
    )


TABLE: tuple[Row, ...] = (
    ("vision_model.embeddings.patch_embedding", "visual/patch_embedding", _PATCHES),
    ("vision_model.embeddings.position_embedding.weight", "visual/position_embedding", LEAF),
    *_blocks("vision_model", "visual"),
    ("vision_model.post_layernorm", "visual/post_layernorm", LAYER_NORM),
    ("vision_model.head.probe", "attnpool/probe", _PROBE),
    ("vision_model.head.attention.in_proj", "attnpool/q_proj", DENSE, 0),
    ("vision_model.head.attention.in_proj", "attnpool/k_proj", _ROWS, 1),
    ("vision_model.head.attention.in_proj", "attnpool/v_proj", _ROWS, 2),
    ("vision_model.head.attention.out_proj", "attnpool/out_proj", DENSE),
    ("vision_model.head.layernorm", "attnpool/layernorm", LAYER_NORM),
    ("vision_model.head.mlp.fc1", "attnpool/c_fc", DENSE),
    ("vision_model.head.mlp.fc2", "attnpool/c_proj", DENSE),
    ("text_model.embeddings.token_embedding.weight", "text/token_embedding/embedding", LEAF),
    ("text_model.embeddings.position_embedding.weight", "text/position_embedding", LEAF),
    *_blocks("text_model", "text"),
    ("text_model.final_layer_norm", "text/final_layer_norm", LAYER_NORM),
    ("text_model.head", "text/head", DENSE),
    ("logit_scale", "logit_scale", _SCALAR),
    ("logit_bias", "logit_bias", _SCALAR),
    (TOKENIZER, "tokenizer_json", LEAF),
)

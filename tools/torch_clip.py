"""CLIP's ResNets in torch, computed from a state dict: the reference of tests and benchmarks.

It uses nothing of `safe_jax`. Names, shapes and arithmetic follow the description of the
architecture (Radford et al., 2021) and the layout of OpenAI's checkpoints.

Axes: b images or texts, n tokens of the pool, t tokens of a text, c channels, h rows, w columns.
"""

import torch
import torch.nn.functional as F

State = dict[str, torch.Tensor]


def shapes(
    layers: tuple[int, ...],
    width: int,
    embed_dim: int,
    image_size: int,
    text_width: int,
    text_layers: int,
) -> dict[str, tuple[int, ...]]:
    """The shape of every float tensor of a checkpoint, by name."""
    found = {}

    def conv(name, inputs, outputs, size):
        found[f"{name}.weight"] = (outputs, inputs, size, size)

    def norm(name, features):
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            found[f"{name}.{leaf}"] = (features,)

    def linear(name, inputs, outputs):
        found[f"{name}.weight"] = (outputs, inputs)
        found[f"{name}.bias"] = (outputs,)

    stem = [(3, width // 2), (width // 2, width // 2), (width // 2, width)]
    for number, (inputs, outputs) in enumerate(stem, 1):
        conv(f"visual.conv{number}", inputs, outputs, 3)
        norm(f"visual.bn{number}", outputs)
    inputs = width
    for stage, blocks in enumerate(layers, 1):
        features = width * 2 ** (stage - 1)
        for block in range(blocks):
            name = f"visual.layer{stage}.{block}"
            conv(f"{name}.conv1", inputs, features, 1)
            conv(f"{name}.conv2", features, features, 3)
            conv(f"{name}.conv3", features, 4 * features, 1)
            for number, outputs in enumerate((features, features, 4 * features), 1):
                norm(f"{name}.bn{number}", outputs)
            if block == 0:
                conv(f"{name}.downsample.0", inputs, 4 * features, 1)
                norm(f"{name}.downsample.1", 4 * features)
            inputs = 4 * features
    found["visual.attnpool.positional_embedding"] = ((image_size // 32) ** 2 + 1, inputs)
    for projection in "qkv":
        linear(f"visual.attnpool.{projection}_proj", inputs, inputs)
    linear("visual.attnpool.c_proj", inputs, embed_dim)

    found["token_embedding.weight"] = (49408, text_width)
    found["positional_embedding"] = (77, text_width)
    for block in range(text_layers):
        name = f"transformer.resblocks.{block}"
        found[f"{name}.attn.in_proj_weight"] = (3 * text_width, text_width)
        found[f"{name}.attn.in_proj_bias"] = (3 * text_width,)
        linear(f"{name}.attn.out_proj", text_width, text_width)
        linear(f"{name}.mlp.c_fc", text_width, 4 * text_width)
        linear(f"{name}.mlp.c_proj", 4 * text_width, text_width)
        for norm_name in ("ln_1", "ln_2"):
            found[f"{name}.{norm_name}.weight"] = found[f"{name}.{norm_name}.bias"] = (text_width,)
    found["ln_final.weight"] = found["ln_final.bias"] = (text_width,)
    found["text_projection"] = (text_width, embed_dim)
    found["logit_scale"] = ()
    return found


def random_state_dict(seed: int = 0, **architecture) -> State:
    """Random tensors of `shapes(**architecture)`, scaled to keep activations in range."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes(**architecture).items():
        noise = torch.randn(shape, generator=generator)
        if name.endswith("running_var") or ("bn" in name and name.endswith("weight")):
            state[name] = 0.5 + noise.abs() / 2
        elif "downsample.1.weight" in name or ("ln_" in name and name.endswith("weight")):
            state[name] = 1 + noise / 10
        elif len(shape) > 1:
            fan_in = shape[1] * (shape[2] * shape[3] if len(shape) == 4 else 1)
            state[name] = noise * fan_in**-0.5
        else:
            state[name] = noise / 10
    return state


def dense(state: State, images_bchw: torch.Tensor) -> torch.Tensor:
    """The trunk: preprocessed images to dense maps, both NCHW."""

    def conv_norm(x, conv, norm, stride=1):
        weight = state[f"{conv}.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        return F.batch_norm(
            x,
            state[f"{norm}.running_mean"],
            state[f"{norm}.running_var"],
            state[f"{norm}.weight"],
            state[f"{norm}.bias"],
            eps=1e-5,
        )

    x = images_bchw
    for number in (1, 2, 3):
        stride = 2 if number == 1 else 1
        x = conv_norm(x, f"visual.conv{number}", f"visual.bn{number}", stride).relu()
    x = F.avg_pool2d(x, 2)
    for stage in (1, 2, 3, 4):
        block = 0
        while f"visual.layer{stage}.{block}.conv1.weight" in state:
            name = f"visual.layer{stage}.{block}"
            y = conv_norm(x, f"{name}.conv1", f"{name}.bn1").relu()
            y = conv_norm(y, f"{name}.conv2", f"{name}.bn2").relu()
            if stage > 1 and block == 0:
                y, x = F.avg_pool2d(y, 2), F.avg_pool2d(x, 2)
            y = conv_norm(y, f"{name}.conv3", f"{name}.bn3")
            if block == 0:
                x = conv_norm(x, f"{name}.downsample.0", f"{name}.downsample.1")
            x = (x + y).relu()
            block += 1
    return x


def folded(state: State) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Each convolution's kernel (channels last) and bias, its batch norm multiplied in."""
    found = {}
    for name, kernel in state.items():
        if name.startswith("visual.") and kernel.ndim == 4:
            conv = name.removesuffix(".weight")
            norm = conv.replace("downsample.0", "downsample.1").replace("conv", "bn")
            scale = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + 1e-5).sqrt()
            kernel = (kernel * scale[:, None, None, None]).contiguous(
                memory_format=torch.channels_last
            )
            found[conv] = kernel, state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
    return found


def dense_folded(convs: dict, images_bchw: torch.Tensor) -> torch.Tensor:
    """`dense` with the convolutions of `folded`, in place wherever possible, for speed."""

    def conv(name, x, stride=1):
        kernel, bias = convs[f"visual.{name}"]
        return F.conv2d(x, kernel, bias, stride=stride, padding=kernel.shape[-1] // 2)

    x = conv("conv1", images_bchw, stride=2).relu_()
    x = conv("conv2", x).relu_()
    x = F.avg_pool2d(conv("conv3", x).relu_(), 2)
    for stage in (1, 2, 3, 4):
        block = 0
        while f"visual.layer{stage}.{block}.conv1" in convs:
            name = f"layer{stage}.{block}"
            y = conv(f"{name}.conv1", x).relu_()
            y = conv(f"{name}.conv2", y).relu_()
            if stage > 1 and block == 0:
                y, x = F.avg_pool2d(y, 2), F.avg_pool2d(x, 2)
            y = conv(f"{name}.conv3", y)
            if f"visual.{name}.downsample.0" in convs:
                x = conv(f"{name}.downsample.0", x)
            x = y.add_(x).relu_()
            block += 1
    return x


def pool(state: State, dense_bchw: torch.Tensor) -> torch.Tensor:
    """The attention pool by torch's attention, which forms every key and value."""
    prefix = "visual.attnpool."
    tokens_nbc = dense_bchw.flatten(2).permute(2, 0, 1)
    tokens_nbc = torch.cat([tokens_nbc.mean(0, keepdim=True), tokens_nbc])
    tokens_nbc = tokens_nbc + state[prefix + "positional_embedding"][:, None]
    weight = {p: state[f"{prefix}{p}_proj.weight"] for p in "qkvc"}
    bias = {p: state[f"{prefix}{p}_proj.bias"] for p in "qkvc"}
    width = tokens_nbc.shape[-1]
    pooled, _ = F.multi_head_attention_forward(
        query=tokens_nbc[:1],
        key=tokens_nbc,
        value=tokens_nbc,
        embed_dim_to_check=width,
        num_heads=width // 64,
        q_proj_weight=weight["q"],
        k_proj_weight=weight["k"],
        v_proj_weight=weight["v"],
        in_proj_weight=None,
        in_proj_bias=torch.cat([bias["q"], bias["k"], bias["v"]]),
        bias_k=None,
        bias_v=None,
        add_zero_attn=False,
        dropout_p=0.0,
        out_proj_weight=weight["c"],
        out_proj_bias=bias["c"],
        use_separate_proj_weight=True,
        training=True,
        need_weights=False,
    )
    return pooled[0]


def text(state: State, tokens_bt: torch.Tensor) -> torch.Tensor:
    """The text tower with QuickGELU: tokens to features."""
    x = state["token_embedding.weight"][tokens_bt] + state["positional_embedding"]
    b, t, width = x.shape
    heads = max(1, width // 64)

    def norm(x, name):
        return F.layer_norm(x, (width,), state[f"{name}.weight"], state[f"{name}.bias"], 1e-5)

    def linear(x, name):
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    block = 0
    while f"transformer.resblocks.{block}.ln_1.weight" in state:
        name = f"transformer.resblocks.{block}"
        qkv = F.linear(
            norm(x, f"{name}.ln_1"),
            state[f"{name}.attn.in_proj_weight"],
            state[f"{name}.attn.in_proj_bias"],
        )
        q, k, v = (y.reshape(b, t, heads, -1).transpose(1, 2) for y in qkv.chunk(3, -1))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + linear(attended.transpose(1, 2).reshape(b, t, width), f"{name}.attn.out_proj")
        y = linear(norm(x, f"{name}.ln_2"), f"{name}.mlp.c_fc")
        x = x + linear(y * torch.sigmoid(1.702 * y), f"{name}.mlp.c_proj")
        block += 1
    x = norm(x, "ln_final")
    return x[torch.arange(b), tokens_bt.argmax(-1)] @ state["text_projection"]

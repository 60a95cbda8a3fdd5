"""A classifier as a file that other software runs: StableHLO, ONNX, or a state dict for torch.

The first two go from uint8 pixels `(b, size, size, 3)` of any batch size to probabilities `(b, k)`,
with the normalisation, the temperature and the softmax inside; what is left to do before them is
CLIP's resizing and centre crop. Each file is run after it was made, and compared.

Axes: b images, h rows, w columns, k classes.
"""

import dataclasses
import logging
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from flax import nnx, traverse_util

from safe_jax.bank import extraction
from safe_jax.classifier.image_classifier import ImageClassifier
from safe_jax.clip import torch_files, weights
from safe_jax.clip.model import ImageTower
from safe_jax.data import images
from safe_jax.methods.catalogue import METHODS
from safe_jax.methods.text_head import TextHead
from safe_jax.runtime import devices, paths
from safe_jax.runtime.errors import InputError

PLATFORMS = "cpu", "cuda", "tpu"
SUFFIXES = ".stablehlo", ".onnx", ".pt", ".safetensors"
_CHECKED = 3  # images
_AGREES = 1e-4  # the largest difference that is rounding


def export(classifier: ImageClassifier, file: pathlib.Path, tuned_pool: bool = False) -> float:
    """Writes a file, whole or not at all; gives the largest difference from the classifier.

    That is of probabilities for `.stablehlo` and `.onnx`. A state dict, `.pt` or `.safetensors`,
    has the tuned pool in the original's place; there it is of logits, as a part of the largest.

    Args:
        tuned_pool: whether a state dict is wanted where it is not the classifier, because alpha is
            not 1.

    Raises `InputError` for what cannot be exported so, and where the file does not agree.
    """
    if file.suffix == ".stablehlo":
        content = _stablehlo(classifier)
        difference = _compare(classifier, jax.export.deserialize(bytearray(content)).call)
    elif file.suffix == ".onnx":
        content = _onnx(classifier)
        difference = _compare(classifier, _onnx_runtime(content))
    else:
        state = tuned_state(classifier, tuned_pool)
        content = torch_files.encode(file, state)
        difference = _compare_state(classifier, state)
    if not difference < _AGREES:
        raise InputError(
            f"{file} was not written: what was exported differs by {difference:.1e} from the "
            "classifier"
        )
    paths.write(file, content)
    return difference


def _probabilities(classifier: ImageClassifier) -> Callable[[jax.Array], jax.Array]:
    """The function of pixels to be exported; its constants are NumPy's, on no device."""
    inner = classifier.classifier
    params, context, earlier, tower = jax.tree.map(
        np.asarray, (inner.params, inner.context, classifier.earlier_pool, classifier.tower)
    )
    classifier = dataclasses.replace(
        classifier,
        classifier=dataclasses.replace(inner, params=params, context=context),
        earlier_pool=earlier,
        tower=tower,
    )
    graphdef, folded = extraction.fold(classifier.tower, devices.make_mesh(jax.devices()[:1]))
    folded = jax.tree.map(np.asarray, folded)
    precision = jnp.finfo(classifier.backbone.dense_dtype)

    def probabilities(pixels_bhwc):
        with jax.default_matmul_precision("highest"):
            model = nnx.merge(graphdef, folded)
            dense_bhwc = model.dense_features(images.normalize(pixels_bhwc))
            # Rounded as in the bank. jax2onnx would drop a pair of casts, and the rounding with it.
            dense_bhwc = jax.lax.reduce_precision(
                dense_bhwc.astype(jnp.float32), precision.nexp, precision.nmant
            )
            logits_bk = classifier.logits_of_maps(dense_bhwc, model.attnpool(dense_bhwc))
            return jax.nn.softmax(logits_bk / classifier.temperature)

    return probabilities


def _example(size: int) -> np.ndarray:
    """Smooth random pictures, uint8 `(b, size, size, 3)`."""
    coarse = np.random.default_rng(0).uniform(0, 256, (_CHECKED, 4, 4, 3)).astype(np.float32)
    smooth = jax.image.resize(coarse, (_CHECKED, size, size, 3), "cubic")
    return np.asarray(smooth).clip(0, 255).astype(np.uint8)


def _compare(classifier: ImageClassifier, exported: Callable) -> float:
    """The largest difference between probabilities, of some images together and of one alone."""
    pixels_bhwc = _example(classifier.image_size)
    wanted_bk = np.asarray(classifier.probabilities(pixels_bhwc))
    together_bk, alone_bk = np.asarray(exported(pixels_bhwc)), np.asarray(exported(pixels_bhwc[:1]))
    return float(max(abs(together_bk - wanted_bk).max(), abs(alone_bk - wanted_bk[:1]).max()))


def _stablehlo(classifier: ImageClassifier) -> bytes:
    size = classifier.image_size
    (b,) = jax.export.symbolic_shape("b")
    pixels = jax.ShapeDtypeStruct((b, size, size, 3), jnp.uint8)
    function = jax.jit(_probabilities(classifier))
    return bytes(jax.export.export(function, platforms=PLATFORMS)(pixels).serialize())


def _onnx(classifier: ImageClassifier) -> bytes:
    try:
        import jax2onnx
    except ImportError:
        raise InputError("ONNX is written by jax2onnx: pip install 'safe_jax[onnx]'") from None
    for name in ("onnx_ir", "jax2onnx"):  # they warn of what the check below tests
        logging.getLogger(name).setLevel(logging.ERROR)
    size = classifier.image_size
    model: Any = jax2onnx.to_onnx(
        _probabilities(classifier),
        [jax.ShapeDtypeStruct(("b", size, size, 3), jnp.uint8)],
        model_name="classifier",
        input_names=["pixels"],
        output_names=["probabilities"],
    )
    return model.SerializeToString()


def _onnx_runtime(content: bytes) -> Callable:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda pixels_bhwc: session.run(None, {session.get_inputs()[0].name: pixels_bhwc})[0]


def tuned_state(classifier: ImageClassifier, tuned_pool: bool = False) -> dict[str, np.ndarray]:
    """A CLIP's state dict under OpenAI's names, with the tuned pool in the original's place.

    The tuned tensors are float32, the others as in the checkpoint.

    Args:
        tuned_pool: whether the tuned pool is wanted by itself, where alpha is not 1.

    Raises `InputError` where a CLIP cannot hold what was tuned.
    """
    inner = classifier.classifier
    label = METHODS[inner.name].label
    state = {name: np.asarray(x) for name, x in classifier.state.items()}
    if inner.name == "zero_shot":
        return state
    tuned = {f"attnpool/{part}": x for part, x in inner.params.items() if part == "c_proj"}
    tuned |= {name: x for name, x in inner.params.items() if name == "attnpool"}
    if not tuned or not METHODS[inner.name].open_classes:
        raise InputError(
            f"a CLIP's state dict has no place for what {label} tunes: export .onnx or .stablehlo"
        )
    alpha = inner.point.get("alpha", 1.0)
    if alpha != 1 and not tuned_pool:
        raise InputError(
            f"alpha is {alpha:g}: this classifier blends two pools, and a state dict has one: "
            "export .onnx or .stablehlo, or the tuned pool by itself with --tuned-pool"
        )
    leaves = {path: np.asarray(x) for path, x in traverse_util.flatten_dict(tuned, sep="/").items()}
    return state | weights.to_torch(leaves)


def _compare_state(classifier: ImageClassifier, state: Mapping[str, np.ndarray]) -> float:
    """How far the CLIP of a state dict is from the classifier at alpha 1.

    That is the largest difference of a logit, as a part of the largest logit, with dense maps
    rounded as the classifier rounds them.
    """
    inner = classifier.classifier
    if "alpha" in inner.point:
        inner = dataclasses.replace(inner, point={**inner.point, "alpha": 1.0})
    at_one = dataclasses.replace(classifier, classifier=inner)
    pixels_bhwc = _example(classifier.image_size)
    model = weights.from_state(state, classifier.backbone.clip, kind=ImageTower)
    graphdef, folded = extraction.fold(model, devices.make_mesh(jax.devices()[:1]))
    _, feature_bd = extraction.extract_step(
        graphdef, folded, pixels_bhwc, jnp.dtype(classifier.backbone.dense_dtype)
    )
    head: TextHead = getattr(inner.context, "head", inner.context)
    wanted_bk = np.asarray(at_one.logits(pixels_bhwc))
    return float(abs(np.asarray(head.logits(feature_bd)) - wanted_bk).max() / abs(wanted_bk).max())

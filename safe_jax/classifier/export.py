"""A classifier as a file that other software runs: StableHLO, ONNX, or a state dict for torch.

The first two go from uint8 pixels `(b, size, size, 3)` of any batch size to probabilities `(b, k)`,
with the normalisation, the temperature and the softmax inside; what is left to do before them is
the resizing, and for CLIP the centre crop. Each file is run after it was made, and compared.

Axes: b images, h rows, w columns, k classes.
"""

import dataclasses
import importlib
import logging
import pathlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from flax import nnx, traverse_util

from safe_jax.backbones import FAMILIES
from safe_jax.bank import extraction
from safe_jax.checkpoints import files, state_dict
from safe_jax.classifier.image_classifier import ImageClassifier
from safe_jax.data.preprocessing import normalize
from safe_jax.methods.catalogue import METHODS
from safe_jax.methods.text_head import TextHead
from safe_jax.runtime import devices, paths
from safe_jax.runtime.errors import InputError

log = logging.getLogger(__name__)

PLATFORMS = "cpu", "cuda", "tpu"
SUFFIXES = ".stablehlo", ".onnx", ".pt", ".safetensors"
_CHECKED = 3  # images
# The largest differences that are rounding: of probabilities, and of logits as parts of the
# largest. Where trunks differ in the last bit, some cells of a map round to another float16: with
# the small CLIP that changes probabilities by 7e-5 over the temperature.
_PROBABILITIES_AGREE, _LOGITS_AGREE = 1e-3, 1e-4


def export(classifier: ImageClassifier, file: pathlib.Path, tuned_pool: bool = False) -> float:
    """Writes a file, whole or not at all; gives the largest difference from the classifier.

    That is of probabilities for `.stablehlo` and `.onnx`. A state dict, `.pt` or `.safetensors`,
    has the tuned pool in the original's place; there it is of logits, as a part of the largest.

    Args:
        tuned_pool: whether a state dict is wanted where it is not the classifier, because alpha is
            not 1.

    Raises `InputError` for what cannot be exported so, and where the file does not agree.
    """
    bound = _PROBABILITIES_AGREE
    if file.suffix == ".stablehlo":
        content = _stablehlo(classifier)
        difference = _compare(classifier, jax.export.deserialize(bytearray(content)).call)
    elif file.suffix == ".onnx":
        classifier = _in_float32(classifier)
        content = _onnx(classifier)
        difference = _compare(classifier, _onnx_runtime(content))
    else:
        state = tuned_state(classifier, tuned_pool)
        content = files.encode(file, state)
        difference = _compare_state(classifier, state)
        bound = _LOGITS_AGREE
    if not difference < bound:
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
    graphdef, folded = extraction.fold(classifier.tower, devices.make_mesh(devices.available()[:1]))
    folded = jax.tree.map(np.asarray, folded)
    precision = jnp.finfo(classifier.backbone.dense_dtype)

    def probabilities(pixels_bhwc):
        with jax.default_matmul_precision("highest"):
            model = nnx.merge(graphdef, folded)
            images_bhwc = normalize(pixels_bhwc, classifier.preprocessing)
            dense_bhwc = model.dense_features(images_bhwc)
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
    differences = abs(together_bk - wanted_bk).max(), abs(alone_bk - wanted_bk[:1]).max()
    return float(np.max(differences))  # NaN if either is


def _stablehlo(classifier: ImageClassifier) -> bytes:
    size = classifier.image_size
    (b,) = jax.export.symbolic_shape("b")
    pixels = jax.ShapeDtypeStruct((b, size, size, 3), jnp.uint8)
    function = jax.jit(_probabilities(classifier))
    return bytes(jax.export.export(function, platforms=PLATFORMS)(pixels).serialize())


def _in_float32(classifier: ImageClassifier) -> ImageClassifier:
    """The same with a trunk that computes in float32: ONNX Runtime lacks operators for bfloat16."""
    backbone = classifier.backbone
    if backbone.trunk_dtype == "float32":
        return classifier
    log.warning(
        "the classifier's trunk computes in %s, which ONNX Runtime does not: the file computes in "
        "float32, and is compared with the classifier in float32",
        backbone.trunk_dtype,
    )
    backbone = backbone.model_copy(update={"trunk_dtype": "float32"})
    tower = backbone.model(classifier.state)
    return dataclasses.replace(classifier, backbone=backbone, tower=tower)


def _onnx(classifier: ImageClassifier) -> bytes:
    # Both log, and warn, of what the comparison tests.
    for name in ("jax2onnx", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)
    size = classifier.image_size
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = _import("jax2onnx").to_onnx(
            _probabilities(classifier),
            [jax.ShapeDtypeStruct(("b", size, size, 3), jnp.uint8)],
            model_name="classifier",
            input_names=["pixels"],
            output_names=["probabilities"],
        )
    return model.SerializeToString()


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(
            f"ONNX needs {name}, which is not installed: pip install 'safe_jax[onnx]'"
        ) from None


def _onnx_runtime(content: bytes) -> Callable:
    onnxruntime = _import("onnxruntime")
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda pixels_bhwc: session.run(None, {session.get_inputs()[0].name: pixels_bhwc})[0]


def tuned_state(classifier: ImageClassifier, tuned_pool: bool = False) -> dict[str, np.ndarray]:
    """A state dict under the checkpoint's names, with the tuned pool in the original's place.

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
    return state | state_dict.to_torch(FAMILIES[classifier.backbone.family], leaves)


def _compare_state(classifier: ImageClassifier, state: Mapping[str, np.ndarray]) -> float:
    """How far the CLIP of a state dict is from the classifier at alpha 1.

    That is the largest difference of a logit, as a part of the largest logit; the trunk and dense
    maps have the classifier's precision.
    """
    inner = classifier.classifier
    if "alpha" in inner.point:
        inner = dataclasses.replace(inner, point={**inner.point, "alpha": 1.0})
    at_one = dataclasses.replace(classifier, classifier=inner)
    pixels_bhwc = _example(classifier.image_size)
    backbone = classifier.backbone
    model = backbone.model(state)
    head: TextHead = getattr(inner.context, "head", inner.context)
    with jax.default_matmul_precision("highest"):
        graphdef, folded = extraction.fold(model, devices.make_mesh(devices.available()[:1]))
        _, feature_bd = extraction.extract_step(
            graphdef, folded, pixels_bhwc, jnp.dtype(backbone.dense_dtype)
        )
        found_bk = np.asarray(head.logits(feature_bd))
    wanted_bk = np.asarray(at_one.logits(pixels_bhwc))
    return float(abs(found_bk - wanted_bk).max() / abs(wanted_bk).max())

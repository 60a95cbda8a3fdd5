"""SAFE's residual blend of the tuned and the original pool (arXiv 2311.04464).

Axes: b images, d channels of the joint space, k classes.
"""

import jax

from safe_jax.methods.zero_shot import unit

BLENDS = ("feature", "unit", "logit")


def blended_logits(tuned_bd, original_bd, text_kd, scale, alpha, blend: str) -> jax.Array:
    """Logits `(b, k)` at `alpha` between the original pool (0) and the tuned one (1).

    The paper's abstract blends features and does not say whether before or after they are made
    unit; RA-FT blends logits. So `blend` is one of

        feature: unit(alpha * tuned + (1 - alpha) * original)
        unit:    unit(alpha * unit(tuned) + (1 - alpha) * unit(original))
        logit:   alpha * logits(unit(tuned)) + (1 - alpha) * logits(unit(original))

    Args:
        text_kd: the classifier, rows of unit length.
        scale: what multiplies a cosine, `exp(logit_scale)`.
    """
    if blend not in BLENDS:
        raise ValueError(f"blend must be one of {BLENDS}, not {blend!r}")
    if blend != "feature":
        tuned_bd, original_bd = unit(tuned_bd), unit(original_bd)
    blended_bd = alpha * tuned_bd + (1 - alpha) * original_bd
    if blend != "logit":  # logits are linear in features: blending those is the same, and cheaper
        blended_bd = unit(blended_bd)
    return scale * blended_bd @ text_kd.T

"""A picture with the attention of pools beside it.

Axes: h rows and w columns of pixels, or of cells.
"""

from collections.abc import Mapping

import numpy as np
import PIL.Image

from safe_jax.report.gallery import heat_image


def picture(pixels_hwc: np.ndarray, maps_hw: Mapping[str, np.ndarray]) -> PIL.Image.Image:
    """The image, and beside it the same under each map; all maps have one scale of colours.

    Args:
        pixels_hwc: uint8, as the model sees the image.
        maps_hw: by the pool's name; each sums to 1.
    """
    plain = PIL.Image.fromarray(pixels_hwc)
    brightest = max(map_hw.max() for map_hw in maps_hw.values())
    panels = [plain]
    for map_hw in maps_hw.values():
        heat = heat_image(map_hw / brightest).resize(plain.size, PIL.Image.Resampling.BICUBIC)
        panels.append(PIL.Image.alpha_composite(plain.convert("RGBA"), heat).convert("RGB"))
    gap = max(2, plain.width // 32)
    width = len(panels) * plain.width + (len(panels) - 1) * gap
    joined = PIL.Image.new("RGB", (width, plain.height), "white")
    for number, panel in enumerate(panels):
        joined.paste(panel, (number * (plain.width + gap), 0))
    return joined

"""Pictures, and files of every kind that images come in."""

import io
import struct
import zlib

import numpy as np
import PIL.Image


def picture(width, height, mode="RGB", seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return PIL.Image.fromarray(pixels).convert(mode)


def wide_picture(mode="RGB"):
    """A picture of smooth colours, 61 x 40."""
    across, down = np.meshgrid(np.linspace(0, 1, 61), np.linspace(0, 1, 40))
    pixels = np.stack([40 + 160 * across, 40 + 160 * down, 200 - 120 * across], -1)
    return PIL.Image.fromarray(pixels.astype(np.uint8)).convert(mode)


# Files of every kind, by the mode in which Pillow opens them and how far they may look from
# `wide_picture`: None where they show something else.


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def palette(transparency, kind="PNG"):
    return saved(wide_picture().quantize(64), kind, transparency=transparency)


def ycck():
    """A CMYK JPEG whose colours are turned into YCC, as Adobe's programs write it."""
    c, m, y, k = wide_picture("CMYK").split()
    ycc = PIL.Image.merge("RGB", (c, m, y)).convert("YCbCr").split()
    inverted = [band.point(lambda x: 255 - x) for band in ycc]
    content = saved(PIL.Image.merge("CMYK", (*inverted, k)), "JPEG", quality=100, subsampling=0)
    at = content.index(b"Adobe") + 11  # the marker's last byte names the transform
    return content[:at] + b"\2" + content[at + 1 :]


def with_orientation(kind):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    return saved(wide_picture(), kind, exif=exif, **({"quality": 100} if kind == "JPEG" else {}))


def animation(kind, **options):
    frames = [wide_picture(), *(picture(61, 40, seed=n) for n in (1, 2))]
    return saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)


def rgba(alpha):
    image = wide_picture("RGBA")
    image.putalpha(alpha)
    return saved(image, "PNG")


def png_chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width, height, bits, colours, pixels):
    header = struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", pixels)


def deep_colours():
    """RGB of 16 bits a sample, which Pillow does not write."""
    rows = (np.asarray(wide_picture()) * np.uint16(257)).astype(">u2")
    filtered = b"".join(b"\0" + row.tobytes() for row in rows)
    return png(61, 40, 16, 2, zlib.compress(filtered)) + png_chunk(b"IEND", b"")


FILES = {
    "1.png": (lambda: saved(wide_picture("1"), "PNG"), "1", None),
    "grey.png": (lambda: saved(wide_picture("L"), "PNG"), "L", None),
    "grey.jpg": (lambda: saved(wide_picture("L"), "JPEG"), "L", None),
    "la.png": (lambda: saved(wide_picture("LA"), "PNG"), "LA", None),
    "p.png": (lambda: saved(wide_picture().quantize(256), "PNG"), "P", 30),
    "p.gif": (lambda: saved(wide_picture().quantize(256), "GIF"), "P", 30),
    "p-alphas.png": (lambda: palette(bytes(range(0, 256, 4))), "P", 30),
    "p-key.png": (lambda: palette(3), "P", 30),
    "p-key.gif": (lambda: palette(3, "GIF"), "P", 30),
    "rgb.png": (lambda: saved(wide_picture(), "PNG"), "RGB", 3),
    "rgb16.png": (deep_colours, "RGB", 3),
    "rgb-key.png": (
        lambda: saved(wide_picture(), "PNG", transparency=(40, 40, 200)), "RGB", 3
    ),
    "rgba.png": (lambda: rgba(200), "RGBA", 4),
    "rgba-holes.png": (lambda: rgba(wide_picture("1").convert("L")), "RGBA", None),
    "baseline.jpg": (lambda: saved(wide_picture(), "JPEG", quality=95), "RGB", 8),
    "progressive.jpg": (
        lambda: saved(wide_picture(), "JPEG", quality=95, progressive=True), "RGB", 8
    ),
    "cmyk.jpg": (lambda: saved(wide_picture("CMYK"), "JPEG", quality=100), "CMYK", 8),
    "ycck.jpg": (ycck, "CMYK", 8),
    "cmyk.tif": (lambda: saved(wide_picture("CMYK"), "TIFF"), "CMYK", 3),
    "ycbcr.tif": (lambda: saved(wide_picture("YCbCr"), "TIFF"), "YCbCr", 6),
    "lab.tif": (lambda: saved(wide_picture("LAB"), "TIFF"), "LAB", 12),
    "turned.jpg": (lambda: with_orientation("JPEG"), "RGB", 8),  # shown as it is stored
    "turned.png": (lambda: with_orientation("PNG"), "RGB", 3),
    "turned.tif": (lambda: with_orientation("TIFF"), "RGB", None),  # Pillow turns these itself
    "animated.gif": (lambda: animation("GIF"), "P", 30),
    "animated.webp": (lambda: animation("WEBP", lossless=True), "RGB", 3),
    "animated.png": (lambda: animation("PNG"), "RGB", 3),
}  # fmt: skip


def deep(mode):
    """More than 8 bits a sample."""
    return PIL.Image.fromarray(np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(mode))


# What is refused, and what is said of it.

REFUSED = {
    "16.png": (lambda: saved(deep(np.uint16), "PNG"), "mode I;16, which"),
    "16.tif": (lambda: saved(deep(np.uint16), "TIFF"), "mode I;16, which"),
    "16b.tif": (lambda: saved(PIL.Image.new("I;16B", (9, 9)), "TIFF"), "mode I;16B, which"),
    "32.tif": (lambda: saved(deep(np.int32), "TIFF"), "mode I, which"),
    "float.tif": (lambda: saved(deep(np.float32), "TIFF"), "mode F, which"),
    "pa.tif": (lambda: saved(picture(64, 64, "RGBA").convert("PA"), "TIFF"), "mode PA, which"),
    "strip.png": (lambda: saved(picture(1, 5000), "PNG"), "1 x 5000 px, one side more than 100"),
    "row.png": (lambda: saved(picture(1010, 10), "PNG"), "1010 x 10 px, one side more than"),
    "empty.png": (lambda: b"", "cannot be decoded: no format"),
    "cut.png": (lambda: saved(picture(64, 64), "PNG")[:6000], "cannot be decoded: .*truncated"),
    "cut.gif": (lambda: saved(picture(64, 64, "P"), "GIF")[:-2000], "cannot be decoded"),
    "cut.webp": (lambda: saved(picture(64, 64), "WEBP")[:-500], "cannot be decoded"),
    "cut-progressive.jpg": (
        lambda: saved(picture(64, 64), "JPEG", progressive=True)[:2000], "cannot be decoded"
    ),
}  # fmt: skip

"""Image files to RGB pixels, by fixed rules; what cannot be decoded whole is *bad*, with the reason.

EXIF orientation is applied. Grey, palette, 1-bit, 16-bit, CMYK and animated (first frame) images become RGB; alpha is
laid over white. Colour profiles are ignored, as everywhere in the field. Nothing is decoded before its size is known to
be bearable: of the pixels, of what resizing would make of them, and of the text beside them. Imports no torch.
"""

import importlib.util
import io
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, PngImagePlugin, UnidentifiedImageError

from ssdh.core.errors import DataError

MAX_PIXELS = 89_478_485  # a quarter GiB of RGB, where Pillow begins to warn of decompression bombs
MAX_ASPECT = 100  # long side to short side: brought to a short side of 256, a strip of 1×20000 would fill 4 GB
MAX_TEXT = 16 << 20  # bytes of one compressed text or colour profile in a PNG; Pillow itself stops at 1 MiB
PngImagePlugin.MAX_TEXT_CHUNK = MAX_TEXT
READS_HEIF = importlib.util.find_spec("pillow_heif") is not None  # an extra package; HEIC files are read where it is


if READS_HEIF:
    import pillow_heif

    pillow_heif.register_heif_opener()


# our own limit above is stricter, and every other oddity is either repaired or reported as bad
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


warnings.filterwarnings("ignore", module=r"PIL\..*")


_ORIENTATION = 0x0112

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Pixels = NDArray[np.uint8]


class BadImageError(DataError):
    """A file that is not a whole, decodable image; the message is the reason, without the file's name."""


def decode_image(source: Path | bytes, min_side: int | Callable[[int, int], float] | None = None) -> Pixels:
    """Decode a file (or its bytes) to (H, W, 3) uint8 RGB.

    min_side: a short side that suffices, as a number or as a function of the upright (width, height): a JPEG is then
    decoded at 1/2, 1/4 or 1/8 of its size where that keeps at least so many pixels (draft mode: much faster).
    Raises BadImageError with the reason.
    """
    try:
        data = source.read_bytes() if isinstance(source, Path) else source
    except OSError as error:
        raise BadImageError(f"cannot be read ({error.strerror})") from None
    if not data:
        raise BadImageError("empty file")
    try:
        with Image.open(io.BytesIO(data)) as image:
            return _to_rgb(image, min_side)
    except BadImageError:
        raise
    except UnidentifiedImageError:
        raise BadImageError(_kind_of_junk(data)) from None
    except Image.DecompressionBombError:
        raise BadImageError(f"decompression bomb: more than {MAX_PIXELS:,} pixels") from None
    except MemoryError:
        raise BadImageError("too large for this machine's memory") from None
    except ValueError as error:
        raise BadImageError(_too_much_text(error) or _broken(error)) from None
    except Exception as error:  # decoders raise almost anything on broken files: OSError, SyntaxError, struct.error …
        raise BadImageError(_broken(error)) from None


def _broken(error: Exception) -> str:
    return f"broken: {' '.join(str(error).split()) or type(error).__name__}"


def _too_much_text(error: ValueError) -> str:
    """What Pillow says of a PNG's texts that are over its limits, in words about the text; "" for another error."""
    if "MAX_TEXT_CHUNK" not in str(error) and "MAX_TEXT_MEMORY" not in str(error):
        return ""
    return (
        f"holds more than {MAX_TEXT >> 20} MiB of text or colour profile beside its pixels, which were not looked at: "
        "save it without metadata"
    )


def _to_rgb(image: ImageFile.ImageFile, min_side: int | Callable[[int, int], float] | None) -> Pixels:
    if image.format in ("EPS", "WMF", "EMF"):
        raise BadImageError(f"{image.format}, a drawing that a program of its own would have to run: save it as a PNG")
    width, height = image.size
    if width < 1 or height < 1:
        raise BadImageError(f"has no pixels ({width}×{height})")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise BadImageError(
            f"{width}×{height} pixels: its long side is more than {MAX_ASPECT} times the short one; crop it"
        )
    if width * height > MAX_PIXELS:
        raise BadImageError(f"decompression bomb: {width}×{height} pixels, the limit is {MAX_PIXELS:,}")
    is_jpeg = image.format in ("JPEG", "MPO")  # MPO: several JPEGs in one file, as many phones write
    if not is_jpeg:  # before its EXIF block is asked for: that decodes some formats, and would swallow their errors
        image.load()
    orientation = _orientation(image)
    if min_side is not None and is_jpeg:
        upright = (height, width) if orientation >= 5 else (width, height)
        enough = max(1, int(np.ceil(min_side(*upright) if callable(min_side) else min_side)))
        image.draft(None, (enough, enough))
    image.load()
    rgb = _opaque(image)
    if orientation in _TRANSPOSE:
        rgb = rgb.transpose(_TRANSPOSE[orientation])
    return np.array(rgb)  # (H, W, 3)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation 1…8; 1 where the EXIF block is missing or broken, which makes no image bad."""
    try:
        value: Any = image.getexif().get(_ORIENTATION, 1)
    except (OSError, ValueError, SyntaxError, TypeError, KeyError, struct.error):
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _opaque(image: Image.Image) -> Image.Image:
    """Any mode to RGB: transparent parts over white, 16 bits scaled to 8."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = Image.fromarray(_eight_bits(np.asarray(image)))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _eight_bits(values: NDArray[Any]) -> Pixels:
    """Grey values of 16 bits (0…65535), or floats (0…1 if none is larger, else 0…255), to 0…255."""
    if values.dtype.kind == "f":
        top = 1.0 if np.nanmax(values) <= 1 else 255.0
        scaled = np.nan_to_num(values, nan=0.0) * (255.0 / top)
    else:
        scaled = values.astype(np.float64) / 257.0
    eight: Pixels = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    return eight


def _kind_of_junk(data: bytes) -> str:
    head = data[:512].lstrip().lower()
    if head.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")) or b"<html" in head:
        return "a web page, not an image"
    if data[:4] == b"GIF8" and len(data) > 9 and 0 in (data[6] | data[7], data[8] | data[9]):
        return "has no pixels (its width or height is 0)"
    if data[4:8] == b"ftyp" and data[8:12] in (b"heic", b"heix", b"mif1", b"msf1", b"hevc"):
        return "HEIC, which cannot be read: pip install pillow-heif, or convert it to JPEG"
    return "not an image of a known format"

"""Every decoding rule on a real file, and bad files with their reasons."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from ssdh.features.decode import MAX_PIXELS, BadImageError, decode_image


@pytest.fixture(scope="module")
def odd(shared: Path) -> Path:
    return shared / "odd-images"


def _pil(path: Path, mode: str = "RGB") -> np.ndarray:
    """What Pillow's plain conversion gives: right for files that need no rule of ours."""
    with Image.open(path) as image:
        return np.asarray(image.convert(mode))


def _close(a: np.ndarray, b: np.ndarray, tolerance: float) -> bool:
    return a.shape == b.shape and np.abs(a.astype(float) - b.astype(float)).mean() < tolerance


def test_every_odd_file_is_named_in_a_test(odd: Path) -> None:
    """A file that no rule was thought of for must not slip in."""
    assert {path.name for path in odd.iterdir()} == set(BAD) | set(UPRIGHT) | set(SPECIAL)


UPRIGHT = {  # plain files: exactly what Pillow's conversion gives
    "hopper.bmp",
    "hopper.gif",
    "hopper.jpg",
    "hopper.png",
    "hopper.webp",
    "hopper_1bit.pbm",
    "hopper_gray.jpg",
    "hopper_idat_after_image_end.png",
    "pil_sample_rgb.jpg",
    "pil_sample_cmyk.jpg",
    "tiff_16bit_RGB.tiff",
    "hopper_bad_exif.jpg",
    "invalid-exif-without-x-resolution.jpg",
    "truncated_exif_dpi.jpg",
    "multiple_exif.jpg",
    "no_palette.gif",
}
SPECIAL = {
    "hopper_orientation_3.jpg",
    "hopper_orientation_6.jpg",
    "hopper_16bit.pgm",
    "mode_16bit.png",
    "mode_palette_alpha.png",
    "transparency.avif",
    "transparent.gif",
    "transparent.webp",
    "uncompressed_la.png",
}
BAD = {
    "broken.png": "not an image",
    "broken_data_stream.png": "broken",  # half of it would decode: nothing may swallow the error
    "decompression_bomb.gif": "decompression bomb",
    "html_saved_as.jpg": "web page",
    "truncated_image.png": "truncated",
    "truncated_jpeg.jpg": "truncated",
    "zero_bytes.jpg": "empty",
    "zero_width.gif": "no pixels",
}


@pytest.mark.parametrize("name", sorted(UPRIGHT))
def test_plain_file_becomes_rgb(odd: Path, name: str) -> None:
    pixels = decode_image(odd / name)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, _pil(odd / name))


@pytest.mark.parametrize("name", ["hopper_orientation_3.jpg", "hopper_orientation_6.jpg"])
def test_exif_orientation_is_applied(odd: Path, name: str) -> None:
    upright = _pil(odd / "hopper.jpg")
    assert not _close(_pil(odd / name), upright, 20)  # stored turned …
    assert _close(decode_image(odd / name), upright, 6)  # … and shown upright


@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_eight_orientations(odd: Path, orientation: int) -> None:
    with Image.open(odd / "hopper.png") as image:
        # what a camera stores so that applying `orientation` shows the original, from the EXIF standard's table
        stored = image.convert("RGB").resize((96, 64))
        shown = np.asarray(stored)
    turns = {1: [], 2: ["h"], 3: ["h", "v"], 4: ["v"], 5: ["t"], 6: ["v", "t"], 7: ["t", "h", "v"], 8: ["t", "v"]}
    expected = shown
    for step in turns[orientation]:  # from the stored to the shown image
        expected = {"h": expected[:, ::-1], "v": expected[::-1], "t": expected.transpose(1, 0, 2)}[step]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = io.BytesIO()
    stored.save(data, "PNG", exif=exif)
    np.testing.assert_array_equal(decode_image(data.getvalue()), expected)


def test_sixteen_bits_are_scaled_not_clipped(odd: Path) -> None:
    grey = _pil(odd / "hopper_gray.jpg", "L")
    pixels = decode_image(odd / "hopper_16bit.pgm")
    assert (pixels[..., 0] == pixels[..., 2]).all()
    assert _close(pixels[..., 0], grey, 5)
    assert len(np.unique(pixels)) > 100  # clipped 16-bit values would be nearly all 255

    data = io.BytesIO()
    Image.fromarray(np.array([[0, 257, 65535]], dtype=np.uint16)).save(data, "PNG")
    assert decode_image(data.getvalue())[0, :, 0].tolist() == [0, 1, 255]


def test_alpha_is_laid_over_white(odd: Path) -> None:
    for name in ("transparent.webp", "transparent.gif", "transparency.avif", "uncompressed_la.png"):
        rgba = _pil(odd / name, "RGBA").astype(float)
        alpha = rgba[..., 3:] / 255
        assert (alpha < 0.01).any(), name
        by_hand = rgba[..., :3] * alpha + 255 * (1 - alpha)
        assert np.abs(decode_image(odd / name) - by_hand).max() <= 1.0, name


def test_animation_gives_its_first_frame(odd: Path) -> None:
    for name in ("mode_16bit.png", "mode_palette_alpha.png"):  # red, then other colours
        with Image.open(odd / name) as image:
            assert image.n_frames > 1
        assert (decode_image(odd / name) == np.array([255, 0, 0])).all()


@pytest.mark.parametrize("mode", ["P", "PA", "LA", "RGBA", "1", "L", "CMYK", "YCbCr", "I;16", "F"])
def test_every_mode_becomes_three_channels(mode: str) -> None:
    grey = 255 if mode == "1" else 204  # 204 stands in the web palette
    if mode == "F":
        image = Image.fromarray(np.full((4, 5), grey, np.float32))
    elif mode == "I;16":
        image = Image.fromarray(np.full((4, 5), grey * 257, np.uint16))
    else:
        image = Image.new("RGB", (5, 4), (grey, grey, grey))
        image = image.convert("P").convert("PA") if mode == "PA" else image.convert("RGBA").convert(mode)
    data = io.BytesIO()
    image.save(data, "TIFF" if mode in ("F", "CMYK", "YCbCr", "PA") else "PNG")
    with Image.open(io.BytesIO(data.getvalue())) as stored:
        assert stored.mode == mode
    pixels = decode_image(data.getvalue())
    assert pixels.shape == (4, 5, 3)
    assert np.abs(pixels.astype(int) - grey).max() <= 1


@pytest.mark.parametrize("name", sorted(BAD))
def test_bad_file_has_a_reason(odd: Path, name: str) -> None:
    with pytest.raises(BadImageError) as caught:
        decode_image(odd / name)
    assert BAD[name] in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(BAD))
def test_bad_file_is_bad_in_draft_mode_too(odd: Path, name: str) -> None:
    with pytest.raises(BadImageError):
        decode_image((odd / name).read_bytes(), 32)


def test_truncation_anywhere_is_noticed(odd: Path) -> None:
    data = (odd / "hopper.jpg").read_bytes()
    for cut in (10, len(data) // 2, len(data) * 9 // 10):
        with pytest.raises(BadImageError):
            decode_image(data[:cut], 32)


def test_missing_file_and_heic(tmp_path: Path) -> None:
    with pytest.raises(BadImageError, match="cannot be read"):
        decode_image(tmp_path / "gone.jpg")
    with pytest.raises(BadImageError, match="HEIC"):
        decode_image(b"\0\0\0\x18ftypheic" + bytes(40))


def test_bomb_is_refused_before_its_pixels_are_made() -> None:
    side = int(MAX_PIXELS**0.5) + 10
    data = io.BytesIO()
    Image.new("1", (side, side)).save(data, "PNG")
    assert len(data.getvalue()) < 200_000
    with pytest.raises(BadImageError, match=f"{side}×{side}"):
        decode_image(data.getvalue())


def test_draft_mode_keeps_enough_pixels_and_the_picture(shared: Path) -> None:
    photo = next((shared / "coco256-flickr-layout" / "images").glob("*.jpg"))
    with Image.open(photo) as image:
        big = image.resize((640, 480), Image.Resampling.BICUBIC)
    data = io.BytesIO()
    big.save(data, "JPEG", quality=90)
    assert decode_image(data.getvalue(), 241).shape == (480, 640, 3)
    assert decode_image(data.getvalue(), 240).shape == (240, 320, 3)
    assert decode_image(data.getvalue(), lambda width, height: height * 0.25).shape == (120, 160, 3)
    small = np.asarray(big.resize((320, 240), Image.Resampling.BOX))
    assert _close(decode_image(data.getvalue(), 240), small, 3)


def _png(size: tuple[int, int] = (8, 6), **save: object) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", size, (255, 0, 0)).save(data, "PNG", **save)
    return data.getvalue()


@pytest.mark.parametrize("size", [(1, 20000), (20000, 1), (3, 301), (1, 60000)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF"])
def test_a_strip_is_bad_before_memory_is_taken(size: tuple[int, int], kind: str) -> None:
    data = io.BytesIO()
    Image.new("L", size).save(data, kind)
    with pytest.raises(BadImageError, match=rf"^{size[0]}×{size[1]} pixels: its long side is more than 100 times"):
        decode_image(data.getvalue(), 256)


def test_a_hundred_to_one_is_an_image() -> None:
    assert decode_image(_png((3, 300))).shape == (300, 3, 3)


@pytest.mark.parametrize("kind", ["zTXt", "iTXt"])
def test_much_compressed_text_does_not_make_a_picture_bad(kind: str) -> None:
    texts = PngImagePlugin.PngInfo()
    add = texts.add_itxt if kind == "iTXt" else texts.add_text
    add("workflow", "node " * 560_000, zip=True)  # 2.8 MB
    assert (decode_image(_png(pnginfo=texts)) == np.array([255, 0, 0])).all()
    texts = PngImagePlugin.PngInfo()
    add = texts.add_itxt if kind == "iTXt" else texts.add_text
    add("workflow", "node " * 4_000_000, zip=True)  # 20 MB
    with pytest.raises(BadImageError, match=r"^holds more than 16 MiB of text or colour profile"):
        decode_image(_png(pnginfo=texts))


def test_a_large_colour_profile_does_not_make_a_picture_bad() -> None:
    assert decode_image(_png(icc_profile=bytes(5_000_000))).shape == (6, 8, 3)
    with pytest.raises(BadImageError, match=r"^holds more than 16 MiB of text or colour profile"):
        decode_image(_png(icc_profile=bytes(17_000_000)))


def test_a_drawing_in_postscript_runs_no_program() -> None:
    data = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\nshowpage\n"
    with pytest.raises(BadImageError, match="EPS, a drawing that a program of its own would have to run"):
        decode_image(data)

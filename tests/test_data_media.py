"""Media: where files may lie, how large they may be, how every kind of image becomes RGB."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from mmcredit.data.dropped import UnusableSample, reason_of
from mmcredit.data.media import MediaLimits, content_key, decode_data_uri, load_image, read_bytes, resolve
from mmcredit.data.sample import Media


def encode(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=file_format, **options)
    return buffer.getvalue()


def picture(data: bytes, name: str = "'p.png' of sample s/1") -> Media:
    return Media("image", data=data, name=name)


def gradient(width: int = 32, height: int = 16) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([x * 7, y * 13, (x + y) * 5], -1).astype(np.uint8))


# --- where files may lie


def test_resolves_relative_absolute_and_file_addresses_below_the_root(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    target = tmp_path / "a" / "x.png"
    target.write_bytes(b"x")
    for name in ("a/x.png", str(target), f"file://{target}", "./a/x.png"):
        assert resolve(tmp_path, name) == target


def test_accepts_names_with_dots_and_links_that_stay_inside(tmp_path: Path) -> None:
    (tmp_path / "a..b.png").write_bytes(b"x")
    (tmp_path / "link.png").symlink_to(tmp_path / "a..b.png")
    assert resolve(tmp_path, "a..b.png") == resolve(tmp_path, "link.png")


@pytest.mark.parametrize(
    "name", ["../secret.png", "a/../../secret.png", "a/../x.png", "..\\secret.png", "file://../secret.png"]
)
def test_refuses_parent_folders(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.png").write_bytes(b"x")
    (tmp_path / "root" / "a").mkdir(parents=True)
    (tmp_path / "root" / "x.png").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"s/7 contains '\.\.'.*data\.media\.root"):
        resolve(tmp_path / "root", name, "s/7")


def test_refuses_absolute_paths_and_links_that_lead_out(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.png").write_bytes(b"x")
    (root / "file.png").symlink_to(outside / "secret.png")
    (root / "folder").symlink_to(outside)
    (root / "hop.png").symlink_to(root / "file.png")
    sibling = tmp_path / "root-other"  # a name that merely begins like the root
    sibling.mkdir()
    (sibling / "x.png").write_bytes(b"x")
    for name in (str(outside / "secret.png"), "file.png", "folder/secret.png", "hop.png", str(sibling / "x.png")):
        with pytest.raises(ValueError, match=r"s/7 leads out of data\.media\.root"):
            resolve(root, name, "s/7")


def test_refuses_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    for name, reason in (
        ("folder", "is not a file"),
        ("pipe.png", "is not a file"),
        ("loop.png", "cannot be opened"),
        ("dangling.png", "does not exist"),
        ("missing.png", "does not exist"),
        ("", "no usable file name"),
        ("a\0b.png", "no usable file name"),
        ("x" * 5000, "cannot be opened"),
    ):
        with pytest.raises(ValueError, match=rf"of sample s/7.*{reason}"):
            resolve(tmp_path, name, "s/7")


def test_refuses_remote_addresses_and_a_missing_root(tmp_path: Path) -> None:
    for name in ("http://host/x.png", "https://host/x.png", "s3://bucket/x.png", "HTTP://host/x.png"):
        with pytest.raises(ValueError, match="remote address; it is not fetched"):
            resolve(tmp_path, name, "s/7")
    with pytest.raises(ValueError, match=r"'x\.png' of sample s/7: no media folder is declared; set data\.media\.root"):
        resolve(None, "x.png", "s/7")
    with pytest.raises(ValueError, match=r"data\.media\.root .*nowhere.* cannot be opened"):
        resolve(tmp_path / "nowhere", "x.png")
    with pytest.raises(ValidationError, match="allow_remote"):
        MediaLimits(allow_remote=True)  # type: ignore[arg-type]


# --- how large they may be


def test_byte_limit_holds_for_files_and_bytes(tmp_path: Path) -> None:
    data = encode(gradient())
    path = tmp_path / "x.png"
    path.write_bytes(data)
    exact = MediaLimits(max_bytes=len(data))
    assert read_bytes(Media("image", path=path), exact) == read_bytes(picture(data), exact) == data
    for media in (Media("image", path=path, name="'x.png' of sample s/1"), picture(data, "'x.png' of sample s/1")):
        with pytest.raises(ValueError, match=rf"'x\.png' of sample s/1 .*data\.media\.max_bytes={len(data) - 1}"):
            load_image(media, MediaLimits(max_bytes=len(data) - 1))


def test_pixel_limit_is_checked_by_header_before_decoding() -> None:
    data = encode(gradient(40, 30))
    assert load_image(picture(data), MediaLimits(max_pixels=1200)).size == (40, 30)
    with pytest.raises(ValueError, match=r"'p\.png' of sample s/1 has 40x30 pixels.*data\.media\.max_pixels=1199"):
        load_image(picture(data), MediaLimits(max_pixels=1199))

    def chunk(tag: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body))

    def bomb(width: int, height: int) -> bytes:
        header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        return (
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", header)
            + chunk(b"IDAT", zlib.compress(b"\0" * 100))
            + chunk(b"IEND", b"")
        )

    # The pixels are not there: only a check of the header can give this message.
    with pytest.raises(ValueError, match=r"8000x8000 pixels, more than data\.media\.max_pixels"):
        load_image(picture(bomb(8000, 8000)), MediaLimits())
    with pytest.raises(ValueError, match=r"of sample s/1.*exceeds limit"):  # Pillow's own guard
        load_image(picture(bomb(60_000, 60_000)), MediaLimits())


def test_side_and_aspect_limits() -> None:
    with pytest.raises(ValueError, match=r"5x1 pixels, a side below data\.media\.min_side=2"):
        load_image(picture(encode(gradient(5, 1))), MediaLimits())
    with pytest.raises(ValueError, match=r"beyond data\.media\.max_aspect_ratio=200"):
        load_image(picture(encode(gradient(402, 2))), MediaLimits())
    assert load_image(picture(encode(gradient(400, 2))), MediaLimits()).size == (400, 2)


# --- damaged content


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_truncated_content_names_file_and_sample(file_format: str) -> None:
    noise = Image.fromarray(np.random.RandomState(0).randint(0, 256, (48, 48, 3), dtype=np.uint8))
    data = encode(noise, file_format)
    load_image(picture(data), MediaLimits())
    for length in (len(data) // 2, 20, 4):
        with pytest.raises(ValueError, match=r"image 'p\.png' of sample s/1 is damaged"):
            load_image(picture(data[:length]), MediaLimits())


def test_corrupt_content_names_file_and_sample(tmp_path: Path) -> None:
    data = bytearray(encode(gradient(64, 64)))
    data[60:90] = b"\xff" * 30
    for content in (bytes(data), b"not an image at all", b"\x89PNG\r\n\x1a\n" + b"\0" * 50):
        with pytest.raises(ValueError, match=r"image 'p\.png' of sample s/1 is damaged"):
            load_image(picture(content), MediaLimits())
    with pytest.raises(ValueError, match="is empty"):
        load_image(picture(b""), MediaLimits())
    gone = tmp_path / "gone.png"
    for action in (lambda m: load_image(m, MediaLimits()), content_key):
        with pytest.raises(ValueError, match=r"'gone\.png' of sample s/2 cannot be read"):
            action(Media("image", path=gone, name="'gone.png' of sample s/2"))


def test_formats_that_start_other_programs_are_refused() -> None:
    with pytest.raises(ValueError, match="is damaged or unknown .* wanted is one of PNG, JPEG"):
        load_image(picture(encode(gradient(), "EPS")), MediaLimits())
    with pytest.raises(ValueError, match="is not an image"):
        load_image(Media("video", data=b"x"), MediaLimits())


# --- every mode becomes RGB


def test_rgb_is_unchanged() -> None:
    for file_format in ("PNG", "BMP", "TIFF", "PPM"):
        image = load_image(picture(encode(gradient(), file_format)), MediaLimits())
        assert image.mode == "RGB"
        assert np.array_equal(np.asarray(image), np.asarray(gradient()))


def test_transparency_is_laid_on_white() -> None:
    rgba = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    rgba.putpixel((1, 0), (255, 0, 0, 255))
    rgba.putpixel((2, 0), (0, 0, 255, 128))
    for file_format, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True})):
        image = load_image(picture(encode(rgba, file_format, **options)), MediaLimits())
        assert image.mode == "RGB"
        assert image.getpixel((0, 0)) == (255, 255, 255)
        assert image.getpixel((1, 0)) == (255, 0, 0)
        assert np.allclose(image.getpixel((2, 0)), (127, 127, 255), atol=1)
    grey = Image.new("LA", (4, 4), (10, 0))
    assert load_image(picture(encode(grey)), MediaLimits()).getpixel((0, 0)) == (255, 255, 255)


def test_palette_with_and_without_transparency() -> None:
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 200, 100, 50, 9, 9, 9])
    assert load_image(picture(encode(palette)), MediaLimits()).getpixel((0, 0)) == (200, 100, 50)
    assert load_image(picture(encode(palette, transparency=1)), MediaLimits()).getpixel((0, 0)) == (255, 255, 255)
    assert load_image(picture(encode(palette, transparency=0)), MediaLimits()).getpixel((0, 0)) == (200, 100, 50)


def test_transparent_colour_of_rgb() -> None:
    image = Image.new("RGB", (4, 4), (1, 2, 3))
    image.putpixel((0, 0), (9, 9, 9))
    loaded = load_image(picture(encode(image, transparency=(1, 2, 3))), MediaLimits())
    assert loaded.getpixel((0, 0)) == (9, 9, 9)
    assert loaded.getpixel((1, 1)) == (255, 255, 255)


def test_grey_one_bit_and_cmyk() -> None:
    assert load_image(picture(encode(Image.new("L", (4, 4), 77))), MediaLimits()).getpixel((0, 0)) == (77, 77, 77)
    assert load_image(picture(encode(Image.new("1", (4, 4), 1))), MediaLimits()).getpixel((0, 0)) == (255, 255, 255)
    for file_format in ("JPEG", "TIFF"):
        cyan = encode(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), file_format)
        assert Image.open(io.BytesIO(cyan)).mode == "CMYK"
        assert np.allclose(load_image(picture(cyan), MediaLimits()).getpixel((8, 8)), (0, 255, 255), atol=3)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_grey_is_scaled(file_format: str) -> None:
    values = np.array([[0, 257, 128 * 257, 65535], [256, 1000, 40000, 65534]], dtype=np.uint16)
    data = encode(Image.fromarray(values), file_format)
    image = load_image(picture(data), MediaLimits())
    expected = np.rint(values / 257).astype(np.uint8)
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image)[..., 0], expected)


def test_thirty_two_bit_channels_are_refused() -> None:
    for mode in ("I", "F"):
        with pytest.raises(ValueError, match=r"'p\.png' of sample s/1 has 32 bits a channel"):
            load_image(picture(encode(Image.new(mode, (4, 4)), "TIFF")), MediaLimits())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    inverse = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    upright = gradient()
    stored = upright if inverse is None else upright.transpose(inverse)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for file_format, options, tolerance in (("PNG", {}, 0), ("JPEG", {"quality": 95, "subsampling": 0}, 24)):
        image = load_image(picture(encode(stored, file_format, exif=exif, **options)), MediaLimits())
        assert image.size == upright.size
        difference = np.asarray(image).astype(int) - np.asarray(upright).astype(int)
        assert np.abs(difference).max() <= tolerance


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG"])
def test_animation_gives_its_first_frame_and_a_warning(file_format: str) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    options = {"lossless": True} if file_format == "WEBP" else {}
    data = encode(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
    with pytest.warns(UserWarning, match=r"'p\.png' of sample s/1 has 3 frames; only the first is used"):
        image = load_image(picture(data), MediaLimits())
    assert image.getpixel((0, 0)) == (255, 0, 0)
    assert image.info == {"frames": 3}


def test_telephone_picture_with_a_preview_behind_it_is_no_animation(recwarn: pytest.WarningsRecorder) -> None:
    data = encode(gradient(), "MPO", save_all=True, append_images=[gradient(8, 8)])
    assert load_image(picture(data), MediaLimits()).size == (32, 16)
    assert not [w for w in recwarn if "frames" in str(w.message)]


# --- keys and data addresses


def test_content_key_is_the_hash_of_the_bytes(tmp_path: Path) -> None:
    data = encode(gradient())
    (tmp_path / "x.png").write_bytes(data)
    expected = hashlib.sha256(data).hexdigest()
    assert content_key(picture(data)) == content_key(Media("image", path=tmp_path / "x.png")) == expected
    assert content_key(picture(data + b"\0")) != expected


def test_refusals_say_what_to_count_them_under(tmp_path: Path) -> None:
    data = encode(gradient())
    for action, reason in (
        (lambda: load_image(picture(data[:50]), MediaLimits()), "media damaged"),
        (lambda: load_image(picture(data), MediaLimits(max_pixels=5)), "media too large"),
        (lambda: load_image(picture(data), MediaLimits(max_bytes=5)), "media too large"),
        (lambda: resolve(tmp_path, "gone.png"), "media missing"),
        (lambda: resolve(tmp_path, "/etc/hostname"), "media outside the root"),
        (lambda: resolve(tmp_path, "https://host/a.png"), "media remote"),
        (lambda: resolve(None, "a.png"), "media root not set"),
    ):
        with pytest.raises(UnusableSample) as caught:
            action()
        wrapped = ValueError("outer")
        wrapped.__cause__ = caught.value
        assert caught.value.reason == reason_of(caught.value) == reason_of(wrapped) == reason
    assert reason_of(ValueError("plain")) == "not usable"


def test_data_uri() -> None:
    assert decode_data_uri("data:image/png;base64,aGVsbG8=", 5, "images[0]") == b"hello"
    for text, message in (
        ("data:image/png,hello", "without base64"),
        ("data:image/png;base64", "without base64"),
        ("data:image/png;base64,a$b", "not valid base64"),
        ("data:image/png;base64," + "A" * 400, r"data\.media\.max_bytes=5"),
    ):
        with pytest.raises(ValueError, match=message):
            decode_data_uri(text, 5, "images[0]")

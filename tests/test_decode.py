"""Decoding: the pixels are Pillow's, cut or oversized files are refused, fields name the member they lack."""

import io
import json
import pickle
import resource
import struct
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from augstream.decode import MAX_PIXELS, Field, Fields, decode_image
from augstream.errors import RecipeError, SampleError

RNG = np.random.default_rng(11)
SMOOTH = np.asarray(
    Image.fromarray(RNG.integers(0, 256, (9, 11, 3), np.uint8)).resize((64, 48), Image.Resampling.BICUBIC)
)
PHOTO = Image.fromarray(SMOOTH)
TRANSPARENT = Image.fromarray(np.dstack([SMOOTH, SMOOTH[..., 1]]))


def encoded(image: Image.Image, fmt: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, fmt, **options)
    return file.getvalue()


def oriented() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(PHOTO, "JPEG", exif=exif)


IMAGES = {
    "jpeg": encoded(PHOTO, "JPEG"),
    "jpeg 4:4:4": encoded(PHOTO, "JPEG", subsampling=0, quality=97),
    "jpeg progressive": encoded(PHOTO, "JPEG", progressive=True),
    "jpeg grey": encoded(PHOTO.convert("L"), "JPEG"),
    "jpeg cmyk": encoded(PHOTO.convert("CMYK"), "JPEG"),
    "jpeg oriented": oriented(),
    "png": encoded(PHOTO, "PNG"),
    "png grey": encoded(PHOTO.convert("L"), "PNG"),
    "png bilevel": encoded(PHOTO.convert("1"), "PNG"),
    "png palette": encoded(PHOTO.quantize(20), "PNG"),
    "png palette, 2 bits": encoded(PHOTO.quantize(3), "PNG"),
    "png palette, transparent": encoded(PHOTO.quantize(20), "PNG", transparency=3),
    "png rgba": encoded(TRANSPARENT, "PNG"),
    "png grey alpha": encoded(TRANSPARENT.convert("LA"), "PNG"),
    "png transparent colour": encoded(PHOTO, "PNG", transparency=tuple(map(int, SMOOTH[0, 0]))),
    "png animated": encoded(PHOTO, "PNG", save_all=True, append_images=[PHOTO.rotate(180)]),
    "webp": encoded(PHOTO, "WEBP"),
    "webp alpha": encoded(TRANSPARENT, "WEBP"),
    "webp lossless alpha": encoded(TRANSPARENT, "WEBP", lossless=True),
    "webp animated": encoded(PHOTO, "WEBP", save_all=True, append_images=[PHOTO.rotate(180)]),
    "gif": encoded(PHOTO, "GIF"),
    "bmp": encoded(PHOTO, "BMP"),
    "tiff": encoded(PHOTO, "TIFF"),
    "ppm": encoded(PHOTO, "PPM"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_rgb_equals_pillow(name):
    image = decode_image(IMAGES[name])
    assert np.array_equal(image, np.asarray(Image.open(io.BytesIO(IMAGES[name])).convert("RGB")))
    assert image.dtype == np.uint8
    assert image.shape == (48, 64, 3)
    assert image.flags.writeable
    assert image.flags.c_contiguous
    assert image.flags.owndata or image.base.flags.owndata  # not a view of anything that could change


@pytest.mark.parametrize("name", [name for name in IMAGES if name != "png bilevel"])
def test_masks_are_as_stored(name):
    mask = decode_image(IMAGES[name], mode="mask")
    assert np.array_equal(mask, np.asarray(Image.open(io.BytesIO(IMAGES[name]))))
    assert mask.dtype == np.uint8
    assert mask.flags.writeable
    assert mask.flags.c_contiguous


def test_sixteen_bits_become_the_upper_eight_and_stay_in_masks():
    colour = RNG.integers(0, 1 << 16, (5, 7, 3), np.uint16)
    data = cv2.imencode(".png", colour)[1].tobytes()
    assert np.array_equal(decode_image(data), colour[..., ::-1] >> 8)
    assert np.array_equal(decode_image(data, mode="mask"), colour[..., ::-1])
    grey = cv2.imencode(".png", colour[..., 0])[1].tobytes()
    assert np.array_equal(decode_image(grey), np.repeat(colour[..., :1] >> 8, 3, axis=2))
    assert np.array_equal(decode_image(grey, mode="mask"), colour[..., 0])
    assert decode_image(grey, mode="mask").dtype == np.uint16


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_grey_masks_of_few_bits_keep_their_labels(bits):
    labels = RNG.integers(0, 1 << bits, (6, 9)).astype(np.uint8)
    rows = []
    for row in labels:
        text = "".join(f"{value:0{bits}b}" for value in row)
        text += "0" * (-len(text) % 8)
        rows.append(b"\0" + int(text, 2).to_bytes(len(text) // 8, "big"))
    data = png(
        (b"IHDR", struct.pack(">IIBBBBB", 9, 6, bits, 0, 0, 0, 0)), (b"IDAT", zlib.compress(b"".join(rows)))
    )
    mask = decode_image(data, mode="mask")
    assert mask.dtype == np.uint8
    assert np.array_equal(mask, labels)


@pytest.mark.parametrize("mode", ["rgb", "mask"])
@pytest.mark.parametrize(
    "name",
    [
        "jpeg",
        "jpeg progressive",
        "jpeg cmyk",
        "png",
        "png palette",
        "png animated",
        "webp",
        "webp alpha",
        "gif",
        "bmp",
        "tiff",
        "ppm",
    ],
)
def test_every_cut_is_an_error(name, mode, capfd):
    data = IMAGES[name]
    # A gif may lack its trailer and its padding; whatever decodes to all the pixels is no damage.
    whole = decode_image(data, mode=mode)
    for cut in {*range(0, len(data), max(1, len(data) // 60)), *range(len(data) - 12, len(data))}:
        try:
            image = decode_image(data[:cut], mode=mode)
        except SampleError:
            continue
        assert name in {"gif", "tiff"}, cut
        assert np.array_equal(image, whole)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"not an image", b"GIF89a", b"RIFF\4\0\0\0WEBP"]
)
def test_no_image_is_an_error(data):
    with pytest.raises(
        SampleError, match=r"expected, got|truncated|header is broken|does not decode"
    ) as caught:
        decode_image(data)
    assert " at 0x" not in str(caught.value)  # the same file, the same words


def test_damage_inside_a_png_is_an_error():
    data = bytearray(IMAGES["png"])
    data[len(data) // 2] ^= 1
    with pytest.raises(SampleError, match="damaged"):
        decode_image(bytes(data))


@pytest.mark.parametrize("mode", ["rgb", "mask"])
@pytest.mark.parametrize("name", ["png", "png palette", "png grey", "png animated"])
def test_a_png_chunk_that_claims_more_than_the_file_is_refused_before_a_decoder_sees_it(name, mode):
    # OpenCV 5.0 takes, and fills, as much memory as the length claims: 4 GB for a file of 6 kB.
    data = IMAGES[name]
    at = 8
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        for claim in (0xFFFFFFFF, 0x7FFFFFFF, len(data)):
            with pytest.raises(SampleError, match=r"truncated|header is broken"):
                decode_image(data[:at] + claim.to_bytes(4, "big") + data[at + 4 :], mode=mode)
        if data[at + 4 : at + 8] == b"IEND":
            break
        at += 12 + length


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in [*chunks, (b"IEND", b"")]
    )


def bomb() -> bytes:
    """A PNG of 600 bytes that claims 60,000 x 60,000 pixels."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return png((b"IHDR", header), (b"IDAT", zlib.compress(bytes(500_000))))


@pytest.mark.parametrize("mode", ["rgb", "mask"])
def test_bombs_are_refused_by_their_header(mode):
    with pytest.raises(SampleError, match=r"60000 x 60000 .* max_pixels"):
        decode_image(bomb(), mode=mode)
    tiff = encoded(Image.new("L", (400, 300)), "TIFF", compression="tiff_deflate")
    with pytest.raises(SampleError, match="400 x 300"):
        decode_image(tiff, mode=mode, max_pixels=119_999)
    assert decode_image(tiff, mode=mode, max_pixels=120_000).shape[:2] == (300, 400)
    assert MAX_PIXELS < 1 << 27


def tiff(fields: dict[int, int], data: bytes) -> bytes:
    """A grey, deflated TIFF of these fields, whose data lie at 134."""
    fields = {258: 8, 259: 8, 262: 1, 277: 1, **fields}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(fields.items()))
    return (b"II*\0\x08\0\0\0" + struct.pack("<H", len(fields)) + entries).ljust(134, b"\0") + data


def tiled(side: int) -> bytes:
    """A TIFF of 16 x 16 pixels in one tile of `side` x `side`."""
    data = zlib.compress(bytes(side * side))
    return tiff({256: 16, 257: 16, 322: side, 323: side, 324: 134, 325: len(data)}, data)


SIDE = 65_500
CLAIMS = {
    "jpeg": IMAGES["jpeg"].replace(b"\x08\0\x30\0\x40", b"\x08\xff\xdc\xff\xdc"),
    "cmyk": IMAGES["jpeg cmyk"].replace(b"\x08\0\x30\0\x40", b"\x08\xff\xdc\xff\xdc"),
    "bmp": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 100, 0, 0, 54, 40, SIDE, SIDE, 1, 24, 0, 0, 0, 0, 0, 0),
    "gif": b"GIF89a" + struct.pack("<HH", SIDE, SIDE) + IMAGES["gif"][10:],
    "gif frame": b"GIF89a\4\0\4\0\x80\0\0" + bytes(6) + b",\0\0\0\0\xdc\xff\xdc\xff\0\2\2\x4c\1\0;",
    "webp": b"RIFF" + struct.pack("<I", 1000) + b"WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xdb\xff\0" * 2 + bytes(1000),
    "ppm": b"P6 65500 65500 255\n" + bytes(100),
    "pgm": b"P2 65500 65500 255\n" + b"0 " * 100,
    "pbm": b"P4 65500 65500\n" + bytes(100),
    "tiff": tiff({256: SIDE, 257: SIDE, 273: 134, 278: SIDE, 279: 9}, bytes(9)),
}  # fmt: skip


@pytest.mark.parametrize("name", CLAIMS)
def test_a_small_file_that_claims_65500_x_65500_pixels_is_refused_before_memory_is_taken(name):
    tracemalloc.start()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for mode in ("rgb", "mask"):
        with pytest.raises(SampleError, match=r"max_pixels"):
            decode_image(CLAIMS[name], mode=mode)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def test_a_small_tiff_in_huge_tiles_is_refused():
    assert decode_image(tiled(1024), max_pixels=256).shape == (16, 16, 3)
    for mode in ("rgb", "mask"):
        with pytest.raises(SampleError, match="tiles of 12000 x 12000 pixels, over the limit"):
            decode_image(tiled(12_000), mode=mode)


def test_jpegs_that_pass_over_their_pixels_too_often_are_refused():
    progressive = IMAGES["jpeg progressive"]
    start = progressive.rindex(b"\xff\xda")
    scan = progressive[start:-2]
    with pytest.raises(SampleError, match="jpeg of 1009 scans of 64 x 48 pixels"):
        decode_image(progressive[:start] + scan * 1000 + b"\xff\xd9")
    large = encoded(Image.new("L", (8000, 8000)), "JPEG", progressive=True)
    with pytest.raises(SampleError, match="jpeg of 106 scans of 8000 x 8000 pixels"):
        decode_image(large[:-2] + large[large.rindex(b"\xff\xda") :][:10] * 100 + b"\xff\xd9")
    # Without being progressive a file may have scans without end too, channel by channel.
    plain = encoded(PHOTO, "JPEG", subsampling=0)
    by_channel = plain[: plain.index(b"\xff\xda")]
    by_channel += b"".join(
        b"\xff\xda\0\x08\1" + bytes([channel, 0, 0, 63, 0]) + bytes(40) for channel in (1, 2, 3)
    )
    assert decode_image(by_channel + b"\xff\xd9").shape == (48, 64, 3)
    with pytest.raises(SampleError, match="jpeg of 600 scans"):
        decode_image(by_channel + by_channel[by_channel.index(b"\xff\xda") :] * 199 + b"\xff\xd9")


@pytest.mark.parametrize("chunk", [(b"zTXt", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0")])
def test_text_bombs_in_a_png_are_refused(chunk):
    name, start = chunk
    grey = struct.pack(">IIBBBBB", 9, 6, 8, 0, 0, 0, 0), zlib.compress(bytes(60))
    text = start + zlib.compress(bytes(8_000_000), 9)
    few, many = (png((b"IHDR", grey[0]), *[(name, text)] * times, (b"IDAT", grey[1])) for times in (20, 40))
    for mode in ("rgb", "mask"):
        assert decode_image(few, mode=mode).shape[:2] == (6, 9)
        with pytest.raises(SampleError, match=r"png with 31\d{4} bytes of compressed texts"):
            decode_image(many, mode=mode)
    plain = png((b"IHDR", grey[0]), *[(b"iTXt", b"a\0\0\0\0\0" + bytes(300_000))] * 2, (b"IDAT", grey[1]))
    assert decode_image(plain).shape == (6, 9, 3)


def test_texts_and_profiles_that_unpack_to_much_take_no_memory():
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "x" * 20_000_000, zip=True)
    data = encoded(PHOTO.quantize(20), "PNG", pnginfo=text, icc_profile=bytes(30_000_000))
    assert len(data) < 100_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert decode_image(data).shape == (48, 64, 3)
    with pytest.raises(SampleError, match="Decompressed data too large"):  # Pillow's own limit, for palettes
        decode_image(data, mode="mask")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30 * 1024


@given(st.sampled_from(sorted(IMAGES)), st.data())
def test_mutated_images_give_an_array_or_a_sample_error(name, data):
    changed = bytearray(IMAGES[name])
    for at in data.draw(st.lists(st.integers(0, len(changed) - 1), min_size=1, max_size=5)):
        changed[at] = data.draw(st.integers(0, 255))
    for mode in ("rgb", "mask"):
        try:
            assert decode_image(bytes(changed), mode=mode, max_pixels=10_000_000).ndim in {2, 3}
        except SampleError:
            continue


def test_an_unknown_mode_is_refused():
    with pytest.raises(RecipeError, match="'rgb' or 'mask', got 'bgr'"):
        decode_image(IMAGES["png"], mode="bgr")


# Fields


RAW = {
    "__key__": "a/0001",
    "__url__": "/somewhere/train-0.tar",
    "mask.png": IMAGES["png palette"],
    "jpg": IMAGES["jpeg"],
    "cls": b"12\n",
    "json": b'{"boxes": [[1, 2, 3, 4]], "deep": {"list": [5, {"x": 6}]}}',
    "txt": "gr\u00fcn".encode(),
    "pyd": b"cos\nsystem\n(S'exit 1'\ntR.",
    "bin": b"\0\1",
}


def test_default_fields():
    sample = Fields().decode(RAW, shard="train-0.tar")
    assert list(sample) == ["mask.png", "image", "cls", "json", "txt", "pyd", "bin", "__key__", "__shard__"]
    assert np.array_equal(sample["image"], decode_image(RAW["jpg"]))
    assert (sample["cls"], sample["txt"], sample["bin"]) == (12, "grün", b"\0\1")
    assert sample["json"]["boxes"] == [[1, 2, 3, 4]]
    assert sample["mask.png"] == RAW["mask.png"]
    assert sample["pyd"] == RAW["pyd"]  # never unpickled
    assert (sample["__key__"], sample["__shard__"]) == ("a/0001", "train-0.tar")


def test_the_first_image_is_taken_if_none_has_a_bare_suffix():
    raw = {"__key__": "0", "left.png": IMAGES["png"], "right.png": IMAGES["png grey"]}
    sample = Fields().decode(raw)
    assert np.array_equal(sample["image"], SMOOTH)
    assert sample["right.png"] == IMAGES["png grey"]


def test_explicit_fields():
    fields = Fields(
        {
            "image": "png;jpg",
            "mask": "mask.png",
            "label": "cls",
            "bboxes": "json:boxes",
            "x": "json:deep.list.1.x",
        }
    )
    sample = pickle.loads(pickle.dumps(fields)).decode(RAW, shard="s")  # noqa: S301  (our own pickle)
    assert list(sample) == ["image", "mask", "label", "bboxes", "x", "__key__", "__shard__"]
    assert sample["mask"].shape == (48, 64)
    assert sample["mask"].max() < 20
    assert (sample["label"], sample["bboxes"], sample["x"]) == (12, [[1, 2, 3, 4]], 6)


def test_field_objects_choose_the_kind():
    fields = Fields(
        {
            "target": Field(("mask.png",), "mask"),
            "raw": Field(("jpg",), "bytes"),
            "f": Field(("cls",), "float"),
        }
    )
    sample = fields.decode(RAW)
    assert sample["target"].ndim == 2
    assert sample["raw"] == RAW["jpg"]
    assert sample["f"] == 12.0


def npy(values: object) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def test_npy_is_read_without_objects_and_without_believing_its_header():
    fields = Fields({"points": "npy"})
    values = np.asfortranarray(RNG.random((4, 3)))
    decoded = fields.decode({"__key__": "0", "npy": npy(values)})["points"]
    assert np.array_equal(decoded, values)
    assert decoded.flags.writeable
    assert decoded.flags.c_contiguous
    for broken in (
        npy(np.array([{}], dtype=object)),
        npy(values)[:-1],
        npy(values) + b"x",
        npy(values).replace(b"(4, 3)", b"(9**9,)"),
        npy(values).replace(b"(4, 3)", b"(4e9,)"),
        b"",
        b"x",
    ):
        with pytest.raises(SampleError, match="'points'"):
            fields.decode({"__key__": "0", "npy": broken})


@pytest.mark.parametrize(
    ("fields", "changes", "message"),
    [
        (
            {"image": "png;webp"},
            {},
            r"'image': sample 'a/0001' has no member png or webp, only mask.png, jpg, cls",
        ),
        (
            {"y": "cls"},
            {"cls": b"cat"},
            r"'y': member 'cls' of sample 'a/0001': a whole number .* got b'cat'",
        ),
        ({"y": "cls"}, {"cls": b""}, "whole number"),
        ({"y": "json"}, {"json": b'{"a": '}, "'y': member 'json' of sample 'a/0001'"),
        ({"y": "json"}, {"json": b"[" * 100_000}, "'y': member 'json' of sample 'a/0001'"),
        ({"y": "json"}, {"json": b"\xff\xfe\xff"}, "'y': member 'json'"),
        ({"y": "json"}, {"json": b"9" * 10_000}, "'y': member 'json'"),
        ({"y": "txt"}, {"txt": b"\xff"}, r"'y': member 'txt' .* text in UTF-8 was expected, got b'\\xff'"),
        ({"y": "json"}, {"json": b"{x}"}, r"'y': member 'json' .* JSON was expected, got b'{x}'"),
        (
            {"image": "jpg"},
            {"jpg": b"junk"},
            r"an image \(JPEG, .* was expected, got bytes that begin with b'junk'",
        ),
        ({"image": "jpg"}, {"jpg": b""}, "was expected, got no bytes at all"),
        ({"y": "json:box"}, {}, r"no 'box' in the JSON value, where the keys boxes, deep is found"),
        ({"y": "json:deep.list.7"}, {}, r"no 'deep.list.7' in the JSON value, where list is found"),
        ({"image": "jpg"}, {"jpg": RAW["jpg"][:-9]}, "'image': member 'jpg' .* truncated"),
        (None, {"jpg": RAW["jpg"][:-9]}, "'image': member 'jpg' .* truncated"),
        (None, {"cls": b"1.5"}, "'cls': member 'cls'"),
    ],
)
def test_what_does_not_decode_is_named(fields, changes, message):
    with pytest.raises(SampleError, match=message) as caught:
        Fields(fields).decode(RAW | changes, shard="train-0.tar")
    assert (caught.value.shard, caught.value.key) == ("train-0.tar", "a/0001")


@pytest.mark.parametrize(
    "spec",
    [
        {},
        "jpg",
        {"a": 5},
        {"a": ""},
        {"a": "jpg;cls"},
        {"a": "jpg:x"},
        {"__key__": "txt"},
        {"": "txt"},
        {"a": ";"},
    ],
)
def test_senseless_fields_are_refused(spec):
    with pytest.raises(RecipeError):
        Fields(spec)


def test_a_pixel_limit_must_be_positive():
    with pytest.raises(RecipeError, match="max_pixels must be 1 or more, got 0"):
        Fields(max_pixels=0)
    with pytest.raises(SampleError, match="over the limit of 100"):
        Fields(max_pixels=100).decode(RAW)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
)
def test_json_comes_back_as_its_value(value):
    assert Fields().decode({"__key__": "0", "json": json.dumps(value).encode()})["json"] == value

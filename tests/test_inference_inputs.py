"""What the model sees: placement, rotation, colour, normalisation, anti-aliasing."""

import itertools

import cv2
import numpy as np
import pytest

from edged.errors import ValidationError
from edged.inference.preprocess import InputSpec, Preprocessor, geometry
from edged.inference.resize import resize
from edged.inference.signature import read_signature
from edged.inference.tensors import TensorSpec, dequantise

RESIZES = ("stretch", "center_crop", "letterbox")


def spec(
    height=32, width=48, channels=3, dtype="uint8", scale=1 / 128, zero_point=128, **kwargs
) -> InputSpec:
    tensor = TensorSpec("input", 0, (1, height, width, channels), dtype, scale, zero_point)
    return InputSpec(tensor, **kwargs)


def corner_image(height: int, width: int) -> np.ndarray:
    """Red top left, green top right, blue bottom left, black bottom right."""
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2, : width // 2, 0] = 255
    image[: height // 2, width // 2 :, 1] = 255
    image[height // 2 :, : width // 2, 2] = 255
    return image


def written(preprocessor: Preprocessor, image, color="rgb") -> np.ndarray:
    slot = next(preprocessor.slots())
    preprocessor.write(image, color, slot)
    return slot[0]


@pytest.mark.parametrize(
    ("rotate", "corners"),
    [
        (0, ["red", "green", "blue", "black"]),
        (90, ["blue", "red", "black", "green"]),
        (180, ["black", "blue", "green", "red"]),
        (270, ["green", "black", "red", "blue"]),
    ],
)
def test_rotation_turns_clockwise(rotate, corners) -> None:
    view = Preprocessor(spec(32, 32), rotate).view(corner_image(100, 100), "rgb")

    names = {0: "red", 1: "green", 2: "blue"}
    seen = [
        names[int(view[y, x].argmax())] if view[y, x].max() > 200 else "black"
        for y, x in ((4, 4), (4, 28), (28, 4), (28, 28))
    ]
    assert corners == seen


@pytest.mark.parametrize("resize_mode", RESIZES)
@pytest.mark.parametrize("rotate", [0, 90, 180, 270])
@pytest.mark.parametrize("size", [(60, 100), (100, 60), (31, 200), (32, 48)])
def test_boxes_come_back_to_where_they_were(resize_mode, rotate, size) -> None:
    """A white patch is found in the tensor and mapped back: it lands on the patch."""
    height, width = size
    upright = (width, height) if rotate in (90, 270) else (height, width)
    image = np.zeros((*upright, 3), np.uint8)
    y0, y1 = upright[0] * 48 // 100, -(-upright[0] * 52 // 100)
    x0, x1 = upright[1] * 48 // 100, -(-upright[1] * 52 // 100)
    image[y0:y1, x0:x1] = 255
    turned = np.ascontiguousarray(np.rot90(image, k=rotate // 90))  # undone by the preprocessor
    preprocessor = Preprocessor(spec(96, 128, resize=resize_mode), rotate)

    view = preprocessor.view(turned, "rgb")[:, :, 0]
    rows, columns = np.flatnonzero(view.max(1) > 127), np.flatnonzero(view.max(0) > 127)
    box = (columns[0] / 128, rows[0] / 96, (columns[-1] + 1) / 128, (rows[-1] + 1) / 96)
    place = preprocessor.geometry(*turned.shape[:2])

    expected = (x0 / upright[1], y0 / upright[0], x1 / upright[1], y1 / upright[0])
    assert np.allclose(expected, place.box_to_source(box), atol=0.03)


def test_letterbox_fills_with_black_and_keeps_the_shape() -> None:
    view = Preprocessor(spec(100, 100, resize="letterbox")).view(
        np.full((50, 100, 3), 200, np.uint8), "rgb"
    )

    assert (view[:25] == 0).all()
    assert (view[25:75] == 200).all()
    assert (view[75:] == 0).all()


def test_center_crop_keeps_the_middle() -> None:
    image = np.zeros((50, 150, 3), np.uint8)
    image[:, 50:100] = 255

    assert (Preprocessor(spec(50, 50, resize="center_crop")).view(image, "rgb") == 255).all()


def test_boxes_never_leave_the_image() -> None:
    place = geometry(50, 150, spec(64, 64, resize="letterbox"))

    assert place.box_to_source((-1.0, -1.0, 2.0, 2.0)) == (0.0, 0.0, 1.0, 1.0)


@pytest.mark.parametrize("camera", ["rgb", "bgr"])
@pytest.mark.parametrize("model", ["rgb", "bgr"])
def test_channel_order(camera, model) -> None:
    image = np.zeros((10, 10, 3), np.uint8)
    image[:, :, 0 if camera == "rgb" else 2] = 255  # red

    view = Preprocessor(spec(10, 10, color=model)).view(image, camera)

    assert view[5, 5].tolist() == ([255, 0, 0] if model == "rgb" else [0, 0, 255])


def test_grey_models_get_luminance() -> None:
    green = np.zeros((10, 10, 3), np.uint8)
    green[:, :, 1] = 255
    preprocessor = Preprocessor(spec(10, 10, channels=1))

    assert written(preprocessor, green)[5, 5, 0] == 150  # 0.587 * 255, ITU-R BT.601
    assert written(preprocessor, green, "bgr")[5, 5, 0] == 150


@pytest.mark.parametrize(
    ("dtype", "scale", "zero_point", "mean", "std"),
    [
        ("uint8", 1 / 128, 128, None, None),
        ("uint8", 1 / 128, 128, (127.5,), (127.5,)),
        ("uint8", 0.007843137718737125, 127, (127.5,), (127.5,)),
        ("uint8", 1 / 255, 0, (0.0,), (255.0,)),
        ("uint8", 0.0, 0, None, None),
        ("uint8", 0.02, 120, (123.7, 116.3, 103.5), (58.4, 57.1, 57.4)),
        ("int8", 1 / 128, 0, None, None),
        ("int8", 1 / 128, 0, (127.5,), (127.5,)),
        ("int8", 1 / 255, -128, (0.0,), (255.0,)),
        ("int8", 0.02, -10, (123.7, 116.3, 103.5), (58.4, 57.1, 57.4)),
        ("float32", 0.0, 0, None, None),
        ("float32", 0.0, 0, (0.0,), (1.0,)),
        ("float32", 0.0, 0, (123.7, 116.3, 103.5), (58.4, 57.1, 57.4)),
    ],
)
def test_normalisation_reaches_the_tensor(dtype, scale, zero_point, mean, std) -> None:
    """Read back through the tensor's own quantisation, each pixel is (pixel - mean) / std."""
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    preprocessor = Preprocessor(
        spec(1, 256, dtype=dtype, scale=scale, zero_point=zero_point, mean=mean, std=std)
    )

    tensor = written(preprocessor, ramp)

    if mean is None:
        raw = ramp[0].astype(float)
        expected = {"uint8": raw, "int8": raw - 128, "float32": raw}[dtype]
        assert np.allclose(expected, tensor[0])
        return
    real = (ramp[0] - np.array(mean)) / np.array(std)
    limits = np.iinfo(dtype) if dtype != "float32" else None
    if limits:
        real = np.clip(real, (limits.min - zero_point) * scale, (limits.max - zero_point) * scale)
    # One step: raw pixels stand for the same values within the rounding of the scale.
    step = scale * 1.01 if limits else 1e-5
    assert np.abs(dequantise(preprocessor.spec.tensor, tensor)[0] - real).max() <= step


def test_normalisation_must_fit_the_channels() -> None:
    with pytest.raises(ValidationError, match=r"2 values of mean or std .* 3 channels") as caught:
        spec(mean=(1.0, 2.0), std=(1.0, 1.0))

    assert caught.value.reason == "normalisation_mismatch"


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (1, 5000), (5000, 1), (7, 3), (224, 224), (4320, 7680)]
)
def test_any_image_size_fits(height, width) -> None:
    view = Preprocessor(spec(24, 32)).view(np.full((height, width, 3), 90, np.uint8), "bgr")

    assert view.shape == (24, 32, 3)
    assert (view == 90).all()


def test_the_source_image_is_left_alone() -> None:
    image = np.random.default_rng(1).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    before = image.copy()

    written(Preprocessor(spec(dtype="int8", zero_point=0)), image)

    assert (before == image).all()


def test_shrinking_does_not_alias() -> None:
    """Stripes finer than the output's pixels come out grey, not as false stripes."""
    stripes = np.zeros((480, 640, 3), np.uint8)
    stripes[:, ::2] = 255

    for step in (2.2, 2.5, 2.9, 3.7, 5.9):
        size = (round(640 / step), round(480 / step))
        assert resize(stripes, *size).std() < 10, f"step {step}"
        assert cv2.resize(stripes, size).std() > 60, "the stripes are no test at this step"


@pytest.mark.parametrize(
    ("step", "most"), [(1.3, 1.0), (2.0, 0.4), (2.86, 0.5), (4.0, 0.8), (6.5, 2.2), (8.0, 1.0)]
)
def test_resize_follows_the_reference_filter(step, most) -> None:
    """Within a level or two of PIL's BILINEAR on a picture with detail at every scale."""
    image_module = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(3)
    image = np.zeros((360, 480, 3), np.float64)
    for size in (3, 12, 48):
        layer = rng.uniform(0, 255, (360 // size + 1, 480 // size + 1, 3))
        image += cv2.resize(layer, (480, 360), interpolation=cv2.INTER_CUBIC) / 3
    image = np.clip(image, 0, 255).astype(np.uint8)
    width, height = round(480 / step), round(360 / step)

    reference = np.asarray(
        image_module.fromarray(image).resize((width, height), image_module.Resampling.BILINEAR)
    ).astype(int)
    ours = np.abs(resize(image, width, height) - reference).mean()
    plain = np.abs(cv2.resize(image, (width, height)) - reference).mean()

    assert ours < most
    assert ours < plain / (1.2 if step < 2 else 6)


def test_growing_is_linear() -> None:
    image = np.random.default_rng(2).integers(0, 256, (10, 12, 3), dtype=np.uint8)

    assert (resize(image, 48, 40) == cv2.resize(image, (48, 40))).all()


def test_every_mode_and_rotation_fills_the_tensor() -> None:
    image = np.full((37, 53, 3), 255, np.uint8)
    for mode, rotate in itertools.product(RESIZES, (0, 90, 180, 270)):
        tensor = written(Preprocessor(spec(24, 32, resize=mode), rotate), image)
        assert tensor.shape == (24, 32, 3)
        assert tensor[12, 16].tolist() == [255, 255, 255]


@pytest.mark.parametrize("dtype", ["float32", "int8", "uint8"])
@pytest.mark.parametrize("normalisation", [None, ((0.0,), (255.0,)), ((1.0, 2.0, 3.0), (60.0,))])
@pytest.mark.parametrize("channels", [1, 3])
def test_channels_first_holds_the_same_pixels(dtype, normalisation, channels) -> None:
    mean, std = normalisation or (None, None)
    if channels == 1 and mean is not None:
        mean = mean[:1]
    settings = {"mean": mean, "std": std, "resize": "letterbox", "pad": 114}
    zero_point = -128 if dtype == "int8" else 0
    last = spec(32, 48, channels, dtype, 1 / 60, zero_point, **settings)
    tensor = TensorSpec("input", 0, (1, channels, 32, 48), dtype, 1 / 60, zero_point)
    first = InputSpec(tensor, **settings)
    assert (first.height, first.width, first.channels) == (32, 48, channels)
    assert read_signature([tensor], []).image == 0
    image = np.random.default_rng(2).integers(0, 256, (60, 100, 3), np.uint8)

    seen, expected = (written(Preprocessor(one), image) for one in (first, last))

    assert np.array_equal(seen, expected.transpose(2, 0, 1))
    assert len(np.unique(seen)) > 20

"""Segmentation: label numbers, or scores, per pixel become areas and a mask."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from sim import models
from test_servable import COLOURS, PIXELS, load, predict

from edged.config import ModelConfig
from edged.errors import ValidationError
from edged.inference.kinds.decoder import Cut
from edged.inference.kinds.segmentation import SegmentationDecoder, is_label_map, is_score_map
from edged.inference.loading import load_servable
from edged.inference.modelfile import read_model_file
from edged.inference.preprocess import InputSpec, geometry
from edged.inference.tensors import TensorSpec
from edged.prediction import Areas, Mask

DEEPLAB = "deeplabv3_mnv2_dm05_pascal_quant"
BIRD = 3
FOUR = read_model_file(models.segmenter())
UNSEEN = read_model_file(models.edgetpu_custom_op())
INPUT = InputSpec(TensorSpec("input", 0, (1, 8, 8, 3), "uint8"))
WHOLE = geometry(8, 8, INPUT)
# A wide picture fills the middle half of a square input's height.
BARRED = geometry(4, 8, replace(INPUT, resize="letterbox"))


def decoder(numbers, cut=Cut(), labels=tuple("abcd"), file=FOUR) -> SegmentationDecoder:
    shape = (1, *np.shape(numbers))
    spec = TensorSpec("map", 0, shape, "int64" if len(shape) == 3 else "float32")
    return SegmentationDecoder(file, 0, spec, labels, cut)


def decode(numbers, cut=Cut(), place=WHOLE, **kwargs) -> Areas:
    return decoder(numbers, cut, **kwargs).decode([np.array([numbers])], place)


def lines(areas: Areas) -> list[tuple[str, float]]:
    return [(area.label, area.area) for area in areas.areas]


def pixels(mask: Mask | None) -> np.ndarray:
    assert mask is not None
    return cv2.imdecode(np.frombuffer(mask.png, np.uint8), cv2.IMREAD_UNCHANGED)


def test_areas_are_shares_largest_first_and_cut() -> None:
    numbers = [[1, 1, 1, 3], [3, 1, 1, 0]]

    assert lines(decode(numbers)) == [("b", 0.625), ("d", 0.25), ("a", 0.125)]
    assert lines(decode(numbers, Cut(top_k=1))) == [("b", 0.625)]
    assert lines(decode(numbers, Cut(min_score=0.25))) == [("b", 0.625), ("d", 0.25)]
    assert decode(numbers).mask is None


def test_bars_do_not_count_and_are_not_in_the_mask() -> None:
    numbers = np.zeros((8, 8), np.int64)
    numbers[2:6, :2] = 2

    result = decode(numbers, Cut(mask=True), BARRED)

    assert lines(result) == [("a", 0.75), ("c", 0.25)]
    assert np.array_equal(pixels(result.mask), numbers[2:6])
    assert result.mask is not None
    assert result.mask.box == (0.0, 0.0, 1.0, 1.0)


def test_a_coarser_map_is_cut_to_the_nearest_cell() -> None:
    """3 rows for 8: the picture fills rows 0.75 to 2.25, so the middle one, and part of it."""
    result = decode([[0] * 3, [1] * 3, [2] * 3], Cut(mask=True), BARRED)

    assert lines(result) == [("b", 1.0)]
    assert result.mask is not None
    assert result.mask.box == pytest.approx((0.0, 1 / 6, 1.0, 5 / 6))


def test_at_least_one_cell_counts() -> None:
    """A picture in a thin strip of the input, between the middles of the cells."""
    strip = geometry(1, 8, replace(INPUT, resize="letterbox"))
    assert strip.target == (0, 3, 8, 4)

    assert lines(decode([[0, 0], [1, 1]], place=strip)) == [("a", 1.0)]


@pytest.mark.parametrize("wild", [-1, 4, 300, 2**17, -(2**63), 2**63 - 1])
def test_a_number_without_a_label_is_named_by_its_number(wild) -> None:
    result = decode([[wild, wild], [wild, 2]], Cut(mask=True))

    assert lines(result) == [(f"class {wild}", 0.75), ("c", 0.25)]
    shown = wild if 0 <= wild <= 255 else 255
    assert pixels(result.mask).tolist() == [[shown, shown], [shown, 2]]


@pytest.mark.parametrize("dtype", ["uint8", "int8", "float32", "float16"])
def test_the_highest_score_takes_the_pixel(dtype) -> None:
    scores = np.zeros((1, 2, 2, 3), dtype)
    scores[0, 0, 0] = (1, 2, 3)
    scores[0, 0, 1] = (9, 7, 8)
    scores[0, 1, 1] = (0, 4, 3)  # and the pixel before is a tie: the first one takes it
    spec = TensorSpec("scores", 0, scores.shape, dtype, 0.5, 100)

    result = SegmentationDecoder(FOUR, 0, spec, None, Cut(mask=True)).decode([scores], WHOLE)

    assert pixels(result.mask).tolist() == [[2, 0], [0, 1]]
    assert lines(result) == [("class 0", 0.5), ("class 1", 0.25), ("class 2", 0.25)]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_no_numbers_are_refused(bad) -> None:
    scores = np.zeros((2, 2, 4), np.float32)
    scores[1, 0, 2] = bad

    with pytest.raises(ValidationError) as caught:
        decode(scores)

    assert caught.value.reason == "output_not_finite"


def test_labels_are_as_many_as_the_graph_chooses_between() -> None:
    for output in ("int64", "int32", "uint8"):
        file = read_model_file(models.segmenter(output=output))
        assert decoder([[0, 0], [0, 0]], labels=None, file=file).labels[3:] == ("class 3",)
    with pytest.raises(ValidationError, match="3 labels.*4 classes.*background") as caught:
        decoder([[0, 0], [0, 0]], labels=("a", "b", "c"))
    assert caught.value.reason == "labels_mismatch"
    with pytest.raises(ValidationError, match="3 labels.*5 classes"):
        decoder(np.zeros((2, 2, 5)), labels=("a", "b", "c"))


def test_a_choice_inside_an_edge_tpu_takes_the_labels_at_their_word() -> None:
    numbers = [[0, 0], [0, 2]]

    assert decoder(numbers, labels=("a", "b", "", "a note"), file=UNSEEN).labels == ("a", "b")
    assert lines(decode(numbers, labels=("a",), file=UNSEEN)) == [("a", 0.75), ("class 2", 0.25)]
    assert lines(decode(numbers, labels=None, file=UNSEEN))[0] == ("class 0", 0.75)


def test_a_mask_of_many_classes_has_deeper_pixels() -> None:
    scores = np.zeros((1, 2, 2, 257), np.float32)
    scores[0, 0, 0, 256] = 1.0
    spec = TensorSpec("scores", 0, scores.shape, "float32")

    result = SegmentationDecoder(FOUR, 0, spec, None, Cut(mask=True)).decode([scores], WHOLE)

    assert pixels(result.mask).dtype == np.uint16
    assert pixels(result.mask).tolist() == [[256, 0], [0, 0]]


@pytest.mark.parametrize(
    ("shape", "dtype", "scale", "label_map", "score_map"),
    [
        ((1, 513, 513), "int64", 0.0, True, False),
        ((1, 33, 65), "int32", 0.0, True, False),
        ((1, 33, 65, 1), "uint8", 0.0, True, False),
        ((1, 33, 65), "uint8", 1 / 256, False, False),  # values, not numbers
        ((1, 33, 65), "float32", 0.0, False, False),
        ((1, 33, 65, 2), "float32", 0.0, False, True),
        ((1, 33, 65, 21), "int8", 0.5, False, True),
        ((1, 33, 65, 1), "float32", 0.0, False, False),  # depth, or a mask of one thing
        ((2, 33, 65), "int64", 0.0, False, False),
        ((1, 1, 17, 3), "float32", 0.0, False, False),
        ((1, 10), "int64", 0.0, False, False),
    ],
)
def test_what_counts_as_segmentation(shape, dtype, scale, label_map, score_map) -> None:
    spec = TensorSpec("out", 0, shape, dtype, scale)

    assert (is_label_map(spec), is_score_map(spec)) == (label_map, score_map)


def scene() -> np.ndarray:
    """Return a wide picture: a quarter red at the left, green above blue."""
    picture = np.empty((240, 480, 3), np.uint8)
    picture[:60], picture[60:] = PIXELS["green"], PIXELS["blue"]
    picture[:, :120] = PIXELS["red"]
    return picture


SHARES = {
    "stretch": {"blue": 0.5625, "red": 0.25, "green": 0.1875},
    "letterbox": {"blue": 0.5625, "red": 0.25, "green": 0.1875},
    "center_crop": {"blue": 0.75, "green": 0.25},
}


@pytest.mark.parametrize("output", ["int64", "int32", "uint8", "scores"])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "float32"])
@pytest.mark.parametrize("resize", SHARES)
@pytest.mark.parametrize("rotate", [0, 90, 180, 270])
def test_areas_and_mask_are_those_of_the_upright_image(
    tmp_path, output, dtype, resize, rotate
) -> None:
    data = models.with_metadata(models.segmenter(dtype, output=output), COLOURS)
    path = models.write(tmp_path / "m.tflite", data)
    servable = load(path, resize=resize, mask=True)
    upright = scene()
    image = np.ascontiguousarray(np.rot90(upright, k=rotate // 90))

    result = predict(servable, image, rotate=rotate)

    assert isinstance(result, Areas)
    assert servable.kind == "segmentation"
    assert dict(lines(result)) == pytest.approx(SHARES[resize], abs=0.02)
    assert list(dict(lines(result))) == list(SHARES[resize])
    assert result.mask is not None
    box = (0.25, 0.0, 0.75, 1.0) if resize == "center_crop" else (0.0, 0.0, 1.0, 1.0)
    assert result.mask.box == pytest.approx(box)
    mask = pixels(result.mask)
    assert mask.shape == ((16, 32) if resize == "letterbox" else (32, 32))
    x0, x1 = (round(edge * 480) for edge in box[::2])
    there = upright[:, x0:x1].argmax(axis=2)
    on_top = cv2.resize(mask, there.shape[::-1], interpolation=cv2.INTER_NEAREST)
    assert (on_top == there).mean() > 0.97


def test_a_mask_comes_only_when_asked_for(tmp_path) -> None:
    path = models.write(tmp_path / "m.tflite", models.segmenter())

    assert predict(load(path), scene()).mask is None


@pytest.mark.parametrize("make", [models.classifier, models.detector, models.keypoints])
def test_a_mask_asked_of_another_kind_is_refused(tmp_path, make) -> None:
    path = models.write(tmp_path / "m.tflite", make())

    with pytest.raises(ValidationError, match="mask = true.*this is") as caught:
        load(path, mask=True)

    assert caught.value.reason == "mask_unsupported"


def pascal(shared_data, **settings) -> ModelConfig:
    folder = shared_data / "models"
    labels = folder / "pascal_voc_segmentation_labels.txt"
    return ModelConfig(
        name="m", factory=str(folder / f"{DEEPLAB}.tflite"), labels=str(labels), **settings
    )


def test_a_real_bird_covers_what_the_reference_says(shared_data) -> None:
    """The reference is a grey picture of label numbers; at the bird's edge it was interpolated.

    pycoral's test asks for more than 0.90 of what it calls IoU, equal pixels over all pixels of
    both pictures less the equal ones: 0.924 here, and 0.819 for the bird alone.
    """
    servable = load_servable(pascal(shared_data, mask=True, min_score=0.1))
    picture = cv2.imread(str(shared_data / "images" / "bird_segmentation.bmp"))
    reference = cv2.imread(
        str(shared_data / "images" / "bird_segmentation_mask.bmp"), cv2.IMREAD_UNCHANGED
    )

    result = predict(servable, picture, "bgr")

    mask = pixels(result.mask)
    equal = (mask == reference).sum()
    ours, theirs = mask == BIRD, reference == BIRD
    assert len(servable.labels) == 21
    assert equal / (mask.size + reference.size - equal) > 0.90
    assert (ours & theirs).sum() / (ours | theirs).sum() > 0.80
    assert [area.label for area in result.areas] == ["background", "bird"]
    assert result.areas[1].area == pytest.approx(theirs.mean(), abs=0.03)
    assert result.mask is not None
    assert len(result.mask.png) < 5000


@pytest.mark.parametrize("resize", ["letterbox", "center_crop"])
def test_a_real_bird_stays_where_it_is_however_the_picture_is_fitted(shared_data, resize) -> None:
    servable = load_servable(pascal(shared_data, mask=True, resize=resize))
    rows = slice(60, 450)
    images = shared_data / "images"
    picture = cv2.imread(str(images / "bird_segmentation.bmp"))[rows]
    reference = cv2.imread(str(images / "bird_segmentation_mask.bmp"), cv2.IMREAD_UNCHANGED)[rows]

    result = predict(servable, np.ascontiguousarray(np.rot90(picture)), "bgr", rotate=90)

    assert result.mask is not None
    x0, y0, x1, y1 = result.mask.box
    height, width = reference.shape
    part = reference[round(y0 * height) : round(y1 * height), round(x0 * width) : round(x1 * width)]
    mask = cv2.resize(pixels(result.mask), part.shape[::-1], interpolation=cv2.INTER_NEAREST)
    ours, theirs = mask == BIRD, part == BIRD
    assert (ours & theirs).sum() / (ours | theirs).sum() > 0.65
    assert result.mask.box == pytest.approx(
        (0, 0, 1, 1) if resize == "letterbox" else (0.119, 0, 0.879, 1), abs=0.01
    )


def test_labels_with_notes_behind_them_are_not_a_changed_file(shared_data, tmp_path) -> None:
    config = pascal(shared_data)
    servable = load_servable(config)
    own = tmp_path / "labels.txt"
    same = "\n".join(servable.labels)
    cases = {f"{same}\n\nanother note": True, f"{same}\nclock": False, f"{same}s\n\nnote": False}

    assert servable.files_unchanged(config)
    for text, unchanged in cases.items():
        own.write_text(text)
        assert servable.files_unchanged(replace(config, labels=str(own))) == unchanged

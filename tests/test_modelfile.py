"""What a .tflite file says about itself, and what it must not do to its reader."""

import io
import json
import random
import zipfile

import pytest
from sim import models

from edged.errors import ValidationError
from edged.inference.modelfile import read_model_file
from edged.inference.modellabels import LABELS_LIMIT_BYTES, packed_labels, parse_labels

LABELS = ["red", "green", "blue", "dark"]


def reason_of(data: bytes) -> str:
    with pytest.raises(ValidationError) as caught:
        read_model_file(data)
    return caught.value.reason


def test_structure_of_a_classifier() -> None:
    file = read_model_file(models.classifier())

    assert len(file.inputs) == len(file.outputs) == 1
    assert file.shapes[file.inputs[0]] == (1, 32, 32, 3)
    assert file.head(file.outputs[0]) == "softmax"
    assert (file.label_name, file.mean, file.std) == (None, None, None)
    assert not file.needs_edgetpu
    assert file.custom_operators == ()


def test_logits_are_told_from_probabilities() -> None:
    file = read_model_file(models.classifier(head="logits"))

    assert file.head(file.outputs[0]) == "logits"


def test_custom_operators_are_named() -> None:
    assert read_model_file(models.custom_op("my-op")).custom_operators == ("my-op",)
    assert read_model_file(models.edgetpu_custom_op()).needs_edgetpu


def test_metadata_gives_labels_and_normalisation() -> None:
    data = models.with_metadata(models.classifier(), LABELS, mean=[127.5], std=[64.0])

    file = read_model_file(data)

    assert packed_labels(data, file.label_name) == tuple(LABELS)
    assert (file.mean, file.std) == ((127.5,), (64.0,))


def test_a_label_file_without_metadata_counts_when_it_is_the_only_one() -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("anything.txt", "a\nb\nc\nd\n")

    data = models.classifier() + packed.getvalue()
    assert packed_labels(data, read_model_file(data).label_name) == ("a", "b", "c", "d")


def test_packed_labels_that_are_damaged_are_refused_not_forgotten() -> None:
    """Without a word the classes would have numbers for names."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labels.txt", "some label\n" * 40)
    start = packed.getvalue().index(b"labels.txt") + len(b"labels.txt")
    for at in (start + 2, start + 6):
        broken = bytearray(packed.getvalue())
        broken[at] ^= 0xFF
        data = models.classifier() + bytes(broken)
        with pytest.raises(ValidationError) as caught:
            packed_labels(data, read_model_file(data).label_name)
        assert caught.value.reason == "labels_unreadable"


def test_packed_labels_are_bounded() -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labels.txt", bytes(LABELS_LIMIT_BYTES + 1))
    data = models.classifier() + packed.getvalue()

    with pytest.raises(ValidationError, match="4 MiB"):
        packed_labels(data, read_model_file(data).label_name)


def packed(content: bytes, name: str = "metadata.json") -> tuple[str, ...] | None:
    """Return the labels of a model with this file behind it."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(name, content)
    data = models.classifier() + archive.getvalue()
    return packed_labels(data, read_model_file(data).label_name)


@pytest.mark.parametrize("name", ["metadata.json", "temp_meta.txt", "meta.txt", "labels.txt"])
@pytest.mark.parametrize(
    "content",
    [
        b'{"task": "detect", "names": {"0": "cat", "1": "it\'s \\u00e9"}}',
        b'{"names": ["cat", "it\'s \\u00e9"]}',
        b"{'stride': 32, 'names': {0: 'cat', 1: \"it's \\xe9\"}, 'task': 'detect'}",
        "{'names': ['cat', \"it's é\"], 'stride': 32}".encode(),
        b"{'names': {1: \"it's \\xe9\", 0: 'cat'}}",
    ],
)
def test_names_in_the_metadata_of_an_export(name, content) -> None:
    assert packed(content, name) == ("cat", "it's é")


@pytest.mark.parametrize(
    "content",
    [
        b"{}",
        b"{'stride': 32}",
        b'{"description": "a model"}',
    ],
)
def test_metadata_without_names_gives_no_labels(content) -> None:
    assert packed(content) is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"names": {"0": "cat", "2": "dog"}}', "numbered"),
        (b'{"names": {"0": ["cat"]}}', "numbered"),
        (b'{"names": "cat"}', "numbered"),
        (b"{'names': {0: 'cat', 5: 'dog'}}", "numbered"),
        (b"{'names': {0: 'cat', 1: open('x')}}", "damaged"),
        (b"{'names': {0: 'cat'", "damaged"),
        (b"{'names': {0: '\\xg0'}}", "damaged"),
        (b"{'names': {0: '\xff'}}", "UTF-8"),
        (b"{'names': " + b"{0:" * 50_000, "damaged"),
        (b'{"names": ' + b"[" * 50_000, "damaged"),
        (b"{'names': {0: " + b"-" * 50_000 + b"1}}", "damaged"),
        (b"{'names': {" + b"0: 'a', " * 50_000, "256 KiB"),
        (b'{"names": ["' + b"a" * 300_000 + b'"]}', "256 KiB"),
    ],
)
def test_hostile_metadata_is_refused(content, words) -> None:
    with pytest.raises(ValidationError, match=words) as caught:
        packed(content, "temp_meta.txt")

    assert caught.value.reason == "labels_unreadable"


def test_a_label_file_goes_before_the_metadata_of_an_export() -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("metadata.json", json.dumps({"task": "pose", "names": ["x"]}))
        file.writestr("labels.txt", "a\nb\n")
    data = models.classifier() + archive.getvalue()

    file = read_model_file(data)

    assert packed_labels(data, file.label_name) == ("a", "b")
    assert file.task == "pose"


@pytest.mark.parametrize("style", ["metadata.json", "temp_meta.txt", "meta.txt"])
def test_the_task_of_an_export(style) -> None:
    data = models.with_export_metadata(models.yolo(), ["a", "b", "c"], style, task="segment")

    assert read_model_file(data).task == (None if style == "meta.txt" else "segment")


@pytest.mark.parametrize("name", ["metadata.json", "temp_meta.txt"])
def test_flipped_bytes_in_metadata_end_in_labels_or_a_refusal(name) -> None:
    good = models.with_export_metadata(models.yolo(), ["it's", "b", "c"], name)
    start = good.index(b"description") - 3
    rng = random.Random(11)
    refused = 0
    for _ in range(1000):
        data = bytearray(good)
        data[rng.randrange(start, len(data))] = rng.randrange(256)
        # The archive's own checksum would find nearly all of them: read the content alone.
        content = bytes(data[start : good.index(b"PK", start)])
        try:
            packed(content, name)
        except ValidationError as error:
            assert error.reason == "labels_unreadable"
            refused += 1

    assert refused > 10


@pytest.mark.parametrize(
    ("data", "reason", "words"),
    [
        (b"", "model_empty", "empty"),
        (b"hello world, this is no model\n", "not_a_model", "text"),
        (b"PK\x03\x04" + bytes(60), "not_a_model", "zip"),
        (b"\x89HDF\r\n\x1a\n" + bytes(60), "not_a_model", "Keras"),
        (b"\x89PNG\r\n\x1a\n" + bytes(60), "not_a_model", "PNG"),
        (bytes(1000), "not_a_model", "identifier"),
        (b"\xff\xff\xff\x7fTFL3" + bytes(60), "model_damaged", "damaged"),
        (b"\x08\x00\x00\x00TFL3", "model_damaged", "damaged"),
        (b"TFL3", "not_a_model", "text"),
    ],
)
def test_what_is_no_model_is_said_to_be_none(data, reason, words) -> None:
    with pytest.raises(ValidationError, match=words) as caught:
        read_model_file(data)

    assert caught.value.reason == reason


def test_a_truncated_model_is_damaged() -> None:
    data = models.with_metadata(models.classifier(), LABELS)
    for length in range(8, len(data) // 2, 97):
        try:
            file = read_model_file(data[:length])
        except ValidationError as error:
            assert error.reason in {"model_damaged", "not_a_model"}
        else:
            assert file.label_name is None  # the zip stands at the end


def test_flipped_bytes_end_in_facts_or_a_refusal() -> None:
    """No byte flip may raise anything but a refusal, or run away."""
    good = models.with_metadata(models.detector(), LABELS[:3], mean=[127.5], std=[127.5])
    rng = random.Random(7)
    refused = 0
    for _ in range(1500):
        data = bytearray(good)
        for _ in range(rng.choice((1, 1, 4, 40))):
            data[rng.randrange(8, len(data))] = rng.randrange(256)
        try:
            packed_labels(bytes(data), read_model_file(bytes(data)).label_name)
        except ValidationError:
            refused += 1

    assert refused > 10


@pytest.mark.parametrize(
    ("content", "labels"),
    [
        (b"cat\ndog\n", ("cat", "dog")),
        (b"cat\r\ndog", ("cat", "dog")),
        (b"\xef\xbb\xbfcat\ndog\n\n\n", ("cat", "dog")),
        (b"0 cat\n1 big dog\n", ("cat", "big dog")),
        (b"0: cat\n1: dog\n", ("cat", "dog")),
        (b"cat\n\ndog\n", ("cat", "", "dog")),
        (b"7 of hearts\n8 of hearts\n", ("7 of hearts", "8 of hearts")),
        ("Ara macao (Großer)\n".encode(), ("Ara macao (Großer)",)),
        (b"", ()),
    ],
)
def test_label_files(content, labels) -> None:
    assert labels == parse_labels(content)


def test_a_label_file_must_be_text() -> None:
    with pytest.raises(ValidationError) as caught:
        parse_labels(b"\xff\xfe\x00c")

    assert caught.value.reason == "labels_unreadable"

"""Packages are made of a model and images, and become servables again."""

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from sim import badmodels, models, packages
from sim import golden as sim_golden

from edged.config import ModelConfig
from edged.errors import CameraError, EdgedError, PackError, ValidationError
from edged.inference.preprocess import Preprocessor
from edged.models.golden import read_golden
from edged.models.loading import load_package, read_manifest
from edged.models.manifest import Requires, parse_manifest
from edged.models.package import read_package, unpack
from edged.operator.pack import Choices, Packed, check, pack
from edged.prediction import Classes, ModelId

COLOURS = sim_golden.COLOURS
PIXELS = {"red": (0, 0, 255), "green": (0, 255, 0), "blue": (255, 0, 0), "dark": (0, 0, 0)}  # BGR


def image(colour: str, shade: int = 0) -> np.ndarray:
    picture = np.full((48, 64, 3), PIXELS[colour], np.uint8)
    picture[:shade] = 128  # a strip that leaves the colour what it is
    return picture


def folders(root: Path, each: int = 2, **moved: str) -> Path:
    """Write images into a folder per label; `red="green"` puts the red ones among the green."""
    for colour in COLOURS:
        folder = root / moved.get(colour, colour)
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(each):
            cv2.imwrite(str(folder / f"{colour} {number}.png"), image(colour, 4 * number))
    return root


def model_file(folder: Path, data: bytes | None = None, labels=COLOURS) -> Path:
    made = models.with_metadata(models.classifier("uint8"), labels) if data is None else data
    return models.write(folder / "colours.tflite", made)


def packed(folder: Path, model: Path | None = None, **changes) -> Packed:
    given = {"name": "colours", "version": "1.4.0", "output": folder / "colours-1.4.0.zip"}
    given |= {name: changes.pop(name) for name in list(changes) if name in given}
    images = changes.pop("golden_dir", None) or folders(folder / "images")
    choices = Choices(**changes)
    return pack(model or model_file(folder), golden_dir=images, choices=choices, **given)


def unpacked(folder: Path, made: Packed) -> Path:
    directory = folder / "unpacked"
    directory.mkdir()
    unpack(read_package(made.path), directory, packages.PlainStorage())
    return directory


def test_a_package_says_what_the_model_is(tmp_path) -> None:
    made = packed(tmp_path)

    manifest = made.manifest
    assert manifest == read_package(made.path).manifest
    assert made.sha256 == hashlib.sha256(made.path.read_bytes()).hexdigest()
    assert (manifest.task, manifest.output.head, manifest.labels) == (
        "classification",
        "softmax",
        4,
    )
    assert (manifest.input.shape, manifest.input.dtype) == ((1, 32, 32, 3), "uint8")
    assert (manifest.input.color, manifest.input.resize) == ("rgb", "stretch")
    assert manifest.golden.samples == 10  # eight images, a blank one and noise
    assert manifest.golden.top1 is not None
    assert manifest.golden.top1[:4] == COLOURS[2:3] + COLOURS[3:] + ("green", "red")  # by folder
    assert made.tried.measured is not None
    assert made.tried.measured.golden == "10/10 agree"
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith((".zip", ".part"))] == [
        "colours-1.4.0.zip"
    ]


def test_golden_inputs_are_what_edged_feeds_its_models(tmp_path) -> None:
    made = packed(tmp_path, resize="letterbox", color="bgr", labels=None,
                  golden_dir=plain_images(tmp_path / "plain"))  # fmt: skip
    directory = unpacked(tmp_path, made)
    golden = read_golden((directory / "golden.npz").read_bytes(), made.manifest.golden.samples)
    servable = load_package(config(), directory, read_manifest(directory), made.sha256)
    preprocessor = Preprocessor(servable.input)
    tensor = next(preprocessor.slots())
    preprocessor.write(image("red", 4), "bgr", tensor)

    assert np.array_equal(golden.inputs[0][0], tensor)
    assert np.array_equal(golden.outputs[0][0], servable.run([tensor])[0])
    assert not golden.inputs[0][-2][:, 6:-6].any()  # the blank one
    assert len(np.unique(golden.inputs[0][-1])) > 200  # noise


def plain_images(folder: Path) -> Path:
    folder.mkdir()
    cv2.imwrite(str(folder / "a.png"), image("red", 4))
    cv2.imwrite(str(folder / "b.png"), image("green"))
    return folder


def test_packing_twice_gives_the_same_bytes(tmp_path, monkeypatch) -> None:
    model = model_file(tmp_path)
    first = packed(tmp_path, model)
    again = packed(tmp_path, model, output=tmp_path / "again.zip")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    dated = packed(tmp_path, model, output=tmp_path / "dated.zip")

    assert first.path.read_bytes() == again.path.read_bytes()
    assert dated.manifest.created == "2023-11-14T22:13:20Z"
    assert replace(dated.manifest, created=first.manifest.created) == first.manifest


def test_images_that_contradict_their_folders_are_named(tmp_path) -> None:
    images = folders(tmp_path / "images", red="blue")
    output = tmp_path / "colours-1.4.0.zip"

    with pytest.raises(PackError) as caught:
        packed(tmp_path, golden_dir=images)

    assert caught.value.reason == "golden_contradicted"
    assert "2 of 8 golden images" in str(caught.value)
    assert f"{images / 'blue' / 'red 1.png'} shows blue, and the model says red" in str(
        caught.value
    )
    assert not output.exists()


def test_swapped_labels_contradict_the_folders(tmp_path) -> None:
    swapped = model_file(tmp_path, labels=("green", "red", "blue", "dark"))

    with pytest.raises(PackError) as caught:
        packed(tmp_path, swapped)
    assert caught.value.reason == "golden_contradicted"


def labels_file(folder: Path, *labels: str) -> Path:
    path = folder / "labels.txt"
    path.write_text("\n".join(labels))
    return path


def test_labels_of_a_file_come_before_those_in_the_model(tmp_path) -> None:
    images = plain_images(tmp_path / "plain")
    made = packed(tmp_path, golden_dir=images, labels=labels_file(tmp_path, *"abcd"))
    bare = packed(tmp_path, model_file(tmp_path, models.classifier("uint8")), golden_dir=images)

    assert made.manifest.golden.top1 is not None
    assert made.manifest.golden.top1[:2] == ("a", "b")
    assert (bare.manifest.labels, "labels.txt" in bare.manifest.files) == (None, False)


def test_detectors_are_packed(tmp_path) -> None:
    data = models.with_metadata(models.detector("uint8", (64, 64)), models.FOUND)
    folder = tmp_path / "images" / "red"
    folder.mkdir(parents=True)
    picture = image("dark")
    picture[12:24, 16:32] = PIXELS["red"]
    cv2.imwrite(str(folder / "one.png"), picture)

    made = packed(tmp_path, model_file(tmp_path, data), golden_dir=tmp_path / "images")

    assert (made.manifest.task, made.manifest.output.head) == ("detection", "ssd")
    assert made.manifest.golden.top1 is None


def test_other_kinds_are_packed(tmp_path) -> None:
    images = plain_images(tmp_path / "plain")
    kinds = {
        "float": (models.classifier("float32", head="logits"), "classification", "logits"),
        "keypoints": (models.keypoints(), "keypoints", "keypoints"),
        "segmentation": (models.segmenter(), "segmentation", "mask"),
    }
    for name, (data, task, head) in kinds.items():
        made = packed(tmp_path, model_file(tmp_path, data), golden_dir=images, name=name)
        assert (made.manifest.task, made.manifest.output.head) == (task, head)


def test_images_of_which_the_best_label_is_not_clear_are_left_out(tmp_path) -> None:
    images = plain_images(tmp_path / "plain")
    half = image("red")
    half[:, 32:] = PIXELS["green"]
    cv2.imwrite(str(images / "0.png"), half)  # the first by name: another takes its place

    made = packed(tmp_path, golden_dir=images, most_images=2)

    assert made.manifest.golden.samples == 4
    assert made.manifest.golden.top1 is not None
    assert None not in made.manifest.golden.top1[:2]
    assert made.manifest.golden.top1[2:] == (None, None), "a blank image and noise show nothing"
    (note,) = (note for note in made.notes if "too close to tell" in note)
    assert note.startswith("1 images were left out")
    assert "0.png" in note
    # Clear is what no device may turn over: 17 steps apart for the largest tolerance of 8.
    (scores,) = read_golden(read_package(made.path).read("golden.npz"), 4).outputs
    for sample in scores[:2].reshape(2, -1).astype(int):
        second, first = np.sort(sample)[-2:]
        assert first - second > 2 * made.manifest.golden.tolerance.most

    made.path.unlink()
    for path in images.iterdir():
        cv2.imwrite(str(path), half)
    error = refused(tmp_path, golden_dir=images)
    assert error.reason == "golden_unclear"


def test_more_images_than_asked_for_are_taken_in_turn(tmp_path) -> None:
    made = packed(tmp_path, golden_dir=folders(tmp_path / "many", 3), most_images=5)

    assert made.manifest.golden.samples == 7
    assert made.notes == ("7 more images were left out",)
    assert made.manifest.golden.top1 is not None
    assert sorted(made.manifest.golden.top1[:4]) == sorted(COLOURS)  # type: ignore[type-var]


def test_what_devices_must_have_is_passed_on(tmp_path) -> None:
    compiled = models.write(tmp_path / "c.tflite", models.edgetpu_custom_op())
    notice = tmp_path / "notice"
    notice.write_text("do as you like\n")
    requires = Requires("any", {"litert": ">=1.0"}, 5_000_000)

    made = packed(tmp_path, edgetpu_model=compiled, requires=requires, texts={"LICENSE": notice})

    assert made.manifest.processors() == ("cpu", "edgetpu")
    assert made.manifest.requires == requires
    assert read_package(made.path).read("LICENSE") == b"do as you like\n"


def refused(folder: Path, **changes) -> EdgedError:
    with pytest.raises(EdgedError) as caught:
        packed(folder, **changes)
    assert not (folder / "colours-1.4.0.zip").exists()
    assert not [path for path in folder.iterdir() if path.suffix == ".part"]
    return caught.value


def test_what_cannot_be_packed_is_refused(tmp_path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    broken = folders(tmp_path / "broken")
    (broken / "red" / "notes.png").write_text("no image")
    unknown = folders(tmp_path / "unknown", red="redd")
    plain = models.write(tmp_path / "p.tflite", models.classifier("uint8"))
    small = models.write(tmp_path / "s.tflite", models.edgetpu_custom_op((16, 16)))
    cases = {
        "pack_name_invalid": {"name": "My Birds"},
        "pack_version_invalid": {"version": "v1.4"},
        "golden_no_images": {"golden_dir": empty},
        "golden_unreadable": {"golden_dir": broken},
        "golden_label_unknown": {"golden_dir": unknown},
        "model_missing": {"model": tmp_path / "missing.tflite"},
        "labels_mismatch": {"labels": labels_file(tmp_path, *"abc")},
        "model_not_compiled": {"edgetpu_model": plain},
        "input_mismatch": {"edgetpu_model": small},
        "pack_unwritable": {"output": tmp_path / "no" / "such" / "folder.zip"},
    }

    for reason, changes in cases.items():
        error = refused(tmp_path, **changes)
        assert (error.reason, bool(str(error))) == (reason, True)
        assert not isinstance(error, CameraError)
    assert "Is it 'red'?" in str(refused(tmp_path, golden_dir=unknown))
    missing = refused(tmp_path, golden_dir=tmp_path / "nowhere")
    assert missing.reason == "golden_unreadable"


def test_models_that_devices_would_refuse_are_not_packed(tmp_path) -> None:
    images = plain_images(tmp_path / "plain")
    constant = models.write(tmp_path / "c.tflite", badmodels.constant())
    crashing = models.write(tmp_path / "x.tflite", badmodels.harm_at_frame(9))

    assert refused(tmp_path, model=constant, golden_dir=images).reason == "output_constant"
    error = refused(tmp_path, model=crashing, golden_dir=images)
    assert isinstance(error, ValidationError)
    assert error.reason == "validation_crashed"
    assert "devices would refuse the model: SIGABRT at frame" in str(error)


def test_a_package_can_be_tried_without_a_device(tmp_path) -> None:
    made = packed(tmp_path)

    assert check(made.path).reason is None


# A package becomes a servable.


def config(**settings) -> ModelConfig:
    return ModelConfig(name="colours", factory="/nowhere.tflite", **settings)


def loaded(folder: Path, **settings):
    made = packed(folder, color="bgr", resize="center_crop", mean=(10.0,), std=(20.0,),
                  labels=labels_file(folder, *"abcd"),
                  golden_dir=plain_images(folder / "plain"))  # fmt: skip
    directory = unpacked(folder, made)
    return made, load_package(config(**settings), directory, read_manifest(directory), made.sha256)


def test_a_loaded_package_is_as_its_manifest_says(tmp_path) -> None:
    made, servable = loaded(tmp_path)

    assert servable.id == ModelId("colours", "1.4.0", made.sha256)
    assert servable.labels == ("a", "b", "c", "d")
    assert (servable.input.color, servable.input.resize) == ("bgr", "center_crop")
    assert (servable.input.mean, servable.input.std) == ((10.0,), (20.0,))
    assert servable.path.name == "model.tflite"
    # A reload compares the file that runs, not the package.
    assert servable.files_unchanged(config())


def test_the_owner_has_the_last_word(tmp_path) -> None:
    own = tmp_path / "own.txt"
    own.write_text("e\nf\ng\nh\n")
    _, servable = loaded(
        tmp_path, labels=str(own), color="rgb", resize="letterbox", mean=(1.0,), std=(2.0,)
    )

    assert servable.labels == ("e", "f", "g", "h")
    assert (servable.input.color, servable.input.resize) == ("rgb", "letterbox")
    assert (servable.input.mean, servable.input.std) == ((1.0,), (2.0,))
    assert servable.files_unchanged(config(labels=str(own)))


def test_a_file_that_was_swapped_is_noticed_at_a_reload(tmp_path) -> None:
    _, servable = loaded(tmp_path)
    other = servable.path.with_name("other.tflite")
    other.write_bytes(models.classifier("uint8", extra_classes=1))
    other.replace(servable.path)

    assert not servable.files_unchanged(config())


def test_a_model_that_is_not_as_its_manifest_says_is_not_served(tmp_path) -> None:
    made = packed(tmp_path)
    directory = unpacked(tmp_path, made)
    facts = json.loads((directory / "manifest.json").read_text())
    for changes, reason in (
        ({"input": facts["input"] | {"shape": [1, 16, 32, 3]}}, "input_mismatch"),
        ({"task": "detection"}, "task_mismatch"),
        ({"labels": 5}, "labels_mismatch"),
    ):
        manifest = parse_manifest(json.dumps(facts | changes).encode())
        with pytest.raises(ValidationError) as caught:
            load_package(config(), directory, manifest, made.sha256)
        assert caught.value.reason == reason


def test_a_package_predicts(tmp_path) -> None:
    made = packed(tmp_path)
    directory = unpacked(tmp_path, made)
    servable = load_package(config(), directory, read_manifest(directory), made.sha256)
    preprocessor = Preprocessor(servable.input)
    tensor = next(preprocessor.slots())
    preprocessor.write(image("green"), "bgr", tensor)

    result = servable.decode(servable.infer(tensor), preprocessor.geometry(48, 64))

    assert isinstance(result, Classes)
    assert result.classes[0].label == "green"


def test_a_real_model_is_packed(tmp_path, shared_data) -> None:
    """MobileNet v2 with iNaturalist's birds: a photograph in a folder of its label."""
    folder = tmp_path / "images" / "Ara macao (Scarlet Macaw)"
    folder.mkdir(parents=True)
    (folder / "parrot.jpg").write_bytes((shared_data / "images" / "parrot.jpg").read_bytes())

    made = packed(
        tmp_path,
        shared_data / "models" / "mobilenet_v2_1.0_224_inat_bird_quant.tflite",
        name="birds",
        labels=shared_data / "models" / "inat_bird_labels.txt",
        golden_dir=tmp_path / "images",
    )

    assert (made.manifest.labels, made.manifest.input.shape) == (965, (1, 224, 224, 3))
    assert made.manifest.golden.top1 is not None
    assert made.manifest.golden.top1[0] == "Ara macao (Scarlet Macaw)"
    assert io.BytesIO(made.path.read_bytes()).getbuffer().nbytes < 3_579_500

"""Payloads as they are on the wire: key order, rounding, size, nothing secret."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from edged.frame import FrameStamp
from edged.mqtt.messages import (
    BrokerStats,
    CameraInfo,
    CameraStats,
    DeviceInfo,
    Mark,
    ModelInfo,
    ModelState,
    Stats,
    Topics,
    Versions,
    VersionState,
    encode_info,
    encode_model_state,
    encode_prediction,
    encode_stats,
)
from edged.prediction import (
    Area,
    Areas,
    Classes,
    FoundObject,
    Keypoint,
    Keypoints,
    Mask,
    ModelId,
    Objects,
    Prediction,
    ScoredClass,
)

SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
CLASSIFIED = Prediction(
    FrameStamp("front", 2093, 1763683200.12345, 77.0, 480, 640),
    ModelId("birds", "1.4.0", SHA256),
    7.6,
    Classes((ScoredClass("Ara macao", 0.91),)),
)


def encoded(prediction: Prediction) -> bytes:
    return encode_prediction(prediction, boot="4f1c09ab", seq=1042)


def test_topics_of_a_device():
    topics = Topics("home/edged", "porch")

    assert topics.available == "home/edged/porch/available"
    assert topics.error == "home/edged/porch/error"
    assert topics.info == "home/edged/porch/info"
    assert topics.stats == "home/edged/porch/stats"
    assert topics.prediction("front") == "home/edged/porch/prediction/front"
    assert topics.model("birds") == "home/edged/porch/model/birds"


def test_a_prediction_holds_no_more_memory_than_it_is_long():
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        kept = [encoded(CLASSIFIED) for _ in range(100)]
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert after - before < 1.5 * 100 * (len(kept[0]) + 64)


def test_a_classification_is_exactly_the_documented_bytes():
    expected = (
        '{"schema":1,"boot":"4f1c09ab","seq":1042,"frame":2093,"t":1763683200.123,'
        '"camera":"front","model":"birds","version":"1.4.0","sha256":"9f86d081","ms":7.6,'
        '"classes":[{"label":"Ara macao","score":0.91}]}'
    )

    assert encoded(CLASSIFIED).decode() == expected


def test_a_detection_has_boxes_in_the_place_of_classes():
    found = FoundObject("cat", 0.876543, (0.0, -0.00001, 0.333333, 1.0))
    message = encoded(replace(CLASSIFIED, result=Objects((found,)))).decode()

    assert message.endswith(
        '"ms":7.6,"objects":[{"label":"cat","score":0.8765,"box":[0.0,0.0,0.3333,1.0]}]}'
    )


def test_a_pose_has_keypoints_in_the_place_of_classes():
    points = Keypoints(
        (Keypoint("nose", 0.498168, (0.589104, -0.0)), Keypoint("left_eye", 1.0, (1.0, 1 / 3)))
    )

    assert encoded(replace(CLASSIFIED, result=points)).endswith(
        b'"ms":7.6,"keypoints":[{"label":"nose","score":0.4982,"point":[0.5891,0.0]},'
        b'{"label":"left_eye","score":1.0,"point":[1.0,0.3333]}]}'
    )


def test_a_segmentation_has_areas_and_the_mask_only_where_there_is_one():
    areas = Areas((Area("background", np.float32(0.81333)), Area("bird", 0.17)))
    said = '"ms":7.6,"areas":[{"label":"background","area":0.8133},{"label":"bird","area":0.17}]'

    assert encoded(replace(CLASSIFIED, result=areas)).decode().endswith(said + "}")
    masked = replace(areas, mask=Mask(b"\x89PNG\r\n", (0.125, 0.0, 0.87499, 1.0)))
    assert (
        encoded(replace(CLASSIFIED, result=masked))
        .decode()
        .endswith(said + ',"mask":{"png":"iVBORw0K","box":[0.125,0.0,0.875,1.0]}}')
    )


def test_nothing_seen_is_an_empty_list():
    for result, key in (
        (Objects(()), "objects"),
        (Keypoints(()), "keypoints"),
        (Areas(()), "areas"),
    ):
        assert encoded(replace(CLASSIFIED, result=result)).decode().endswith(f',"{key}":[]}}')


@pytest.mark.parametrize(("ms", "expected"), [(7.6, "7.6"), (7.123456, "7.12"), (0.004, "0.0")])
def test_milliseconds_have_two_decimals_at_most(ms, expected):
    assert f'"ms":{expected},' in encoded(replace(CLASSIFIED, invoke_ms=ms)).decode()


def test_numpy_scores_are_numbers_too():
    classes = Classes((ScoredClass("x", np.float32(0.91)),))

    assert b'"score":0.91}' in encoded(replace(CLASSIFIED, result=classes))


def test_a_label_in_any_script_arrives():
    classes = Classes((ScoredClass('Kuckuck "groß" 杜鹃', 0.5),))

    message = json.loads(encoded(replace(CLASSIFIED, result=classes)))

    assert message["classes"] == [{"label": 'Kuckuck "groß" 杜鹃', "score": 0.5}]


def test_a_top_5_message_is_small():
    # From ImageNet's file of labels with synonyms: 16 characters is its median.
    labels = ("golden retriever", "tabby, tabby cat", "meerkat, mierkat", "cockroach, roach")
    labels = (*labels, "tree frog, tree-frog")
    classes = Classes(tuple(ScoredClass(label, 0.12345) for label in labels))

    assert len(encoded(replace(CLASSIFIED, result=classes))) < 400


def test_beside_its_labels_a_top_5_message_takes_305_bytes():
    classes = Classes((ScoredClass("", 0.12345),) * 5)

    assert len(encoded(replace(CLASSIFIED, result=classes))) == 305


INFO = DeviceInfo(
    versions=Versions("0.1.0", "3.11.2", "litert 2.3.0"),
    board="Raspberry Pi 5",
    accelerators=("usb:0",),
    cameras=(CameraInfo("front", "rtsp://me:s3cret@cam/1", "running"),),
    models=(ModelInfo("birds", "1.4.0", SHA256, "classification", "litert", "cpu", "auto"),),
    groups=("birdfeeders",),
    last_stop="clean",
)


def test_info_begins_with_the_schema_and_keeps_its_order():
    message = json.loads(encode_info(INFO))

    assert list(message) == [
        *("schema", "versions", "board", "accelerators", "cameras", "models", "groups"),
        *("last_stop", "configuration", "outbox", "updates", "drift"),
    ]
    assert message["outbox"] == {"reason": "", "detail": ""}
    assert message["schema"] == 1
    assert message["versions"] == {"edged": "0.1.0", "python": "3.11.2", "runtime": "litert 2.3.0"}
    assert list(message["cameras"][0]) == ["name", "source", "state", "reason", "detail"]
    assert list(message["models"][0]) == [
        *("name", "version", "sha256", "kind", "runtime", "accelerator"),
        *("requested_accelerator", "reason", "detail", "journal"),
    ]
    assert message["models"][0]["sha256"] == SHA256


@pytest.mark.parametrize("source", ["rtsp://me:s3 cret@cam/1", "http://cam/?user=me&pwd=s3cret"])
def test_info_hides_credentials_wherever_they_turn_up(source):
    camera = CameraInfo("front", source, "failed", "camera_closed", f"cannot open {source}: no")
    model = replace(INFO.models[0], detail="from http://me:s3cret@host/")
    info = replace(INFO, cameras=(camera,), models=(model,), last_stop="on rtsp://me:cret@cam/1")

    payload = encode_info(info)

    assert b"cret" not in payload
    assert b"cannot open" in payload


def test_a_models_state_says_none_where_there_is_none():
    state = ModelState("birds", VersionState("1.4.0", SHA256, 1763683200.9876), latest="1.5.0")

    assert encode_model_state(state).decode() == (
        '{"schema":1,"model":"birds","active":{"version":"1.4.0","sha256":"' + SHA256 + '",'
        '"since":1763683200.988},"previous":null,"trial":null,"latest":"1.5.0","marks":[]}'
    )


def test_a_models_state_carries_its_marks():
    state = ModelState("birds", marks=(Mark("1.5.0", SHA256, "bad", "crash"),))

    marks = json.loads(encode_model_state(state))["marks"]

    assert marks == [{"version": "1.5.0", "sha256": SHA256, "mark": "bad", "reason": "crash"}]


def test_stats_are_rounded():
    camera = CameraStats(
        name="front",
        model="birds",
        captured_per_s=29.98765,
        inferred_per_s=10.0,
        published_per_s=5.00049,
        captured=900,
        replaced=600,
        no_model=0,
        inferred=300,
        published=150,
        withheld=150,
        overrun=0,
        reconnects=1,
        errors={"camera_stalled": 1},
        invoke_ms={"p50": 7.61234},
        latency_ms={},
    )
    dropped = {"full": 0, "stale": 2}
    stats = Stats(
        1763683200.12345, 60.00001, (camera,), BrokerStats(1, 2, 720, 2, 3, dropped), {"cpu": 51}
    )

    message = json.loads(encode_stats(stats))

    assert list(message) == ["schema", "t", "uptime_s", "cameras", "mqtt", "temperatures"]
    assert message["t"] == 1763683200.123
    assert message["uptime_s"] == 60.0
    assert message["cameras"][0]["captured_per_s"] == 29.988
    assert message["cameras"][0]["invoke_ms"] == {"p50": 7.612}
    assert message["mqtt"] == {
        "reconnects": 1, "queued": 2, "queued_bytes": 720, "stored": 2, "in_flight": 3,
        "dropped": dropped,
    }  # fmt: skip

"""The configuration: each key wrong in turn, and what the owner of the device is told."""

from __future__ import annotations

import dataclasses
import random
import re
import tomllib
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import ValidationError

from edged.config import (
    CameraConfig,
    Config,
    DriftConfig,
    ModelConfig,
    MqttConfig,
    PublishConfig,
    UpdateConfig,
)
from edged.config_text import ConfigTextError, Problem, from_values, parse
from edged.config_words import SECTIONS, fields_of, required_keys, table_in, unwrap
from edged.errors import ConfigError

MODEL, CAMERA, PUBLISH, MQTT = "[[model]]", "[[camera]]", "[[camera]] publish", "[mqtt]"
UPDATE = "[update]"
DRIFT = "[drift]"
EXAMPLE = Path(__file__).parents[1] / "config" / "edged.toml"
NAMES = ["''", '"Upper"', '"-x"', '"a b"', f'"{"a" * 65}"', '"a\\n"', '"é"']

# For each key: values of the right type that are refused, with the reason; and one that is taken.
# None: any text will do.
CASES: dict[tuple[str, str], tuple[list[tuple[str, str]], Any]] = {
    ("", "model"): ([("[]", "missing_key")], None),
    ("", "camera"): ([("[]", "missing_key")], None),
    ("", "mqtt"): ([], None),
    ("", "device_id"): ([(n, "bad_format") for n in NAMES if n != '"Upper"'], "Porch-1"),
    ("", "state_dir"): ([("''", "bad_format"), ('"a\\u0000"', "bad_format")], "/data"),
    ("", "runtime_dir"): ([("''", "bad_format")], "/tmp/x"),
    ("", "groups"): ([('["a", "B"]', "bad_format"), ("[1]", "wrong_type")], ["a", "b-2"]),
    ("", "edgetpu_library"): ([("''", "bad_format")], "/usr/lib/libedgetpu.so.1"),
    (MQTT, "host"): ([("''", "bad_format"), ('"mqtt://x"', "bad_format")], "10.0.0.2"),
    (MQTT, "port"): ([("0", "out_of_range"), ("65536", "out_of_range")], 8884),
    (MQTT, "username"): ([], "edged"),
    (MQTT, "password_file"): ([("''", "bad_format")], None),
    (MQTT, "ca_file"): ([("''", "bad_format")], "/ca.pem"),
    (MQTT, "cert_file"): ([("''", "bad_format")], None),
    (MQTT, "key_file"): ([("''", "bad_format")], None),
    (MQTT, "version"): ([('"4"', "not_allowed"), ("5", "wrong_type")], "3.1.1"),
    (MQTT, "topic_prefix"): (
        [(f'"{t}"', "bad_format") for t in ["", "/a", "a/", "a//b", "a/+", "#", "$SYS", "a" * 201]],
        "home/edged",
    ),
    (MQTT, "keepalive_s"): ([("4", "out_of_range"), ("3601", "out_of_range")], 5),
    (MQTT, "outbox_messages"): ([("0", "out_of_range"), ("1000001", "out_of_range")], 1),
    (MQTT, "outbox_bytes"): ([("9999", "out_of_range"), ("1000000001", "out_of_range")], 10_000),
    (MQTT, "stats_s"): ([("0.9", "out_of_range"), ("86401", "out_of_range")], 1),
    ("", "update"): ([], None),
    **{
        (UPDATE, key): (
            [(f'"{u}"', "bad_format") for u in ["", "ftp://x", "http:///m", "http://u:p@x/m"]],
            None,
        )
        for key in ("metadata_url", "targets_url")
    },
    (UPDATE, "root"): ([("''", "bad_format")], "/root.json"),
    (UPDATE, "poll_s"): ([("0", "out_of_range"), ("2592001", "out_of_range")], 1),
    (UPDATE, "deadline_s"): ([("0", "out_of_range"), ("2592001", "out_of_range")], 10),
    (UPDATE, "trial_frames"): ([("0", "out_of_range"), ("1.5", "wrong_type")], 1),
    (UPDATE, "trial_seconds"): ([("-1", "out_of_range"), ("604801", "out_of_range")], 0),
    (UPDATE, "no_frames_s"): ([("0", "out_of_range"), ("604801", "out_of_range")], 5),
    ("", "drift"): ([], None),
    (DRIFT, "enabled"): ([], False),
    (DRIFT, "sample_period_s"): ([("0", "out_of_range"), ("3601", "out_of_range")], 0.5),
    (DRIFT, "window_s"): ([("0.5", "out_of_range"), ("3601", "out_of_range")], 60),
    (DRIFT, "warm_up_days"): ([("1", "out_of_range"), ("29", "out_of_range")], 2),
    (DRIFT, "patience"): ([("0.4", "out_of_range"), ("11", "out_of_range")], 2),
    (DRIFT, "trust_clock"): ([("1", "wrong_type")], True),
    (DRIFT, "keep_days"): ([("0", "out_of_range"), ("366", "out_of_range")], 7),
    (DRIFT, "keep_bytes"): ([("999999", "out_of_range"), ("1e6", "wrong_type")], 5_000_000),
    (MODEL, "name"): ([(n, "bad_format") for n in NAMES], None),
    (MODEL, "factory"): ([("''", "bad_format")], "/m.tflite"),
    (MODEL, "accelerator"): (
        [(f'"{a}"', "bad_format") for a in ["", "gpu", "usb", "usb:x", "AUTO", "tpu:0"]],
        "pci:1",
    ),
    (MODEL, "runtime"): ([('"litrt"', "not_allowed")], "tflite"),
    (MODEL, "threads"): ([("0", "out_of_range"), ("65", "out_of_range")], 4),
    (MODEL, "top_k"): ([("0", "out_of_range"), ("101", "out_of_range")], 1),
    (MODEL, "min_score"): ([("-0.1", "out_of_range"), ("1.1", "out_of_range")], 1),
    (MODEL, "mask"): ([], True),
    (MODEL, "labels"): ([("''", "bad_format")], "l.txt"),
    (MODEL, "resize"): ([('"strech"', "not_allowed")], "letterbox"),
    (MODEL, "color"): ([('"gbr"', "not_allowed")], "bgr"),
    (MODEL, "mean"): ([("[]", "wrong_length"), ("[1, 1, 1, 1]", "wrong_length")], None),
    (MODEL, "std"): ([("[]", "wrong_length"), ('["1"]', "wrong_type")], None),
    (MODEL, "invoke_limit_s"): ([("0", "out_of_range"), ("3601", "out_of_range")], 0.5),
    (PUBLISH, "mode"): ([('"evry"', "not_allowed")], "rate"),
    (PUBLISH, "per_second"): ([("0", "out_of_range"), ("1001", "out_of_range")], 0.1),
    (CAMERA, "name"): ([(n, "bad_format") for n in NAMES], "back"),
    (CAMERA, "source"): (
        [
            (f'"{s}"', "bad_format")
            for s in [
                "",
                "/dev/video0",
                "picamera:x",
                "v4l2:",
                "rtsp:x",
                "file:",
                "synth",
                "ftp://x",
            ]
        ],
        "rtsp://x/1",
    ),
    (CAMERA, "model"): ([*((n, "bad_format") for n in NAMES), ('"bird"', "bad_reference")], None),
    (CAMERA, "width"): ([("15", "out_of_range"), ("8193", "out_of_range")], None),
    (CAMERA, "height"): ([("15", "out_of_range"), ("8193", "out_of_range")], None),
    (CAMERA, "fps"): ([("-1", "out_of_range"), ("inf", "out_of_range")], 0),
    (CAMERA, "rotate"): ([("45", "not_allowed"), ("-90", "not_allowed")], 270),
    (CAMERA, "stall_s"): ([("0.4", "out_of_range"), ("nan", "out_of_range")], 600),
    (CAMERA, "publish"): ([], {"mode": "change"}),
}
KEYS = [(title, key) for title, table in SECTIONS.items() for key in fields_of(table)]
LITERALS = {
    str: "'text'",
    int: "7",
    float: "7.5",
    bool: "true",
    list: "[[]]",
    dict: "{ x = 1 }",
    object: "2024-01-01",
}
REQUIRED = {
    MODEL: {"name": '"birds"', "factory": '"belt"'},
    CAMERA: {"name": '"front"', "source": '"synthetic"', "model": '"birds"'},
}


def write(title: str, key: str, value: str) -> tuple[str, int]:
    """Return a file that is right but for one key, and the line of the key."""
    top = [f"{key} = {value}"] if title == "" else []
    tables: list[str] = []
    for heading in (MODEL, MQTT, UPDATE, DRIFT, CAMERA):
        if title == "" and key == heading.strip("[]"):
            continue
        keys = dict(REQUIRED.get(heading, {}))
        if title == heading:
            keys[key] = value
        if title == PUBLISH and heading == CAMERA:
            keys["publish"] = f"{{ {key} = {value} }}"
        tables += ["", heading, *(f"{name} = {text}" for name, text in keys.items())]
    lines = ["# a comment", *top, *tables]
    opened = lines.index(CAMERA if title == PUBLISH else title) if title else 0
    shown = "publish = {" if title == PUBLISH else f"{key} = {value}"
    line = next(n for n, text in enumerate(lines[opened:], opened + 1) if text.startswith(shown))
    return "\n".join(lines) + "\n", line


def shown(title: str, key: str, value: str = "") -> str:
    """Return how the key of a file by `write` is called in a message."""
    prefix = {"": "", MQTT: "mqtt.", MODEL: 'model "birds": ', CAMERA: 'camera "front": '}
    prefix[UPDATE] = "update."
    prefix[DRIFT] = "drift."
    prefix[PUBLISH] = 'camera "front": publish.'
    if title in (MODEL, CAMERA) and key == "name":
        bare = re.fullmatch("[\"']([A-Za-z0-9_-]{1,60})[\"']", value)
        kind = title.strip("[]")
        return f'{kind} "{bare[1]}": name' if bare else f"{kind} #1: name"
    return prefix[title] + key


def problems(text: str) -> tuple[Problem, ...]:
    with pytest.raises(ConfigTextError) as caught:
        parse(text)
    error = caught.value
    assert isinstance(error, ConfigError)
    assert error.reason == "config_invalid"
    assert all(str(problem) in str(error) for problem in error.problems)
    return error.problems


def only(text: str) -> Problem:
    found = problems(text)
    assert len(found) == 1, found
    return found[0]


def accepted(hint: Any) -> set[type]:
    inner, _ = unwrap(hint)
    if get_origin(inner) is Literal:
        return {type(choice) for choice in get_args(inner)}
    if get_origin(inner) is tuple:
        return {list, dict} if table_in(hint)[0] else {list}
    return {float: {int, float}}.get(inner, {inner}) if table_in(hint)[0] is None else {dict}


def test_every_key_has_its_cases() -> None:
    assert set(CASES) == set(KEYS)
    classes = {Config, MqttConfig, UpdateConfig, DriftConfig, ModelConfig, CameraConfig}
    classes.add(PublishConfig)
    assert set(SECTIONS.values()) == classes


@pytest.mark.parametrize(("title", "key"), KEYS)
def test_a_value_of_another_type(title: str, key: str) -> None:
    hint = fields_of(SECTIONS[title])[key]
    for kind, value in LITERALS.items():
        if kind in accepted(hint):
            continue
        text, line = write(title, key, value)
        problem = only(text)
        assert (problem.line, problem.key, problem.reason) == (
            line,
            shown(title, key, "" if kind is not str else value),
            "wrong_type",
        )
        assert problem.message.startswith("must be ")
        assert "text'" not in problem.message


@pytest.mark.parametrize(("title", "key"), KEYS)
def test_a_value_that_is_refused(title: str, key: str) -> None:
    for value, reason in CASES[title, key][0]:
        text, line = write(title, key, value)
        problem = only(text)
        name = shown(title, key, value)
        assert (problem.line, problem.reason) == (line, reason), value
        assert problem.key in (name, f"{name} #1", f"{name} #2"), value
        hint = fields_of(SECTIONS[title])[key]
        choices = get_args(unwrap(hint)[0]) if reason == "not_allowed" else ()
        assert all(str(choice) in problem.message for choice in choices)
        if reason == "out_of_range":
            assert re.search(r"from .+ to .+|greater than .+ at most .+", problem.message), problem
        assert not set("^$\\") & set(problem.message.replace("no $ in", "")), "no regex is shown"


@pytest.mark.parametrize(("title", "key"), KEYS)
def test_a_value_that_is_taken(title: str, key: str) -> None:
    value = CASES[title, key][1]
    if value is None:
        return
    text = f"'{value}'" if isinstance(value, str) else str(value)
    text = text.lower() if isinstance(value, bool) else text
    text = '{ mode = "change" }' if isinstance(value, dict) else text
    config = parse(write(title, key, text)[0])
    tables: dict[str, Any] = {
        "": config,
        MQTT: config.mqtt,
        UPDATE: config.update,
        DRIFT: config.drift,
        MODEL: config.model[0],
        CAMERA: config.camera[0],
    }
    tables[PUBLISH] = config.camera[0].publish
    taken = getattr(tables[title], key)
    if isinstance(value, dict):
        value = PublishConfig(**value)
    assert taken == (tuple(value) if isinstance(value, list) else value)


@pytest.mark.parametrize(("title", "key"), KEYS)
def test_a_key_with_a_typing_mistake(title: str, key: str) -> None:
    typo = key + key[-1]
    text, line = write(title, typo, "1")
    problem = only(text)
    assert (problem.line, problem.key, problem.reason) == (line, shown(title, typo), "unknown_key")
    nested, many = table_in(fields_of(SECTIONS[title])[key])
    meant = f"'{key}'" if nested is None or title else f"[[{key}]]" if many else f"[{key}]"
    assert problem.message == f"unknown key; did you mean {meant}?"


@pytest.mark.parametrize("title", [MODEL, CAMERA])
def test_a_required_key_that_is_missing(title: str) -> None:
    assert set(required_keys(SECTIONS[title])) == set(REQUIRED[title])
    for key in REQUIRED[title]:
        text, _ = write(title, key, "REMOVED")
        text = text.replace(f"{key} = REMOVED", "")
        problem = only(text)
        opened = text.split("\n").index(title) + 1
        assert (problem.line, problem.reason) == (opened, "missing_key")
        assert problem.key == shown(title, key)


def test_the_defaults() -> None:
    config = parse(write(MQTT, "host", '"127.0.0.1"')[0])
    assert config.mqtt == MqttConfig()
    assert config.model == (ModelConfig(name="birds", factory="belt"),)
    assert config.camera == (CameraConfig(name="front", source="synthetic", model="birds"),)
    assert config.camera[0].publish == PublishConfig(mode="every", per_second=5.0)
    assert (config.state_dir, config.runtime_dir) == ("/var/lib/edged", "/run/edged")
    assert (config.device_id, config.groups) == (None, ())
    assert parse(write(MODEL, "mean", "[1]\nstd = [2]")[0]).model[0].mean == (1.0,)


def test_values_without_a_file_are_checked_alike() -> None:
    values = tomllib.loads(write("", "groups", "['a']")[0])
    assert from_values(values) == parse(write("", "groups", "['a']")[0])
    values["camera"][0] |= {"source": "nowhere", "fps": "5"}
    with pytest.raises(ConfigTextError) as caught:
        from_values(values)
    assert [(p.line, p.key, p.reason) for p in caught.value.problems] == [
        (None, 'camera "front": source', "bad_format"),
        (None, 'camera "front": fps', "wrong_type"),
    ]


def test_the_port_follows_the_kind_of_connection() -> None:
    assert MqttConfig().effective_port == 1883
    assert MqttConfig(ca_file="/ca.pem").effective_port == 8883
    assert MqttConfig(ca_file="/ca.pem", port=1).effective_port == 1
    assert (MqttConfig().tls, MqttConfig(ca_file="/ca.pem").tls) == (False, True)


def test_types_are_strict_in_code_too() -> None:
    for wrong in ({"port": "1883"}, {"port": True}, {"keepalive_s": 30.0}, {"hots": "x"}):
        with pytest.raises(ValidationError):
            MqttConfig(**wrong)  # type: ignore[arg-type]
    with pytest.raises(dataclasses.FrozenInstanceError):
        MqttConfig().host = "x"  # type: ignore[misc]
    with pytest.raises(ValidationError, match=r"set without key_file.*needs TLS"):
        MqttConfig(cert_file="x")


@pytest.mark.parametrize(
    ("title", "keys", "at", "words"),
    [
        (MQTT, {"cert_file": "'c'", "ca_file": "'a'"}, "cert_file", "without key_file"),
        (MQTT, {"ca_file": "'a'", "key_file": "'k'"}, "key_file", "without cert_file"),
        (MQTT, {"key_file": "'k'", "cert_file": "'c'"}, "cert_file", "needs TLS: set ca_file"),
        (MQTT, {"password_file": "'p'"}, "password_file", "set username"),
        (MODEL, {"mean": "[1]"}, "mean", "without std"),
        (MODEL, {"std": "[1]"}, "std", "without mean"),
        (MODEL, {"mean": "[1]", "std": "[0]"}, "std", "greater than 0"),
        (MODEL, {"mean": "[1, 2]", "std": "[1]"}, "mean", "one number for all channels or three"),
        (CAMERA, {"width": "640"}, "width", "without height"),
        (CAMERA, {"height": "480"}, "height", "without width"),
    ],
)
def test_keys_that_do_not_go_together(
    title: str, keys: dict[str, str], at: str, words: str
) -> None:
    *rest, last = keys.items()
    body = "\n".join(f"{key} = {value}" for key, value in rest)
    text, _ = write(title, *last)
    text = text.replace(f"{last[0]} = ", f"{body}\n{last[0]} = ", 1) if body else text
    problem = only(text)
    assert text.split("\n")[(problem.line or 0) - 1].startswith(f"{at} = ")
    assert problem.key == shown(title, at)
    assert words in problem.message


def test_one_mistake_hides_no_other() -> None:
    text = (
        "groups = ['ok', 'No']\n[mqtt]\nhots = 'x'\ncert_file = 'c'\nport = '1883'\n"
        "[[model]]\nname = 'a'\nfactory = 'f'\nthreads = 0\nmean = [1]\n"
        "[[model]]\nname = 'a'\nfactory = 'f'\n"
        "[[camera]]\nname = 'front'\nmodel = 'b'\nsource = 'synthetic'\nwidth = 640\nfps = -1\n"
        "[[camera]]\nname = 'back'\nmodel = 1\nsource = 2\npublish = { mode = 'all', x = 1 }\n"
    )
    found = [(p.line, p.key, p.reason) for p in problems(text)]
    assert found == [
        (1, "groups #2", "bad_format"),
        (3, "mqtt.hots", "unknown_key"),
        (4, "mqtt.cert_file", "incomplete_pair"),
        (4, "mqtt.cert_file", "incomplete_pair"),
        (5, "mqtt.port", "wrong_type"),
        (9, "model #1: threads", "out_of_range"),
        (10, "model #1: mean", "incomplete_pair"),
        (12, "model #2: name", "duplicate"),
        (16, 'camera "front": model', "bad_reference"),
        (18, 'camera "front": width', "incomplete_pair"),
        (19, 'camera "front": fps', "out_of_range"),
        (22, 'camera "back": model', "wrong_type"),
        (23, 'camera "back": source', "wrong_type"),
        (24, 'camera "back": publish.x', "unknown_key"),
        (24, 'camera "back": publish.mode', "not_allowed"),
    ]


def test_a_wrong_key_is_no_reason_to_doubt_its_partner() -> None:
    text, _ = write(MQTT, "cert_file", "1\nkey_file = 'k'\nca_file = 'c'")
    assert only(text).reason == "wrong_type"
    text, _ = write(MODEL, "name", "'Bad'")  # the camera's model may be this one
    assert only(text).reason == "bad_format"


@pytest.mark.parametrize(
    ("text", "line", "key", "words"),
    [
        ("[camera]\nname = 'a'\nsource = 'synthetic'\nmodel = 'm'", 1, "camera", "two brackets"),
        ("[camera.front]\nsource = 'synthetic'\nmodel = 'm'", 1, "camera", 'name = "front"'),
        ("camera = 'picamera'", 1, "camera", "write [[camera]]"),
        ("camera = ['picamera']", 1, "camera #1", "write [[camera]]"),
        ("camera = []", 1, "camera", "at least one [[camera]] with: name, source, model"),
        ("", None, "camera", "at least one [[camera]]"),
        ("mqtt = 'host'\n[[camera]]\nname='a'\nsource='synthetic'\nmodel='m'", 1, "mqtt", "[mqtt]"),
        ("[[mqtt]]\n[[camera]]\nname='a'\nsource='synthetic'\nmodel='m'", 1, "mqtt", "only one"),
        (
            "[[camera]]\nname='a'\nsource='synthetic'\nmodel='m'\npublish='every'",
            5,
            'camera "a": publish',
            "write publish = {...} with: mode, per_second",
        ),
    ],
)
def test_a_table_written_otherwise(text: str, line: int | None, key: str, words: str) -> None:
    model = "[[model]]\nname = 'm'\nfactory = 'belt'\n"
    problem = only(f"{text}\n{model}")
    assert (problem.line, problem.key) == (line, key)
    assert words in problem.message


@pytest.mark.parametrize(
    ("title", "line", "message"),
    [
        ("", "host = 1", "unknown key here; did you mean [mqtt] host?"),
        ("", "name = 1", "unknown key here; did you mean [[model]] name or [[camera]] name?"),
        ("", "mod = 1", "unknown key; did you mean [[model]]?"),
        ("", "per_secon = 1", "unknown key; did you mean [[camera]] publish per_second?"),
        ("", "zzz = 1", "unknown key; known here: model, camera, mqtt, update, drift, device_id, "),
        (MQTT, "hots = 1", "unknown key; did you mean 'host'?"),
        (MQTT, "key = 1", "unknown key; did you mean 'key_file'?"),
        (MQTT, "keepalive = 1", "unknown key; did you mean 'keepalive_s'?"),
        (
            MQTT,
            "groups = 1",
            "unknown key here; groups belongs to the top of the file, before the ",
        ),
        (MQTT, "fps = 1", "unknown key here; did you mean [[camera]] fps?"),
        (MQTT, "password = 1", "unknown key; secrets go into a file: password_file"),
        (MQTT, "passwd = 1", "unknown key; secrets go into a file: password_file"),
        (MQTT, "pasword_file = 1", "unknown key; did you mean 'password_file'?"),
        (CAMERA, "password = 1", "unknown key; secrets go into a file: [mqtt] password_file"),
        (CAMERA, "mode = 1", "unknown key here; did you mean 'model' or [[camera]] publish mode?"),
        (CAMERA, "resize = 1", "unknown key here; did you mean [[model]] resize?"),
    ],
)
def test_what_was_meant(title: str, line: str, message: str) -> None:
    key, _, value = line.partition(" = ")
    problem = only(write(title, key, value)[0])
    assert problem.reason == "unknown_key"
    assert problem.message.startswith(message)


def test_no_secret_is_repeated() -> None:
    for title in (MQTT, CAMERA, ""):
        for key in ("password", "token", "pass", "pw", "hots"):
            for value in ('"hunter2"', '["hunter2"]', '{ x = "hunter2" }'):
                with pytest.raises(ConfigTextError) as caught:
                    parse(write(title, key, value)[0])
                assert "hunter2" not in str(caught.value)
    for title, key in KEYS:
        if key not in ("name", "model"):  # names are published anyway
            with pytest.raises(ConfigTextError) as caught:
                parse(write(title, key, "['hunter2 !', 3]")[0])
            assert "hunter2" not in str(caught.value)
    assert only(write(MQTT, "version", '"4"')[0]).message.startswith('"4" is not allowed; must be ')
    long = only(write(MQTT, "version", '"hunter2 and more"')[0]).message
    assert long.startswith("this is not allowed; must be ")
    for source in ("rtps://me:hunter2@x/", "rtsp:me:hunter2"):
        assert "hunter2" not in str(only(write(CAMERA, "source", f'"{source}"')[0]))


def test_the_text_of_an_error() -> None:
    text, line = write(MQTT, "hots", "'x'\nport = 70000")
    with pytest.raises(ConfigTextError) as caught:
        parse(text)
    assert str(caught.value) == (
        "2 problems in the configuration:\n"
        f"  line {line}: mqtt.hots: unknown key; did you mean 'host'?\n"
        f"  line {line + 1}: mqtt.port: 70000 is out of range; "
        "must be a whole number from 1 to 65535"
    )
    assert [p.line for p in problems("\nx = 1\n[mqtt]\ny = 1\n")] == [2, 4, None, None]
    with pytest.raises(ConfigTextError) as caught:
        parse("a = 1\na = 2\n")
    assert str(caught.value).startswith("1 problem in the configuration:\n  line 2: this key")
    assert caught.value.problems[0].reason == "toml_syntax"


HOSTILE = {
    "empty": "",
    "comments": "# nothing\n\n",
    "brackets": "x = " + "[" * 10_000,
    "brackets on lines": "x = " + "[\n" * 10_000,
    "long line": "a = '" + "x" * 1_000_000 + "'",
    "zero bytes": "\0" * 100,
    "byte order mark": "\ufeff[[model]]\n",
    "not UTF-8": "a = '\udc80'\n",
    "dotted": "\n".join(f"{'a.' * 900}b{n} = 1" for n in range(10)),
    "many keys": "\n".join(f"key{n} = 1" for n in range(10_000)),
    "many cameras": "[[camera]]\n" * 10_000,
    "numbers": "[[model]]\nthreads = 0x"
    + "f" * 1900
    + "\nmin_score = 1e999\ntop_k = -"
    + "9" * 1900,
    "odd keys": '"a\\nb" = 1\n"\\u202e" = 2\n"" = 3\n"'
    + "k" * 1000
    + '" = 4\n__class__ = 5\nself = 6',
    "odd names": "[[camera]]\nname = 'a\"b'\nself = 1\n[[camera]]\nname = []\n[[camera]]\n",
    "dates": "mqtt = 2024-01-01\nmodel = 07:00:00\ncamera = [1979-05-27T07:32:00Z]",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_gives_problems(name: str) -> None:
    with pytest.raises(ConfigTextError) as caught:
        parse(HOSTILE[name])
    said = str(caught.value)
    assert caught.value.problems
    assert len(caught.value.problems) <= 200
    assert len(said) < 20_000
    assert said.replace("\n", "").isprintable()


def test_random_values_give_problems_or_a_config() -> None:
    rng = random.Random(3)
    values = [
        *LITERALS.values(),
        "[]",
        "{}",
        "[{}]",
        "[[1]]",
        "''",
        "-1",
        "nan",
        '"\\u0000"',
        "[7, 'x']",
    ]
    values += [
        "'birds'",
        "1e400",
        "[{ name = 'birds', x = 1 }]",
        "{ mode = [] }",
        "{ a = { b = 1 } }",
    ]
    kept = 0
    for _ in range(400):
        lines = []
        for heading in ("", MQTT, MODEL, CAMERA, CAMERA):
            keys = [*fields_of(SECTIONS[heading]), "x", "host"] if rng.random() < 0.9 else []
            chosen = rng.sample(keys, rng.randrange(min(5, len(keys) + 1)))
            chosen = [
                key
                for key in dict.fromkeys(chosen)
                if heading or key not in ("mqtt", "update", "model", "camera")
            ]
            lines += [heading, *(f"{key} = {rng.choice(values)}" for key in chosen)]
        text = "\n".join(lines)
        try:
            parse(text)
        except ConfigTextError as error:
            kept += len(error.problems)
            count = text.count("\n") + 1
            assert all(p.line is None or 1 <= p.line <= count for p in error.problems)
    assert kept > 1000


def commented(text: str) -> list[int]:
    """Return the lines of the example that are a key behind a #."""
    return [n for n, line in enumerate(text.split("\n")) if re.match(r"#[a-z0-9_]+ = ", line)]


def uncomment(text: str, numbers: list[int]) -> str:
    lines = text.split("\n")
    return "\n".join(line[1:] if n in numbers else line for n, line in enumerate(lines))


def test_the_example_is_valid_and_starts_with_the_defaults() -> None:
    config = parse(EXAMPLE.read_text("utf-8"))
    model = ModelConfig(name="belt", factory="belt")
    camera = CameraConfig(name="front", source="synthetic", model="belt")
    assert config == Config(model=(model,), camera=(camera,))


def test_the_example_has_every_key_explained() -> None:
    text = EXAMPLE.read_text("utf-8")
    data = tomllib.loads(uncomment(text, commented(text)))
    found = {"": data, MQTT: data["mqtt"], MODEL: data["model"][0], CAMERA: data["camera"][0]}
    found[UPDATE] = data["update"]
    found[DRIFT] = data["drift"]
    found[PUBLISH] = found[CAMERA]["publish"]
    assert {(title, key) for title, table in found.items() for key in table} == set(KEYS)
    lines = text.split("\n")
    for number, line in enumerate(lines):
        if re.match(r"#?[a-z0-9_]+ = ", line):
            above = "\n".join(lines[:number]).rpartition("\n\n")[2]
            assert above.startswith("# "), f"no comment above: {line}"
            assert re.search("default|required", above), f"no default told: {line}"


def test_the_example_shows_the_defaults() -> None:
    text = EXAMPLE.read_text("utf-8")
    numbers = commented(text)
    everything = parse(uncomment(text, numbers))
    plain = parse(text)
    for title in ("", MQTT, UPDATE, DRIFT, MODEL, CAMERA):
        tables = [
            {
                "": config,
                MQTT: config.mqtt,
                UPDATE: config.update,
                DRIFT: config.drift,
                MODEL: config.model[0],
                CAMERA: config.camera[0],
            }[title]
            for config in (everything, plain)
        ]
        for key in fields_of(SECTIONS[title]):
            here, default = (getattr(table, key) for table in tables)
            if default is not None and key not in ("mqtt", "update", "model", "camera"):
                assert here == default, f"{title} {key}"
    for number in numbers:
        try:
            parse(uncomment(text, [number]))
        except ConfigTextError as error:
            reasons = {problem.reason for problem in error.problems}
            assert reasons == {"incomplete_pair"}, (number, str(error))

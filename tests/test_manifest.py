"""The manifest: what is taken, what is refused and how it is said."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sim import packages

from edged.errors import VerifyError
from edged.models.fit import Board, check_fit
from edged.models.manifest import encode_manifest, parse_manifest

FILES = packages.contents()
SCHEMA_FILE = Path(__file__).parents[1] / "docs" / "manifest.schema.json"


def facts(**changes):
    return packages.facts(FILES, **changes)


def full():
    return facts(
        input={"shape": [1, 4, 4, 3], "dtype": "uint8", "color": "bgr", "resize": "letterbox",
               "mean": [1, 2.5, 3], "std": [4, 5, 6]},
        requires={"accelerator": "any", "runtime": {"litert": ">=1.0", "tflite": ">=2.9"},
                  "memory_bytes": 30000000},
        trial={"frames": 300, "seconds": 60, "p95_ratio": 1.5, "max_disagreement": 0.5},
        golden={"samples": 2, "top1": ["red", None], "made_with": "litert 2.3.0",
                "tolerance": {"litert": 5, "tflite": 0, "edgetpu": 8}},
    )  # fmt: skip


def refused(data: bytes) -> VerifyError:
    with pytest.raises(VerifyError) as caught:
        parse_manifest(data)
    return caught.value


def test_every_field_arrives() -> None:
    manifest = parse_manifest(packages.encoded(full()))

    assert (manifest.name, manifest.version, manifest.task) == (
        "colours",
        "1.4.0",
        "classification",
    )
    assert manifest.files["labels.txt"].bytes == len(FILES["labels.txt"])
    assert manifest.input.shape == (1, 4, 4, 3)
    assert (manifest.input.dtype, manifest.input.color, manifest.input.resize) == (
        "uint8", "bgr", "letterbox",
    )  # fmt: skip
    assert (manifest.input.mean, manifest.input.std) == ((1.0, 2.5, 3.0), (4.0, 5.0, 6.0))
    assert (manifest.output.head, manifest.labels) == ("softmax", 4)
    assert manifest.requires.runtime == {"litert": ">=1.0", "tflite": ">=2.9"}
    assert manifest.requires.memory_bytes == 30000000
    assert (manifest.golden.samples, manifest.golden.top1) == (2, ("red", None))
    assert manifest.golden.tolerance.of("litert", "cpu") == 5
    assert manifest.golden.tolerance.of("tflite", "cpu") == 0
    assert manifest.golden.tolerance.of("tflite", "usb:0") == 8
    assert (manifest.trial.frames, manifest.trial.seconds) == (300, 60)
    assert (manifest.trial.p95_ratio, manifest.trial.max_disagreement) == (1.5, 0.5)
    assert manifest.created == "2026-11-20T12:00:00Z"


def test_what_is_written_is_read_again() -> None:
    for given_facts in (facts(), full()):
        manifest = parse_manifest(packages.encoded(given_facts))

        assert parse_manifest(encode_manifest(manifest)) == manifest


def test_unknown_fields_are_ignored() -> None:
    later = facts(colour_space="srgb", input=facts()["input"] | {"gamma": 2.2})

    assert parse_manifest(packages.encoded(later)) == parse_manifest(packages.encoded(facts()))


def without(key: str):
    return {name: value for name, value in facts().items() if name != key}


def changed(path: str, value):
    made = json.loads(json.dumps(full()))
    *tables, key = path.split("/")
    table = made
    for name in tables:
        table = table[name]
    table[key] = value
    return made


SHA = {"sha256": "0" * 64, "bytes": 1}
WRONG = {
    "no name": (without("name"), "'name'.*missing"),
    "no version": (without("version"), "'version'.*missing"),
    "no golden": (without("golden"), "'golden'"),
    "no files": (without("files"), "'files'"),
    "name with a slash": (changed("name", "a/b"), "'name'"),
    "name upwards": (changed("name", ".."), "'name'"),
    "name with a line end": (changed("name", "birds\n"), "'name'"),
    "version of two numbers": (changed("version", "1.4"), "version"),
    "version upwards": (changed("version", "../../etc"), "version"),
    "version in other digits": (changed("version", "1.4.\u0661"), "version"),
    "version too long": (changed("version", "1.4.0-" + "a" * 100), "version"),
    "version a number": (changed("version", 1.4), "'version'"),
    "task": (changed("task", "poetry"), "'task'.*one of"),
    "task a list": (changed("task", ["detection"]), "'task'"),
    "file not known": (changed("files/run.sh", SHA), "run.sh"),
    "file upwards": (changed("files/..%2f", SHA), "allowed are"),
    "file without digest": (changed("files/LICENSE", {"bytes": 1}), "'files.LICENSE.sha256'"),
    "digest in capitals": (changed("files/LICENSE", {"sha256": "A" * 64, "bytes": 1}), "sha256"),
    "file of no bytes": (changed("files/LICENSE", SHA | {"bytes": 0}), "'files.LICENSE.bytes'"),
    "file too large": (changed("files/LICENSE", SHA | {"bytes": 2**29 + 1}), "bytes"),
    "size true": (changed("files/LICENSE", SHA | {"bytes": True}), "bytes"),
    "files a list": (changed("files", []), "'files'"),
    "no model": (changed("files", {"labels.txt": SHA, "golden.npz": SHA}), "neither"),
    "no golden set": (changed("files", {"model.tflite": SHA, "labels.txt": SHA}), "golden.npz"),
    "labels without a number": (changed("labels", None), "labels.txt"),
    "labels true": (changed("labels", True), "'labels'"),
    "shape of three": (changed("input/shape", [4, 4, 3]), "shape"),
    "shape of a batch": (changed("input/shape", [2, 4, 4, 3]), "shape"),
    "shape of no channels": (changed("input/shape", [1, 4, 4, 5]), "shape"),
    "shape of nothing": (changed("input/shape", [1, 0, 4, 3]), "'input.shape'"),
    "shape of reals": (changed("input/shape", [1, 4.0, 4, 3]), "'input.shape'"),
    "dtype": (changed("input/dtype", "float64"), "'input.dtype'"),
    "colour": (changed("input/color", "cmyk"), "'input.color'"),
    "resize": (changed("input/resize", "squash"), "'input.resize'"),
    "mean alone": (changed("input/std", None), "mean and input.std go together"),
    "mean of two": (changed("input/mean", [1, 2]), "1 or 3"),
    "std of nothing": (changed("input/std", [1, 0, 1]), "'input.std'"),
    "head": (changed("output/head", "tail"), "'output.head'"),
    "accelerator": (changed("requires/accelerator", "gpu"), "'requires.accelerator'"),
    "accelerator without its model": (changed("requires/accelerator", "edgetpu"), "no model for"),
    "runtime": (changed("requires/runtime", {"litert": "2"}), "'requires.runtime.litert'"),
    "memory": (changed("requires/memory_bytes", -1), "'requires.memory_bytes'"),
    "no samples": (changed("golden/samples", 0), "'golden.samples'"),
    "labels of other samples": (changed("golden/top1", ["red"]), "1 lines for 2 samples"),
    "top-1 a number": (changed("golden/top1", ["red", 1]), "'golden.top1'"),
    "control characters": (changed("golden/made_with", "a\x1b[2Jb"), "printable"),
    "tolerance of anything": (changed("golden/tolerance/litert", 255), "tolerance.litert"),
    "ratio": (changed("trial/p95_ratio", 0.5), "'trial.p95_ratio'"),
    "disagreement": (changed("trial/max_disagreement", 1.5), "max_disagreement"),
    "created in words": (changed("created", "yesterday"), "'created'"),
    "created on no day": (changed("created", "2026-02-30T12:00:00Z"), "calendar"),
    "no schema": (without("schema"), "'schema'"),
    "schema true": (changed("schema", True), "'schema'"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_field_is_named(case) -> None:
    wrong, words = WRONG[case]

    error = refused(packages.encoded(wrong))

    assert error.reason == "manifest_invalid"
    assert re.search(words, str(error)), str(error)


NOT_JSON = {
    "nothing": b"",
    "text": b"schema: 1",
    "list": b"[1]",
    "number": b"1",
    "null": b"null",
    "cut": packages.encoded(facts())[:-1],
    "two": packages.encoded(facts()) * 2,
    "latin-1": packages.encoded(facts()).replace(b"colours", b"c\xe9"),
    "utf-16": json.dumps(facts()).encode("utf-16"),
    "mark of order": b"\xef\xbb\xbf" + packages.encoded(facts()),
    "NaN": packages.encoded(facts()).replace(b'"labels": 4', b'"labels": NaN'),
    "infinity": packages.encoded(facts()).replace(b'"labels": 4', b'"labels": -Infinity'),
    "huge real": packages.encoded(facts()).replace(b'"labels": 4', b'"labels": 1e999'),
    "huge number": packages.encoded(facts()).replace(b'"labels": 4', b'"labels": 1' + b"0" * 5000),
    "twice": packages.encoded(facts()).replace(b'"labels": 4', b'"labels": 4, "labels": 4'),
    "twice below": packages.encoded(facts()).replace(b'"color"', b'"dtype": "int8", "color"'),
    "half a character": packages.encoded(facts()).replace(b"litert 2", b"\\ud800"),
    "deep": b"[" * 60_000,
    "deep table": b'{"a":' * 10_000,
}


@pytest.mark.parametrize("case", NOT_JSON)
def test_what_is_no_strict_json_is_refused(case) -> None:
    assert refused(NOT_JSON[case]).reason == "manifest_invalid"


# What a JSON Schema cannot say, or says less strictly; edged does.
BEYOND_SCHEMA = {
    "labels without a number", "mean alone", "mean of two", "std of nothing", "created on no day",
    "labels of other samples", "accelerator without its model", "shape of no channels",
    "version in other digits", "name with a line end", "shape of reals",
}  # fmt: skip


def test_the_published_schema_says_the_same() -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    schema = json.loads(SCHEMA_FILE.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)

    for sound in (facts(), full(), json.loads(encode_manifest(parse_manifest(
            packages.encoded(full()))))):  # fmt: skip
        validator.validate(sound)
    taken = {case for case, (wrong, _) in WRONG.items() if validator.is_valid(wrong)}
    assert taken <= BEYOND_SCHEMA
    assert not validator.is_valid({"schema": 2})


def test_the_example_in_the_document_is_a_manifest() -> None:
    page = (SCHEMA_FILE.parent / "packages.md").read_text()
    example = page.partition("```json\n")[2].partition("```")[0].replace("...", "0" * 64)

    manifest = parse_manifest(example.encode())

    assert (manifest.name, manifest.labels, manifest.trial.frames) == ("birds", 965, 300)


def test_the_published_schema_names_every_field() -> None:
    """Without a validator at hand: what is written has the schema's names, and no others."""
    schema = json.loads(SCHEMA_FILE.read_text())
    written = json.loads(encode_manifest(parse_manifest(packages.encoded(full()))))

    assert set(written) == set(schema["properties"])
    for table in ("input", "output", "requires", "golden", "trial"):
        assert set(written[table]) == set(schema["properties"][table]["properties"])


def test_a_later_schema_asks_for_an_update_of_edged() -> None:
    error = refused(packages.encoded({"schema": 2, "everything": "else"}))

    assert error.reason == "manifest_schema_unknown"
    assert "Update edged" in error.explain()


def test_size_is_checked_before_parsing() -> None:
    padded = packages.encoded(facts())
    padded += b" " * (64 * 1024 - len(padded))

    assert parse_manifest(padded).name == "colours"
    assert refused(padded + b" ").reason == "manifest_too_large"
    assert refused(b"[" * 10_000_000).reason == "manifest_too_large"


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_in_one_way(data) -> None:
    refused(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=8,
)  # fmt: skip
PATHS = [
    f"{top}/{key}" if isinstance(value, dict) and key else top
    for top, value in full().items()
    for key in (["", *value] if isinstance(value, dict) else [""])
]


@given(st.lists(st.tuples(st.sampled_from(PATHS), JSON), min_size=1, max_size=3))
def test_any_value_in_any_field_is_taken_or_refused(changes) -> None:
    made = json.loads(json.dumps(full()))
    for path, value in changes:
        table, _, key = path.rpartition("/")
        inner = made[table] if table else made
        if isinstance(inner, dict):
            inner[key] = value
    try:
        manifest = parse_manifest(json.dumps(made).encode())
    except VerifyError as error:
        assert error.reason in {"manifest_invalid", "manifest_schema_unknown"}
    else:
        assert parse_manifest(encode_manifest(manifest)) == manifest


def board(**changes) -> Board:
    return Board(**{"processors": ("cpu",), "runtime": "litert", "runtime_version": "2.3.0",
                    "free_bytes": 10**9} | changes)  # fmt: skip


def reason_on(board: Board, **requires) -> str | None:
    manifest = parse_manifest(packages.encoded(facts(requires=requires)))
    try:
        check_fit(manifest, board)
    except VerifyError as error:
        return error.reason
    return None


def test_what_a_board_must_have() -> None:
    assert reason_on(board()) is None
    assert reason_on(board(processors=("edgetpu",))) == "processor_unsupported"
    assert reason_on(board(processors=("edgetpu", "cpu"))) is None
    assert reason_on(board(), runtime={"litert": ">=2.3"}) is None
    assert reason_on(board(), runtime={"litert": ">=2.3.0"}) is None
    assert reason_on(board(), runtime={"litert": ">=2.10"}) == "runtime_too_old"
    assert reason_on(board(), runtime={"tflite": ">=9"}) is None
    assert reason_on(board(runtime_version="2"), runtime={"litert": ">=2.0"}) is None
    assert reason_on(board(runtime_version="unknown"), runtime={"litert": ">=2.0"}) is None
    assert reason_on(board(free_bytes=99), memory_bytes=99) is None
    assert reason_on(board(free_bytes=99), memory_bytes=100) == "memory_insufficient"


def test_a_package_for_an_edge_tpu_only() -> None:
    files = packages.contents(model__tflite=None, model_edgetpu__tflite=b"compiled")
    manifest = parse_manifest(packages.encoded(packages.facts(files)))

    assert manifest.processors() == ("edgetpu",)
    with pytest.raises(VerifyError, match="for edgetpu only"):
        check_fit(manifest, board())
    check_fit(manifest, board(processors=("edgetpu",)))

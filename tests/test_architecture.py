"""The floor plan holds: a module imports only from lower floors, pure modules touch no world."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "edged"

# The floors of docs/architecture.md, lowest first; a trailing dot takes a whole package.
FLOORS = [
    ["camera.pacing", "config_rules", "drift.autocorrelation", "drift.disagreement",
     "drift.histogram", "drift.permutation", "drift.sampling", "drift.segment", "drift.state",
     "edged", "errors", "frame", "hidden", "inference.tensors", "models.fields", "models.seal",
     "models.strictjson", "models.version", "mqtt.inbound", "mqtt.moment", "mqtt.outbox",
     "pipeline.counters", "redact", "scene", "toml_lines", "views"],
    ["camera.base", "config", "control_wire", "drift.signals", "drift.window",
     "inference.modellabels", "inference.resize", "inference.signature", "models.archive",
     "models.desired", "models.target", "mqtt.status", "prediction", "toml_text"],
    ["config_words", "drift.figures", "drift.folding", "drift.gross", "drift.hour",
     "drift.merging", "drift.records", "inference.modelfile", "inference.preprocess",
     "models.golden", "models.records", "mqtt.messages", "operator.fleetsaid",
     "pipeline.policy"],
    ["config_text", "drift.cohorts", "drift.recorder", "drift.reference",
     "inference.kinds.decoder", "models.journal", "models.manifest", "models.transitions",
     "models.trial", "operator.fleetview"],
    ["drift.detector", "drift.failures", "drift.report", "drift.words",
     "inference.kinds.classification", "inference.kinds.keypoints",
     "inference.kinds.segmentation", "inference.kinds.ssd", "inference.kinds.yolohead",
     "models.deployment", "models.faults", "models.fit", "models.overview", "mqtt.updates"],
    ["drift.keeping", "drift.picture", "drift.verdict", "drift.watch", "inference.kinds.yolo",
     "models.findings", "models.pursuit"],
    ["inference.postprocess", "models.recovery", "operator.driftsaid", "operator.fleetplan"],
    # From here on the world is touched: one adapter for each part of it.
    ["allocator", "board", "camera.clock", "camera.imagefile", "camera.pixels", "camera.v4l2",
     "camera.videoio", "drift.commands", "inference.edgetpu", "inference.factory", "lock",
     "models.child", "models.files", "models.inbox", "models.package", "models.sandbox",
     "models.source", "models.task", "mqtt.credentials", "mqtt.reasons", "mqtt.spoolfile",
     "mqtt.traffic", "operator.driftwindows", "operator.fleetscreen",
     "operator.manifestoptions", "operator.serve", "pipeline.bell", "systemd"],
    ["breadcrumb", "camera.live", "camera.paced", "camera.pirequests", "command", "control",
     "demo.candidates", "drift.ring", "inference.interpreter", "models.casework",
     "models.download", "models.handover", "models.hearing", "models.httpleash",
     "models.journalfile", "models.stick", "models.trust", "models.tufclient",
     "models.validation", "mqtt.connection", "mqtt.spool", "operator.apart", "operator.keys",
     "pipeline.mailbox"],
    ["arguments", "camera.images", "camera.opencv", "camera.picamera", "camera.synthetic",
     "camera.videofile", "control_client", "drift.shelf", "drift.worker", "inference.servable",
     "models.httpsource", "models.listener", "models.store", "mqtt.attempt", "mqtt.client",
     "operations", "operator.published"],
    ["camera.httpcam", "demo.processes", "drift.keeper", "drift.voice", "driftcommands",
     "inference.loading", "machinefindings", "models.examination", "models.journals",
     "models.repository", "models.updater", "models.voice", "operator.fleetdesk",
     "operator.fleetoptions",
     "operator.referenceimages", "operator.repo", "pipeline.memory", "pipeline.trial"],
    ["camera.source", "commands", "demo.desk", "demo.subscriber", "models.loading",
     "models.local", "operator.fleet", "operator.fleetdrift", "operator.fleetwait",
     "operator.goldenimages", "pipeline.modelslot", "servicefindings"],
    ["demo.account", "demo.device", "demo.live", "loader", "models.acts", "models.probe",
     "operator.fleetcommands", "operator.pack", "pipeline.lane", "pipeline.recovery",
     "pipeline.stage"],
    ["demo.ota", "operator.fleetparser", "operator.modelcommands", "pipeline.capture",
     "pipeline.results", "running", "startup"],
    ["demo.__main__", "doctor", "operator.cli", "pipeline.inference", "pipeline.observer",
     "report", "snapshot", "updates"],
    ["pipeline.publisher", "watching"],
    ["assembly"],
    ["daemon"],
    ["cli"],
    ["__main__"],
]  # fmt: skip
PURE = {name for floor in FLOORS[:7] for name in floor}
WORLD = {"os", "time", "socket", "threading", "logging", "subprocess", "random", "pathlib"}
# Heavy or hardware imports, and the one module that each lives in.
ONLY_IN = {
    "ai_edge_litert": {"demo.candidates", "inference.interpreter"},
    "tflite_runtime": {"inference.interpreter"},
    "picamera2": {"camera.picamera"},
    "libcamera": {"camera.picamera"},
    "systemd": {"systemd"},
    "paho": {"mqtt.connection", "demo.subscriber"},
    "amqtt": {"demo.processes"},
    "requests": {"models.httpleash", "models.httpsource"},
    "urllib3": {"models.httpleash", "models.httpsource"},
    "tuf": {"models.repository", "models.tufclient", "operator.published", "operator.repo"},
    "securesystemslib": {"operator.keys"},
    "cryptography": {"operator.keys"},
    "rich": {"operator.fleetscreen"},
}


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        name = name.removesuffix(".__init__")
        found["edged" if name == "__init__" else name] = path
    return found


def is_package_page(path: Path) -> bool:
    return path.name == "__init__.py" and path.parent != PACKAGE


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            # `from edged.mqtt import reasons` names a module, `... import X` a thing in one.
            found |= {
                f"{module}.{alias.name}" if f"{module}.{alias.name}" in full_names() else module
                for alias in node.names
            }
    return found


def full_names() -> set[str]:
    return {f"edged.{name}" for name in modules()}


def floor_of(name: str) -> int:
    for number, names in enumerate(FLOORS):
        if name in names:
            return number
    pytest.fail(f"{name} stands on no floor: add it to FLOORS")


CODE = {name: path for name, path in modules().items() if not is_package_page(path)}


def test_every_module_stands_on_one_floor() -> None:
    named = [name for floor in FLOORS for name in floor]

    assert sorted(named) == sorted(CODE)


@pytest.mark.parametrize("name", CODE)
def test_imports_go_down(name: str) -> None:
    floor = floor_of(name)
    for imported in imports(CODE[name]):
        if imported == "edged" or not imported.startswith("edged."):
            continue
        below = imported.removeprefix("edged.")
        assert floor_of(below) < floor, f"{name} imports {below}, which is not on a lower floor"


@pytest.mark.parametrize("name", sorted(PURE))
def test_pure_modules_touch_no_world(name: str) -> None:
    roots = {imported.partition(".")[0] for imported in imports(CODE[name])}

    assert roots & WORLD == set()


@pytest.mark.parametrize("name", CODE)
def test_hardware_imports_live_in_one_file(name: str) -> None:
    for imported in imports(CODE[name]):
        root = imported.partition(".")[0]
        if root in ONLY_IN:
            assert name in ONLY_IN[root]


@pytest.mark.parametrize("name", CODE)
def test_no_module_outgrows_its_reader(name: str) -> None:
    assert len(CODE[name].read_text().splitlines()) <= 400


@pytest.mark.parametrize("name", CODE)
def test_no_drawer_for_odds_and_ends(name: str) -> None:
    assert name.rpartition(".")[2] not in {"utils", "util", "common", "helpers", "misc", "manager"}

"""The commands that speak with the service: with one, without one, and with one of another kind."""

import io
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from sim import packages
from sim.device import BELT
from sim.journals import ACTIVE, FACTORY, PREVIOUS, SETTLED, run_through, sha, under_way, wants

from edged.cli import main
from edged.control import ControlServer, Operation
from edged.errors import StoreError
from edged.lock import RuntimeLock, StateLock
from edged.models import overview
from edged.models.desired import Source
from edged.models.journal import Journal, encode_journal, parse_journal
from edged.models.journals import Journals
from edged.models.records import State
from edged.operations import update_operations


@pytest.fixture
def config(tmp_path) -> Path:
    path = tmp_path / "edged.toml"
    path.write_text(f'state_dir = "{tmp_path}/state"\nruntime_dir = "{tmp_path}/run"\n{BELT}')
    return path


@pytest.fixture
def call(config, capsys) -> Callable[..., tuple[int, str, str]]:
    """Runs a command; returns its exit status and what it said on stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main([*arguments, "--config", str(config)])
        return code, *capsys.readouterr()

    return run


class Updates:
    """Stands where the daemon's updater stands: real journals, and a record of what was asked."""

    def __init__(self, state_dir: Path) -> None:
        self.asked: list[tuple[object, ...]] = []
        self.journals = Journals(state_dir)
        self.status = "state"

    def models(self) -> dict[str, object]:
        return self.journals.models()

    def deployments(self, model: str | None = None) -> dict[str, object]:
        return self.journals.deployments(model)

    def mark(self, model: str, version: str, bad: bool | None) -> dict[str, object]:
        return self.journals.mark(model, version, bad)

    def install(self, model: str, path: str, bare: bool) -> dict[str, object]:
        self.asked.append(("install", model, Path(path).read_bytes(), bare))
        return self._deployment("local-1", State.SYNCING)

    def roll_back(self, model: str) -> dict[str, object]:
        self.asked.append(("roll_back", model))
        return self._deployment("local-2", State.ROLLING_BACK)

    def cancel(self, model: str, deployment_id: str) -> dict[str, object]:
        self.asked.append(("cancel", model, deployment_id))
        return self._deployment(deployment_id, State.CANCELED)

    def forget_order(self, model: str, source: str) -> dict[str, object]:
        self.asked.append(("forget_order", model, source))
        return {}

    def _deployment(self, deployment_id: str, state: State) -> dict[str, object]:
        told = {"deployment_id": deployment_id, "model": "birds", "version": "1.5.0"}
        return {"deployment": {**told, self.status: state.value}}


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., None]]:
    running = []

    def start(**operations: Operation) -> None:
        lock = RuntimeLock(tmp_path / "run")
        running.append((ControlServer(lock, operations), lock))

    yield start
    for server, lock in running:
        server.stop()
        lock.release()


@pytest.fixture
def updates(tmp_path, serve) -> Updates:
    """A service that offers everything on models."""
    asked = Updates(tmp_path / "state")
    serve(**update_operations(lambda: asked))
    return asked


def write(tmp_path: Path, journal: Journal) -> Path:
    path = tmp_path / "state" / "models" / journal.model / "state.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_journal(journal))
    return path


# No service


def test_without_a_service_status_says_so(call) -> None:
    code, out, err = call("status")
    assert (code, out) == (1, "")
    assert "the service does not run. Start it: sudo systemctl start edged" in err

    code, out, _ = call("status", "--json")
    assert code == 1
    assert orjson.loads(out)["reason"] == "service_not_running"


def test_a_service_with_another_runtime_directory(call, tmp_path) -> None:
    lock = StateLock(tmp_path / "state")
    try:
        code, _, err = call("status")
    finally:
        lock.release()

    assert code == 1
    assert "service_elsewhere" in err


def test_without_any_configuration_ones_own_directories_are_meant(monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("EDGED_CONFIG", raising=False)
    monkeypatch.setattr("edged.arguments.DEFAULT_CONFIG", str(tmp_path / "none.toml"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "own"))

    assert main(["status"]) == 1
    assert str(tmp_path / "own/edged/control.sock") in capsys.readouterr().err

    monkeypatch.setenv("EDGED_CONFIG", str(tmp_path / "other.toml"))
    assert main(["status"]) == 78  # one that was named has to be there


@pytest.mark.parametrize(
    "arguments",
    [
        ("models", "rollback", "birds"),
        ("models", "install", __file__),
        ("models", "cancel", "birds", "d1"),
        ("models", "forget-order", "birds", "all"),
    ],
)
def test_what_only_a_service_can_do(call, tmp_path, arguments) -> None:
    write(tmp_path, SETTLED)

    code, out, err = call(*arguments)

    assert (code, out) == (1, "")
    assert "sudo systemctl start edged" in err


def test_without_a_service_the_journals_are_read(call, tmp_path) -> None:
    assert call("models", "list")[:2] == (0, "No model is known on this device.\n")
    assert call("deployments")[:2] == (0, "Nothing was deployed on this device.\n")
    write(tmp_path, run_through(wants(SETTLED, "d7", "1.4.0")[0]))

    code, out, _ = call("models", "list")
    assert code == 0
    assert "birds" in out
    assert "1.4.0" in out
    code, out, _ = call("deployments", "birds")
    assert code == 0
    assert out.splitlines()[1].split()[:4] == ["d7", "birds", "1.4.0", "SUCCEEDED"]

    code, out, _ = call("models", "list", "--json")
    (model,) = orjson.loads(out)["models"]
    assert model["active"]["version"] == "1.4.0"
    assert model["previous"]["version"] == ACTIVE.version


def test_the_last_good_copy_will_do(call, tmp_path) -> None:
    path = write(tmp_path, SETTLED)
    path.with_name("state.json.old").write_bytes(path.read_bytes())
    path.write_bytes(b"")

    code, out, _ = call("models", "list")

    assert code == 0
    assert ACTIVE.version in out


@pytest.mark.parametrize("name", ["cats", "..", ".", "a/b", "", "/etc", "a\0b"])
def test_a_model_that_nobody_knows(call, tmp_path, name) -> None:
    write(tmp_path, SETTLED)
    (tmp_path / "state" / "models" / "empty").mkdir()

    for arguments in (["deployments", name], ["models", "mark", name, "1.0.0", "--bad"]):
        code, _, err = call(*arguments)
        assert code == 1
        assert "model_without_journal" in err
    assert not (tmp_path / "state" / "lock").exists()


def test_a_damaged_journal_is_named(call, tmp_path) -> None:
    path = write(tmp_path, SETTLED)
    path.write_bytes(path.read_bytes().replace(b"birds", b"words"))

    code, _, err = call("models", "list")

    assert code == 1
    assert str(path) in err
    assert "journal_damaged" in err


def test_a_mark_without_a_service_is_in_the_journal(call, tmp_path) -> None:
    path = write(tmp_path, SETTLED)

    assert call("models", "mark", "birds", PREVIOUS.version, "--bad")[0] == 0
    assert parse_journal(path.read_bytes()).is_bad(PREVIOUS.sha256)
    assert "marked_by_hand" in call("models", "list")[1]

    assert call("models", "mark", "birds", PREVIOUS.version, "--good")[0] == 0
    (mark,) = parse_journal(path.read_bytes()).marks
    assert (mark.sha256, mark.bad) == (PREVIOUS.sha256, False)

    assert call("models", "mark", "birds", PREVIOUS.version, "--none")[0] == 0
    assert parse_journal(path.read_bytes()) == SETTLED


def test_a_mark_waits_for_nobody_who_holds_the_lock(call, tmp_path) -> None:
    path = write(tmp_path, SETTLED)
    lock = StateLock(tmp_path / "state")
    try:
        code, _, err = call("models", "mark", "birds", PREVIOUS.version, "--bad")
    finally:
        lock.release()

    assert code == 1
    assert "already_running" in err
    assert parse_journal(path.read_bytes()) == SETTLED


def test_a_mark_on_what_was_never_here(call, tmp_path) -> None:
    write(tmp_path, SETTLED)

    code, _, err = call("models", "mark", "birds", "9.9.9", "--bad")

    assert code == 1
    assert "version_never_here" in err


def test_nothing_is_written_as_another_user(call, tmp_path) -> None:
    """The daemon could not read what root wrote."""
    if os.getuid() != 0:
        pytest.skip("only root can give a directory away")
    path = write(tmp_path, SETTLED)
    os.chown(tmp_path / "state", 65534, 65534)

    code, _, err = call("models", "mark", "birds", PREVIOUS.version, "--bad")

    assert code == 1
    assert "state_dir_not_own" in err
    assert not (tmp_path / "state" / "lock").exists()
    assert parse_journal(path.read_bytes()) == SETTLED


# A service


def test_status_tells_starting_from_up(call, serve) -> None:
    serve(status=lambda _: {"state": "starting", "edged": "0.1.0", "uptime_s": 3.0})

    code, out, _ = call("status")

    assert code == 1
    assert out == "edged 0.1.0 is starting, for 3 s: models are being loaded.\n"


@pytest.mark.parametrize(("healthy", "expected"), [(True, 0), (False, 1)])
def test_status_of_a_model_that_is_stuck(call, serve, healthy, expected) -> None:
    serve(status=lambda _: {"state": "running", "healthy": healthy, "uptime_s": 3.0})

    code, out, _ = call("status")

    assert (code, "stuck" in out) == (expected, not healthy)


def test_status_though_the_configuration_was_broken_meanwhile(
    config, tmp_path, serve, monkeypatch, capsys
) -> None:
    for module in ("arguments", "commands"):
        monkeypatch.setattr(f"edged.{module}.DEFAULT_CONFIG", str(config))
    monkeypatch.setattr("edged.config.Config.runtime_dir", f"{tmp_path}/run")
    monkeypatch.delenv("EDGED_CONFIG", raising=False)
    config.write_text("[mqtt")

    assert main(["status"]) == 78
    assert capsys.readouterr().out == ""
    serve(status=lambda _: {"state": "starting", "edged": "0.1.0", "uptime_s": 3.0})
    assert main(["status"]) == 78
    told = capsys.readouterr()
    assert told.out.startswith("edged 0.1.0 is starting")
    assert "line 1" in told.err

    other = tmp_path / "other.toml"
    other.write_text("[mqtt")
    assert main(["status", "--config", str(other)]) == 78
    assert capsys.readouterr().out == "", "its service may be another one"


def test_a_service_of_another_version(call, serve) -> None:
    serve()

    for arguments in (["models", "list"], ["deployments"], ["models", "rollback", "birds"]):
        code, out, err = call(*arguments)
        assert (code, out) == (1, "")
        assert "does not offer this" in err
        assert "operation_unknown" in err
        assert "Traceback" not in err


def test_a_service_that_hangs_up(call, serve) -> None:
    serve(status=lambda _: {"state": object()})

    code, _, err = call("status")

    assert code == 1
    assert "operation_failed" in err


def test_lists_come_from_the_service(call, tmp_path, updates) -> None:
    write(tmp_path, under_way(State.TRIAL))

    code, out, _ = call("models", "list")
    assert code == 0
    assert "coming    1.4.0" in out
    code, out, _ = call("deployments")
    assert code == 0
    assert out.splitlines()[1].split()[:4] == ["d1", "birds", "1.4.0", "TRIAL"]


def test_marks_go_through_the_service(call, tmp_path, updates) -> None:
    path = write(tmp_path, SETTLED)

    assert call("models", "mark", "birds", "1.2.0", "--bad")[1] == "birds 1.2.0 is marked bad.\n"
    assert parse_journal(path.read_bytes()).is_bad(sha("1.2.0"))
    assert call("models", "mark", "birds", "1.2.0", "--none")[:2] == (
        0,
        "birds 1.2.0 is without a mark.\n",
    )
    assert parse_journal(path.read_bytes()) == SETTLED


def test_an_installation_carries_the_file(call, tmp_path, updates) -> None:
    write(tmp_path, SETTLED)
    file = tmp_path / "birds.tar"
    file.write_bytes(b"signed")

    code, out, _ = call("models", "install", str(file))
    assert (code, out) == (0, "local-1: birds 1.5.0 SYNCING; see `edged deployments birds`\n")
    call("models", "install", str(file), "--model", "birds", "--bare")

    assert updates.asked == [
        ("install", "birds", b"signed", False),
        ("install", "birds", b"signed", True),
    ]


def test_only_an_ordinary_file_is_installed(call, tmp_path, updates) -> None:
    """Another kind, such as a pipe, might keep its reader for ever."""
    write(tmp_path, SETTLED)

    for path in ("/dev/zero", str(tmp_path)):
        code, _, err = call("models", "install", path)
        assert code == 1
        assert "no ordinary file" in err
    assert updates.asked == []


def stick(path: Path, *models: str) -> str:
    """Write a tar with packages of these models, named as `edgectl repo export` names them."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for model in ("../x", *models):
            info = tarfile.TarInfo(f"targets/{model}/{'0' * 64}.1.6.0.zip")
            tar.addfile(info, io.BytesIO())
    return str(path)


def test_with_several_models_the_file_says_which(call, tmp_path, updates) -> None:
    for model in ("birds", "cats", "dogs"):
        write(tmp_path, replace(SETTLED, model=model))
    package = tmp_path / "dogs.zip"
    facts = packages.facts(packages.contents(), name="dogs")
    package.write_bytes(packages.archive(packages.parts(packages.encoded(facts))))

    assert call("models", "install", stick(tmp_path / "a.tar", "cats"))[0] == 0
    assert call("models", "install", stick(tmp_path / "b.tar", "cats", "mice"))[0] == 0
    assert call("models", "install", "--bare", str(package))[0] == 0

    assert [(model, bare) for _, model, _, bare in updates.asked] == [
        ("cats", False),
        ("cats", False),
        ("dogs", True),
    ]


@pytest.mark.parametrize(
    ("models", "reason", "words"),
    [
        (("birds", "cats", "mice"), "argument_invalid", "which model it is for: birds, cats."),
        ((), "argument_invalid", "say with --model which model it is for: birds, cats."),
        (("mice", "rats"), "model_unknown", "the file is for mice, rats; there is: birds, cats."),
        (None, "not_an_export", "no tar"),
    ],
)
def test_with_several_models_a_file_that_does_not_say_which(
    call, tmp_path, updates, models, reason, words
) -> None:
    write(tmp_path, SETTLED)
    write(tmp_path, replace(SETTLED, model="cats"))
    file = __file__ if models is None else stick(tmp_path / "a.tar", *models)

    code, _, err = call("models", "install", file)

    assert code == 1
    assert words in err
    assert f"({reason})" in err
    assert updates.asked == []


def test_a_file_that_is_not_there(call, updates, tmp_path) -> None:
    for name in (str(tmp_path / "none"), "a\0b"):
        code, _, err = call("models", "install", name)
        assert code == 1
        assert "file_unreadable" in err
    assert updates.asked == []


def test_commands_reach_the_service(call, updates) -> None:
    assert call("models", "rollback", "birds")[0] == 0
    assert call("models", "cancel", "birds", "d1")[0] == 0
    assert call("models", "forget-order", "birds", "group")[0] == 0

    assert updates.asked == [
        ("roll_back", "birds"),
        ("cancel", "birds", "d1"),
        ("forget_order", "birds", "group"),
    ]


@pytest.mark.parametrize(("state", "code"), [(State.REJECTED, 1), (State.CANCELED, 0)])
def test_a_refused_deployment_is_a_failed_command(call, updates, state, code, monkeypatch) -> None:
    updates.status = "status"
    monkeypatch.setattr(updates, "roll_back", lambda _: updates._deployment("local-3", state))

    assert call("models", "rollback", "birds")[:2] == (
        code,
        f"local-3: birds 1.5.0 {state.value}\n",
    )


@pytest.mark.parametrize(
    ("operation", "given"),
    [
        ("install", {}),
        ("install", {"file": "/etc/passwd", "bare": True}),
        ("roll_back", {}),
        ("roll_back", {"model": 7}),
        ("roll_back", {"model": ""}),
        ("roll_back", {"model": "x" * 65}),
        ("deployments", {"model": ["birds"]}),
        ("mark", {"model": "birds", "version": "latest", "bad": True}),
        ("mark", {"model": "birds", "version": "1.0.0", "bad": "yes"}),
        ("cancel", {"model": "birds", "deployment_id": "../d1"}),
        ("forget_order", {"model": "birds", "source": "everybody"}),
    ],
)
def test_arguments_are_looked_at_before_anything_is_done(updates, tmp_path, operation, given):
    from edged.control_client import ask
    from edged.control_wire import Request
    from edged.errors import ControlError

    with pytest.raises(ControlError) as caught:
        ask(tmp_path / "run", Request(operation, given))

    assert caught.value.reason == "argument_invalid"
    assert updates.asked == []


def test_usage(call) -> None:
    for arguments in (
        ["models"],
        ["models", "mark", "birds", "1.0.0"],
        ["models", "mark", "birds", "1.0.0", "--good", "--bad"],
        ["models", "forget-order", "birds", "everybody"],
        ["models", "install"],
    ):
        assert call(*arguments)[0] == 2


# What is told of a journal


def test_an_overview_has_all_there_is() -> None:
    journal = wants(under_way(State.TRIAL), "d9", "1.6.0", source=Source.ALL, percent=20)[0]
    told = overview.overview(journal)

    assert [told[role]["version"] for role in ("active", "previous", "factory")] == [
        ACTIVE.version,
        PREVIOUS.version,
        FACTORY.version,
    ]
    assert told["deployment"]["version"] == "1.4.0"
    assert told["deployment"]["state"] == "TRIAL"
    assert told["desired"][-1]["percent"] == 20
    assert orjson.loads(orjson.dumps(told))["active"] == told["active"]


def test_deployments_come_latest_last() -> None:
    journal = run_through(wants(SETTLED, "d7", "1.4.0")[0])
    journal = wants(journal, "d8", "1.5.0", order_ms=1_763_683_200_001)[0]

    told = overview.deployments(journal)

    assert [(one["deployment_id"], one.get("state"), one.get("status")) for one in told] == [
        ("d7", None, "SUCCEEDED"),
        ("d8", "SYNCING", None),
    ]


def test_a_mark_finds_versions_that_are_only_history() -> None:
    journal = run_through(wants(SETTLED, "d7", "1.4.0")[0])
    journal = run_through(wants(journal, "d8", "1.5.0", order_ms=1_763_683_200_001)[0])

    marked = overview.mark(journal, "1.4.0", bad=True)

    assert marked.is_bad(sha("1.4.0"))
    with pytest.raises(StoreError, match=r"has had no version 9\.9\.9"):
        overview.mark(journal, "9.9.9", bad=True)


def test_before_the_first_drift_window_its_time_is_said(call) -> None:
    code, _, err = call("drift", "report")

    assert code == 1
    assert "after window_s of running: 300 s" in err


# Whoever is not of the group


@pytest.mark.parametrize(
    "arguments", [["drift", "report"], ["models", "list"], ["deployments"]], ids=" ".join
)
def test_files_that_this_user_may_not_read(open_folder, stranger, capsys, arguments) -> None:
    for name in ("drift", "models"):
        (open_folder / "state" / name).mkdir(parents=True)
    (open_folder / "state").chmod(0o750)
    config = open_folder / "edged.toml"
    config.write_text(f'state_dir = "{open_folder}/state"\nruntime_dir = "{open_folder}/r"\n{BELT}')
    command = [*arguments, "--config", str(config)]
    main(command)  # all modules are there before this process is a user who may not read them
    capsys.readouterr()
    with stranger():
        assert main(command) == 1

    said = capsys.readouterr().err
    assert "Permission denied" in said
    assert "sudo usermod -aG edged $USER" in said

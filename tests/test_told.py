"""What ails the memory of a device is said on `info` and by `edged status`, not only in its log."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable

import orjson
import pytest
from sim import models
from sim.broker import MOSQUITTO, wait_for
from sim.device import Device, P
from test_journal import content, sealed
from test_updates import latest, predictions, result_of, runs, want

from edged.models.journal import parse_journal

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed"),
]


@pytest.fixture
def device(make: Callable[..., Device], broker, desk, tmp_path) -> Device:
    factory = models.write(tmp_path / "factory.tflite", models.classifier("float32"))
    (tmp_path / "labels.txt").write_text("\n".join(models.COLOURS))
    return make(
        broker.port,
        f'{desk.update}\n[[model]]\nname = "m"\nfactory = "{factory}"\n'
        '[[camera]]\nname = "front"\nsource = "synthetic"\nmodel = "m"\nfps = 60\n',
    )


def info(subscriber) -> dict:
    return orjson.loads(latest(subscriber, f"{P}/info") or b'{"models":[{"journal":{}}]}')


def journal(subscriber) -> dict:
    return info(subscriber)["models"][0]["journal"]


def status(device: Device) -> str:
    words = [sys.executable, "-m", "edged", "status", "--config", str(device.config)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=50, check=False)
    return " ".join(done.stdout.split())


@pytest.mark.slow
def test_what_is_wrong_with_a_device_s_memory_is_told(device, desk, subscriber) -> None:
    desk.publish("1.0.0")
    device.start().wait_ready()
    want(subscriber, "first", "1.0.0")
    assert result_of(subscriber, "first", device)["status"] == "SUCCEEDED"
    assert journal(subscriber) == {"reason": "", "detail": ""}
    assert info(subscriber)["updates"] == {"reason": "", "detail": ""}
    home = device.state / "models/m"

    # The journal is damaged, and so is what is known of the repository.
    device.kill()
    (home / "state.json").write_bytes(b"garbage")
    for record in device.state.glob("tuf/metadata*/trust"):
        record.write_bytes(b"garbage")
    device.start().wait_ready()
    wait_for("said", lambda: journal(subscriber)["reason"] == "journal_damaged")
    assert "its last good copy is taken" in journal(subscriber)["detail"]
    assert info(subscriber)["last_stop"] == "crash"
    desk.publish("1.1.0")
    want(subscriber, "second", "1.1.0")
    wait_for("said", lambda: info(subscriber)["updates"]["reason"] == "trust_forgotten", 30.0)
    assert result_of(subscriber, "second", device)["status"] == "SUCCEEDED"
    said = status(device)
    for words in ("(journal_damaged)", "(trust_forgotten)", "before: crash"):
        assert words in said

    # A newer edged has written the journal: what was active runs, and nothing is written.
    device.stop()
    newer = sealed(content(parse_journal((home / "state.json").read_bytes())) | {"schema": 99})
    (home / "state.json").write_bytes(newer)
    before = len(predictions(subscriber))
    device.start().wait_ready()
    wait_for("said", lambda: journal(subscriber)["reason"] == "journal_newer")
    assert info(subscriber)["last_stop"] == "sigterm"
    wait_for("predictions", lambda: len(predictions(subscriber)) > before)
    assert runs(subscriber) == "1.1.0"
    assert "(journal_newer)" in status(device)
    device.signal(signal.SIGHUP)
    device.wait_ready(times=2)
    assert journal(subscriber)["reason"] == "journal_newer", "a reload mends nothing"
    assert "(journal_newer)" in status(device)
    assert (home / "state.json").read_bytes() == newer

    # Nothing is left that could be read, nor a root that could be trusted.
    device.stop()
    desk.root.unlink()
    for name in ("state.json", "state.json.old"):
        (home / name).write_bytes(b"garbage")
    device.start().wait_ready()
    wait_for("said", lambda: journal(subscriber)["reason"] == "journal_damaged")
    assert "the factory model begins anew" in journal(subscriber)["detail"]
    wait_for("said", lambda: info(subscriber)["updates"]["reason"] == "updates_off")
    said = status(device)
    assert "updates over the air are off: cannot read" in said
    assert "updates: updates" not in said
    assert "[update]" not in said, "what stands there already is not asked for"
    assert "(updates_off)" in said

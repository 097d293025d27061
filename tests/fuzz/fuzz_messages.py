"""Fuzz target: payloads on `desired` and `command`. Anything unfit must be a MessageError.

With atheris: `python tests/fuzz/fuzz_messages.py -max_total_time=600`.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from fuzz.runner import run, variations

from edged.errors import MessageError
from edged.models.desired import ID, parse_command, parse_desired
from edged.models.version import Version

DESIRED = {"deployment_id": "d1", "version": "1.4.0", "order": 5, "rollout": {"percent": 10}}
CANCEL = {"id": "c1", "action": "cancel", "deployment_id": "d1"}
ROLLBACK = {"id": "c2", "action": "rollback", "from_version": "1.4.0-rc.1+a"}


def TestOneInput(data: bytes) -> None:  # noqa: N802  # the name that atheris asks for
    try:
        desired = parse_desired(data)
        assert ID.fullmatch(desired.deployment_id)
        assert 0 <= desired.percent <= 100
        assert desired.order_ms is None or 0 < desired.order_ms < 2**63
        assert desired.version is None or Version(desired.version).text == desired.version
    except MessageError as error:
        assert len(str(error)) < 1000
    try:
        assert ID.fullmatch(parse_command(data).id)
    except MessageError as error:
        assert len(str(error)) < 1000


def corpus() -> list[bytes]:
    sound = [json.dumps(message).encode() for message in (DESIRED, CANCEL, ROLLBACK)]
    return [data for message in sound for data in variations(message)]


if __name__ == "__main__":
    run(TestOneInput, corpus())

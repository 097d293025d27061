"""Fuzz target: the journal, as it lies on the disk and behind a seal that fits.

With atheris: `python tests/fuzz/fuzz_journal.py -max_total_time=600`.
"""

import hashlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from fuzz.runner import run, variations
from sim.journals import SETTLED, under_way

from edged.errors import StoreError
from edged.models.journal import active_of, encode_journal, parse_journal
from edged.models.records import State

BEGIN, BETWEEN, END = b'{"sha256":"', b'","journal":', b"}\n"


def TestOneInput(data: bytes) -> None:  # noqa: N802  # the name that atheris asks for
    digest = hashlib.sha256(data).hexdigest().encode()
    for file in (data, BEGIN + digest + BETWEEN + data + END):
        active_of(file)
        try:
            journal = parse_journal(file)
        except StoreError as error:
            assert error.reason in ("journal_damaged", "journal_newer")
            continue
        assert parse_journal(encode_journal(journal)) == journal
        assert active_of(file) == journal.active
        journal.kept()


def corpus() -> list[bytes]:
    journals = (SETTLED, under_way(State.TRIAL), under_way(State.ROLLING_BACK))
    files = [encode_journal(journal) for journal in journals]
    bodies = [file.partition(BETWEEN)[2].removesuffix(END) for file in files]
    return variations(files[1]) + [data for body in bodies for data in variations(body)]


if __name__ == "__main__":
    run(TestOneInput, corpus())

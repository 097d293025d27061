"""What of the configuration reaches drift."""

from __future__ import annotations

from edged.config import DriftConfig
from edged.drift.detector import Terms
from edged.drift.reference import MOST_HOURS, WarmUp
from edged.drift.ring import KEPT_BYTES, KEPT_S
from edged.watching import terms_of, warm_up_of


def test_what_the_configuration_leaves_out_is_as_it_was_measured() -> None:
    usual = DriftConfig()
    assert terms_of(usual) == Terms()
    assert warm_up_of(usual) == WarmUp()
    assert (usual.keep_days * 86_400.0, usual.keep_bytes) == (KEPT_S, KEPT_BYTES)


def test_what_a_person_sets_holds() -> None:
    terms = terms_of(DriftConfig(patience=2.5, trust_clock=True))
    assert terms.limit == 2.5 * Terms().limit
    assert terms.trust_clock
    assert warm_up_of(DriftConfig(warm_up_days=14)) == WarmUp(hours=336, days=14)
    assert warm_up_of(DriftConfig(warm_up_days=28)).hours < MOST_HOURS

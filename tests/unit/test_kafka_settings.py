"""Settings of the log that would lose messages are faults by themselves, whatever the brokers say."""

from __future__ import annotations

import pytest

from chatcluster.backends.kafka.settings import KafkaSettings, faults


def test_the_defaults_have_no_fault() -> None:
    assert faults(KafkaSettings()) == []


@pytest.mark.parametrize("acks", ["0", "1", "-1", ""])
def test_durable_is_on_all_copies_and_nothing_less(acks: str) -> None:
    (fault,) = faults(KafkaSettings(acks=acks))
    assert fault.startswith(f"kafka.acks = {acks!r}: only 'all' is allowed")

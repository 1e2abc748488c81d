"""What a session may do when, and which names may be part of keys."""

from __future__ import annotations

import pytest

from chatcluster.core.codes import Refused
from chatcluster.core.frames import Hello, Ping, Type
from chatcluster.core.session import Phase, admit, check_channel, check_identity


@pytest.mark.parametrize(
    ("phase", "frame", "code"),
    [
        (Phase.NEW, Type("c"), "not_authenticated"),
        (Phase.GREETING, Hello("r"), "already_authenticated"),
        (Phase.OPEN, Hello("r"), "already_authenticated"),
    ],
)
def test_what_is_refused(phase, frame, code):
    with pytest.raises(Refused) as refused:
        admit(phase, frame)
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("phase", "frame"),
    [(Phase.NEW, Hello("r")), (Phase.NEW, Ping()), (Phase.GREETING, Type("c")), (Phase.OPEN, Type("c"))],
)
def test_what_is_admitted(phase, frame):
    admit(phase, frame)


@pytest.mark.parametrize("channel", ["", "a b", "a\n", "a/b", "{a}", "a:b", "*", "x" * 129])
def test_a_channel_that_could_break_out_of_a_key_does_not_exist(channel):
    with pytest.raises(Refused) as refused:
        check_channel(channel)
    assert refused.value.code == "no_such_channel"


def test_channels_that_may_exist():
    check_channel("general")
    check_channel("0193-ab_c.d")


@pytest.mark.parametrize(("tenant", "user"), [("a/b", "u"), ("", "u"), ("t", ""), ("t", "u" * 129), ("t" * 129, "u")])
def test_a_tenant_cannot_reach_into_another(tenant, user):
    with pytest.raises(Refused) as refused:
        check_identity(tenant, user)
    assert refused.value.code == "unauthorized"


def test_identities_that_are_fine():
    check_identity("acme", "alice/1")

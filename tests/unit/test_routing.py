from __future__ import annotations

from chatcluster.core.ids import Minter, id_time
from chatcluster.core.routing import proposal, wanted_route

NOW = 1_790_000_000_000


def test_the_route_goes_up_at_the_limit_and_down_below_the_floor_only() -> None:
    assert wanted_route("inbox", 499, up=500, down=400) == "inbox"
    assert wanted_route("inbox", 500, up=500, down=400) == "channel"
    assert wanted_route("channel", 400, up=500, down=400) == "channel"
    assert wanted_route("channel", 399, up=500, down=400) == "inbox"


def test_a_proposal_is_a_function_of_its_trigger_so_that_an_old_one_is_void_by_age() -> None:
    trigger = Minter(5).mint(NOW)

    proposed = proposal("t", "c", "channel", trigger)

    assert proposed == proposal("t", "c", "channel", trigger)
    assert id_time(proposed.id) == NOW
    assert proposed.id != trigger
    assert proposed.id != proposal("t", "c", "channel", Minter(5).mint(NOW + 1)).id

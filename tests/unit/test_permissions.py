from __future__ import annotations

import pytest

from chatcluster.core.permissions import may_add, may_delete, may_edit, may_leave, may_remove, may_rename
from chatcluster.core.records import Role

ROLES: list[Role] = ["owner", "admin", "member"]


@pytest.mark.parametrize("role", ROLES)
def test_nobody_changes_a_direct_channel(role: Role) -> None:
    assert not may_rename("direct", role)
    assert not may_add("direct", role)
    assert not any(may_remove("direct", role, target) for target in ROLES)
    assert not may_leave("direct")


def test_owners_and_admins_look_after_a_group() -> None:
    assert [may_rename("group", role) for role in ROLES] == [True, True, False]
    assert [may_add("group", role) for role in ROLES] == [True, True, False]
    assert may_leave("group")


def test_nobody_removes_an_equal_or_higher_but_the_owner() -> None:
    assert [may_remove("group", "owner", target) for target in ROLES] == [True, True, True]
    assert [may_remove("group", "admin", target) for target in ROLES] == [False, False, True]
    assert [may_remove("group", "member", target) for target in ROLES] == [False, False, False]


def test_words_are_their_authors() -> None:
    assert may_edit("ann", "ann")
    assert not may_edit("ann", "bob")


def test_a_message_is_deleted_by_its_author_and_in_groups_by_admins() -> None:
    assert may_delete("direct", "member", "ann", "ann")
    assert not may_delete("direct", "member", "ann", "bob")
    assert [may_delete("group", role, "ann", "bob") for role in ROLES] == [True, True, False]

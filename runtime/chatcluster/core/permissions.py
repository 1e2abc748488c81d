"""Who may do what in a channel: roles as data, decisions as plain functions.

A direct channel has two equals for ever: nobody is added, removed or leaves, and it has no name. A group is
private: who is not a member does not learn that it exists, so nobody joins it on his own.
"""

from __future__ import annotations

from chatcluster.core.records import Kind, Role

RANK: dict[Role, int] = {"member": 0, "admin": 1, "owner": 2}


def may_rename(kind: Kind, role: Role) -> bool:
    return kind == "group" and role != "member"


def may_add(kind: Kind, role: Role) -> bool:
    return kind == "group" and role != "member"


def may_remove(kind: Kind, role: Role, target: Role) -> bool:
    """An owner removes anybody, an admin only members. (Oneself: ``may_leave``.)"""
    return kind == "group" and (role == "owner" or RANK[role] > RANK[target])


def may_leave(kind: Kind) -> bool:
    """Owners too: a group without an owner is looked after through the server API."""
    return kind == "group"


def may_edit(user: str, author: str) -> bool:
    """A body is its author's: no role puts words into another's mouth."""
    return user == author


def may_delete(kind: Kind, role: Role, user: str, author: str) -> bool:
    """The author, and in groups owners and admins."""
    return user == author or (kind == "group" and role != "member")

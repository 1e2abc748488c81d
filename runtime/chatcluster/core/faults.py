"""A fault of ours in one line. Pure."""

from __future__ import annotations


def told(error: BaseException) -> str:
    """Its kind and where it arose, for a log: never its text or its stack, which may hold a client's data or a secret.

    ``OverflowError at /…/reads.py:113``.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else "unknown place"
    return f"{type(error).__name__} at {where}"

"""``chatcluster audit``: its exit codes and what it prints."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from chatcluster.app.commands.audit import command
from chatcluster.client.recorder import Recorder
from chatcluster.core.frames import Ack, Send, WireMessage


def history(path: Path, *, lose: bool) -> Path:
    with Recorder(path) as recorder:
        ada = recorder.observer(f"ada-{path.stem}", user="ada")
        ada.opened()
        ada.out(Send("r1", f"c-{path.stem}", "m1", "hi"))
        ada.got(Ack("r1", f"c-{path.stem}", "10" if lose else "11", "", False))
        message = WireMessage("11", f"c-{path.stem}", "ada", "m1", "", "hi")
        ada.final(f"c-{path.stem}", [] if lose else [message])
    return path


def test_kept_promises_exit_with_0(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, [str(history(tmp_path / "good.jsonl", lose=False))])
    assert result.exit_code == 0, result.output
    assert "every promise that this history can show was kept" in result.output
    assert "no acked loss" in result.output


def test_broken_promises_exit_with_1_and_show_witnesses(tmp_path: Path) -> None:
    good, bad = history(tmp_path / "good.jsonl", lose=False), history(tmp_path / "bad.jsonl", lose=True)
    result = CliRunner().invoke(command, [str(good), str(bad)])
    assert result.exit_code == 1
    assert "promise 1, no acked loss" in result.output
    assert '"t":"acked","client":"ada-bad"' in result.output


def test_json_has_everything(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["--json", str(history(tmp_path / "bad.jsonl", lose=True))])
    assert result.exit_code == 1
    outcome = json.loads(result.output)
    assert [violation["promise"] for violation in outcome["violations"]] == [1]
    assert outcome["violations"][0]["witnesses"][0]["id"] == "10"
    assert outcome["counts"]["missing"] == 1
    assert outcome["unchecked"] == []


def test_a_file_that_is_no_history_exits_with_2_and_is_named(tmp_path: Path) -> None:
    path = tmp_path / "odd.jsonl"
    path.write_text("{}\n")
    result = CliRunner().invoke(command, [str(path)])
    assert result.exit_code == 2
    assert "odd.jsonl: line 1" in result.output

"""promote, rollback and history on a real registry (SQLite), without models in its versions."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from threading import Lock

import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from sg3flow.cli.commands import app
from sg3flow.registry import alias_records, aliases
from sg3flow.registry.alias_records import AliasChange
from sg3flow.registry.aliases import REGISTERED, ROLLED_BACK, past_holders, read_alias_changes
from sg3flow.tracking.mlflow_store import CHAMPION, connect, results_of


def _row(value: float, error: float = 0.1, **changes) -> dict:
    row = {
        "metric": "fd_random1k_full",
        "value": value,
        "standard_error": error,
        "higher_is_better": False,
        "reference_sha256": "r",
        "detector_sha256": "d",
        "num_generated": 1000,
        "num_reference": 9,
        "seed": 0,
    }
    return row | changes


@pytest.fixture
def store(empty_database, tmp_path, monkeypatch):
    """A registry of its own with the model toy: version 1 champion, 2 better, 3 within noise."""
    copy = tmp_path / "mlflow.db"
    copy.write_bytes(empty_database.read_bytes())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{copy}")
    monkeypatch.chdir(tmp_path)
    store = connect()
    store.client.create_registered_model("toy")
    for row in (_row(5.0), _row(4.0), _row(3.9), _row(1.0, reference_sha256="other")):
        _add(store, {"sg3flow.metric": row["metric"], "sg3flow.kimg": "10"}, row)
    aliases.change_alias(store, "toy", CHAMPION, "1", how=REGISTERED, why="there was none")
    return store


def _add(store, tags: dict, row: dict | None = None) -> None:
    results = {f"sg3flow.result.{row['metric']}": json.dumps(row)} if row else {}
    store.client.create_model_version("toy", "file:///nowhere", tags=tags | results)


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def _champion(store) -> str:
    return aliases.current_aliases(store, "toy")[CHAMPION]


def test_promote_sets_champion_to_a_better_version_and_records_it(store):
    result = run("promote", "toy", 2, "--reason", "asked for by the team")
    assert result.exit_code == 0, result.output
    assert "champion of toy is version 2, before version 1" in result.output
    assert _champion(store) == "2"
    last = read_alias_changes(store, "toy")[-1]
    assert (last.alias, last.origin, last.target, last.how) == (CHAMPION, "1", "2", "promote")
    assert "asked for by the team; champion: fd_random1k_full 4 is better" in last.why
    assert last.who and not last.forced
    again = run("promote", "toy", "@champion")
    assert again.exit_code == 0 and "is the champion of toy already" in again.output
    assert len(read_alias_changes(store, "toy")) == 2


def test_the_gate_holds_until_it_is_overridden_with_a_reason(store):
    assert run("promote", "toy", 2).exit_code == 0
    refused = run("promote", "toy", 3)
    assert refused.exit_code == 1
    assert "not better than its 4 (" in refused.stderr
    assert "; --force --reason TEXT overrides the gate" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    assert _champion(store) == "2"
    nameless = run("promote", "toy", 3, "--force")
    assert nameless.exit_code == 1 and "--force needs --reason" in nameless.stderr
    forced = run("promote", "toy", 3, "--force", "--reason", "nicer whiskers")
    assert forced.exit_code == 0 and "by force" in forced.output
    last = read_alias_changes(store, "toy")[-1]
    assert last.forced and last.why.startswith("nicer whiskers; version 2 stays champion")


def test_what_cannot_be_compared_is_not_promoted(store):
    result = run("promote", "toy", 4)
    assert result.exit_code == 1 and "the reference set differ" in result.stderr
    result = run("promote", "toy", 2, "--metric", "fid50k_full")
    assert result.exit_code == 1
    assert "was not measured by 'fid50k_full'" in result.stderr
    assert "but by fd_random1k_full" in result.stderr
    _add(store, {})
    result = run("promote", "toy", 5)
    assert result.exit_code == 1 and "it was not registered by sg3flow" in result.stderr
    assert _champion(store) == "1" and len(read_alias_changes(store, "toy")) == 1


def test_rollback_goes_back_through_the_champions(store):
    assert run("promote", "toy", 2).exit_code == 0
    assert run("promote", "toy", 3, "--force", "--reason", "x").exit_code == 0
    first = run("rollback", "toy", "--reason", "green cats")
    assert first.exit_code == 0, first.output
    assert "champion of toy is version 2 again, before version 3" in first.output
    assert read_alias_changes(store, "toy")[-1].why == "green cats"
    assert "version 1 again" in run("rollback", "toy").output
    last = run("rollback", "toy")
    assert last.exit_code == 1 and "no earlier champion of toy is on record" in last.stderr
    assert _champion(store) == "1"


def test_rollback_skips_deleted_versions_and_changes_by_others(store):
    assert run("promote", "toy", 2).exit_code == 0
    store.client.set_registered_model_alias("toy", CHAMPION, "3")  # another tool
    store.client.delete_model_version("toy", "2")
    result = run("rollback", "toy")
    assert "champion of toy is version 1 again, before version 3" in result.output


def test_history_shows_versions_and_changes(store, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert run("promote", "toy", 2, "--reason", "better fur").exit_code == 0
    assert run("rollback", "toy", "--reason", "green cats").exit_code == 0
    out = run("history", "toy").output
    assert "5 ± 0.1" in out and "4 ± 0.1" in out
    assert "better fur" in out and "green cats" in out
    # Version 1 was champion twice, version 2 once.
    assert len(re.findall(r"20..-..-.. ..:.., (?:20..-..-.. ..:..|now)", out)) == 3
    assert out.count(", now") == 1
    assert "note:" not in out
    store.client.set_registered_model_alias("toy", CHAMPION, "3")
    store.client.set_registered_model_alias("toy", "canary", "3")
    out = run("history", "toy").output
    assert (
        "note: champion is at version 3, and the last recorded change set it to 1: another tool"
        in out
    )
    assert "note: canary is at version 3, which sg3flow did not set" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("promote", "tyo", 1), "no registered model 'tyo' (did you mean 'toy'?); there are: toy"),
        (("rollback", "tyo"), "no registered model 'tyo'"),
        (("history", "tyo"), "no registered model 'tyo'"),
        (("promote", "toy", 9), "toy has no version 9; it has 1, 2, 3, 4"),
        (("promote", "toy", 0), "toy has no version 0"),
        (("promote", "toy", "champoin"), "not 'champoin' (did you mean 'champion'?)"),
        (("promote", "toy", "1.5"), "a version is a number or one of champion"),
    ],
)
def test_unknown_names_end_in_one_line(store, arguments, words):
    result = run(*arguments)
    assert result.exit_code == 1
    assert words in result.stderr and len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "command", [("promote", "toy", 1), ("rollback", "toy"), ("history", "toy")]
)
def test_no_registry_ends_in_one_line(tmp_path, monkeypatch, command):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    away = run(*command)
    assert away.exit_code == 1 and "http://127.0.0.1:9 cannot be reached" in away.stderr
    assert len(away.stderr.strip().splitlines()) == 1
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'none.db'}")
    absent = run(*command)
    assert absent.exit_code == 1 and "no tracking database" in absent.stderr
    assert not (tmp_path / "none.db").exists()


def test_changes_at_once_leave_all_their_records_and_the_last_one_wins(store, monkeypatch):
    set_alias, one_at_a_time, changed = MlflowClient.set_registered_model_alias, Lock(), []

    def noted(client, name, alias, version):
        with one_at_a_time:
            set_alias(client, name, alias, version)
            changed.append(version)

    def change(version: str) -> str:
        return aliases.change_alias(
            connect(), "toy", CHAMPION, version, how="promote", why="at once"
        )

    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", noted)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(change, ["2", "3", "2", "3"]))
    recorded = [c for c in read_alias_changes(store, "toy") if c.why == "at once"]
    assert sorted(c.target for c in recorded) == sorted(changed)
    assert set(changed) == {"2", "3"} and _champion(store) == changed[-1]
    assert len({c.when for c in recorded}) == len(recorded)


def test_the_other_caller_gets_a_warning(store, monkeypatch):
    set_alias = store.client.set_registered_model_alias

    def overtaken(name, alias, version):
        set_alias(name, alias, version)
        monkeypatch.undo()
        aliases.change_alias(store, name, alias, "3", how="promote", why="faster")

    monkeypatch.setattr(store.client, "set_registered_model_alias", overtaken)
    warning = aliases.change_alias(store, "toy", CHAMPION, "2", how="promote", why="slow")
    assert "was changed at the same time" in warning and "it is at version 3" in warning


def test_a_change_that_fails_leaves_no_record(store, monkeypatch):
    def fails(*arguments):
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(store.client, "set_registered_model_alias", fails)
        with pytest.raises(OSError, match="full"):
            aliases.change_alias(store, "toy", CHAMPION, "2", how="promote", why="x")
    assert len(read_alias_changes(store, "toy")) == 1 and _champion(store) == "1"


def test_a_record_changed_by_hand_is_named(store):
    line = store.client.get_model_version("toy", "1").tags["sg3flow.aliases"]
    store.client.set_model_version_tag("toy", "1", "sg3flow.aliases", f"{line}\nmine")
    result = run("history", "toy")
    assert result.exit_code == 1
    assert "tag sg3flow.aliases of toy version 1 has a line" in result.stderr
    assert "'mine'; delete it to continue" in result.stderr
    # An error has changed nothing.
    assert run("promote", "toy", 2).exit_code == 1 and _champion(store) == "1"
    store.client.set_model_version_tag("toy", "1", "sg3flow.aliases", line)
    assert run("promote", "toy", 2).exit_code == 0 and _champion(store) == "2"


def _alias_tags(store, version: str) -> dict[str, str]:
    tags = store.client.get_model_version("toy", version).tags
    return {key: value for key, value in tags.items() if key.startswith("sg3flow.aliases")}


def test_the_changes_of_a_version_are_one_readable_tag(store):
    assert run("promote", "toy", 2, "--reason", "better fur: longer").exit_code == 0
    assert run("rollback", "toy").exit_code == 0
    tags = _alias_tags(store, "1")
    assert list(tags) == ["sg3flow.aliases"]
    first, second = tags["sg3flow.aliases"].splitlines()
    assert re.fullmatch(r"20\S+ champion - -> 1, register by \w+: there was none", first)
    assert re.fullmatch(r"20\S+ champion 2 -> 1, rollback by \w+: back from version 2", second)
    assert not [key for key in store.client.get_registered_model("toy").tags if "sg3flow" in key]
    assert "better fur: longer; champion:" in read_alias_changes(store, "toy")[1].why


@pytest.mark.parametrize("who", ["ana", "ana: the first", ""])
@pytest.mark.parametrize("forced", [False, True])
def test_a_record_is_read_as_it_was_written(who, forced):
    change = AliasChange(
        "canary", None, "7", "promote", who, "a\nb: c, d by e", "2026-01-01", forced
    )
    again = AliasChange.from_line(change.line())
    expected = {"ana: the first": "ana the first", "": "unknown"}.get(who, who)
    assert again == replace(change, who=expected, why="a b: c, d by e")


def test_a_record_that_nobody_merged_counts_and_is_merged_later(store, monkeypatch):
    """Another change is being merged: nobody deletes what it may not have read."""
    key = f"sg3flow.aliases.{datetime.now(UTC).strftime('%Y%m%dT%H%M%S.%f')}-abcdef"
    line = AliasChange("canary", None, "2", "promote", "bob", "x", "2026-01-01T00:00").line()
    store.client.set_model_version_tag("toy", "2", key, line)
    assert run("promote", "toy", 2).exit_code == 0
    assert len(_alias_tags(store, "2")) == 3
    assert [c.alias for c in read_alias_changes(store, "toy")] == ["canary", CHAMPION, CHAMPION]
    monkeypatch.setattr(alias_records, "_MERGED_WITHIN", timedelta(0))
    assert run("promote", "toy", 3, "--force", "--reason", "x").exit_code == 0
    assert run("rollback", "toy").exit_code == 0
    assert list(_alias_tags(store, "2")) == ["sg3flow.aliases"]
    assert len(_alias_tags(store, "2")["sg3flow.aliases"].splitlines()) == 3


def test_the_records_of_earlier_versions_count(store):
    """Version 0.2 kept them as JSON in tags of the model."""
    record = {"alias": CHAMPION, "origin": None, "target": "3", "how": "register", "who": "eve"}
    record |= {"why": "long ago", "when": "2026-01-01T00:00:00+00:00", "forced": False}
    key = "sg3flow.move.2026-01-01T000000Z-abcdef"
    store.client.set_registered_model_tag("toy", key, json.dumps(record))
    out = run("history", "toy").output
    assert "eve" in out and out.index("eve") < out.index("there was none")
    assert "version 3 again, before version 1" in run("rollback", "toy").output
    store.client.set_registered_model_tag("toy", key, "{}")
    result = run("history", "toy")
    assert result.exit_code == 1 and f"tag {key} of toy is not a record" in result.stderr


def test_results_of_versions_are_read_in_both_forms(store):
    """One tag for all results, and a tag per metric in versions of 0.2 and before."""
    version = store.client.get_model_version("toy", "1")
    old = results_of(version)
    assert old["fd_random1k_full"]["value"] == 5.0
    newer = {"fd_random1k_full": _row(3.0), "kid": {"metric": "kid", "value": 1.0}}
    store.client.set_model_version_tag("toy", "1", "sg3flow.results", json.dumps(newer))
    assert results_of(store.client.get_model_version("toy", "1")) == old | newer


def test_the_past_holders():
    base = AliasChange(CHAMPION, None, "1", REGISTERED, "me", "", "2026-01-01")
    line = [base, replace(base, origin="1", target="2"), replace(base, origin="2", target="3")]
    assert past_holders(line, CHAMPION, "3") == ["1", "2", "3"]
    back = [*line, replace(base, origin="3", target="2", how=ROLLED_BACK)]
    assert past_holders(back, CHAMPION, "2") == ["1", "2"]
    assert past_holders(back, CHAMPION, "7") == ["1", "2", "7"]
    assert past_holders([replace(base, origin="5")], CHAMPION, "1") == ["5", "1"]
    # Another tool changed it from 2 to 5 in between.
    foreign = [*line[:2], replace(base, origin="5", target="6")]
    assert past_holders(foreign, CHAMPION, "6") == ["1", "2", "5", "6"]
    assert past_holders([], CHAMPION, "4") == ["4"]
    assert past_holders(line, "candidate", None) == []

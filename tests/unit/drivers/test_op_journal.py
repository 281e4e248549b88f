"""The operation journal: two files that take turns, and one run of numbers over both."""

from pathlib import Path

from nexusfs.drivers.op_journal import OpJournal, Record


def fresh(directory: Path, stored: int = 0) -> tuple[OpJournal, list[Record]]:
    """A journal over what is in the directory, and what it recovered."""
    journal = OpJournal(directory)
    records = list(journal.recover(stored))
    if not records:
        journal.restart()
    return journal, records


def payloads(directory: Path, stored: int = 0) -> list[bytes]:
    journal, records = fresh(directory, stored)
    journal.close(stored=False)
    return [record.payload for record in records]


def test_records_are_read_again_in_order_with_their_numbers(tmp_path: Path) -> None:
    journal, _ = fresh(tmp_path)
    for payload in (b"a", b"", b"c" * 10_000):
        journal.append(payload)

    _, records = fresh(tmp_path)

    assert [(r.number, r.payload) for r in records] == [(1, b"a"), (2, b""), (3, b"c" * 10_000)]


def test_records_that_are_stored_are_left_out(tmp_path: Path) -> None:
    journal, _ = fresh(tmp_path)
    for payload in (b"a", b"b", b"c"):
        journal.append(payload)

    assert payloads(tmp_path, stored=2) == [b"c"]
    assert payloads(tmp_path, stored=3) == []


def test_records_of_both_files_follow_each_other(tmp_path: Path) -> None:
    journal, _ = fresh(tmp_path)
    journal.append(b"a")
    journal.turn()
    journal.append(b"b")

    assert payloads(tmp_path) == [b"a", b"b"]


def test_a_file_that_is_used_again_hides_what_was_in_it(tmp_path: Path) -> None:
    journal, _ = fresh(tmp_path)
    for number in range(9):
        journal.append(b"%d" % number)
    journal.turn()
    journal.release()
    journal.append(b"x")
    journal.turn()
    journal.append(b"y")

    assert payloads(tmp_path, stored=9) == [b"x", b"y"]


def test_without_a_free_file_the_journal_does_not_turn(tmp_path: Path) -> None:
    journal, _ = fresh(tmp_path)
    journal.append(b"a")
    journal.turn()
    journal.append(b"b")
    journal.turn()
    journal.append(b"c")

    assert payloads(tmp_path) == [b"a", b"b", b"c"]


def test_what_follows_a_gap_is_left_out(tmp_path: Path) -> None:
    journal, _ = fresh(tmp_path)
    journal.append(b"a")
    journal.append(b"b")
    journal.turn()
    journal.append(b"c")
    path = tmp_path / "ops.0"
    path.write_bytes(path.read_bytes()[:-1] + b"?")

    assert payloads(tmp_path) == [b"a"]


def test_the_journal_goes_on_after_what_was_recovered(tmp_path: Path) -> None:
    journal, _ = fresh(tmp_path)
    for payload in (b"a", b"b", b"c"):
        journal.append(payload)
    again = OpJournal(tmp_path)
    taken = again.recover(0)
    next(taken)

    again.restart()
    again.append(b"d")

    assert payloads(tmp_path, stored=1) == [b"d"]


def test_a_record_says_up_to_where_blobs_were_on_disk(tmp_path: Path) -> None:
    journal, _ = fresh(tmp_path)
    journal.append(b"a")
    journal.settled = 1
    journal.append(b"b")

    _, records = fresh(tmp_path)

    assert [record.settled for record in records] == [0, 1]


def test_a_journal_that_is_closed_as_stored_is_empty(tmp_path: Path) -> None:
    journal, _ = fresh(tmp_path)
    journal.append(b"a")

    journal.close(stored=True)

    assert payloads(tmp_path) == []

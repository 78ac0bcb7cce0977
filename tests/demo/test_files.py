"""Visitors' files: whose they are, how much is kept, what dead servers leave; how long a guess of a password takes."""

import fcntl
import os
from pathlib import Path

import pytest

from demo import files
from demo.files import Files, Visitor, remove_abandoned
from demo.throttle import SECONDS_A_TRY, TRIES, Throttle

ONE, OTHER = Visitor("one", "10.0.0.1"), Visitor("other", "10.0.0.1")
CLIENT = Visitor("address 10.0.0.1", "10.0.0.1", anonymous=True)


def test_a_file_is_its_visitor_s(tmp_path: Path):
    held = Files(tmp_path)
    path = held.save(ONE, "film.mp4", b"film")
    assert held.may(ONE, str(path)) == path
    assert held.may(OTHER, str(path)) is None
    for other in (path.parent, path.parent / ".." / path.parent.name / path.name, "/etc/passwd", ""):
        assert held.may(ONE, str(other)) is None


def test_a_client_s_file_is_the_first_session_s(tmp_path: Path):
    held = Files(tmp_path)
    path = str(held.save(CLIENT, "film.mp4", b"film"))
    assert held.may(CLIENT, path) and held.may(CLIENT, path, "first") and held.may(CLIENT, path, "first")
    assert held.may(CLIENT, path, "second") is None


def test_the_oldest_files_give_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(files, "SMALLEST", 1)
    monkeypatch.setattr(files, "BYTES_EACH", 25)
    monkeypatch.setattr(files, "TOTAL_BYTES", 35)
    held = Files(tmp_path)
    first, second, third = (held.save(ONE, "film.mp4", b"x" * 10) for _ in range(3))
    assert not first.exists() and second.exists() and third.exists()
    fourth, fifth = (held.save(OTHER, "film.mp4", b"x" * 10) for _ in range(2))
    assert not second.exists() and third.exists() and fourth.exists() and fifth.exists()
    assert held.may(ONE, str(second)) is None


def test_files_are_kept_for_a_while(tmp_path: Path):
    held = Files(tmp_path)
    path = held.save(ONE, "film.mp4", b"film")
    held.own(ONE, path, seconds=-1)
    assert held.may(ONE, str(path)) is None
    held.save(ONE, "next.mp4", b"film")
    assert not path.exists()


def test_what_dead_servers_left_is_removed(tmp_path: Path):
    """And nothing else: not a living server's folder, not a link, not a folder of another kind."""
    dead, alive, young, old, other = (tmp_path / f"knobs-{n}" for n in ("dead", "alive", "young", "old", "x"))
    for folder in (dead, alive, young, old):
        folder.mkdir()
    for folder in (dead, alive):
        (folder / files.LOCK).touch()
    os.utime(old, (0, 0))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / files.LOCK).touch()
    other.symlink_to(elsewhere)
    with (alive / files.LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert sorted(remove_abandoned(tmp_path)) == [dead, old]
    assert not dead.exists() and not old.exists()
    assert alive.exists() and young.exists() and (elsewhere / files.LOCK).exists()


def test_after_ten_guesses_there_is_one_every_half_minute():
    now = [0.0]
    throttle = Throttle(clock=lambda: now[0])
    for _ in range(TRIES):
        assert throttle.wait("a", "x") == 0
        throttle.wrong("a")
    assert throttle.wait("a", "x") == pytest.approx(SECONDS_A_TRY)
    assert throttle.wait("b", "x") == 0
    throttle.right("friend")
    assert throttle.wait("a", "friend") == 0
    now[0] = SECONDS_A_TRY
    assert throttle.wait("a", "x") == 0
    throttle.wrong("a")
    assert throttle.wait("a", "x") == pytest.approx(SECONDS_A_TRY)

"""Files written whole, synced and swept; sets that fill links and mount points; what is no ordinary file."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from training.data import writing
from training.data.writing import whole_folder
from training.files import read_plain_file, sync_tree, write_whole


def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list of what is synced from now on: the paths of files and folders, in order."""
    seen: list[str] = []
    right = os.fsync

    def note(descriptor: int) -> None:
        seen.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        right(descriptor)

    monkeypatch.setattr("os.fsync", note)
    return seen


def test_the_name_of_a_file_is_synced_after_its_content(tmp_path, monkeypatch):
    seen = synced(monkeypatch)
    write_whole(tmp_path / "a" / "b" / "file", b"content")
    folders = [path for path in seen if not path.endswith(".part")]
    assert folders == [str(tmp_path), str(tmp_path / "a"), str(tmp_path / "a" / "b")]
    assert seen.index(next(path for path in seen if path.endswith(".part"))) < len(seen) - 1
    assert (tmp_path / "a" / "b" / "file").read_bytes() == b"content"


def test_a_set_is_synced_before_it_appears(tmp_path, monkeypatch):
    seen = synced(monkeypatch)
    with whole_folder(tmp_path / "set") as folder:
        (folder / "images").mkdir()
        (folder / "images" / "0.png").write_bytes(b"0")
    names = [Path(path).name for path in seen]
    assert names[0] == "0.png"
    assert {"images", folder.name} <= set(names[1:3])
    assert seen[-1] == str(tmp_path)


def test_parts_of_killed_writers_go_and_those_of_the_living_stay(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from training import files\n"
        "part, descriptor = files._new_part(Path(sys.argv[1])); print(part.name, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "x[1].json")]
    writers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    names = [writer.stdout.readline().strip() for writer in writers if writer.stdout]
    writers[0].kill()
    writers[0].wait()
    write_whole(tmp_path / "x[1].json", b"{}")
    assert {path.name for path in tmp_path.iterdir()} == {"x[1].json", names[1]}
    writers[1].kill()
    for writer in writers:
        writer.communicate()
    write_whole(tmp_path / "x[1].json", b"{}")
    assert [path.name for path in tmp_path.iterdir()] == ["x[1].json"]


def test_links_pipes_devices_and_large_files_are_not_read(tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "zero").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe")
    assert read_plain_file(tmp_path / "file", 5) == b"12345"
    for name in ("link", "zero", "pipe", "none"):
        with pytest.raises(OSError, match=name):
            read_plain_file(tmp_path / name)
    with pytest.raises(OSError, match="5 bytes and at most 4"):
        read_plain_file(tmp_path / "file", 4)
    sync_tree(tmp_path)  # does not wait for them


def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path):
    (tmp_path / "mine").write_bytes(b"mine")
    (tmp_path / "out").symlink_to(tmp_path / "mine")
    write_whole(tmp_path / "out", b"new")
    assert (tmp_path / "mine").read_bytes() == b"mine"
    assert (tmp_path / "out").read_bytes() == b"new"


def fill(out: Path) -> None:
    with whole_folder(out) as folder:
        (folder / "images").mkdir()
        (folder / "images" / "0.png").write_bytes(b"0")
        (folder / "index.csv").write_text("file\n0.png\n")


def filled(out: Path) -> list[str]:
    return sorted(str(path.relative_to(out)) for path in out.rglob("*"))


def test_a_link_to_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    fill(tmp_path / "out")
    assert (tmp_path / "out").is_symlink()
    assert filled(tmp_path / "disk") == ["images", "images/0.png", "index.csv"]
    with pytest.raises(ValueError, match=r"out, a link to .*disk, is there already and is no empty folder"):
        fill(tmp_path / "out")


def test_a_link_to_nothing_is_refused_before_the_work(tmp_path):
    (tmp_path / "out").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"out, a link to .*nowhere, leads to nothing"), whole_folder(tmp_path / "out"):
        pytest.fail("the work began")


@pytest.mark.parametrize("known", [True, False], ids=["mounted", "bound from the same disk"])
def test_what_cannot_give_way_is_filled_from_inside(tmp_path, monkeypatch, known):
    """As an empty mount point: its name is taken, so that no other folder can be renamed to it."""
    out = tmp_path / "volume"
    (out / "lost+found").mkdir(parents=True)  # as a new disk comes
    right = Path.replace

    def busy(self: Path, target: Path) -> Path:
        if target == out:
            raise OSError(16, "Device or resource busy")
        return right(self, target)

    monkeypatch.setattr(Path, "replace", busy)
    monkeypatch.setattr(Path, "is_mount", lambda self: known and self == out)
    fill(out)
    assert filled(out) == ["images", "images/0.png", "index.csv", "lost+found"]
    shutil.rmtree(out)
    out.mkdir()

    def full(source: Path, target: Path) -> None:
        if source.name == "index.csv":
            raise OSError(28, "No space left on device")
        shutil.copytree(source, target)

    monkeypatch.setattr(writing.shutil, "move", full)
    with pytest.raises(OSError, match="No space"):
        fill(out)
    assert filled(out) == []
    assert [path.name for path in tmp_path.iterdir()] == ["volume"]

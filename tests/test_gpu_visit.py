"""A visit to a GPU: steps end in time, and what training wrote comes back in parts."""

import io
import json
import sys
import tarfile
import time

import pytest

from tests import gpu_visit
from tests.gpu_visit import Visit, pack


def test_steps_end_in_time_and_say_how(tmp_path):
    visit = Visit(tmp_path / "out", time.monotonic() + 60)
    copies: list[int] = []
    began = time.monotonic()
    visit.step("quick", [sys.executable, "-c", "print('seen')"], 20)
    visit.step("fails", [sys.executable, "-c", "raise SystemExit(3)"], 20)
    visit.step("long", [sys.executable, "-c", "import time; time.sleep(60)"], 1, lambda: copies.append(1))
    assert time.monotonic() - began < 30 and copies
    lines = [json.loads(line) for line in (tmp_path / "out" / "visit.jsonl").read_text().splitlines()]
    assert [(line["step"], line["cut_off"]) for line in lines] == [("quick", False), ("fails", False), ("long", True)]
    assert [line["status"] for line in lines] == [0, 3, -15] and visit.failed == 2
    assert "seen" in (tmp_path / "out" / "log.txt").read_text()


def test_the_run_folder_comes_back_whole_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_visit, "PART", 40_000)
    run, out = tmp_path / "run", tmp_path / "out"
    (run / "grids").mkdir(parents=True)
    out.mkdir()
    (out / "run.tar.4").write_bytes(b"of an earlier, larger copy")
    for name, size in (("generator.safetensors", 30_000), ("state-01.pt", 9), ("state-02.pt", 50_000)):
        (run / name).write_bytes(bytes(k % 251 for k in range(size)))
    (run / "grids" / "000-samples.png").write_bytes(b"grid")
    pack(run, out)
    parts = sorted(out.glob("run.tar.*"), key=lambda part: int(part.suffix[1:]))
    assert [part.name for part in parts] == ["run.tar.0", "run.tar.1", "run.tar.2"]
    with tarfile.open(fileobj=io.BytesIO(b"".join(part.read_bytes() for part in parts))) as tar:
        assert sorted(tar.getnames()) == ["generator.safetensors", "grids/000-samples.png", "state-02.pt"]
        stored = tar.extractfile("state-02.pt")
        assert stored is not None and stored.read() == (run / "state-02.pt").read_bytes()
    (run / "state-03.pt").write_bytes(bytes(300_000))
    with pytest.raises(ValueError, match="the run folder has"):
        pack(run, out)

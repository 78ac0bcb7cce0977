"""`python -m demo`: starts on a file of one's own, says what is wrong, cleans up after itself."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import webbrowser
from pathlib import Path
from typing import Any

import httpx
import pytest
import tyro

from demo.__main__ import Demo, free_port, main, open_page
from demo.models import SHOWN_FIRST, Models, bundled, load_model
from giraffe_hd.fast.config import GeneratorConfig
from giraffe_hd.fast.generator import Generator
from training.checkpoint import save_generator


def answer_of(process: subprocess.Popen, url: str) -> Any:
    """Return what a server answers once it is up."""
    until = time.monotonic() + 120
    while True:
        try:
            return httpx.get(url, timeout=30).raise_for_status().json()
        except httpx.TransportError:
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.2)


def test_it_serves_a_file_of_ones_own_and_leaves_nothing_behind(tmp_path: Path):
    file = tmp_path / "mine.safetensors"
    save_generator(file, Generator(GeneratorConfig()), card={"title": "My own"})
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    port = free_port("127.0.0.1", 18_000)
    command = [sys.executable, "-m", "demo", "--checkpoint", str(file), "--port", str(port), "--no-open"]
    bare = {name: value for name, value in os.environ.items() if not name.startswith("GRADIO")}
    with subprocess.Popen(command, env=bare | {"TMPDIR": str(scratch)}, stderr=subprocess.PIPE) as process:
        try:
            models = answer_of(process, f"http://127.0.0.1:{port}/live/models")
            assert [(model["name"], model["title"]) for model in models] == [("mine", "My own")]
            assert list(scratch.iterdir())  # Gradio's folder, while it runs
            process.send_signal(signal.SIGTERM)
            _, told = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0
    assert list(scratch.iterdir()) == []
    assert f"http://127.0.0.1:{port} is ready" in told.decode()


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="processor time is read from /proc")
def test_an_idle_server_leaves_the_processor_alone(tmp_path: Path):
    file = tmp_path / "mine.safetensors"
    save_generator(file, Generator(GeneratorConfig()), card={"title": "My own"})
    port = free_port("127.0.0.1", 7760)
    command = [sys.executable, "-m", "demo", "--checkpoint", str(file), "--port", str(port), "--no-open"]
    process = subprocess.Popen(command)

    def seconds_of_processor() -> float:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    try:
        answer_of(process, f"http://127.0.0.1:{port}/live/models")
        shares = []
        while len(shares) < 8 and (not shares or min(shares) > 0.05):  # its start may not be over yet
            before = seconds_of_processor()
            time.sleep(2)
            shares.append((seconds_of_processor() - before) / 2)
        assert min(shares) <= 0.05, shares
    finally:
        process.terminate()
        assert process.wait(20) == 0


def test_a_signal_ends_it_in_time_whatever_it_does():
    """Here the main thread sleeps on, and a thread that must be waited for works."""
    script = """
import signal, threading, time
from demo.__main__ import end_in_time
signal.signal(signal.SIGTERM, lambda *_: None)
threading.Thread(target=time.sleep, args=(100,)).start()
end_in_time(0.5)
print("ready", flush=True)
time.sleep(100)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"ready\n"
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"checkpoint": [Path("nowhere/lost.safetensors")]}, "no checkpoint at nowhere/lost.safetensors"),
        ({"checkpoint": [Path(__file__)]}, "test_main.py is not a whole safetensors file"),
        ({"device": "gpu"}, "--device gpu cannot be used here .* give --device cpu"),
        ({"port": -1}, "there is no port -1"),
    ],
)
def test_what_cannot_be_served_is_said_before_anything_starts(arguments, says):
    with pytest.raises(ValueError, match=says):
        main(Demo(**arguments))


def test_several_checkpoints_are_given_one_by_one_and_runs_are_named_by_their_folders(tmp_path: Path):
    files = [tmp_path / run / "generator.safetensors" for run in ("cars", "mix")]
    for file in files:
        save_generator(file, Generator(GeneratorConfig()))
    given = tyro.cli(Demo, args=[word for file in files for word in ("--checkpoint", str(file))])
    assert given.checkpoint == files
    assert [model.name for model in Models([load_model(file, "cpu") for file in files])] == [
        "cars-generator",
        "mix-generator",
    ]


def test_the_page_opens_with_the_best_pictures_and_lists_the_others_by_name_and_size():
    names = [path.stem for path in bundled()]
    assert tuple(names[: len(SHOWN_FIRST)]) == SHOWN_FIRST
    others = [name.rpartition("-") for name in names[len(SHOWN_FIRST) :]]
    assert len(others) > 1
    assert others == sorted(others, key=lambda parts: (parts[0], int(parts[2])))


def test_the_browser_opens_once_the_port_answers(monkeypatch: pytest.MonkeyPatch):
    opened = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        open_page("127.0.0.1", port, "the page", patience=0.3)
        assert opened == []
        waiting = threading.Thread(target=open_page, args=("127.0.0.1", port, "the page"))
        waiting.start()
        time.sleep(0.2)
        assert opened == []
        server.listen()
        waiting.join(timeout=30)
    assert opened == ["the page"]


def test_a_taken_port_gives_way_to_the_next():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port("127.0.0.1", port) > port
    assert free_port("127.0.0.1", 0) > 1023  # any

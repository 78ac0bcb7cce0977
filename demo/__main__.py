"""`python -m demo`: the web page on the bundled checkpoints, or on generator files of your own."""

import logging
import os
import shutil
import signal
import socket
import sys
import time
import webbrowser
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import NoReturn

import torch
import tyro
import uvicorn

from demo.app import configure, serve
from demo.files import server_folder
from demo.models import Models, bundled, load_model
from training.command import exit_code
from training.imaging.decoders import DECODERS
from training.runtime.malloc import spare_memory

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Serve the page with the knobs."""

    checkpoint: tyro.conf.UseAppendAction[list[Path]] = field(default_factory=list)
    """A generator's .safetensors file; may be given again for more. Without it, all that are bundled."""
    port: int = 7860
    """If it is taken, the next free one."""
    host: str = "127.0.0.1"
    """Another address opens the page to other machines and needs a password."""
    password: str | None = None
    """Asked for before anything is shown; the name beside it may be any."""
    root_path: str = os.environ.get("GRADIO_ROOT_PATH", "")
    """Where a reverse proxy shows the page: a path (/knobs), or the whole address (https://example.org/knobs). Proxies
    that send X-Forwarded-Prefix and X-Forwarded-Host need none."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where to compute: cpu, cuda, cuda:1; by default a GPU where there is one."""
    open: bool = bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") or sys.platform == "darwin")
    """Open the page in a browser; on a machine without a screen it is not."""


def free_port(host: str, first: int) -> int:
    """Return the first free port from `first` on, any for 0; ValueError if the next hundred are taken."""
    if not 0 <= first <= 65535:
        raise ValueError(f"there is no port {first}; give --port from 0 (any free one) to 65535")
    for port in range(first, min(first + 100, 65536)):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ValueError(f"no free port from {first} on at {host}; give another with --port or another --host")


def open_page(host: str, port: int, address: str, patience: float = 30.0) -> None:
    """Open the page in a browser as soon as its port answers; not at all if it does not within `patience` seconds."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        try:
            socket.create_connection((host, port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            webbrowser.open(address)
            return


def end_in_time(seconds: float = 2.5) -> None:
    """Make SIGTERM end the process after `seconds` at the latest, whatever it does; its folder is removed then too.

    The signal's own handler runs between two steps of the main thread, which may wait for a job that takes minutes.
    Where even this thread gets no turn, the system's alarm ends the process two seconds later.
    """
    told, tells = socket.socketpair()
    tells.setblocking(False)
    signal.set_wakeup_fd(tells.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)

    def wait() -> None:
        with tells:  # which must stay open until the end
            while signal.SIGTERM not in told.recv(64):
                pass
            signal.setitimer(signal.ITIMER_REAL, seconds + 2)
            Thread(target=DECODERS.close, daemon=True, name="end decoders").start()
            time.sleep(seconds)
            leave()

    Thread(target=wait, daemon=True, name="end in time").start()


def leave() -> NoReturn:
    """End this process at once; another one removes the folder of visitors' files."""
    remove = shutil.which("rm")
    if remove is not None:
        os.posix_spawn(remove, [remove, "-rf", str(server_folder())], os.environ)
    os._exit(0)


def main(args: Demo) -> None:
    """Load the generators and serve until interrupted."""
    start = time.perf_counter()
    spare_memory(arenas=4, large=8_000_000)
    try:
        torch.empty(0, device=args.device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(f"--device {args.device} cannot be used here ({reason}); give --device cpu") from error
    port = free_port(args.host, args.port)
    models = Models([load_model(path, args.device) for path in args.checkpoint or bundled()])
    app = serve(models, host=args.host, password=args.password, root_path=args.root_path)
    address = f"http://{args.host if ':' not in args.host else f'[{args.host}]'}:{port}"
    log.info("%s is ready after %.1f s; stop it with Ctrl-C", address, time.perf_counter() - start)
    if args.open:
        Thread(target=open_page, args=(args.host, port, address), daemon=True).start()
    end_in_time()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that temporary files are removed then too
    try:
        uvicorn.run(app, host=args.host, port=port, **configure())
    finally:
        DECODERS.close()
        models.close()


def run() -> NoReturn:
    """Run the command and end the process at once: taking the interpreter down takes seconds on a busy machine."""
    args = tyro.cli(Demo)
    try:
        code = exit_code(lambda: main(args))
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    shutil.rmtree(server_folder(), ignore_errors=True)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run()

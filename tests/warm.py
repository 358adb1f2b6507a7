"""Commands as forks of a process that has imported what they import from others: numpy and scipy, or torch as well.

Each is a process of its own and imports the program itself anew; it spares the 0.6 s of processor time that numpy, scipy and
matplotlib take to import, and the 4 s of torch and transformers. What a test says of a start itself (what is imported, which
folder Python looks into first, what the environment decides) it asks of the console script.
"""

import atexit
import contextlib
import gc
import importlib
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path

LIGHT = (
    *(
        "numpy",
        "scipy.optimize",
        "scipy.special",
        "scipy.linalg",
        "scipy.stats",
        "pydantic",
        "yaml",
        "typer.main",
    ),
    *("matplotlib.figure", "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg", "jinja2"),
)
HEAVY = (*LIGHT, "torch", "transformers.models.gpt2.modeling_gpt2", "safetensors.torch", "tokenizers")
SCRIPT = Path(sys.executable).with_name("scaling")


class Server:
    """The process whose forks the commands are; it starts with the first of them, and with the variables of now.

    Args:
        modules: what it imports.
    """

    def __init__(self, modules):
        self.modules, self.process, self.environment = modules, None, dict(os.environ)

    def begin(self, words, *, cwd=None, environment=None):
        """Fork `scaling` with these words, in a folder and with these variables besides; returns the Command."""
        environment = {**os.environ, **(environment or {})}
        if self.process is None:
            self._start()
        out, err = (tempfile.TemporaryFile() for _ in range(2))  # noqa: SIM115 - the command's
        heard, told = os.pipe()
        message = pickle.dumps((list(map(os.fspath, words)), os.fspath(cwd or Path.cwd()), environment))
        with os.fdopen(told):
            socket.send_fds(
                self.socket, [len(message).to_bytes(8, "big")], [out.fileno(), err.fileno(), told]
            )
            self.socket.sendall(message)
        return Command(words, os.fdopen(heard), out, err)

    def close(self):
        """End it."""
        if self.process is not None:
            self.socket.close()
            self.process.wait()

    def _start(self):
        self.socket, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", __file__, str(theirs.fileno()), *self.modules], stdin=subprocess.DEVNULL,
                env=self.environment, pass_fds=[theirs.fileno()],
            )  # fmt: skip


class Command:
    """A command that was begun, with the methods of subprocess.Popen that tests use."""

    def __init__(self, words, told, out, err):
        self.args, self._told, self._out, self._err = words, told, out, err
        self.pid, self.returncode = int(told.readline()), None

    def poll(self):
        """Exit status, negative for a signal; None while it runs."""
        if self.returncode is None and select.select([self._told], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout=None):
        """Exit status once it has ended."""
        if self.returncode is None:
            if not select.select([self._told], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout)
            self.returncode = int(self._told.readline())
            self._told.close()
        return self.returncode

    def communicate(self, timeout=None):
        """What it wrote, once it has ended."""
        self.wait(timeout)
        found = []
        for file in (self._out, self._err):
            file.seek(0)
            found.append(file.read().decode())
        return tuple(found)

    def send_signal(self, number):
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        """Kill it."""
        self.send_signal(signal.SIGKILL)


def _serve(place, modules):
    for name in modules:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    awake, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for who tests
    told = {}
    while True:
        ready, _, _ = select.select([place, awake], [], [])
        if awake in ready:
            os.read(awake, 4096)
            told = {pid: pipe for pid, pipe in told.items() if not _ended(pid, pipe)}
        if place in ready:
            size, files, _, _ = socket.recv_fds(place, 8, 3)
            if not size:
                return
            message = b""
            while len(message) < int.from_bytes(size, "big"):
                message += place.recv(2**20)
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                for pipe in (place.fileno(), awake, wake, files[2], *told.values()):
                    os.close(pipe)
                _be(*pickle.loads(message), *files[:2])
            os.write(files[2], f"{pid}\n".encode())
            told[pid] = files[2]
            for file in files[:2]:
                os.close(file)


def _ended(pid, pipe):
    found, status = os.waitpid(pid, os.WNOHANG)
    if found:
        os.write(pipe, f"{os.waitstatus_to_exitcode(status)}\n".encode())
        os.close(pipe)
    return bool(found)


def _be(words, cwd, environment, out, err):
    """Run the command as the console script does, and end."""
    status = 1
    try:
        for number in (signal.SIGCHLD, signal.SIGINT):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        for file, number in ((out, 1), (err, 2)):
            os.dup2(file, number)
            os.close(file)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(cwd)
        torch, threads = sys.modules.get("torch"), environment.get("OMP_NUM_THREADS")
        if torch is not None and threads:
            torch.set_num_threads(int(threads))
        sys.argv = [str(SCRIPT), *words]
        from scaling.cli import main

        try:
            main()
        except SystemExit as leaving:
            status = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        threading._shutdown()
        atexit._run_exitfuncs()
    except BaseException:
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])

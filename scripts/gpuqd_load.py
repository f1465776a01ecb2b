# SPDX-License-Identifier: MIT
"""A gpuqd with something to do: the examples as clients, texts of the model in models/tiny, and
now and then a mistake. For scripts that need a gpuqd to look at."""

import contextlib
import itertools
import os
import subprocess
import tempfile
import threading

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MODEL = os.path.join(ROOT, "models/tiny")
DATA = os.path.join(ROOT, "client/examples/data")


def opening(n, seed):
    """A text long enough for steps of its own, and not yet in the cache."""
    names = ["Maria", "Paul", "Betty", "Stephen", "Sara", "Leon"]
    return f"{n} {seed} Once there lived " + ", ".join(
        f"{names[(n * k + int(seed)) % len(names)]} who had {k} ladders" for k in range(1, 9)) + "."


class Load:
    """Runs from `with Load(build) as load:` to the end of the block; load.socket is gpuqd's."""

    def __init__(self, build, seconds=600):
        self.build = os.path.abspath(build)
        self.seconds = str(seconds)  # that examples run at most, should nobody end them
        self.stack = contextlib.ExitStack()
        self.ending = threading.Event()

    def program(self, name):
        return os.path.join(self.build, name)

    def start(self, *command):
        """Starts a program that ends with the block."""
        process = subprocess.Popen(command, env=self.env, stdin=subprocess.DEVNULL,
                                   stdout=self.log, stderr=self.log)
        self.stack.callback(process.wait)
        self.stack.callback(process.terminate)
        return process

    def repeat(self, pause_s, command):
        """Runs the command that command(n) tells the nth time, whatever becomes of it."""
        def loop():
            for n in itertools.count():
                if self.ending.is_set():
                    break
                with subprocess.Popen(command(n), env=self.env, stdin=subprocess.DEVNULL,
                                      stdout=subprocess.DEVNULL, stderr=self.log) as process:
                    while process.poll() is None and not self.ending.wait(0.05):
                        pass
                    process.terminate()
                self.ending.wait(pause_s)

        thread = threading.Thread(target=loop)
        thread.start()
        self.stack.callback(thread.join)

    def wait_ready(self):
        """Until the device and the model are there."""
        done = subprocess.run([self.program("tools/gpuq"), "status", "--wait-ready", "60"],
                              env=self.env, text=True, capture_output=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{done.stderr}gpuqd's log:\n{self.log_text()}")

    def log_text(self):
        with open(self.log.name, encoding="utf-8", errors="replace") as file:
            return file.read()[-4000:]

    def __enter__(self):
        with self.stack:
            folder = self.stack.enter_context(tempfile.TemporaryDirectory(prefix="gpuq-load-"))
            self.log = self.stack.enter_context(
                open(os.path.join(folder, "log"), "w", encoding="utf-8"))
            self.socket = os.path.join(folder, "gpuq-0")
            self.env = dict(os.environ, GPUQ_SOCKET=self.socket, XDG_STATE_HOME=folder)
            self.start(self.program("daemon/gpuqd"), "--socket", self.socket,
                       "--device", "cpu", "--model", f"tiny={MODEL}")
            self.wait_ready()
            self.start_clients()
            self.stack = self.stack.pop_all()
        return self

    def start_clients(self):
        gpuq = self.program("tools/gpuq")
        self.stack.callback(self.ending.set)
        self.start(self.program("client/score"), os.path.join(DATA, "prices.csv"),
                   os.path.join(DATA, "weights.csv"), self.seconds)
        self.start(self.program("client/pipeline"), self.seconds)
        for seed in "12":
            self.repeat(0, lambda n, seed=seed: [
                gpuq, "generate", "-m", "tiny", "-p", opening(n, seed), "-n", "300",
                "--ignore-eos", "--temp", "1", "--seed", seed])
        self.repeat(0.3, lambda n: [gpuq, "ping", "-n", "20000"])
        self.repeat(1, lambda n: [gpuq, "unload", "absent"])

    def __exit__(self, *unused):
        self.ending.set()
        self.stack.close()

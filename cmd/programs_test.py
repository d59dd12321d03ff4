#!/usr/bin/env python3
"""vireo and vireoctl as their users meet them: real processes, a real socket, a guest of a few instructions.

usage: programs_test.py VIREO VIREOCTL MODES_ELF [TEST...]
Needs /dev/kvm of any kind; without one the tests that start a guest are skipped.
"""

import contextlib
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import time
import unittest

VIREO, VIREOCTL, GUEST = (os.path.abspath(path) for path in sys.argv[1:4])
LIMIT = 60  # Seconds; only ever reached by a failing test.


def have_kvm():
    return os.access("/dev/kvm", os.R_OK | os.W_OK)


def guest(mode, *flags):
    """The command line of a guest that does what the first letter of `mode` says (tests/guest/modes)."""
    return [VIREO, "run", "--kernel", GUEST, "--cmdline", mode, "--memory", "32M", "--log-level", "error", *flags]


def run(args, text=None):
    done = subprocess.run(args, input=text or b"", stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=LIMIT)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def context_switches(pid):
    """How often each thread has gone to sleep so far."""
    counts = {}
    for thread in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(FileNotFoundError):  # It may end meanwhile.
            with open(f"/proc/{pid}/task/{thread}/status", encoding="utf-8") as file:
                fields = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
            counts[fields["Name"] + " " + thread] = int(fields["voluntary_ctxt_switches"])
    return counts


def assert_idle(test, process):
    """No thread of `process` does anything of itself: one that polls, if only once a second, never passes. The end of what
    was asked before may be late on a busy machine, hence more than one try."""
    for _ in range(4):
        before = context_switches(process.pid)
        time.sleep(5)
        woken = {name: count - before.get(name, 0) for name, count in context_switches(process.pid).items()}
        if sum(woken.values()) < 4:
            return
    test.fail(f"woken in 5 seconds: {woken}")


class BadInput(unittest.TestCase):
    """One line on stderr that names what is wrong, and status 1."""

    def check(self, args, *words):
        status, out, err = run([VIREO, *args])
        self.assertEqual((status, out), (1, ""), err)
        lines = [line for line in err.splitlines() if line.startswith("vireo: ")]
        self.assertEqual(len(lines), 1, err)
        for word in words:
            self.assertIn(word, lines[0])

    def test_unknown_flag(self):
        self.check(["run", "--memroy", "1G"], "--memroy", "--memory")

    def test_missing_kernel(self):
        self.check(["run", "--kernel", "/nonexistent/vmlinuz"], "/nonexistent/vmlinuz", "No such file")

    def test_config_file(self):
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            file.write('{"memory": {"sise_bytes": 1}}')
            file.flush()
            self.check(["run", "--config", file.name], file.name, "sise_bytes")

    def test_memory_range(self):
        self.check(["run", "--kernel", GUEST, "--memory", "1M"], "memory", "32 MiB")

    def test_vcpu_range(self):
        self.check(["run", "--kernel", GUEST, "--cpus", "65"], "cpus.boot", "64")

    def test_socket_path_too_long(self):
        self.check(["run", "--kernel", GUEST, "--api", "unix:/tmp/" + "x" * 120], "at most 107 bytes")

    def test_socket_directory(self):
        self.check(["serve", "--api", "unix:/nonexistent/vm.sock"], "unix:/nonexistent/vm.sock")

    @unittest.skipUnless(have_kvm(), "no /dev/kvm")
    def test_not_a_kernel(self):
        self.check(["run", "--kernel", "/etc/passwd"], "/etc/passwd", "not a")

    @unittest.skipUnless(have_kvm(), "no /dev/kvm")
    def test_missing_disk(self):
        self.check(["run", "--kernel", GUEST, "--disk", "path=/nonexistent.raw,format=raw"],
                   "disks[0]", "/nonexistent.raw")


class Texts(unittest.TestCase):

    def test_help_and_version(self):
        for program in VIREO, VIREOCTL:
            status, out, err = run([program, "--help"])
            self.assertEqual((status, err), (0, ""))
            self.assertIn("usage: " + os.path.basename(program), out)
            status, out, _ = run([program, "--version"])
            self.assertEqual(status, 0)
            self.assertIn(os.path.basename(program) + " 0.", out)

    def test_nobody_listens(self):
        status, _, err = run([VIREOCTL, "--api", "unix:/nonexistent.sock", "info"])
        self.assertEqual((status, err), (2, "vireoctl: unix:/nonexistent.sock: no VM listens there\n"))


@unittest.skipUnless(have_kvm(), "no /dev/kvm")
class ExitStatus(unittest.TestCase):

    def check(self, status, mode, *flags):
        result = run(guest(mode, "--console", "stdio", *flags))
        self.assertEqual(result[0], status, result)
        self.assertEqual(result[1].replace("\r", ""), f"mode {mode[0]}\n")

    def test_power_off(self):
        self.check(0, "power off")

    def test_panic(self):
        self.check(3, "crash", "--on-crash", "stop")

    def test_triple_fault(self):
        self.check(3, "triple fault", "--on-crash", "stop")

    def test_disk_of_a_legacy_guest(self):
        with tempfile.NamedTemporaryFile() as image:
            image.truncate(1 << 20)
            disk = f"path={image.name},format=raw"
            self.check(3, "legacy disk", "--on-crash", "stop", "--disk", disk)  # It looks for its ports in vain.
            self.check(0, "legacy disk", "--on-crash", "stop", "--disk", disk + ",legacy=on")
            image.seek(512)
            self.assertEqual(image.read(4), b"OLD!")


@unittest.skipUnless(have_kvm(), "no /dev/kvm")
class Stdio(unittest.TestCase):

    def test_pipes_carry_the_console(self):
        status, out, err = run(guest("echo", "--console", "stdio"), b"hello\x1dq")
        self.assertEqual(status, 0, err)
        self.assertIn("hello\x1d", out)  # No terminal, no escape key.

    def test_escape_key_ends_the_machine_and_the_terminal_is_given_back(self):
        keyboard, terminal = pty.openpty()
        before = termios.tcgetattr(terminal)
        process = subprocess.Popen(guest("halt", "--console", "stdio"), stdin=terminal, stdout=terminal)
        self.addCleanup(lambda: process.poll() is None and (process.kill(), process.wait()))
        shown = b""
        while b"mode h" not in shown:
            shown += os.read(keyboard, 100)
        self.assertNotEqual(termios.tcgetattr(terminal), before)
        os.write(keyboard, b"\x1d\x1d")
        self.assertEqual(process.wait(LIMIT), 0)
        self.assertEqual(termios.tcgetattr(terminal), before)
        os.close(keyboard)
        os.close(terminal)


class ApiCase(unittest.TestCase):
    """A process that is called over its socket."""

    def setUp(self):
        self.folder = self.enterContext(tempfile.TemporaryDirectory(prefix="vireo_test_", dir="/tmp"))
        self.socket = os.path.join(self.folder, "vm.sock")
        self.api = "unix:" + self.socket

    def start(self, args, **more):
        process = subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, **more)
        self.addCleanup(lambda: process.poll() is None and (process.kill(), process.wait()))
        return process

    def start_guest(self, mode, *flags):
        """Started and seen to run: the console has shown its banner."""
        process = self.start(guest(mode, "--api", self.api, *flags))
        while not os.path.exists(self.socket):
            self.assertIsNone(process.poll(), "vireo has ended")
        status, out, err = self.ctl("console", "--until", "mode " + mode[0], "--timeout", str(LIMIT))
        self.assertEqual(status, 0, err)
        return process

    def start_serve(self):
        process = self.start([VIREO, "serve", "--api", self.api, "--log-level", "error"])
        while not os.path.exists(self.socket):
            self.assertIsNone(process.poll(), "vireo has ended")
        return process

    def ctl(self, *args, text=None):
        return run([VIREOCTL, "--api", self.api, *args], text)

    def start_watching(self):
        """A `vireoctl events` that stays connected; waits for the first event, if there is one."""
        watcher = subprocess.Popen([VIREOCTL, "--api", self.api, "events"], stdout=subprocess.PIPE)
        self.addCleanup(watcher.stdout.close)
        self.addCleanup(lambda: watcher.poll() is None and (watcher.kill(), watcher.wait()))
        return watcher


class WithoutGuest(ApiCase):

    def test_costs_nothing_while_idle(self):
        process = self.start_serve()
        self.assertEqual(self.ctl("info")[0], 0)
        self.start_watching()
        self.assertEqual(self.ctl("info")[0], 0)
        assert_idle(self, process)

    def test_client_that_hangs_does_not_hold_up_the_end(self):
        process = self.start_serve()
        self.assertEqual(self.ctl("info")[0], 0)
        watcher = self.start_watching()
        watcher.send_signal(signal.SIGSTOP)
        self.assertEqual(self.ctl("stop")[:2], (0, "stopped\n"))
        self.assertEqual(process.wait(LIMIT), 0)


@unittest.skipUnless(have_kvm(), "no /dev/kvm")
class Api(ApiCase):

    def state(self):
        return json.loads(self.ctl("info", "--json")[1])["state"]

    def end(self, process):
        status, _, err = self.ctl("stop", "--wait")
        self.assertEqual(status, 0, err)
        self.assertEqual(process.wait(LIMIT), 0)

    def test_every_call(self):
        process = self.start_guest("halt", "--name", "web1")
        self.assertEqual(os.stat(self.socket).st_mode & 0o777, 0o600)
        info = json.loads(self.ctl("info", "--json")[1])
        self.assertEqual(info["state"], "RUNNING")
        self.assertEqual(info["config"]["name"], "web1")
        self.assertEqual(info["pid"], process.pid)
        self.assertIn("web1", self.ctl("info")[1])
        self.assertEqual(self.ctl("pause")[1], "paused\n")
        self.assertEqual(self.ctl("pause")[1], "paused\n")
        self.assertEqual(self.ctl("resume")[1], "running\n")
        self.assertEqual(self.ctl("reset")[1], "running\n")
        self.assertEqual(json.loads(self.ctl("info", "--json")[1])["resets"], "1")
        stats = json.loads(self.ctl("stats", "--json")[1])
        self.assertGreater(int(stats["vcpus"][0]["exits"]), 0)
        self.assertEqual(self.ctl("shutdown")[1], "running\n")  # The guest does not listen.
        status, events, _ = self.ctl("events", "--until", "paused")
        self.assertEqual(status, 0)
        self.assertIn("state changed: running", events)
        self.assertIn("vireo 0.", self.ctl("version")[1])
        self.assertEqual(self.ctl("boot")[0], 0)
        self.end(process)
        self.assertFalse(os.path.exists(self.socket))

    def test_late_console_shows_the_boot_and_types(self):
        process = self.start_guest("echo")
        status, out, err = self.ctl("console", "--until", "xyz", text=b"xyz")
        self.assertEqual(status, 0, err)
        self.assertIn("mode e", out)
        status, out, err = self.ctl("console", text=b"q")  # Ends with the machine.
        self.assertEqual(status, 0, err)
        self.assertEqual(process.wait(LIMIT), 0)

    def test_live_socket_is_refused_and_stale_one_replaced(self):
        first = self.start_guest("halt")
        status, _, err = run(guest("halt", "--api", self.api))
        self.assertEqual(status, 1)
        self.assertIn(f"{self.api}: in use by a live VM (process {first.pid})", err)
        self.assertEqual(self.state(), "RUNNING")
        first.kill()
        first.wait()
        self.assertTrue(os.path.exists(self.socket))
        # The socket file is there already, so wait for an answer rather than for the file.
        second = self.start(guest("halt", "--api", self.api))
        while self.ctl("console", "--until", "mode h", "--timeout", str(LIMIT))[0] != 0:
            self.assertIsNone(second.poll())
        self.end(second)

    def test_serve_makes_the_machine_that_is_asked_for(self):
        process = self.start_serve()
        self.assertEqual(self.state(), "EMPTY")
        config = os.path.join(self.folder, "vm.json")
        with open(config, "w", encoding="utf-8") as file:
            json.dump({"boot": {"kernel": "/nonexistent", "cmdline": "p"}}, file)
        status, _, err = self.ctl("create", "--config", config)
        self.assertEqual(status, 1)
        self.assertIn("/nonexistent", err)
        with open(config, "w", encoding="utf-8") as file:
            json.dump({"memory": {"size_bytes": 33554432}, "boot": {"kernel": GUEST, "cmdline": "p"}}, file)
        self.assertEqual(self.ctl("create", "--config", config)[:2], (0, "created\n"))
        self.assertEqual(self.ctl("boot", "--operation-id", "b1")[0], 0)
        self.assertEqual(process.wait(LIMIT), 0)

    def test_costs_nothing_while_the_guest_is_idle(self):
        process = self.start_guest("halt")
        watcher = self.start_watching()
        self.assertIn(b"created", watcher.stdout.readline())
        assert_idle(self, process)
        self.end(process)

    def test_inherited_socket(self):
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self.socket)
            listener.listen()
            fd = listener.fileno()
            process = self.start(guest("halt", "--api", f"fd={fd}"), pass_fds=[fd])
        self.end(process)
        self.assertTrue(os.path.exists(self.socket))  # Whoever made it removes it.

    def test_signals(self):
        process = self.start_guest("halt")
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(ProcessLookupError):
            while process.poll() is None:  # Two that are pending at once are one.
                process.send_signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.05)
        self.assertEqual(process.returncode, 0)
        self.assertFalse(os.path.exists(self.socket))

    def test_guest_that_ignores_the_power_button_is_stopped_in_time(self):
        process = self.start_guest("halt", "--shutdown-timeout", "100ms")
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(LIMIT), 0)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + sys.argv[4:])

#!/usr/bin/env python3
"""What is ours alone: an interrupted run of vireo-img leaves no half file, and SIGUSR1 asks how far it has come.

usage: img_interrupted_test.py VIREO_IMG [TEST...]
"""

import os
import random
import signal
import subprocess
import tempfile
import time
import unittest

import agreement
from agreement import LIMIT, VIREO_IMG


class Interrupted(unittest.TestCase):
    """What is ours alone: an interrupted run leaves no half file, and SIGUSR1 asks how far it has come."""

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(dir=os.environ.get("TEST_TMPDIR"))
        self.addCleanup(self.folder.cleanup)
        with open(os.path.join(self.folder.name, "a.raw"), "wb") as file:
            file.write(random.Random(1).randbytes(64 << 20))

    def start(self, *args):
        process = subprocess.Popen([VIREO_IMG, *args], cwd=self.folder.name, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.addCleanup(process.kill)
        target = os.path.join(self.folder.name, args[-1])
        deadline = time.monotonic() + LIMIT
        while not (os.path.exists(target) and os.path.getsize(target) > 0 and os.stat(target).st_blocks > 4000):
            self.assertIsNone(process.poll(), "it has ended before it could be interrupted")
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.01)
        return process, target

    def test_signals(self):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            for fmt in ("raw", "qcow2"):
                process, target = self.start("convert", "-r", "8M", "-O", fmt, "a.raw", "x")
                process.send_signal(number)
                process.communicate(timeout=LIMIT)
                self.assertEqual(process.returncode, -number)
                self.assertFalse(os.path.exists(target))

    def test_existing_target_stays(self):
        with open(os.path.join(self.folder.name, "x"), "wb") as file:
            file.write(b"x" * (64 << 20))
        process, target = self.start("convert", "-n", "-r", "8M", "-O", "raw", "a.raw", "x")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=LIMIT)
        self.assertEqual(os.path.getsize(target), 64 << 20)

    def test_progress(self):
        process, _ = self.start("convert", "-r", "16M", "-O", "raw", "a.raw", "x")
        process.send_signal(signal.SIGUSR1)
        _, err = process.communicate(timeout=LIMIT)
        self.assertEqual(process.returncode, 0)
        self.assertRegex(err.decode(), r"^    \([0-9]+\.[0-9]{2}/100%\)\n$")


if __name__ == "__main__":
    agreement.main()

"""What the tests of this folder that set vireo-img beside qemu-img 7.2 share.

The first word of their command lines is the path of vireo-img. The same command line is run in two copies of
one folder: what they print, their exit status and the images that they leave must be the same, but for the
program's name and for what is listed as ours. Skipped where qemu-img is missing or is no 7.2.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

VIREO_IMG = os.path.abspath(sys.argv[1])
QEMU_IMG = "/usr/bin/qemu-img"
QEMU_IO = "/usr/bin/qemu-io"
LIMIT = 120  # Seconds; only ever reached by a failing test.


def have_qemu():
    if not (os.access(QEMU_IMG, os.X_OK) and os.access(QEMU_IO, os.X_OK)):
        return False
    version = subprocess.run([QEMU_IMG, "--version"], stdout=subprocess.PIPE).stdout.decode()
    return "version 7.2" in version


def must(*args, cwd):
    done = subprocess.run(args, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=LIMIT)
    assert done.returncode == 0, (args, done.stdout)
    return done.stdout.decode()


@unittest.skipUnless(have_qemu(), "qemu-img 7.2 and qemu-io are not installed")
class Agreement(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(dir=os.environ.get("TEST_TMPDIR"))
        self.addCleanup(self.folder.cleanup)
        self.start = os.path.join(self.folder.name, "start")
        os.mkdir(self.start)

    def img(self, *args):
        """Prepares the folder that both programs will find."""
        return must(QEMU_IMG, *args, cwd=self.start)

    def io(self, name, *commands, fmt="qcow2"):
        flags = [flag for command in commands for flag in ("-c", command)]
        return must(QEMU_IO, "-f", fmt, *flags, name, cwd=self.start)

    def run_in(self, program, name, args):
        folder = os.path.join(self.folder.name, name)
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run(["cp", "-a", "--sparse=always", self.start, folder], check=True)
        done = subprocess.run([program, *args], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              timeout=LIMIT)
        # How many steps of progress there are is a matter of timing.
        steps = rb"^(    \(0\.00/100%\)\r)(?:    \([0-9.]+/100%\)\r)*(    \(100\.00/100%\)\r\n)$"
        if args[0] == "convert":
            done.stdout = re.sub(steps, rb"\1\2", done.stdout)
        text = [re.sub(r"\b(qemu|vireo)-img\b", "IMG", output.decode("utf-8", "replace"))
                for output in (done.stdout, done.stderr)]
        return done.returncode, text[0], text[1]

    def agree(self, line, images=(), keep=False):
        """`line` does the same with both; `images` (name, format) are then equal and sound."""
        args = line if isinstance(line, list) else line.split()
        with self.subTest(line=line):
            theirs = self.run_in(QEMU_IMG, "theirs", args)
            ours = self.run_in(VIREO_IMG, "ours", args)
            self.assertEqual(theirs, ours)
            left = [sorted(os.listdir(os.path.join(self.folder.name, name))) for name in ("theirs", "ours", "start")]
            # A failed run of ours leaves no half file.
            self.assertEqual(left[1], left[0] if ours[0] == 0 else left[2])
            for name, fmt in images:
                self.same_image(name, fmt)
        if keep:
            shutil.rmtree(self.start)
            shutil.copytree(os.path.join(self.folder.name, "theirs"), self.start)

    def same_image(self, name, fmt):
        must(QEMU_IMG, "compare", "-f", fmt, "-F", fmt, f"theirs/{name}", f"ours/{name}", cwd=self.folder.name)
        if fmt == "qcow2":
            must(QEMU_IMG, "check", "-f", fmt, f"ours/{name}", cwd=self.folder.name)
        shown = [must(QEMU_IMG, "info", "--output=json", "-f", fmt, name, cwd=os.path.join(self.folder.name, where))
                 for where in ("theirs", "ours")]
        shown = [re.sub(r'"actual-size": \d+', "", text) for text in shown]
        self.assertEqual(shown[0], shown[1])

    def agree_on_all(self, lines):
        for line in lines:
            self.agree(line)

    def chain(self):
        """c.qcow2 over the shorter b.qcow2 over the shorter a.raw; z.qcow2 is the same, compressed."""
        self.img("create", "-q", "-f", "raw", "a.raw", "8M")
        self.io("a.raw", "write -P 1 1M 1M", "write -P 9 5M 12k", fmt="raw")
        self.img("create", "-q", "-f", "qcow2", "-b", "a.raw", "-F", "raw", "b.qcow2", "10M")
        self.io("b.qcow2", "write -P 2 64k 64k", "write -z 256k 128k", "write -P 3 9M 64k", "write -P 4 3M 4k")
        self.img("create", "-q", "-f", "qcow2", "-b", "b.qcow2", "-F", "qcow2", "c.qcow2", "12M")
        self.io("c.qcow2", "write -P 2 640k 64k", "write -z -u 768k 128k", "write -P 7 11M 8k")
        self.img("convert", "-c", "-O", "qcow2", "c.qcow2", "z.qcow2")


def main(words=1):
    """Runs the tests that the words behind the first `words` of the command line name, or all."""
    unittest.main(argv=[sys.argv[0], *sys.argv[1 + words:]])

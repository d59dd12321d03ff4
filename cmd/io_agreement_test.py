#!/usr/bin/env python3
"""vireo-io beside qemu-io: the same scripts on copies of the same images, and the same output.

usage: io_agreement_test.py VIREO_IO ENCRYPTED_IMAGE [TEST...]
Skipped where qemu-io and qemu-img are not installed. Times are blotted out; all else is compared byte for byte: standard
output, the error stream, the exit status, and with qemu-img compare what the image holds afterwards.
"""

import gzip
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

VIREO_IO = os.path.abspath(sys.argv[1])
# Made by QEMU beforehand: qemu-img measures its CPU time to make one, and gives up where that is coarse.
ENCRYPTED_IMAGE = os.path.abspath(sys.argv[2])
LIMIT = 60  # Seconds; only ever reached by a failing test.

IMAGES = {
    "plain.qcow2": ["-f", "qcow2", "plain.qcow2", "1M"],
    "small.qcow2": ["-f", "qcow2", "-o", "cluster_size=4k,lazy_refcounts=on", "small.qcow2", "1M"],
    "old.qcow2": ["-f", "qcow2", "-o", "compat=0.10", "old.qcow2", "1M"],
    "base.raw": ["-f", "raw", "base.raw", "1M"],
    "base.qcow2": ["-f", "qcow2", "base.qcow2", "1M"],
    "clone.qcow2": ["-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "clone.qcow2"],
    "larger.qcow2": ["-f", "qcow2", "-b", "base.raw", "-F", "raw", "larger.qcow2", "2M"],
}


def blot(text):
    """Times and rates differ from run to run."""
    text = re.sub(r"\d+ ops; [0-9.:]+( sec)? \([^)]*\)", "X ops; TIME", text)
    return re.sub(r"^(\d+),(\d+),[0-9:.]+,[0-9.]+,[0-9.]+$", r"\1,\2,TIME", text, flags=re.M)


class Agreement(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.qemu_io = shutil.which("qemu-io")
        if cls.qemu_io is None or shutil.which("qemu-img") is None:
            raise unittest.SkipTest("qemu-io and qemu-img are not installed")
        cls.top = tempfile.TemporaryDirectory()
        os.environ["TMPDIR"] = cls.top.name  # For -s.
        cls.bin = os.path.join(cls.top.name, "bin")
        os.mkdir(cls.bin)
        # Called by the same name, both say the same one in prompts and messages.
        os.symlink(VIREO_IO, os.path.join(cls.bin, "qemu-io"))
        cls.images = os.path.join(cls.top.name, "images")
        os.mkdir(cls.images)
        for arguments in IMAGES.values():
            subprocess.run(["qemu-img", "create", "-q", *arguments], cwd=cls.images, check=True)
        with gzip.open(ENCRYPTED_IMAGE) as packed, open(os.path.join(cls.images, "secret.qcow2"), "wb") as image:
            shutil.copyfileobj(packed, image)
        fill = ["write -P 1 0 128k", "write -P 2 512k 4k", "write -z 256k 64k"]
        for name, form in (("base.raw", "raw"), ("base.qcow2", "qcow2")):
            subprocess.run([cls.qemu_io, "-f", form, *sum((["-c", each] for each in fill), []), name], cwd=cls.images,
                           check=True, stdout=subprocess.DEVNULL)

    @classmethod
    def tearDownClass(cls):
        cls.top.cleanup()

    def run_one(self, program, arguments, text):
        directory = tempfile.mkdtemp(dir=self.top.name)
        for name in [*IMAGES, "secret.qcow2"]:
            shutil.copy(os.path.join(self.images, name), directory)
        done = subprocess.run([program, *arguments], cwd=directory, input=text.encode(), stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=LIMIT)
        return directory, (done.returncode, blot(done.stdout.decode()), blot(done.stderr.decode()))

    def check(self, arguments, text="", images=()):
        """Both print the same and leave the same in `images`."""
        theirs, wanted = self.run_one(self.qemu_io, arguments, text)
        ours, got = self.run_one(os.path.join(self.bin, "qemu-io"), arguments, text)
        self.assertEqual(got, wanted, arguments)
        for name in images:
            form = "raw" if name.endswith(".raw") else "qcow2"
            self.assertEqual(0, subprocess.run(
                ["qemu-img", "compare", "-q", "-f", form, "-F", form, os.path.join(theirs, name),
                 os.path.join(ours, name)]).returncode, (arguments, name))
            checked = subprocess.run(["qemu-img", "check", "-q", "-f", form, os.path.join(ours, name)],
                                     stderr=subprocess.PIPE)
            self.assertIn(checked.returncode, (0, 63), (arguments, name, checked.stderr))

    def commands(self, image, *commands, options=(), form=None):
        if form is None:
            form = "raw" if image.endswith(".raw") else "qcow2"
        arguments = ["-f", form, *options]
        for command in commands:
            arguments += ["-c", command]
        images = [] if "-r" in options else [image]
        self.check([*arguments, image], images=images)

    def test_reads_and_patterns(self):
        self.commands("base.qcow2", "read 0 512", "read -v 0 20", "read -v 131064 24", "read -P 1 0 128k",
                      "read -P 1 0 129k", "read -P 0 -s 128k -l 1k 0 256k", "read -q 0 512", "read -C 0 512",
                      "read -qv 0 16", "read -p 0 512", "r 0 1", "read 0x200 0x10", "read 1k 1K", "read 0 1B",
                      "read 0 1.5k", "read 0 0", "read 1023k 1k", options=["-r"])

    def test_reads_that_are_wrong(self):
        for command in ("read 1M 1", "read 1023k 2k", "read -1 1", "read 0 x", "read 0 1x", "read 0 3G", "read 0 1.5",
                        "read 0 99999999999999999999", "read", "read 1", "read 1 2 3", "read -P 300 0 1",
                        "read -P x 0 1", "read -P -1 0 1", "read -z 0 1", "read -P", "read -l 5 0 10", "read -s 5 0 10",
                        "read -P 0 -s 5 -l 10 0 10", "read -P 0 -s 20 0 10", "read -b 1 512", "read -b 0 1",
                        "read -s y -P x 0 1", "read -P x -s y 0 1", "foo", "foo bar", " ", "  read   0    1  ",
                        "readv 0", "readv x 1", "readv 0 x", "readv 0 3G", "readv -z 0 1", "alloc", "alloc x",
                        "alloc 0 x", "length 1", "map 1", "quit 1", "truncate", "truncate x", "discard 0",
                        "discard 0 3G", "discard 2M 1k", "discard 0 1 2", "sleep", "sleep x", "sleep 1x", "help 1 2",
                        "help foo", "sigraise", "sigraise x", "sigraise 999", "break 1", "break foo A",
                        "break read_aio A", "remove_break A", "remove_break", "resume A", "resume", "wait_break",
                        "close 1", "flush 1", "info 1", "aio_flush 1", "abort 1"):
            with self.subTest(command):
                self.commands("plain.qcow2", command, "length")

    def test_writes(self):
        for image in ("plain.qcow2", "small.qcow2", "old.qcow2", "base.raw", "clone.qcow2", "larger.qcow2"):
            with self.subTest(image):
                self.commands(image, "write 0 64k", "write -P 7 100 1000", "write -P 0x17 65530 12", "write -f 512k 512",
                              "write -z 256k 64k", "write -zu 320k 64k", "write -z 1000 5000", "write -q 700k 1",
                              "write -C 700k 1", "w 800k 1k", "discard 0 64k", "discard -C 64k 64k", "discard 100 1000",
                              "discard -q 128k 64k", "d 200k 1", "flush", "f", "read -P 0xcd 800k 1k",
                              "writev -P 3 900k 512 1k 100", "readv -P 3 900k 512 1k 100", "readv -v 900k 8 8",
                              "writev -f 901k 1k", "write 0 0")

    def test_writes_that_are_wrong(self):
        for command in ("write -z -P 1 0 512", "write -z -s x 0 512", "write -n 0 512", "write -u 0 512",
                        "write -b -z 0 512", "write -f -c 0 64k", "write -f -b 0 64k", "write -c 1 512",
                        "write -c 64k 100", "write -s nope 0 512", "write -s /dev/null 0 512", "write 0 3G",
                        "write -z 0 3G", "write -zn 0 3G", "write 1M 512", "write -P x 0", "writev -P x x y", "writev 0",
                        "writev 0 2147483136 512", "writev 1M 512", "aio_write -z 0 64k 64k", "aio_write -u 0 512 512",
                        "aio_write 0 x", "aio_write x 0", "aio_write -x 0 1", "aio_write -i 0 512", "aio_read -i 0 512",
                        "aio_read 0", "aio_read -P 300 0 1"):
            with self.subTest(command):
                self.commands("plain.qcow2", command, "length")

    def test_compressed_writes(self):
        for image in ("plain.qcow2", "small.qcow2", "old.qcow2", "clone.qcow2", "base.raw"):
            with self.subTest(image):
                # Only where nothing is yet: QEMU compresses over nothing else.
                self.commands(image, "write -c -P 9 832k 64k", "read -P 9 832k 64k", "write -P 8 834k 1k",
                              "read -P 8 834k 1k", "read -P 9 835k 61k", "write -c 1k 512", "write -c 640k 512",
                              "write -c 3G 64k")

    def test_a_pattern_file(self):
        self.commands("plain.qcow2", "write -s base.raw 0 256k", "write -s base.raw 1000 300", "read -v 131050 40")

    def test_asynchronous_requests(self):
        self.commands("clone.qcow2", "aio_write -P 5 0 64k", "aio_flush", "aio_read -P 5 0 64k", "aio_flush",
                      "aio_read -P 6 0 512", "aio_flush", "aio_read -v 0 16", "aio_flush", "aio_read 2M 512",
                      "aio_flush", "aio_write 2M 512", "aio_flush", "aio_write -z 64k 64k", "aio_flush", "aio_write -zu 0 64k",
                      "aio_flush", "aio_read -q 0 1k", "aio_flush", "aio_read -C 0 16", "aio_flush", "aio_write -f 3 7 9",
                      "aio_flush")

    def test_a_read_only_disk(self):
        self.commands("plain.qcow2", "write 0 512", "writev 0 512", "aio_write 0 512", "discard 0 512", "truncate 2M",
                      "flush", "read 0 1", options=["-r"])

    def test_facts(self):
        for image in ("plain.qcow2", "small.qcow2", "old.qcow2", "base.raw", "base.qcow2", "clone.qcow2", "larger.qcow2"):
            with self.subTest(image):
                self.commands(image, "info", "i", "length", "l", "map", "alloc 0", "alloc 0 1M", "alloc 1", "a 127k 2k",
                              "write 600k 1k", "map", "alloc 500k 200k")

    def test_resizing(self):
        for image in ("plain.qcow2", "clone.qcow2", "base.raw"):
            with self.subTest(image):
                self.commands(image, "truncate 2M", "length", "t 3M", "read -P 0 1M 2M", "truncate -m foo 4M")
        self.commands("plain.qcow2", "truncate 1000", "truncate -m metadata 512k")

    def test_opening_and_closing(self):
        self.check(["-c", "length", "-c", "open plain.qcow2", "-c", "open plain.qcow2", "-c", "close", "-c", "close",
                    "-c", "open nope", "-c", "open", "-c", "open -o driver=raw plain.qcow2", "-c", "info", "-c", "close",
                    "-c", "open -t foo plain.qcow2", "-c", "open -d foo plain.qcow2", "-c", "open -i foo plain.qcow2",
                    "-c", "open -x plain.qcow2", "-c", "open a b", "-c", "open -o file.filename=plain.qcow2,driver=qcow2",
                    "-c", "length", "-c", "c", "-c", "open -r plain.qcow2", "-c", "write 0 1", "-c", "close", "-c",
                    "open -U plain.qcow2", "-c", "open -rU -o force-share=off plain.qcow2", "-c",
                    "open -rU -o driver=raw,offset=512 -o size=512 plain.qcow2", "-c", "length", "-c", "quit", "-c",
                    "length"])

    def test_names(self):
        for name in ("json:{'driver':'qcow2','file':{'driver':'file','filename':'plain.qcow2'}}",
                     'json:{"driver":"qcow2","file.filename":"plain.qcow2"}', "json:{", "json:[1]", "json:",
                     "json:{'driver':'foo'}", "json:{'driver':'qcow2'}", "file:plain.qcow2", "null-co://", "null-aio://",
                     "foo:bar", "blkdebug::plain.qcow2", "blkdebug:nope:plain.qcow2", "nope", "."):
            with self.subTest(name):
                self.check(["-r", "-c", "length", name])
        for options in ("driver=qcow2,file.filename=plain.qcow2", "file.filename=plain.qcow2",
                        "driver=raw,offset=512,size=1k,file.filename=base.raw", "driver=null-co,size=64k",
                        "driver=null-co,read-zeroes=on", "driver=raw,file.filename=nope", "driver=raw,read-only=on",
                        "driver=qcow2,file.filename=plain.qcow2,foo=1", "driver=qcow2,file.filename=plain.qcow2,file.foo=1",
                        "driver=qcow2,file.filename=plain.qcow2,lazy-refcounts=x",
                        "driver=qcow2,file.filename=base.raw", "driver=file,filename=base.raw,locking=x",
                        "driver=blkdebug,image.driver=null-co,inject-error.0.event=foo",
                        "driver=raw,offset=1M,size=1M,file.filename=base.raw", "driver=raw,size=5,file.filename=base.raw"):
            with self.subTest(options):
                self.check(["-c", "length", "--image-opts", options])

    def test_the_program(self):
        for arguments in (["-r", "-c", "length", "-U", "plain.qcow2"], ["-U", "-c", "length", "plain.qcow2"],
                          ["-n", "-c", "read 0 1", "plain.qcow2"], ["-m", "-c", "read 0 512", "plain.qcow2"],
                          ["-t", "none", "-c", "write 1 5", "-c", "read -v 0 8", "plain.qcow2"],
                          ["-t", "writethrough", "-c", "write 0 5", "plain.qcow2"], ["-t", "foo", "plain.qcow2"],
                          ["-d", "foo", "plain.qcow2"], ["-i", "foo", "plain.qcow2"],
                          ["-d", "ignore", "-c", "write 0 64k", "-c", "discard 0 64k", "-c", "read -P 0xcd 0 64k", "-f", "raw",
                           "base.raw"],
                          ["-i", "io_uring", "-c", "length", "plain.qcow2"], ["-f", "foo", "-c", "length", "plain.qcow2"],
                          ["-f", "raw", "-c", "length", "plain.qcow2"], ["--image-opts", "-f", "raw", "x=y"],
                          ["-c", "length", "base.raw"], ["-s", "-c", "write 0 1k", "-c", "read -P 0xcd 0 1k", "clone.qcow2"],
                          ["-C", "-c", "read 0 64k", "-c", "map", "-c", "read 600k 1k", "-c", "map", "clone.qcow2"],
                          ["-C", "-r", "-c", "length", "plain.qcow2"], ["--cmd", "length", "--read-only", "plain.qcow2"],
                          ["--cmd=length", "--format=qcow2", "plain.qcow2"], ["-c", "help read", "-c", "quit", "-c", "foo"][4:]):
            with self.subTest(arguments):
                self.check(arguments)

    def test_secrets(self):
        self.check(["--object", "foo", "plain.qcow2"])
        opts = "driver=qcow2,file.filename=secret.qcow2,encrypt.key-secret=s0"
        for data, commands in (("data=key", ["read -P 1 0 4k", "write -P 6 4k 8k", "read -P 6 4k 8k"]),
                               ("data=wrong", ["length"])):
            with self.subTest(data):
                self.check(["--object", "secret,id=s0," + data, "--image-opts", *sum((["-c", each] for each in commands), []),
                            opts])
        self.check(["-c", "length", "--image-opts", opts])
        self.check(["-c", "length", "secret.qcow2"])

    def test_the_prompt(self):
        self.check(["plain.qcow2"], text="length\nread 0 1\n\nfoo\nwrite 0 512\nquit\nlength\n", images=["plain.qcow2"])
        self.check(["plain.qcow2"], text="length")
        self.check([], text="open plain.qcow2\nlength\nclose\nlength\n")

    def test_the_list_of_commands(self):
        self.check(["-c", "help"])
        self.check(["-c", "help length", "-c", "help ?", "-c", "help map", "-c", "help l"])

    def test_reopening(self):
        self.check(["-f", "qcow2", *sum((["-c", each] for each in (
            "reopen", "reopen -r", "write 0 512", "reopen -w", "write 0 512", "reopen -r -w", "reopen -c foo",
            "reopen -c none", "write 3 3", "reopen -o foo=1", "reopen -o lazy-refcounts=on", "reopen -o driver=raw",
            "reopen -x", "reopen x", "reopen -c writethrough", "reopen -r -o read-only=on", "reopen -c writeback", "read -v 0 8")),
            []), "plain.qcow2"], images=["plain.qcow2"])

    def test_breakpoints(self):
        self.check(["-c", "break foo A", "-c", "break write_aio A", "-c", "aio_write -P 1 0 512", "-c", "wait_break A", "-c",
                    "resume B", "-c", "resume A", "-c", "aio_flush", "-c", "remove_break A", "-c", "break pwritev B", "-c",
                    "remove_break B", "-c", "write -P 2 0 512", "blkdebug::base.raw", "-f", "raw"], images=["base.raw"])

    def test_overlapping_writes_of_fresh_clusters(self):
        # As QEMU's test 046: a second writer comes while the first is held up in the middle.
        for second in ("0 64k", "32k 64k", "64k 64k", "4k 4k", "60k 8k"):
            with self.subTest(second):
                self.check(["-f", "qcow2", *sum((["-c", each] for each in (
                    "break write_aio A", "aio_write -P 1 0 64k", "wait_break A", f"aio_write -P 2 {second}", "sleep 20",
                    "resume A", "aio_flush")), []), "blkdebug::clone.qcow2"], images=["clone.qcow2"])

    def test_injected_errors_under_qcow2(self):
        for event, script in (("read_aio", ["read 0 64k", "read 512k 4k"]), ("write_aio", ["write 0 64k", "write 0 64k"]),
                              ("l2_load", ["read 0 64k", "read 0 64k"]), ("none", ["read 0 64k", "read 0 64k"])):
            with self.subTest(event):
                self.check(["--image-opts", *sum((["-c", each] for each in script), []),
                            "driver=qcow2,file.driver=blkdebug,file.image.filename=base.qcow2,"
                            f"file.inject-error.0.event={event},file.inject-error.0.once=on"])

    def test_injected_errors(self):
        rules = ("file.inject-error.0.event=write_aio,file.inject-error.0.errno=28,file.inject-error.0.sector=2,"
                 "file.inject-error.0.once=on")
        self.check(["--image-opts", *sum((["-c", each] for each in (
            "write 0 512", "write 1k 512", "write 1k 512", "read 0 512", "aio_write 1k 1k", "aio_flush")), []),
            "driver=raw,file.driver=blkdebug,file.image.filename=base.raw," + rules], images=["base.raw"])
        states = ("file.inject-error.0.event=read_aio,file.inject-error.0.state=2,"
                  "file.set-state.0.event=read_aio,file.set-state.0.state=1,file.set-state.0.new_state=2")
        self.check(["-r", "--image-opts", *sum((["-c", each] for each in (
            "read 0 512", "read 0 512", "read 0 512")), []),
            "driver=raw,file.driver=blkdebug,file.image.filename=base.raw," + states])
        for kind, command in (("flush", "write -f 0 1k"), ("discard", "discard 0 64k"), ("write-zeroes", "write -z 0 64k"),
                              ("read", "read 0 1"), ("write", "write 0 1k")):
            with self.subTest(kind):
                self.check(["--image-opts", "-c", command, "-c", "length",
                            "driver=raw,file.driver=blkdebug,file.image.filename=base.raw,"
                            f"file.inject-error.0.event=none,file.inject-error.0.iotype={kind},"
                            "file.inject-error.0.errno=5,file.inject-error.0.once=on"])


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]])

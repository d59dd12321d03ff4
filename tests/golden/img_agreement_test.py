#!/usr/bin/env python3
"""vireo-img and qemu-img 7.2 side by side: the same command line in two copies of one folder.

usage: img_agreement_test.py VIREO_IMG LUKS_IMAGE [TEST...]
What they print, their exit status and the images that they leave must be the same, but for the program's
name and for what is listed as ours. Skipped where qemu-img is missing or is no 7.2.
"""

import gzip
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

VIREO_IMG = os.path.abspath(sys.argv[1])
LUKS_IMAGE = os.path.abspath(sys.argv[2])  # Compressed; its passphrase is "key".
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


class Map(Agreement):
    def test_chains(self):
        self.chain()
        for name in ("a.raw", "b.qcow2", "c.qcow2", "z.qcow2"):
            for output in ("human", "json"):
                self.agree(f"map --output={output} {name}")

    def test_ranges(self):
        self.chain()
        self.agree_on_all([
            "map -s 1M -l 2M c.qcow2", "map -s 1M -l 2M --output=json c.qcow2", "map -s 100M --output=json c.qcow2",
            "map --start-offset=1000 --max-length 100 --output=json c.qcow2", "map -l 1 --output=json a.raw",
            "map -s 12M --output=json c.qcow2", "map -f raw c.qcow2", "map -U c.qcow2"])

    def test_kinds_of_images(self):
        for name, options in (("small", "cluster_size=512"), ("large", "cluster_size=2M"), ("old", "compat=0.10"),
                              ("pre", "preallocation=metadata")):
            self.img("create", "-q", "-f", "qcow2", "-o", options, name, "5M")
            self.io(name, "write -P 5 1M 200k", "write -P 5 3M 3k", "write -z 1100k 10k")
            self.agree(f"map {name}")
            self.agree(f"map --output=json {name}")

    def test_refusals(self):
        self.chain()
        self.agree_on_all([
            "map", "map nosuch", "map -f foo a.raw", "map a.raw b.qcow2", "map -Q a.raw", "map --nope a.raw", "map -f",
            "map --output=foo a.raw", "map -s 1x a.raw", "map -l 1x a.raw", "map -s 9E a.raw", "map -f qcow2 a.raw"])


class Compare(Agreement):
    def test_chains(self):
        self.chain()
        self.img("convert", "-O", "qcow2", "a.raw", "a.qcow2")
        self.img("convert", "-S", "0", "-O", "raw", "a.raw", "full.raw")
        for flags in ("", "-s", "-q", "-p", "-T none", "-U"):
            for first, second in (("a.raw", "a.raw"), ("a.raw", "b.qcow2"), ("c.qcow2", "z.qcow2"), ("z.qcow2", "c.qcow2"),
                                  ("a.raw", "a.qcow2"), ("full.raw", "a.qcow2"), ("full.raw", "a.raw"),
                                  ("a.qcow2", "b.qcow2")):
                self.agree(f"compare {flags} {first} {second}")

    def test_sizes(self):
        self.chain()
        for name, command in (("longer", "write -z 0 0"), ("more", "write -P 7 11M 64k"), ("zeros", "write -P 0 10M 1M")):
            self.img("convert", "-O", "raw", "a.raw", name)
            self.img("resize", "-q", "-f", "raw", name, "12M")
            self.io(name, command, fmt="raw")
            for flags in ("", "-s", "-q", "-p"):
                self.agree(f"compare {flags} -f raw -F raw a.raw {name}")
                self.agree(f"compare {flags} -f raw -F raw {name} a.raw")

    def test_differences(self):
        self.chain()
        for at in (0, 1500000, 8 * 1024 * 1024 - 1):
            shutil.copy(os.path.join(self.start, "a.raw"), os.path.join(self.start, "d.raw"))
            with open(os.path.join(self.start, "d.raw"), "r+b") as file:
                file.seek(at)
                file.write(b"x")
            self.agree("compare -f raw -F raw a.raw d.raw")
            self.agree("compare -p -f raw -F raw d.raw a.raw")

    def test_refusals(self):
        self.chain()
        self.agree_on_all([
            "compare", "compare a.raw", "compare a.raw a.raw a.raw", "compare a.raw nosuch", "compare nosuch a.raw",
            "compare -f foo a.raw a.raw", "compare -F foo a.raw a.raw", "compare -T foo a.raw a.raw",
            "compare -f qcow2 a.raw a.raw", "compare -f raw -F raw a.raw b.qcow2", "compare -X a.raw a.raw"])


class Measure(Agreement):
    def test_sizes(self):
        for options in ("", "-o cluster_size=4k", "-o cluster_size=512,refcount_bits=64", "-o cluster_size=2M",
                        "-o refcount_bits=1", "-o compat=0.10", "-o backing_file=a.raw,backing_fmt=raw", "-o size=1G"):
            for size in ("0", "1000", "1G", "1T"):
                self.agree(f"measure --size {size} -O qcow2 {options}")
        self.agree_on_all(["measure --size 1G", "measure --size 1000 -O raw", "measure --size 8E", "measure --size foo",
                           "measure --size 1P -O qcow2 -o cluster_size=512", "measure --size 1G -O raw -o size=2G",
                           "measure --size 1G -O raw -o preallocation=full", "measure --size 1G -O qcow2 --output=json"])

    def test_kinds(self):
        self.chain()
        for options in ("data_file=d.raw", "data_file=d.raw,data_file_raw=on", "data_file=d.raw,preallocation=full",
                        "preallocation=metadata", "preallocation=falloc", "preallocation=full", "preallocation=foo",
                        "extended_l2=on", "extended_l2=on,cluster_size=16k", "extended_l2=on,cluster_size=4k",
                        "extended_l2=on,preallocation=metadata", "data_file_raw=on", "lazy_refcounts=on,compat=0.10",
                        "compat=0.10,refcount_bits=1", "compat=3", "compression_type=zstd,compat=0.10", "encrypt.format=aes",
                        "encryption=on", "encrypt.format=luks", "encrypt.format=luks,encrypt.key-secret=nope",
                        "encrypt.cipher-alg=aes-128"):
            self.agree(f"measure -O qcow2 -o {options} --size 1G")
            self.agree(f"measure -O qcow2 -o {options} c.qcow2")

    def test_images(self):
        self.chain()
        self.img("create", "-q", "-f", "qcow2", "-o", "compat=0.10", "old", "3M")
        for name in ("a.raw", "b.qcow2", "c.qcow2", "z.qcow2", "old"):
            for flags in ("-O raw", "-O qcow2", "-O qcow2 --output=json", "-O qcow2 -o cluster_size=512", "-O qcow2 -o cluster_size=2M",
                          "-O qcow2 -o compat=0.10", "-O qcow2 -o backing_file=a.raw,backing_fmt=raw", "-f raw -O qcow2"):
                self.agree(f"measure {flags} {name}")

    def test_refusals(self):
        self.chain()
        self.agree_on_all([
            "measure", "measure a.raw b.qcow2", "measure --size 1G a.raw", "measure --size 1G -f raw", "measure --size 1G -l x",
            "measure nosuch", "measure -O foo a.raw", "measure -f foo a.raw", "measure --output=foo a.raw",
            "measure -O qcow2 --size 1G -o foo=bar", "measure -O qcow2 --size 1G -o cluster_size=1000",
            "measure -O qcow2 --size 1G -o ,", "measure --size -1"])


class Dd(Agreement):
    def test_copies(self):
        self.chain()
        for flags, fmt in (("", "raw"), ("-O qcow2", "qcow2")):
            for blocks in ("bs=1M", "bs=1M count=2", "bs=64k skip=3", "bs=1000 count=3", "count=0", "bs=1000 skip=3", "count=1k"):
                for name in ("a.raw", "c.qcow2"):
                    self.agree(f"dd {flags} if={name} of=new {blocks}", [("new", fmt)])
        self.agree("dd -f raw -O raw if=c.qcow2 of=new", [("new", "raw")])
        self.agree("dd if=a.raw of=c.qcow2 bs=1M count=1", [("c.qcow2", "raw")])
        self.agree("dd -U if=a.raw if=c.qcow2 of=new bs=1M", [("new", "raw")])

    def test_refusals(self):
        self.chain()
        self.agree_on_all([
            "dd", "dd if=a.raw", "dd of=x", "dd if=a.raw of=x bs=0", "dd if=a.raw of=x bs=foo", "dd if=a.raw of=x bs=3G",
            "dd if=a.raw of=x count=foo", "dd if=a.raw of=x skip=foo", "dd if=a.raw of=x foo=1", "dd if=a.raw of=x foo",
            "dd if=nosuch of=x", "dd if=a.raw of=x -O foo", "dd if=a.raw of=/nodir/x", "dd if=a.raw of=x skip=20 bs=1M",
            "dd if=a.raw of=x count=-1", "dd if=a.raw of=x bs=-1"])


SHAPES = ("", "compat=0.10", "cluster_size=512", "cluster_size=4k", "cluster_size=2M", "refcount_bits=1",
          "refcount_bits=64,cluster_size=512", "compression_type=zstd")


class Convert(Agreement):
    def pattern(self, name, size):
        """A raw file of `size` bytes: noise, text, short and long runs of zeros."""
        noise = random.Random(size).randbytes(300 * 1024)
        with open(os.path.join(self.start, name), "wb") as file:
            file.truncate(size)
            for at, data in ((0, noise[:1000]), (70 * 1024, b"text " * 20000), (1 << 20, noise), (1500 * 1024, b"\0" * 9000),
                             ((2 << 20) + 512, noise[:512]), (size - 700, noise[:700])):
                file.seek(at)
                file.write(data[:size - at])

    def test_shapes(self):
        self.pattern("a.raw", 5 * 1024 * 1024 + 512 * 7)
        self.pattern("odd.raw", 3000001)
        for shape in SHAPES:
            options = f"-o {shape}" if shape else ""
            self.agree(f"convert -O qcow2 {options} a.raw x", [("x", "qcow2")])
            self.agree(f"convert -f raw -O qcow2 {options} odd.raw x", [("x", "qcow2")])
            self.img("convert", "-O", "qcow2", *options.split(), "a.raw", "s.qcow2")
            self.agree("convert -O raw s.qcow2 x", [("x", "raw")])
            self.agree("convert -f qcow2 -O qcow2 s.qcow2 x", [("x", "qcow2")])
            self.agree("convert -f raw -O raw s.qcow2 x", [("x", "raw")])

    def test_flags(self):
        self.pattern("a.raw", 5 * 1024 * 1024)
        for flags in ("-p", "-q", "-p -q", "-W", "-m 1", "-m 16 -W", "-S 0", "-S 4k", "-S 1M", "-t none -T none", "-t writethrough",
                      "-t directsync", "-U", "-C", "-r 1G", "--salvage", "-o size=1M", "-o size=20M"):
            for fmt in ("raw", "qcow2"):
                self.agree(f"convert {flags} -O {fmt} a.raw x", [("x", fmt)])

    def test_chains_and_many(self):
        self.chain()
        for name in ("a.raw", "b.qcow2", "c.qcow2", "z.qcow2"):
            for fmt in ("raw", "qcow2"):
                self.agree(f"convert -O {fmt} {name} x", [("x", fmt)])
        self.agree("convert -O qcow2 a.raw c.qcow2 z.qcow2 x", [("x", "qcow2")])
        self.agree("convert -O raw a.raw c.qcow2 z.qcow2 x", [("x", "raw")])

    def test_backing(self):
        self.chain()
        self.img("create", "-q", "-f", "raw", "short.raw", "1M")
        self.img("create", "-q", "-f", "raw", "long.raw", "40M")
        self.io("long.raw", "write -P 8 0 40M", fmt="raw")
        for line in ("-B a.raw -F raw b.qcow2", "-o backing_file=a.raw,backing_fmt=raw b.qcow2", "-B a.raw -F raw a.raw",
                     "-B b.qcow2 -F qcow2 c.qcow2", "-B short.raw -F raw a.raw", "-B long.raw -F raw a.raw",
                     "-B long.raw -F raw z.qcow2", "-B short.raw -F raw z.qcow2"):
            for flags in ("", "-o cluster_size=4k", "-S 0"):
                self.agree(f"convert -O qcow2 {flags} {line} x", [("x", "qcow2")])

    def test_compressed(self):
        self.pattern("a.raw", 5 * 1024 * 1024 + 512 * 7)
        self.chain()
        for shape in SHAPES + ("compression_type=zstd,cluster_size=2M", "extended_l2=on,cluster_size=16k"):
            options = f"-o {shape}" if shape else ""
            for name in ("a.raw", "c.qcow2"):
                self.agree(f"convert -c -O qcow2 {options} {name} x", [("x", "qcow2")])
                self.agree(f"convert -c -W -m 16 -t none -O qcow2 {options} {name} x", [("x", "qcow2")])
        self.agree("convert -c -S 0 -O qcow2 a.raw x", [("x", "qcow2")])
        for version in ("1.1", "0.10"):
            for line in ("-B a.raw -F raw b.qcow2", "-B a.raw -F raw a.raw", "-B b.qcow2 -F qcow2 c.qcow2"):
                self.agree(f"convert -c -O qcow2 -o compat={version} {line} x", [("x", "qcow2")])
        self.agree_on_all(["convert -c a.raw x", "convert -c -O qcow2 -o preallocation=metadata a.raw x",
                           "convert -c -O qcow2 -o encrypt.format=luks a.raw x"])

    def test_snapshots(self):
        self.chain()
        self.img("snapshot", "-c", "first", "b.qcow2")
        self.io("b.qcow2", "write -P 77 0 3M")
        self.img("snapshot", "-c", "2nd", "b.qcow2")
        self.io("b.qcow2", "write -P 78 0 10M")
        for which in ("first", "2nd", "1", "2", "snapshot.id=2", "snapshot.name=first", "snapshot.id=1,snapshot.name=first"):
            for fmt in ("raw", "qcow2"):
                self.agree(f"convert -l {which} -O {fmt} b.qcow2 x", [("x", fmt)])
            self.agree(f"measure -l {which} -O qcow2 b.qcow2")
        self.agree_on_all([
            "convert -l nope -O raw b.qcow2 x", "convert -l snapshot.foo=1 -O raw b.qcow2 x", "convert -l first a.raw x",
            "convert -l first b.qcow2 b.qcow2 x", "convert -l snapshot.id=1,snapshot.name=2nd -O raw b.qcow2 x",
            "measure -l nope b.qcow2"])

    def test_bitmaps(self):
        self.chain()
        for name, flags in (("one", []), ("two", ["-g", "4096"])):
            self.img("bitmap", "--add", *flags, "b.qcow2", name)
            self.io("b.qcow2", "write -P 5 1M 100k")
        self.img("bitmap", "--disable", "b.qcow2", "one")
        self.agree("convert --bitmaps -O qcow2 b.qcow2 x", [("x", "qcow2")])
        self.agree("convert --bitmaps -c -O qcow2 -o cluster_size=4k b.qcow2 x", [("x", "qcow2")])
        self.agree("convert --bitmaps -O qcow2 c.qcow2 x", [("x", "qcow2")])
        for flags in ("-O qcow2", "-O qcow2 -o cluster_size=512", "-O qcow2 -o compat=0.10", "-O raw", "-O qcow2 --output=json"):
            self.agree(f"measure {flags} b.qcow2")
        self.agree_on_all(["convert --bitmaps a.raw x", "convert --bitmaps -O qcow2 b.qcow2 a.raw x",
                           "convert --bitmaps -O raw b.qcow2 x"])

    def test_existing_target(self):
        self.chain()
        for name, fmt in (("t.raw", "raw"), ("t.qcow2", "qcow2")):
            self.img("create", "-q", "-f", fmt, name, "12M")
            self.io(name, "write -P 0xee 0 12M", fmt=fmt)
            for source in ("a.raw", "b.qcow2", "c.qcow2"):
                self.agree(f"convert -n -O {fmt} {source} {name}", [(name, fmt)])
                self.agree(f"convert -n -S 0 -O {fmt} {source} {name}", [(name, fmt)])
            self.img("create", "-q", "-f", fmt, name, "12M")
            self.agree(f"convert -n --target-is-zero -W -O {fmt} c.qcow2 {name}", [(name, fmt)])
            self.agree(f"convert -O qcow2 c.qcow2 {name}", [(name, "qcow2")])
            self.agree(f"convert -O raw c.qcow2 {name}", [(name, "raw")])

    def test_compressed_into_existing_target(self):
        self.pattern("a.raw", 5 * 1024 * 1024 + 512 * 7)
        self.chain()
        for shape in SHAPES:
            options = ["-o", shape] if shape else []
            self.img("create", "-q", "-f", "qcow2", *options, "t.qcow2", "12M")
            for source in ("b.qcow2", "c.qcow2"):
                self.agree(f"convert -c -n -O qcow2 {source} t.qcow2", [("t.qcow2", "qcow2")])
                self.agree(f"convert -c -n --target-is-zero -W -m 4 -S 0 -O qcow2 {source} t.qcow2", [("t.qcow2", "qcow2")])
        self.img("create", "-q", "-f", "raw", "t.raw", "12M")
        self.img("create", "-q", "-f", "qcow2", "tiny.qcow2", "1M")
        self.agree_on_all(["convert -c -n -O raw a.raw t.raw", "convert -c -n -O qcow2 a.raw tiny.qcow2"])

    def test_refusals(self):
        self.chain()
        self.img("create", "-q", "-f", "raw", "tiny.raw", "1M")
        self.agree_on_all([
            "convert", "convert a.raw", "convert nosuch x", "convert a.raw nosuch x", "convert -O foo a.raw x",
            "convert -f foo a.raw x", "convert -S 1 a.raw x", "convert -S 32M a.raw x", "convert -S foo a.raw x",
            "convert -m 0 a.raw x", "convert -m 17 a.raw x", "convert -m foo a.raw x", "convert -r foo a.raw x",
            "convert -C -c -O qcow2 a.raw x", "convert -C -S 4k a.raw x", "convert -C --salvage a.raw x",
            "convert --target-image-opts a.raw x", "convert --target-is-zero a.raw x", "convert -n a.raw x",
            "convert -n -o cluster_size=4k -O qcow2 a.raw c.qcow2", "convert -B a.raw -O qcow2 b.qcow2 x",
            "convert -B a.raw -F raw -O raw b.qcow2 x", "convert -F raw -O qcow2 b.qcow2 x",
            "convert -B a.raw -F raw -O qcow2 a.raw b.qcow2 x", "convert -t foo a.raw x", "convert -T foo a.raw x",
            "convert --skip-broken-bitmaps -O qcow2 b.qcow2 x", "convert -O qcow2 -o foo=1 a.raw x",
            "convert -O qcow2 -o cluster_size=1000 a.raw x", "convert a.raw /nodir/x", "convert -O qcow2 a.raw /nodir/x",
            "convert -O qcow2 -o ,, a.raw x", "convert -n -O raw a.raw tiny.raw", "convert a.raw a.raw",
            "convert -O qcow2 a.raw a.raw", "convert -D x a.raw x", "convert -O qcow2 -o help", "convert -o help",
            "convert -O qcow2 -o help a.raw x", "convert -O foo -o help"])


class Info(Agreement):
    def test_chains(self):
        self.chain()
        self.img("snapshot", "-c", "first", "b.qcow2")
        self.img("bitmap", "--add", "b.qcow2", "dirty")
        for name in ("a.raw", "b.qcow2", "c.qcow2", "z.qcow2"):
            for flags in ("", "--output=json", "--backing-chain", "--backing-chain --output=json", "-U", "-f raw"):
                self.agree(f"info {flags} {name}")
        self.agree("info --image-opts driver=qcow2,file.filename=c.qcow2")
        self.agree(["info", 'json:{"driver":"qcow2","file":{"driver":"file","filename":"c.qcow2"}}'])

    def test_refusals(self):
        self.chain()
        self.img("create", "-q", "-u", "-f", "qcow2", "-b", "loop.qcow2", "-F", "qcow2", "other.qcow2", "1M")
        os.rename(os.path.join(self.start, "other.qcow2"), os.path.join(self.start, "loop.qcow2"))
        self.img("create", "-q", "-u", "-f", "qcow2", "-b", "nosuch", "-F", "raw", "orphan.qcow2", "1M")
        self.agree_on_all(["info", "info a b", "info nosuch", "info --output=foo a.raw", "info -f foo a.raw", "info -f qcow2 a.raw",
                           "info -z a.raw", "info --image-opts -f raw driver=raw,file.filename=a.raw",
                           "info --backing-chain loop.qcow2", "info --backing-chain orphan.qcow2", "info orphan.qcow2"])


class Check(Agreement):
    def poke(self, name, offset, data):
        with open(os.path.join(self.start, name), "r+b") as file:
            file.seek(offset)
            file.write(data)

    def test_sound(self):
        self.chain()
        for name in ("b.qcow2", "c.qcow2", "z.qcow2"):
            for flags in ("", "-q", "--output=json", "-r leaks", "-r all", "-r all --output=json", "-U", "-T none",
                          "--output=json -q"):
                self.agree(f"check {flags} {name}", [(name, "qcow2")])
        self.agree("check --image-opts driver=qcow2,file.filename=z.qcow2")

    def test_leaks_and_errors(self):
        self.img("create", "-q", "-f", "qcow2", "d.qcow2", "8M")
        self.io("d.qcow2", "write -P 1 1M 300k")
        self.poke("d.qcow2", 0x20000 + 2 * 30, b"\0\1")
        os.truncate(os.path.join(self.start, "d.qcow2"), 4 << 20)
        for flags in ("", "-q", "--output=json"):
            self.agree(f"check {flags} d.qcow2")
        self.poke("d.qcow2", 0x20000 + 2 * 5, b"\0\0")
        for flags in ("", "-q", "--output=json"):
            self.agree(f"check {flags} d.qcow2")

    def load(self, offset):
        with open(os.path.join(self.start, "d.qcow2"), "rb") as file:
            file.seek(offset)
            return int.from_bytes(file.read(8), "big")

    def damaged(self, options, damage):
        """Both programs say the same of d.qcow2, made with `options` and then damaged, and mend it the same way."""
        if os.path.exists(os.path.join(self.start, "d.qcow2")):
            os.remove(os.path.join(self.start, "d.qcow2"))
        self.img("create", "-q", "-f", "qcow2", "-o", options, "d.qcow2", "4M")
        self.io("d.qcow2", "write -P 1 0 16k", "write -P 2 400k 4k", "write -z 800k 4k")
        damage()
        for flags in ("", "-r leaks", "-r all", "--output=json", "-r all --output=json", "-q -r all"):
            self.agree(f"check {flags} d.qcow2")

    def test_damage(self):
        offset_mask, copied, kept = 0x00fffffffffffe00, 1 << 63, self.load
        l1, table = (lambda: kept(40)), (lambda: kept(48))
        l2, block = (lambda: kept(l1()) & offset_mask), (lambda: kept(table()) & offset_mask)

        def put(offset, value):
            self.poke("d.qcow2", offset, value.to_bytes(8, "big"))

        kinds = {
            "zero cluster, not aligned": lambda: put(l2(), kept(l2()) | 0x201),
            "flag of data": lambda: put(l2() + 8, kept(l2() + 8) & ~copied),
            "flag of a table": lambda: put(l1(), kept(l1()) & ~copied),
            "one cluster twice": lambda: put(l2() + 8, kept(l2())),
            "one table twice": lambda: put(l1() + 8, kept(l1())),
            "behind the end": lambda: put(l2(), 1 << 50),
            "no refcount block": lambda: put(table(), 0),
            "counts of zero": lambda: put(block() + 2, 0),
            "counts too high": lambda: self.poke("d.qcow2", block(), b"\xff" * 16),
            "counts of several kinds": lambda: self.poke("d.qcow2", block() + 6, b"\0\5\0\0\0\7"),
            "dirty and corrupt": lambda: (put(72, 3), put(l2() + 8, kept(l2() + 8) & ~copied)),
            "compressed with the flag": lambda: put(l2() + 16, copied | 1 << 62 | kept(l2()) & offset_mask),
            "cut": lambda: os.truncate(os.path.join(self.start, "d.qcow2"), l2() + 4096),
        }
        for options in ("cluster_size=4k", "cluster_size=512", "cluster_size=4k,refcount_bits=1",
                        "cluster_size=64k,refcount_bits=64"):
            for kind, damage in kinds.items():
                with self.subTest(options=options, kind=kind):
                    self.damaged(options, damage)
        for kind, damage in {
                "bitmap": lambda: put(l2() + 8, kept(l2() + 8) | 1 << 32),
                "bitmap of nothing": lambda: put(l2() + 16 * 50 + 8, 3),
                "zeros, not aligned": lambda: (put(l2() + 8, 0xffffffff << 32), put(l2(), kept(l2()) | 0x200))}.items():
            with self.subTest(kind=kind):
                self.damaged("extended_l2=on,cluster_size=16k", damage)

    def test_damage_beside_a_snapshot(self):
        self.img("create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", "d.qcow2", "4M")
        self.io("d.qcow2", "write -P 1 0 64k")
        self.img("snapshot", "-c", "first", "d.qcow2")
        self.io("d.qcow2", "write -P 2 0 8k")
        block = self.load(self.load(48)) & ~511
        for at, data in ((0, b""), (6, b"\0\0"), (2 * 20, b"\0\1\0\7")):
            self.poke("d.qcow2", block + at, data)
            for flags in ("", "-r leaks", "-r all", "--output=json"):
                self.agree(f"check {flags} d.qcow2")

    def test_refusals(self):
        self.chain()
        self.agree_on_all(["check", "check a b", "check nosuch", "check -f foo b.qcow2", "check -r foo b.qcow2", "check -T foo b.qcow2",
                           "check --output=foo b.qcow2", "check -f raw b.qcow2", "check a.raw", "check -r all -U b.qcow2",
                           "check --output=json -f raw b.qcow2", "check -f qcow2 a.raw"])


class Resize(Agreement):
    def data_file(self, options=""):
        self.img("create", "-q", "-f", "qcow2", "-o", "data_file=d.raw" + options, "t.qcow2", "3M")
        self.io("t.qcow2", "write -P 7 100k 2M")

    def resized(self, line):
        self.agree(line, [("d.raw", "raw")])
        shown = []
        for folder in ("theirs", "ours"):
            cwd = os.path.join(self.folder.name, folder)
            must(QEMU_IMG, "convert", "-f", "qcow2", "-O", "raw", "t.qcow2", "shown", cwd=cwd)
            with open(os.path.join(cwd, "shown"), "rb") as file:
                shown.append(file.read())
            # How much of it is allocated, too; where the file ends is each one's own matter.
            checked = must(QEMU_IMG, "check", "-f", "qcow2", "t.qcow2", cwd=cwd)
            shown.append(re.sub(r"Image end offset: \d+", "", checked))
        self.assertTrue(shown[:2] == shown[2:], (line, shown[1], shown[3]))

    def test_data_files(self):
        for options in ("", ",cluster_size=4k", ",data_file_raw=on", ",extended_l2=on"):
            self.data_file(options)
            for mode in ("off", "metadata", "falloc", "full"):
                self.resized(f"resize -f qcow2 --preallocation={mode} t.qcow2 5M")
            for size in ("1M", "2000384", "512"):
                self.resized(f"resize -f qcow2 --shrink t.qcow2 {size}")
            self.agree("resize -f qcow2 t.qcow2 1M")


class Encrypted(Agreement):
    KEYS = "--object secret,id=k,data=key --object secret,id=n,data=new --object secret,id=w,data=wrong"
    IMAGE = "--image-opts driver=qcow2,encrypt.key-secret=k,file.filename=l.qcow2"

    def setUp(self):
        super().setUp()
        with gzip.open(LUKS_IMAGE) as packed, open(os.path.join(self.start, "l.qcow2"), "wb") as image:
            shutil.copyfileobj(packed, image)

    def ours(self, *args):
        return must(VIREO_IMG, *args, cwd=self.start)

    def opens(self, folder, passphrase):
        done = subprocess.run(
            [QEMU_IO, "--object", f"secret,id=s,data={passphrase}", "-c", "read -P 1 0 4k", "--image-opts",
             "driver=qcow2,encrypt.key-secret=s,file.filename=l.qcow2"],
            cwd=os.path.join(self.folder.name, folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=LIMIT)
        return done.returncode == 0 and b"failed" not in done.stdout

    def amend(self, options, flags="", keys=("key",), wrong=()):
        self.agree(f"amend {self.KEYS} {flags} -o {options} {self.IMAGE}")
        for folder in ("theirs", "ours"):
            for key in keys:
                self.assertTrue(self.opens(folder, key), (options, folder, key))
            for key in wrong:
                self.assertFalse(self.opens(folder, key), (options, folder, key))

    def test_key_slot_refusals(self):
        for options in (
                "encrypt.state=active", "encrypt.new-secret=n", "encrypt.state=foo",
                "encrypt.state=active,encrypt.new-secret=n,encrypt.old-secret=k",
                "encrypt.state=active,encrypt.new-secret=n,encrypt.keyslot=0",
                "encrypt.state=active,encrypt.new-secret=n,encrypt.keyslot=8",
                "encrypt.state=active,encrypt.new-secret=n,encrypt.keyslot=-1",
                "encrypt.state=active,encrypt.new-secret=n,encrypt.keyslot=foo",
                "encrypt.state=active,encrypt.new-secret=n,encrypt.iter-time=foo",
                "encrypt.state=active,encrypt.new-secret=nope", "encrypt.state=inactive",
                "encrypt.state=inactive,encrypt.new-secret=n", "encrypt.state=inactive,encrypt.iter-time=10",
                "encrypt.state=inactive,encrypt.old-secret=k", "encrypt.state=inactive,encrypt.old-secret=w",
                "encrypt.state=inactive,encrypt.old-secret=nope", "encrypt.state=inactive,encrypt.keyslot=0",
                "encrypt.state=inactive,encrypt.keyslot=1", "encrypt.state=inactive,encrypt.keyslot=9",
                "encrypt.state=inactive,encrypt.keyslot=0,encrypt.old-secret=w",
                "encrypt.state=inactive,encrypt.keyslot=1,encrypt.old-secret=k", "encrypt.cipher-alg=aes-128"):
            self.amend(options)
        self.chain()
        self.agree(f"amend {self.KEYS} -f qcow2 -o encrypt.state=inactive,encrypt.keyslot=0 l.qcow2")
        self.agree(f"amend {self.KEYS} -o encrypt.state=inactive,encrypt.keyslot=0 b.qcow2")

    def test_key_slots(self):
        # Keys are added with ours: the other may not manage to measure its time.
        active = "encrypt.state=active,encrypt.new-secret=n,encrypt.iter-time=10"
        image = self.IMAGE.split()
        self.ours("amend", *self.KEYS.split(), "-o", active, *image)
        self.ours("amend", *self.KEYS.split(), "-o", active + ",encrypt.keyslot=6", *image)
        self.amend("encrypt.state=inactive,encrypt.old-secret=w", keys=("key", "new"), wrong=("wrong",))
        self.amend("encrypt.state=inactive,encrypt.old-secret=k", keys=("new",), wrong=("key",))
        self.amend("encrypt.state=inactive,encrypt.old-secret=n", keys=("key",), wrong=("new",))
        self.amend("encrypt.state=inactive,encrypt.keyslot=6,encrypt.old-secret=n", keys=("key", "new"))
        self.amend("encrypt.state=inactive,encrypt.keyslot=1", keys=("key", "new"))
        self.amend("encrypt.state=inactive,encrypt.keyslot=5", "--force", keys=("key", "new"))
        self.ours("amend", *self.KEYS.split(), "--force", "-o", active + ",encrypt.keyslot=0", *image)
        shutil.copytree(self.start, os.path.join(self.folder.name, "third"))
        self.assertTrue(self.opens("third", "new"))
        self.assertFalse(self.opens("third", "key"))

    def overlay(self):
        """o.qcow2, encrypted, over a.raw."""
        self.chain()
        self.ours("create", "-q", *self.KEYS.split(), "-f", "qcow2", "-b", "a.raw", "-F", "raw", "-o",
                  "encrypt.format=luks,encrypt.key-secret=k,encrypt.iter-time=10", "o.qcow2")
        must(QEMU_IO, *self.KEYS.split(), "--image-opts", "-c", "write -P 5 1M 300k", "-c", "write -z 5M 64k",
             "driver=qcow2,encrypt.key-secret=k,file.filename=o.qcow2", cwd=self.start)
        return "driver=qcow2,encrypt.key-secret=k,file.filename=o.qcow2"

    def shown(self, folder, image):
        must(QEMU_IMG, "convert", *self.KEYS.split(), "--image-opts", "-O", "raw", image, "shown",
             cwd=os.path.join(self.folder.name, folder))
        with open(os.path.join(self.folder.name, folder, "shown"), "rb") as file:
            return file.read()

    def test_commit(self):
        image = self.overlay()
        for flags in ("", "-d", "-r 1G"):
            self.agree(f"commit {self.KEYS} {flags} --image-opts {image}", [("a.raw", "raw")])
        self.agree("commit o.qcow2")
        self.agree("commit -r 16M b.qcow2", [("a.raw", "raw")])
        self.agree("commit -r foo b.qcow2")

    def test_rebase(self):
        image = self.overlay()
        self.img("create", "-q", "-f", "raw", "other.raw", "8M")
        other = os.path.join(self.start, "other.raw")  # Theirs takes no relative name here.
        for line in (["-b", ""], ["-b", other, "-F", "raw"], ["-u", "-b", other, "-F", "raw"]):
            self.agree(["rebase", *self.KEYS.split(), *line, "--image-opts", image])
            self.assertTrue(self.shown("theirs", image) == self.shown("ours", image))

    def test_compare_and_convert(self):
        image = self.overlay()
        other = self.IMAGE.split()[1]
        for first, second in ((image, image), (image, other), (other, image),
                              (image, "driver=raw,file.filename=a.raw")):
            self.agree(f"compare {self.KEYS} --image-opts {first} {second}")
        self.agree(f"convert {self.KEYS} --image-opts -O raw {image} x", [("x", "raw")])
        self.agree(f"convert {self.KEYS} --image-opts -O qcow2 {image} x", [("x", "qcow2")])


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


class Create(Agreement):
    def test_qcow2(self):
        self.chain()
        for options in ("", "-o cluster_size=4k", "-o compat=0.10", "-o compat=v3,lazy_refcounts=on", "-o refcount_bits=1",
                        "-o cluster_size=512 -o refcount_bits=64", "-o compression_type=zstd", "-o lazy_refcounts",
                        "-o nolazy_refcounts", "-o cluster_size=64k,cluster_size=4k", "-o lazy_refcounts=yes"):
            self.agree(f"create -f qcow2 {options} x 10M", [("x", "qcow2")])
        self.agree_on_all(["create -q -f qcow2 x 1M", "create -f qcow2 x 1000", "create -f qcow2 x 0", "create -f qcow2 -o size=1M x",
                           "create -f qcow2 x 0x100000", "create -f qcow2 x 1.5M"])

    def test_clones(self):
        self.chain()
        for line in ("create -f qcow2 -b a.raw -F raw x", "create -f qcow2 -b b.qcow2 -F qcow2 x 20M",
                     "create -f qcow2 -b c.qcow2 -F qcow2 -o compat=0.10 x", "create -f qcow2 -b a.raw -F raw x 1000",
                     "create -f qcow2 -b a.raw -F raw -o backing_file=c.qcow2 x 1M",
                     "create -f qcow2 -o backing_file=a.raw,backing_fmt=raw x"):
            self.agree(line, [("x", "qcow2")])
        self.agree_on_all(["create -u -f qcow2 -b nosuch -F raw x 1M", "create -u -f qcow2 -b a,b.raw -F raw x 1M"])

    def test_raw(self):
        for line in ("create x 1000", "create x 10M", "create -f raw -o preallocation=falloc x 1M",
                     "create -o preallocation=full x 1M", "create -o size=1M,nocow=off x"):
            self.agree(line, [("x", "raw")])

    def test_help(self):
        self.agree_on_all(["create -f qcow2 -o help", "create -o help", "create -f raw -o ?", "create -f qcow2 -o help x",
                           "create -o help x", "create -f foo -o help", "create -f qcow2 -o cluster_size=1,help"])

    def test_refusals(self):
        self.chain()
        self.agree_on_all([
            "create", "create x", "create x 1 2", "create x 1Q", "create x 8E", "create x -1", "create -f foo x 1M",
            "create -f qcow2 x", "create -f qcow2 -b nosuch -F raw x", "create -f qcow2 -b a.raw -F foo x",
            "create -b a.raw -F raw x 1M", "create -f qcow2 -b x -F raw x 1M", "create -F raw x 1M",
            "create -f qcow2 -F raw x 1M", ["create", "-f", "qcow2", "-b", "", "x", "1M"], "create -u -f qcow2 -b nosuch -F raw x",
            "create -u -f qcow2 -b nosuch x 1M", "create -f qcow2 -o foo=1 x 1M", "create -f qcow2 -o cluster_size=1000 x 1M",
            "create -f qcow2 -o cluster_size=foo x 1M", "create -f qcow2 -o compat=3 x 1M",
            "create -f qcow2 -o compression_type=lz4 x 1M", "create -f qcow2 -o refcount_bits=3 x 1M",
            "create -f qcow2 -o refcount_bits=foo x 1M", "create -f qcow2 -o refcount_bits=-1 x 1M",
            "create -f qcow2 -o compat=0.10,refcount_bits=1 x 1M", "create -f qcow2 -o compat=0.10,lazy_refcounts=on x 1M",
            "create -f qcow2 -o lazy_refcounts=foo x 1M", "create -f qcow2 -o preallocation=foo x 1M",
            "create -f qcow2 -o compat=0.10,compression_type=zstd x 1M", "create -f qcow2 -o data_file_raw=on x 1M",
            "create -f qcow2 -o size=1M x 2M", "create -f qcow2 -o =1 x 2M", "create -f qcow2 -o ,, x 2M",
            "create -f qcow2 -o cluster_size=64k, x 1M", "create -f qcow2 -o size=foo x", "create -f raw -o foo=1 x 1M",
            "create -f qcow2 /nodir/x 1M", "create /nodir/x 1M", "create -f raw -o preallocation=foo x 1M",
            "create -f raw -o preallocation=metadata x 1M", "create -f qcow2 -o cluster_size=512 x 1P",
            "create -f qcow2 -o cluster_size=4M x 1M"])


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]])

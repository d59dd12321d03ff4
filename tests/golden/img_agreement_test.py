#!/usr/bin/env python3
"""vireo-img and qemu-img 7.2 do the same.

usage: img_agreement_test.py VIREO_IMG [TEST...]
"""

import os
import random
import re
import shutil

import agreement
from agreement import Agreement, QEMU_IMG, must


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
                              ("pre", "preallocation=metadata"), ("subclusters", "extended_l2=on"),
                              ("subclusters_pre", "extended_l2=on,preallocation=metadata"),
                              ("subclusters_data", "extended_l2=on,data_file=subclusters.raw")):
            self.img("create", "-q", "-f", "qcow2", "-o", options, name, "5M")
            self.io(name, "write -P 5 1M 200k", "write -P 5 3M 3k", "write -z 1100k 10k")
            self.agree(f"map {name}")
            self.agree(f"map --output=json {name}")

    def test_subclusters_of_overlays(self):
        self.chain()
        # One that is longer than what is beneath it: that is where nothing answers.
        self.img("create", "-q", "-f", "qcow2", "-o", "extended_l2=on,cluster_size=16k", "-b", "a.raw", "-F", "raw", "o", "14M")
        self.io("o", "write -P 5 1M 1k", "write -P 6 9M 512", "write -P 7 13M 1k", "write -z 13500k 2k")
        self.img("create", "-q", "-f", "qcow2", "-b", "o", "-F", "qcow2", "top")
        for name in ("o", "top"):
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


class Commit(Agreement):
    def test_named_backing_files(self):
        """What options say is beneath an image counts, not what the image says."""
        self.chain()
        self.img("convert", "-O", "raw", "a.raw", "other.raw")
        self.img("create", "-q", "-f", "qcow2", "-b", "a.raw", "-F", "raw", "other.qcow2")
        self.io("other.qcow2", "write -P 9 2M 1M")
        all_of_them = [("a.raw", "raw"), ("other.raw", "raw"), ("b.qcow2", "qcow2"), ("c.qcow2", "qcow2"),
                       ("other.qcow2", "qcow2")]
        b = "driver=qcow2,file.filename=b.qcow2"
        c = "driver=qcow2,file.filename=c.qcow2"
        self.agree(f"commit --image-opts {b},backing.driver=raw,backing.file.filename=other.raw", all_of_them)
        self.agree(f"commit -d --image-opts {c},backing.driver=qcow2,backing.file.filename=other.qcow2", all_of_them)
        self.agree(f"commit --image-opts {c},backing.backing.driver=raw,backing.backing.file.filename=other.raw", all_of_them)
        self.agree(f"commit -b other.raw --image-opts {c},backing.backing.driver=raw,backing.backing.file.filename=other.raw",
                   all_of_them)
        self.agree(f"commit -b a.raw --image-opts {c},backing.backing.driver=raw,backing.backing.file.filename=other.raw",
                   all_of_them)
        self.agree(f"commit --image-opts {b},backing=x", all_of_them)
        file = '"file":{"driver":"file","filename":'
        for backing in ('{"driver":"raw",' + file + '"other.raw"}}', "null"):
            self.agree('commit json:{"driver":"qcow2",' + file + '"b.qcow2"},"backing":' + backing + "}", all_of_them)
            self.agree('commit json:{"driver":"qcow2",' + file + '"c.qcow2"},"backing":{"driver":"qcow2",' + file +
                       '"b.qcow2"},"backing":' + backing + "}}", all_of_them)


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
    agreement.main()

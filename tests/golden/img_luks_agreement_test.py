#!/usr/bin/env python3
"""vireo-img and qemu-img 7.2 do the same with images that are encrypted.

usage: img_luks_agreement_test.py VIREO_IMG LUKS_IMAGE [TEST...]
"""

import gzip
import os
import shutil
import subprocess
import sys

import agreement
from agreement import Agreement, LIMIT, QEMU_IMG, QEMU_IO, VIREO_IMG, must

LUKS_IMAGE = os.path.abspath(sys.argv[2])  # Compressed; its passphrase is "key".


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

    def test_map(self):
        image = self.overlay()
        self.ours("create", "-q", *self.KEYS.split(), "-f", "qcow2", "-o",
                  "encrypt.format=luks,encrypt.key-secret=k,encrypt.iter-time=10,extended_l2=on", "x.qcow2", "4M")
        alone = "driver=qcow2,encrypt.key-secret=k,file.filename=x.qcow2"
        must(QEMU_IO, *self.KEYS.split(), "--image-opts", "-c", "write -P 5 1M 4k", "-c", "write -z 2M 64k", alone,
             cwd=self.start)
        for shown in (image, alone):
            for flags in ("", "--output=json"):
                self.agree(f"map {self.KEYS} {flags} --image-opts {shown}")
            self.agree(f"compare -s {self.KEYS} --image-opts {shown} {shown}")

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


if __name__ == "__main__":
    agreement.main(2)

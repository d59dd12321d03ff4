#!/usr/bin/env python3
"""vireo-img and qemu-img 7.2 find the same in images that are damaged, and mend them in the same way.

usage: img_check_agreement_test.py VIREO_IMG [TEST...]
"""

import os

import agreement
from agreement import Agreement


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

    def test_damaged_snapshots(self):
        self.img("create", "-q", "-f", "qcow2", "d.qcow2", "8M")
        for name in ("a", "b", "c"):
            self.img("snapshot", "-c", name, "d.qcow2")
        with open(os.path.join(self.start, "d.qcow2"), "rb") as file:
            sound = file.read()
        sound += bytes(-len(sound) % 65536)  # The last record ends the file otherwise.
        # The table's records have 40 bytes, then 24 of extra data, id and name of a byte each, and padding.
        table, record = int.from_bytes(sound[64:72], "big"), 72

        def records(*extra_bytes):
            """The table, with so much extra data in its records."""
            made = b""
            for i, size in enumerate(extra_bytes):
                old = sound[table + i * record:table + (i + 1) * record]
                made += old[:36] + size.to_bytes(4, "big") + old[40:40 + min(size, 24)] + bytes(max(size - 24, 0)) + old[64:66]
                made += bytes(-len(made) % 8)
            return made + bytes(256)

        self.assertEqual(records(24, 24, 24)[:3 * record], sound[table:table + 3 * record])
        for kind, offset, data, flags in (
                ("sound", table, records(24, 1000, 24), ("", "-r all")),
                ("incomplete records", table, records(24, 8, 0), ("", "-r leaks", "-r all", "-r all --output=json", "--output=json")),
                ("too much extra data", table, records(24, 1124, 24), ("-r all", "-r all --output=json")),
                ("an L1 table nowhere", table + record, (0x12345).to_bytes(8, "big"), ("", "-r leaks", "-r all")),
                ("an L1 table too long", table + record + 8, (0x7fffffff).to_bytes(4, "big"), ("", "-r leaks", "-r all")),
                ("more snapshots than there are", 60, (5).to_bytes(4, "big"), ("", "-r all"))):
            with open(os.path.join(self.start, "d.qcow2"), "wb") as file:
                file.write(sound)
            self.poke("d.qcow2", offset, data)
            for flag in flags:
                with self.subTest(kind=kind):
                    self.agree(f"check {flag} d.qcow2")

    def test_refusals(self):
        self.chain()
        self.agree_on_all(["check", "check a b", "check nosuch", "check -f foo b.qcow2", "check -r foo b.qcow2", "check -T foo b.qcow2",
                           "check --output=foo b.qcow2", "check -f raw b.qcow2", "check a.raw", "check -r all -U b.qcow2",
                           "check --output=json -f raw b.qcow2", "check -f qcow2 a.raw"])


if __name__ == "__main__":
    agreement.main()

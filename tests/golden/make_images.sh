#!/bin/bash
# How the images of this folder were made, once, with qemu-img and qemu-io 7.2. Not part of any build.
# usage: make_images.sh FOLDER
set -euo pipefail
cd "$1"

create() { qemu-img create -q -f qcow2 "$@"; }
io() { qemu-io "$@" > /dev/null; }

create -o cluster_size=4096 plain.qcow2 300K
io -c 'write -P 1 0 10k' -c 'write -P 2 100k 3k' -c 'write -z 20k 20k' -c 'write -P 3 299k 1k' plain.qcow2

create -o cluster_size=4096,compat=0.10 version2.qcow2 300K
io -c 'write -P 7 50k 64k' version2.qcow2

create -o cluster_size=4096,refcount_bits=1 refcounts_of_1_bit.qcow2 300K
io -c 'write -P 7 50k 64k' refcounts_of_1_bit.qcow2

create -o cluster_size=512,refcount_bits=64 refcounts_of_64_bits.qcow2 300K
io -c 'write -P 7 50k 64k' refcounts_of_64_bits.qcow2

qemu-img convert -c -O qcow2 -o cluster_size=4096 plain.qcow2 zlib.qcow2
qemu-img convert -c -O qcow2 -o cluster_size=4096,compression_type=zstd plain.qcow2 zstd.qcow2

create -o cluster_size=4096 -b zlib.qcow2 -F qcow2 overlay_of_zlib.qcow2
io -c 'write -P 9 5k 1k' -c 'write -P 8 150k 40k' overlay_of_zlib.qcow2

create -o cluster_size=4096 -b plain.qcow2 -F qcow2 longer_overlay.qcow2 400K
io -c 'write -P 6 298k 1k' longer_overlay.qcow2

create -o cluster_size=4096 snapshot.qcow2 300K
io -c 'write -P 1 0 64k' snapshot.qcow2
qemu-img snapshot -c one snapshot.qcow2
io -c 'write -P 5 8k 8k' snapshot.qcow2

# Killed before it could write refcounts: dirty.
create -o cluster_size=4096,lazy_refcounts=on dirty.qcow2 300K
(io -c 'write -P 7 50k 64k' -c flush -c 'sigraise 9' dirty.qcow2) || true

create -o cluster_size=16384,extended_l2=on extended_l2.qcow2 1M
create -o data_file=external.raw data_file.qcow2 1M

# Encrypted, with the passphrase "key". qemu-img measures its CPU time and gives up where that is coarse.
luks() {
  local name=$1 options=$2
  until create --object secret,id=key,data=key \
    -o "cluster_size=4096,encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=20,$options" \
    "$name" 300K; do :; done
  io --object secret,id=key,data=key --image-opts "driver=qcow2,encrypt.key-secret=key,file.filename=$name" \
    -c 'write -P 1 0 10k' -c 'write -P 2 100k 3k' -c 'write -z 20k 20k' -c 'write -P 3 299k 1k' -c 'write -P 4 5k 512'
}
luks luks_aes256_xts.qcow2 encrypt.cipher-alg=aes-256
luks luks_aes128_cbc_essiv.qcow2 \
  encrypt.cipher-alg=aes-128,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv,encrypt.ivgen-hash-alg=sha256,encrypt.hash-alg=sha512
luks luks_serpent256_ctr.qcow2 \
  encrypt.cipher-alg=serpent-256,encrypt.cipher-mode=ctr,encrypt.ivgen-alg=plain,encrypt.hash-alg=ripemd160
luks luks_twofish128_xts.qcow2 encrypt.cipher-alg=twofish-128,encrypt.hash-alg=sha1
luks luks_cast5_cbc.qcow2 encrypt.cipher-alg=cast5-128,encrypt.cipher-mode=cbc,encrypt.hash-alg=sha224
luks luks_aes256_xts_essiv.qcow2 encrypt.ivgen-alg=essiv,encrypt.hash-alg=sha384

gzip --no-name --best ./*.qcow2

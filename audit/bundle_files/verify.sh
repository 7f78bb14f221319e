#!/usr/bin/env bash
# Checks this bundle with OpenSSL alone: the log's signature on the checkpoint, then for every record that it is in the signed tree.
# Usage: bash verify.sh VKEY      (VKEY is the log's public key, name+id+base64; get it from the log's owner, not from this bundle)
set -euo pipefail
[ $# = 1 ] || { echo "usage: bash verify.sh VKEY" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT

# 1. The signature: Ed25519 over the text of the checkpoint. The first 12 bytes below are the fixed head of such a key in DER (RFC 8410).
name=${1%%+*}
{ printf '\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00'; printf %s "${1#*+*+}" | base64 -d | tail -c 32; } > "$work/key.der"
sed '/^$/,$d' "$here/checkpoint" > "$work/text"
[ "$(sed -n 1p "$work/text")" = "$name" ] || { echo "FAILED: the checkpoint is of another log than the key" >&2; exit 1; }
id=$(printf %s "$1" | cut -d+ -f2)
signed=no
while read -r line; do
  printf %s "$line" | base64 -d > "$work/line"
  [ "$(head -c 4 "$work/line" | od -An -tx1 | tr -d ' \n')" = "$id" ] || continue
  tail -c 64 "$work/line" > "$work/signature"
  openssl pkeyutl -verify -pubin -keyform DER -inkey "$work/key.der" -rawin -in "$work/text" -sigfile "$work/signature" > "$work/said" ||
    { echo "FAILED: the signature on the checkpoint" >&2; exit 1; }
  signed=yes
done < <(grep -F -- "— $name " "$here/checkpoint" | sed 's/.* //')
[ $signed = yes ] || { echo "FAILED: the key did not sign the checkpoint" >&2; exit 1; }
size=$(sed -n 2p "$work/text")
root=$(sed -n 3p "$work/text")
echo "ok: the checkpoint of $name, size $size, is signed by $id"

# 2. Inclusion of every record: RFC 9162, section 2.1.3.2. A leaf's hash is SHA-256(0x00 || leaf), a node's SHA-256(0x01 || left || right).
sha256() { openssl dgst -sha256 -binary; }
count=0
total=$(find "$here/proofs" -name '*.tlog-proof' | wc -l | tr -d ' ')
echo "$total records to check, each against the signed tree; a hundred take up to two minutes" >&2
for proof in "$here"/proofs/*.tlog-proof; do
  index=$(sed -n 's/^index //p;/^$/q' "$proof")
  leaf=$here/records/$(basename "$proof" .tlog-proof).leaf
  { printf '\0'; cat "$leaf"; } | sha256 > "$work/hash"
  fn=$index sn=$((size - 1))
  ((fn <= sn)) || { echo "FAILED: record $index is beyond the tree" >&2; exit 1; }
  while read -r sibling; do
    ((sn > 0)) || { echo "FAILED: the proof of record $index is too long" >&2; exit 1; }
    printf %s "$sibling" | base64 -d > "$work/sibling"
    if ((fn & 1)) || ((fn == sn)); then
      { printf '\1'; cat "$work/sibling" "$work/hash"; } | sha256 > "$work/next"
      while ((!(fn & 1) && fn > 0)); do fn=$((fn >> 1)) sn=$((sn >> 1)); done
    else
      { printf '\1'; cat "$work/hash" "$work/sibling"; } | sha256 > "$work/next"
    fi
    mv "$work/next" "$work/hash"
    fn=$((fn >> 1)) sn=$((sn >> 1))
  done < <(sed -n '1,/^$/p' "$proof" | grep -v -e '^c2sp' -e '^index' -e '^extra' -e '^$' || true)
  ((sn == 0)) && [ "$(base64 < "$work/hash")" = "$root" ] || { echo "FAILED: record $index is not in the signed tree" >&2; exit 1; }
  count=$((count + 1))
  ((count % 25)) || echo "$count of $total" >&2
done
echo "ok: $count records are in the signed tree"

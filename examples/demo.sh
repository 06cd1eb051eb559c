#!/bin/sh
# The main job on real input: profile llama-3.2-1b on this machine.
set -eu
mkdir -p demo
rm -f demo/cardlab.db demo/cardlab.db-wal demo/cardlab.db-shm
export CARD_DB=demo/cardlab.db
echo "== what this machine offers"
profile-device doctor
echo
echo "== llama-3.2-1b, LoRA r=8, batch 1 x 128 tokens, measured layer by layer on this host"
profile-device --model llama-3.2-1b --batch 1 --seq 128 --no-whole-step --budget 90s
echo "== stored in $CARD_DB; see it again with: profile-device show --db $CARD_DB"

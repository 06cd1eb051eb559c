#!/bin/sh
# The main job on real input, end to end: this host profiled for real, a simulated server swept, laws
# fitted, a plan made, one page written. Nothing here needs a network or a GPU.
set -eu
rm -rf demo
mkdir -p demo
export CARD_DB=demo/cardlab.db
export XDG_STATE_HOME="$PWD/demo/state"
# No dtype is named: each device takes what its arithmetic units have, bf16 or float32 on a CPU.
task="--model llama-3.2-1b --batch 1 --seq 128"

echo "== 1. what this machine offers"
profile-device doctor
echo
echo "== 2. llama-3.2-1b (LoRA r=8, 1 x 128 tokens) measured layer by layer on this host"
profile-device $task --no-whole-step --no-rehearsal --repeats 8
echo
echo "== 3. the same task on a simulated server, swept over its frequencies (simulated: no number of it is real)"
profile-device $task --platform simulated:rtx-4060-ti
echo
echo "== 4. laws fitted to all of it"
calibrate fit > demo/fits.txt
tail -n 5 demo/fits.txt
echo "(the whole fit report: demo/fits.txt)"
echo
echo "== 5. cut layer and server frequency for a 50/100 Mbit/s link, 5 local epochs"
card plan --from-db --uplink-mbps 50 --downlink-mbps 100 --local-epochs 5 > demo/plan.txt
cat demo/plan.txt
echo
echo "== 6. a real split run of an 8-layer model (2 processes, 4 layers on the device, rounds of about a second), held"
echo "   against what was predicted before it: round by round, inside or outside the 95 % intervals"
small="--model $(dirname "$0")/study/eight-layers.json --batch 4 --seq 192 --dtype float32"
profile-device $small --optimizer adamw --no-whole-step --repeats 8 > demo/small.txt
calibrate fit > demo/fits-small.txt
card run --local $small --cut 4 --rounds 6 --link 100mbit,5ms --out demo/run > demo/run.txt
tail -n 3 demo/run.txt
card validate
echo
echo "== 7. one page of it all"
plan=$(sed -n 's/^plan \([0-9a-f]*\),.*/\1/p' demo/plan.txt)
run=$(sed -n 's/^next: card validate //p' demo/run.txt)
card report --out demo/report.html --plan "$plan" --run "$run"

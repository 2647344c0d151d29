#!/usr/bin/env bash
# From a fresh clone to a trained model, its scores and its curves. Run again, it goes on where it stopped.
set -euo pipefail
source "$(dirname "$0")/setup.sh"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"  # a model this small is slower with more

run=runs/quickstart
echo "Training a small GPT to write the distinct items of a list, each once (task: set)."
python -m procedural_pretraining.cli --config procedural_pretraining/configs/quickstart.yaml --resume
echo
echo "The same model on 2,000 examples of the test split, none of which occurs in training or validation:"
python -m procedural_pretraining.cli evaluate --checkpoint "$run/best"
cat <<END

Where things are
  $run/best                 the best checkpoint; AutoModelForCausalLM.from_pretrained loads it
  $run/plots/curves.png     loss and accuracy
  $run/metrics.jsonl        every number, one JSON object a line
  $run/config.yaml          every key with the value it had

What to try next (source .venv/bin/activate first)
  python -m procedural_pretraining.cli list
  python -m procedural_pretraining.cli --config procedural_pretraining/configs/quickstart.yaml --task sort --save_dir runs/sort
  python -m procedural_pretraining.cli --config procedural_pretraining/configs/set.yaml --dry_run
END

#!/usr/bin/env bash
# vLLM generates text on a GPU, with a tiny model whose weights are random: nothing is downloaded.
# Inputs: ENVIRONMENT_PREFIX FRAMEWORK_VERSION
set -o errexit -o nounset -o pipefail

python=$ENVIRONMENT_PREFIX/bin/python
if ((BAKE_GPUS == 0)); then
    found=$("$python" -c 'import importlib.metadata; print(importlib.metadata.version("vllm"))')
    echo "vLLM $found needs a GPU, which this machine does not have"
    exit 77
fi

work=$(mktemp --directory)
trap 'rm --recursive --force "$work"' EXIT
cat >"$work/generate.py" <<'EOT'
import sys

import transformers
import vllm

if __name__ == "__main__":  # vLLM starts another process, which imports this file
    folder, tokens = sys.argv[1], 8
    transformers.LlamaConfig(
        architectures=["LlamaForCausalLM"], vocab_size=512, hidden_size=256, intermediate_size=512,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=256,
        torch_dtype="float16",
    ).save_pretrained(folder)
    model = vllm.LLM(
        folder, load_format="dummy", skip_tokenizer_init=True, enforce_eager=True, dtype="float16",
        max_model_len=128, gpu_memory_utilization=0.3,
    )
    wanted = vllm.SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False)
    [answer] = model.generate([{"prompt_token_ids": [1, 2, 3]}], wanted)
    assert len(answer.outputs[0].token_ids) == tokens, answer
    print(vllm.__version__)
EOT
# float16, because a T4 has no bfloat16.
VLLM_NO_USAGE_STATS=1 HF_HUB_OFFLINE=1 "$python" "$work/generate.py" "$work/model" >"$work/output" || {
    cat "$work/output"
    echo "vLLM cannot generate text on this GPU"
    exit 1
}
found=$(tail --lines 1 "$work/output")
[[ $found == "$FRAMEWORK_VERSION" ]] || {
    echo "vLLM is ${found:-not importable} instead of $FRAMEWORK_VERSION"
    exit 1
}
echo "vLLM $found generates text on a GPU"

#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes data/chat.cases: conversations as the Hugging Face `transformers` library renders them.

    make-chat.py [FOLDER]

Needs `transformers` (made with 5.23.0), which is the authority on templates and on how what they
give is cut into tokens; the tokenizers are those that make-tokenizers.py trained. Each line is
JSON: [format, tokenizer, system or null, said, answer, said next, text of the first turn, its ids,
text of the whole conversation, its ids].
"""

import json
import os
import sys

from transformers import PreTrainedTokenizerFast

HERE = os.path.dirname(os.path.abspath(__file__))

# The forms that Meta and OpenAI published, each as a template.
LLAMA2 = """
{%- set state = namespace(system='') -%}
{%- for m in messages -%}
{%- if m.role == 'system' -%}
{%- set state.system = '<<SYS>>\\n' + m.content + '\\n<</SYS>>\\n\\n' -%}
{%- elif m.role == 'user' -%}
{{- bos_token + '[INST] ' + (state.system + m.content).strip() + ' [/INST]' -}}
{%- set state.system = '' -%}
{%- else -%}
{{- ' ' + m.content.strip() + ' ' + eos_token -}}
{%- endif -%}
{%- endfor -%}"""
LLAMA3 = """
{{- bos_token -}}
{%- macro header(role) -%}
{{- '<|start_header_id|>' + role + '<|end_header_id|>\\n\\n' -}}
{%- endmacro -%}
{%- for m in messages -%}
{{- header(m.role) + m.content.strip() + '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- header('assistant') -}}{%- endif -%}"""
CHATML = """
{%- for m in messages -%}
{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"""

FORMATS = {
    "llama2": ("llama2", LLAMA2, "<s>", "</s>"),
    "llama3": ("llama3", LLAMA3, "<|begin_of_text|>", "<|eot_id|>"),
    "chatml": ("qwen", CHATML, None, "<|im_end|>"),
}

SYSTEMS = [None, "You are a patient teacher.", "  Answer in one line.\nBe kind. ", ""]
TURNS = [
    ("Hello!", "Hello. How are you?", "Fine."),
    ("  Which river is the longest?\n", "The Nile, or so they say.", " And the widest?  "),
    ("a\n\nb\n", "1. one\n2. two", "\n\nthree\tand 4"),
    ("", "Yes?", " "),
    ("Größe, 大きさ, 🙂 and e\u0301", "مرحبا", "don't I'LL we've"),
    ("x = [1, 2]; print(x)", "```\n[1, 2]\n```", "[INST] is a word here"),
    ("\u2003wide spaces\u00a0", "and narrow\u200a", "\u3000ends"),
    ("1234567 89", "0", "12"),
]


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.join(HERE, "data")
    lines = []
    for name, (file, template, bos, eos) in FORMATS.items():
        t = PreTrainedTokenizerFast(
            tokenizer_file=os.path.join(HERE, "data", file + ".json"), bos_token=bos,
            eos_token=eos, chat_template=template, clean_up_tokenization_spaces=False)

        def render(messages):
            text = t.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            ids = t.apply_chat_template(messages, tokenize=True, add_generation_prompt=True)
            return text, ids["input_ids"] if hasattr(ids, "keys") else ids

        for system in SYSTEMS:
            for said, answer, after in TURNS:
                first = [] if system is None else [{"role": "system", "content": system}]
                first.append({"role": "user", "content": said})
                whole = first + [{"role": "assistant", "content": answer},
                                 {"role": "user", "content": after}]
                lines.append([name, file, system, said, answer, after, *render(first),
                              *render(whole)])
    with open(os.path.join(folder, "chat.cases"), "w", encoding="utf-8") as f:
        for line in lines:
            f.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n")
    print(len(lines), "conversations")


if __name__ == "__main__":
    main()

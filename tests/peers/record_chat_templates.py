#!/usr/bin/env python3
"""Records what transformers renders from chat templates of the kinds that checkpoints carry.

Usage: record_chat_templates.py [--out tests/data/chat_templates.json]
A list of {"name", "template", "messages": [[role, content], ...], "add_generation_prompt", "bos_token", "eos_token", and "text" or "error": true}.
The templates are written for this purpose in the manner of the families they are named after.
"""
import argparse
import json
import pathlib

from transformers.utils.chat_template_utils import render_jinja_template

import peer_common as common

parser = argparse.ArgumentParser()
parser.add_argument("--out", type=pathlib.Path, default=common.DATA / "chat_templates.json")
args = parser.parse_args()

TEMPLATES = {
    "chatml": """{% for m in messages %}<|im_start|>{{ m['role'] }}
{{ m['content'] }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}""",
    "default_system": "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou help.<|im_end|>\\n' }}{% endif %}"
                      "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"
                      "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    "header": "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ "
              "message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
              "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}",
    "alternating": "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
                   "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
                   "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
                   "{{ message['content'] + eos_token }}{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}",
    "indented": """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}

{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- endif %}
{%- endfor %}
""",
    "tools_unused": """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index %}
            {%- if loop.last or (not loop.last and reasoning_content) %}
                {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
            {%- else %}
                {{- '<|im_start|>' + message.role + '\\n' + content }}
            {%- endif %}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}""",
    "no_system": "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}"
                 "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}"
                 "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
                 "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}",
    "lines": """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}
""",
    "operators": "{# a comment #}{{ 7 // 2 ~ ',' ~ (-7) // 2 ~ ',' ~ (-7) % 3 ~ ',' ~ (2 + 3 * 4 - 1) }} {{ not false and 1 in [1, 2] or false }} "
                 "{{ 'b' not in 'abc' }} {{ none is none }} {{ missing }}|{{ missing is defined }} {{ messages | length }} "
                 "{{ (messages | first)['role'] | upper }} {{ messages[-1].content if false else 'x' 'y' }} {{ missing | default('d') }} "
                 "{{ [1, 'a', none] }} {{ messages[0].get('absent', 'z') }} {{ 1 < 2 }} {{ 'a' == \"a\" }} {{ true }} {{ messages[5] is defined }} "
                 "{{ 'ünd' | length }} {{ messages[0] }} {{ messages[1:] | length }} {{ 'a,b,c'.split(',')[-1] }} {{ ' x '.strip() }}|{{ 'xax'.rstrip('x') }}",
    "control": "a  \n  {%- if true -%}  \n b \n {%- endif +%}\n c {{- 'd' -}}  e\n   {% if true %}   \n f\n  {%+ if true %}g{% endif %}\n   {# note #}\n h\n{% endif %}\n",
    "macros": """{%- macro turn(role, content, end='<|end|>') -%}
<|start|>{{ role }}
{{ content|trim }}{{ end }}
{% endmacro -%}
{%- macro numbered(list, depth=0) %}{% for x in list %}{{ depth ~ '.' ~ loop.index ~ ' ' ~ x }};{% endfor %}{% if depth < 2 %}{{ numbered(list[1:], depth + 1) }}{% endif %}{% endmacro -%}
{%- set system_message = 'none' %}
{%- for m in messages if m.role != 'system' -%}
{{ turn(m.role, m['content'], end=('<|last|>' if loop.last else '<|end|>')) }}
{%- else -%}
empty
{%- endfor -%}
{{ numbered(messages | map(attribute='role') | list) }}{{ turn('x', system_message) | length }}""",
    "mapping": """{% set settings = {'a': 1, "b": messages[0].role, 'c': {'d': none}} %}
{% for k, v in settings.items() %}{{ k }}={{ v }}{{ ',' if not loop.last }}{% endfor %}|{% for k, v in settings | items %}{{ loop.index0 }}{{ k }}{% endfor %}|{% for k in settings %}{{ k }}{% endfor %}
{{ settings.keys() | list }} {{ settings['c']['d'] is none }} {{ settings.values() | list | length }} {{ settings | tojson }}
{{ settings | tojson(indent=4) }}
{% set block %}[{{ messages | map(attribute='role') | join(', ') }}]{% endset %}{{ block | upper }} {{ block | length }}
{% for m in messages %}{% if m.role == 'assistant' %}{% continue %}{% endif %}{{ loop.index }}{% if loop.index == 3 %}{% break %}{% endif %}{{ m.content | trim | title }};{% endfor %}
{{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ messages | rejectattr('role', 'in', ['user', 'system']) | map(attribute='content') | join('/') | replace('<', '(') }}
{{ (messages | selectattr('role', 'eq', 'user') | list)[-1].content[:3] }}{{ messages[0].role[-2:] }}{{ 'abc'[1] }}{{ 'äbc'[::-1] }} {{ 'a-b-c'.replace('-', '+', 1) }} {{ 'a b c'.split(' ', 1) }} {{ ', '.join(['x', 'y']) }}
{{ 'hELLO wORLD'.capitalize() }} {{ 'hello wORLD'.title() }} {{ range(3) | list }} {{ [1, 2, 3] | reverse | list }} {{ 3 is odd }} {{ 4 is even }} {{ 2 is in [1, 2] }} {{ 'x' is in(['y']) }} {{ true is boolean }} {{ 1 is integer }}
{{ messages | first | items | map('first') | join('+') }} {{ 'aXbX'.count('X') }} {{ [] | length }} {{ ['a', 'b',] }} {{ {} }}""",
}
CONVERSATIONS = [
    [["user", "Hi"]],
    [["system", "Be brief."], ["user", " What? \n"]],
    [["user", "1 + 1?"], ["assistant", "<think>\nsum\n</think>\n\n2 "], ["user", "ünd {{ 3 }}?"]],
    [["system", "s"], ["user", "u"], ["assistant", "a"]],
]

cases = []
for name, template in TEMPLATES.items():
    for conversation in CONVERSATIONS:
        for prompt in [True, False]:
            case = dict(name=name, template=template, messages=conversation, add_generation_prompt=prompt, bos_token="<s>", eos_token="</s>")
            messages = [dict(role=role, content=content) for role, content in conversation]
            try:
                rendered, _ = render_jinja_template([messages], chat_template=template, add_generation_prompt=prompt, bos_token="<s>", eos_token="</s>")
                case["text"] = rendered[0]
            except Exception as problem:
                print(f"{name}: {problem}")
                case["error"] = True
            cases.append(case)
args.out.write_text(json.dumps(cases, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
print(f"{len(cases)} cases")

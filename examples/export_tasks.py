#!/usr/bin/env python3
"""Writes the documents of the evaluation tasks as JSON Lines files for `auto-round eval --task_dir DIR`.

    pip install datasets
    python3 export_tasks.py DIR [TASK ...]       # all tasks without names; mmlu means its 57 subjects

Needs a network once; after that DIR is all that evaluation reads. Data sets and splits are those of lm-eval 0.4.13. Rows keep their order and their fields.
NAME.jsonl holds the documents, NAME.train.jsonl or NAME.dev.jsonl those that few-shot examples are drawn from.
"""
import sys
from pathlib import Path

from datasets import get_dataset_config_names, load_dataset

# task: data set, configuration, split of the documents, split of the examples
TASKS = {
    "lambada_openai": ("EleutherAI/lambada_openai", "default", "test", None),
    "hellaswag": ("Rowan/hellaswag", None, "validation", "train"),
    "winogrande": ("allenai/winogrande", "winogrande_xl", "validation", "train"),
    "piqa": ("baber/piqa", None, "validation", "train"),
    "truthfulqa_mc1": ("truthfulqa/truthful_qa", "multiple_choice", "validation", None),
    "truthfulqa_mc2": ("truthfulqa/truthful_qa", "multiple_choice", "validation", None),
    "openbookqa": ("allenai/openbookqa", "main", "test", "train"),
    "boolq": ("aps/super_glue", "boolq", "validation", "train"),
    "rte": ("nyu-mll/glue", "rte", "validation", "train"),
    "wikitext": ("EleutherAI/wikitext_document_level", "wikitext-2-raw-v1", "test", None),
    "arc_easy": ("allenai/ai2_arc", "ARC-Easy", "test", "train"),
    "arc_challenge": ("allenai/ai2_arc", "ARC-Challenge", "test", "train"),
}


def write(dataset, config, split, path):
    rows = load_dataset(dataset, config, split=split)
    rows.to_json(str(path), orient="records", lines=True, force_ascii=False)
    print(f"{path}: {len(rows)} documents")


def main():
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[2:] or [*TASKS, "mmlu"]:
        if name == "mmlu":
            for subject in get_dataset_config_names("cais/mmlu"):
                if subject in ("all", "auxiliary_train"):
                    continue
                write("cais/mmlu", subject, "test", folder / f"mmlu_{subject}.jsonl")
                write("cais/mmlu", subject, "dev", folder / f"mmlu_{subject}.dev.jsonl")
            continue
        if name not in TASKS:
            sys.exit(f"unknown task {name}; there are {', '.join(TASKS)}, mmlu")
        dataset, config, split, examples = TASKS[name]
        write(dataset, config, split, folder / f"{name}.jsonl")
        if examples:
            write(dataset, config, examples, folder / f"{name}.train.jsonl")


if __name__ == "__main__":
    main()

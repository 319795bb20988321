"""What the vision methods add to a training step, against GRPO on the same responses, beside what others run.

    python scripts/bench_vision.py --markdown benchmarks/vision_cost.md

The shipped tiny Qwen2.5-VL answers easy-VQA's questions about images of 64 visual tokens; a response has about 13
tokens, so image : response is about 5 : 1; groups of 8. Timed is the training side of a step: score passes, credit,
update. GRPO and a method take turns.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from bench_common import in_turns, machine, quartiles, with_signal

METHODS: dict[str, tuple[str | None, dict[str, Any] | None]] = {
    "PGPO": ("pgpo", None),
    "VPPO": ("vppo", None),
    "PAPO": ("papo", None),
    "ROMA, K = 1": ("roma", {"kl": 0.01, "aux": 0.1, "views": 1}),
    "ROMA, K = 2": ("roma", {"kl": 0.01, "aux": 0.1, "views": 2}),
    "ROMA, K = 2, worst view per response": ("roma", {"kl": {"coef": 0.01, "view_max": "sample"}, "views": 2}),
}
REPEATED = "two optimizer steps per batch, tower trained, prompt repeated per response"
SETTINGS = {
    "two optimizer steps per batch, tower trained": ["train.mini_batches=2"],
    "one optimizer step per batch, tower trained": [],
    "two optimizer steps per batch, tower frozen": ["train.mini_batches=2", "model.freeze_vision=true"],
    REPEATED: ["train.mini_batches=2", "model.layout=padded"],
}
PAGE = """# What vision methods add to a step

Written by `scripts/bench_vision.py`: the shipped tiny Qwen2.5-VL on {prompts} easy-VQA prompts x 8 responses, images of
64 visual tokens, responses of {response:.0f} tokens on average ({ratio:.1f} : 1), {success:.0f} % of them right, one
thread. Groups of equal rewards are taken out first ({rows} responses stay): GRPO would skip them and a regularizer
would not. {views} of {groups} prompts have a right answer, which is what ROMA runs its views for. CPU time of the
training side of a step (score passes, credit, update; corrupted images are made in it), in turns with GRPO on the same
responses: median of {repeats} [quartiles]. `vs repeated` divides by GRPO's time in the layout that repeats the prompt
for each response; the image is still encoded once per prompt there, other trainers encode it per response.

With two optimizer steps per batch, GRPO itself needs old log-probs, the pass that PGPO shares; with one step they are
the current ones, GRPO leaves the pass out and PGPO has to make it. ROMA reads each prompt with a right answer once per
view, forward and backward, its image through the tower, however few of its responses are right; here that is most of a
step, since the prompt is shared and the tower is as large as the language model.

{machine}
"""


def settings(folder: Path, recipe: str | None, roma: dict[str, Any] | None, overrides: list[str], prompts: int) -> Any:
    """The config of one side. Its weights stay as they are."""
    import json

    from mmcredit import config

    own = [f"objective.regularizers={json.dumps([{'roma': roma}])}"] if roma else []
    common = [
        f"run.dir={folder}", "run.steps=10", "run.threads=1", "train.warmup_steps=0", "train.learning_rate=1e-12",
        "log.tensorboard=false", "log.samples_every=0", "checkpoint.every=0", "checkpoint.final=false",
        "check.parity=false", "check.image_probe=false", f"rollout.prompts={prompts}", "rollout.group=8",
        "rollout.strategies=[]", "model.min_pixels=16384", "evaluate.limit=8",
    ]  # fmt: skip
    return config.load("easy_vqa", recipe, [*common, *overrides, *own])


def table(options: argparse.Namespace) -> str:
    """The page."""
    from rich.progress import track

    from mmcredit.deferred import load_now

    load_now()
    from mmcredit.train.loop import Trainer

    found: dict[str, list[tuple[str, float, tuple[float, float, float]]]] = {}
    sizes: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        work = [(name, method) for name in SETTINGS for method in METHODS]
        plain, batch = None, None
        for number, (name, method) in enumerate(track(work, "settings x methods")):
            if number % len(METHODS) == 0:
                if plain is not None:
                    plain.close()
                where = Path(folder) / f"{number}"
                plain = Trainer(settings(where, None, None, SETTINGS[name], options.prompts))
                sampled = plain.stage.run(1)
                batch = with_signal(sampled)
                rollouts = sampled.rollouts
                sizes = {
                    "response": float(rollouts.valid.sum(1).float().mean()), "rows": len(batch),
                    "success": 100 * float((batch.rollouts.reward_parts["exact_answer"] > 0.5).float().mean()),
                    "groups": len(batch.rollouts.group.unique()),
                    "views": len(batch.rollouts.group[batch.rollouts.reward_parts["exact_answer"] > 0.5].unique()),
                }  # fmt: skip
            recipe, roma = METHODS[method]
            where = Path(folder) / f"{number}-method"
            other = Trainer(settings(where, recipe, roma, SETTINGS[name], options.prompts))
            pairs = in_turns((plain, batch), (other, batch), options.repeats)
            other.close()
            ratios = quartiles([b / a for a, b in pairs])
            base = statistics.median(a for a, _ in pairs)
            found.setdefault(name, []).append((method, base, ratios))
        if plain is not None:
            plain.close()
    about = machine().partition("; command")[0] + "."
    page = PAGE.format(
        prompts=options.prompts, repeats=options.repeats, machine=about, ratio=64 / sizes["response"], **sizes
    )
    lines = [page]
    bases = {name: statistics.median(seconds for _, seconds, _ in rows) for name, rows in found.items()}
    repeated = bases[REPEATED]
    for name, rows in found.items():
        base = bases[name]
        lines += [
            f"## {name}", "", "| | s | x GRPO | vs repeated |", "|---|---|---|---|",
            f"| GRPO | {base:.3f} | 1 | {base / repeated:.2f} |",
        ]  # fmt: skip
        for method, seconds, (middle, low, high) in rows:
            lines.append(
                f"| {method} | {seconds * middle:.3f} | {middle:.2f} [{low:.2f}, {high:.2f}] | "
                f"{base * middle / repeated:.2f} |"
            )
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Read the command line, write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--markdown", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    options.markdown.write_text(table(options))


if __name__ == "__main__":
    main()

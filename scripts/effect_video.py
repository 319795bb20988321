"""What segment-decoupled credit does on clips with events: window IoU, rate, accuracy.

    python scripts/effect_video.py --seeds 0 1 2 3 4 --output runs/effect_video

Trains `configs/video_events.yaml` under every arm, seed by seed; answers held-out clips at temperature 1 and greedily;
writes `video.md`, `video.json` and `video.svg` after each cell (an arm with a seed). A cell whose result is there is
not repeated, so the command goes on after a kill; one that was broken off begins again.
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from effect_common import cell, mean_and_half, paired, results, table

import video.rollout as retrieval
from mmcredit import config as run_config
from mmcredit.components import register
from mmcredit.evaluate.held_out import evaluate_model
from mmcredit.report.records import load_run
from mmcredit.train.loop import Trainer
from video.retrieval import Call

CONFIG = "video_events"
COARSE = ("rollout.strategies=[]", "rewards=[{reasoning: {w_ans: 0.6, w_fmt: 0.1}}]", "credit=[grpo]")
ARMS: dict[str, tuple[str, ...]] = {
    "SD-GRPO": (),
    "GRPO, whole response": ("credit=[{sd_grpo: {level: trajectory}}]",),
    "coarse frames only": COARSE,
}
MEASURES = {"window_iou": "window IoU", "fps_match": "right rate", "grounding_accuracy": "accuracy"}
REWARDS = "rewards=[grounding_accuracy, {window_iou: {alpha: 0.0, beta: 1.0}}, {fps_match: {scale: 1.0}}]"
# What may stand behind a call instead of what it asked for, to tell looking from asking.
GIVEN = ("own", "gold", "other")


@register("strategy", "retrieval_given")
class Given(retrieval.FrameRetrieval):
    """For measuring: every call is answered with the gold window, or with another stretch of the clip."""

    window: str = "gold"

    def reactions(self, policy):
        """Answers as `retrieval` gives them, with the window replaced."""
        from contextlib import contextmanager

        @contextmanager
        def opened():
            with super(Given, self).reactions(policy) as answers:
                yield lambda sample: Replaced(answers(sample), sample, self.window)

        return opened()


class Replaced:
    """A reaction that reads another window than the one that was asked for."""

    def __init__(self, inner: Any, sample: Any, window: str) -> None:
        self.inner, self.stops, self.room = inner, inner.stops, inner.room
        (start, end), fps, seconds = sample.meta["span"], sample.meta["fps"], sample.meta["duration"]
        if window == "other":  # the longer stretch beside the gold window, whose last frame it does not touch
            start, end = (0.0, start - 0.2) if start > seconds - end else (end + 0.2, seconds)
        self.call = Call(start, end, fps, "ok")

    def __call__(self, said: Any) -> Any:
        """The promise of the window."""
        reply = self.inner(said)
        if not isinstance(reply, retrieval.Promise):
            return reply
        windows = self.inner.windows
        key, future = windows.start(self.inner.media, self.call, windows.limits.max_frames)
        return retrieval.Promise(self.inner, self.call, said.room, reply.number, key, future)


def evaluate(model: str, overrides: tuple[str, ...], temperature: float) -> dict[str, float]:
    """Measures of a model on the config's held-out clips."""
    more = ("evaluate.reward=grounding_accuracy", f"evaluate.temperature={temperature}", f"model.path={model}")
    run = run_config.load(CONFIG, None, [*overrides, REWARDS, "credit=[grpo]", *more])
    found, _ = evaluate_model(run)
    return {**{name: found.parts[name] for name in MEASURES}, "clips": found.accuracy.n}


def looking(model: str, overrides: tuple[str, ...]) -> dict[str, float]:
    """Greedy accuracy by what stands behind the call: its own window, the gold one, another one, nothing."""
    given = "{retrieval_given: {max_frames: 8, min_frames: 4, max_inserted_tokens: 64, window: %s}}"
    settings = {"own": (), **{w: (f"rollout.strategies=[{given % w}]",) for w in GIVEN[1:]}}
    settings["none"] = ("rollout.strategies=[]",)
    return {n: evaluate(model, (*overrides, *s), 0.0)["grounding_accuracy"] for n, s in settings.items()}


def work(arm: str, seed: int, run_dir: Path, *, overrides: tuple[str, ...]) -> dict[str, Any]:
    """Train and measure one arm with one seed."""
    own = (*overrides, *ARMS[arm], f"run.seed={seed}")
    more = ("log.tensorboard=false", "data.evaluate=null", "evaluate.every=0", "checkpoint.every=0")
    outcome = Trainer(run_config.load(CONFIG, None, [*own, f"run.dir={run_dir}", *more])).run()
    model = str(run_dir / "model")
    found: dict[str, Any] = {"seconds": outcome.seconds, "steps": outcome.steps}
    for mode, temperature in (("sampled", 1.0), ("greedy", 0.0)):
        found[mode] = evaluate(model, own, temperature)
    record = load_run(run_dir)
    found["cost"] = record.cost["stages"]
    found["curve"] = [
        {part: step.get(f"reward/part/{part}") for part in ("retrieval", "reasoning")} for step in record.metrics
    ]
    return found


def plot(found: list[dict[str, Any]], before: dict[str, Any], path: Path) -> None:
    """Every measure at temperature 1: a point per seed, the mean with its 95 % interval."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "video"
    import matplotlib.pyplot as plt

    arms = [arm for arm in ARMS if any(r["arm"] == arm for r in found)]
    figure, axes = plt.subplots(1, len(MEASURES), figsize=(11, 2.8), sharey=True)
    for axis, (name, words) in zip(axes, MEASURES.items(), strict=True):
        for place, arm in enumerate(reversed(arms)):
            values = [100 * r["sampled"][name] for r in found if r["arm"] == arm]
            axis.plot(values, [place] * len(values), "o", alpha=0.5)
            if len(values) > 1:
                mean, half = mean_and_half(values)
                axis.errorbar([mean], [place - 0.2], xerr=[half], fmt="k|", capsize=3)
        axis.axvline(100 * before["sampled"][name], color="0.7", linestyle=":")
        axis.set(xlabel=f"{words}, %", ylim=(-0.5, len(arms) - 0.5))
    axes[0].set_yticks(range(len(arms)), list(reversed(arms)))
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


HEAD = """# Segment-decoupled credit on clips with events

`{command}` trains `configs/video_events.yaml` from the shipped `builtin:tiny-qwen3-vl-events`
({steps} steps of {prompts} x {group} responses, {tokens} sampled tokens at most in each) and answers {clips} clips of
the test split. Every arm has the same prompts, rollouts and token limit.

* SD-GRPO: window and rate are credited up to `</fps>`, answer and format behind it.
* GRPO, whole response: the same rewards, summed, one advantage for all tokens (`sd_grpo: {{level: trajectory}}`).
* coarse frames only: nothing is inserted; answer and format are rewarded. What it still writes as a call is measured.

Window IoU is unscaled, right rate is the share of calls with the gold rate; both are 0 without a call. Intervals are
95 % over seeds (Student's t); of fewer than three seeds the values stand there. A quarter of the answers is right by
chance."""


def head(overrides: Sequence[str]) -> str:
    """What was done, in words."""
    run = run_config.load(CONFIG, None, list(overrides))
    clips = run.data.evaluate["video_events"]["size"]  # type: ignore[index]
    rollout = run.rollout
    command = " ".join(["python scripts/effect_video.py", *(shlex.quote(each) for each in overrides)])
    return HEAD.format(
        command=command,
        steps=run.run.steps,
        prompts=rollout.prompts,
        group=rollout.group,
        tokens=rollout.sampling.max_new_tokens,
        clips=clips,
    )


def write(output: Path, before: dict[str, Any]) -> str:
    """Tables and plot of the cells that are there."""
    found = results(output)
    titles = {"sampled": "temperature 1, %", "greedy": "greedy, %"}
    parts = [head(before["overrides"])]
    parts += [table(found, list(ARMS), MEASURES, mode, before, title) for mode, title in titles.items()]
    parts += [
        paired(found, list(ARMS), MEASURES, mode, "GRPO, whole response", title) for mode, title in titles.items()
    ]
    looks = " | ".join(f"{100 * before['looking'][name]:.1f}" for name in (*GIVEN, "none"))
    parts.append(
        "| before training, greedy; behind the call | its own window | the gold window | another window | nothing |\n"
        f"|---|---|---|---|---|\n| accuracy, % | {looks} |"
    )
    (output / "video.md").write_text("\n\n".join(parts) + "\n")
    (output / "video.json").write_text(json.dumps({"before": before, "runs": found}, indent=1))
    if found:
        plot(found, before, output / "video.svg")
    return "\n\n".join(parts)


def main() -> None:
    """Run the command line."""
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parse.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parse.add_argument("--output", type=Path, default=Path("runs/effect_video"))
    parse.add_argument("--tables-only", action="store_true", help="write the tables of what is there")
    parse.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the config")
    options = parse.parse_args()
    overrides = tuple(options.overrides)
    options.output.mkdir(parents=True, exist_ok=True)
    start = options.output / "before.json"
    if not start.is_file():
        model = run_config.load(CONFIG, None, list(overrides)).model.path
        found = {mode: evaluate(model, overrides, t) for mode, t in (("greedy", 0.0), ("sampled", 1.0))}
        made = {"overrides": overrides, **found, "looking": looking(model, overrides)}
        start.write_text(json.dumps(made, indent=1))
        print(json.dumps(made), flush=True)
    before = json.loads(start.read_text())
    if before["overrides"] != list(overrides):
        raise SystemExit(
            f"{options.output} holds cells with the overrides {before['overrides']}; give another --output"
        )
    for seed in options.seeds if not options.tables_only else ():
        for arm in options.arms:
            train = partial(work, arm, seed, overrides=overrides)
            print(json.dumps(cell(options.output, arm, seed, train)), flush=True)
            write(options.output, before)
    print(write(options.output, before))


if __name__ == "__main__":
    main()

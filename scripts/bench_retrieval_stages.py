"""Where the seconds of a retrieval step go, from the account of a run: `python scripts/bench_retrieval_stages.py RUN`.

    mmcredit train video_events run.dir=runs/video_events run.threads=1
    python scripts/bench_retrieval_stages.py runs/video_events

Prints a table of seconds a step by stage; `waiting` is what decoding did not overlap with sampling.
"""

from __future__ import annotations

import sys

from bench_common import machine

from mmcredit.report.records import load_run

STAGES = {
    "prompts made (clips written, decoded, encoded)": ("prompts", "seconds"),
    "prompts read": ("rollout/retrieval", "prompts_seconds"),
    "tokens sampled": ("rollout/retrieval", "sampling_seconds"),
    "windows decoded (threads, beside sampling)": ("rollout/retrieval", "decode_seconds"),
    "insertions encoded and read": ("rollout/retrieval", "insertions_seconds"),
    "waiting for windows": ("rollout/retrieval", "waiting_seconds"),
    "rewards": ("rewards", "seconds"),
    "log-probs scored": ("score", "seconds"),
    "credit": ("credit", "seconds"),
    "update": ("update", "seconds"),
}


def main() -> None:
    """Print the table of the run that is named."""
    run = load_run(sys.argv[1])
    stages, steps = run.cost["stages"], run.cost["steps"]
    rollout = stages["rollout"]
    group = run.config["rollout"]
    print(machine())
    print(
        f"\n{run.config['model']['path']}, {steps} steps of {group['prompts']} x {group['group']} responses; "
        f"a response: {rollout['tokens'] / rollout['responses']:.1f} tokens sampled, "
        f"{rollout['inserted_tokens'] / rollout['responses']:.1f} inserted; "
        f"{stages['rollout/retrieval']['windows'] / steps:.1f} different windows a step\n"
    )
    print("stage | seconds a step\n---|---")
    for name, (stage, what) in STAGES.items():
        print(f"{name} | {stages.get(stage, {}).get(what, 0.0) / steps:.3f}")


if __name__ == "__main__":
    main()

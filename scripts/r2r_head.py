"""Label responses of a large model by path following, and train R2R's router head on them.

    python scripts/r2r_head.py CONFIG --large PATH --questions 200 --output runs/router

CONFIG names the small model and the questions (data.train). Writes `router.safetensors`, `router.json`, `figures.json`.
The verifier compares words; with a judge of your own call `mmcredit.decoding.labels.follow(..., verify=...)`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from mmcredit import config as run_config
from mmcredit.components import build
from mmcredit.decoding.base import same_vocabulary
from mmcredit.decoding.labels import follow, train_head
from mmcredit.decoding.routers import RouterHead, sentence_ends
from mmcredit.policy.policy import Policy
from mmcredit.rollout.engine import Request, Sampling


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="config with the small model (model.path) and the questions (data.train)")
    parser.add_argument("--large", required=True, help="the large model")
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--width", type=int, default=1024, help="of the head")
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--rate", type=float, default=5e-5, help="learning rate")
    parser.add_argument("--recall", type=float, default=0.95, help="least recall of the threshold")
    options = parser.parse_args()
    config = run_config.load(options.config)
    small = Policy.load(config.model, media_limits=config.data.media)
    large = Policy.load(config.model.at(options.large, lora=None), media_limits=config.data.media)
    same_vocabulary(small, large)
    samples = build("source", config.data.train).load(config.data.media)
    samples = [samples[i] for i in range(min(options.questions, len(samples)))]
    engine = build("engine", "hf").open(large)
    sampling = Sampling(temperature=0.0, max_new_tokens=config.rollout.sampling.max_new_tokens)
    prompts = [large.encode(sample) for sample in samples]
    answers = engine.generate([Request(p, (0,), tag=i) for i, p in enumerate(prompts)], sampling)
    ends = sentence_ends(small.tokenizer)
    rows = []
    for response in answers:
        if response.finish == "stop":
            own = small.encode(samples[response.tag])
            rows += follow(small, large, own, prompts[response.tag], response.tokens, ends)
    finished = sum(response.finish == "stop" for response in answers)
    print(f"{len(rows)} positions of {finished} finished responses (of {len(answers)})")
    head = RouterHead(small.body.config.hidden_size, width=options.width, inner=4 * options.width)
    head, threshold, figures = train_head(
        rows, small.body.embed, head=head, epochs=options.epochs, learning_rate=options.rate, r_min=options.recall
    )
    head.save(options.output, threshold)
    figures |= {"threshold": threshold, "responses": float(finished)}
    (options.output / "figures.json").write_text(json.dumps(figures, indent=1))
    print(figures)


if __name__ == "__main__":
    main()

import tempfile

"""TRL GRPOTrainer baseline on CPU, tiny Qwen2 text model.  usage: python trl_baseline_text.py [--hidden 64 --layers 2 --prompts 4 --group 8 --new 64 --steps 6 --threads 2 --beta 0.0]"""
import os, sys, time, argparse, resource, json

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", TRL_EXPERIMENTAL_SILENCE="1")
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
ap = argparse.ArgumentParser()
for k, v in dict(hidden=64, layers=2, prompts=4, group=8, new=64, steps=6, threads=2, seed=0).items():
    ap.add_argument("--" + k, type=int, default=v)
ap.add_argument("--beta", type=float, default=0.0)
a = ap.parse_args()
import torch

torch.set_num_threads(a.threads)
torch.manual_seed(a.seed)
import tiny, random
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer
from transformers import TrainerCallback

tok = tiny.tokenizer()
model = tiny.qwen2(tok, a.hidden, a.layers)
rng = random.Random(0)
ds = Dataset.from_list(
    [
        {"prompt": f"<|im_start|>user\n{x} + {y} =<|im_end|>\n<|im_start|>assistant\n", "answer": str(x + y)}
        for x, y in ((rng.randrange(100), rng.randrange(100)) for _ in range(256))
    ]
)
ntok = []


def reward(prompts, completions, completion_ids, answer, **kw):
    ntok.append(sum(len(c) for c in completion_ids))
    return [sum(ch.isdigit() for ch in c) / max(1, len(c)) for c in completions]


cfg = GRPOConfig(
    output_dir=tempfile.mkdtemp(),
    use_cpu=True,
    bf16=False,
    per_device_train_batch_size=a.prompts * a.group,
    num_generations=a.group,
    gradient_accumulation_steps=1,
    max_completion_length=a.new,
    max_steps=a.steps,
    learning_rate=1e-3,
    temperature=1.0,
    beta=a.beta,
    logging_steps=1,
    report_to=[],
    save_strategy="no",
    seed=a.seed,
    gradient_checkpointing=False,
    disable_tqdm=True,
    generation_kwargs={"min_new_tokens": a.new},
    dataloader_num_workers=0,
)


class T(TrainerCallback):
    t = []

    def on_step_end(self, *x, **k):
        self.t.append(time.time())


cb = T()
tr = GRPOTrainer(model=model, reward_funcs=reward, args=cfg, train_dataset=ds, processing_class=tok, callbacks=[cb])
t0 = time.time()
tr.train()
ts = [t0] + cb.t
d = [b - a_ for a_, b in zip(ts, ts[1:])]
warm = sorted(d[1:])[len(d[1:]) // 2]
print(
    json.dumps(
        dict(
            kind="text",
            params=sum(p.numel() for p in model.parameters()),
            step_s=[round(x, 3) for x in d],
            median_step_s=round(warm, 3),
            completion_tokens_per_step=ntok[-1],
            tok_per_s=round(ntok[-1] / warm),
            max_rss_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            rewards=[round(l["reward"], 3) for l in tr.state.log_history if "reward" in l],
        )
    )
)

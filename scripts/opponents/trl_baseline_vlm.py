import tempfile

"""TRL GRPOTrainer baseline on CPU, tiny Qwen2.5-VL / Qwen3-VL, synthetic count-the-squares images.  same options as trl_baseline_text.py, plus --fam qwen2_5_vl|qwen3_vl"""
import os, sys, time, argparse, resource, json

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", TRL_EXPERIMENTAL_SILENCE="1")
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
ap = argparse.ArgumentParser()
for k, v in dict(hidden=64, layers=2, prompts=4, group=8, new=64, steps=6, threads=2, seed=0, side=112).items():
    ap.add_argument("--" + k, type=int, default=v)
ap.add_argument("--beta", type=float, default=0.0)
ap.add_argument("--fam", default="qwen2_5_vl")
a = ap.parse_args()
import torch

torch.set_num_threads(a.threads)
torch.manual_seed(a.seed)
import tiny, random
from PIL import Image, ImageDraw
from datasets import Dataset, Features, Value, Image as HFImage
from trl import GRPOConfig, GRPOTrainer
from transformers import TrainerCallback

tok = tiny.tokenizer()
proc = tiny.processor(tok, a.fam)
model = (tiny.qwen25vl if a.fam == "qwen2_5_vl" else tiny.qwen3vl)(tok, a.hidden, a.layers, a.hidden, a.layers)
rng = random.Random(0)


def im():
    i = Image.new("RGB", (a.side, a.side), "white")
    d = ImageDraw.Draw(i)
    n = rng.randint(1, 4)
    for c in rng.sample([(x, y) for x in range(4) for y in range(4)], n):
        s = a.side // 4
        d.rectangle([c[0] * s + 2, c[1] * s + 2, c[0] * s + s - 3, c[1] * s + s - 3], fill="red")
    return i, str(n)


rows = [im() for _ in range(128)]
ds = Dataset.from_dict(
    {
        "prompt": [[{"role": "user", "content": "how many red squares"}] for _ in rows],
        "image": [r[0] for r in rows],
        "answer": [r[1] for r in rows],
    }
)
ntok = []


def reward(prompts, completions, completion_ids, answer, **kw):
    ntok.append(sum(len(c) for c in completion_ids))
    txt = [c[0]["content"] if isinstance(c, list) else c for c in completions]
    return [sum(ch.isdigit() for ch in t) / max(1, len(t)) for t in txt]


bad = [model.config.image_token_id, model.config.video_token_id]
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
    generation_kwargs=dict(
        {"min_new_tokens": a.new}, **({} if os.environ.get("NOSUPPRESS") else {"suppress_tokens": bad})
    ),
    dataloader_num_workers=0,
)


class T(TrainerCallback):
    t = []

    def on_step_end(self, *x, **k):
        self.t.append(time.time())


calls = []
model.model.visual.register_forward_hook(
    lambda mod, args, kw, out: calls.append((args[0] if args else kw["hidden_states"]).shape[0]), with_kwargs=True
)
cb = T()
tr = GRPOTrainer(model=model, reward_funcs=reward, args=cfg, train_dataset=ds, processing_class=proc, callbacks=[cb])
t0 = time.time()
tr.train()
ts = [t0] + cb.t
d = [b - a_ for a_, b in zip(ts, ts[1:])]
warm = sorted(d[1:])[len(d[1:]) // 2]
print(
    json.dumps(
        dict(
            kind=a.fam,
            params=sum(p.numel() for p in model.parameters()),
            step_s=[round(x, 3) for x in d],
            median_step_s=round(warm, 3),
            completion_tokens_per_step=ntok[-1],
            tok_per_s=round(ntok[-1] / warm),
            max_rss_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            tower_calls_per_step=len(calls) / len(d),
            tower_patches_per_step=sum(calls) / len(d),
            patches_if_each_image_once=a.prompts * ((a.side // (14 if a.fam == "qwen2_5_vl" else 16)) ** 2),
            rewards=[round(l["reward"], 3) for l in tr.state.log_history if "reward" in l],
        )
    )
)

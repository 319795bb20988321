"""What the numbers of a run mean, and what it means when they go wrong. The report and the charts read it."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One metric, or a family of them: a pattern of names, what it is, and what to think when it goes wrong."""

    pattern: str  # regular expression over the whole metric name
    name: str
    meaning: str
    wrong: str


GLOSSARY: tuple[Entry, ...] = (
    Entry(
        r"evaluation",
        "held-out accuracy",
        "Share of test questions answered right, with its 95 % interval. The questions are never trained on.",
        "Reward rises and this does not: the model learns the reward, not the task. Look at right-rewarded samples "
        "with wrong reasoning, and at reward parts that are easy to earn (format, length).",
    ),
    Entry(
        r"reward/mean",
        "reward/mean",
        "Mean total reward of the responses sampled in a step. Noisy: every step has other prompts.",
        "Flat from the start: too few groups with signal (see group/zero_signal) or too small a learning rate. "
        "Falls suddenly: too large a learning rate or too loose a clip; look at policy/ratio_max in the steps before.",
    ),
    Entry(
        r"reward/std",
        "reward/std",
        "Spread of the reward over the responses of a step.",
        "Goes to 0: all responses earn the same, and nothing is learnt any more.",
    ),
    Entry(
        r"reward/part/.*",
        "reward/part/NAME",
        "Mean of one named part of the reward, before its weight.",
        "One part rises while accuracy falls: the parts fight, and the easy one wins. Lower its weight.",
    ),
    Entry(
        r"reward/(found|asked)/.*",
        "reward/found/NAME, reward/asked/NAME",
        "Share of responses with an answer where reward NAME looks (tag or box), and of prompts that mention it.",
        "found at 0: the reward sees no answer at all; if asked is 0 too, let the prompt say where the answer goes.",
    ),
    Entry(
        r"reward/best/.*",
        "reward/best/NAME",
        "The largest value of a reward part in the step, before its weight.",
        "At 0 for an answer reward: nothing was right; for a format reward: no response has the format.",
    ),
    Entry(
        r"reward/.*",
        "reward/NAME/error, reward/NAME/timeout",
        "Rewards that raised or hung, and got their declared value instead.",
        "Above zero: the reward has a bug or a too small limit (rewards.log); those answers teach something wrong.",
    ),
    Entry(
        r"group/.*",
        "group/zero_signal",
        "Share of groups whose responses all earned the same: every advantage is 0, the group teaches nothing.",
        "Near 1: the prompts are too easy or too hard for the model. Mix the difficulty, raise the temperature, "
        "or make the groups larger.",
    ),
    Entry(
        r"response/length.*",
        "response/length_mean",
        "Tokens per response.",
        "Creeps up without accuracy: the aggregate favours length (see objective.aggregate). Collapses: the model "
        "found a short answer that pays.",
    ),
    Entry(
        r"response/truncated",
        "response/truncated",
        "Share of responses that the length limit cut off.",
        "Above a few percent: raise rollout.sampling.max_new_tokens; a cut response cannot be judged fairly.",
    ),
    Entry(
        r"response/empty",
        "response/empty",
        "Share of responses without any text.",
        "Above zero: the model ends at once; look at the samples, and at the chat template.",
    ),
    Entry(
        r"tokenisation/drift",
        "tokenisation/drift",
        "Share of responses whose text, tokenised again, gives other ids than those sampled. Training uses the ids.",
        "High: a reward or PRM that tokenises the text anew looks at other tokens than those that get the credit.",
    ),
    Entry(
        r"tokenisation/matched",
        "tokenisation/matched",
        "Share of sampled tokens that stand at the same bytes when the text is tokenised again.",
        "Falling: the policy drifts to spellings of its text that the tokenizer itself would not choose.",
    ),
    Entry(
        r"tokenisation/.*",
        "tokenisation/mismatch/CLASS, boundary, length_gap",
        "Places where text and ids disagree, by class; responses that would merge with the prompt's end; extra tokens.",
        "special_token above 0: the policy spells out control tokens. partial_utf8: characters are cut in half.",
    ),
    Entry(
        r"tokens/.*",
        "tokens/unigram_entropy, drift",
        "Entropy of the sampled ids, and their Jensen-Shannon divergence from those of the prompts, in bits.",
        "Entropy falling fast: the policy repeats itself. Drift rising: it leaves the words of its prompts.",
    ),
    Entry(
        r"policy/skipped_updates",
        "policy/skipped_updates",
        "Updates left out because their gradient was not finite.",
        "Above zero: lower the learning rate, or train in float32; several in a row stop the run.",
    ),
    Entry(
        r"policy/loss",
        "policy/loss",
        "The loss of the update. It is no measure of progress: on-policy it is near 0 by construction.",
        "Very large or null: look at policy/ratio_max and the alarms.",
    ),
    Entry(
        r"policy/ratio.*",
        "policy/ratio_max",
        "Largest ratio of new to old probability of a token in the update. 1 on the first mini-batch.",
        "Far above 1 + clip: the policy moved too far from its samples. Fewer epochs or mini-batches, or a smaller "
        "learning rate. Far from 1 on the first mini-batch: old and new log-probs are computed differently.",
    ),
    Entry(
        r"policy/clip.*",
        "policy/clip_high_fraction, clip_low_fraction",
        "Share of tokens whose gradient the clip cut, by side.",
        "Above about 0.2: much of the update is thrown away. At 0 with several epochs: the learning rate may grow.",
    ),
    Entry(
        r"policy/roma_.*",
        "policy/roma_divergence_0, roma_shift, ...",
        "ROMA: mean divergence of each corrupted view from the clean image (roma_divergence_k), share of tokens "
        "it is the worst view of (roma_worst_k), mean change of a log-prob under a view (roma_shift), share of "
        "successful responses (roma_success), and both terms as they enter the loss (roma_kl, roma_aux).",
        "roma_success 0: no view is ever run; look at success.key and success.threshold. One roma_worst_k near 1: a "
        "single operator carries everything; lower its severity.",
    ),
    Entry(
        r"policy/papo_.*",
        "policy/papo_perception, papo_masked_entropy, papo_entropy",
        "PAPO: estimated KL between the answers with the clean and the masked image, and the two entropies, in nats "
        "per token.",
        "papo_perception explodes and papo_masked_entropy with it: lower gamma, or raise eta_aug.",
    ),
    Entry(
        r"policy/entropy|.*entropy.*",
        "policy/entropy",
        "Mean entropy of the next-token distribution, in nats.",
        "Goes to 0: the policy repeats itself and groups lose their spread; loosen clip.high or add an entropy term. "
        "Grows without end: the policy dissolves into noise; lower the learning rate.",
    ),
    Entry(
        r"policy/grad_norm",
        "policy/grad_norm",
        "Norm of the gradient before it is scaled to train.max_grad_norm.",
        "Spikes: single responses dominate; look at the samples of that step. A gap: a non-finite gradient, skipped.",
    ),
    Entry(
        r"policy/learning_rate",
        "policy/learning_rate",
        "Learning rate of the step, after warm-up and schedule.",
        "Not the expected shape: warm-up counts optimizer steps, and a step has several mini-batches.",
    ),
    Entry(
        r"policy/(.*_)?kl.*|kl/.*",
        "policy/kl, policy/update_kl",
        "Distance of the policy from the reference model (kl), and of one update from its samples (update_kl), in nats "
        "per token.",
        "Shoots up: raise the coefficient of the kl regularizer (kl), or lower the learning rate (update_kl).",
    ),
    Entry(
        r"mismatch/.*",
        "mismatch/kl",
        "Difference of the sampler's and the trainer's log-probs of the same tokens, in nats per token. About 1e-6 "
        "with the HF engine in float32, up to 1e-2 with another engine or bfloat16.",
        "Grows: the sampler runs on stale weights or other settings (temperature, image size, dtype). The gradient is "
        "then biased, however good the reward looks.",
    ),
    Entry(
        r"credit/.*",
        "credit/METHOD/NOTE, credit/nonzero_fraction",
        "What each credit method says about itself, and the share of tokens with an advantage other than 0.",
        "nonzero_fraction near 0: a method masks almost everything, or all groups are without signal.",
    ),
    Entry(
        r"signal/.*",
        "signal/NAME",
        "Mean of a per-token signal over the sampled tokens of a step.",
        "At 0 or constant: the signal is not computed on what you think; colour the samples by it and look.",
    ),
    Entry(
        r"data/.*",
        "data/dropped, data/epochs",
        "Samples refused so far, and how often the data was gone through.",
        "dropped grows: see the events below for the reason of each one. epochs above a few: the policy may memorise.",
    ),
    Entry(
        r"cost/.*",
        "cost/STAGE_seconds, cost/tokens_per_second",
        "Wall-clock seconds of each stage of a step, and sampled tokens per second.",
        "One stage grows with the steps: longer responses (rollout, update), a slow reward, a cache that never hits.",
    ),
    Entry(
        r"advantage",
        "advantage of a token",
        "How strongly the update pushes this token's probability, up (blue) or down (red). Under plain GRPO all tokens "
        "of a response share one value: (reward - group mean) / group spread.",
        "Blue on tokens that are plainly wrong: the method points at the wrong places, or the reward pays for them.",
    ),
    Entry(
        r"verify/.*",
        "verify/clean, verify/flagged, verify/flagged_rate, verify/share_hallucinated, verify/parse_error, ...",
        "Verdicts of the verifier on the responses of a step, by status; the rate is of those that were answered, the "
        "share is of the sampled tokens. seconds_p50 and seconds_p95: how long the verifier took for a response.",
        "Errors above a few percent: the method that reads the verifier does little there; look at the reasons. Rate "
        "near 0 or 1: the verifier does not tell responses apart. Many unplaced: it does not quote word for word.",
    ),
    Entry(
        r"weight",
        "weight of a method",
        "The factor by which a credit method multiplied the advantage of a token. 1 leaves it as it was.",
        "All near 1: the method does nothing here. Very large on few tokens: they alone carry the update.",
    ),
)


def meaning_of(metric: str) -> Entry | None:
    """The entry for a metric name, or None."""
    return next((entry for entry in GLOSSARY if re.fullmatch(entry.pattern, metric)), None)


def as_markdown() -> str:
    """The glossary as a Markdown table, for a README."""
    lines = ["| metric | what it is | when it goes wrong |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| `{e.name}` | {e.meaning} | {e.wrong} |" for e in GLOSSARY)])

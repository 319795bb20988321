"""The engine `vllm`: vLLM in this process, drawing as the engine `hf` draws."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from mmcredit.rollout.drawing.stop import StopStrings
from mmcredit.rollout.drawing.temperature import EntropyTemperature, TemperatureHook
from mmcredit.rollout.engine import Request, Response, Sampling, with_stops
from mmcredit.rollout.engines.vllm.weights import policy_weights, write_folder
from mmcredit.rollout.probe import Probe

if TYPE_CHECKING:
    from mmcredit.policy.policy import Policy
    from mmcredit.policy.prompt import Prompt
    from mmcredit.rollout.engines.vllm.settings import Settings

_SLEEP_LIMIT = 300.0  # seconds


class VLLMEngine:
    """The engine `vllm`; see `VLLM` for what it promises. Not for use from several threads at once."""

    def __init__(self, policy: Policy, config: Settings) -> None:
        """Start vLLM with a copy of the policy's weights. Raises ValueError if it is not installed or refuses them."""
        self.policy = policy
        self.config = config
        self.hook: TemperatureHook | None = None
        # Requests sent to vLLM, a response that is given something making several; `cached_tokens` of those: what its
        # prefix cache knew.
        names = ("requests", "syncs", "synced_bytes", "insertions", "inserted_tokens", "cached_tokens")
        self.counts = dict.fromkeys(names, 0)
        self.waited = 0.0  # seconds in which nothing was sampled, for what reactions had promised
        self.pictures: Callable[[Prompt], list[Any]] = self._load_pictures
        self.probe = Probe(policy, self._sample) if config.probe else None
        self._asleep = False
        self._found: dict[str, float] = {}
        self._strings: tuple[tuple[str, ...], StopStrings | None] = ((), None)
        self._folder = Path(tempfile.mkdtemp(prefix="mmcredit-vllm-", dir=_memory_folder()))
        try:
            self._names = write_folder(policy, self._folder)
            self._llm = _start(policy, config, self._folder)
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, progress: Callable[[int], None] | None = None
    ) -> list[Response]:
        """Responses in request order, members in seed order.

        `progress` is told how many responses have just finished. Raises ValueError for a request that does not fit the
        model and for a prompt that vLLM expands to other ids than the trainer scores, RuntimeError for logits that are
        not finite.
        """
        if self.probe is not None and requests:
            self._found |= self.probe(requests)
        return self._sample(requests, sampling, progress)

    def _sample(
        self, requests: Sequence[Request], sampling: Sampling, progress: Callable[[int], None] | None = None
    ) -> list[Response]:
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt
        from vllm.sampling_params import RequestOutputKind

        from mmcredit.rollout.engines.vllm.draw import Draw
        from mmcredit.rollout.engines.vllm.insertion import Insertions

        sampling = with_stops(sampling, self.policy.stop_strings)
        if any(not s for s in sampling.stop):
            raise ValueError(f"a stop string must not be empty, got {list(sampling.stop)!r}; drop it from `stop`")
        end_ids = tuple(sorted({*self.policy.eos_token_ids, *sampling.stop_token_ids}))
        if sampling.stop and not end_ids:
            raise ValueError("stop strings need a model with an end token; give one in rollout.sampling.stop_token_ids")
        draw = Draw(sampling, self.policy.suppressed_ids, end_ids, self._adapted())

        def parameters(seed: int, limit: int, prefix: int, drawn: int = 0, stops: Sequence[int] = ()) -> Any:
            if not 0 <= seed < 2**128:
                raise ValueError(f"a sampling seed must lie in [0, 2**128), got {seed}")
            return SamplingParams(
                temperature=0.0,  # the draw is made by our logits processor
                max_tokens=limit,
                logprobs=0,
                stop_token_ids=[*end_ids, *stops],
                ignore_eos=True,  # ends are those of `stop_token_ids`
                detokenize=False,
                extra_args=draw.arguments(seed, limit, prefix, drawn),
                output_kind=RequestOutputKind.FINAL_ONLY,
            )

        for request in requests:
            self._check(request, sampling)
        if not any(request.seeds for request in requests):
            return []
        self._wake()
        if any(request.reaction is not None or self._tensors_only(request.prompt) for request in requests):
            return Insertions(self, sampling, end_ids, parameters)(requests, progress)
        prompts, given, places = [], [], []
        pictures: dict[int, list[Any]] = {}
        for i, request in enumerate(requests):
            limit = request.new_tokens(sampling.max_new_tokens)
            shown = self._shown(request.prompt, pictures)
            prefix = [int(t) for t in request.prefix]
            for member, seed in enumerate(request.seeds):
                prompts.append(TokensPrompt(**{**shown, "prompt_token_ids": [*shown["prompt_token_ids"], *prefix]}))
                given.append(parameters(int(seed), limit, len(prefix)))
                places.append((i, member))
        outputs = self._llm.generate(prompts, given, use_tqdm=_bar(progress))
        self.counts["requests"] += len(outputs)
        found = []
        for (i, member), output in zip(places, outputs, strict=True):
            request = requests[i]
            tokens, logprobs, end = self.said(request.prompt, request.prefix, output, sampling)
            found.append(Response(request.tag, member, tokens, logprobs, "length" if end == "length" else "stop"))
        return found

    def sync(self) -> None:
        """Take over the policy's present weights, and forget all that the old ones computed."""
        self.policy.weights_changed()
        self._wake()
        # All of them: vLLM lays out a module anew as a whole when it reloads.
        named = dict(policy_weights(self.policy))
        if different := sorted(named.keys() ^ self._names):
            raise RuntimeError(
                f"{len(different)} weights are not those that the engine was started with, {different[0]!r} among them"
            )
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": list(named.items())})
        self.reset_caches()
        self.counts["syncs"] += 1
        self.counts["synced_bytes"] += sum(v.numel() * v.element_size() for v in named.values())
        if self.probe is not None:
            self.probe.due = True

    def reset_caches(self) -> None:
        """Empty what vLLM keeps of images (worker and scheduler) and of prefixes."""
        self._llm.reset_mm_cache()
        self._llm.llm_engine.reset_encoder_cache()
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM did not empty its prefix cache: requests of an earlier call still run")

    @property
    def llm_engine(self) -> Any:
        """vLLM's own engine, request by request."""
        return self._llm.llm_engine

    def report(self) -> tuple[dict[str, float], list[str]]:
        """What the probe found since the last call; nothing to say in words."""
        found, self._found = self._found, {}
        return found, []

    def rest(self) -> None:
        """The sampling of a step is over: with `sleep` give GPU memory back until the next call."""
        if self.config.sleep and not self._asleep:
            _within(_SLEEP_LIMIT, "fall asleep", lambda: self._llm.sleep(level=1))  # its weights wait on the host
            self._asleep = True

    def _wake(self) -> None:
        if self._asleep:
            _within(_SLEEP_LIMIT, "wake up", self._llm.wake_up)
            self._asleep = False

    def close(self) -> None:
        """End the engine and remove its folder."""
        llm, self._llm = getattr(self, "_llm", None), None
        if llm is not None:
            core = llm.llm_engine.engine_core
            core.shutdown()
        shutil.rmtree(self._folder, ignore_errors=True)

    # -- parts ---------------------------------------------------------------------------------------------------

    def _adapted(self) -> EntropyTemperature | None:
        if self.hook is None:
            return None
        if not isinstance(self.hook, TemperatureHook):
            raise ValueError(f"engine 'vllm' takes temperatures by entropy as a logits hook, got {self.hook!r}")
        return self.hook.processor

    def _check(self, request: Request, sampling: Sampling) -> None:
        prompt, new_tokens = request.prompt, request.new_tokens(sampling.max_new_tokens)
        if new_tokens < 1:
            raise ValueError(f"sample {prompt.sample_id}: a request's limit must be at least 1, got {request.limit}")
        if request.reaction is not None and sampling.min_new_tokens:
            raise ValueError(
                f"min_new_tokens is {sampling.min_new_tokens}, but a response that is stopped for insertions would "
                "count it anew; set rollout.sampling.min_new_tokens to 0"
            )
        if not len(prompt):
            raise ValueError(f"sample {prompt.sample_id}: the prompt is empty")
        longest = self._llm.llm_engine.model_config.max_model_len
        total = len(prompt) + len(request.prefix) + new_tokens + request.room
        if total > longest:
            inserted = f" + inserted tokens {request.room}" if request.room else ""
            remedy = "lower max_new_tokens or the prompt limit" + (", or what may be inserted" if request.room else "")
            raise ValueError(
                f"sample {prompt.sample_id}: prompt {len(prompt)} + prefix {len(request.prefix)} + max_new_tokens "
                f"{new_tokens}{inserted} = {total} exceed the engine's {longest} positions; {remedy}, or raise "
                "rollout.engine.vllm.max_model_len"
            )

    @staticmethod
    def _tensors_only(prompt: Prompt) -> bool:
        """Whether vLLM is given the trainer's own pixels: for videos, whose frames were chosen by our reader."""
        return prompt.sample is not None and any(m.kind == "video" for m in prompt.sample.media)

    def _shown(self, prompt: Prompt, pictures: dict[int, list[Any]]) -> dict[str, Any]:
        """What vLLM reads: ids with one placeholder per medium, and the pictures (decoded once per prompt and call)."""
        if not prompt.media_keys:
            return {"prompt_token_ids": prompt.tokens.tolist()}
        assert prompt.unexpanded is not None
        if id(prompt) not in pictures:
            pictures[id(prompt)] = self.pictures(prompt)
        return {
            "prompt_token_ids": prompt.unexpanded.tolist(),
            "multi_modal_data": {"image": pictures[id(prompt)]},
            "multi_modal_uuids": {"image": list(prompt.media_keys)},
        }

    def _load_pictures(self, prompt: Prompt) -> list[Any]:
        assert prompt.sample is not None
        return [self.policy.encoder.load_image(m) for m in prompt.sample.media]

    def said(
        self, prompt: Prompt, prefix: Sequence[int], output: Any, sampling: Sampling
    ) -> tuple[list[int], list[float], Literal["token", "string", "length"]]:
        """Ids and log-probs that a request of vLLM's sampled behind prompt and prefix, and what ended it."""
        expected = len(prompt) + len(prefix)
        if len(output.prompt_token_ids) != expected:
            raise ValueError(
                f"sample {prompt.sample_id}: vLLM reads {len(output.prompt_token_ids)} prompt tokens, the trainer "
                f"{expected}; its image processor differs: compare model.max_pixels with the processor's own limits"
            )
        found = output.outputs[0]
        tokens = [int(t) for t in found.token_ids]
        logprobs = [float(step[token].logprob) for step, token in zip(found.logprobs, tokens, strict=True)]
        if any(p != p or p == float("-inf") for p in logprobs):
            raise RuntimeError(
                f"sample {prompt.sample_id}: the model's logits are not finite; the weights or the prompt's features "
                "hold NaN or infinity"
            )
        strings = self._stop_strings(sampling.stop)
        if strings is not None:
            from mmcredit.rollout.engines.vllm.draw import completed

            if len(tokens) > 1 and completed(prefix, tokens[:-1], sampling, strings):
                return tokens[:-1], logprobs[:-1], "string"  # the end token that we put behind it
            if completed(prefix, tokens, sampling, strings):
                return tokens, logprobs, "string"
        return tokens, logprobs, "token" if found.finish_reason == "stop" else "length"

    def _stop_strings(self, stop: tuple[str, ...]) -> StopStrings | None:
        if stop != self._strings[0]:
            tokenizer = self.policy.tokenizer
            made = StopStrings(stop, tokenizer, len(tokenizer), torch.device("cpu")) if stop else None
            self._strings = (stop, made)
        return self._strings[1]


def _start(policy: Policy, config: Settings, folder: Path) -> Any:
    """A vLLM engine in this process."""
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(config.cpu_cache_gb))
    try:
        from vllm import LLM, EngineArgs
        from vllm.platforms import current_platform
    except ImportError as error:
        raise ValueError(
            f"engine 'vllm' needs vLLM ({error}): pip install 'mmcredit[vllm]', on a CPU scripts/setup_vllm.sh"
        ) from None
    dtype = config.dtype if config.dtype != "auto" else str(policy.body.embed.weight.dtype).removeprefix("torch.")
    state = torch.get_rng_state()  # vLLM seeds the global generators
    options: dict[str, Any] = {}
    if not current_platform.is_cpu():
        options = {"gpu_memory_utilization": config.gpu_memory_utilization, "enable_sleep_mode": config.sleep}
    elif config.sleep:
        raise ValueError("rollout.engine.vllm.sleep gives GPU memory back, and this vLLM runs on the CPU; leave it out")
    if hasattr(EngineArgs, "mm_device_do_normalize"):  # pixels come from the processor, normalised
        options["mm_device_do_normalize"] = False
    try:
        return LLM(
            model=str(folder),
            dtype=dtype,
            max_model_len=config.max_model_len,
            max_num_seqs=config.max_concurrent,
            enforce_eager=config.enforce_eager,
            tensor_parallel_size=config.tensor_parallel_size,
            logits_processors=["mmcredit.rollout.engines.vllm.draw:SeededDraw"],
            logprobs_mode="processed_logits",
            async_scheduling=False,  # a row's step is read off the tokens it has
            enable_prefix_caching=True,
            **options,
        )
    finally:
        torch.set_rng_state(state)


def _within(seconds: float, what: str, work: Callable[[], Any]) -> None:
    """Do `work`, which can hang where the engine has died. Raises RuntimeError if it takes longer."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise RuntimeError(f"vLLM did not {what} within {seconds:g} s")
    if errors:
        raise errors[0]


def _memory_folder() -> str | None:
    """A folder in memory where there is one."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _bar(progress: Callable[[int], None] | None) -> Any:
    """What vLLM takes for a progress bar; it tells `progress` of finished responses, and prints nothing."""
    if progress is None:
        return False

    class Told:
        """The part of tqdm's interface that vLLM uses."""

        def __init__(self, iterable: Any = None, *, desc: str = "", **kwargs: Any) -> None:
            self.iterable, self.finished = iterable, desc.startswith("Processed")
            self.n, self.postfix, self.format_dict = 0, "", {"elapsed": 1.0}

        def __iter__(self) -> Any:
            return iter(self.iterable)

        def update(self, n: int = 1) -> None:
            self.n += n
            if self.finished and progress is not None:
                progress(n)

        def refresh(self) -> None: ...

        def close(self) -> None: ...

    return Told

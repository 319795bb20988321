"""A model with its rollout engine, served to one trainer at a time. Knows nothing of HTTP."""

from __future__ import annotations

import queue
import secrets
import sys
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from mmcredit.components import build
from mmcredit.policy.config import ModelConfig
from mmcredit.rollout.drawing.sampler import Sampler
from mmcredit.rollout.engine import Sampling
from mmcredit.rollout.serving import wire
from mmcredit.rollout.serving.wire import Intake, Rejected

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.policy.policy import Policy

# What a trainer may say about the model that it opens. Where it lies, and whether its code runs, is the server's.
MODEL_FIELDS = ("dtype", "freeze_vision", "lora", "min_pixels", "max_pixels")
KEPT_JOBS = 8  # finished ones whose result may be asked for once more


@dataclass
class Job:
    """One thing that the engine's thread does."""

    work: Callable[[Job], Any]
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    finished: int = 0  # responses
    outcome: dict[str, Any] | None = None
    done: threading.Event = field(default_factory=threading.Event)


class Host:
    """The model at `path`, and the engine of the config entry `engine` on it.

    A trainer opens a session, sends all trained weights, and asks for responses. A later `open` ends the session
    before it. Everything that touches the engine runs in the thread that calls `run`, in order; the methods that
    begin it return a job at once. `limit_media`: bytes of media that are remembered.
    """

    def __init__(
        self,
        path: str,
        engine: str | Mapping[str, Any],
        *,
        device: str = "auto",
        trust_remote_code: bool = False,
        limit_media: int = 2 * 2**30,
    ) -> None:
        self.path, self.engine_entry = path, engine
        self.device, self.trust_remote_code, self.limit_media = device, trust_remote_code, limit_media
        self.boot = secrets.token_hex(8)  # a restarted server is another one
        self.session = ""
        self.weights: int | None = None  # the version that is loaded; None: none is, or half of one
        self.policy: Policy | None = None
        self.engine: Any = None
        self.jobs: OrderedDict[str, Job] = OrderedDict()
        self._opened: dict[str, Any] = {}  # settings of the policy
        self._intake: tuple[int, Intake] | None = None
        self._media: OrderedDict[str, dict[str, Tensor]] = OrderedDict()
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()

    # The engine's thread ----------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Do the jobs as they come, until `stop`."""
        while (job := self._queue.get()) is not None:
            try:
                job.outcome = {"result": job.work(job)}
            except Rejected as error:
                job.outcome = {"error": str(error), "kind": error.kind, **error.details}
            except ValueError as error:
                job.outcome = {"error": str(error), "kind": "request"}
            except Exception as error:
                if type(error) is RuntimeError and str(error).startswith("sample "):
                    job.outcome = {"error": str(error), "kind": "sample"}  # of the model's numbers, not of the engine
                else:
                    traceback.print_exc(file=sys.stderr)
                    job.outcome = {"error": f"{type(error).__name__}: {error}", "kind": "engine"}
                    self._drop()
            job.done.set()
        self._drop()

    def stop(self) -> None:
        """End `run` after the job in hand."""
        self._queue.put(None)

    def _start(self, work: Callable[[Job], Any]) -> str:
        job = Job(work)
        with self._lock:
            for old in [i for i, j in self.jobs.items() if j.done.is_set()][:-KEPT_JOBS]:
                del self.jobs[old]
            self.jobs[job.id] = job
        self._queue.put(job)
        return job.id

    def _drop(self) -> None:
        """Give up the engine, which has failed, and the session with it."""
        engine, self.engine, self.policy, self._opened = self.engine, None, None, {}
        self.session, self.weights = "", None
        try:
            if engine is not None:
                engine.close()
        except Exception:  # it is broken already
            traceback.print_exc(file=sys.stderr)

    # What a trainer may ask -------------------------------------------------------------------------------------------

    def health(self) -> dict[str, Any]:
        """Who this is. Answered at any time."""
        return {"protocol": wire.PROTOCOL, "boot": self.boot, "model": self.path, "weights": self.weights}

    def open(self, told: Mapping[str, Any]) -> dict[str, str]:
        """Begin a session: the job loads the model as the trainer has it, and gives what both sides must agree on."""
        if told.get("protocol") != wire.PROTOCOL:
            raise Rejected(
                f"the trainer speaks protocol {told.get('protocol')}, this server {wire.PROTOCOL}: update one"
            )
        settings = {name: told["model"].get(name) for name in MODEL_FIELDS}
        session = secrets.token_hex(8)
        self.session, self.weights, self._intake = session, None, None

        def work(job: Job) -> dict[str, Any]:
            if self.session != session:
                raise Rejected("another trainer has opened this server", "taken")
            self._load(settings)
            policy = self.policy
            assert policy is not None
            policy.suppressed_ids = tuple(told["suppressed"])
            policy.eos_token_ids = tuple(told["ends"])
            policy.stop_strings = tuple(told["stop"])
            return {
                "weights": wire.describe(policy.model),
                "form": "pictures" if hasattr(self.engine, "pictures") else "tensors",
            }

        return {"session": session, "job": self._start(work)}

    def _load(self, settings: dict[str, Any]) -> None:
        if self.engine is not None and settings == self._opened:
            return
        from mmcredit.policy.policy import Policy

        self._close_engine()
        given = {name: value for name, value in settings.items() if value is not None}
        config = ModelConfig(
            path=self.path,
            device=self.device,
            trust_remote_code=self.trust_remote_code,
            **given,  # type: ignore[arg-type]
        )
        self.policy = Policy.load(config)
        self.engine = build("engine", self.engine_entry).open(self.policy)  # type: ignore[arg-type, attr-defined]
        if hasattr(self.engine, "pictures"):
            self.engine.pictures = lambda prompt: wire.pictures_of(prompt.media)
        if hasattr(self.engine, "probe"):
            self.engine.probe = None  # the trainer makes its own, with its own weights
        self._opened = settings

    def _close_engine(self) -> None:
        if self.engine is not None:
            self.engine.close()
        self.engine, self.policy, self._opened = None, None, {}

    def begin_weights(self, version: int) -> str:
        """Weights of this version follow; until they are all there, nothing can be sampled. The job waits its turn."""

        def work(job: Job) -> dict[str, Any]:
            assert self.policy is not None
            self._intake = (version, Intake(self.policy.state_dict()))
            return {"weights": version}

        self.weights, self._intake = None, None
        return self._start(work)

    def put_weights(self, version: int, body: bytes) -> None:
        """One bucket. No job of the engine runs meanwhile: the weights are not complete."""
        if self._intake is None or self._intake[0] != version:
            raise Rejected(f"weights of version {version} were not announced", "weights")
        self._intake[1].take(body)

    def commit_weights(self, version: int) -> str:
        """All buckets were sent: the job checks that nothing is missing, and hands the weights to the engine."""

        def work(job: Job) -> dict[str, Any]:
            if self._intake is None or self._intake[0] != version or self.policy is None:
                raise Rejected(f"weights of version {version} were not announced", "weights")
            self._intake[1].finish()
            self._intake = None
            # Features encoded anew each time: a resumed run gets the same last bits.
            self.policy.drop_caches()
            self.engine.sync()
            self.weights = version
            return {"weights": version}

        return self._start(work)

    def put_media(self, key: str, body: bytes) -> None:
        """Media of prompts, remembered under their key until room is needed."""
        media = wire.unpack_media(body)
        with self._lock:
            self._media[key] = media
            self._media.move_to_end(key)
            held = sum(_bytes(m) for m in self._media.values())
            while held > self.limit_media and len(self._media) > 1:
                held -= _bytes(self._media.popitem(last=False)[1])

    def generate(self, told: Mapping[str, Any]) -> str:
        """The job samples. Raises Rejected, kind "media" with `missing`, if media of a prompt are not here."""
        if self.weights is None or told["weights"] != self.weights:
            raise Rejected(f"weights of version {told['weights']} are wanted, {self.weights} are loaded", "weights")
        keys = [p["media"] for p in told["prompts"] if p["media"] is not None]
        with self._lock:
            if missing := sorted({key for key in keys if key not in self._media}):
                raise Rejected(f"{len(missing)} media are not here", "media", missing=missing)
            media = {key: self._media[key] for key in keys}
            for key in keys:
                self._media.move_to_end(key)
        requests = wire.unpack_requests(told, media)
        sampling, hook = Sampling(**told["sampling"]), wire.unpack_hook(told["hook"])

        def work(job: Job) -> list[dict[str, Any]]:
            if told["weights"] != self.weights:
                raise Rejected(f"weights of version {told['weights']} were replaced meanwhile", "weights")

            def count(n: int) -> None:
                job.finished += n

            self.engine.hook = hook
            try:
                return [asdict(r) for r in self.engine.generate(requests, sampling, count)]
            finally:
                if self.engine is not None:
                    self.engine.hook = None

        return self._start(work)

    def job(self, name: str, wait: float) -> dict[str, Any]:
        """Its outcome, after at most `wait` seconds; until then its signs of life: responses finished, draws made."""
        job = self.jobs.get(name)
        if job is None:
            raise Rejected(f"there is no job {name!r}", "session")
        until = time.monotonic() + wait
        finished = job.finished
        while not job.done.wait(0.1) and job.finished == finished and time.monotonic() < until:
            pass
        if job.done.is_set():
            return {"outcome": job.outcome}
        return {"finished": job.finished, "draws": Sampler.draws, "waiting": self._queue.qsize()}

    def check(self, session: str) -> None:
        """Raises Rejected unless the session is the present one."""
        if not self.session:
            raise Rejected("no session is open", "session")
        if session != self.session:
            raise Rejected("another trainer has opened this server", "taken")


def _bytes(media: Mapping[str, Tensor]) -> int:
    return sum(value.numel() * value.element_size() for value in media.values())

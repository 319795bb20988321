"""The engine `server`: requests spread over rollout servers, faults borne within bounds."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mmcredit.rollout.engine import Request, Response, Sampling, with_stops
from mmcredit.rollout.engines.server.link import Fault, Link
from mmcredit.rollout.engines.server.process import Process
from mmcredit.rollout.probe import Probe
from mmcredit.rollout.serving.wire import describe

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.policy.policy import Policy
    from mmcredit.rollout.engines.server.settings import Settings

Landing = Callable[..., list[Response]]  # wait(progress=None)

_PORTIONS = 2  # of a call for each server: one that is faster takes more of them


@dataclass
class _Portion:
    """Requests that one server is asked for at a time, tagged with their numbers in the call; `told`: finished
    responses that the caller knows of."""

    requests: list[Request]
    told: int = 0


@dataclass
class _Call:
    """One call of `generate`, shared by the threads that serve it."""

    sampling: Sampling
    hook: Any
    waiting: deque[_Portion]
    left: int  # portions without an answer
    found: dict[int, list[Response]] = field(default_factory=dict)  # by number of the request
    finished: int = 0  # responses that the caller was not told of yet
    error: BaseException | None = None
    changed: threading.Condition = field(default_factory=threading.Condition)


class ServerEngine:
    """The engine `server`; see `Server` for what it promises. One call at a time.

    `keep_weights`: keep a copy of what was sent last on the host, for servers that are lost while the policy trains on.
    """

    def __init__(self, policy: Policy, config: Settings) -> None:
        """Start servers or find them, and open a session on each.

        Raises ValueError where a model is not the trainer's, RuntimeError for a server that cannot be had.
        """
        self.policy, self.config = policy, config
        self.hook: Any = None
        self.keep_weights = False
        self.probe = Probe(policy, self._sample) if config.probe else None
        self.said: list[str] = []  # about faults, for the run's log of events
        self.counts: dict[str, float] = {}  # since the last `report`
        self.processes: list[Process] = []
        self._version = 0
        self._weights: dict[str, Tensor] | None = None
        self._in_a_row = 0  # faults since the last answer
        self._lock = threading.Lock()
        self._closed = False
        weights = describe(policy.model)  # now: a training engine may spread them over its ranks
        try:
            if config.urls:
                token = os.environ.get(config.token_env) or None
                self.links = [Link(url, token, policy, weights, config) for url in config.urls]
            else:
                self.processes = [Process(policy.config, config, i) for i in range(config.start)]
                self.links = [Link("", process.token, policy, weights, config) for process in self.processes]
            self._each(self.links, self._begin)
        except BaseException:
            self.close()
            raise

    def _begin(self, link: Link) -> None:
        """A started server, or one that should be there, with a session. Raises RuntimeError in one line."""
        try:
            if self.processes:
                link.url = self._process(link).start()
            self._reach(link)
        except Fault as fault:
            last = f": {self._process(link).last_words()}" if self.processes and fault.kind == "engine" else ""
            raise RuntimeError(f"rollout server {fault}{last}; {self._advice()}") from None

    def _advice(self) -> str:
        if self.processes:
            return "see rollout.engine.server.engine and start_timeout"
        return (
            f"start it with `mmcredit serve-rollouts {self.policy.config.path}`, or change rollout.engine.server.urls"
        )

    def _process(self, link: Link) -> Process:
        return self.processes[self.links.index(link)]

    def _reach(self, link: Link) -> None:
        """Open a session, trying for a while where nobody listens (a server that is being started again)."""
        until = time.monotonic() + (0.0 if self.processes else self.config.reconnect_timeout)
        while True:
            try:
                return link.open()
            except Fault as fault:
                if fault.kind != "unreachable" or time.monotonic() > until:
                    raise
            time.sleep(min(0.5, self.config.reconnect_timeout / 4))

    def _each(self, links: Sequence[Link], work: Callable[[Link], None]) -> None:
        """Do `work` for all at the same time; the first error is raised when all are done."""
        with ThreadPoolExecutor(max_workers=max(1, len(links))) as pool:
            for done in [pool.submit(work, link) for link in links]:
                done.result()

    # Weights ----------------------------------------------------------------------------------------------------------

    def sync(self) -> None:
        """Send the policy's present weights to every server; one that was lost is tried again."""
        self.policy.weights_changed()
        self._version += 1
        self._weights = None
        if self.keep_weights:
            self._weights = {name: value.detach().cpu().clone() for name, value in self.policy.state_dict().items()}
        before = sum(link.weight_bytes for link in self.links)
        self._each(self.links, self._send_weights)
        if not any(link.version == self._version for link in self.links):
            raise RuntimeError(f"no rollout server took over the weights; {self._advice()}")
        self._count("synced_mb", (sum(link.weight_bytes for link in self.links) - before) / 2**20)
        if self.probe is not None:
            self.probe.due = True

    def _send_weights(self, link: Link) -> None:
        """The weights of the last `sync`, to one server; it is left out where it cannot be had and others are there."""
        while True:
            try:
                if not link.session:
                    link.open()
                return link.push(self._present(), self._version)
            except Fault as fault:
                if not self._borne(link, fault):
                    return

    def _present(self) -> dict[str, Tensor]:
        return self.policy.state_dict() if self._weights is None else self._weights

    # Faults -----------------------------------------------------------------------------------------------------------

    def _borne(self, link: Link, fault: Fault) -> bool:
        """Count a fault and get the server back, a session open and no weights on it yet. False: it is left out, others
        are there. Raises RuntimeError, in one line, where there is no way on."""
        with self._lock:
            self._in_a_row += 1
            in_a_row = self._in_a_row
            self._count(f"faults/{fault.kind}", 1)
            self.said.append(f"rollout server: {fault}")
        link.session, link.version = "", None
        if self._closed:  # this thread was left behind by a run that has ended
            raise RuntimeError(f"rollout server {fault}")
        if in_a_row > self.config.faults:
            raise RuntimeError(f"rollout server {fault}; {in_a_row} faults in a row (rollout.engine.server.faults)")
        try:
            if self.processes:
                link.url = self._process(link).start()
                self._count("restarts", 1)
            elif any(other.version == self._version for other in self.links if other is not link):
                self._count("left_out", 1)  # until the next sync
                return False
            self._reach(link)
        except Fault as again:
            return self._borne(link, again) if self.processes else self._lost(link, again)
        return True

    def _lost(self, link: Link, fault: Fault) -> bool:
        raise RuntimeError(
            f"rollout server {fault} (tried for {self.config.reconnect_timeout:g} s); {self._advice()}, and go on with "
            "--resume"
        ) from None

    def _count(self, name: str, amount: float) -> None:
        self.counts[name] = self.counts.get(name, 0.0) + amount

    def report(self) -> tuple[dict[str, float], list[str]]:
        """Counts and sentences since the last call: faults, restarts, requests sent again, what the probe found."""
        found, said = self.counts, self.said
        self.counts, self.said = {}, []
        return found, said

    # Sampling ---------------------------------------------------------------------------------------------------------

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, progress: Callable[[int], None] | None = None
    ) -> list[Response]:
        """Responses in request order, members in seed order. `progress` is told how many have just finished.

        Raises ValueError and RuntimeError as the servers' engine does, and RuntimeError where no server is left.
        """
        if not self._version:
            self.sync()
        if self.probe is not None and requests:
            self.counts |= self.probe(requests)
        return self._sample(requests, sampling, progress)

    def submit(self, requests: Sequence[Request], sampling: Sampling) -> Landing:
        """Begin to sample beside this thread; the function that is returned waits for the responses, and tells
        `progress` of those that have finished.

        Until then nothing else may be asked of the engine. The weights of the last `sync` are sampled from, whatever
        becomes of the policy's meanwhile (with `keep_weights`).
        """
        found: list[list[Response]] = []
        errors: list[BaseException] = []
        finished: deque[int] = deque()
        if self.probe is not None and requests:
            self.counts |= self.probe(requests)  # now: it compares with the policy, which is about to train

        def work() -> None:
            try:
                found.append(self._sample(requests, sampling, finished.append))
            except BaseException as error:  # raised where it is waited for
                errors.append(error)

        thread = threading.Thread(target=work, name="rollout-ahead", daemon=True)
        thread.start()

        def wait(progress: Callable[[int], None] | None = None) -> list[Response]:
            while thread.is_alive():
                thread.join(1.0)
                news = sum(finished.popleft() for _ in range(len(finished)))
                if progress is not None:
                    progress(news)
            if errors:
                raise errors[0]
            return found[0]

        return wait

    def _sample(
        self, requests: Sequence[Request], sampling: Sampling, progress: Callable[[int], None] | None = None
    ) -> list[Response]:
        if any(r.reaction is not None for r in requests):
            raise ValueError("engine 'server' inserts nothing into responses; use rollout.engine=hf")
        present = [link for link in self.links if link.version == self._version]
        portions = _portions(requests, len(self.links))
        call = _Call(with_stops(sampling, self.policy.stop_strings), self.hook, deque(portions), len(portions))
        threads = [threading.Thread(target=self._serve, args=(call, link), daemon=True) for link in present]
        for thread in threads:
            thread.start()
        while True:
            with call.changed:
                call.changed.wait_for(lambda: call.finished or not call.left or call.error is not None, timeout=1.0)
                news, call.finished = call.finished, 0
                over = not call.left or call.error is not None
            if progress is not None:
                progress(news)  # 0 as well: that this process waits is a sign of life
            if over:
                break
        if call.error is not None:
            raise call.error
        for thread in threads:
            thread.join()
        return [replace(response, tag=r.tag) for i, r in enumerate(requests) for response in call.found.get(i, ())]

    def _serve(self, call: _Call, link: Link) -> None:
        """Have one server answer portion after portion, until none is left."""
        try:
            while (portion := self._next(call)) is not None:
                try:
                    self._portion(call, link, portion)
                except Fault as fault:
                    with call.changed:
                        call.waiting.appendleft(portion)
                        call.changed.notify_all()
                    with self._lock:
                        self._count("resent_requests", len(portion.requests))
                    if not self._borne(link, fault):
                        return
                    self._send_weights(link)
                    if link.version != self._version:
                        return
        except BaseException as error:  # raised in the thread that called
            with call.changed:
                call.error = call.error or error
                call.changed.notify_all()

    def _next(self, call: _Call) -> _Portion | None:
        with call.changed:
            # What another server has in hand may come back.
            call.changed.wait_for(lambda: call.waiting or not call.left or call.error is not None)
            return call.waiting.popleft() if call.waiting and call.error is None else None

    def _portion(self, call: _Call, link: Link, portion: _Portion) -> None:
        def finished(count: int) -> None:
            with call.changed:
                call.finished += max(0, count - portion.told)
                portion.told = max(portion.told, count)
                call.changed.notify_all()

        before = link.media_bytes
        responses = link.generate(portion.requests, call.sampling, call.hook, finished)
        finished(len(responses))
        with self._lock:
            self._in_a_row = 0
            self._count("media_mb", (link.media_bytes - before) / 2**20)
        with call.changed:
            for response in responses:
                call.found.setdefault(response.tag, []).append(response)
            call.left -= 1
            call.changed.notify_all()

    def close(self) -> None:
        """End the servers that were started here."""
        self._closed = True
        for process in self.processes:
            process.close()


def _portions(requests: Sequence[Request], servers: int) -> list[_Portion]:
    """The requests in order, cut into a few portions of about as many responses for each server. The cuts do not depend
    on which servers are there, nor on time: what is sampled together decides about the last bits of log-probs."""
    numbered = [replace(request, tag=i) for i, request in enumerate(requests) if len(request.seeds)]
    if servers == 1 or len(numbered) < 2:
        return [_Portion(numbered)] if numbered else []
    total, count = sum(len(r.seeds) for r in numbered), min(len(numbered), _PORTIONS * servers)
    portions: list[_Portion] = []
    seen = 0
    for request in numbered:
        if not portions or seen >= len(portions) * total / count:
            portions.append(_Portion([]))
        portions[-1].requests.append(request)
        seen += len(request.seeds)
    return portions

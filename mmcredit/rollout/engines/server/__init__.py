"""The engine `server`: sampling in rollout servers over HTTP.

Read `component` (what it promises, its fields in `settings`), `engine`, then `link` (one server), `faults` and
`process` (servers that the run starts itself). The other side is `mmcredit.rollout.serving`.
"""

from mmcredit.rollout.engines.server.component import Server

__all__ = ["Server"]

"""Write docs/example.json, the response that the pages of the methods draw: from the tokens of an audit.

python scripts/docs_example.py runs/audit/easy-vqa --step 2 --response 96
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pyarrow.parquet as pq

from mmcredit.frozen import thaw

TARGET = Path(__file__).resolve().parent.parent / "docs" / "example.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("audit", type=Path, help="folder of an audit of a config")
    parser.add_argument("--step", type=int, required=True)
    parser.add_argument("--response", type=int, required=True)
    arguments = parser.parse_args()
    table = pq.read_table(arguments.audit / "tokens.parquet").to_pylist()
    rows = [r for r in table if (r["step"], r["response"]) == (arguments.step, arguments.response)]
    if not rows:
        raise SystemExit(f"{arguments.audit} holds no response {arguments.response} of step {arguments.step}")
    frozen = thaw(arguments.audit / "rollouts" / f"step-{arguments.step:06d}")
    sample = next(s for s in frozen.rollouts.samples or () if s.id == rows[0]["sample_id"])
    member = frozen.rollouts.group == frozen.rollouts.group[arguments.response]
    text = next(part["text"] for part in sample.messages[-1]["content"] if part["type"] == "text")
    found = {
        "source": frozen.config["run"]["name"],
        "model": frozen.config["model"]["path"],
        "question": text.splitlines()[0],
        "answer": sample.answer,
        "reward": rows[0]["reward"],
        "rewards": sorted(frozen.rollouts.rewards[member].tolist(), reverse=True),
        "pieces": [r["piece"] for r in rows],
        "truth": [round(r["truth"], 3) for r in rows],
        "credit": {
            name.removeprefix("credit:"): [float(f"{r[name]:.4g}") for r in rows]
            for name in rows[0]
            if name.startswith("credit:") and "every token" not in name
        },
    }
    TARGET.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(TARGET)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""The inside of the engine `vllm`. Read `engine` first, then `draw` (how tokens are drawn inside vLLM) and `weights`
(what is handed over after an update)."""

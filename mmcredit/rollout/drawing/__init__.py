"""How a token is drawn, the same in every engine: `sampler` (one uniform number per row and step), `temperature`
(by entropy), `stop` (end tokens and stop strings)."""

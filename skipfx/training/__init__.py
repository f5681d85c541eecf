"""Training of learned gates: clips through the stream graph, the price of what they open, and a small loop."""

"""What only a card can show, as one program that needs no thinking while it runs: `python -m benchmarks.card`."""

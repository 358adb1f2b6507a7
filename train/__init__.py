"""Makes runs: real Hugging Face models trained on real text, with a ladder of annealed observations. torch lives here."""

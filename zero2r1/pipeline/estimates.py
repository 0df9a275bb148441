"""What a stage takes, by arithmetic: parameters, bytes, tokens, seconds. Nothing is loaded, measured or printed here.

Coefficients are counted on the code they describe, and their tests count again; what is a guess is called one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace

GIB = 2**30
FLOAT32, BFLOAT16 = 4, 2
HEAD_CHUNKS = 640 * 2**20
"""Logits, their exponentials and gradients of one chunk, and the probabilities that are kept (zero2r1.training.logprobs)."""
ALLOCATOR = 1.2
"""A guess: what an allocator holds of memory that comes and goes, for each byte in use."""
RUNTIME = GIB
"""A guess: libraries, kernels, a GPU's context."""
BYTES_PER_TOKEN = 4
"""A guess: text of a token on disk."""
ROUND_POSITIONS = 64
"""Rows of the sampler's cache are rounded up to this many positions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """Sizes of a dense transformer with grouped attention, a gated feed-forward layer and RMS norms: Llama, Mistral, Qwen2."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    feed_forward: int
    vocabulary: int
    tied: bool
    """The head is the embedding."""
    attention_bias: bool = False
    """Queries, keys and values have a bias (Qwen2)."""
    context: int | None = None
    """The most positions; ``None`` where that is not known."""

    @property
    def linears(self) -> Mapping[str, tuple[int, int]]:
        """The linear layers in each layer by their names there: widths of what goes in and of what comes out."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "self_attn.q_proj": (self.width, queries),
            "self_attn.k_proj": (self.width, keys),
            "self_attn.v_proj": (self.width, keys),
            "self_attn.o_proj": (queries, self.width),
            "mlp.gate_proj": (self.width, self.feed_forward),
            "mlp.up_proj": (self.width, self.feed_forward),
            "mlp.down_proj": (self.feed_forward, self.width),
        }

    @property
    def in_layers(self) -> int:
        """Weights of the matrices in all layers."""
        return self.layers * sum(into * out for into, out in self.linears.values())

    def targeted(self, targets: Sequence[str] = ()) -> Iterator[tuple[int, int]]:
        """Widths of the linear layers that targets of LoRA name, whole or by their last parts: all but the head if there are none."""
        for number in range(self.layers):
            for place, widths in self.linears.items():
                name = f"model.layers.{number}.{place}"
                if not targets or any(name == target or name.endswith(f".{target}") for target in targets):
                    yield widths

    def adapters(self, rank: int, targets: Sequence[str] = ()) -> int:
        """Parameters of adapters of this rank beside the layers that are named."""
        return rank * sum(into + out for into, out in self.targeted(targets))

    def adapted(self, targets: Sequence[str] = ()) -> int:
        """Weights of the layers that are named."""
        return sum(into * out for into, out in self.targeted(targets))

    @property
    def parameters(self) -> int:
        """All of them, tied ones once."""
        biases = self.layers * self.head_dim * (self.heads + 2 * self.kv_heads) if self.attention_bias else 0
        norms = self.width * (2 * self.layers + 1)
        return self.in_layers + biases + norms + self.vocabulary * self.width * (1 if self.tied else 2)

    @property
    def as_state(self) -> int:
        """Parameters of a state by name, as a reference is saved: a tied head once more."""
        return self.parameters + (self.vocabulary * self.width if self.tied else 0)

    @property
    def as_reward_model(self) -> int:
        """Parameters with a head of one score in place of that of the vocabulary."""
        return self.parameters + self.width - (0 if self.tied else self.vocabulary * self.width)


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """Bytes of one process at its fullest, by what they are for."""

    weights: int = 0
    gradients: int = 0
    moments: int = 0
    reference: int = 0
    reward_models: int = 0
    half_copy: int = 0
    """The weights in bfloat16 that autocast makes of the float32 ones."""
    merged: int = 0
    """A copy of layers' weights with the adapters added, while a model is sampled or written; on a GPU it is written from the host."""
    twin: int = 0
    """Copies of linear layers that a GPU samples from; they stay."""
    activations: int = 0
    head: int = 0
    cache: int = 0
    """Keys and values of the answers being sampled; it stays where it is while the policy trains."""
    runtime: int = RUNTIME

    @property
    def total(self) -> int:
        return sum(getattr(self, field.name) for field in fields(self))


def fuller(*peaks: Peak) -> Peak:
    """The one that takes the most."""
    return max(peaks, key=lambda peak: peak.total)


def with_weights(peak: Peak, copies: int) -> Peak:
    """With so many further copies of the weights, as sampling processes hold them."""
    own = {name: getattr(peak, name) for name in Peak.__dataclass_fields__}
    return Peak(**{**own, "weights": peak.weights * (1 + copies)})


def cached_positions(*, samples: int, longest: int, token_budget: int, max_rows: int) -> int:
    """Positions that the sampler's cache takes for so many samples of up to ``longest`` tokens, prompt included."""
    positions = min(-(-longest // ROUND_POSITIONS) * ROUND_POSITIONS, token_budget)
    return positions * max(1, min(max_rows, token_budget // positions, samples))


def cache_bytes(shape: ModelShape, positions: int, *, half: bool = False) -> int:
    """Keys and values in float32, or in half; token (8 bytes), log-probability (4) and random number (8) of every position."""
    return positions * (2 * shape.layers * shape.kv_heads * shape.head_dim * (BFLOAT16 if half else FLOAT32) + 20)


def twin_bytes(shape: ModelShape, *, half: bool, half_head: bool, adapted: int) -> int:
    """What a GPU samples from beside the weights: linear layers in bfloat16, or those with adapters in float32 (zero2r1.models.twin)."""
    if half:
        return BFLOAT16 * (shape.in_layers + (shape.vocabulary * shape.width if half_head else 0))
    return FLOAT32 * adapted


def layer_bytes(shape: ModelShape, *, tokens: int, longest: int, half: bool) -> int:
    """What one layer keeps of a forward pass for the way back; ``longest`` is the longest sequence, for its mask.

    Key-value heads do not count: attention repeats them for every head.
    """
    width, feed_forward, mask = (38, 8, BFLOAT16) if half else (48, 16, FLOAT32)
    return tokens * (width * shape.width + feed_forward * shape.feed_forward + mask * longest)


def activation_bytes(shape: ModelShape, *, tokens: int, longest: int, half: bool, checkpointing: bool) -> int:
    """All layers' activations and one layer's work; checkpointed, the layers' inputs and a second layer that is computed again."""
    whole = layer_bytes(shape, tokens=tokens, longest=longest, half=half)
    kept = shape.layers * (tokens * shape.width * FLOAT32 if checkpointing else whole)
    return int(ALLOCATOR * (kept + whole * (2 if checkpointing else 1)))


def head_bytes(shape: ModelShape, *, tokens: int, trained: bool = True) -> int:
    """The chunked head: at most its chunks, and if it is trained the gradient of its matrix beside what is accumulated already."""
    gradient = FLOAT32 * shape.vocabulary * shape.width if trained else 0
    return min(HEAD_CHUNKS, 4 * FLOAT32 * tokens * shape.vocabulary) + gradient


def training_peak(
    shape: ModelShape,
    *,
    tokens: int,
    longest: int,
    half: bool,
    checkpointing: bool,
    reference: bool = False,
    cache: int = 0,
    twin: int = 0,
    reward_models: int = 0,
    scalar_head: bool = False,
    adapters: int = 0,
    offload: Sequence[str] = (),
) -> Peak:
    """Training by AdamW in float32, ``tokens`` at a time.

    Args:
        reference: there is a copy of what is trained. Adapters have one from the first reset on; before it the reference is the policy
            without them.
        cache, twin: bytes of the sampler's, beside it.
        reward_models: how many are loaded beside the policy.
        scalar_head: a reward model is what is trained.
        adapters: how many parameters of them are trained in place of the weights. The half copy is an upper bound then: autocast does
            not keep what it makes of weights that are not trained, and checkpointed layers let go of it.
        offload: what lies with the host while it is not needed (``compute.offload``); the peak is the device's then, at its fullest moment.
    """
    parameters = shape.as_reward_model if scalar_head else shape.parameters
    trained = adapters or parameters
    whole = Peak(
        weights=FLOAT32 * (parameters + adapters),
        gradients=FLOAT32 * trained,
        moments=2 * FLOAT32 * trained,
        reference=FLOAT32 * trained if reference else 0,
        reward_models=FLOAT32 * shape.as_reward_model * reward_models,
        half_copy=BFLOAT16 * shape.in_layers if half else 0,
        activations=activation_bytes(shape, tokens=tokens, longest=longest, half=half, checkpointing=checkpointing),
        head=0 if scalar_head else head_bytes(shape, tokens=tokens, trained=not adapters),
        cache=cache,
        twin=twin,
    )
    return _fullest_moment(whole, offload) if offload else whole


def _fullest_moment(whole: Peak, offload: Sequence[str]) -> Peak:
    """Of the pass, the optimizer's step, and scoring by the reference: what is put away during one may be there during another."""
    moments, reference = (0 if name in offload else size for name, size in (("optimizer", whole.moments), ("reference", whole.reference)))
    return fuller(
        replace(whole, moments=moments, reference=reference),
        replace(whole, reference=reference, half_copy=0, activations=0, head=0),
        replace(whole, moments=moments, gradients=0, activations=0),
    )


def merged_peak(
    shape: ModelShape, *, adapters: int, adapted: int, half: bool, reference: bool = False, cache: int = 0, reward_models: int = 0
) -> Peak:
    """Between two steps of training adapters beside so many ``adapted`` weights: nothing of the step is there, and weights are copied.

    To write the model its adapted layers are merged; to sample in float32 too, on a CPU with every other linear layer and the head.
    """
    copied = adapted if half else shape.in_layers + shape.vocabulary * shape.width
    return Peak(
        weights=FLOAT32 * (shape.parameters + adapters),
        moments=2 * FLOAT32 * adapters,
        reference=FLOAT32 * adapters if reference else 0,
        reward_models=FLOAT32 * shape.as_reward_model * reward_models,
        merged=FLOAT32 * copied,
        cache=cache,
    )


def sampling_peak(
    shape: ModelShape, *, half: bool, cache: int, twin: int = 0, processes: int = 1, moments: bool = False, adapters: int = 0
) -> Peak:
    """Sampling alone. ``processes`` of one thread each have weights and a cache of their own; ``moments`` of a training before it stay.

    ``half``: autocast makes its copy of the weights, which a ``twin`` makes needless.
    """
    weights = FLOAT32 * (shape.parameters + adapters)
    return Peak(
        weights=weights * (processes + 1 if processes > 1 else 1),
        moments=2 * FLOAT32 * (adapters or shape.parameters) if moments else 0,
        half_copy=BFLOAT16 * shape.in_layers if half and not twin else 0,
        cache=cache * processes,
        twin=twin,
    )


def checkpoint_bytes(parameters: int, *, reference: int = 0, adapters: int = 0) -> int:
    """A checkpoint in float32: weights, two moments, and a reference of so many parameters.

    Adapters are in it four times: in PEFT's format beside the merged weights, as what training goes on from, and in two moments.
    """
    return FLOAT32 * (parameters + (4 * adapters or 2 * parameters) + reference)


def checkpoints_on_disk(one: int, *, steps: int, every: int, keep: int) -> int:
    """Bytes of the checkpoints that stay; one more is written before the oldest goes, where there is one too many."""
    saves = -(-steps // every)
    return one * (saves if saves <= keep else keep + 1)


def updates_of(examples: int, *, batch_size: int, epochs: int) -> int:
    """Updates of supervised training; an epoch's last batch may be smaller."""
    return -(-examples // batch_size) * epochs


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Tokens a second on the machine that is meant, all of an update included in ``train``."""

    decode: float
    train: float

    def seconds(self, *, sampled: int, trained: int) -> float:
        """How long so many tokens take."""
        return sampled / self.decode + trained / self.train


def speed_of(text: str) -> Speed:
    """``DECODE,TRAIN`` in tokens a second.

    Raises:
        ValueError: not two numbers above 0.
    """
    try:
        decode, train = (float(part) for part in text.split(","))
    except ValueError:
        decode = train = 0.0
    if not (0 < decode < float("inf") and 0 < train < float("inf")):
        raise ValueError(
            f"--speed is {text!r}; it takes two numbers, tokens a second sampled and trained, for example --speed 700,350. A run's "
            "metrics.jsonl has them: num_tokens / timing_s/generate, and num_tokens / timing_s/train"
        )
    return Speed(decode=decode, train=train)

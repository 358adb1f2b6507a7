"""Time that tensor, pipeline, context and expert parallelism, and shared states, add to a training step.

Bytes that cross a link, over what such links carry; the bubble of a pipeline; and stages that are not even.
"""

from dataclasses import dataclass

from families import ModelSpec, accounting
from families.memory import Layout

from ..hardware import Accelerator

NODE = 8  # devices with a fast link to each other, as in DGX and HGX machines
_ACHIEVED = (
    0.8  # of a link's rate: 380 of an H100's 450 GB/s in NVIDIA's peer-to-peer test (NVIDIA/nccl, issue 1264)
)

# Of the time of collectives within a layer that is not hidden behind its products. Chosen with the eight published models of
# `published_mfu` that Megatron trained in view, which overlap the two: 0 leaves their MFUs over the estimates a factor of 1.80
# apart, 0.35 of 1.24, 0.7 of 1.24, 1 of 1.50.
EXPOSED = 0.35

# One way in GB/s: of a device to its neighbours in a node, and of its port to other nodes. NVLink of the V100, A100, H100 and
# B200 datasheets, halved; ports of DGX-2, DGX A100 and DGX H100 (8 of 100, 200 and 400 Gb/s; confirmed for H100 by
# NVIDIA/dgxc-benchmarking, README.md). A800 and H800 have NVLinks of 400 GB/s both ways.
_LINKS = {
    "V100": (150, 12.5),
    "V100-32GB": (150, 12.5),
    "A100-40GB": (300, 25),
    "A100": (300, 25),
    "A800": (200, 25),
    "H100": (450, 50),
    "H200": (450, 50),
    "H800": (200, 50),
    "H20": (450, 50),
    "GH200": (450, 50),
    "GH200-144GB": (450, 50),
    "B200": (900, 50),
    "B300": (900, 100),
    "GB200": (900, 50),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """Bytes per second that a device sends: to others of its node, and through its port to other nodes."""

    within: float
    between: float

    @property
    def ring(self) -> float:
        """Of a collective over many nodes, a ring of which crosses each node's ports side by side."""
        return min(self.within, NODE * self.between)


def links(name: str) -> Links | None:
    """Rates that collectives reach on a device's links; None where its links are not known.

    Args:
        name: the accelerator's name.
    """
    found = _LINKS.get(name)
    if found is None:
        return None
    within, between = (_ACHIEVED * 1e9 * rate for rate in found)
    return Links(within=within, between=between)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """Seconds of one micro-batch in one block on one device, and how a step is made of them.

    Args:
        block: products and memory traffic, divided by the tensor and context degrees.
        tensor: gathers and scatters of activations (Korthikanti et al. 2022, section 4.2.2).
        context: keys and values of the other parts of a sequence, beyond the time in which attention hides them.
        expert: tokens sent to their experts and back, forward and backward.
        send: activations and gradients sent to the next stage and back, a block's share of them.
        states: gathering weights and reducing gradients, a block's share of a micro-batch's.
        bubble: idle time of a pipeline, relative to its work: (p − 1)/(v·m) (Narayanan et al. 2021, section 2.2).
        unevenness: blocks of the largest stage over the mean.
    """

    block: float
    tensor: float = 0.0
    context: float = 0.0
    expert: float = 0.0
    send: float = 0.0
    states: float = 0.0
    bubble: float = 0.0
    unevenness: float = 1.0

    @property
    def slowdown(self) -> float:
        """Time of a step over that of the same work without communication, bubble or uneven stages."""
        shown = self.block + EXPOSED * (self.tensor + self.expert) + self.context + self.send
        step = shown * self.unevenness * (1 + self.bubble)
        return max(step, self.states) / self.block


def step_time(
    spec: ModelSpec,
    device: Accelerator,
    layout: Layout,
    *,
    micro_batch: int,
    micro_batches: float,
    mfu: float,
    interleave: int = 1,
) -> StepTime:
    """Time of a step's parts under a layout.

    Args:
        spec: the model.
        device: the accelerator.
        layout: the degrees, and how states are shared.
        micro_batch: sequences in one forward pass of a replica.
        micro_batches: of a step, in one replica.
        mfu: share of the peak that a device reaches alone.
        interleave: pieces of each stage (virtual pipeline stages).
    """
    tokens, d = micro_batch * spec.n_positions, spec.n_embd
    own = tokens / (layout.tensor * layout.context)
    flops = accounting.train_flops_per_token(spec) / spec.n_layer
    block = flops * own / (device.training_peak * mfu)
    bubble = (layout.pipeline - 1) / (interleave * micro_batches)
    unevenness = layout.stage_layers(spec.n_layer) * layout.pipeline / spec.n_layer
    known = links(device.name)
    if known is None:
        return StepTime(block=block, bubble=bubble, unevenness=unevenness)
    repeated = 1.5 if layout.checkpointing else 1.0  # the forward pass is taken twice
    node = layout.tensor * layout.context
    near = known.within if node <= NODE else known.between
    # Two gathers and two scatters of the block's activations in 16 bits, forward and again backward.
    activations = 8 * 2 * d * tokens / layout.context * (1 - 1 / layout.tensor)
    kv = (spec.n_kv_head or spec.n_head) * (spec.config.get("head_dim") or d // spec.n_head)
    passed = (
        3 * 2 * 2 * kv * tokens / layout.tensor * (1 - 1 / layout.context)
    )  # k and v; their gradients too
    attention = 12 * d * spec.n_positions * own / (device.training_peak * mfu)
    _, per_token = accounting.experts(spec)
    routed = 4 * 2 * per_token * d * own * (1 - 1 / layout.expert)
    far = known.within if node * layout.expert <= NODE else known.between
    send = 2 * 2 * d * own / known.between / layout.stage_layers(spec.n_layer) if layout.pipeline > 1 else 0.0
    return StepTime(
        block=block,
        tensor=repeated * activations / known.within,
        context=max(0.0, passed / near - attention),
        expert=repeated * routed / far,
        send=send if interleave == 1 else 0.0,  # an interleaved schedule sends while it computes
        states=_states(spec, layout, known, micro_batches),
        bubble=bubble,
        unevenness=unevenness,
    )


def _states(spec: ModelSpec, layout: Layout, known: Links, micro_batches: float) -> float:
    """Seconds of a block's share of gathering weights (2 bytes) and reducing gradients (4), for a micro-batch.

    At stage 3 weights are gathered forward and backward and gradients reduced for each micro-batch; at stage 1 once a step.
    """
    if layout.shards == 1:
        return 0.0
    held = accounting.params(spec) / (spec.n_layer * layout.tensor * layout.expert)
    rate = known.within if layout.tensor * layout.shards <= NODE else known.ring
    each = 8 * held if layout.stage == 3 else 6 * held / micro_batches
    return each * (1 - 1 / layout.shards) / rate

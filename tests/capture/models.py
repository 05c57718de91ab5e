"""Models of many kinds, each small, with a batch and a loss: what the capture engine must be right on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.capture import zoo

WIDTH, HEADS, TOKENS, VOCABULARY = 32, 4, 9, 29

Inputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class Case:
    """A model, what it is trained on, and how.

    Attributes:
        make: makes the model, with random weights.
        batch: makes its inputs, none of which takes gradients.
        loss: forward pass and loss; it holds on to nothing but what it returns.
        learning_rate: for AdamW.
        cosine: of the first gradients under 8-bit codes with exact ones, at least.
    """

    make: Callable[[], nn.Module]
    batch: Callable[[], Inputs]
    loss: Callable[[nn.Module, Inputs], Tensor]
    learning_rate: float = 3e-3
    cosine: float = 0.99


def regression(model: nn.Module, inputs: Inputs) -> Tensor:
    """Mean squared distance of the model's output from a ramp."""
    output = model(*inputs).float()
    return (output - torch.linspace(-1, 1, output.numel()).view_as(output)).square().mean()


def next_token(model: nn.Module, inputs: Inputs) -> Tensor:
    """Cross entropy of the logits with the tokens that follow."""
    (tokens,) = inputs
    output = model(tokens)
    logits = output if isinstance(output, Tensor) else output.logits
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten())


def vectors() -> Inputs:
    """``(B, D)``."""
    return (torch.randn(40, WIDTH),)


def sequences() -> Inputs:
    """``(B, T, D)``."""
    return (torch.randn(4, TOKENS, WIDTH),)


def images() -> Inputs:
    """``(B, C, H, W)``."""
    return (torch.randn(4, 3, 12, 12),)


def tokens() -> Inputs:
    """``(B, T)``."""
    return (torch.randint(VOCABULARY, (4, TOKENS)),)


# ---------------------------------------------------------------- transformers by hand


class SelfAttention(nn.Module):
    """Causal attention whose q, k and v are views of one projection, cut along a dimension of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, HEADS, -1).permute(2, 0, 3, 1, 4)  # (3, B, H, T, d)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, -1))


class Layer(nn.Module):
    """A layer of a transformer, normed before or after its two branches."""

    def __init__(self, pre_norm: bool) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.attn, self.attn_norm = SelfAttention(), nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))
        self.mlp_norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        if self.pre_norm:
            x = x + self.attn(self.attn_norm(x))
            return x + self.mlp(self.mlp_norm(x))
        x = self.attn_norm(x + self.attn(x))
        return self.mlp_norm(x + self.mlp(x))


def transformer(pre_norm: bool) -> nn.Module:
    return nn.Sequential(*[Layer(pre_norm) for _ in range(2)])


def torch_transformer(pre_norm: bool) -> nn.Module:
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 2 * WIDTH, batch_first=True, norm_first=pre_norm)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


class LanguageModel(nn.Module):
    """Token and position embeddings, two layers, and logits by the token embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Parameter(0.1 * torch.randn(TOKENS + 3, WIDTH))
        self.layers = transformer(pre_norm=True)
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.positions[: tokens.shape[1]]
        return self.head(self.norm(self.layers(x)))


# ---------------------------------------------------------------- others


class Recurrent(nn.Module):
    """A recurrent network of two layers, and a linear one after the last output."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.rnn = kind(WIDTH, WIDTH, num_layers=2, batch_first=True)
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0])


class BasicBlock(nn.Module):
    """Two convolutions beside a skip connection, which is a 1x1 convolution where the shape changes."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outer)
        self.relu = nn.ReLU(inplace=True)
        self.skip: nn.Module = nn.Identity()
        if stride > 1 or inner != outer:
            self.skip = nn.Sequential(nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        y += self.skip(x)
        return self.relu(y)


class ResNet(nn.Module):
    """A stem, three stages of which two halve the image, pooling and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2)
        )
        self.stages = nn.Sequential(BasicBlock(8, 8, 1), BasicBlock(8, 16, 2), BasicBlock(16, 24, 2))
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.adaptive_avg_pool2d(self.stages(self.stem(x)), 1).flatten(1))


class Dropouts(nn.Module):
    """Dropout of elements, of channels and in place, between layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.channels, self.elements, self.in_place = nn.Dropout2d(0.2), nn.Dropout(0.2), nn.Dropout(0.2, inplace=True)
        self.first, self.second = nn.Linear(8, WIDTH), nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.channels(self.conv(x).tanh()).mean((2, 3))
        return self.second(self.elements(self.in_place(self.first(y)).relu()))


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(WIDTH, 64), nn.GELU(), nn.Linear(64, 64), nn.ReLU(inplace=True), nn.Linear(64, 48), nn.SiLU(),
        nn.Linear(48, 5),
    )  # fmt: skip


# ---------------------------------------------------------------- of a library


def gpt2(attention: str) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_positions=16, n_embd=WIDTH, n_layer=2, n_head=HEADS, attn_pdrop=0.0, use_cache=False,
        bos_token_id=0, eos_token_id=0, attn_implementation=attention,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


def llama(attention: str) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=2, use_cache=False,
        num_attention_heads=HEADS, num_key_value_heads=2, max_position_embeddings=16, bos_token_id=0, eos_token_id=0,
        attn_implementation=attention,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


CASES: dict[str, Case] = {
    "weight-tied": Case(lambda: zoo.Recursive(calls=25), sequences, regression),
    "mlp": Case(mlp, vectors, regression),
    "pre-norm transformer": Case(lambda: transformer(True), sequences, regression),
    "post-norm transformer": Case(lambda: transformer(False), sequences, regression),
    "torch's pre-norm transformer": Case(lambda: torch_transformer(True), sequences, regression),
    "torch's post-norm transformer": Case(lambda: torch_transformer(False), sequences, regression),
    "attention": Case(SelfAttention, sequences, regression),
    "lstm": Case(lambda: Recurrent(nn.LSTM), sequences, regression),
    "gru": Case(lambda: Recurrent(nn.GRU), sequences, regression),
    # ReLU's backward asks for the sign of what it saved, and codes round what is small to zero.
    "resnet": Case(ResNet, images, regression, cosine=0.97),
    "dropout": Case(Dropouts, images, regression),
    "language model": Case(LanguageModel, tokens, next_token),
    "gpt2, sdpa": Case(lambda: gpt2("sdpa"), tokens, next_token),
    "gpt2, eager": Case(lambda: gpt2("eager"), tokens, next_token),
    "llama, sdpa": Case(lambda: llama("sdpa"), tokens, next_token),
    "llama, eager": Case(lambda: llama("eager"), tokens, next_token),
}

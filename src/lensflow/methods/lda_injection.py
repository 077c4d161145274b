"""ITLC: adds the shift between two languages in a discriminant space, in the middle block (arXiv 2506.12450).

z is the mean state of a text after block L/2 - 1, standardised in every dimension. Linear discriminant analysis of the
K languages gives W ∈ R^{d×k}, and y = (z - z̄) W. A linear classifier U ∈ R^{K×k} is trained on y. v_x[j] is the mean
of y[j] over the texts of language x if |U[x,j]| > 0.01, and 0 otherwise. For a prompt in s and a wanted language g, all
tokens get

    h ← h + α (v_g - v_s) W⁺ if g ≠ s, else h + α v_g W⁺, with the pseudo-inverse W⁺

As in the authors' code, the shift is not multiplied by the standard deviations again. Defaults: α = 0.5, the paper's
value for Qwen2.5-0.5B (1.3 for Qwen2.5-7B, 0.15 for Llama-3.1-8B, 0.10 for its Instruct model); k = min(100, K - 1),
because K languages have at most K - 1 discriminants; 10 epochs of Adam with rate 1e-3 (paper), with 32 texts per batch
(ours). The authors use 997 sentences of FLORES-200 in 204 languages. We use the prompts of the training corpus, without
their first token. The initial values of U decide which dimensions are pruned, so the result depends on the seed. The
method is told the wanted language and the prompt's.
"""

from typing import Any, ClassVar, Literal

from lensflow.methods.base import Block, Method, Run, Trained, blocks_of
from lensflow.schema.types import Count, NonNegative


class LdaInjection(Method):
    """Adds the shift between two languages in a discriminant space, in the middle block."""

    told_language: ClassVar[bool] = True
    of_blocks: ClassVar[tuple[str, ...]] = ("layer",)

    kind: Literal["lda_injection"]
    strength: NonNegative = 0.5
    """α, how far states are moved. Source: paper, for Qwen2.5-0.5B."""
    layer: Block | None = None
    """The block: its number, or a share of the depth. The default is L/2 - 1 of L blocks (paper)."""
    components: Count = 100
    """k, the number of discriminants, at most K - 1 for K languages. Source: paper."""
    threshold: NonNegative = 0.01
    """Weights of the classifier with a smaller absolute value are pruned. Source: paper."""


Config = LdaInjection
_EPOCHS, _RATE, _BATCH = 10, 1e-3, 32


def train(run: Run[LdaInjection]) -> Trained:
    """Write the vector that is added for each pair of languages."""
    import torch
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    from lensflow.artifacts import deltas, interventions
    from lensflow.artifacts.interventions import BlockEdit, Intervention
    from lensflow.methods.probing import text_states

    method, languages = run.method, run.setting.languages
    texts, labels, layer = [], [], 0
    for number, (_, states) in enumerate(text_states(run)):
        depth = states.sums.shape[1]
        layer = depth // 2 - 1 if method.layer is None else blocks_of(method.layer, depth, "layer")[0]
        texts.append(states.text_means[:, layer])
        labels += [number] * len(states.counts)
    z, x = torch.cat(texts), torch.tensor(labels)
    z = (z - z.mean(0)) / z.std(0, correction=0).clamp_min(torch.finfo(z.dtype).tiny)  # a constant dimension stays 0
    count = min(method.components, len(languages) - 1)
    analysis = LinearDiscriminantAnalysis(solver="svd", n_components=count).fit(z.numpy(), x.numpy())
    axes = torch.from_numpy(analysis.scalings_[:, :count])
    y = torch.from_numpy(analysis.transform(z.numpy()))
    kept = _classifier(y, x, len(languages), run.seed).abs() > method.threshold
    vectors = [y[x == number].mean(0) * kept[number] for number in range(len(languages))]
    back = torch.linalg.pinv(axes)
    blocks = {}
    for source, start in zip(languages, vectors, strict=True):
        for wanted, end in zip(languages, vectors, strict=True):
            shift = ((end if wanted == source else end - start) @ back).float()
            blocks[source, wanted] = [BlockEdit(layer, "add", shift, strength=method.strength)]
    interventions.write(Intervention(blocks=blocks), run.output)
    deltas.write({}, run.backbone.parent, run.output)
    return Trained(tokens=0, parameters=0)


def _classifier(y: Any, x: Any, languages: int, seed: int) -> Any:
    """Train a linear classifier from texts (N, k) to languages (N,); return its weights U (K, k)."""
    import torch
    from torch.nn.functional import cross_entropy

    torch.manual_seed(seed)
    linear = torch.nn.Linear(y.shape[1], languages).double()
    optimizer = torch.optim.Adam(linear.parameters(), lr=_RATE)
    for _ in range(_EPOCHS):
        for batch in torch.split(torch.randperm(len(x)), _BATCH):
            optimizer.zero_grad()
            loss: Any = cross_entropy(linear(y[batch]), x[batch])
            loss.backward()
            optimizer.step()
    return linear.weight.detach()

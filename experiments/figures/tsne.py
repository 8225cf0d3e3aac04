"""Features in the plane, and numbers for what one sees there."""

import numpy as np
from sklearn.manifold import TSNE
from sklearn.neighbors import NearestNeighbors


def embed(features: np.ndarray, seed: int = 0) -> np.ndarray:
    """t-SNE of features [N, D] in the plane, float32 [N, 2]: perplexity 30 (less for N < 91), PCA init, fixed seed.

    The papers tell neither perplexity nor iterations.
    """
    perplexity = min(30.0, (len(features) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(np.asarray(features, np.float32))


def neighbour_agreement(features: np.ndarray, classes: np.ndarray, k: int = 10) -> float:
    """Share of the `k` nearest neighbours of an example that are of its own class, mean over examples [N, D], [N].

    A number for what a t-SNE shows: 1 for classes well apart, about 1/C for C mixed ones.
    """
    # The query without data leaves each example out of its own neighbourhood, duplicates or not.
    nearest = NearestNeighbors(n_neighbors=k).fit(features).kneighbors(return_distance=False)
    return float(np.mean(classes[nearest] == classes[:, None]))


def spread_within(features: np.ndarray, classes: np.ndarray) -> float:
    """How far examples [N, D] lie from the centre of their class [N]: mean distance over that to the common centre.

    0 where each class is a point, 1 where classes do not matter. Diverse sets have more of it (Dynamic Loss, Fig. 5).
    """
    features = np.asarray(features, float)
    named, number = np.unique(classes, return_inverse=True)
    centres = np.stack([features[number == c].mean(0) for c in range(len(named))])
    within = np.linalg.norm(features - centres[number], axis=1).mean()
    return float(within / np.linalg.norm(features - features.mean(0), axis=1).mean())

"""Texts as token ids: a vocabulary of the training texts' words, and every text as its last words' numbers.

Lower case; words are what stands between white space and punctuation, and each punctuation mark is a word. HTML line
breaks, which the IMDB reviews are full of, count as white space. Id 0 is padding, 1 any word outside the vocabulary,
and the rest follow by frequency. The same texts give the same ids on every machine.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

PADDING, UNKNOWN = 0, 1
SPECIAL = ("[PAD]", "[UNK]")  # no word is spelt like these: brackets are words of their own
VOCABULARY_SIZE, MAX_TOKENS = 20_000, 256
MAX_OWN_TOKENS = 512  # of texts of one's own, of which no longer one is known beforehand
SCHEME = "words-1"  # to be changed with anything that changes ids: caches are keyed by it


def build_vocabulary(texts: Iterable[str], size: int = VOCABULARY_SIZE) -> tuple[str, ...]:
    """The words by token id: padding, unknown, then the most frequent words of `texts`, ties in the words' order.

    size: the most ids there may be, at least 3. Raises ValueError for a smaller size or texts without any word.
    """
    if size <= len(SPECIAL):
        raise ValueError(f"vocabulary size is {size!r}; expected at least {len(SPECIAL) + 1}")
    from tokenizers import trainers

    tokenizer = _tokenizer(SPECIAL)
    trainer = trainers.WordLevelTrainer(vocab_size=size - len(SPECIAL), special_tokens=[], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    ranks = tokenizer.get_vocab()
    if not ranks:
        raise ValueError("the texts hold no word to build a vocabulary from")
    return (*SPECIAL, *sorted(ranks, key=ranks.__getitem__))


def encode(texts: Sequence[str], vocabulary: Sequence[str], max_tokens: int = MAX_TOKENS) -> np.ndarray:
    """Token ids int32 [N, max_tokens] of N texts in a vocabulary of `build_vocabulary`, 0 behind the last word.

    A longer text keeps its end, where a review sums up. Raises ValueError for max_tokens below 1.
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens is {max_tokens!r}; expected at least 1")
    ids = np.full((len(texts), max_tokens), PADDING, np.int32)
    for row, encoding in zip(ids, _tokenizer(vocabulary).encode_batch_fast(texts), strict=True):
        kept = encoding.ids[-max_tokens:]
        row[: len(kept)] = kept
    return ids


class Numbered(NamedTuple):
    """Texts as token ids: int32 [N, L] and [M, L], in a vocabulary, and what there is to say of it."""

    train: np.ndarray
    test: np.ndarray
    vocabulary: tuple[str, ...]
    notes: tuple[str, ...]


def number(
    train: Sequence[str],
    test: Sequence[str],
    *,
    max_tokens: int | None = None,
    vocabulary_size: int | None = None,
    vocabulary: Sequence[str] | None = None,
) -> Numbered:
    """Texts of one's own as token ids.

    max_tokens: L; None: as many as the longest text has, and 512 at the most. vocabulary_size: see `build_vocabulary`
    (20,000). vocabulary: in place of one of the training texts' words.

    >>> number(["Good film.", "A bad film"], ["a good one"]).test.tolist()
    [[4, 6, 1]]
    """
    if vocabulary is None:
        vocabulary = build_vocabulary(train, VOCABULARY_SIZE if vocabulary_size is None else vocabulary_size)
    length = MAX_OWN_TOKENS if max_tokens is None else max_tokens
    ids = encode([*train, *test], vocabulary, length)
    if max_tokens is None:
        ids = np.ascontiguousarray(ids[:, : max(1, int((ids != PADDING).sum(1).max()))])
    full = int((ids[:, -1] != PADDING).sum()) if ids.shape[1] == length else 0
    notes = [f"texts: {len(vocabulary):,} token ids, of lower-case words; the last {ids.shape[1]} of a text are read"]
    notes += [f" ({full:,} of {len(ids):,} have as many or more; max_tokens sets another number)"] * bool(full)
    return Numbered(ids[: len(train)], ids[len(train) :], tuple(vocabulary), ("".join(notes) + ".",))


def as_texts(values: Any) -> list[str] | None:
    """The texts that `values` are, [N]; None for anything else.

    >>> as_texts(np.array(["a", "b"])), as_texts([1, 2]), as_texts([])
    (['a', 'b'], None, None)
    """
    if isinstance(values, np.ndarray) and (values.ndim != 1 or values.dtype.kind not in "UTO"):
        return None
    if not isinstance(values, list | tuple | np.ndarray) or not len(values):
        return None
    found = list(values)  # an array of them would take the longest text's memory for each
    return list(map(str, found)) if all(isinstance(each, str) for each in found) else None


def blank(texts: Iterable[str]) -> npt.NDArray[np.int64]:
    """The places of texts that hold nothing but white space."""
    return np.flatnonzero([not each.strip() for each in texts])


def pack(vocabulary: Sequence[str]) -> np.ndarray:
    """A vocabulary as uint8 [bytes], for files of arrays; `unpack` turns it back. No word holds a line break."""
    return np.frombuffer("\n".join(vocabulary).encode(), np.uint8)


def unpack(packed: np.ndarray) -> tuple[str, ...]:
    """The vocabulary that `pack` packed."""
    return tuple(packed.tobytes().decode().split("\n"))


def _tokenizer(vocabulary: Sequence[str]) -> Any:
    """A tokenizer that knows the words by their place in `vocabulary`."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    ids = {word: number for number, word in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=SPECIAL[UNKNOWN]))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(Regex(r"<br\s*/?>"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer

"""What the test part of the data is called, wherever its numbers are shown."""

import re


def title(text: str, held_out: bool) -> str:
    """A title about the test set, as it is true of the data.

    Args:
      text: as it is where somebody has set a test set apart: "test accuracy, last epoch", "test error".
      held_out: whether the test part was held out of the training data (`Dataset.test_held_out`), so that some of its
        labels may be wrong. What is told then is an agreement with labels as given, and the title says so.

    Examples:
      >>> title("test accuracy, best (chosen on the test set)", True)
      'accuracy on held-out labels as given, best (chosen on the held-out labels)'
      >>> title("balanced test accuracy", True), title("balanced test accuracy", False)
      ('balanced accuracy on held-out labels as given', 'balanced test accuracy')
    """
    if not held_out:
        return text
    text = re.sub(r"(?:test )?\b(accuracy|error)\b", r"\1 on held-out labels as given", text)
    return text.replace("test set", "held-out labels")

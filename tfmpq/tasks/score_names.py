"""What scores are called, for results and pages, which need no framework to read them."""

ACCURACY = "accuracy"
"""Share of right answers where labels are classes: top-1."""

LABEL_ACCURACY = "label accuracy"
"""Share of right answers where an image has several labels, each of which it has or has not."""

EXPLAINED = "explained variance"
"""Share of the variance of the labels over the images that the outputs explain (R squared)."""

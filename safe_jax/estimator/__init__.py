"""From labelled images to a classifier that is kept: what `safe-jax fit` and `SafeClassifier` do.
`fit.fit` divides images, tunes one method on them as an experiment does, and says what was chosen.
"""
